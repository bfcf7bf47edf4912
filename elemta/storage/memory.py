"""The queue in memory: the reference that every other store is compared with.

What is not here: durability. What it keeps outlives its user (a server that is stopped and built anew on the same
`MemoryStore`), not its process. It is written to be read, so most verbs look at every mail.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs
import trio

from elemta.mail.outcome import Attempt
from elemta.runtime.clock import Clock, SystemClock
from elemta.runtime.ids import IdSource, SecureIds
from elemta.storage.base import (
    JOIN_LEASE_SECONDS,
    Adopted,
    Begin,
    Change,
    Claim,
    ContentMissing,
    Filter,
    Finding,
    Insert,
    Joined,
    Node,
    Order,
    Ordered,
    Pulse,
    Result,
    Retention,
    Settle,
    Verb,
    Withdraw,
)
from elemta.storage.codec import Unfit, encode_attempt, encode_mail
from elemta.storage.records import ContentRef, QueuedMail, QueueState
from elemta.storage.rules import CLAIMABLE, is_older, matches, obey, takes, uncertain_attempts


class MemoryStore:
    """A `SharedStore` in memory: several servers may share one, each as a node of its own."""

    def __init__(self, clock: Clock | None = None, *, ids: IdSource | None = None) -> None:
        self._clock = clock or SystemClock()
        self._ids = ids or SecureIds(self._clock)
        self._mails: dict[str, QueuedMail] = {}
        #: The fencing token under which an owned mail was taken; 0 when nobody owns it.
        self._tokens: dict[str, int] = {}
        self._contents: dict[str, bytes] = {}
        #: Content that no insert refers to yet, with the time it was staged at.
        self._staged: dict[str, float] = {}
        self._attempts: dict[str, list[Attempt]] = {}
        #: The latest token of each node, and when its lease ends by the clock of this store.
        self._nodes: dict[str, int] = {}
        self._leases: dict[str, float] = {}
        self._draining: set[str] = set()
        self._last_token = 0

    async def open(self) -> None:
        """Nothing to connect to."""
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """What is kept stays, for whoever opens it next."""
        await trio.lowlevel.checkpoint()

    # ---- nodes ---------------------------------------------------------------------------------

    async def join(self, owner: str, now: float) -> Joined:
        """Take part as `owner`; see `QueueStore.join`."""
        await trio.lowlevel.checkpoint()
        freed = self._free(owner)
        self._last_token += 1
        self._nodes[owner] = self._last_token
        self._leases[owner] = self._clock.wall() + JOIN_LEASE_SECONDS
        return Joined(token=self._last_token, recovered=freed.recovered, uncertain=freed.uncertain)

    def _free(self, owner: str) -> Adopted:
        """Forget a node; its mails can be claimed, its attempts in flight are recorded."""
        self._nodes.pop(owner, None)
        self._leases.pop(owner, None)
        self._draining.discard(owner)
        own = [mail for mail in self._in_order() if mail.owner == owner]
        for mail in own:
            if mail.attempting_since is not None:
                self._attempts.setdefault(mail.id, []).extend(uncertain_attempts(mail, mail.attempting_since))
            self._keep(attrs.evolve(mail, owner="", attempting_since=None))
        uncertain = tuple(mail.id for mail in own if mail.attempting_since is not None)
        return Adopted(owner, len(own), uncertain)

    async def renew(self, owner: str, token: int, seconds: float) -> Pulse:
        """Prove life; see `SharedStore.renew`."""
        await trio.lowlevel.checkpoint()
        if self._nodes.get(owner) != token:
            return Pulse(is_held=False)
        self._leases[owner] = self._clock.wall() + seconds
        return Pulse(is_held=True, is_draining=owner in self._draining)

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        """Take over from the dead; see `SharedStore.adopt`."""
        await trio.lowlevel.checkpoint()
        now = self._clock.wall()
        dead = sorted(each for each, end in self._leases.items() if each != owner and end < now)
        return [self._free(each) for each in dead]

    async def leave(self, owner: str, token: int) -> None:
        """End a node in order; see `SharedStore.leave`."""
        await trio.lowlevel.checkpoint()
        if self._nodes.get(owner) == token:
            self._free(owner)

    async def nodes(self) -> Sequence[Node]:
        """Every node, in order of name."""
        await trio.lowlevel.checkpoint()
        now = self._clock.wall()
        owned = [mail.owner for mail in self._mails.values()]
        return [
            Node(owner, token, self._leases[owner] - now, owner in self._draining, owned.count(owner))
            for owner, token in sorted(self._nodes.items())
        ]

    async def set_draining(self, owner: str, draining: bool) -> bool:
        """Ask a node to drain; see `SharedStore.set_draining`."""
        await trio.lowlevel.checkpoint()
        if owner not in self._nodes:
            return False
        (self._draining.add if draining else self._draining.discard)(owner)
        return True

    # ---- changes -------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """Apply each change in order; see `QueueStore.commit`. A cancelled commit has done nothing."""
        await trio.lowlevel.checkpoint()
        return [self._apply(change) for change in batch]

    def _apply(self, change: Change) -> Result:
        try:
            if isinstance(change, Insert):
                self._check_insert(change, {})
                return self._insert(change)
            if isinstance(change, Begin):
                return self._begin(change)
            if isinstance(change, Settle):
                return self._settle(change)
            return self._withdraw(change)
        except Unfit:
            return Result.REFUSED

    def _check_insert(self, insert: Insert, beside: Mapping[str, bytes]) -> None:
        """Raise `Unfit` unless the insert can be taken. `beside` is content that arrives in the same change."""
        mail = insert.mail
        encode_mail(mail)
        for attempt in insert.attempts:
            encode_attempt(mail.id, attempt)
        if mail.id in self._mails or self._has_left(insert):
            return
        known = self._contents.get(mail.content.id, beside.get(mail.content.id, insert.content))
        if known is None or len(known) != mail.content.size:
            raise Unfit("the content is not there, or of another size")

    def _has_left(self, insert: Insert) -> bool:
        """True for a repetition of an insert whose mail another node has finished meanwhile."""
        return insert.token is not None and insert.mail.id in self._attempts

    def _insert(self, insert: Insert) -> Result:
        mail = insert.mail
        asked = None if insert.token is None or not mail.owner else (mail.owner, insert.token)
        if mail.id in self._mails:
            own = (self._mails[mail.id].owner, self._tokens[mail.id])
            return Result.APPLIED if asked in (None, own) else Result.FENCED
        if self._has_left(insert):
            return Result.FENCED
        result = Result.APPLIED
        if asked is not None and self._nodes.get(mail.owner) != insert.token:
            mail, result = attrs.evolve(mail, owner=""), Result.FENCED
        if insert.content is not None:
            self._contents.setdefault(mail.content.id, bytes(insert.content))
        self._staged.pop(mail.content.id, None)
        if mail.attempting_since is not None and not (mail.owner and mail.state is QueueState.ACTIVE):
            mail = attrs.evolve(mail, attempting_since=None)
        if insert.attempts:
            self._attempts.setdefault(mail.id, []).extend(insert.attempts)
        self._keep(mail)
        return result

    def _begin(self, change: Begin) -> Result:
        fence = self._fence(change)
        if fence is Result.APPLIED:
            self._keep(attrs.evolve(self._mails[change.id], attempting_since=change.at))
        return fence

    def _settle(self, change: Settle) -> Result:
        fence = self._fence(change)
        if fence is not Result.APPLIED:
            return fence
        old, new = self._mails[change.id], change.mail
        if new is not None:
            if new.id != change.id:
                raise Unfit("a mail is settled under the id of another")
            encode_mail(new)
        for attempt in change.attempts:
            encode_attempt(change.id, attempt)
        beside: dict[str, bytes] = {}
        for insert in change.inserts:
            self._check_insert(insert, beside)
            if insert.content is not None:
                beside.setdefault(insert.mail.content.id, insert.content)
        for insert in change.inserts:
            self._insert(insert)
        self._attempts.setdefault(change.id, []).extend(change.attempts)
        if new is None:
            self._remove(old)
        else:
            fixed = attrs.evolve(new, origin_id=old.origin_id, content=old.content, attempting_since=None)
            self._keep(fixed)
        return Result.APPLIED

    def _withdraw(self, change: Withdraw) -> Result:
        mail = self._mails.get(change.id)
        if mail is None:
            return Result.GONE
        if mail.attempts or (mail.attempting_since is not None and not change.begun):
            return Result.FENCED
        self._remove(mail)
        return Result.APPLIED

    def _fence(self, change: Begin | Settle) -> Result:
        mail = self._mails.get(change.id)
        if mail is None:
            return Result.GONE
        owned = mail.owner != "" and (mail.owner, self._tokens[change.id]) == (change.owner, change.token)
        return Result.APPLIED if owned else Result.FENCED

    def _keep(self, mail: QueuedMail) -> None:
        """Store a mail. Only an ACTIVE one is owned, and always under its owner's latest token."""
        owner = mail.owner if mail.state is QueueState.ACTIVE else ""
        self._mails[mail.id] = attrs.evolve(mail, owner=owner, annotations=dict(mail.annotations))
        self._tokens[mail.id] = self._nodes.get(owner, 0)

    def _remove(self, mail: QueuedMail) -> None:
        del self._mails[mail.id], self._tokens[mail.id]
        if not any(other.content.id == mail.content.id for other in self._mails.values()):
            self._contents.pop(mail.content.id, None)

    # ---- content -------------------------------------------------------------------------------

    async def stage(self) -> "MemoryWriter":
        """Begin to stage content."""
        await trio.lowlevel.checkpoint()
        return MemoryWriter(self)

    def keep_staged(self, content: bytes) -> str:
        """Take whole staged content in, and name it."""
        content_id = self._ids.new_id()
        self._contents[content_id] = content
        self._staged[content_id] = self._clock.wall()
        return content_id

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """A part of the content; see `QueueStore.read`."""
        await trio.lowlevel.checkpoint()
        content = self._contents.get(ref.id)
        if content is None or len(content) != ref.size or ref.id in self._staged:
            raise ContentMissing(f"the content {ref.id} is not in the queue, or not whole")
        return content[offset : offset + limit]

    # ---- what is due ---------------------------------------------------------------------------

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """Take ownership of due mails; see `QueueStore.claim`."""
        await trio.lowlevel.checkpoint()
        if self._nodes.get(claim.owner) != claim.token:
            return []
        due = [
            mail
            for mail in self._mails.values()
            if mail.state in CLAIMABLE
            and not mail.owner
            and mail.next_attempt_at <= claim.now
            and mail.destination not in claim.exclude
            and claim.priority in (None, mail.priority)
        ]
        due.sort(key=lambda mail: (-mail.priority, mail.next_attempt_at, mail.destination, mail.id))
        taken = due[: max(claim.limit, 0)]
        for mail in taken:
            self._keep(attrs.evolve(mail, state=QueueState.ACTIVE, owner=claim.owner))
        return [self._copy(mail.id) for mail in taken]

    async def next_due(self) -> float | None:
        """When the earliest claimable mail is due."""
        await trio.lowlevel.checkpoint()
        waiting = (mail for mail in self._mails.values() if mail.state in CLAIMABLE and not mail.owner)
        return min((mail.next_attempt_at for mail in waiting), default=None)

    # ---- what is there -------------------------------------------------------------------------

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail by its id."""
        await trio.lowlevel.checkpoint()
        return self._copy(queue_id) if queue_id in self._mails else None

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first."""
        await trio.lowlevel.checkpoint()
        return list(self._attempts.get(queue_id, ()))

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        """Mails in order of id; see `QueueStore.list`."""
        await trio.lowlevel.checkpoint()
        found = [mail for mail in self._in_order() if mail.id > after and matches(chosen, mail)]
        return [self._copy(mail.id) for mail in found[: max(limit, 0)]]

    async def counts(self) -> Mapping[QueueState, int]:
        """How many mails stand in each state; every state is named."""
        await trio.lowlevel.checkpoint()
        counts = dict.fromkeys(QueueState, 0)
        for mail in self._mails.values():
            counts[mail.state] += 1
        return counts

    def _in_order(self) -> Iterable[QueuedMail]:
        return [self._mails[queue_id] for queue_id in sorted(self._mails)]

    def _copy(self, queue_id: str) -> QueuedMail:
        mail = self._mails[queue_id]
        return attrs.evolve(mail, annotations=dict(mail.annotations))

    # ---- orders and age ------------------------------------------------------------------------

    async def apply(self, order: Order) -> Ordered:
        """Carry out an operator's order; see `QueueStore.apply`."""
        await trio.lowlevel.checkpoint()
        meant = [mail for mail in self._in_order() if takes(order, mail)][: max(order.limit, 0)]
        free = [mail for mail in meant if mail.attempting_since is None]
        for mail in free:
            if order.verb is Verb.DELETE:
                self._remove(mail)
            else:
                self._keep(obey(order, mail))
        in_flight = tuple(mail.id for mail in meant if mail.attempting_since is not None)
        return Ordered(changed=tuple(mail.id for mail in free), in_flight=in_flight)

    async def cleanup(self, retention: Retention) -> int:
        """Remove what is past its retention; see `QueueStore.cleanup`."""
        await trio.lowlevel.checkpoint()
        before = {QueueState.DELIVERED: retention.delivered_before, QueueState.FAILED: retention.failed_before}
        old = [mail for mail in self._mails.values() if is_older(mail.next_attempt_at, before.get(mail.state))]
        old.sort(key=lambda mail: (mail.next_attempt_at, mail.id))
        old = old[: max(retention.limit, 0)]
        for mail in old:
            self._remove(mail)
        for queue_id, attempts in list(self._attempts.items()):
            kept = [attempt for attempt in attempts if not is_older(attempt.started_at, retention.attempts_before)]
            self._attempts[queue_id] = kept
            if not kept:
                del self._attempts[queue_id]
        for content_id, staged_at in list(self._staged.items()):
            if is_older(staged_at, retention.staged_before):
                del self._staged[content_id], self._contents[content_id]
        return len(old)

    async def inspect(self) -> Sequence[Finding]:
        """Nothing lies here but the mails."""
        await trio.lowlevel.checkpoint()
        return []


class MemoryWriter:
    """Content on its way into a `MemoryStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._pieces: list[bytes] = []

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces."""
        await trio.lowlevel.checkpoint()
        self._pieces += pieces

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        """Append the last pieces, and name the whole."""
        await self.write(pieces)
        return self._store.keep_staged(b"".join(self._pieces))

    async def abandon(self) -> None:
        """Throw away what was not finished."""
        await trio.lowlevel.checkpoint()
        self._pieces.clear()
