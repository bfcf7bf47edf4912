"""A ticket: what somebody handed to the spool, with what became of it.

What is not here: the spool that takes the tickets in batches (`queue.spool`).
"""

from collections.abc import Sequence
from math import inf

import trio

from elemta.queue.submission import SubmissionTimeout
from elemta.storage.base import Change, Insert, Result, Settle, StoreUnavailable, Withdraw


class Ticket:
    """Changes that go into the same batch, side by side, and their results.

    A *patient* ticket (a settled attempt, a withdrawal) is never given up: it waits until the store is back, and lands
    even when nobody waits for it any more, because a remote server was told already. Every other ticket fails with the
    store, and is taken back when the task that waits for it is cancelled before the batch was taken.
    """

    __slots__ = (
        "_waiter",
        "changes",
        "count",
        "deadline",
        "error",
        "left",
        "octets",
        "patient",
        "refusal",
        "results",
        "taken",
        "then",
    )

    def __init__(self, changes: Sequence[Change], *, deadline: float = inf, then: "Ticket | None" = None) -> None:
        self.changes = changes
        self.count = len(changes)
        self.octets = 0
        self.patient = False
        for change in changes:
            if type(change) is Insert:
                self.octets += len(change.content or b"")
            elif type(change) is Settle:
                self.patient = True
                self.octets += sum(len(insert.content or b"") for insert in change.inserts)
            elif type(change) is Withdraw:
                self.patient = True
        self.deadline = deadline
        #: The ticket that has its answer when this one is done: a submission waits for its own withdrawal.
        self.then = then
        #: Why new mails are not kept, while those of them that landed are withdrawn.
        self.refusal = Result.REFUSED
        self.results: Sequence[Result] | None = None
        self.error: StoreUnavailable | SubmissionTimeout | None = None
        self.taken = False
        self.left = False
        self._waiter: trio.lowlevel.Task | None = None

    @property
    def is_insert(self) -> bool:
        """True for new mails: all or none of them are kept."""
        return type(self.changes[0]) is Insert

    async def wait(self) -> Sequence[Result]:
        """One result a change, once durable. Raises `StoreUnavailable`; past the deadline `SubmissionTimeout`."""
        if self.results is None and self.error is None:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._cancelled)
        if self.error is not None:
            raise type(self.error)(*self.error.args) from self.error
        assert self.results is not None
        return self.results

    def leave(self) -> None:
        """Nobody wants to know any more. What was not taken and is not patient never happens."""
        self.left = True
        self._waiter = None
        if not self.taken and not self.patient:
            self.changes = ()

    def answer(self, results: Sequence[Result]) -> None:
        """Give the results to whoever waits."""
        self.results = results
        self._wake()

    def fail(self, error: StoreUnavailable | SubmissionTimeout) -> None:
        """Give an error to whoever waits."""
        self.error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            trio.lowlevel.reschedule(waiter)

    def _cancelled(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self.leave()
        return trio.lowlevel.Abort.SUCCEEDED
