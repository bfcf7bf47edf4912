"""Transactions that get in each other's way, the pool's bounds, and what the servers' own errors become."""

import asyncio
import random

import attrs
import pytest
import trio

from elemta.datasource.base import (
    Connection,
    DatabaseAway,
    DatabaseError,
    DatabaseFull,
    DatabaseRefused,
    DatabaseUnusable,
    OutcomeUnknown,
)
from elemta.datasource.mysql import MysqlDatabase
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.datasource.pool import MAX_RUNS
from elemta.datasource.postgresql import PostgresqlDatabase
from tests.datasource.servers import SERVERS, address, administer, running, statement

both = pytest.mark.parametrize("server", SERVERS, indirect=True)


async def make(connection: Connection) -> None:
    await connection.execute("CREATE TABLE t (id integer PRIMARY KEY, word varchar(20) NOT NULL)")
    await connection.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")


# ---- conflicts -----------------------------------------------------------------------------------


@both
async def test_a_deadlock_is_run_again(server: DatabaseOptions) -> None:
    """Each of two transactions locks a row, then wants the other's: the server ends one, which is run again."""
    runs = []
    both_locked = [asyncio.Event(), asyncio.Event()]

    async def lock(connection: Connection, first: int) -> None:
        runs.append(first)
        change = statement(server, "UPDATE t SET word = 'c' WHERE id = %s")
        await connection.execute(change, first)
        both_locked[first - 1].set()
        await both_locked[2 - first].wait()
        await connection.execute(change, 3 - first)

    async with running(server) as database:
        await database.transact(make)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.transact, lambda connection: lock(connection, 1))
            nursery.start_soon(database.transact, lambda connection: lock(connection, 2))
    assert len(runs) == 3


CONFLICT = {
    Dialect.POSTGRESQL: "DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '40001'; END $$",
    Dialect.MYSQL: "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'made up'",
}


@both
async def test_conflicts_without_end_are_given_up(server: DatabaseOptions) -> None:
    runs = 0

    async def conflict(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        await connection.execute(CONFLICT[server.dialect])

    async with running(server) as database:
        with pytest.raises(DatabaseAway, match="made up"):
            await database.transact(conflict)
        assert runs == MAX_RUNS


class Slow(random.Random):
    """Chance that always asks for a minute's wait."""

    def uniform(self, a: float, b: float) -> float:
        return 60.0


@both
async def test_a_deadline_between_two_runs_cuts_no_connection(server: DatabaseOptions) -> None:
    """The unit had given its connection back by then, and it may be another's."""
    kind = PostgresqlDatabase if server.dialect is Dialect.POSTGRESQL else MysqlDatabase
    database = kind(attrs.evolve(server, unit_seconds=0.4), rng=Slow())
    number = {Dialect.POSTGRESQL: "SELECT pg_backend_pid()", Dialect.MYSQL: "SELECT CONNECTION_ID()"}

    async def which(connection: Connection) -> int:
        return int((await connection.fetch(number[server.dialect]))[0][0])

    async def conflict(connection: Connection) -> None:
        await connection.execute(CONFLICT[server.dialect])

    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        before = await database.look(which)
        with pytest.raises(DatabaseAway) as caught:
            await database.transact(conflict)
        assert caught.type is DatabaseAway
        assert await database.look(which) == before
        nursery.cancel_scope.cancel()


@both
async def test_a_failure_that_the_unit_passed_over_is_never_committed(server: DatabaseOptions) -> None:
    """PostgreSQL answers such a COMMIT with ROLLBACK, MySQL would commit what came after a deadlock."""
    runs = 0

    async def pass_over(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        await connection.execute("INSERT INTO t VALUES (3, 'c')")
        try:
            if runs == 1:
                await connection.execute(CONFLICT[server.dialect])
            await connection.execute("INSERT INTO t VALUES (4, 'd')")
        except Exception:
            return

    async def ids(connection: Connection) -> list[int]:
        return [number for (number,) in await connection.fetch("SELECT id FROM t ORDER BY id")]

    async with running(server) as database:
        await database.transact(make)
        await database.transact(pass_over)
        assert (runs, await database.look(ids)) == (2, [1, 2, 3, 4])


@both
async def test_a_look_leaves_no_transaction_open(server: DatabaseOptions) -> None:
    """On one connection, a look after a transaction sees what others committed meanwhile, and locks nothing."""

    async def word(connection: Connection) -> str:
        return str((await connection.fetch("SELECT word FROM t WHERE id = 1"))[0][0])

    async def change(connection: Connection) -> int:
        return await connection.execute("UPDATE t SET word = 'changed' WHERE id = 1")

    async with running(attrs.evolve(server, pool_size=1)) as one, running(server) as other:
        await one.transact(make)
        assert await one.look(word) == "a"
        assert await one.look(change) == 1
        assert await one.look(change) == 1  # matched, though nothing is different
        assert await other.transact(word) == "changed"


# ---- bounds --------------------------------------------------------------------------------------


@both
async def test_the_pool_has_a_bound(server: DatabaseOptions) -> None:
    under_way, most = 0, 0
    free = asyncio.Event()

    async def hold(connection: Connection) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await free.wait()
        await connection.fetch("SELECT 1")
        under_way -= 1

    async with running(attrs.evolve(server, pool_size=2, pool_wait_seconds=0.1)) as database:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.look, hold)
            nursery.start_soon(database.look, hold)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DatabaseAway, match=r"none of 2 connections was free within 0\.1 s"):
                await database.look(hold)
            with trio.CancelScope() as impatient:
                impatient.cancel()
                await database.look(hold)
            assert impatient.cancelled_caught
            nursery.start_soon(database.look, hold)
            await trio.testing.wait_all_tasks_blocked()
            free.set()
    assert (under_way, most) == (0, 2)


