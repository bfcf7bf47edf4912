"""The source of queue ids.

What is not here: their form (`mail.ids`).
"""

import random
import secrets
from typing import Protocol

from elemta.mail.ids import make_queue_id
from elemta.runtime.clock import Clock

#: 14 base62 characters hold 83.4 bits.
_CHANCE_BITS = 84


class IdSource(Protocol):
    """Makes queue ids."""

    def new_id(self) -> str:
        """A queue id that was never given before."""
        ...


class SecureIds:
    """Ids from the system's randomness: nobody can guess the next one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def new_id(self) -> str:
        """A queue id of 22 base62 characters."""
        return make_queue_id(int(self._clock.wall() * 1000), secrets.randbits(_CHANCE_BITS))


class SeededIds:
    """Ids from a seeded generator: the simulated world repeats itself."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance

    def new_id(self) -> str:
        """A queue id of 22 base62 characters, the same for the same seed and history."""
        return make_queue_id(int(self._clock.wall() * 1000), self._chance.getrandbits(_CHANCE_BITS))
