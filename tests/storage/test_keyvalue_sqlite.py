"""The plugins' state in SQLite keeps the contract, and what is its own: the file, locks, a disk that hangs."""

import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing

from elemta.plugins.api import KeyValue, SharedAway
from elemta.runtime.threads import InlineThreads, T, Threads, Ts, WorkerThreads
from elemta.storage import keyvalue_file
from elemta.storage.keyvalue import CALL_SECONDS, KeyValueStore
from elemta.storage.keyvalue_sqlite import SqliteKeyValue
from tests.storage.keyvalue_contract import LONG, KeyValueContract, World
from tests.storage.mails import START, HandClock
from tests.storage.mounting import mounted


@asynccontextmanager
async def serving(store: SqliteKeyValue) -> AsyncIterator[SqliteKeyValue]:
    await store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()
    await store.close()


class SqliteWorld:
    """One process has the file, so all nodes of one moment are one."""

    is_kept = True

    def __init__(self, folder: Path, threads: Threads) -> None:
        self.folder = folder
        self.clock = HandClock()
        self._threads = threads
        self._store: SqliteKeyValue | None = None

    def build(self, *, entries: int = keyvalue_file.FILE_ENTRIES) -> SqliteKeyValue:
        return SqliteKeyValue(self.folder, self._threads, self.clock, entries=entries)

    @asynccontextmanager
    async def node(self) -> AsyncIterator[KeyValueStore]:
        if self._store is not None:
            yield self._store
            return
        async with serving(self.build()) as self._store:
            yield self._store
        self._store = None

    async def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "plugins.db")) as connection:
            return connection.execute(statement).fetchall()


class TestSqlite(KeyValueContract):
    @pytest.fixture(params=[WorkerThreads, InlineThreads])
    def world(self, request: pytest.FixtureRequest, tmp_path: Path) -> World:
        return SqliteWorld(tmp_path / "queue", request.param())


@pytest.fixture
def world(tmp_path: Path) -> SqliteWorld:
    return SqliteWorld(tmp_path / "queue", WorkerThreads())


class HangingThreads(InlineThreads):
    """Threads in which the disk hangs, while it does."""

    def __init__(self) -> None:
        self.hops = 0
        self.gate = trio.Event()
        self.gate.set()

    def hang(self) -> None:
        self.gate = trio.Event()

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.hops += 1
        await self.gate.wait()
        return function(*args)


# ---- the file ----------------------------------------------------------------------------------------


async def test_the_file_is_the_servers_alone_and_readable_for_a_person(world: SqliteWorld) -> None:
    before = os.umask(0)
    try:
        async with serving(world.build()) as store:
            await store.of("greylisting").put("clé", b"v", seconds=100)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in world.folder.iterdir()}
            assert modes == {"plugins.db": 0o600, "plugins.db-wal": 0o600, "plugins.db-shm": 0o600}
    finally:
        os.umask(before)
    assert world.rows("SELECT * FROM entries") == [("greylisting", "clé", b"v", START + 100)]
    assert stat.S_IMODE(world.folder.stat().st_mode) == 0o700


async def test_what_is_over_is_removed_whoever_it_belonged_to(world: SqliteWorld) -> None:
    async with serving(world.build()) as store:
        for number in range(20):
            await store.of(f"plugin {number % 2}").put(f"{number}", b"", seconds=10 if number < 15 else 100)
        world.clock.now += 50
        assert len(world.rows("SELECT 1 FROM entries")) == 20
        await store.of("plugin 0").put("new", b"", seconds=10)
        keys = world.rows("SELECT key FROM entries ORDER BY until, key")
        assert [key for (key,) in keys] == ["new", "15", "16", "17", "18", "19"]


async def test_sweeping_is_bounded_and_goes_on(world: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyvalue_file, "SWEPT_ENTRIES", 5)
    async with serving(world.build()) as store:
        part = store.of("one")
        for number in range(12):
            await part.put(f"{number}", b"", seconds=10)
        world.clock.now += 50
        left = []
        for _ in range(3):
            await part.delete("nothing")
            left.append(len(world.rows("SELECT 1 FROM entries")))
        assert left == [7, 2, 0]


async def test_beyond_the_bound_goes_what_ends_soonest_after_a_restart_as_well(world: SqliteWorld) -> None:
    async with serving(world.build(entries=3)) as store:
        part = store.of("one")
        for key, seconds in (("c", 30), ("a", 10), ("b", 20), ("d", 25)):
            await part.put(key, b"", seconds=seconds)
        await store.of("two").put("a", b"", seconds=1)
        assert [key for key in "abcd" if await part.get(key) is not None] == ["b", "c", "d"]
        await part.delete("d")
    async with serving(world.build(entries=3)) as store:
        part = store.of("one")
        for key, seconds in (("e", 50), ("f", 60)):
            await part.add(key, seconds=seconds)
        assert [key for key in "abcdef" if await part.get(key) is not None] == ["c", "e", "f"]
        assert await store.of("two").get("a") is not None


