"""How long a worker process that ended waits to be started again.

What is not here: the processes (`supervisor.workers`). Time and chance are arguments.
"""

import random

#: Seconds before the first restart: short enough that nobody notices, long enough for the database to see the end.
FIRST_SECONDS = 0.5
#: Seconds before any later one at most: what an operator who mended the cause is willing to wait.
MOST_SECONDS = 30.0
#: Seconds of running after which a worker counts as sound again: twice the longest wait.
SOUND_SECONDS = 60.0
#: Share of a wait by which chance lengthens or shortens it, so that workers felled together do not return together.
JITTER = 0.2


class Backoff:
    """The waits of one worker: each twice the one before, until it has run for `SOUND_SECONDS`."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._next = FIRST_SECONDS

    def after(self, ran_seconds: float) -> float:
        """Seconds to wait now that the worker has ended after `ran_seconds`."""
        if ran_seconds >= SOUND_SECONDS:
            self._next = FIRST_SECONDS
        wait = self._next
        self._next = min(wait * 2, MOST_SECONDS)
        return min(wait * self._chance.uniform(1 - JITTER, 1 + JITTER), MOST_SECONDS)
