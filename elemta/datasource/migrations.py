"""Tables brought up to date, by any number of nodes at once.

What is not here: any one table; each component brings its list. What was done is recorded in `elemta_migrations`.

A migration once published is never changed; a new one is added behind it. PostgreSQL takes all of them in one
transaction, or none. MySQL commits each statement by itself, so there every statement must be repeatable: what a crash
interrupted is run again from its start, where a table, column or index that is there already counts as made.

Where nothing is left to do, only SELECT on `elemta_migrations` is needed: a node may run with less than it takes to
migrate. Raises the errors of `base`; `DatabaseUnusable` when the tables are of a later version.
"""

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from elemta import __version__
from elemta.datasource.base import Connection, Database, DatabaseAway, DatabaseUnusable, T, Work
from elemta.datasource.options import Dialect

#: A number of our own for PostgreSQL's advisory lock: "elemta" in ASCII. The lock is the database's.
POSTGRESQL_LOCK = 0x656C656D7461

#: MySQL's locks are the whole server's: the database's name is in it, as a digest, for 64 characters are allowed.
MYSQL_LOCK = "CONCAT('elemta:', SHA1(DATABASE()))"

#: Seconds that all migrations together may take, waiting for another node's included: an index over 10⁷ rows is made in
#: minutes.
MIGRATION_SECONDS = 1800.0


@frozen
class Migration:
    """One step of a component's tables. `number` counts from 1 without a gap."""

    number: int
    name: str
    statements: tuple[str, ...]


class MigratableDatabase(Database, Protocol):
    """What is asked of a database beside its units of work."""

    @property
    def dialect(self) -> Dialect:
        """Whose SQL it speaks."""
        ...

    async def labour(self, work: Work[T], *, seconds: float) -> T:
        """Run a unit of work that may take long, on a connection of its own."""
        ...


async def migrate(
    database: MigratableDatabase,
    migrations: Sequence[Migration],
    *,
    component: str,
    seconds: float = MIGRATION_SECONDS,
) -> int:
    """Bring a component's tables up to date; returns how many steps that took. Several nodes may do so at once.

    `seconds` are for all of it, waiting for another node included.
    """
    dialect = DIALECTS[database.dialect]

    async def outstanding(connection: Connection) -> list[Migration]:
        (count,) = (await connection.fetch(dialect.is_there))[0]
        done = await connection.fetch(dialect.done, component) if count else ()
        return pending(migrations, done, place=f"{database.name}, tables of {component}")

    async def postgresql(connection: Connection) -> int:
        await connection.fetch(f"SELECT pg_advisory_xact_lock({POSTGRESQL_LOCK})")
        return await run_all(connection)

    async def mysql(connection: Connection) -> int:
        (got,) = (await connection.fetch(f"SELECT GET_LOCK({MYSQL_LOCK}, %s)", max(1, round(seconds))))[0]
        if got != 1:
            raise DatabaseAway(f"{database.name}: another node has been migrating it for too long")
        return await run_all(connection)  # the lock ends with the connection

    async def run_all(connection: Connection) -> int:
        left = await outstanding(connection)
        if left:
            await connection.execute(dialect.create)
        for migration in left:
            for statement in migration.statements:
                try:
                    await connection.execute(statement)
                except Exception as error:
                    if error.args[:1] not in dialect.done_already:
                        raise
            await connection.execute(dialect.record, component, migration.number, migration.name, __version__)
        return len(left)

    if not await database.look(outstanding):
        return 0
    work = postgresql if database.dialect is Dialect.POSTGRESQL else mysql
    return await database.labour(work, seconds=seconds)


def pending(migrations: Sequence[Migration], done: Sequence[tuple[int, str]], *, place: str) -> list[Migration]:
    """Those that are not done yet. `done` holds number and version of those that are.

    Raises `DatabaseUnusable` when a later Elemta has been there.
    """
    latest, version = max(done, default=(0, ""))
    known = max((migration.number for migration in migrations), default=0)
    if latest > known:
        raise DatabaseUnusable(
            f"{place}: they are at step {latest}, made by Elemta {version}; this is Elemta {__version__}, which knows "
            f"{known} of them (install Elemta {version} or later)"
        )
    numbers = {number for number, _ in done}
    return [migration for migration in migrations if migration.number not in numbers]


@frozen
class _Statements:
    """How one dialect keeps the record."""

    is_there: str
    create: str
    done: str
    record: str
    #: The first argument of the driver's exceptions that say that a statement was run before.
    done_already: frozenset[tuple[object, ...]] = frozenset()


DIALECTS = {
    Dialect.POSTGRESQL: _Statements(
        is_there="SELECT count(to_regclass('elemta_migrations'))",
        create="""CREATE TABLE IF NOT EXISTS elemta_migrations (
            component text NOT NULL, number integer NOT NULL, name text NOT NULL, version text NOT NULL,
            applied_at double precision NOT NULL DEFAULT extract(epoch FROM now()), PRIMARY KEY (component, number))""",
        done="SELECT number, version FROM elemta_migrations WHERE component = $1",
        record="INSERT INTO elemta_migrations (component, number, name, version) VALUES ($1, $2, $3, $4)",
    ),
    Dialect.MYSQL: _Statements(
        is_there="SELECT count(*) FROM information_schema.tables"
        " WHERE table_schema = DATABASE() AND table_name = 'elemta_migrations'",
        create="""CREATE TABLE IF NOT EXISTS elemta_migrations (
            component varchar(64) NOT NULL, number integer NOT NULL, name varchar(190) NOT NULL,
            version varchar(64) NOT NULL, applied_at double NOT NULL, PRIMARY KEY (component, number)
            ) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin""",
        done="SELECT number, version FROM elemta_migrations WHERE component = %s",
        # IGNORE: on a cluster the lock is one machine's, and another node may have been as fast.
        record="INSERT IGNORE INTO elemta_migrations (component, number, name, version, applied_at)"
        " VALUES (%s, %s, %s, %s, UNIX_TIMESTAMP(NOW(6)))",
        # A table, a column, an index, a primary key is there; a column or an index to drop is not.
        done_already=frozenset({(1050,), (1060,), (1061,), (1068,), (1091,)}),
    ),
}