async def test_what_is_asked_during_one_batch_is_the_next(world: SqliteWorld) -> None:
    threads = HangingThreads()
    async with serving(SqliteKeyValue(world.folder, threads, world.clock)) as store:
        part = store.of("one")
        await part.put("key", b"", seconds=LONG)
        threads.hops = 0
        threads.hang()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part.get, "key")
            await trio.testing.wait_all_tasks_blocked()
            for number in range(50):
                nursery.start_soon(lambda key: part.put(key, b"", seconds=LONG), f"{number}")
            await trio.testing.wait_all_tasks_blocked()
            threads.gate.set()
        assert threads.hops == 2


# ---- what fails --------------------------------------------------------------------------------------


async def test_a_disk_that_hangs_is_away_in_time(world: SqliteWorld, autojump_clock: trio.testing.MockClock) -> None:
    threads = HangingThreads()
    async with serving(SqliteKeyValue(world.folder, threads, world.clock)) as store:
        part = store.of("one")
        threads.hang()
        began = trio.current_time()
        for number in range(1, 4):
            with pytest.raises(SharedAway, match=r"plugins\.db: no answer within 5 s"):
                await part.add("key", 10**number, seconds=LONG)
            assert trio.current_time() == began + number * CALL_SECONDS
        threads.gate.set()
        # The first was begun; the others were asked for in vain.
        assert await part.get("key") == b"10"


async def test_who_gives_up_before_its_turn_has_asked_for_nothing(world: SqliteWorld) -> None:
    threads = HangingThreads()
    async with serving(SqliteKeyValue(world.folder, threads, world.clock)) as store:
        part = store.of("one")
        threads.hang()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part.get, "key")
            await trio.testing.wait_all_tasks_blocked()
            scope = trio.CancelScope()
            nursery.start_soon(put_within, scope, part)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            threads.gate.set()
        assert await part.get("key") is None


async def put_within(scope: trio.CancelScope, part: KeyValue) -> None:
    with scope:
        await part.put("key", b"never", seconds=LONG)


async def test_another_programs_lock_is_away_until_it_ends(world: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyvalue_file, "BUSY_SECONDS", 0.05)
    async with serving(world.build()) as store:
        part = store.of("one")
        await part.put("key", b"before", seconds=LONG)
        with closing(sqlite3.connect(world.folder / "plugins.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(SharedAway, match="another program holds the database locked"):
                await part.put("key", b"after", seconds=LONG)
            assert await part.get("key") == b"before"
        await part.put("key", b"after", seconds=LONG)
        assert await part.get("key") == b"after"


def test_a_call_hears_of_a_lock_before_it_gives_up() -> None:
    assert keyvalue_file.BUSY_SECONDS < CALL_SECONDS


async def test_a_full_disk_is_away_and_nothing_is_broken(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as folder:
        world = SqliteWorld(folder, WorkerThreads())
        async with serving(world.build()) as store:
            part = store.of("one")
            written: list[str] = []
            with pytest.raises(SharedAway, match="no space is left"):
                await fill(part, written)
            assert len(written) > 10
            assert [key for key in written if await part.get(key) is None] == []
            assert await part.get(f"{len(written)}") is None
        assert world.rows("PRAGMA integrity_check") == [("ok",)]


async def fill(part: KeyValue, written: list[str]) -> None:
    for number in range(1000):
        await part.put(f"{number}", os.urandom(4096), seconds=LONG)
        written.append(f"{number}")


async def test_it_says_that_it_is_not_in_use(world: SqliteWorld) -> None:
    store = world.build()
    part = store.of("one")
    with pytest.raises(SharedAway, match="not in use"):
        await part.get("key")
    async with serving(store):
        assert await part.get("key") is None
    with pytest.raises(SharedAway, match="not in use"):
        await part.get("key")
    await store.close()


async def test_who_waits_hears_that_the_server_stops(world: SqliteWorld) -> None:
    threads = HangingThreads()
    store = SqliteKeyValue(world.folder, threads, world.clock)
    said = []

    async def get() -> None:
        try:
            await store.of("one").get("key")
        except SharedAway as error:
            said.append(str(error))

    async with trio.open_nursery() as callers:
        async with serving(store):
            threads.hang()
            for _ in range(2):
                callers.start_soon(get)
                await trio.testing.wait_all_tasks_blocked()
            threads.gate.set()
    assert len(said) == 1
    assert said[0].endswith("the server stops")


@pytest.mark.parametrize("octets", [b"no database at all, but long enough to be read as one" * 20, None])
async def test_a_file_that_is_none_of_ours_is_told_at_the_start(world: SqliteWorld, octets: bytes | None) -> None:
    world.folder.mkdir()
    path = world.folder / "plugins.db"
    if octets is None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
    else:
        path.write_bytes(octets)
    with pytest.raises(SharedAway, match="move it away"):
        await world.build().open()
