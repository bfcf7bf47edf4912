"""The SQLite file of the dev inbox, in blocking calls for a thread.

What is not here: threads, or whoever waits for a mail (`storage.inbox`). A person can open the file and query it:
`mails` has one row a mail, in the order of their arrival, `pieces` has their content in pieces of `PIECE_OCTETS`.

A commit is synced before it returns. One that failed is rolled back, which lets the next one write over what it left;
its mails are still in the queue, and keeping a mail twice is keeping it once.
Failures raised: `OSError` with the remedy in its text, and `ENOSPC` when no space is left.
"""

import errno
import json
import os
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field

from elemta.mail.inbox import InboxEntry
from elemta.storage.base import StoreFull
from elemta.storage.records import PIECE_OCTETS
from elemta.storage.sqlite_content import sync_folder
from elemta.storage.sqlite_errors import POISON, explain

#: How long another program's lock is waited for, in seconds.
BUSY_SECONDS = 5.0
#: Octets that the log keeps on disk after it was brought into the database.
LOG_OCTETS = 64 * 1024 * 1024
#: Pages given back to the file system after mails were removed, at most, in one transaction: 100 MiB.
GIVEN_BACK_PAGES = 25_600
#: Rows looked at in one step when the oldest mails give way.
_STEP_ROWS = 100

#: Schema versions, kept in `PRAGMA user_version`; a published one is never changed.
_SCHEMA = (
    """
    CREATE TABLE mails (
        arrival INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        reverse_path TEXT NOT NULL,
        forward_paths TEXT NOT NULL,
        subject TEXT NOT NULL,
        size INTEGER NOT NULL,
        received_at REAL NOT NULL
    );
    CREATE TABLE pieces (
        mail TEXT NOT NULL, number INTEGER NOT NULL, octets BLOB NOT NULL, PRIMARY KEY (mail, number)
    );
    CREATE TABLE totals (mails INTEGER NOT NULL, octets INTEGER NOT NULL);
    INSERT INTO totals VALUES (0, 0);
    CREATE TRIGGER mail_added AFTER INSERT ON mails BEGIN
        UPDATE totals SET mails = mails + 1, octets = octets + new.size;
    END;
    CREATE TRIGGER mail_changed AFTER UPDATE OF size ON mails BEGIN
        UPDATE totals SET octets = octets - old.size + new.size;
    END;
    CREATE TRIGGER mail_removed AFTER DELETE ON mails BEGIN
        UPDATE totals SET mails = mails - 1, octets = octets - old.size;
        DELETE FROM pieces WHERE mail = old.id;
    END;
    """,
)

_COLUMNS = "id, reverse_path, forward_paths, subject, size, received_at"
_KEEP_PIECE = "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)"
_KEEP_MAIL = f"""
    INSERT INTO mails ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
    reverse_path = excluded.reverse_path, forward_paths = excluded.forward_paths, subject = excluded.subject,
    size = excluded.size, received_at = excluded.received_at
"""
_RAW = """
    SELECT substr(octets, ?, ?) FROM pieces
    WHERE mail = ? AND number = ? AND EXISTS (SELECT 1 FROM mails WHERE id = mail)
"""

Row = tuple[str, str, str, str, int, float]


@define(eq=False)
class Request:
    """One change that somebody waits for: what came of it, once it is `done`."""

    count: int = field(default=0, init=False)
    error: OSError | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)

    def apply(self, connection: sqlite3.Connection) -> None:
        """Make the change within a transaction."""
        raise AssertionError("each request has its own apply")


@define(eq=False)
class KeepPiece(Request):
    """Keep a piece of a mail that is too large to go at once; it counts for nothing until its mail is kept."""

    queue_id: str
    number: int
    octets: bytes

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute(_KEEP_PIECE, (self.queue_id, self.number, self.octets))


@define(eq=False)
class KeepMail(Request):
    """Keep a mail, with its only piece unless its pieces were kept before."""

    entry: InboxEntry
    octets: bytes | None

    def apply(self, connection: sqlite3.Connection) -> None:
        entry = self.entry
        if self.octets is not None:
            connection.execute(_KEEP_PIECE, (entry.id, 0, self.octets))
        paths = json.dumps(entry.forward_paths, ensure_ascii=False)
        row = (entry.id, entry.reverse_path, paths, entry.subject, entry.size, entry.received_at)
        connection.execute(_KEEP_MAIL, row)


@define(eq=False)
class RemoveMails(Request):
    """Remove these mails, or all of them when None."""

    queue_ids: Collection[str] | None

    def apply(self, connection: sqlite3.Connection) -> None:
        if self.queue_ids is None:
            # With WHERE, for without it SQLite would empty the table at once and count, but fire no trigger.
            self.count = connection.execute("DELETE FROM mails WHERE true").rowcount
        else:
            names = json.dumps(sorted(set(self.queue_ids)))
            found = connection.execute("DELETE FROM mails WHERE id IN (SELECT value FROM json_each(?))", (names,))
            self.count = found.rowcount


