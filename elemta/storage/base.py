"""The contract of a queue store.

What is not here: scheduling policy (`queue`), or any one engine. `tests/storage/contract.py` is this contract as a
suite, run against every store, with faults. `rules` says for one mail what the verbs mean.

Rules that every store keeps:

* `commit` makes a whole batch durable in one transaction or one sync, and answers one `Result` a change. A change that
  the engine cannot take (`REFUSED`) harms no other change of its batch. Only a failure of the engine raises, and then
  it raises `StoreUnavailable` (nothing was made durable) or `CommitUnknown` (nobody can say).
* Changes apply in the order of the batch. Those that a batch may hold at once for one mail see each other.
* Inserts are idempotent by id: a batch whose outcome is unknown is committed again, as it was, before anything of it
  is dispatched. An id that is there already is APPLIED and left as it stands. A store does not remember the ids that
  left: an insert repeated after its mail finished would bring it back. In a `SharedStore` others may finish it before
  the repetition: there an insert with a token whose mail left attempts behind brings nothing back, and is FENCED.
* Repeated after an unknown outcome, a `Begin` that landed is APPLIED again, a `Settle` that landed is GONE or FENCED,
  a `Withdraw` that landed is GONE.
* An owned mail is ACTIVE and carries its owner's latest token; no other mail is owned. The empty owner is nobody.
* Content is immutable. It is durable once the insert that refers to it is. What no insert refers to is collected.
* Nothing a store returns is shared with what it keeps.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import frozen

from elemta.mail.envelope import Priority
from elemta.mail.outcome import Attempt
from elemta.storage.records import ContentRef, QueuedMail, QueueState


class StoreUnavailable(Exception):
    """The engine failed: nothing of the batch was made durable. The text says what happened and how to mend it."""


#: How long a node that joined counts as alive before it first renews its lease.
JOIN_LEASE_SECONDS = 30.0


class StoreFull(StoreUnavailable):
    """No space (or no inode) is left: answered 452, RFC 5321 §4.2.3."""


class CommitUnknown(StoreUnavailable):
    """The engine failed in a way that leaves open whether the batch is durable: commit it again."""


class ContentMissing(Exception):
    """The content that a mail refers to is not there, or not whole."""


class Result(enum.Enum):
    """What became of one change."""

    APPLIED = "applied"
    #: The token or owner is not the mail's any more: somebody adopted it, holds it or changed it. Of an `Insert`: the
    #: mail is durable, but not its submitter's: anybody may claim it.
    FENCED = "fenced"
    #: No such mail (deleted, withdrawn or finished before).
    GONE = "gone"
    #: The engine takes the batch but not this change, and would refuse it again.
    REFUSED = "refused"
    #: There is no room for this new mail; the rest of the batch is still needed to bring the old mail out.
    FULL = "full"


@frozen
class Insert:
    """Take a new mail. `content` is its octets when they travel with the change, None when they were staged or came
    with an earlier insert that refers to the same content.

    The mail may come with an owner that joined: then it need not be claimed. With `attempting_since` its first attempt
    begins with it, as if a `Begin` followed; only an ACTIVE mail with an owner can say so. `token` is the one of the
    node that submits, also where the mail is nobody's; None for the owner's latest. A `SharedStore` keeps the mail of a
    fenced owner as nobody's, and answers FENCED.
    `attempts` are records that a mail brings along which was tried elsewhere.
    """

    mail: QueuedMail
    content: bytes | None = None
    token: int | None = None
    attempts: tuple[Attempt, ...] = ()


@frozen
class Begin:
    """Mark that an attempt is in flight; durable before the point of no return (the final dot).

    Applied only to an ACTIVE mail of this owner.
    """

    id: str
    owner: str
    token: int
    at: float


@frozen
class Settle:
    """Finish an attempt: the mail's new state (None: it leaves the queue), its records, and its reports.

    The inserts are durable exactly when the rest is: a bounce is never lost and never sent without its reason.
    Applied only to a mail of this owner and token. `mail` replaces what is kept but for `origin_id`, `content`, and
    `attempting_since`, which ends. It keeps its owner only while it is ACTIVE.
    """

    id: str
    owner: str
    token: int
    mail: QueuedMail | None
    attempts: tuple[Attempt, ...] = ()
    inserts: tuple[Insert, ...] = ()


@frozen
class Withdraw:
    """Remove a mail that was answered 4yz although it landed. Never applied to one whose attempt began (FENCED).

    `begun` says that its insert had `attempting_since`, that nobody was given the mail, hence that it is no attempt.
    """

    id: str
    begun: bool = False


Change = Insert | Begin | Settle | Withdraw


@frozen
class Claim:
    """Ask for due mails: not owned, ACTIVE or DEFERRED, `next_attempt_at` <= `now`, highest priority first, then the
    longest due, then by destination and id. A token that is not the owner's latest claims nothing. Each returned
    mail is ACTIVE and owned by `owner` when the claim returns.

    `exclude` names destinations that cannot take more now; `priority` asks for one priority alone.
    """

    owner: str
    token: int
    now: float
    limit: int
    exclude: frozenset[str] = frozenset()
    priority: Priority | None = None


@frozen
class Joined:
    """What a node finds when it joins: its fencing token, how many of its mails were picked up again, and the ids whose
    attempts were in flight when it stopped. Those are recorded as `AttemptResult.UNCERTAIN`."""

    token: int
    recovered: int
    uncertain: tuple[str, ...] = ()


@frozen
class Filter:
    """Which mails an operator means; all given terms must hold. No term at all means every mail, and the caller must
    have said so. `recipient` and `sender` match a whole address, or a domain when they start with `@`."""

    ids: frozenset[str] | None = None
    states: frozenset[QueueState] | None = None
    sender: str | None = None
    recipient: str | None = None
    destination: str | None = None
    #: Only mails received at or before this time, UTC in seconds since 1970.
    received_before: float | None = None


class Verb(enum.Enum):
    """What an operator may ask for a mail that is not in flight."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    DELETE = "delete"


