"""Looks over a queue on a database server: content without mails, mails without content, counts that do not add up.

What is not here: mending it. Each look is of some ten thousand rows, so that none takes long; on a queue at work a mail
may come or go between two of them. What looks odd is therefore looked at once more, by itself, before it is told.

Raises `StoreUnavailable`, `StoreAway`.
"""

from collections import Counter

from elemta.storage.base import Finding
from elemta.storage.shared_server import Server

#: Rows of one look.
WINDOW_ROWS = 20_000

_WINDOW = "SELECT MAX(id) FROM (SELECT {key} AS id FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?) AS part"
_MAILS = (
    "SELECT mails.state, COUNT(*) FROM elemta_mails AS mails WHERE mails.id > ? AND mails.id <= ? GROUP BY mails.state"
)
_SHARED = (
    "SELECT content_id, COUNT(*) FROM elemta_mails WHERE id > ? AND id <= ? AND content_id <> id GROUP BY content_id"
)
_WITHOUT_CONTENT = (
    "SELECT mails.id FROM elemta_mails AS mails"
    " LEFT JOIN elemta_contents AS contents ON contents.id = mails.content_id"
    " WHERE mails.id > ? AND mails.id <= ? AND (contents.id IS NULL OR contents.size <> mails.content_size)"
)
_STILL_WITHOUT = (
    "SELECT mails.id FROM elemta_mails AS mails"
    " LEFT JOIN elemta_contents AS contents ON contents.id = mails.content_id"
    " WHERE mails.id = ? AND (contents.id IS NULL OR contents.size <> mails.content_size)"
)
_REFERRED = (
    "SELECT contents.id, contents.mails, COUNT(mails.id) FROM elemta_contents AS contents"
    " LEFT JOIN elemta_mails AS mails ON mails.id = contents.id AND mails.content_id = contents.id"
    " WHERE contents.id > ? AND contents.id <= ? GROUP BY contents.id, contents.mails"
)
_COUNTED = (
    "SELECT contents.mails, (SELECT COUNT(*) FROM elemta_mails AS mails WHERE mails.content_id = contents.id)"
    " FROM elemta_contents AS contents WHERE contents.id = ?"
)
_IN_PIECES = (
    "SELECT pieces.content_id, COALESCE(SUM(LENGTH(pieces.octets)), 0), contents.size"
    " FROM elemta_pieces AS pieces LEFT JOIN elemta_contents AS contents ON contents.id = pieces.content_id"
    " WHERE pieces.content_id > ? AND pieces.content_id <= ? GROUP BY pieces.content_id, contents.size"
)
_TALLY = "SELECT state, SUM(mails) FROM elemta_tally GROUP BY state"


async def inspect(server: Server) -> list[Finding]:
    """See `QueueStore.inspect`."""
    inspection = _Inspection(server)
    before = await inspection.tally()
    await inspection.look_at_mails()
    await inspection.look_at_contents()
    await inspection.look_at_pieces()
    inspection.compare(before, await inspection.tally())
    return inspection.findings


class _Inspection:
    def __init__(self, server: Server) -> None:
        self._server = server
        self.findings: list[Finding] = []
        self._states: Counter[str] = Counter()
        #: How many mails refer to content of another id than theirs.
        self._sharing: Counter[str] = Counter()

    def _tell(self, where: str, what: str) -> None:
        self.findings.append(Finding(where, what))

    async def tally(self) -> dict[str, int]:
        return {state: int(mails) for state, mails in await self._server.find(_TALLY)}

    async def _window(self, table: str, key: str, after: str) -> str | None:
        """The last key of the window behind `after`, None when there is nothing."""
        ((end,),) = await self._server.find(_WINDOW.format(table=table, key=key), after, WINDOW_ROWS)
        return None if end is None else str(end)

    async def look_at_mails(self) -> None:
        after = ""
        while (end := await self._window("elemta_mails", "id", after)) is not None:
            for state, mails in await self._server.find(_MAILS, after, end):
                self._states[state] += mails
            for content_id, mails in await self._server.find(_SHARED, after, end):
                self._sharing[content_id] += mails
            for (queue_id,) in await self._server.find(_WITHOUT_CONTENT, after, end):
                if await self._server.find(_STILL_WITHOUT, queue_id):
                    self._tell(f"mail {queue_id}", "its content is missing or of another size: delete it")
            after = end

    async def look_at_contents(self) -> None:
        after = ""
        while (end := await self._window("elemta_contents", "id", after)) is not None:
            for content_id, mails, own in await self._server.find(_REFERRED, after, end):
                if mails != own + self._sharing[content_id]:
                    await self._look_at_content(content_id)
            after = end

    async def _look_at_content(self, content_id: str) -> None:
        rows = await self._server.find(_COUNTED, content_id)
        if rows and rows[0][0] != rows[0][1]:
            counted, found = rows[0]
            self._tell(
                f"content {content_id}", f"{found} mails refer to it, {counted} are counted: it may stay too long"
            )

    async def look_at_pieces(self) -> None:
        after = ""
        while (end := await self._window("elemta_pieces", "content_id", after)) is not None:
            for content_id, octets, size in await self._server.find(_IN_PIECES, after, end):
                if size is None:
                    self._tell(f"pieces of {content_id}", f"{octets} octets of content that is not there: delete them")
                elif size not in (-1, octets):
                    self._tell(f"content {content_id}", f"its pieces hold {octets} octets instead of {size}")
            after = end

    def compare(self, before: dict[str, int], after: dict[str, int]) -> None:
        """Counts are odd only when nothing came or went meanwhile."""
        if before != after:
            return
        for state in sorted({*after, *self._states}):
            if after.get(state, 0) != self._states[state]:
                what = f"{self._states[state]} mails are {state}, {after.get(state, 0)} are counted"
                self._tell("elemta_tally", what)
