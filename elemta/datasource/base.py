"""What a database server is to whoever keeps something in it.

What is not here: statements (`storage`, `auth` bring their own, in the server's dialect), or any one driver.

The drivers are of asyncio, the callers of Trio. One whole unit of work crosses that border once: a caller hands over a
coroutine function that speaks to a `Connection` on the asyncio side, and gets its value back under Trio. A unit that
was begun is finished whatever happens to its caller: a commit is never abandoned by cancellation, and every unit has a
deadline. A unit awaits nothing but its connection.

Failures raised, and nothing of a driver's own: see the classes.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from attrs import frozen

T = TypeVar("T")

#: One row, in the order of the statement's columns.
Row = tuple[Any, ...]


@frozen
class Named:
    """Rows with the names of their columns, which are there even when no row is."""

    columns: tuple[str, ...]
    rows: Sequence[Row]


class DatabaseError(Exception):
    """The unit of work did nothing. The text says what happened, where, and how to mend it; it holds no secret."""


class DatabaseAway(DatabaseError):
    """The server cannot be reached, does not answer in time, restarts, has no connection to spare: try again later."""


class OutcomeUnknown(DatabaseAway):
    """The connection broke, or the deadline passed, while the transaction ended: nobody knows whether it is durable."""


class DatabaseFull(DatabaseError):
    """The server has no room left for what was to be written."""


class DatabaseRefused(DatabaseError):
    """The server refuses these very values and would refuse them again: a constraint, an encoding, a size."""


class DatabaseUnusable(DatabaseError):
    """A wrong password, no such database, no right to do this, an unknown schema: somebody has to mend it."""


class Connection(Protocol):
    """One connection within a unit of work, on the asyncio side. Raises the driver's own exceptions, which the database
    translates once they leave the unit.

    Statements are in the server's dialect, with its own placeholders: `$1` for PostgreSQL; `%s` for MySQL, where `%%`
    is one percent sign. Values never stand in their text.
    """

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement; its rows."""
        ...

    async def fetch_named(self, statement: str, *values: Any) -> Named:
        """Run a statement that somebody else wrote; its rows with the names of its columns."""
        ...

    async def execute(self, statement: str, *values: Any) -> int:
        """Run a statement; how many rows it changed (matched, for an UPDATE)."""
        ...


#: A unit of work. It may run more than once (after a deadlock, or on a connection that turned out to be dead), so it
#: changes nothing but the database.
Work = Callable[[Connection], Awaitable[T]]


class Database(Protocol):
    """One database on one server, behind a bounded pool of connections."""

    @property
    def name(self) -> str:
        """Where it is, for people and the log: scheme, user, host, port, database; never a password."""
        ...

    async def transact(self, work: Work[T]) -> T:
        """Run a unit of work in one transaction (READ COMMITTED) and commit it.

        A deadlock or a serialisation failure is retried, a bounded number of times with jitter. Raises `DatabaseAway`,
        `OutcomeUnknown`, `DatabaseFull`, `DatabaseRefused`, `DatabaseUnusable`; what `work` itself raises passes after
        a rollback.
        """
        ...

    async def look(self, work: Work[T]) -> T:
        """Run statements that change nothing, or each of which is a transaction of its own that may be repeated.

        A connection that turned out to be dead is replaced once. Raises what `transact` does but `OutcomeUnknown`.
        """
        ...
