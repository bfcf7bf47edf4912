"""A stopped server's queue in the form that the web room asks for.

What is not here: opening it (`cli.client`), which happens under the queue's lock.
"""

from collections.abc import Mapping, Sequence

from elemta.mail.outcome import Attempt
from elemta.storage.base import Filter, Order, Ordered, QueueStore
from elemta.storage.records import ContentRef, QueuedMail, QueueState


class FilesQueue:
    """A store as `web.base.QueueAdmin`: there is no dispatcher that would have to be told."""

    def __init__(self, store: QueueStore) -> None:
        self._store = store

    async def list(self, chosen: Filter, limit: int, after: str = "") -> Sequence[QueuedMail]:
        """Mails in order of id, beginning after the id `after`."""
        return await self._store.list(chosen, limit, after)

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail."""
        return await self._store.get(queue_id)

    async def attempts(self, queue_id: str) -> Sequence[Attempt]:
        """The attempts of a mail, oldest first."""
        return await self._store.attempts(queue_id)

    async def counts(self) -> Mapping[QueueState, int]:
        """How many mails stand in each state."""
        return await self._store.counts()

    async def read_content(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """At most `limit` octets of content. Raises `ContentMissing`."""
        return await self._store.read(ref, offset, limit)

    async def apply(self, order: Order) -> Ordered:
        """Carry out an order."""
        return await self._store.apply(order)


class NotRunning:
    """The health of a server that is stopped."""

    def checks(self) -> Mapping[str, str]:
        """One check, which fails."""
        return {"server": "not running"}
