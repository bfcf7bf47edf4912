"""The content of the mail in hand, as an attempt reads it.

What is not here: content on its way in (`inbound`), or where it lies (`storage`).
What a store gives back is checked against the digest that was made when the mail came in: for large content, when its
last piece is read, so that damage keeps the final dot from being sent.
Failures raised: `ContentMissing`, `StoreUnavailable`.
"""

from contextlib import aclosing
from hashlib import sha256

from elemta.queue.wholeness import pieces_of
from elemta.storage.base import ContentMissing, QueueStore
from elemta.storage.records import INLINE_CONTENT_OCTETS, ContentRef


class StoredContent:
    """Content that lies in the store; small content is read once and kept while the attempt lasts.

    So at most `max_workers` times `INLINE_CONTENT_OCTETS` lie in memory for attempts.
    """

    __slots__ = ("_digest", "_digested", "_octets", "_ref", "_store")

    def __init__(self, store: QueueStore, ref: ContentRef, octets: bytes | None) -> None:
        self._store = store
        self._ref = ref
        self._octets = octets
        self._digest = sha256()
        self._digested = 0

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
                return self._checked(offset, await self._store.read(self._ref, offset, limit))
            octets = self._octets = await self._whole()
        return octets[offset : offset + limit]

    async def _whole(self) -> bytes:
        async with aclosing(pieces_of(self._ref, self._store.read)) as pieces:
            return b"".join([piece async for piece in pieces])

    def _checked(self, offset: int, octets: bytes) -> bytes:
        """The octets, unless they are the last of content that was read from its beginning and is not what it was."""
        if offset == 0:
            self._digest, self._digested = sha256(), 0
        if offset != self._digested or not self._ref.digest:
            return octets
        self._digest.update(octets)
        self._digested += len(octets)
        if self._digested == self._ref.size and self._digest.hexdigest() != self._ref.digest:
            raise ContentMissing(f"{self._ref.id} is damaged: its SHA-256 is not the one it came in with")
        return octets
