"""PostgreSQL's own words for the queue's statements.

What is not here: the tables (`postgresql_schema`), or what is to be written (`shared_ledger`). All texts are constant,
lists travel as arrays: each statement is prepared once on a connection.
"""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from attrs import field, frozen

from elemta.datasource.base import Connection, Row
from elemta.storage.postgresql_schema import MIGRATIONS
from elemta.storage.shared_ledger import CHANGING_COLUMNS, NEW_COLUMNS, Writes
from elemta.storage.shared_statements import ATTEMPT_NAMES

_NOW = "extract(epoch FROM clock_timestamp())::float8"

#: Every statement here goes by an index. A plan is kept for a connection's life, and one that was made while the tables
#: were small would go through all rows of large ones until the next ANALYZE, which a server may do seldom or never.
#: Where there is no index to go by, the cost that forbids a scan would have the plan compiled: 50 ms for nothing.
_BY_INDEX = (
    "SELECT set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false),"
    " set_config('jit', 'off', false)"
)

#: Types of the columns that are no text.
_TYPES = {
    "priority": "int2",
    "token": "int8",
    "received_at": "float8",
    "next_attempt_at": "float8",
    "expires_at": "float8",
    "attempts": "int8",
    "attempting_since": "float8",
    "content_size": "int8",
    "content_eight_bit": "int2",
    "content_header_octets": "int8",
    "size": "int8",
    "mails": "int8",
    "slot": "int2",
    "octets": "bytea",
    "start": "int8",
    "started_at": "float8",
    "duration": "float8",
    "code": "int8",
}


def neutral(text: str) -> str:
    """A statement of `shared_statements` in PostgreSQL's words."""
    text = (
        text.replace("{now}", _NOW).replace("{share}", "FOR KEY SHARE").replace("{if_absent}", "ON CONFLICT DO NOTHING")
    )
    text = text.replace("NOT IN (?*)", "<> ALL(?)").replace("IN (?*)", "= ANY(?)")
    numbers = count(1)
    head, *rest = text.split("?")
    return head + "".join(f"${next(numbers)}{part}" for part in rest)


@frozen
class _Part:
    """One change of many rows: the text with `<rows>` for an `unnest` of arrays, `<ids>` for the first of these arrays,
    and the columns of the rows."""

    text: str
    columns: tuple[str, ...]


def _insert(table: str, columns: tuple[str, ...], *, more: str = "") -> _Part:
    return _Part(f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM <rows>{more}", columns)


def _update(table: str, columns: tuple[str, ...], *, more: str = "") -> _Part:
    changes = ", ".join(f"{name} = new.{name}" for name in columns[1:])
    # The ids by themselves as well: however the rows are joined, the table is never gone through.
    return _Part(
        f"UPDATE {table} SET {changes}{more} FROM <rows> WHERE {table}.id = new.id AND {table}.id = ANY(<ids>)", columns
    )


_LEAVING_MAILS = _Part("DELETE FROM elemta_mails WHERE id = ANY(<ids>)", ("id",))
_LEAVING_CONTENTS = _Part("DELETE FROM elemta_contents WHERE id = ANY(<ids>)", ("id",))
_LEAVING_PIECES = _Part("DELETE FROM elemta_pieces WHERE content_id = ANY(<ids>)", ("id",))
_CONTENTS = _Part(
    "INSERT INTO elemta_contents (id, octets, size, mails) SELECT id, octets, length(octets), mails FROM <rows>",
    ("id", "octets", "mails"),
)
_RECOUNTS = _update("elemta_contents", ("id", "mails"), more=", staged_at = NULL")
_MAILS = _insert("elemta_mails", NEW_COLUMNS)
_CHANGES = _update("elemta_mails", CHANGING_COLUMNS)
_BEGINS = _update("elemta_mails", ("id", "attempting_since"))
_ATTEMPTS = _insert("elemta_attempts", ATTEMPT_NAMES)
_TALLY = _insert(
    "elemta_tally",
    ("slot", "state", "mails"),
    more=" ON CONFLICT (slot, state) DO UPDATE SET mails = elemta_tally.mails + excluded.mails",
)

Rows = Sequence[Sequence[object]]


@frozen
class PostgresqlDialect:
    """See `shared_dialect.Dialect`."""

    _texts: dict[str, str] = field(factory=dict, init=False)
    #: One text for each set of parts that a batch came with.
    _composed: dict[tuple[_Part, ...], str] = field(factory=dict, init=False)

    migrations = MIGRATIONS
    session = (_BY_INDEX,)

    async def learn(self, connection: Connection) -> None:
        """Nothing has to be known."""

    async def fetch(self, connection: Connection, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement; its rows."""
        return await connection.fetch(self._text(statement), *values)

    async def execute(self, connection: Connection, statement: str, *values: Any) -> int:
        """Run a statement; how many rows it changed."""
        return await connection.execute(self._text(statement), *values)

    def _text(self, statement: str) -> str:
        text = self._texts.get(statement)
        if text is None:
            text = self._texts[statement] = neutral(statement)
        return text

    async def write(self, connection: Connection, writes: Writes, *, slot: int) -> None:
        """All in one statement, but for an id that leaves and comes again."""
        leaving = [(each,) for each in writes.leaving_mails]
        contents = [(each,) for each in writes.leaving_contents]
        parts: list[tuple[_Part, Rows]] = [
            (_LEAVING_MAILS, leaving),
            (_LEAVING_CONTENTS, contents),
            (_LEAVING_PIECES, contents),
        ]
        left = {*writes.leaving_mails, *writes.leaving_contents}
        if any(row[0] in left for rows in (writes.mails, writes.contents) for row in rows):
            await self._write(connection, parts)
            parts = []
        parts += [
            (_CONTENTS, writes.contents),
            (_RECOUNTS, writes.recounts),
            (_MAILS, writes.mails),
            (_CHANGES, writes.changes),
            (_BEGINS, writes.begins),
            (_ATTEMPTS, writes.attempts),
            (_TALLY, [(slot, state, number) for state, number in writes.tally.items()]),
        ]
        await self._write(connection, parts)

    async def _write(self, connection: Connection, parts: Iterable[tuple[_Part, Rows]]) -> None:
        used = [(part, rows) for part, rows in parts if rows]
        if not used:
            return
        key = tuple(part for part, _ in used)
        text = self._composed.get(key)
        if text is None:
            text = self._composed[key] = _compose(key)
        arrays = [list(column) for _, rows in used for column in zip(*rows, strict=True)]
        await connection.execute(text, *arrays)


def _compose(parts: Sequence[_Part]) -> str:
    """One statement of all parts. They see the same rows, so none may need what another did."""
    numbers = count(1)
    texts = []
    for part in parts:
        arrays = [f"${next(numbers)}::{_TYPES.get(name, 'text')}[]" for name in part.columns]
        rows = f"unnest({', '.join(arrays)}) AS new ({', '.join(part.columns)})"
        texts.append(part.text.replace("<rows>", rows).replace("<ids>", arrays[0]))
    *firsts, last = texts
    if not firsts:
        return last
    return "WITH " + ", ".join(f"part{number} AS ({text})" for number, text in enumerate(firsts)) + f" {last}"
