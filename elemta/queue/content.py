"""The content of the mail in hand, as an attempt reads it.

What is not here: content on its way in (`inbound`), or where it lies (`storage`).
Failures raised: `ContentMissing`, `StoreUnavailable`.
"""

from elemta.storage.base import ContentMissing, QueueStore
from elemta.storage.records import INLINE_CONTENT_OCTETS, ContentRef


class StoredContent:
    """Content that lies in the store; small content is read once and kept while the attempt lasts.

    So at most `max_workers` times `INLINE_CONTENT_OCTETS` lie in memory for attempts.
    """

    __slots__ = ("_octets", "_ref", "_store")

    def __init__(self, store: QueueStore, ref: ContentRef, octets: bytes | None) -> None:
        self._store = store
        self._ref = ref
        self._octets = octets

    @property
    def size(self) -> int:
        """Octets in all."""
        return self._ref.size

    @property
    def eight_bit(self) -> bool:
        """True when it holds an octet over 127."""
        return self._ref.eight_bit

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`; empty at the end. Small content comes without a thread hop."""
        octets = self._octets
        if octets is None:
            if self._ref.size > INLINE_CONTENT_OCTETS:
                return await self._store.read(self._ref, offset, limit)
            octets = self._octets = await self._whole()
        return octets[offset : offset + limit]

    async def _whole(self) -> bytes:
        octets = await self._store.read(self._ref, 0, self._ref.size)
        while len(octets) < self._ref.size:
            piece = await self._store.read(self._ref, len(octets), self._ref.size - len(octets))
            if not piece:
                raise ContentMissing(f"{self._ref.id} ends after {len(octets)} of {self._ref.size} octets")
            octets += piece
        return octets