@frozen
class Order:
    """An operator's order. `reason` is kept with a held mail. `now` is UTC in seconds since 1970.

    RETRY makes ACTIVE and DEFERRED mails due at `now` and leaves those that are due already; FAILED ones become
    DEFERRED and due, their failed recipients pending (what was reported stays reported). HOLD takes ACTIVE and
    DEFERRED. RELEASE takes HELD and makes them due, DEFERRED when they were tried before. DELETE takes any.
    An order repeated comes to an end: it changes no mail twice.
    """

    verb: Verb
    filter: Filter
    now: float
    limit: int
    reason: str = ""


@frozen
class Ordered:
    """What an order did: the ids it changed, the ids that were in flight and so were left alone, each in order of id;
    together at most `limit`."""

    changed: tuple[str, ...]
    in_flight: tuple[str, ...] = ()


@frozen
class Retention:
    """What `cleanup` may remove. All are UTC in seconds since 1970: older goes. None keeps for ever.

    A finished mail's age counts from its `next_attempt_at`: when its last attempt was due. `limit` bounds the mails of
    one call, the oldest go first; attempts and staged content go whatever their number.
    """

    delivered_before: float | None
    failed_before: float | None
    attempts_before: float | None
    staged_before: float | None = None
    limit: int = 1000


@frozen
class Finding:
    """Something odd in a store: `where` it lies, and `what` it is or how to mend it. Both are for people."""

    where: str
    what: str


class ContentWriter(Protocol):
    """Content on its way into a store, piece by piece; it counts for nothing until an insert refers to it."""

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces, together at most `PIECE_OCTETS`, and keep none of them in memory: their octets were taken from
        the caller's budget. Raises `StoreUnavailable`, `StoreFull`."""
        ...

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        """Append the last pieces, make the whole durable, return the content id for `ContentRef.id`.

        Raises `StoreUnavailable`, `StoreFull`.
        """
        ...

    async def abandon(self) -> None:
        """Throw it away. Never raises but for cancellation; safe after `finish`, and more than once."""
        ...


