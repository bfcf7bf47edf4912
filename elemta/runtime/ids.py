"""The source of queue ids.

What is not here: their form (`mail.ids`).
"""

import os
import random
from typing import Protocol

from elemta.mail.ids import ALPHABET, CHANCE_CHARACTERS, make_queue_id, time_prefix
from elemta.runtime.clock import Clock

#: 14 base62 characters hold 83.4 bits.
_CHANCE_BITS = 84
#: Random octets asked of the system at once: enough for some 280 ids.
_POOL_OCTETS = 4096
#: Each octet below the largest multiple of 62 is one character, all equally likely; the others are thrown away.
_FAIR = 256 // len(ALPHABET) * len(ALPHABET)
_CHARACTERS = (ALPHABET * 5)[:256].encode()
_UNFAIR = bytes(range(_FAIR, 256))


class IdSource(Protocol):
    """Makes queue ids."""

    def new_id(self) -> str:
        """A queue id that was never given before."""
        ...


class SecureIds:
    """Ids from the system's randomness: nobody can guess the next one. A process that forks needs a new one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._chance = ""
        self._used = 0
        self._milliseconds = -1
        self._prefix = ""

    def new_id(self) -> str:
        """A queue id of 22 base62 characters."""
        milliseconds = int(self._clock.wall() * 1000)
        if milliseconds != self._milliseconds:
            self._milliseconds, self._prefix = milliseconds, time_prefix(milliseconds)
        start = self._used
        self._used = end = start + CHANCE_CHARACTERS
        if end > len(self._chance):
            self._chance = os.urandom(_POOL_OCTETS).translate(_CHARACTERS, _UNFAIR).decode()
            start, self._used = 0, CHANCE_CHARACTERS
        return self._prefix + self._chance[start : self._used]


class SeededIds:
    """Ids from a seeded generator: the simulated world repeats itself."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance

    def new_id(self) -> str:
        """A queue id of 22 base62 characters, the same for the same seed and history."""
        return make_queue_id(int(self._clock.wall() * 1000), self._chance.getrandbits(_CHANCE_BITS))
