"""The users' tables in one SQLite database.

What is not here: the tables (`users_schema`), what is asked of them (`table_units`). One thread at a time uses the one
connection. The file is the user's alone (0600). Another file put in its place, such as a copy from a backup, is noticed
at the next look-up; so there is no write-ahead log, which would outlive the file it belongs to and be read into the
other. Writes are rare and small, and readers wait for them a few milliseconds.

Failures raised: `UsersAway` for a lock, a disk, a look-up that takes too long; `UsersUnusable` for a file that is
damaged, no database, another program's, or not ours to open; `UnfitUser` for values that the tables refuse.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio

from elemta import __version__
from elemta.auth.base import UnfitUser, UsersAway, UsersUnusable
from elemta.auth.table_units import Unit, Units, Words
from elemta.auth.users_schema import COMPONENT, SQLITE, SQLITE_RECORD, stranger
from elemta.datasource.base import DatabaseUnusable, Named
from elemta.datasource.migrations import pending
from elemta.runtime.clock import Clock
from elemta.runtime.own_files import give_to_owner
from elemta.runtime.threads import Threads

T = TypeVar("T")

SQLITE_WORDS = Words(
    groups="groups",
    contains="instr(lower({}), ?) > 0",
    has_capital="username GLOB '*[A-Z]*'",
)

#: Steps of SQLite's machine between two looks at the deadline: some 0.1 ms.
STEPS_BETWEEN_LOOKS = 10_000
#: Rows taken of somebody else's statement: two are too many already.
MAX_ROWS = 2
#: The low byte of an extended result code is the primary one, https://sqlite.org/rescode.html.
_PRIMARY = 0xFF

_AWAY = {
    sqlite3.SQLITE_BUSY: "another program holds it locked (`fuser -v` names it)",
    sqlite3.SQLITE_LOCKED: "another program holds it locked (`fuser -v` names it)",
    sqlite3.SQLITE_INTERRUPT: "no answer within auth.timeout",
    sqlite3.SQLITE_FULL: "no space is left: make room",
    sqlite3.SQLITE_IOERR: "the disk failed: look into the system's log",
    sqlite3.SQLITE_NOMEM: "no memory is left",
}
_UNUSABLE = {
    sqlite3.SQLITE_READONLY: "it may not be written: check the owner and mode of it and of its folder",
    sqlite3.SQLITE_PERM: "it may not be used: check the owner and mode of it and of its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check what it is, its owner and mode, and those of its folder",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a copy",
    sqlite3.SQLITE_NOTADB: "it is not a database: mend auth.datasource_path",
}
_UNFIT = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, OverflowError, UnicodeError)


class SqliteEngine:
    """Runs units of work on `path`; see `users_tables.Engine`.

    One that is not `managed` is another program's: it must be there, and nothing in it is changed.
    """

    words = SQLITE_WORDS

    def __init__(self, path: str, threads: Threads, *, clock: Clock, seconds: float, managed: bool = True) -> None:
        """`seconds` are for one unit, waiting for another program's lock included."""
        self._path = os.path.abspath(path)
        self._threads = threads
        self._clock = clock
        self._seconds = seconds
        self._managed = managed
        self._one = trio.CapacityLimiter(1)
        self._connection: sqlite3.Connection | None = None
        #: Which file the connection is to.
        self._file: tuple[int, int] | None = None
        self._deadline = 0.0

    @property
    def name(self) -> str:
        """Where it is."""
        return f"sqlite:{self._path}"

    async def open(self) -> None:
        """Make the file when there is none, and connect."""
        await self._threads.run(self._one, self._guarded, self._open)

    async def prepare(self) -> None:
        """Make and migrate the tables."""
        await self._threads.run(self._one, self._guarded, self._migrate)

    async def close(self) -> None:
        """Let go; more than once is no failure."""
        await self._threads.run(self._one, self._close)

    async def look(self, make: Units[T]) -> T:
        """Run a unit that changes nothing."""

        def job() -> T:
            return run_unit(self._connected(), make())

        return await self._threads.run(self._one, self._guarded, job)

    async def transact(self, make: Units[T]) -> T:
        """Run a unit in one transaction."""

        def job() -> T:
            connection = self._connected()
            return in_transaction(connection, lambda: run_unit(connection, make()))

        return await self._threads.run(self._one, self._guarded, job)

    async def rows(self, statement: str, values: Sequence[object]) -> Named:
        """The rows of one statement."""

        def job() -> Named:
            cursor = self._connected().execute(statement, tuple(values))
            return Named(tuple(column[0] for column in cursor.description or ()), cursor.fetchmany(MAX_ROWS))

        return await self._threads.run(self._one, self._guarded, job)

    # ---- in the thread ---------------------------------------------------------------------------

    def _guarded(self, job: Callable[[], T]) -> T:
        """Run a job within the time for it, its failures in the contract's terms."""
        self._deadline = time.monotonic() + self._seconds
        try:
            return job()
        except (sqlite3.Error, OSError, OverflowError, UnicodeError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> UsersAway | UnfitUser:
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
        if isinstance(error, FileNotFoundError):
            return UsersUnusable(f"{self.name}: there is no such file, or no such folder: mend auth.datasource_path")
        if isinstance(error, OSError):
            return UsersUnusable(f"{self.name}: {_UNUSABLE[sqlite3.SQLITE_CANTOPEN]} ({error.strerror or error})")
        if code in _AWAY:
            return UsersAway(f"{self.name}: {_AWAY[code]} ({error})")
        if isinstance(error, _UNFIT):
            return UnfitUser(f"{self.name}: {error}")
        says = _UNUSABLE.get(code, "it refuses: is it what Elemta made?" if self._managed else "auth.user_query")
        return UsersUnusable(f"{self.name}: {says} ({error})")

    def _open(self) -> None:
        self._close()
        if self._managed:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                give_to_owner(descriptor, Path(self._path).parent)
            finally:
                os.close(descriptor)
        self._connect()

    def _connect(self) -> None:
        found = os.stat(self._path)
        uri = f"{Path(self._path).as_uri()}?mode=rw"
        connection = sqlite3.connect(
            uri, uri=True, timeout=self._seconds, isolation_level=None, check_same_thread=False
        )
        connection.set_progress_handler(self._is_late, STEPS_BETWEEN_LOOKS)
        pragmas = ["trusted_schema = OFF", "cell_size_check = ON"]
        # What a password was is not left lying in the file.
        pragmas += ["journal_mode = DELETE", "synchronous = FULL", "secure_delete = ON"] if self._managed else []
        pragmas += [] if self._managed else ["query_only = ON"]
        try:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, (found.st_dev, found.st_ino)

    def _is_late(self) -> bool:
        """SQLite asks this now and then; true ends the statement."""
        return time.monotonic() > self._deadline

    def _connected(self) -> sqlite3.Connection:
        """The connection to the file that stands at the path now."""
        found = os.stat(self._path)
        if self._connection is None or self._file != (found.st_dev, found.st_ino):
            self._close()
            self._connect()
        assert self._connection is not None
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _migrate(self) -> None:
        connection = self._connected()
        columns = [row[1] for row in connection.execute("PRAGMA table_info(users)")]
        if fault := stranger(columns):
            raise UsersUnusable(f"{self.name}: {fault}")
        is_there = "SELECT count(*) FROM sqlite_schema WHERE name = 'elemta_migrations'"
        done: Sequence[tuple[int, str]] = ()
        if connection.execute(is_there).fetchone()[0]:
            done = self._done(connection)
        if self._pending(done):
            in_transaction(connection, lambda: self._run_pending(connection))

    def _run_pending(self, connection: sqlite3.Connection) -> None:
        connection.execute(SQLITE_RECORD)
        for number, name, statements in self._pending(self._done(connection)):
            for statement in statements:
                connection.execute(statement)
            record = (COMPONENT, number, name, __version__, self._clock.wall())
            connection.execute("INSERT INTO elemta_migrations VALUES (?, ?, ?, ?, ?)", record)

    @staticmethod
    def _done(connection: sqlite3.Connection) -> list[tuple[int, str]]:
        select = "SELECT number, version FROM elemta_migrations WHERE component = ?"
        return connection.execute(select, (COMPONENT,)).fetchall()

    def _pending(self, done: Sequence[tuple[int, str]]) -> list[tuple[int, str, tuple[str, ...]]]:
        try:
            left = pending(SQLITE, done, place=self.name)
        except DatabaseUnusable as error:
            raise UsersUnusable(str(error)) from error
        return [(each.number, each.name, each.statements) for each in left]


def run_unit(connection: sqlite3.Connection, unit: Unit[T]) -> T:
    """Run a unit of work, statement by statement."""
    answer: object = None
    try:
        while True:
            ask = unit.send(answer)
            cursor = connection.execute(ask.text, ask.values)
            answer = cursor.rowcount if ask.changes else cursor.fetchall()
    except StopIteration as end:
        value: T = end.value
        return value


def in_transaction(connection: sqlite3.Connection, job: Callable[[], T]) -> T:
    """Run a job in one transaction that may write from its beginning."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        value = job()
        connection.execute("COMMIT")
        return value
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
