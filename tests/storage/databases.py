"""Stores on real database servers, for the tests of this folder.

What is not here: the servers (`tests.datasource.servers`). One database serves all tests of a module; its tables are
emptied between them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio

from elemta.datasource.base import Connection
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.datasource.pool import PooledDatabase
from elemta.runtime.ids import IdSource
from elemta.storage.base import SharedStore
from elemta.storage.mysql import MysqlStore
from elemta.storage.postgresql import PostgresqlStore
from elemta.storage.shared import DatabaseStore
from tests.datasource.servers import administer, database_of, empty_database, running
from tests.storage.mails import HandClock

TABLES = ("mails", "contents", "pieces", "attempts", "nodes", "leases", "tally")
STORES: dict[Dialect, type[PostgresqlStore] | type[MysqlStore]] = {
    Dialect.POSTGRESQL: PostgresqlStore,
    Dialect.MYSQL: MysqlStore,
}


class RunningStore:
    """A store that runs its database while it is open, as the server does."""

    def __init__(self, options: DatabaseOptions, clock: HandClock, *, ids: IdSource | None = None) -> None:
        self.database: PooledDatabase = database_of(options)
        self._store: DatabaseStore = STORES[options.dialect](self.database, clock, ids=ids)
        self._over = trio.Event()
        self._closed = trio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def open(self) -> None:
        running = trio.Event()
        # A system task, since stores may close in another order than they were opened in.
        trio.lowlevel.spawn_system_task(self._run, running)
        await running.wait()
        await self._store.open()

    async def _run(self, running: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.database.run)
            running.set()
            await self._over.wait()
            nursery.cancel_scope.cancel()
        self._closed.set()

    async def close(self) -> None:
        await self._store.close()
        self._over.set()
        await self._closed.wait()


class DatabaseStores:
    """One engine's data; see `mails.Stores`."""

    def __init__(self, options: DatabaseOptions) -> None:
        self.options = options
        self.clock = HandClock()

    def build(self, ids: IdSource | None = None) -> SharedStore:
        store: SharedStore = RunningStore(self.options, self.clock, ids=ids)  # type: ignore[assignment]  # by __getattr__
        return store


@contextmanager
def made_database(dialect: Dialect) -> Iterator[DatabaseOptions]:
    """A database with the tables of a queue, for as long as it takes."""
    with empty_database(dialect) as options:
        options = attrs.evolve(options, pool_size=6)
        if dialect is Dialect.POSTGRESQL:
            # Nobody cuts the power of these tests: none waits for the disk.
            administer(options, f"ALTER DATABASE {options.database} SET synchronous_commit = off")

        async def make() -> None:
            async with running(options) as database:
                await STORES[dialect](database, HandClock()).open()

        trio.run(make)
        yield options


async def empty(connection: Connection) -> None:
    """Begin anew: a unit of work."""
    for table in TABLES:
        await connection.execute(f"DELETE FROM elemta_{table}")
    await connection.execute("UPDATE elemta_tokens SET latest = 0")


def empty_tables(options: DatabaseOptions) -> None:
    """Begin anew."""

    async def main() -> None:
        async with running(options) as database:
            await database.transact(empty)

    trio.run(main)
