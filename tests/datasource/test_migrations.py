"""Tables brought up to date on the real servers: by several nodes at once, after a crash, with few rights."""

import asyncio

import attrs
import pytest
import trio

from elemta import __version__
from elemta.datasource.base import Connection, DatabaseAway, DatabaseUnusable
from elemta.datasource.migrations import MYSQL_LOCK, POSTGRESQL_LOCK, Migration, migrate, pending
from elemta.datasource.options import DatabaseOptions, Dialect
from tests.datasource.servers import SERVERS, administer, running

NODES = 4

FIRST = Migration(1, "words", ("CREATE TABLE IF NOT EXISTS words (id integer PRIMARY KEY, word varchar(20))",))
SECOND = Migration(
    2,
    "longer words",
    ("ALTER TABLE words ADD COLUMN IF NOT EXISTS more text", "CREATE TABLE IF NOT EXISTS longer (id integer)"),
)
BROKEN = Migration(2, "broken", ("CREATE TABLE IF NOT EXISTS longer (id integer)", "ALTER TABLE nowhere ADD x integer"))

both = pytest.mark.parametrize("server", SERVERS, indirect=True)


async def steps(connection: Connection) -> list[tuple[str, int, str, str]]:
    text = "SELECT component, number, name, version FROM elemta_migrations ORDER BY component, number"
    return [(one, two, three, four) for one, two, three, four in await connection.fetch(text)]


@both
async def test_step_by_step(server: DatabaseOptions) -> None:
    async with running(server) as database:
        assert await migrate(database, [FIRST], component="a") == 1
        assert await migrate(database, [FIRST], component="a") == 0
        assert await migrate(database, [FIRST, SECOND], component="a") == 1
        assert await migrate(database, [FIRST], component="b") == 1
        assert await database.look(steps) == [
            ("a", 1, "words", __version__),
            ("a", 2, "longer words", __version__),
            ("b", 1, "words", __version__),
        ]


@both
async def test_several_nodes_at_once(server: DatabaseOptions) -> None:
    """Each on connections of its own; one does the work, and nobody fails."""
    done = []

    async def node() -> None:
        async with running(server) as database:
            done.append(await migrate(database, [FIRST, SECOND], component="a"))
            await database.look(steps)

    async with trio.open_nursery() as nursery:
        for _ in range(NODES):
            nursery.start_soon(node)
    assert sorted(done) == [0] * (NODES - 1) + [2]


HOLD = {
    Dialect.POSTGRESQL: f"SELECT pg_advisory_xact_lock({POSTGRESQL_LOCK})",
    Dialect.MYSQL: f"SELECT GET_LOCK({MYSQL_LOCK}, 1)",
}


@both
async def test_a_node_that_takes_too_long_is_not_waited_for(server: DatabaseOptions) -> None:
    held, free = trio.Event(), asyncio.Event()  # Trio waits for the one, asyncio for the other

    async def hold(connection: Connection) -> None:
        await connection.fetch(HOLD[server.dialect])
        held.set()
        await free.wait()

    async with running(server) as one, running(server) as other, trio.open_nursery() as nursery:
        nursery.start_soon(one.transact, hold)
        await held.wait()
        with trio.fail_after(30), pytest.raises(DatabaseAway, match=r"another node|no answer|lock"):
            await migrate(other, [FIRST], component="a", seconds=1.0)
        free.set()


@both
async def test_tables_of_a_later_version(server: DatabaseOptions) -> None:
    async def from_the_future(connection: Connection) -> None:
        await connection.execute("UPDATE elemta_migrations SET version = '9.9'")

    async with running(server) as database:
        await migrate(database, [FIRST, SECOND], component="a")
        await database.transact(from_the_future)
        with pytest.raises(DatabaseUnusable, match=r"install Elemta 9\.9 or later"):
            await migrate(database, [FIRST], component="a")


