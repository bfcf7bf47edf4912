"""A bell: many ring, one task listens.

What is not here: anything that travels with the ring; who hears it looks for the work by itself.
A ring that nobody heard is kept, so that no work is overlooked between looking and listening; many count as one.
"""

import trio


class Bell:
    """Wakes the one task that waits for it. Cheaper than an event each time: nothing is made or thrown away."""

    __slots__ = ("_listener", "_rung")

    def __init__(self) -> None:
        self._listener: trio.lowlevel.Task | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake the listener; or let the next `wait` return at once."""
        if self._listener is None:
            self._rung = True
        else:
            listener, self._listener = self._listener, None
            trio.lowlevel.reschedule(listener)

    async def wait(self) -> None:
        """Wait for a ring. Cancelled: the ring, if it comes, is kept for the next one."""
        if self._rung:
            self._rung = False
            await trio.lowlevel.checkpoint()
            return
        self._listener = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._leave)

    async def wait_until(self, deadline: float) -> None:
        """Wait for a ring, at most until `deadline` on Trio's clock."""
        with trio.CancelScope(deadline=deadline):
            await self.wait()

    def _leave(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._listener = None
        return trio.lowlevel.Abort.SUCCEEDED
