"""A queue store with faults.

What is not here: keeping anything; that is the store inside. Every fault is one that the contract of `storage.base`
allows: a commit that fails with nothing durable, one whose outcome nobody knows (it landed, or not), one that takes
long, a full disk, an engine that is away, the machine's end before or after any commit.
Failures raised: `StoreUnavailable`, `StoreFull`, `CommitUnknown`, as planned; and what the store inside raises.
"""

import enum
import random
from collections.abc import Callable, Mapping, Sequence

import trio
from attrs import field, frozen

from elemta.mail.outcome import Attempt
from elemta.runtime.clock import Clock
from elemta.simulation.nodes import Span
from elemta.simulation.record import Record, Settled
from elemta.storage.base import (
    Begin,
    Change,
    Claim,
    CommitUnknown,
    ContentWriter,
    Filter,
    Finding,
    Insert,
    Joined,
    Order,
    Ordered,
    QueueStore,
    Result,
    Retention,
    Settle,
    StoreAway,
    StoreFull,
    StoreUnavailable,
)
from elemta.storage.records import ContentRef, QueuedMail, QueueState


class Fault(enum.Enum):
    """What goes wrong with one commit."""

    NONE = "none"
    FAIL = "fail"
    UNKNOWN_BEFORE = "unknown, not applied"
    UNKNOWN_AFTER = "unknown, applied"
    CRASH_BEFORE = "crash before it"
    CRASH_AFTER = "crash after it"


@frozen
class StorePlan:
    """The faults of a world's store.

    Until `troubled_until` a commit fails with the probability `fail`, is unknown with `unknown` (applied or not), and
    takes up to `slow` seconds. During `away` every verb fails, during `full` every batch with new mail. `commits` names
    the fault of single commits, counted from 1 over all lives of the server.
    """

    fail: float = 0.0
    unknown: float = 0.0
    slow: float = 0.0
    troubled_until: float = 0.0
    away: tuple[Span, ...] = ()
    full: tuple[Span, ...] = ()
    commits: Mapping[int, Fault] = field(factory=dict)

    @property
    def is_calm(self) -> bool:
        """True when nothing goes wrong."""
        return not (self.troubled_until or self.away or self.full or self.commits)

    @property
    def ends_at(self) -> float:
        """When the last trouble begins to end."""
        return max([self.troubled_until + self.slow, *(end for _, end in (*self.away, *self.full))])


