"""A queue store with faults.

What is not here: keeping anything; that is the store inside. Every fault is one that the contract of `storage.base`
allows: a commit that fails with nothing durable, one whose outcome nobody knows (it landed, or not), one that takes
long, a full disk, an engine that is away, the machine's end before or after any commit.
Failures raised: `StoreUnavailable`, `StoreFull`, `CommitUnknown`, as planned; and what the store inside raises.
"""

import enum
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio
from attrs import field, frozen

from elemta.runtime.clock import Clock
from elemta.simulation.nodes import Span
from elemta.simulation.record import Record, Settled
from elemta.simulation.relay import Behind_co, Relay, RelayedWriter, Way
from elemta.storage.base import (
    Begin,
    Change,
    Claim,
    CommitUnknown,
    ContentWriter,
    Insert,
    Joined,
    Order,
    Ordered,
    Result,
    Settle,
    StoreAway,
    StoreFull,
    StoreUnavailable,
)
from elemta.storage.records import QueuedMail

T = TypeVar("T")


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


class FaultyStore(Relay[Behind_co]):
    """A `QueueStore` for one life of a server, around the one that keeps."""

    def __init__(
        self, inner: Behind_co, plan: StorePlan, *, record: Record, clock: Clock, chance: random.Random, life: int = 1
    ) -> None:
        super().__init__(inner)
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

    async def _pass(self, verb: Callable[[], Awaitable[T]], /) -> T:
        self._check()
        return await verb()

    async def join(self, owner: str, now: float) -> Joined:
        """See `QueueStore.join`."""
        joined = await super().join(owner, now)
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
        results = await self._behind.commit(batch)
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
                    record.insert(change.mail, change.content, fenced=True)  # durable, but anybody's
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
                settled = Settled(trio.current_time(), self._clock.wall(), self._life, change.mail, change.attempts)
                record.settle(change.id, settled)
            else:
                record.withdraw(change.id)

    # ---- what the record hears -------------------------------------------------------------------

    async def stage(self) -> ContentWriter:
        """See `QueueStore.stage`."""
        return _NotedWriter(await self._pass(self._behind.stage), self._pass, self._record)

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """See `QueueStore.claim`."""
        claimed = await super().claim(claim)
        if not self._dead:
            for mail in claimed:
                self._record.take_at_hand(mail.id, self._life)
        return claimed

    async def apply(self, order: Order) -> Ordered:
        """See `QueueStore.apply`."""
        ordered = await super().apply(order)
        self._record.obey(order.verb, ordered.changed)
        return ordered


class _NotedWriter(RelayedWriter):
    """Staged content that tells the record which mail it is."""

    def __init__(self, behind: ContentWriter, way: Way, record: Record) -> None:
        super().__init__(behind, way)
        self._record = record
        self._head = b""

    async def write(self, pieces: Sequence[bytes]) -> None:
        self._head = self._head or b"".join(pieces)
        await super().write(pieces)

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        self._head = self._head or b"".join(pieces)
        content_id = await super().finish(pieces)
        self._record.learn_tag(content_id, self._head)
        return content_id


def _within(spans: Sequence[Span]) -> bool:
    now = trio.current_time()
    return any(start <= now < end for start, end in spans)
