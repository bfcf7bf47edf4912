"""The SQLite file of the plugins' state, in blocking calls for a thread.

What is not here: threads, or who waits (`keyvalue_sqlite`). A person can open the file and query it: `entries` has a
row for each key, with the end of its time in seconds since 1970.

`synchronous=NORMAL` in WAL mode: a power cut may take the last commits along, and never leaves half a one. The file
belongs to the server's user alone (0600). Failures raised: `SharedAway` with the remedy in its text.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from elemta.plugins.api import SharedAway
from elemta.storage.keyvalue import Answer, Entry, Get, NoCounter, Operation, carry_out
from elemta.storage.sqlite_content import sync_folder
from elemta.storage.sqlite_errors import explain

#: Entries of one namespace; beyond, those that end soonest go first. Ours: some 200 MiB as plugins use them.
FILE_ENTRIES: Final = 1_000_000
#: Entries that are over, or too many, which one batch removes at most, in each namespace: more than it can add.
SWEPT_ENTRIES: Final = 500
#: Seconds that another program's lock is waited for: less than a call waits, so that it is told what is wrong.
BUSY_SECONDS: Final = 3.0
#: Octets that the log keeps on disk after it was brought into the database.
LOG_OCTETS: Final = 16 * 1024 * 1024

#: Schema versions, kept in `PRAGMA user_version`; a published one is never changed.
_SCHEMA: Final = (
    """
    CREATE TABLE entries (
        namespace TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (namespace, key)
    );
    CREATE INDEX entries_until ON entries (namespace, until);
    """,
)

_LOOK = "SELECT value, until FROM entries WHERE namespace = ? AND key = ?"
_INSERT = "INSERT INTO entries (value, until, namespace, key) VALUES (?, ?, ?, ?)"
_UPDATE = "UPDATE entries SET value = ?, until = ? WHERE namespace = ? AND key = ?"
_DELETE = "DELETE FROM entries WHERE namespace = ? AND key = ?"
_SWEEP = """
    DELETE FROM entries WHERE rowid IN
    (SELECT rowid FROM entries WHERE namespace = ? AND until <= ? ORDER BY until LIMIT ?)
"""
_COUNT = "SELECT namespace, count(*) FROM entries GROUP BY namespace"


class StateFile:
    """One connection, used by one thread at a time."""

    def __init__(self, folder: Path, *, entries: int = FILE_ENTRIES) -> None:
        self.path = str(folder.absolute() / "plugins.db")
        self._most = entries
        self._connection: sqlite3.Connection | None = None
        self._is_open = False
        #: Entries by namespace.
        self._counts: Counter[str] = Counter()

    def open(self) -> None:
        """Make or open the file, for this user alone."""
        try:
            self._connect()
        except (sqlite3.Error, OSError) as error:
            raise self._away(error) from error
        self._is_open = True

    def close(self) -> None:
        """Let go; more than once is no failure."""
        self._is_open = False
        self._disconnect()

    def carry_out(self, operations: Sequence[Operation], now: float) -> list[Answer | Exception]:
        """Carry out a batch in one transaction, in its order."""
        if not self._is_open:
            raise SharedAway(f"{self.path}: it is not open")
        try:
            connection = self._connection or self._connect()
            if all(isinstance(operation, Get) for operation in operations):
                return [self._do(connection, operation, now) for operation in operations]
            connection.execute("BEGIN IMMEDIATE")
            results = [self._do(connection, operation, now) for operation in operations]
            self._sweep(connection, now)
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            # Anew the next time: what failed may have left the connection, or the counts, in any state.
            self._disconnect()
            raise self._away(error) from error
        return results

    # ---- within a transaction ------------------------------------------------------------------

    def _do(self, connection: sqlite3.Connection, operation: Operation, now: float) -> Answer | Exception:
        place = (operation.namespace, operation.key)
        found = connection.execute(_LOOK, place).fetchone()
        before = None if found is None else Entry(*found)
        try:
            entry, answer = carry_out(operation, before, now=now)
        except NoCounter as error:
            return error
        if isinstance(operation, Get) or entry is before:
            return answer
        if entry is None:
            connection.execute(_DELETE, place)
            self._counts[operation.namespace] -= 1
        elif before is None:
            connection.execute(_INSERT, (entry.value, entry.until, *place))
            self._counts[operation.namespace] += 1
        else:
            connection.execute(_UPDATE, (entry.value, entry.until, *place))
        return answer

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        for namespace, count in self._counts.items():
            over = connection.execute(_SWEEP, (namespace, now, SWEPT_ENTRIES)).rowcount
            surplus = min(SWEPT_ENTRIES, count - over - self._most)
            if surplus > 0:
                over += connection.execute(_SWEEP, (namespace, float("inf"), surplus)).rowcount
            self._counts[namespace] -= over

    # ---- the connection --------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        folder = os.path.dirname(self.path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        sync_folder(folder)
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            for pragma in (
                "journal_mode = WAL",
                "synchronous = NORMAL",
                f"journal_size_limit = {LOG_OCTETS}",
                "secure_delete = OFF",
                "cell_size_check = ON",
                "trusted_schema = OFF",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            self._migrate(connection)
            self._counts = Counter(dict(connection.execute(_COUNT)))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()  # which rolls back

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(_SCHEMA):
            raise SharedAway(f"{self.path}: a later version of Elemta wrote it; use that, or move it away")
        for number in range(version, len(_SCHEMA)):
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA[number]} PRAGMA user_version = {number + 1}; COMMIT;")

    def _away(self, error: sqlite3.Error | OSError) -> SharedAway:
        return SharedAway(f"{self.path}: {explain(error, self.path)}")
