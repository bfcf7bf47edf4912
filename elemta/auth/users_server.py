"""The users' tables on a database server.

What is not here: connections, deadlines (`datasource`), what is asked (`table_units`), either dialect
(`users_postgresql`, `users_mysql`).

Failures raised: `UsersAway` for a server that is away, busy or full, `UsersUnusable` for what somebody has to mend,
`UnfitUser` for values that the server refuses.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from attrs import frozen

from elemta.auth.base import UnfitUser, UsersAway, UsersUnusable
from elemta.auth.table_units import Ask, Units, Words
from elemta.auth.users_schema import COMPONENT, stranger
from elemta.datasource.base import (
    Connection,
    DatabaseError,
    DatabaseRefused,
    DatabaseUnusable,
    Named,
    Work,
)
from elemta.datasource.migrations import MigratableDatabase, Migration, migrate

T = TypeVar("T")


@frozen
class ServerDialect:
    """What one protocol and its SQL say otherwise than the other."""

    words: Words
    migrations: Sequence[Migration]
    #: The columns of the table `users`, of the schema that is used.
    columns: str
    #: A statement with `?` in the driver's terms. Nothing else in ours holds a question mark.
    rendered: Callable[[str], str]


def users_error(error: DatabaseError) -> UsersAway | UnfitUser:
    """What a failure of the database is to whoever asks for users."""
    if isinstance(error, DatabaseRefused):
        return UnfitUser(str(error))
    if isinstance(error, DatabaseUnusable):
        return UsersUnusable(str(error))
    return UsersAway(str(error))


class ServerEngine:
    """Runs units of work on a database; see `users_tables.Engine`. Its `run` is somebody else's to run."""

    def __init__(self, database: MigratableDatabase, dialect: ServerDialect) -> None:
        self._database = database
        self._dialect = dialect

    @property
    def name(self) -> str:
        """Where it is."""
        return self._database.name

    @property
    def words(self) -> Words:
        """What it says otherwise than others."""
        return self._dialect.words

    async def open(self) -> None:
        """Nothing: each connection is made when it is needed."""

    async def prepare(self) -> None:
        """Make and migrate the tables."""
        rows = await self._run(self._database.look, lambda connection: connection.fetch(self._dialect.columns))
        if fault := stranger([str(row[0]) for row in rows]):
            raise UsersUnusable(f"{self.name}: {fault}")
        try:
            await migrate(self._database, self._dialect.migrations, component=COMPONENT)
        except DatabaseError as error:
            raise users_error(error) from error

    async def close(self) -> None:
        """Nothing: whoever runs the database ends it."""

    async def look(self, make: Units[T]) -> T:
        """Run a unit that changes nothing."""
        return await self._run(self._database.look, self._work(make))

    async def transact(self, make: Units[T]) -> T:
        """Run a unit in one transaction."""
        return await self._run(self._database.transact, self._work(make))

    async def rows(self, statement: str, values: Sequence[object]) -> Named:
        """The rows of one statement in the driver's terms."""
        return await self._run(self._database.look, lambda connection: connection.fetch_named(statement, *values))

    async def _run(self, run: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> T:
        try:
            return await run(work)
        except DatabaseError as error:
            raise users_error(error) from error

    def _work(self, make: Units[T]) -> Work[T]:
        async def work(connection: Connection) -> T:
            unit, answer = make(), None
            try:
                while True:
                    answer = await self._answer(connection, unit.send(answer))
            except StopIteration as end:
                value: T = end.value
                return value

        return work

    async def _answer(self, connection: Connection, ask: Ask) -> object:
        text = self._dialect.rendered(ask.text)
        if ask.changes:
            return await connection.execute(text, *ask.values)
        return await connection.fetch(text, *ask.values)