class FaultyStore:
    """A `QueueStore` for one life of a server, around the one that keeps."""

    def __init__(
        self, inner: QueueStore, plan: StorePlan, *, record: Record, clock: Clock, chance: random.Random, life: int = 1
    ) -> None:
        self._inner = inner
        self._plan = plan
        self._record = record
        self._clock = clock
        self._chance = chance
        self._life = life
        #: Called when a commit's fault is a crash.
        self.crash: Callable[[str], None] = lambda why: None
        self._dead = False

    def die(self) -> None:
        """The machine is gone: from now on no verb does anything."""
        self._dead = True

    def _check(self) -> None:
        if self._dead:
            raise StoreUnavailable("this life of the server is over")
        if _within(self._plan.away):
            raise StoreAway("the store does not answer (planned)")

    async def open(self) -> None:
        """See `QueueStore.open`."""
        self._check()
        await self._inner.open()

    async def close(self) -> None:
        """See `QueueStore.close`. A dead server's files are closed as well, by its system."""
        await self._inner.close()

    async def join(self, owner: str, now: float) -> Joined:
        """See `QueueStore.join`."""
        self._check()
        joined = await self._inner.join(owner, now)
        self._record.found[self._life] = joined.uncertain
        self._record.note("store", "join", owner, joined.token, joined.recovered, *sorted(joined.uncertain))
        return joined

    # ---- commits ---------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """See `QueueStore.commit`; with the faults of the plan."""
        self._check()
        self._record.commits += 1
        number = self._record.commits
        fault = self._draw(number)
        await self._delay()
        if fault is Fault.CRASH_BEFORE:
            self.crash(f"before commit {number}")
        self._check()
        if fault is Fault.FAIL:
            raise StoreUnavailable("the commit failed (planned)")
        if _within(self._plan.full) and any(isinstance(change, Insert) for change in batch):
            raise StoreFull("no space is left (planned)")
        if fault is Fault.UNKNOWN_BEFORE:
            raise CommitUnknown("nobody knows whether it landed (planned: it did not)")
        results = await self._inner.commit(batch)
        # Noted after a crash from another task as well: what landed, landed, though nobody hears of it.
        self._note(batch, results)
        if fault is Fault.CRASH_AFTER:
            self.crash(f"after commit {number}")
        self._check()
        if fault is Fault.UNKNOWN_AFTER:
            raise CommitUnknown("nobody knows whether it landed (planned: it did)")
        return results

    def _draw(self, number: int) -> Fault:
        plan = self._plan
        if number in plan.commits:
            return plan.commits[number]
        if trio.current_time() >= plan.troubled_until:
            return Fault.NONE
        drawn = self._chance.random()
        if drawn < plan.fail:
            return Fault.FAIL
        if drawn < plan.fail + plan.unknown:
            return self._chance.choice((Fault.UNKNOWN_BEFORE, Fault.UNKNOWN_AFTER))
        return Fault.NONE

    async def _delay(self) -> None:
        if self._plan.slow and trio.current_time() < self._plan.troubled_until:
            await trio.sleep(self._chance.uniform(0, self._plan.slow))

    def _note(self, batch: Sequence[Change], results: Sequence[Result]) -> None:
        record = self._record
        for change, result in zip(batch, results, strict=True):
            if result is not Result.APPLIED:
                record.note("store", type(change).__name__.lower(), result.value)
                if isinstance(change, Insert) and result is Result.FENCED:
                    record.insert(change.mail, change.content)  # durable, but anybody's
            elif isinstance(change, Insert):
                record.insert(change.mail, change.content)
                if change.mail.owner and not self._dead:
                    record.take_at_hand(change.mail.id, self._life)
                if change.mail.attempting_since is not None:
                    record.begin(change.mail.id)
            elif isinstance(change, Begin):
                record.begin(change.id)
            elif isinstance(change, Settle):
                for insert in change.inserts:
                    record.insert(insert.mail, insert.content)
                settled = Settled(trio.current_time(), self._clock.wall(), change.mail, change.attempts)
                record.settle(change.id, settled)
            else:
                record.withdraw(change.id)

    # ---- everything else -------------------------------------------------------------------------

    async def stage(self) -> ContentWriter:
        """See `QueueStore.stage`."""
        self._check()
        return _FaultyWriter(await self._inner.stage(), self._check, self._record)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """See `QueueStore.read`."""
        self._check()
        return await self._inner.read(ref, offset, limit)

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """See `QueueStore.claim`."""
        self._check()
        claimed = await self._inner.claim(claim)
        if not self._dead:
            for mail in claimed:
                self._record.take_at_hand(mail.id, self._life)
        return claimed

    async def next_due(self) -> float | None:
        """See `QueueStore.next_due`."""
        self._check()
        return await self._inner.next_due()

    async def get(self, queue_id: str) -> QueuedMail | None:
        """See `QueueStore.get`."""
        self._check()
        return await self._inner.get(queue_id)

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """See `QueueStore.attempts`."""
        self._check()
        return await self._inner.attempts(queue_id)

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        """See `QueueStore.list`."""
        self._check()
        return await self._inner.list(chosen, limit, after)

    async def counts(self) -> Mapping[QueueState, int]:
        """See `QueueStore.counts`."""
        self._check()
        return await self._inner.counts()

    async def apply(self, order: Order) -> Ordered:
        """See `QueueStore.apply`."""
        self._check()
        ordered = await self._inner.apply(order)
        self._record.obey(order.verb, ordered.changed)
        return ordered

    async def cleanup(self, retention: Retention) -> int:
        """See `QueueStore.cleanup`."""
        self._check()
        return await self._inner.cleanup(retention)

    async def inspect(self) -> Sequence[Finding]:
        """See `QueueStore.inspect`."""
        self._check()
        return await self._inner.inspect()


class _FaultyWriter:
    """Staged content that fails while its store does; it tells the record which mail it is."""

    def __init__(self, inner: ContentWriter, check: Callable[[], None], record: Record) -> None:
        self._inner = inner
        self._check = check
        self._record = record
        self._head = b""

    async def write(self, pieces: Sequence[bytes]) -> None:
        self._check()
        self._head = self._head or b"".join(pieces)
        await self._inner.write(pieces)

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        self._check()
        self._head = self._head or b"".join(pieces)
        content_id = await self._inner.finish(pieces)
        self._record.learn_tag(content_id, self._head)
        return content_id

    async def abandon(self) -> None:
        await self._inner.abandon()


def _within(spans: Sequence[Span]) -> bool:
    now = trio.current_time()
    return any(start <= now < end for start, end in spans)