class QueueStore(Protocol):
    """One engine's queue. Every verb may raise `StoreUnavailable`; none raises an engine's own exception."""

    async def open(self) -> None:
        """Connect, migrate, be ready. Raises `StoreUnavailable` with the remedy in its text."""
        ...

    async def close(self) -> None:
        """Let go of everything; every committed change is durable already."""
        ...

    async def join(self, owner: str, now: float) -> Joined:
        """Take part as `owner`: a new fencing token, own mails of an earlier life made claimable again."""
        ...

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """Make a batch durable, one result a change, in order. A cancelled commit is whole or has not begun.

        Raises `StoreUnavailable`, `CommitUnknown`; `StoreFull`, for a batch of inserts alone already when what is left
        is needed to bring the old mail out.
        """
        ...

    async def stage(self) -> ContentWriter:
        """Begin to stage content too large to travel with its insert."""
        ...

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """At most `limit` octets of content from `offset`; empty at its end. Raises `ContentMissing`."""
        ...

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """Take ownership of due mails, durably. What a claim took that raised comes with its owner's next one."""
        ...

    async def next_due(self) -> float | None:
        """When the earliest claimable mail is due, UTC in seconds since 1970; None when there is none."""
        ...

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail by its id."""
        ...

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first, also after it left the queue (until cleanup)."""
        ...

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        """Mails in order of id, beginning after the id `after`: the cursor of the next page."""
        ...

    async def counts(self) -> Mapping[QueueState, int]:
        """How many mails stand in each state."""
        ...

    async def apply(self, order: Order) -> Ordered:
        """Carry out an operator's order on mails that are not in flight."""
        ...

    async def cleanup(self, retention: Retention) -> int:
        """Remove what is past its retention, at most `limit` mails a call; returns how many went."""
        ...

    async def inspect(self) -> Sequence[Finding]:
        """Look over what lies in the store beside the mails, and at what holds them; changes nothing."""
        ...


# ---- one queue, many nodes -----------------------------------------------------------------------


class StoreAway(StoreUnavailable):
    """The database cannot be reached, or does not answer: nothing here is wrong, and it may come back by itself."""


@frozen
class Pulse:
    """What a node learns when it renews its lease."""

    #: False when the token is not the node's latest any more: its mails were adopted, and it must join again.
    is_held: bool
    #: True when an operator asked the node to finish what it has, and to take nothing more.
    is_draining: bool = False


@frozen
class Adopted:
    """What became of a dead node's mails: how many can be claimed again, and the ids whose attempts were in flight."""

    owner: str
    recovered: int
    uncertain: tuple[str, ...] = ()


@frozen
class Node:
    """A node that takes part in a shared queue, as an operator sees it.

    `lease_left` is seconds by the database's clock, negative once the lease is past. `mails` counts what it owns.
    """

    owner: str
    token: int
    lease_left: float
    is_draining: bool
    mails: int


class SharedStore(QueueStore, Protocol):
    """A queue that several nodes, in one process each, share.

    A node proves life by renewing its lease; leases are judged by the clock of whatever holds the queue, never by a
    node's. The mails of a node whose lease is past are adopted by any other. Every change of an owned mail is checked
    against the owner's latest token within its own transaction, so that a late node changes nothing that was adopted.
    `join` begins a lease of `JOIN_LEASE_SECONDS`, and ends an operator's wish that the node drain.
    """

    async def renew(self, owner: str, token: int, seconds: float) -> Pulse:
        """Let the lease end `seconds` from now, unless the token is not the node's latest."""
        ...

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        """Forget every other node whose lease is past, which fences it; its attempts in flight are recorded as
        uncertain, its mails can be claimed. Of several adopters each dead node has one.
        """
        ...

    async def leave(self, owner: str, token: int) -> None:
        """Forget a node that ends: its mails can be claimed at once. A token that is not its latest: nothing."""
        ...

    async def nodes(self) -> Sequence[Node]:
        """Every node that takes part, or died and is not adopted yet, in order of name."""
        ...

    async def set_draining(self, owner: str, draining: bool) -> bool:
        """Ask a node to drain, or to take part again; False when no node has that name."""
        ...
