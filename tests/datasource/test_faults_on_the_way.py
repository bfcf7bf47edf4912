"""Databases that go away, hang, or fall silent in the middle of COMMIT: real servers behind a proxy."""

import attrs
import pytest
import trio
import trio.testing

from elemta.datasource.base import Connection, DatabaseAway, OutcomeUnknown
from elemta.datasource.options import DatabaseOptions
from tests.datasource.proxy import CommitFault, proxied
from tests.datasource.servers import SERVERS, database_of, running

pytestmark = pytest.mark.parametrize("server", SERVERS, indirect=True)

#: Seconds until a unit's connection is cut in these tests.
SHORT = 0.4


async def make(connection: Connection) -> None:
    await connection.execute("CREATE TABLE t (id integer)")


async def insert(connection: Connection) -> None:
    await connection.execute("INSERT INTO t VALUES (1)")


async def count(connection: Connection) -> int:
    return int((await connection.fetch("SELECT count(*) FROM t"))[0][0])


async def test_away_at_start_then_there(server: DatabaseOptions) -> None:
    async with proxied(server) as proxy, running(proxy.options) as database:
        proxy.is_refusing = True
        with pytest.raises(DatabaseAway, match=r"127\.0\.0\.1:\d+"):
            await database.transact(make)
        proxy.is_refusing = False
        await database.transact(make)
        assert await database.look(count) == 0


async def test_nobody_listens(server: DatabaseOptions) -> None:
    async with proxied(server) as proxy:
        nowhere = proxy.options
    async with running(nowhere) as database:
        with pytest.raises(DatabaseAway, match=r"nobody listens there \(start the server"):
            await database.look(count)


async def test_idle_connections_that_died_are_replaced(server: DatabaseOptions) -> None:
    async with proxied(server) as proxy, running(proxy.options) as database:
        await database.transact(make)
        proxy.cut()
        await database.transact(insert)
        assert proxy.connections == 2
        proxy.cut()
        assert await database.look(count) == 1
        assert proxy.connections == 3
        proxy.is_refusing = True
        proxy.cut()
        with pytest.raises(DatabaseAway):
            await database.look(count)


async def test_a_connection_that_dies_under_a_unit(server: DatabaseOptions) -> None:
    """One from the pool is replaced and the unit run again; on a new one the failure is the answer."""
    runs = 0

    async def cut_at_first(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        await insert(connection)
        if runs == 1:
            proxy.cut()
        await insert(connection)

    async with proxied(server) as proxy, running(proxy.options) as database:
        await database.transact(make)
        await database.transact(cut_at_first)
        assert (runs, await database.look(count)) == (2, 2)
    async with proxied(server) as proxy, running(proxy.options) as database:
        runs = 0
        with pytest.raises(DatabaseAway) as caught:
            await database.transact(cut_at_first)
        assert caught.type is DatabaseAway
        assert (runs, await database.look(count)) == (1, 2)


async def test_a_server_that_hangs_is_left_at_the_deadline(server: DatabaseOptions) -> None:
    async with proxied(server) as proxy:
        async with running(attrs.evolve(proxy.options, unit_seconds=SHORT)) as database:
            await database.transact(make)
            proxy.stall()
            with trio.fail_after(20 * SHORT):
                for unit in (database.transact, database.look):
                    with pytest.raises(DatabaseAway, match=r"no answer within 0\.4 s") as caught:
                        await unit(insert)
                    assert caught.type is DatabaseAway
            proxy.resume()
            assert await database.look(count) == 0
            assert proxy.connections == 3  # the first, one that came to a halt on its way, and a new one


async def test_a_deadline_before_the_first_step(server: DatabaseOptions) -> None:
    async with running(attrs.evolve(server, unit_seconds=0.0)) as database:
        with trio.fail_after(10), pytest.raises(DatabaseAway, match="no answer within 0 s"):
            await database.look(count)


async def test_a_server_that_hangs_while_connecting(server: DatabaseOptions) -> None:
    async with proxied(server) as proxy:
        async with running(attrs.evolve(proxy.options, connect_seconds=SHORT)) as database:
            proxy.stall()
            with trio.fail_after(20 * SHORT), pytest.raises(DatabaseAway, match=r"no connection within 0\.4 s"):
                await database.look(count)
            proxy.resume()
            await database.transact(make)


@pytest.mark.parametrize(
    ("fault", "rows"), [(CommitFault.LOSE_REQUEST, 0), (CommitFault.LOSE_ANSWER, 1), (CommitFault.HOLD_ANSWER, 1)]
)
async def test_a_commit_without_answer_is_unknown(server: DatabaseOptions, fault: CommitFault, rows: int) -> None:
    async with proxied(server) as proxy:
        async with running(attrs.evolve(proxy.options, unit_seconds=SHORT)) as database:
            await database.transact(make)
            proxy.commit_fault = fault
            with pytest.raises(OutcomeUnknown):
                await database.transact(insert)
            assert await database.look(count) == rows
            await database.transact(insert)
            assert await database.look(count) == rows + 1


async def test_a_stop_waits_for_units_under_way(server: DatabaseOptions) -> None:
    """Told to stop while a unit waits for its answer, the database is there until the answer came."""
    async with proxied(server) as proxy, trio.open_nursery() as nursery:
        database = database_of(proxy.options)
        service = trio.CancelScope()
        stopped = trio.Event()

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            with service:
                await database.run(task_status=task_status)
            stopped.set()

        await nursery.start(serve)
        await database.transact(make)
        proxy.stall()
        nursery.start_soon(database.transact, insert)
        await trio.testing.wait_all_tasks_blocked()
        service.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not stopped.is_set()
        with pytest.raises(DatabaseAway, match="starts or stops"):
            await database.look(count)
        proxy.resume()
        await stopped.wait()
    async with running(server) as database:
        assert await database.look(count) == 1


async def test_what_a_silent_unit_has_locked_is_free_again_soon(server: DatabaseOptions) -> None:
    """Its node was frozen or lost its power: the connection stands, and nothing more comes over it."""
    async with proxied(server) as proxy, running(server) as others:
        async with running(attrs.evolve(proxy.options, silent_seconds=1.0)) as database:
            await others.transact(make)
            await others.transact(insert)
            locked = trio.Event()

            async def lock_and_fall_silent(connection: Connection) -> None:
                await connection.fetch("SELECT id FROM t FOR UPDATE")
                proxy.stall()
                locked.set()
                await connection.fetch("SELECT 1")

            async def delete(connection: Connection) -> int:
                return await connection.execute("DELETE FROM t")

            async def silent() -> None:
                with pytest.raises(DatabaseAway):
                    await database.transact(lock_and_fall_silent)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(silent)
                await locked.wait()
                with trio.fail_after(server.lock_seconds):
                    assert await others.transact(delete) == 1
                proxy.resume()
