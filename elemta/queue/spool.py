"""Group commit: what everybody asks for during one commit becomes the next.

What is not here: what is committed (`queue.service`, `queue.worker`), or how it is made durable (`storage`).

One task commits, one batch at a time, and a commit is never cancelled. A batch is whatever came while the one before it
ran, and what is about to come (`GATHERING_ROUNDS`). Three promises:

* A store that fails (`StoreUnavailable`) fails new mails and gates at once, but never an attempt that is over: its
  `Settle` is kept and tried again until the store is back, before anything newer.
* A batch whose outcome is unknown (`CommitUnknown`) is committed again as it was, until it is known. On a repeat, a
  `Settle` that is answered GONE or FENCED had landed the first time: a settled mail has no owner, so that the same
  `Settle` can never land twice.
* Nobody's mail half lands: of a submission's inserts all stay or none. What lands although its submitter gave up (its
  deadline passed, or it was cancelled, so nobody was told 250) is withdrawn in the next batch, before any attempt.

Failures raised: `StoreUnavailable`, `StoreFull`; `SubmissionTimeout` past a ticket's deadline.
"""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf

import trio
from structlog.typing import FilteringBoundLogger

from elemta.observe.metrics import Metrics
from elemta.queue.submission import SubmissionTimeout
from elemta.queue.ticket import Ticket
from elemta.runtime.bell import Bell
from elemta.runtime.watch import DeadlineWatch
from elemta.storage.base import (
    Change,
    CommitUnknown,
    Insert,
    QueueStore,
    Result,
    Settle,
    StoreFull,
    StoreUnavailable,
    Withdraw,
)

#: Changes in one batch. Ours: beyond some hundreds the sync costs nothing a mail, and the batch's last waits longest.
BATCH_CHANGES = 1000
#: Content octets in one batch: the time to write them is latency for everybody in it.
BATCH_OCTETS = 8 * 1024 * 1024
#: Changes that may wait for their batch; a new mail beyond it is refused, as the store is seconds behind.
WAITING_CHANGES = 10_000
#: Content octets that may wait for their batch.
WAITING_OCTETS = 64 * 1024 * 1024
#: Between two tries of what must land, doubling from the first to the last: back within 10 s of the store's return.
FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 5.0
#: After a failure with nothing more to commit, until the store is given the benefit of the doubt.
FAILING_SECONDS = 5.0
#: For the last batches when the spool ends; the supervisor's own deadline stands above it.
ENDING_SECONDS = 5.0
#: Times round the scheduler before a batch is taken, so that sessions whose octets are on their way come along: a
#: tenth of a millisecond where nobody else is ready, a fifth of what the disk takes for a sync. Measured, mails a
#: second with 2, 6, 15, 30, 60 rounds: ten sessions 1,400, 1,300, 1,800, 1,710, 1,680; ten kept ones 2,060, 2,450,
#: 2,540, 2,530, 2,470; one kept 765, –, 888, 872, 789.
GATHERING_ROUNDS = 16