@both
async def test_a_migration_that_fails_is_run_again_whole(server: DatabaseOptions) -> None:
    async with running(server) as database:
        with pytest.raises(DatabaseUnusable, match="nowhere"):
            await migrate(database, [FIRST, BROKEN], component="a")
        assert await migrate(database, [FIRST, SECOND], component="a") in (1, 2)
        assert [number for _, number, *_ in await database.look(steps)] == [1, 2]


async def test_what_a_crash_left_on_mysql_is_no_obstacle(mysql: DatabaseOptions) -> None:
    """Without IF NOT EXISTS, which MySQL has for tables alone, all of the migration was done but for its record."""
    texts = (
        "CREATE TABLE t (id integer)",
        "ALTER TABLE t ADD COLUMN word text",
        "CREATE INDEX i ON t (id)",
        "ALTER TABLE t ADD PRIMARY KEY (id)",
        "ALTER TABLE t DROP COLUMN word",
    )

    async def half(connection: Connection) -> None:
        for text in texts:
            await connection.execute(text)

    async with running(mysql) as database:
        await database.look(half)
        assert await migrate(database, [Migration(1, "t", texts)], component="a") == 1
        with pytest.raises(DatabaseUnusable, match="nowhere"):
            await migrate(database, [Migration(2, "broken", ("DROP TABLE nowhere",))], component="a")


GRANTS = {
    Dialect.POSTGRESQL: (
        "CREATE ROLE {user} LOGIN PASSWORD 'x'",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}",
    ),
    Dialect.MYSQL: (
        "CREATE USER {user} IDENTIFIED BY 'x'",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {user}",
    ),
}
DROPS = {
    Dialect.POSTGRESQL: ("DROP OWNED BY {user}", "DROP ROLE {user}"),
    Dialect.MYSQL: ("DROP USER {user}",),
}


@both
async def test_few_rights_suffice_once_all_is_done(server: DatabaseOptions) -> None:
    user = f"u_{server.database[-12:]}"

    def run(texts: tuple[str, ...]) -> None:
        administer(server, *(text.format(user=user, database=server.database) for text in texts))

    async with running(server) as database:
        await migrate(database, [FIRST], component="a")
    await trio.to_thread.run_sync(run, GRANTS[server.dialect])
    try:
        async with running(attrs.evolve(server, user=user, password="x")) as database:
            assert await migrate(database, [FIRST], component="a") == 0
            with pytest.raises(DatabaseUnusable, match=r"grant the user the rights|must be owner"):
                await migrate(database, [FIRST, SECOND], component="a")
    finally:
        with trio.fail_after(30, shield=True):
            await trio.to_thread.run_sync(run, DROPS[server.dialect])


async def test_tables_that_change_under_a_prepared_statement(postgresql: DatabaseOptions) -> None:
    """Another node migrates: what this one had prepared is refused once, within a transaction, and prepared anew."""

    async def read(connection: Connection) -> list[object]:
        return [list(row) for row in await connection.fetch("SELECT * FROM words WHERE id > $1", 0)]

    async def write(connection: Connection) -> None:
        await connection.execute("INSERT INTO words VALUES (1, 'x')")

    async with running(postgresql) as one, running(postgresql) as other:
        await migrate(one, [FIRST], component="a")
        assert await one.transact(read) == []
        await migrate(other, [FIRST, SECOND], component="a")
        await other.transact(write)
        assert await one.transact(read) == [[1, "x", None]]


def test_what_is_pending() -> None:
    assert pending([FIRST, SECOND], [], place="x") == [FIRST, SECOND]
    assert pending([FIRST, SECOND], [(1, "0.1")], place="x") == [SECOND]
    assert pending([FIRST, SECOND], [(1, "0.1"), (2, "0.2")], place="x") == []
    with pytest.raises(DatabaseUnusable, match=r"at step 3, made by Elemta 0\.9"):
        pending([FIRST, SECOND], [(1, "0.1"), (2, "0.2"), (3, "0.9")], place="x")