COLUMNS = "information_schema.columns"  # some thousand rows; of three times as many, nobody sees the end


@both
async def test_a_statement_too_long_is_ended_by_the_server(server: DatabaseOptions) -> None:
    sleep = {
        Dialect.POSTGRESQL: "SELECT pg_sleep(30)",
        Dialect.MYSQL: f"SELECT count(*) FROM {COLUMNS} a, {COLUMNS} b, {COLUMNS} c",
    }

    async def slow(connection: Connection) -> None:
        await connection.fetch(sleep[server.dialect])

    async def quick(connection: Connection) -> int:
        return int((await connection.fetch("SELECT 1"))[0][0])

    async with running(attrs.evolve(server, statement_seconds=0.2)) as database:
        with trio.fail_after(10), pytest.raises(DatabaseAway, match="statement_timeout"):
            await database.transact(slow)
        assert await database.transact(quick) == 1


# ---- the servers' own errors ---------------------------------------------------------------------

RAISE = {
    Dialect.POSTGRESQL: "DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{}'; END $$",
    Dialect.MYSQL: "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {}, MESSAGE_TEXT = 'made up'",
}


@pytest.mark.parametrize(
    ("dialect", "code", "error"),
    [
        (Dialect.POSTGRESQL, "53100", DatabaseFull),
        (Dialect.POSTGRESQL, "53200", DatabaseAway),
        (Dialect.POSTGRESQL, "23505", DatabaseRefused),
        (Dialect.POSTGRESQL, "42501", DatabaseUnusable),
        (Dialect.MYSQL, "1114", DatabaseFull),
        (Dialect.MYSQL, "1021", DatabaseFull),
        (Dialect.MYSQL, "1290", DatabaseAway),
        (Dialect.MYSQL, "1062", DatabaseRefused),
        (Dialect.MYSQL, "1142", DatabaseUnusable),
    ],
)
async def test_errors_by_their_code(dialect: Dialect, code: str, error: type[DatabaseError]) -> None:
    async def fail(connection: Connection) -> None:
        await connection.execute(RAISE[dialect].format(code))

    async with running(address(dialect)) as database:
        with pytest.raises(error, match=rf"made up \[{code}\]") as caught:
            await database.transact(fail)
        assert caught.type is error


@both
async def test_values_that_do_not_fit_are_refused(server: DatabaseOptions) -> None:
    insert = statement(server, "INSERT INTO t VALUES (%s, %s)")
    refused: list[tuple[object, object]] = [(1, "again"), (3, None), (3, "x" * 21), (2**40, "x"), (3, "\ud800")]
    if server.dialect is Dialect.POSTGRESQL:
        refused += [(3, "\0"), ("three", "x")]
    else:
        refused += [("three", "x"), (float("nan"), "x")]

    async with running(server) as database:
        await database.transact(make)
        for values in refused:

            async def put(connection: Connection, values: tuple[object, object] = values) -> None:
                await connection.execute(insert, *values)

            with pytest.raises(DatabaseRefused):
                await database.transact(put)


@both
async def test_a_killed_connection_is_away(server: DatabaseOptions) -> None:
    kill = {Dialect.POSTGRESQL: "SELECT pg_terminate_backend(pg_backend_pid())", Dialect.MYSQL: "KILL CONNECTION_ID()"}

    async def suicide(connection: Connection) -> None:
        await connection.execute(kill[server.dialect])
        await connection.fetch("SELECT 1")

    async with running(server) as database:
        with pytest.raises(DatabaseAway) as caught:
            await database.transact(suicide)
        assert not isinstance(caught.value, OutcomeUnknown)
        await database.transact(make)


async def test_a_statement_beyond_the_packet_limit_is_refused(mysql: DatabaseOptions) -> None:
    async def count(connection: Connection) -> int:
        return int((await connection.fetch("SELECT count(*) FROM t"))[0][0])

    async with running(mysql) as database:
        await database.transact(make)
        with pytest.raises(DatabaseRefused, match="max_allowed_packet"):
            await database.transact(
                lambda connection: connection.execute("UPDATE t SET word = %s", b"x" * 17 * 1024 * 1024)
            )
        assert await database.look(count) == 2


async def test_a_wrong_password_is_named_and_not_shown(mysql: DatabaseOptions) -> None:
    name = f"u_{mysql.database[-12:]}"
    await trio.to_thread.run_sync(administer, mysql, f"CREATE USER {name} IDENTIFIED BY 'Correct-horse9'")
    try:
        async with running(attrs.evolve(mysql, user=name, password="Swordfish-7")) as database:
            with pytest.raises(DatabaseUnusable, match="check user and password") as caught:
                await database.look(make)
            assert "Swordfish" not in str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)
        async with running(attrs.evolve(mysql, user=name, password="Correct-horse9")) as database:
            with pytest.raises(DatabaseUnusable, match=r"Access denied .* to database"):
                await database.look(make)
    finally:
        with trio.fail_after(30, shield=True):
            await trio.to_thread.run_sync(administer, mysql, f"DROP USER {name}")


@both
async def test_a_database_that_is_not_there_is_named(server: DatabaseOptions) -> None:
    async with running(attrs.evolve(server, database="elemta_nowhere")) as database:
        with pytest.raises(DatabaseUnusable, match=r"elemta_nowhere.*create the database"):
            await database.look(make)