class Spool:
    """The way into the store for every change."""

    def __init__(self, store: QueueStore, *, log: FilteringBoundLogger, metrics: Metrics) -> None:
        self._store = store
        self._log = log
        self._metrics = metrics
        self._waiting: deque[Ticket] = deque()
        self._waiting_changes = 0
        self._waiting_octets = 0
        #: Taken into the batch in hand; what stays here after a try is tried again.
        self._batch: list[Ticket] = []
        self._in_doubt = False
        self._turn = trio.Lock()
        self._failures = 0
        self._failed_at = -inf
        #: Somebody's deadline passed while the commit in hand had no answer.
        self._hangs = False
        #: Tickets to be taken one by one, after the store raised what it must not.
        self._one_by_one = 0
        self._arrivals = Bell()
        self._closing = trio.Event()
        self._closed = False
        self._deadlines = DeadlineWatch(self._end_late)

    # ---- for callers -----------------------------------------------------------------------------

    @property
    def in_doubt(self) -> bool:
        """True while nobody can say whether the batch in hand is durable: nothing may be claimed meanwhile."""
        return self._in_doubt

    @asynccontextmanager
    async def between_commits(self) -> AsyncIterator[None]:
        """Nothing is committed meanwhile: for changes that go to the store by another way.

        Raises `StoreUnavailable` while a batch is in doubt: its repetition would undo what is changed now.
        """
        async with self._turn:
            if self._in_doubt:
                raise StoreUnavailable("nobody knows yet whether the last changes are durable: try again in a moment")
            yield

    @property
    def failing(self) -> bool:
        """True from a failed commit until the next that succeeds; or, where nobody asks for one, for a while only: who
        is told that we are not ready sends nothing, and so would never hear that we are again. True as well while a
        commit hangs for whose sake somebody was told 451."""
        if not self._failures:
            return self._hangs
        return bool(self._batch or self._waiting) or trio.current_time() < self._failed_at + FAILING_SECONDS

    @property
    def waiting(self) -> int:
        """Changes that wait for their batch."""
        return self._waiting_changes

    def post(self, change: Change) -> Ticket:
        """Hand over a change without waiting for it."""
        ticket = Ticket((change,))
        self._put(ticket)
        return ticket

    async def commit(self, change: Change) -> Result:
        """Hand over a change, wait until it is durable. Raises `StoreUnavailable` (never for a `Settle`)."""
        ticket = Ticket((change,))
        self._put(ticket)
        return (await ticket.wait())[0]

    async def insert(self, inserts: Sequence[Insert], *, deadline: float) -> Sequence[Result]:
        """Make new mails durable, all or none; `deadline` is on Trio's clock. Each is APPLIED, or FENCED: not ours.

        Raises `StoreUnavailable`, `StoreFull`, and `SubmissionTimeout` past the deadline; then, or when it is cancelled
        after the batch was taken, what still lands is withdrawn. Cancelled before, nothing happens.
        """
        ticket = Ticket(inserts, deadline=deadline)
        over = (
            self._waiting_changes + ticket.count > WAITING_CHANGES
            or self._waiting_octets + ticket.octets > WAITING_OCTETS
        )
        if over and self._waiting:
            raise StoreUnavailable(f"the store is {self._waiting_changes} changes behind")
        self._put(ticket)
        results = await ticket.wait()
        if Result.FULL in results:
            raise StoreFull("the store has no room for new mail")
        if Result.REFUSED in results:
            raise StoreUnavailable("the store refused this mail; its log says why")
        return results

    def _put(self, ticket: Ticket) -> None:
        if self._closed:
            raise StoreUnavailable("the queue is closed")
        self._waiting.append(ticket)
        self._waiting_changes += ticket.count
        self._waiting_octets += ticket.octets
        self._arrivals.ring()
        self._deadlines.note(ticket.deadline)

    # ---- the committer ---------------------------------------------------------------------------

    def close(self) -> None:
        """Commit what waits, then let `run` return."""
        self._closing.set()
        self._arrivals.ring()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit until closed or cancelled; either way what waits is committed first, within `ENDING_SECONDS`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deadlines.run)
            task_status.started()
            try:
                await self._commit_until_closing()
            finally:
                with trio.move_on_after(ENDING_SECONDS, shield=True):
                    await self._commit_the_rest()
                self._give_up_the_rest()
                nursery.cancel_scope.cancel()

    async def _commit_until_closing(self) -> None:
        while not self._closing.is_set():
            if not self._batch:
                if not self._waiting:
                    await self._arrivals.wait()
                    continue
                for _ in range(GATHERING_ROUNDS):
                    await trio.lowlevel.checkpoint()
                self._take()
            with trio.CancelScope(shield=True):
                await self._try_batch()
            if self._batch:
                await self._pause()

    async def _commit_the_rest(self) -> None:
        while self._batch or self._waiting:
            if not self._batch:
                self._take()
            await self._try_batch()
            if self._batch:
                await trio.sleep(FIRST_PAUSE_SECONDS)

    def _give_up_the_rest(self) -> None:
        self._closed = True
        lost = [ticket for ticket in (*self._batch, *self._waiting) if ticket.changes]
        self._waiting.clear()
        if lost:
            ids = [_id_of(change) for ticket in lost for change in ticket.changes]
            self._log.error("queue.commits_lost", ids=ids[:100], count=len(ids), in_doubt=self._in_doubt)
        for ticket in lost:
            ticket.fail(StoreUnavailable("the queue is closed"))

    def _take(self) -> None:
        """Fill the batch with what waited longest."""
        changes = octets = 0
        waiting = self._waiting
        while waiting:
            ticket = waiting[0]
            changes += ticket.count
            octets += ticket.octets
            if self._batch and (changes > BATCH_CHANGES or octets > BATCH_OCTETS or self._one_by_one):
                return
            waiting.popleft()
            self._waiting_changes -= ticket.count
            self._waiting_octets -= ticket.octets
            if ticket.changes:
                ticket.taken = True
                self._batch.append(ticket)

    async def _try_batch(self) -> None:
        """Commit the batch once. What must be tried again is left in it."""
        if not self._batch:
            return
        changes = [change for ticket in self._batch for change in ticket.changes]
        try:
            async with self._turn:
                results = await self._store.commit(changes)
        except CommitUnknown as error:
            self._in_doubt = True
            self._failed(error)
        except StoreUnavailable as error:
            # After an unknown outcome this says nothing of the first try: that may have landed.
            if not self._in_doubt:
                self._fail_impatient(error)
            self._failed(error)
        except Exception as error:
            self._broken(error)
        else:
            self._landed(changes, results)
        finally:
            self._hangs = False

    def _landed(self, changes: Sequence[Change], results: Sequence[Result]) -> None:
        batch, self._batch = self._batch, []
        if self._failures:
            self._log.info("store.back", failures=self._failures)
        doubted, self._in_doubt, self._failures = self._in_doubt, False, 0
        self._one_by_one = max(0, self._one_by_one - 1)
        self._metrics.commits.inc()
        self._metrics.committed_changes.inc(len(changes))
        at = 0
        for ticket in batch:
            answers = results[at : at + ticket.count]
            at += ticket.count
            if doubted and type(ticket.changes[0]) is Settle and answers[0] in {Result.GONE, Result.FENCED}:
                answers = (Result.APPLIED,)
            self._finish(ticket, answers)

    def _finish(self, ticket: Ticket, results: Sequence[Result]) -> None:
        """Answer a ticket; or first withdraw what must not stay."""
        if ticket.then is not None:
            self._withdrawn(ticket, results)
            return
        if ticket.is_insert and (ticket.left or Result.REFUSED in results or Result.FULL in results):
            ticket.refusal = Result.FULL if Result.FULL in results else Result.REFUSED
            pairs = zip(ticket.changes, results, strict=True)
            landed = [change for change, result in pairs if result in {Result.APPLIED, Result.FENCED}]
            if landed:
                self._put(Ticket([_withdrawal(change) for change in landed], then=ticket))
                return
            results = [ticket.refusal] * ticket.count
        ticket.answer(results)

    def _withdrawn(self, ticket: Ticket, results: Sequence[Result]) -> None:
        pairs = zip(ticket.changes, results, strict=True)
        kept = [_id_of(change) for change, result in pairs if result in {Result.FENCED, Result.REFUSED}]
        if kept:
            self._log.warning("queue.possible_duplicate", ids=kept, reason="answered 4yz, but already being delivered")
        if ticket.then is not None:
            ticket.then.answer([ticket.then.refusal] * ticket.then.count)

    # ---- when the store fails --------------------------------------------------------------------

    def _failed(self, error: StoreUnavailable) -> None:
        self._metrics.store_failures.inc()
        if not self._failures:
            self._log.error("store.failed", error=str(error), unknown=self._in_doubt)
        self._failures += 1
        self._failed_at = trio.current_time()

    def _fail_impatient(self, error: StoreUnavailable) -> None:
        """Tell everybody who can be told; keep what must land."""
        batch, self._batch = self._batch, []
        self._one_by_one = 0
        for ticket in batch:
            if ticket.patient:
                self._batch.append(ticket)
            else:
                ticket.fail(error)
        if not self._batch:
            return
        # The next try comes after a pause, and only of what must land: nobody else is kept waiting for it.
        for ticket in self._waiting:
            if not ticket.patient and not ticket.left:
                ticket.fail(error)
                ticket.leave()

    def _broken(self, error: Exception) -> None:
        """The store raised what its contract forbids: our defect. One ticket is to blame; find it, save the others."""
        self._log.error("store.defect", exc_info=error, tickets=len(self._batch))
        self._metrics.store_failures.inc()
        if len(self._batch) == 1:
            (ticket,) = self._batch
            self._landed(ticket.changes, [Result.REFUSED] * ticket.count)
            return
        for ticket in reversed(self._batch):
            self._waiting.appendleft(ticket)
            self._waiting_changes += ticket.count
            self._waiting_octets += ticket.octets
        self._one_by_one = len(self._batch)
        self._batch = []

    async def _pause(self) -> None:
        seconds = min(LAST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 16))
        with trio.move_on_after(seconds):
            await self._closing.wait()

    # ---- deadlines -------------------------------------------------------------------------------

    def _end_late(self, now: float) -> float:
        """Wake whoever waits past its deadline; see `DeadlineWatch`."""
        earliest = inf
        for ticket in (*self._batch, *self._waiting):
            watched = ticket.then or ticket
            if watched.deadline > now:
                earliest = min(earliest, watched.deadline)
            elif not watched.left:
                watched.fail(SubmissionTimeout("the store did not answer in time"))
                watched.leave()
                self._hangs = True
        return earliest


def _withdrawal(change: Change) -> Withdraw:
    """Takes back an insert that its submitter was not told of: so nobody has tried the mail, whatever its mark says."""
    assert isinstance(change, Insert)
    return Withdraw(change.mail.id, begun=change.mail.attempting_since is not None)


def _id_of(change: Change) -> str:
    return change.mail.id if isinstance(change, Insert) else change.id
