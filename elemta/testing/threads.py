"""Real threads under a virtual clock.

A worker thread looks idle to a clock that jumps: it would jump over every deadline while the thread works. What is not
here: running calls inline (`runtime.threads.InlineThreads`), which no call can do that asks something of Trio itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, TypeVarTuple

import trio
from trio.testing import MockClock

from elemta.runtime.threads import WorkerThreads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Real seconds without a turn of the loop until the clock jumps all the same: the thread hangs, or waits for a sleep.
HELD_SECONDS: Final = 1.0


class PatientThreads:
    """Worker threads that the clock waits for. A `runtime.threads.Threads`."""

    def __init__(self) -> None:
        self._working = 0

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call `function(*args)` in a thread, to its end."""
        with self._held():
            return await WorkerThreads().run(limiter, function, *args)

    async def run_abandonable(
        self, limiter: trio.CapacityLimiter, function: Callable[[*Ts], object], *args: *Ts
    ) -> object:
        """Call `function(*args)` in a thread that outlives a cancelled caller."""
        with self._held():
            return await WorkerThreads().run_abandonable(limiter, function, *args)

    @contextmanager
    def _held(self) -> Iterator[None]:
        clock = trio.lowlevel.current_clock()
        if not isinstance(clock, MockClock):
            yield
            return
        if not self._working:
            self._usual = clock.autojump_threshold
            clock.autojump_threshold = max(self._usual, HELD_SECONDS)
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                clock.autojump_threshold = self._usual
