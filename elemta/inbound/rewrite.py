"""Writes down a mail that plugins changed, in memory where it is small, into the store where it is large.

What is not here: which changes (`plugins.mail`). Failures raised: `StoreUnavailable`, `StoreFull`, `ContentAway`.
"""

from hashlib import sha256
from typing import Final

import trio
from attrs import evolve, frozen

from elemta.inbound.base import Queue
from elemta.plugins.api import ContentAway
from elemta.plugins.mail import MailInHand
from elemta.storage.base import ContentMissing, ContentWriter, StoreUnavailable
from elemta.storage.records import INLINE_CONTENT_OCTETS, PIECE_OCTETS, ContentRef

#: Seconds to throw away what was staged, also where the session was ended in the middle.
ABANDON_SECONDS: Final = 5.0


@frozen
class Octets:
    """A mail's content: what names it, and the octets themselves where they are small."""

    ref: ContentRef
    content: bytes | None


class ContentReader:
    """Reads the content of a mail, wherever it lies."""

    __slots__ = ("_octets", "_queue", "failure")

    def __init__(self, queue: Queue, octets: Octets) -> None:
        self._queue = queue
        self._octets = octets
        #: Why it could not be read: then no plugin has judged the mail, whatever it answers.
        self.failure: StoreUnavailable | None = None

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`. Raises `ContentAway`."""
        content = self._octets.content
        if content is not None:
            return content[offset : offset + limit]
        try:
            return await self._queue.read(self._octets.ref, offset, limit)
        except StoreUnavailable as error:
            self.failure = error
        except ContentMissing as error:
            self.failure = StoreUnavailable(f"what was just stored cannot be read: {error}")
        raise ContentAway(str(self.failure)) from self.failure


class Rewriting:
    """A mail with the changes of plugins, written down anew. `abandon` is safe at any time."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._writer: ContentWriter | None = None

    async def write(self, octets: Octets, mail: MailInHand) -> Octets:
        """The content with the changes. Raises `StoreUnavailable`, `StoreFull`, `ContentAway`."""
        if mail.content.size > INLINE_CONTENT_OCTETS:
            self._writer = await self._queue.stage()
        return await _written(octets, mail, self._writer)

    async def abandon(self) -> None:
        """Throw away what was staged."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with trio.move_on_after(ABANDON_SECONDS, shield=True):
                await writer.abandon()


async def _written(octets: Octets, mail: MailInHand, writer: ContentWriter | None) -> Octets:
    digest, pieces, offset, eight_bit = sha256(), [], 0, False
    while piece := await mail.content.read(offset, PIECE_OCTETS):
        offset += len(piece)
        digest.update(piece)
        eight_bit = eight_bit or not piece.isascii()
        if writer is None:
            pieces.append(piece)
        else:
            await writer.write([piece])
    ref = evolve(
        octets.ref,
        size=offset,
        eight_bit=eight_bit,
        header_octets=mail.content.header_octets,
        digest=digest.hexdigest(),
    )
    if writer is None:
        return Octets(evolve(ref, id=mail.id), b"".join(pieces))
    return Octets(evolve(ref, id=await writer.finish()), None)
