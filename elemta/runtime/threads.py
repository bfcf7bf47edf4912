"""The one thread hop.

What is not here: what runs in the threads. Every blocking call of the product goes through a `Threads`, so that the
simulated world can run it inline and the jumping clock never takes a busy thread for an idle world.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Threads(Protocol):
    """Runs blocking calls away from the event loop."""

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call `function(*args)` in a thread; the thread is never abandoned by cancellation.

        `limiter` is the resource's own bound in threads. What the function raises is raised here.
        """
        ...

    async def run_abandonable(
        self, limiter: trio.CapacityLimiter, function: Callable[[*Ts], object], *args: *Ts
    ) -> object:
        """As `run`, for code that is not ours: cancelled, the thread is left to itself, and keeps its place in
        `limiter` until it is done."""
        ...


class WorkerThreads:
    """Trio's worker threads: about 100 µs a hop, so hop once a batch."""

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call `function(*args)` in a worker thread, to its end even when the caller is cancelled."""
        return await trio.to_thread.run_sync(function, *args, limiter=limiter)

    async def run_abandonable(
        self, limiter: trio.CapacityLimiter, function: Callable[[*Ts], object], *args: *Ts
    ) -> object:
        """Call `function(*args)` in a worker thread, which outlives a cancelled caller."""
        return await trio.to_thread.run_sync(function, *args, limiter=limiter, abandon_on_cancel=True)


class InlineThreads:
    """Runs the call where it stands: for the simulated world, where a hop must cost no virtual time."""

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call `function(*args)` now, then let the scheduler go round, as a thread would."""
        async with limiter or trio.CapacityLimiter(1):
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            return function(*args)

    async def run_abandonable(
        self, limiter: trio.CapacityLimiter, function: Callable[[*Ts], object], *args: *Ts
    ) -> object:
        """As `run`: what is called inline cannot be left to itself."""
        return await self.run(limiter, function, *args)
