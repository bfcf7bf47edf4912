"""What the web room asks of the others.

What is not here: the pages themselves. Who implements a Protocol matches it by structure; the supervisor hands it over,
or the command line, where a stopped server's queue is looked at.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from attrs import frozen

from elemta.mail.inbox import InboxEntry
from elemta.mail.outcome import Attempt
from elemta.storage.base import Filter, Order, Ordered
from elemta.storage.records import ContentRef, QueuedMail, QueueState

#: The control socket's name in `queue_dir`.
CONTROL_NAME = "control.sock"

#: Where the operators' pages are; programs name the version that they were written for.
PREFIX = "/api/ops/v1"

#: Octets of content read, sent or asked for at once.
PIECE_OCTETS = 256 * 1024


class QueueAdmin(Protocol):
    """The queue as an operator sees it. Every verb may raise `StoreUnavailable`."""

    async def list(self, chosen: Filter, limit: int, after: str = "") -> Sequence[QueuedMail]:
        """Mails in order of id, beginning after the id `after`."""
        ...

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail."""
        ...

    async def attempts(self, queue_id: str) -> Sequence[Attempt]:
        """The attempts of a mail, oldest first, also after it left the queue."""
        ...

    async def counts(self) -> Mapping[QueueState, int]:
        """How many mails stand in each state."""
        ...

    async def read_content(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """At most `limit` octets of content from `offset`, empty at its end. Raises `ContentMissing`."""
        ...

    async def apply(self, order: Order) -> Ordered:
        """Carry out an order on mails that are not in flight."""
        ...


class Inbox(Protocol):
    """The mails that dev mode caught. Every verb may raise `OSError`."""

    async def list(self, limit: int, before: str | None = None) -> Sequence[InboxEntry]:
        """At most `limit` mails, the newest first, beginning after the mail with the id `before`."""
        ...

    async def get(self, queue_id: str) -> InboxEntry | None:
        """One mail's entry."""
        ...

    async def raw(self, queue_id: str, offset: int, limit: int) -> bytes:
        """At most `limit` octets of a mail from `offset`; empty at its end, or when it is not there."""
        ...

    async def delete(self, queue_ids: Collection[str]) -> int:
        """Remove these mails; returns how many there were."""
        ...

    async def clear(self) -> int:
        """Remove all mails; returns how many there were."""
        ...

    async def wait_for(self, matches: Callable[[InboxEntry], bool], after: str | None = None) -> InboxEntry:
        """The first mail that matches among those that arrived after the mail `after`; with None, among all.

        It waits for one to arrive; the caller sets the deadline.
        """
        ...


class Health(Protocol):
    """Whether the server can do its work now."""

    def checks(self) -> Mapping[str, str]:
        """What is wrong, by the name of the check (`listeners`, `store`, `disk`); empty text where all is well."""
        ...


class Siblings(Protocol):
    """The other worker processes of this server."""

    @property
    def number(self) -> int:
        """This worker's own number, from 1."""
        ...

    async def ask(self, page: str) -> Mapping[int, bytes | None]:
        """What each of them answers on `/readyz` or `/metrics`, by its number; None for one that does not."""
        ...


@frozen
class Identity:
    """Which server answers, with how many worker processes. `started_at` is UTC in seconds since 1970.

    `running` is False where a command looks at a stopped server's queue: nothing is delivered meanwhile.
    """

    hostname: str
    started_at: float
    running: bool = True
    dev_mode: bool = False
    processes: int = 1
