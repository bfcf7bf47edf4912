"""Checks that content is what came in.

Content is read in pieces, its octets are counted, its SHA-256 is compared with the one that was made when the mail came
in. What is not here: which mails are checked (`queue.transfer`, `web.verify`).
Failures raised: `ContentMissing` for what is gone, short or damaged; `StoreUnavailable`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from hashlib import sha256

from elemta.storage.base import ContentMissing
from elemta.storage.records import PIECE_OCTETS, ContentRef

#: Reads at most so many octets of content from an offset; empty at its end.
Read = Callable[[ContentRef, int, int], Awaitable[bytes]]


async def pieces_of(ref: ContentRef, read: Read) -> AsyncGenerator[bytes, None]:
    """The content piece by piece, at most `PIECE_OCTETS` each, then the verdict: no end is reached by damaged content.

    Close it (`aclosing`) when it is not read to its end. Raises `ContentMissing`.
    """
    digest, offset = sha256(), 0
    while offset < ref.size:
        piece = await read(ref, offset, min(PIECE_OCTETS, ref.size - offset))
        if not piece:
            raise ContentMissing(f"the content {ref.id} ends after {offset} of {ref.size} octets")
        digest.update(piece)
        offset += len(piece)
        yield piece
    if ref.size == 0:
        # Nothing to read, yet it has to be there.
        await read(ref, 0, 1)
    if ref.digest and digest.hexdigest() != ref.digest:
        raise ContentMissing(f"the content {ref.id} is damaged: its SHA-256 is not the one it came in with")


async def check_content(ref: ContentRef, read: Read) -> None:
    """Read content to its end. Raises `ContentMissing` when it is not whole."""
    async with aclosing(pieces_of(ref, read)) as pieces:
        async for _ in pieces:
            pass
