"""Content of one mail on its way in: small in memory, large staged in the store.

What is not here: scanning it (`smtp.content`), or the insert that makes it count (`queue.service`).
Octets in memory are taken from one budget for all sessions; what does not fit is staged to disk at once.
"""

from hashlib import sha256

from elemta.inbound.base import Queue
from elemta.runtime.budget import ByteBudget
from elemta.storage.base import ContentWriter
from elemta.storage.records import INLINE_CONTENT_OCTETS, PIECE_OCTETS


class Gathering:
    """Gathers one mail. Every way out of it is `whole` or `abandon`; `abandon` is safe after either."""

    def __init__(self, queue: Queue, budget: ByteBudget) -> None:
        self._queue = queue
        self._budget = budget
        self._pieces: list[bytes] = []
        self._held = 0
        self._taken = 0
        self._writer: ContentWriter | None = None
        self.size = 0
        self._digest = sha256()
        #: The first octets of the mail, up to `INLINE_CONTENT_OCTETS`: enough for every look at the header.
        self.head = b""

    def add_in_memory(self, data: bytes) -> bool:
        """Keep `data` in memory when the mail is still small and the budget allows; False asks for `add`."""
        if self._writer is not None or self._held + len(data) > INLINE_CONTENT_OCTETS:
            return False
        if not self._budget.take(len(data)):
            return False
        self._taken += len(data)
        self._keep(data)
        return True

    def _keep(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        self.size += len(data)

    async def add(self, data: bytes) -> None:
        """Add content, staging what memory does not hold. Raises `StoreUnavailable`, `StoreFull`."""
        if self.add_in_memory(data):
            return
        if self._writer is None:
            self.head = b"".join((*self._pieces, data))
            self._writer = await self._queue.stage()
        if self._held + len(data) > PIECE_OCTETS:
            await self._flush(self._writer)
        within_budget = self._budget.take(len(data))
        if within_budget:
            self._taken += len(data)
        self._keep(data)
        if not within_budget:  # then a session holds what it has just received, and nothing more
            await self._flush(self._writer)

    async def _flush(self, writer: ContentWriter) -> None:
        pieces, self._pieces = self._pieces, []
        self._note(pieces)
        try:
            await writer.write(pieces)
        finally:
            self._release()

    def _note(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._digest.update(piece)

    @property
    def digest(self) -> str:
        """SHA-256 of the octets, as `ContentRef.digest`; of all of them once `whole` has returned."""
        return self._digest.hexdigest()

    async def whole(self) -> tuple[str | None, bytes | None]:
        """The content id of what was staged, or the octets themselves. Raises `StoreUnavailable`, `StoreFull`."""
        if self._writer is None:
            self.head = content = b"".join(self._pieces)
            self._pieces.clear()
            self._digest.update(content)
            return None, content
        pieces, self._pieces = self._pieces, []
        self._note(pieces)
        try:
            return await self._writer.finish(pieces), None
        finally:
            self._release()

    def _release(self) -> None:
        self._pieces.clear()
        self._budget.give_back(self._taken)
        self._taken = self._held = 0

    def release(self) -> None:
        """Give the memory back, once the mail is durable."""
        self._release()

    async def abandon(self) -> None:
        """Throw everything away, the staged part too."""
        self._release()
        await self.abandon_staged()

    async def abandon_staged(self) -> None:
        """Throw away what is staged; what is counted in memory stays counted."""
        if self._writer is not None:
            await self._writer.abandon()
            self._writer = None
