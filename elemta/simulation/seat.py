"""One node's place in the world, which its lives hold one after the other.

What is not here: a life itself (`simulation.life`), or what befalls it by plan (`simulation.nodes`). Failures raised:
none.
"""

import trio

from elemta.queue.service import QueueService
from elemta.simulation.clock import VirtualClock
from elemta.simulation.life import Life, Surroundings
from elemta.simulation.nodes import ClockStep, NodePlan, Span

#: Virtual seconds before a server that could not start is started again, as a service manager does.
_RESTART_SECONDS = 5.0


class Seat:
    """Keeps one node serving, but for what is planned for it."""

    def __init__(self, around: Surroundings, plan: NodePlan) -> None:
        self.plan = plan
        self._around = around
        self.clock = VirtualClock()
        self._ending = False
        self.life: Life | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `end`; started once the first life serves, or is over."""
        async with trio.open_nursery() as nursery:
            for trouble in (self._crash_on_time, self._drain_on_time):
                nursery.start_soon(trouble)
            for span in self.plan.freezes:
                nursery.start_soon(self._freeze, span)
            for step in self.plan.steps:
                nursery.start_soon(self._step_clock, step)
            await self._keep_serving(task_status)
            nursery.cancel_scope.cancel()

    async def end(self, seconds: float) -> None:
        """End the life that runs, in order; none follows."""
        self._ending = True
        if self.life is not None:
            await self.life.drain(seconds)

    @property
    def queue(self) -> QueueService | None:
        """The queue of the life that serves now."""
        return None if self.life is None else self.life.queue

    async def _keep_serving(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as lives:
            while not self._ending:
                life = self.life = Life(self._around, self.plan, self.clock)
                lives.start_soon(life.run)
                await life.started_or_over.wait()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await life.over.wait()
                if not self.plan.returns and trio.current_time() >= max(self.plan.crashes):
                    self._around.record.note("server", self.plan.address, "never returns")
                    await trio.sleep_forever()
                await trio.sleep(self.plan.downtime if life.crashed or life.drained else _RESTART_SECONDS)

    async def _crash_on_time(self) -> None:
        for at in self.plan.crashes:
            await trio.sleep_until(at)
            if self.life is not None and not self.life.over.is_set():
                self.life.crash(f"at {at}")

    async def _drain_on_time(self) -> None:
        for drain in self.plan.drains:
            await trio.sleep_until(drain.at)
            if self.life is not None and not self.life.over.is_set():
                await self.life.drain(drain.seconds)

    async def _freeze(self, span: Span) -> None:
        start, end = span
        await trio.sleep_until(start)
        life = self.life
        if life is None or life.over.is_set():
            return
        freezer, record = self._around.freezer, self._around.record
        freezer.freeze(life)
        record.note("server", self.plan.address, "stands still")
        with trio.move_on_after(end - start):
            await life.over.wait()
        freezer.thaw(life)
        record.freeze(self.plan.address, start)

    async def _step_clock(self, step: ClockStep) -> None:
        await trio.sleep_until(step.at)
        self.clock.step(step.seconds)
