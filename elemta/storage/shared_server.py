"""One database as the parts of a store ask it.

What is not here: connections (`datasource`), or what is asked. The failures of `datasource` become those of `base`:
`StoreAway`, `CommitUnknown`, `StoreFull`, `StoreUnavailable`, and `ChangeRefused` for values that the server refuses.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

from elemta.datasource.base import (
    Connection,
    DatabaseAway,
    DatabaseError,
    DatabaseFull,
    DatabaseRefused,
    OutcomeUnknown,
    Row,
    Work,
)
from elemta.datasource.migrations import MigratableDatabase, migrate
from elemta.storage.base import CommitUnknown, StoreAway, StoreFull, StoreUnavailable
from elemta.storage.shared_dialect import Dialect
from elemta.storage.shared_ledger import Holding, Looked, Standing, Wanted, Writes
from elemta.storage.shared_statements import (
    ATTEMPTED_AMONG,
    IDS_AT_ONCE,
    LOOK_CONTENTS,
    LOOK_MAILS,
    LOOK_NODES,
    TALLY_SLOTS,
)

T = TypeVar("T")

#: Whose tables these are in `elemta_migrations`.
COMPONENT = "queue"


class ChangeRefused(StoreUnavailable):
    """The server refuses these very values, and would refuse them again."""


def store_error(error: DatabaseError) -> StoreUnavailable:
    """What a failure of the database is to a store's user."""
    if isinstance(error, OutcomeUnknown):
        return CommitUnknown(str(error))
    if isinstance(error, DatabaseAway):
        return StoreAway(str(error))
    if isinstance(error, DatabaseFull):
        return StoreFull(str(error))
    if isinstance(error, DatabaseRefused):
        return ChangeRefused(str(error))
    return StoreUnavailable(str(error))


class Server:
    """A database with its dialect."""

    def __init__(self, database: MigratableDatabase, dialect: Dialect) -> None:
        self._database = database
        self._dialect = dialect
        #: Connections that were told what the dialect tells each one.
        self._introduced: WeakSet[Connection] = WeakSet()

    @property
    def name(self) -> str:
        """Where it is, for people."""
        return self._database.name

    async def prepare(self) -> None:
        """Bring the tables up to date, and learn what has to be known of the server."""
        try:
            await migrate(self._database, self._dialect.migrations, component=COMPONENT)
        except DatabaseError as error:
            raise store_error(error) from error
        await self.look(self._dialect.learn)

    async def transact(self, work: Work[T]) -> T:
        """Run a unit of work in one transaction."""
        try:
            return await self._introducing(self._database.transact, work)
        except DatabaseError as error:
            raise store_error(error) from error

    async def look(self, work: Work[T]) -> T:
        """Run statements that change nothing, or that may be repeated."""
        try:
            return await self._introducing(self._database.look, work)
        except DatabaseError as error:
            raise store_error(error) from error

    async def _introducing(self, run: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> T:
        """Run a unit of work on a connection that knows the dialect's settings."""
        met: list[Connection] = []

        async def introduced(connection: Connection) -> T:
            if connection not in self._introduced:
                for statement in self._dialect.session:
                    await connection.fetch(statement)
                met.append(connection)
            return await work(connection)

        value = await run(introduced)
        # Not before: a transaction that is rolled back takes its settings along.
        self._introduced.update(met[-1:])
        return value

    async def find(self, statement: str, *values: Any) -> Sequence[Row]:
        """The rows of one statement that changes nothing."""
        return await self.look(lambda connection: self._dialect.fetch(connection, statement, *values))

    # ---- within a unit of work -----------------------------------------------------------------

    async def fetch(self, connection: Connection, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement; its rows."""
        return await self._dialect.fetch(connection, statement, *values)

    async def execute(self, connection: Connection, statement: str, *values: Any) -> int:
        """Run a statement; how many rows it changed."""
        return await self._dialect.execute(connection, statement, *values)

    async def among(self, connection: Connection, statement: str, ids: Sequence[str], *values: Any) -> list[Row]:
        """The rows of a statement about any number of ids, the first of its values."""
        rows: list[Row] = []
        for start in range(0, len(ids), IDS_AT_ONCE):
            rows += await self.fetch(connection, statement, list(ids[start : start + IDS_AT_ONCE]), *values)
        return rows

    async def look_up(self, connection: Connection, wanted: Wanted) -> Looked:
        """Lock what a batch concerns, and say how it stands."""
        nodes = {row[0]: row[1] for row in await self.among(connection, LOOK_NODES, wanted.owners)}
        mails = {row[0]: Standing(*row) for row in await self.among(connection, LOOK_MAILS, wanted.mails)}
        leaving = {mail.content_id for mail in mails.values() if mail.id in wanted.leaving}
        content_ids = sorted(leaving.union(wanted.contents))
        contents = {row[0]: Holding(*row) for row in await self.among(connection, LOOK_CONTENTS, content_ids)}
        attempted = frozenset(row[0] for row in await self.among(connection, ATTEMPTED_AMONG, wanted.repeated))
        return Looked(nodes, mails, contents, attempted)

    async def write(self, connection: Connection, writes: Writes) -> None:
        """Write what was decided on what `look_up` has locked."""
        await self._dialect.write(connection, writes, slot=_slot_of(writes))


def _slot_of(writes: Writes) -> int:
    """A row of the tally for each state: chance decides, and decides alike when the same is written again."""
    first = (writes.mails or writes.changes or [("0",)])[0][0] if not writes.leaving_mails else writes.leaving_mails[0]
    return sum(map(ord, first)) % TALLY_SLOTS
