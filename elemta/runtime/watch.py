"""One task for the deadlines of many.

What is not here: what is done to who overruns; whoever holds the many says so.
Moving a cancel scope's deadline costs 2 µs, a new scope 6 to 12, each time; here a deadline is a plain number that its
owner moves as it likes, and one task looks at all of them when the earliest that it saw has come.
"""

from collections.abc import Callable
from math import inf

import trio

from elemta.runtime.bell import Bell


class DeadlineWatch:
    """Calls `look(now)` when a deadline may have passed.

    `look` ends whatever is due at `now`, on Trio's clock, and returns the earliest deadline that is left, infinite when
    there is none. Between two looks lie at least `rest_seconds`: that late a deadline may be noticed.
    """

    __slots__ = ("_bell", "_look", "_rest_seconds", "_until")

    def __init__(self, look: Callable[[float], float], *, rest_seconds: float = 0.0) -> None:
        self._look = look
        self._rest_seconds = rest_seconds
        self._bell = Bell()
        self._until = -inf

    def note(self, deadline: float) -> None:
        """There is a deadline that the last look did not see. Later ones than it saw cost nothing."""
        if deadline < self._until:
            self._until = deadline
            self._bell.ring()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            now = trio.current_time()
            self._until = max(self._look(now), now + self._rest_seconds)
            while True:
                await self._bell.wait_until(self._until)
                if trio.current_time() >= self._until:
                    break
