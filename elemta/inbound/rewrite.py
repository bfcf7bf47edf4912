"""Writes down a mail that plugins changed, in memory where it is small, into the store where it is large.

What is not here: which changes (`plugins.mail`). Failures raised: `StoreUnavailable`, `StoreFull`; then what was staged
is thrown away.
"""

from hashlib import sha256
from typing import Final

import trio
from attrs import evolve, frozen

from elemta.inbound.base import Queue
from elemta.plugins.content import Reader
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


def reader_of(queue: Queue, octets: Octets) -> Reader:
    """Reads the content, wherever it lies. It raises `StoreUnavailable`."""
    ref, content = octets.ref, octets.content

    async def read(offset: int, limit: int) -> bytes:
        if content is not None:
            return content[offset : offset + limit]
        try:
            return await queue.read(ref, offset, limit)
        except ContentMissing as error:
            raise StoreUnavailable(f"what was just stored cannot be read: {error}") from error

    return read


async def rewritten(queue: Queue, octets: Octets, mail: MailInHand) -> Octets:
    """The content with the changes. Raises `StoreUnavailable`, `StoreFull`."""
    writer = await queue.stage() if mail.content.size > INLINE_CONTENT_OCTETS else None
    try:
        return await _written(octets, mail, writer)
    except BaseException:
        if writer is not None:
            with trio.move_on_after(ABANDON_SECONDS, shield=True):
                await writer.abandon()
        raise


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
