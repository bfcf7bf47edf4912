"""The transport that keeps mail on this machine: dev mode's only way out.

What is not here: where the mails are kept (`storage.inbox`), or who reads them (`web`, `cli`). The octets are kept as
the server accepted them, the envelope beside them; a mail for several recipients is one entry.
Failures raised: `AttemptStopped`, and what reading the content raises; a store that cannot keep the mail defers it.
"""

import errno
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from elemta.delivery.base import AttemptStopped, Content, Job
from elemta.mail.headers import MAX_HEADER_OCTETS, header_block, readable_field
from elemta.mail.inbox import InboxEntry
from elemta.mail.outcome import Deferred, Delivered, Outcome
from elemta.mail.reply import Reply
from elemta.runtime.clock import Clock

#: Octets that a reader asks for at once.
PIECE_OCTETS: Final = 1024 * 1024

_NO_SPACE = Deferred(Reply(452, "4.3.1", "the inbox has no space left"))
_UNWRITABLE = Deferred(Reply(451, "4.3.0", "the inbox cannot be written now"))


class InboxStore(Protocol):
    """Keeps the newest mails. Every verb raises `OSError` when the engine fails, with `ENOSPC` when it is full."""

    async def open(self) -> None:
        """Be ready. Raises `OSError` with the remedy in its text."""
        ...

    async def close(self) -> None:
        """Let go of everything; every kept mail is durable already."""
        ...

    async def add(self, entry: InboxEntry, content: Content) -> None:
        """Durable when it returns. A mail with the same id is replaced: a delivery may come twice. The oldest give way.

        Raises what reading the content raises.
        """
        ...

    async def list(self, limit: int, before: str | None = None) -> Sequence[InboxEntry]:
        """At most `limit` mails, the newest first, beginning after the mail with the id `before`."""
        ...

    async def get(self, queue_id: str) -> InboxEntry | None:
        """One mail's entry; None when it is not there (any more)."""
        ...

    async def raw(self, queue_id: str, offset: int = 0, limit: int = PIECE_OCTETS) -> bytes:
        """At most `limit` octets of a mail from `offset`; empty at its end, or when it is not there (any more)."""
        ...

    async def delete(self, queue_ids: Collection[str]) -> int:
        """Remove these mails; returns how many there were."""
        ...

    async def clear(self) -> int:
        """Remove all mails; returns how many there were."""
        ...

    async def count(self) -> int:
        """How many mails are kept."""
        ...

    async def newest(self) -> InboxEntry | None:
        """The mail that arrived last; None when there is none."""
        ...

    async def wait_for(self, matches: Callable[[InboxEntry], bool], after: str | None = None) -> InboxEntry:
        """The first mail that matches among those that arrived after the mail `after`, waiting for it to arrive.

        With None those that are there already count as well. The caller sets the deadline.
        """
        ...


class InboxTransport:
    """Delivers every mail into the inbox, whoever it is for. With `log`, each is one readable line."""

    def __init__(self, store: InboxStore, clock: Clock, *, log: FilteringBoundLogger | None = None) -> None:
        self._store = store
        self._clock = clock
        self._log = log

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """One outcome for all recipients. Raises `AttemptStopped` when the gate closed."""
        entry = await self._entry(job)
        if not await job.gate():
            raise AttemptStopped
        return [await self._keep(entry, job.content)] * len(entry.forward_paths)

    async def _entry(self, job: Job) -> InboxEntry:
        envelope = job.envelope
        beginning = await job.content.read(0, MAX_HEADER_OCTETS)
        return InboxEntry(
            id=job.id,
            reverse_path=envelope.sender,
            forward_paths=tuple(str(recipient.address) for recipient in envelope.recipients),
            subject=readable_field(header_block(beginning), "subject"),
            size=job.content.size,
            received_at=self._clock.wall(),
        )

    async def _keep(self, entry: InboxEntry, content: Content) -> Outcome:
        try:
            await self._store.add(entry, content)
        except OSError as error:
            if self._log is not None:
                self._log.error("inbox.failed", queue_id=entry.id, error=str(error))
            return _NO_SPACE if error.errno == errno.ENOSPC else _UNWRITABLE
        if self._log is not None:
            self._log.info(
                "inbox.caught",
                queue_id=entry.id,
                sender=entry.reverse_path,
                recipients=", ".join(entry.forward_paths[:3]) + ("" if len(entry.forward_paths) <= 3 else ", …"),
                subject=entry.subject,
                size=entry.size,
            )
        return Delivered(Reply(250, "2.0.0", f"caught in the inbox as {entry.id}"))
