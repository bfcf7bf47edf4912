"""MySQL's own words for the queue's statements, MariaDB's at the same time.

What is not here: the tables (`mysql_schema`), or what is to be written (`shared_ledger`). What only one of the two
servers knows (RETURNING, row aliases of INSERT, FOR SHARE) is not used.

Values are written into the text of a statement, so a statement is cut where it would become too long for the server.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from attrs import define, field, frozen

from elemta.datasource.base import Connection, Row
from elemta.storage.mysql_schema import MIGRATIONS
from elemta.storage.shared_ledger import CHANGING_COLUMNS, NEW_COLUMNS, Writes
from elemta.storage.shared_statements import ATTEMPT_NAMES, DROP_CONTENTS, DROP_PIECES, IDS_AT_ONCE

#: UTC by the clock of the server, whatever the session's time zone.
_NOW = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6)"

#: What a statement may take of the server's max_allowed_packet: octets may double when they are written as text, and
#: the other half is for whatever else counts there.
PACKET_SHARE = 4
#: The smallest packet that a server may allow, and what is presumed until it was asked: octets.
LEAST_PACKET_OCTETS = 1024 * 1024
#: Octets that a value takes beside its own: quotes, a comma, a number's digits.
_VALUE_OCTETS = 24


@frozen
class _Bulk:
    """One statement for many rows: its text around the rows, the number of values in each."""

    head: str
    row: str
    tail: str = ""


def _insert(table: str, columns: Sequence[str], *, tail: str = "") -> _Bulk:
    row = f"({', '.join(['%s'] * len(columns))})"
    return _Bulk(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ", row, tail)


def _update(table: str, columns: Sequence[str], *, more: str = "") -> _Bulk:
    """Change rows that are known to be there: they are locked, and nothing is ever inserted."""
    changes = ", ".join(f"{name} = VALUES({name})" for name in columns[1:])
    return _insert(table, columns, tail=f" ON DUPLICATE KEY UPDATE {changes}{more}")


_CONTENTS = _insert("elemta_contents", ("id", "octets", "mails", "size"))
_RECOUNTS = _update("elemta_contents", ("id", "mails"), more=", staged_at = NULL")
_MAILS = _insert("elemta_mails", NEW_COLUMNS)
_CHANGES = _update("elemta_mails", CHANGING_COLUMNS)
_BEGINS = _update("elemta_mails", ("id", "attempting_since"))
_ATTEMPTS = _insert("elemta_attempts", ATTEMPT_NAMES)
_TALLY = _insert(
    "elemta_tally", ("slot", "state", "mails"), tail=" ON DUPLICATE KEY UPDATE mails = mails + VALUES(mails)"
)
_LEAVING_MAILS = "DELETE FROM elemta_mails WHERE id IN (?*)"

Rows = Sequence[Sequence[object]]


@define
class MysqlDialect:
    """See `shared_dialect.Dialect`."""

    _packet: int = field(default=LEAST_PACKET_OCTETS, init=False)
    _texts: dict[str, tuple[str, ...]] = field(factory=dict, init=False)

    migrations = MIGRATIONS
    session = ()

    async def learn(self, connection: Connection) -> None:
        """Ask how much a statement may hold."""
        ((packet,),) = await connection.fetch("SELECT @@max_allowed_packet")
        self._packet = max(int(packet), LEAST_PACKET_OCTETS)

    async def fetch(self, connection: Connection, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement; its rows."""
        return await connection.fetch(*self._said(statement, values))

    async def execute(self, connection: Connection, statement: str, *values: Any) -> int:
        """Run a statement; how many rows it changed."""
        return await connection.execute(*self._said(statement, values))

    def _said(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """A statement of `shared_statements` in MySQL's words, then its values; each list becomes as many values."""
        pieces = self._texts.get(statement)
        if pieces is None:
            text = statement.replace("{now}", _NOW).replace("{share}", "LOCK IN SHARE MODE")
            text = text.replace("{if_absent}", "ON DUPLICATE KEY UPDATE owner = owner")
            pieces = self._texts[statement] = tuple(text.replace("?*", "?").split("?"))
        said = [pieces[0]]
        flat: list[Any] = []
        for value, piece in zip(values, pieces[1:], strict=True):
            if isinstance(value, list):
                said.append(", ".join(["%s"] * len(value)))
                flat += value
            else:
                said.append("%s")
                flat.append(value)
            said.append(piece)
        return ["".join(said), *flat]

    async def write(self, connection: Connection, writes: Writes, *, slot: int) -> None:
        """One statement for each kind of row, or more where they would be too long."""
        for statement, ids in (
            (_LEAVING_MAILS, writes.leaving_mails),
            (DROP_CONTENTS, writes.leaving_contents),
            (DROP_PIECES, writes.leaving_contents),
        ):
            for start in range(0, len(ids), IDS_AT_ONCE):
                await self.execute(connection, statement, ids[start : start + IDS_AT_ONCE])
        for bulk, rows in self._bulks(writes, slot):
            for part in self._parts(rows):
                text = bulk.head + ", ".join([bulk.row] * len(part)) + bulk.tail
                await connection.execute(text, *chain.from_iterable(part))

    def _bulks(self, writes: Writes, slot: int) -> list[tuple[_Bulk, Rows]]:
        return [
            (_CONTENTS, [(*row, len(row[1])) for row in writes.contents]),
            (_RECOUNTS, writes.recounts),
            (_MAILS, writes.mails),
            (_CHANGES, writes.changes),
            (_BEGINS, writes.begins),
            (_ATTEMPTS, writes.attempts),
            (_TALLY, [(slot, state, number) for state, number in writes.tally.items()]),
        ]

    def _parts(self, rows: Rows) -> Iterator[Rows]:
        """Rows in as many parts as their length demands; a single one goes whatever its length."""
        room = self._packet // PACKET_SHARE
        part: list[Sequence[object]] = []
        taken = 0
        for row in rows:
            octets = sum(map(_octets_of, row))
            if part and taken + octets > room:
                yield part
                part, taken = [], 0
            part.append(row)
            taken += octets
        if part:
            yield part


def _octets_of(value: object) -> int:
    """About what a value takes in a statement; a character takes up to four octets."""
    if isinstance(value, bytes):
        return len(value) + _VALUE_OCTETS
    if isinstance(value, str):
        return (len(value) if value.isascii() else 4 * len(value)) + _VALUE_OCTETS
    return _VALUE_OCTETS
