"""Where calls of plugins wait for the next batch.

What is not here: what is done with a batch (`keyvalue_sqlite`, `keyvalue_shared`). A call waits a bounded time. Whoever
gives up before its batch was taken has asked for nothing; afterwards its operation goes on, and nobody hears what came
of it: a batch is never abandoned. Failures raised: `SharedAway`.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import trio
from attrs import define, field

from elemta.plugins.api import SharedAway
from elemta.runtime.bell import Bell
from elemta.storage.keyvalue import Answer, Operation

#: Operations in one batch: some milliseconds of work, which is what the batch's last waits for.
BATCH_OPERATIONS: Final = 100
#: Operations that may wait for their batch. Ours: more than there are sessions, and seconds of work.
WAITING_OPERATIONS: Final = 10_000


@define(eq=False)
class Ticket:
    """One call: what it asks for, and what came of it once `done`."""

    operation: Operation
    done: trio.Event = field(factory=trio.Event, init=False)
    result: Answer | Exception | None = field(default=None, init=False)
    #: Its caller waits no more.
    is_left: bool = field(default=False, init=False)

    def settle(self, result: Answer | Exception) -> None:
        """Tell the caller."""
        self.result = result
        self.done.set()


#: Settles every ticket of a batch. What it leaves is settled for it.
Serve = Callable[[Sequence[Ticket]], Awaitable[None]]


class Desk:
    """Gathers calls into batches, of which so many are served at once."""

    def __init__(self, name: str, serve: Serve, *, at_once: int, seconds: float) -> None:
        self._name = name
        self._serve = serve
        self._at_once = at_once
        self._seconds = seconds
        self._waiting: deque[Ticket] = deque()
        self._bell = Bell()
        self._is_open = False

    async def do(self, operation: Operation) -> Answer:
        """Have an operation carried out. Raises `SharedAway`, and what the operation itself raises."""
        if not self._is_open:
            await trio.lowlevel.checkpoint()
            raise SharedAway(f"{self._name}: not in use: the server starts or stops")
        if len(self._waiting) >= WAITING_OPERATIONS:
            await trio.lowlevel.checkpoint()
            raise SharedAway(f"{self._name}: {WAITING_OPERATIONS} calls wait for it already")
        ticket = Ticket(operation)
        self._waiting.append(ticket)
        self._bell.ring()
        try:
            with trio.move_on_after(self._seconds):
                await ticket.done.wait()
        finally:
            ticket.is_left = True
        match ticket.result:
            case Answer() as answer:
                return answer
            case None:
                raise SharedAway(f"{self._name}: no answer within {self._seconds:g} s")
            case SharedAway() as error:
                # Each its own: an exception raised twice would gather both tracebacks.
                raise SharedAway(str(error)) from error
            case error:
                raise error

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve batches until cancelled; those that were taken are served to their end."""
        places = trio.Semaphore(self._at_once)
        self._is_open = True
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    if not self._waiting:
                        await self._bell.wait()
                    # Not taken before somebody can serve them: whatever comes meanwhile comes along.
                    await places.acquire()
                    nursery.start_soon(self._serve_batch, self._take(), places)
        finally:
            self._is_open = False
            self._settle(self._waiting, SharedAway(f"{self._name}: the server stops"))
            self._waiting.clear()

    def _take(self) -> list[Ticket]:
        """What waited longest; those whose caller has left are forgotten."""
        batch: list[Ticket] = []
        while self._waiting and len(batch) < BATCH_OPERATIONS:
            ticket = self._waiting.popleft()
            if not ticket.is_left:
                batch.append(ticket)
        return batch

    async def _serve_batch(self, batch: Sequence[Ticket], places: trio.Semaphore) -> None:
        why = "the server stops"
        try:
            if batch:
                await self._serve(batch)
        except Exception as error:  # our defect: it costs these calls, not the server
            why = f"an internal error: {error!r}"
        finally:
            places.release()
            self._settle(batch, SharedAway(f"{self._name}: {why}"))

    @staticmethod
    def _settle(tickets: Iterable[Ticket], error: SharedAway) -> None:
        """Tell those who heard nothing yet."""
        for ticket in tickets:
            if not ticket.done.is_set():
                ticket.settle(error)