class InboxDatabase:
    """One connection that writes, one that reads; each is used by one thread at a time."""

    def __init__(self, folder: Path, *, max_mails: int, max_octets: int) -> None:
        self._path = str(folder.absolute() / "inbox.db")
        self._max_mails = max_mails
        self._max_octets = max_octets
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    def open(self) -> None:
        """Make or open the file, for this user alone."""
        try:
            self._prepare()
            self._writer = self._connect()
            self._migrate(self._writer)
            # What a crash left of mails that were not kept yet.
            self._writer.execute("DELETE FROM pieces WHERE mail NOT IN (SELECT id FROM mails)")
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise self._explained(error) from error

    def close(self) -> None:
        """Let go; more than once is no failure."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None

    def _prepare(self) -> None:
        folder = os.path.dirname(self._path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        sync_folder(folder)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        for pragma in (
            "auto_vacuum = INCREMENTAL",  # before the tables are made
            "journal_mode = WAL",
            "synchronous = FULL",  # to be in the inbox is to be delivered
            f"journal_size_limit = {LOG_OCTETS}",
            "secure_delete = OFF",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_SCHEMA):
            raise OSError(errno.EINVAL, "a later version of Elemta wrote it; use that, or move it away", self._path)
        for number in range(version, len(_SCHEMA)):
            step = f"BEGIN IMMEDIATE; {_SCHEMA[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            try:
                connection.executescript(step)
            except sqlite3.OperationalError:
                connection.rollback()
                if connection.execute("PRAGMA user_version").fetchone()[0] <= number:
                    raise
                # Another worker was faster.

    def _explained(self, error: sqlite3.Error | OSError) -> OSError:
        explained = explain(error, self._path)
        return OSError(errno.ENOSPC if isinstance(explained, StoreFull) else errno.EIO, f"{self._path}: {explained}")

    # ---- changes --------------------------------------------------------------------------------

    def commit(self, batch: Sequence[Request]) -> None:
        """Make a batch durable. One request that the engine cannot take gets its `error` and harms no other."""
        connection = self._writer
        if connection is None:
            raise OSError(errno.EBADF, "the inbox is not open", self._path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for request in batch:
                self._apply(connection, request)
            self._give_way(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._explained(error) from error
        finally:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
        if any(isinstance(request, RemoveMails) for request in batch):
            with suppress(sqlite3.Error):  # the pages are free in any case, only not to others yet
                # As a script: `execute` would stop at the first of the empty rows that this gives, one a page.
                connection.executescript(f"PRAGMA incremental_vacuum({GIVEN_BACK_PAGES})")

    def _apply(self, connection: sqlite3.Connection, request: Request) -> None:
        connection.execute("SAVEPOINT one")
        try:
            request.apply(connection)
        except POISON as error:
            connection.execute("ROLLBACK TO one")
            request.error = OSError(errno.EINVAL, f"the database refuses it: {error}", self._path)
        connection.execute("RELEASE one")

    def _give_way(self, connection: sqlite3.Connection) -> None:
        """Remove the oldest mails beyond the bounds; the newest stays, however large."""
        while True:
            mails, octets = connection.execute("SELECT mails, octets FROM totals").fetchone()
            oldest = connection.execute("SELECT arrival, size FROM mails ORDER BY arrival LIMIT ?", (_STEP_ROWS,))
            last = 0
            for arrival, size in oldest.fetchall():
                if mails <= 1 or (mails <= self._max_mails and octets <= self._max_octets):
                    break
                mails, octets, last = mails - 1, octets - size, arrival
            if not last:
                return
            connection.execute("DELETE FROM mails WHERE arrival <= ?", (last,))

    # ---- looking --------------------------------------------------------------------------------

    def _select(self, statement: str, values: Sequence[object]) -> list[Any]:
        if self._reader is None:
            raise OSError(errno.EBADF, "the inbox is not open", self._path)
        try:
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def newest(self, limit: int, before: str | None) -> list[InboxEntry]:
        """The newest mails first, beginning after the mail `before`."""
        where: str = "true"
        values: tuple[object, ...] = ()
        arrival = None if before is None else self.arrival(before)
        if before is not None:
            where, values = ("id < ?", (before,)) if arrival is None else ("arrival < ?", (arrival,))
        statement = f"SELECT {_COLUMNS} FROM mails WHERE {where} ORDER BY arrival DESC LIMIT ?"
        return [_entry(row) for row in self._select(statement, (*values, max(limit, 0)))]

    def arrival(self, queue_id: str) -> int | None:
        """The number of a mail's arrival; None when it is not there."""
        found = self._select("SELECT arrival FROM mails WHERE id = ?", (queue_id,))
        return int(found[0][0]) if found else None

    def since(self, after: int, limit: int) -> list[tuple[int, InboxEntry]]:
        """Arrivals after a number, in their order."""
        statement = f"SELECT arrival, {_COLUMNS} FROM mails WHERE arrival > ? ORDER BY arrival LIMIT ?"
        return [(row[0], _entry(row[1:])) for row in self._select(statement, (after, limit))]

    def get(self, queue_id: str) -> InboxEntry | None:
        """One mail's entry; None when it is not there."""
        found = self._select(f"SELECT {_COLUMNS} FROM mails WHERE id = ?", (queue_id,))
        return _entry(found[0]) if found else None

    def raw(self, queue_id: str, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`, of one piece; empty at the end."""
        number, within = divmod(offset, PIECE_OCTETS)
        found = self._select(_RAW, (within + 1, max(limit, 0), queue_id, number))
        return (found and found[0][0]) or b""  # SQLite's substr of nothing is NULL

    def count(self) -> int:
        """How many mails are kept."""
        return int(self._select("SELECT mails FROM totals", ())[0][0])


def _entry(row: Row) -> InboxEntry:
    queue_id, reverse_path, forward_paths, subject, size, received_at = row
    return InboxEntry(queue_id, reverse_path, tuple(json.loads(forward_paths)), subject, size, received_at)
