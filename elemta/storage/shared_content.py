"""Content on a database server: staged piece by piece, read part by part.

What is not here: content that travels with its insert, which lies in one row (`shared_ledger`).

Each call is a small transaction of its own beside the group commit. Until it is finished, content counts for nothing;
until a mail refers to it, it can be collected. Raises `StoreUnavailable`, `StoreAway`, `StoreFull`, `ContentMissing`.
"""

from collections.abc import Sequence

import trio

from elemta.datasource.base import Connection, Work
from elemta.mail.ids import is_queue_id
from elemta.runtime.clock import Clock
from elemta.storage import shared_statements as sql
from elemta.storage.base import CommitUnknown, ContentMissing, StoreUnavailable
from elemta.storage.records import PIECE_OCTETS, ContentRef
from elemta.storage.shared_server import Server

#: Seconds that throwing staged content away may take; what is left then is collected later.
ABANDON_SECONDS = 5.0
#: Staged contents that one transaction of a cleanup removes: some hundred pieces.
COLLECTED_AT_ONCE = 10
#: What fits into the servers' 32 bits where a part of one row is asked for; no row is as large.
_LAST_OFFSET = 2**31 - 2


class SharedWriter:
    """Content on its way into the queue: one transaction a call. See `ContentWriter`."""

    def __init__(self, server: Server, clock: Clock, *, content_id: str) -> None:
        self._server = server
        self._clock = clock
        self._id = content_id
        self._size = 0
        self._is_begun = False
        self._is_over = False

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces; see `ContentWriter.write`."""
        octets = b"".join(pieces)
        await self._store([octets[at : at + PIECE_OCTETS] for at in range(0, len(octets), PIECE_OCTETS)])

    async def _store(self, parts: Sequence[bytes], *, is_last: bool = False) -> None:
        """Write parts of at most `PIECE_OCTETS` octets, the last of all with the size of the whole."""
        server, start = self._server, self._size
        size = start + sum(map(len, parts))
        is_new = not self._is_begun

        async def work(connection: Connection) -> None:
            at = start
            if is_new:
                await server.execute(connection, sql.BEGIN_CONTENT, self._id, self._clock.wall())
            for part in parts:
                await server.execute(connection, sql.ADD_PIECE, self._id, at, part)
                at += len(part)
            if (
                is_last
                and await server.execute(connection, sql.FINISH_CONTENT, size, self._clock.wall(), self._id) != 1
            ):
                raise StoreUnavailable(f"{server.name}: content was collected before it was whole: it was too slow")

        if parts or is_last:
            await _whatever_came_of_it(server, work)
            self._is_begun, self._size = True, size

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        """Make the whole durable; see `ContentWriter.finish`."""
        octets = b"".join(pieces)
        await self._store([octets] if octets else [], is_last=True)
        self._is_over = True
        return self._id

    async def abandon(self) -> None:
        """Remove the pieces, unless it was finished: then an insert may refer to it already."""
        await trio.lowlevel.checkpoint()
        if self._is_over or not self._is_begun:
            return
        self._is_over = True

        async def work(connection: Connection) -> None:
            if await self._server.execute(connection, sql.ABANDON_CONTENT, self._id):
                await self._server.execute(connection, sql.DROP_PIECES, [self._id])

        with trio.move_on_after(ABANDON_SECONDS, shield=True):
            try:
                await self._server.transact(work)
            except StoreUnavailable:
                # What cannot be removed now is collected later, as content that nothing refers to.
                return


async def _whatever_came_of_it(server: Server, work: Work[None]) -> None:
    """Content whose end is not known is not durable: it was never answered for, and is collected."""
    try:
        await server.transact(work)
    except CommitUnknown as error:
        raise StoreUnavailable(str(error)) from error


async def read(server: Server, ref: ContentRef, *, offset: int, limit: int) -> bytes:
    """At most `limit` octets from `offset`; see `QueueStore.read`."""
    if not is_queue_id(ref.id):
        raise ContentMissing("no content has such an id")
    first, most = min(max(offset, 0), _LAST_OFFSET), min(max(limit, 0), _LAST_OFFSET)
    rows = await server.find(sql.CONTENT_PART, first + 1, most, ref.id)
    if not rows or rows[0][0] != ref.size or not rows[0][1]:
        raise ContentMissing(f"{server.name}: the content {ref.id} is not in the queue, or not whole")
    part: bytes | None = rows[0][2]
    if part is not None:
        return part
    end = min(offset + limit, ref.size)
    pieces = await server.find(sql.PIECES, ref.id, offset - PIECE_OCTETS, end) if offset < end else ()
    found = b"".join(piece[max(offset - start, 0) : end - start] for start, piece in pieces)
    if len(found) != max(end - offset, 0):
        raise ContentMissing(f"{server.name}: the content {ref.id} lacks pieces")
    return found


async def collect(server: Server, before: float) -> None:
    """Remove content that was staged before a moment and that nothing refers to, in short transactions."""

    async def work(connection: Connection) -> int:
        found = await server.fetch(connection, sql.STAGED_BEFORE, before, COLLECTED_AT_ONCE)
        content_ids = [row[0] for row in found]
        if content_ids:
            await server.execute(connection, sql.DROP_CONTENTS, content_ids)
            await server.execute(connection, sql.DROP_PIECES, content_ids)
        return len(content_ids)

    while await server.transact(work) == COLLECTED_AT_ONCE:
        pass
