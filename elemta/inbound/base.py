"""What the inbound side asks of the rooms behind it.

What is not here: the queue itself (`queue.service`), or the list of local recipients (`delivery.local`).
"""

from typing import Protocol

from elemta.mail.address import Address
from elemta.queue.submission import Submission
from elemta.storage.base import ContentWriter
from elemta.storage.records import ContentRef


class Queue(Protocol):
    """Takes mails."""

    async def submit(self, submission: Submission, *, timeout: float) -> None:  # noqa: ASYNC109  # a scope costs 12 µs
        """Durable when it returns. Raises `StoreUnavailable`, `StoreFull`, `SubmissionTimeout`."""
        ...

    async def stage(self) -> ContentWriter:
        """Begin to stage large content. Raises `StoreUnavailable`, `StoreFull`."""
        ...

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """At most `limit` octets of staged content. Raises `ContentMissing`, `StoreUnavailable`."""
        ...


class Recipients(Protocol):
    """Knows who is local."""

    async def exists(self, address: Address) -> bool:
        """Whether a local domain has this mailbox. Raises `OSError` when nobody can say now."""
        ...
