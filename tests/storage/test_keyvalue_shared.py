"""The plugins' state on database servers keeps the contract, and what is its own: faults on the way, sweeping."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from elemta.datasource.base import Connection, DatabaseUnusable
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.datasource.pool import PooledDatabase
from elemta.plugins.api import KeyValue, SharedAway
from elemta.storage import keyvalue_shared
from elemta.storage.keyvalue import KeyValueStore
from elemta.storage.keyvalue_shared import SharedKeyValue
from tests.datasource.proxy import CommitFault, Proxy, proxied
from tests.datasource.servers import SERVERS, address, administer, empty_database, running
from tests.datasource.test_migrations import DROPS, GRANTS
from tests.storage.keyvalue_contract import LONG, KeyValueContract, World

#: Seconds that a call waits in these tests for a server that says nothing.
PATIENCE = 0.3


@asynccontextmanager
async def serving(database: PooledDatabase, **choices: Any) -> AsyncIterator[SharedKeyValue]:
    store = SharedKeyValue(database, **choices)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


#: For a database in which texts that differ in case, accents or width are equal.
FOLDING = {
    Dialect.POSTGRESQL: (
        "DROP DATABASE {name}",
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        " LOCALE_PROVIDER icu ICU_LOCALE 'und-u-ks-level1'",
    ),
    Dialect.MYSQL: ("ALTER DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",),
}


@pytest.fixture(scope="module", params=SERVERS)
def database(request: pytest.FixtureRequest) -> Iterator[DatabaseOptions]:
    with empty_database(request.param) as options:
        fold = (statement.format(name=options.database) for statement in FOLDING[request.param])
        administer(address(request.param), *fold)
        yield options


class SharedWorld:
    """Each node has a pool of its own."""

    is_kept = True

    def __init__(self, options: DatabaseOptions) -> None:
        self.options = options

    @asynccontextmanager
    async def node(self) -> AsyncIterator[KeyValueStore]:
        async with running(self.options) as database, serving(database) as store:
            yield store

    async def pass_time(self, seconds: float) -> None:
        await self.rows(f"UPDATE elemta_plugin_state SET until_at = until_at - {seconds}")

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async def work(connection: Connection) -> list[tuple[Any, ...]]:
            return list(await connection.fetch(statement))

        async with running(self.options) as database:
            return await database.transact(work)


@pytest.fixture
def world(database: DatabaseOptions) -> SharedWorld:
    """A database without a table."""
    administer(database, "DROP TABLE IF EXISTS elemta_plugin_state", "DROP TABLE IF EXISTS elemta_migrations")
    return SharedWorld(database)


class TestShared(KeyValueContract):
    @pytest.fixture
    def world(self, database: DatabaseOptions) -> World:
        world = SharedWorld(database)

        async def empty() -> None:
            async with world.node() as store:
                await store.of("one").delete("")
            await world.rows("DELETE FROM elemta_plugin_state")

        trio.run(empty)
        return world


async def test_nodes_that_start_at_once_make_one_table(world: SharedWorld) -> None:
    async def begin() -> None:
        async with world.node() as store:
            assert await store.of("one").add("nodes", seconds=LONG) <= 4

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(begin)
    async with world.node() as store:
        assert await store.of("one").get("nodes") == b"4"


# ---- sweeping ----------------------------------------------------------------------------------------


async def keys(world: SharedWorld) -> set[bytes]:
    return {bytes(name) for (name,) in await world.rows("SELECT name FROM elemta_plugin_state")}


async def test_what_is_over_is_swept(world: SharedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyvalue_shared, "SWEPT_ENTRIES", 4)
    async with running(world.options) as database, serving(database) as store:
        for number in range(10):
            await store.of(f"{number % 2}").put(f"over {number}", b"", seconds=10)
        await store.of("0").put("left", b"", seconds=100)
        await world.pass_time(50)
        await store.sweep(looks=False)
        assert await keys(world) == {b"left"}


async def test_beyond_the_bound_goes_what_ends_soonest_with_the_next_look(
    world: SharedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyvalue_shared, "SWEPT_ENTRIES", 2)
    async with running(world.options) as database, serving(database, entries=3) as store:
        for number in range(8):
            await store.of("one").put(f"{number}", b"", seconds=100 - number)
        await store.of("two").put("few", b"", seconds=1000)
        await store.sweep(looks=False)
        assert len(await keys(world)) == 9
        await store.sweep()
        assert await keys(world) == {b"0", b"1", b"2", b"few"}


async def test_the_store_sweeps_by_itself(world: SharedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyvalue_shared, "SWEEP_SECONDS", 0.01)
    async with world.node() as store:
        await store.of("one").put("over", b"", seconds=10)
        await world.pass_time(50)
        with trio.fail_after(10):
            while await keys(world):
                pass


# ---- faults ------------------------------------------------------------------------------------------


@asynccontextmanager
async def behind_a_proxy(world: SharedWorld) -> AsyncIterator[tuple[Proxy, SharedKeyValue]]:
    """A store that came to know its database through a proxy."""
    async with proxied(world.options) as proxy:
        async with running(proxy.options) as database, serving(database, seconds=PATIENCE) as store:
            await store.of("one").put("key", b"5", seconds=LONG)
            yield proxy, store


async def away(part: KeyValue, words: str) -> float:
    """Every call is away; seconds that the longest took."""
    longest = 0.0
    for call in (
        lambda: part.get("key"),
        lambda: part.put("key", b"", seconds=LONG),
        lambda: part.swap("key", b"5", b"6", seconds=LONG),
        lambda: part.add("key", seconds=LONG),
        lambda: part.delete("key"),
    ):
        began = trio.current_time()
        with pytest.raises(SharedAway, match=words):
            await call()
        longest = max(longest, trio.current_time() - began)
    return longest


async def test_a_server_that_hangs_is_away_in_time(world: SharedWorld) -> None:
    async with behind_a_proxy(world) as (proxy, store):
        proxy.stall()
        assert await away(store.of("one"), "no answer within 0.3 s") < PATIENCE + 0.5
        proxy.cut()
        proxy.resume()
        with trio.fail_after(10):
            assert await eventually(store.of("one")) == b"5"


async def eventually(part: KeyValue) -> bytes | None:
    while True:
        try:
            return await part.get("key")
        except SharedAway:
            await trio.lowlevel.checkpoint()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that asks soon again."""
    monkeypatch.setattr(keyvalue_shared, "REST_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
async def test_a_server_that_nobody_reaches_is_away_at_once(world: SharedWorld) -> None:
    async with behind_a_proxy(world) as (proxy, store):
        proxy.is_refusing = True
        proxy.cut()
        await away(store.of("one"), "127.0.0.1")
        tried = proxy.connections
        await away(store.of("one"), "127.0.0.1")
        assert proxy.connections <= tried + 1  # it rests
        proxy.is_refusing = False
        with trio.fail_after(10):
            assert await eventually(store.of("one")) == b"5"


async def test_the_table_is_made_at_the_start_for_who_may_not_make_it_later(world: SharedWorld) -> None:
    async with world.node():
        async with running(world.options) as database:
            with trio.fail_after(10):
                assert await eventually_rows(database) == 0


async def test_few_rights_suffice_once_the_table_is_made(world: SharedWorld) -> None:
    options = world.options
    user = f"u_{options.database[-12:]}"

    def run(texts: tuple[str, ...]) -> None:
        administer(options, *(text.format(user=user, database=options.database) for text in texts))

    async with world.node() as store:
        await store.of("one").put("key", b"1", seconds=LONG)
    await trio.to_thread.run_sync(run, GRANTS[options.dialect])
    try:
        async with running(attrs.evolve(options, user=user, password="x")) as database, serving(database) as store:
            part = store.of("one")
            assert await part.add("key", seconds=LONG) == 2
            assert await part.swap("key", b"2", b"3", seconds=LONG)
            assert await part.swap("other", None, b"", seconds=LONG)
            await part.delete("other")
            assert await part.get("key") == b"3"
            await store.sweep()
    finally:
        with trio.fail_after(30, shield=True):
            await trio.to_thread.run_sync(run, DROPS[options.dialect])


async def eventually_rows(database: PooledDatabase) -> int:
    while True:
        try:
            return await database.look(lambda connection: connection.execute("DELETE FROM elemta_plugin_state"))
        except DatabaseUnusable:
            await trio.lowlevel.checkpoint()


@pytest.mark.usefixtures("quick")
async def test_a_store_may_start_before_its_database(world: SharedWorld) -> None:
    async with proxied(world.options) as proxy:
        proxy.is_refusing = True
        async with running(proxy.options) as database, serving(database) as store:
            await store.open()
            await away(store.of("one"), "127.0.0.1")
            proxy.is_refusing = False
            with trio.fail_after(10):
                assert await eventually(store.of("one")) is None


async def test_a_call_whose_end_nobody_heard_is_not_made_twice(world: SharedWorld) -> None:
    async with behind_a_proxy(world) as (proxy, store):
        part = store.of("one")
        proxy.commit_fault = CommitFault.LOSE_ANSWER
        with pytest.raises(SharedAway):
            await part.add("key", seconds=LONG)
        assert await part.get("key") == b"6"
        proxy.commit_fault = CommitFault.LOSE_REQUEST
        with pytest.raises(SharedAway):
            await part.add("key", seconds=LONG)
        with trio.fail_after(10):
            assert await eventually(part) == b"6"


async def test_a_table_of_a_later_version_is_away(world: SharedWorld) -> None:
    async with world.node() as store:
        await store.of("one").put("key", b"", seconds=LONG)
    later = "UPDATE elemta_migrations SET number = 99 WHERE component = 'plugin-state'"
    await trio.to_thread.run_sync(administer, world.options, later)
    async with world.node() as store:
        await away(store.of("one"), "step 99")


async def test_it_says_that_it_is_not_in_use(world: SharedWorld) -> None:
    async with running(world.options) as database:
        await away(SharedKeyValue(database).of("one"), "not in use")
