"""The dev inbox's stores: one contract for both, then what is SQLite's own."""

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define

from elemta.delivery.inbox import InboxStore
from elemta.mail.inbox import InboxEntry
from elemta.runtime.threads import T, Ts, WorkerThreads
from elemta.storage.inbox import Bounds, MemoryInbox, SqliteInbox
from elemta.storage.inbox_database import InboxDatabase, KeepMail, Request
from elemta.storage.records import PIECE_OCTETS


@define
class Octets:
    """Content that gives at most `most` octets at a time, and breaks off after `good`."""

    octets: bytes
    most: int = 1 << 30
    good: int = 1 << 40

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def eight_bit(self) -> bool:
        return not self.octets.isascii()

    async def read(self, offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if offset >= self.good:
            raise RuntimeError("the queue's store is away")
        return self.octets[offset : offset + min(limit, self.most)]


def entry(number: int, *, size: int = 3, subject: str = "hello") -> InboxEntry:
    paths = ("a@example.com", "jürgen@example.com")
    return InboxEntry(f"{number:022}", "s@example.org", paths, subject, size, 1_700_000_000.25 + number)


async def add(store: InboxStore, number: int, octets: bytes = b"x\r\n", *, subject: str = "hello") -> InboxEntry:
    made = entry(number, size=len(octets), subject=subject)
    await store.add(made, Octets(octets))
    return made


def numbers(entries: Sequence[InboxEntry]) -> list[int]:
    return [int(each.id) for each in entries]


Maker = Callable[[Bounds], InboxStore]
PLENTY = Bounds(1000, 1 << 30)


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """Makes a store with its bounds, not yet open."""

    def made(bounds: Bounds) -> InboxStore:
        if request.param == "memory":
            return MemoryInbox(bounds)
        return SqliteInbox(tmp_path / "queue", WorkerThreads(), bounds=bounds)

    return made


async def opened(make: Maker, bounds: Bounds = PLENTY) -> InboxStore:
    store = make(bounds)
    await store.open()
    return store


async def test_what_is_kept_comes_back(make: Maker) -> None:
    store = await opened(make)
    assert await store.newest() is None
    one = await add(store, 1, b"\x00\xff\r\n.\r\n\n\r")
    two = await add(store, 2, b"")
    assert await store.list(10) == [two, one]
    assert await store.newest() == two
    assert await store.get(one.id) == one
    assert await store.get("nothing") is None
    assert await store.raw(one.id) == b"\x00\xff\r\n.\r\n\n\r"
    assert await store.raw(two.id) == b""
    assert await store.raw("nothing") == b""
    assert await store.count() == 2
    await store.close()


async def test_pages_go_from_new_to_old(make: Maker) -> None:
    store = await opened(make)
    for number in (1, 5, 3, 2, 4):  # not in the order of their ids
        await add(store, number)
    assert numbers(await store.list(2)) == [4, 2]
    assert numbers(await store.list(2, before=entry(2).id)) == [3, 5]
    assert numbers(await store.list(9, before=entry(5).id)) == [1]
    assert await store.list(9, before=entry(1).id) == []
    assert await store.list(0) == []
    await store.delete([entry(3).id])
    assert numbers(await store.list(9, before=entry(3).id)) == [2, 1]  # gone: by its id, which is of its time
    await store.close()


async def test_a_mail_kept_twice_is_kept_once(make: Maker) -> None:
    store = await opened(make, Bounds(10, 100))
    await add(store, 1, b"x" * 60)
    await add(store, 2, b"y" * 30)
    again = await add(store, 1, b"z" * 40, subject="again")
    assert numbers(await store.list(9)) == [2, 1]  # where it was
    assert await store.get(again.id) == again
    assert await store.raw(again.id) == b"z" * 40
    await add(store, 3, b"x" * 30)  # fits, if what was replaced counts no more
    assert await store.count() == 3
    await store.close()


@pytest.mark.parametrize("size", [PIECE_OCTETS, PIECE_OCTETS + 1, 2 * PIECE_OCTETS, 2 * PIECE_OCTETS + 7])
async def test_large_mails_are_read_in_pieces(make: Maker, size: int) -> None:
    store = await opened(make)
    octets = os.urandom(size)
    kept = entry(1, size=size)
    await store.add(kept, Octets(octets, most=300_000))
    read = b""
    while piece := await store.raw(kept.id, len(read), 700_000):
        assert len(piece) <= 700_000
        read += piece
    assert read == octets
    assert await store.raw(kept.id, PIECE_OCTETS - 2, 2) == octets[PIECE_OCTETS - 2 : PIECE_OCTETS]
    assert await store.raw(kept.id, size, 10) == b""
    await store.close()


async def test_mails_are_removed(make: Maker) -> None:
    store = await opened(make)
    for number in range(1, 6):
        await add(store, number, os.urandom(1000))
    assert await store.delete([entry(2).id, entry(4).id, entry(4).id, "nothing"]) == 2
    assert numbers(await store.list(9)) == [5, 3, 1]
    assert await store.raw(entry(2).id) == b""
    assert await store.delete([]) == 0
    assert await store.clear() == 3
    assert await store.count() == 0
    assert await store.clear() == 0
    await add(store, 6)
    assert numbers(await store.list(9)) == [6]
    await store.close()


async def test_the_oldest_give_way_to_a_number(make: Maker) -> None:
    store = await opened(make, Bounds(3, 1 << 30))
    for number in range(1, 8):
        await add(store, number)
    assert numbers(await store.list(9)) == [7, 6, 5]
    assert await store.raw(entry(4).id) == b""
    await store.close()


async def test_the_oldest_give_way_to_a_size_but_the_newest_stays(make: Maker) -> None:
    store = await opened(make, Bounds(100, 1000))
    for number in range(1, 6):
        await add(store, number, b"x" * 300)
    assert numbers(await store.list(9)) == [5, 4, 3]
    await add(store, 6, b"x" * 5000)
    assert numbers(await store.list(9)) == [6]
    await add(store, 7, b"x" * 10)
    assert numbers(await store.list(9)) == [7]
    await store.close()


async def test_content_that_breaks_off_keeps_nothing(make: Maker) -> None:
    store = await opened(make)
    for good in (0, PIECE_OCTETS):
        with pytest.raises(RuntimeError):
            await store.add(entry(1, size=2 * PIECE_OCTETS), Octets(b"x" * 2 * PIECE_OCTETS, good=good))
    with pytest.raises(EOFError):
        await store.add(entry(1, size=9), Short())
    assert await store.count() == 0
    assert await store.raw(entry(1).id) == b""
    await store.close()


class Short(Octets):
    """Says nine octets and has three."""

    def __init__(self) -> None:
        super().__init__(b"abc")

    @property
    def size(self) -> int:
        return 9


async def test_whoever_waits_gets_the_first_that_matches(make: Maker) -> None:
    store = await opened(make)
    await add(store, 1, subject="no")
    found: list[InboxEntry] = []

    async def wait(word: str, after: str | None) -> None:
        found.append(await store.wait_for(lambda each: word in each.subject, after))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "yes", None)
        nursery.start_soon(wait, "yes", entry(1).id)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await add(store, 2, subject="not yet")
        assert found == []
        match = await add(store, 3, subject="yes")
        await add(store, 4, subject="yes")
    assert found == [match, match]
    await store.close()


async def test_waiting_looks_at_what_is_there_or_only_at_what_comes_after(make: Maker) -> None:
    store = await opened(make)
    for number in (3, 1, 2):  # 1 and 2 arrived after 3, whatever their ids
        await add(store, number)
    for after, first in ((None, 3), (entry(3).id, 1), (entry(1).id, 2), (f"{2:022}x", 3)):
        with trio.fail_after(5):
            assert numbers([await store.wait_for(lambda _: True, after)]) == [first]
    with trio.move_on_after(0.05) as scope:
        await store.wait_for(lambda _: True, entry(2).id)
    assert scope.cancelled_caught
    await store.close()


async def test_many_arrivals_at_once_wake_everybody(make: Maker) -> None:
    store = await opened(make)
    found: list[int] = []

    async def wait(number: int) -> None:
        found.append(int((await store.wait_for(lambda each: int(each.id) == number)).id))

    async with trio.open_nursery() as nursery:
        for number in range(150):
            nursery.start_soon(wait, number)
        for number in range(150):
            nursery.start_soon(add, store, number)
    assert sorted(found) == list(range(150))
    await store.close()


# ---- SQLite's own -------------------------------------------------------------------------------


class CountingThreads(WorkerThreads):
    """Counts the commits, and the requests in each."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__func__", None) is InboxDatabase.commit:
            self.batches.extend(len(each) for each in args if isinstance(each, list))
        return await super().run(limiter, function, *args)


async def test_what_was_added_outlives_a_crash(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    kept = await add(store, 1, b"x" * (PIECE_OCTETS + 1))
    # Not closed: another process finds the log as a crash leaves it.
    again = SqliteInbox(tmp_path, WorkerThreads())
    await again.open()
    assert await again.list(9) == [kept]
    assert len(await again.raw(kept.id)) == PIECE_OCTETS
    await again.close()
    await store.close()


async def test_pieces_without_their_mail_are_swept_up(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    with pytest.raises(RuntimeError):
        await store.add(entry(1, size=2 * PIECE_OCTETS), Octets(b"x" * 2 * PIECE_OCTETS, good=PIECE_OCTETS))
    await store.close()
    assert pieces(tmp_path) == 1
    await store.open()
    assert pieces(tmp_path) == 0
    await store.close()


def pieces(folder: Path) -> int:
    connection = sqlite3.connect(folder / "inbox.db")
    try:
        return int(connection.execute("SELECT count(*) FROM pieces").fetchone()[0])
    finally:
        connection.close()


async def test_only_this_user_reads_the_file(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path / "queue", WorkerThreads())
    await store.open()
    await add(store, 1)
    assert stat.S_IMODE((tmp_path / "queue").stat().st_mode) == 0o700
    for path in (tmp_path / "queue").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


async def test_what_comes_during_a_commit_is_the_next_one(tmp_path: Path) -> None:
    threads = CountingThreads()
    store = SqliteInbox(tmp_path, threads)
    await store.open()
    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(add, store, number)
    assert await store.count() == 60
    assert sum(threads.batches) == 60
    assert len(threads.batches) <= 10
    await store.close()


async def test_a_cancelled_add_harms_nobody_elses(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    scopes = [trio.CancelScope() for _ in range(40)]

    async def one(number: int) -> None:
        with scopes[number]:
            await add(store, number)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(one, number)
        await trio.lowlevel.checkpoint()
        for scope in scopes[::2]:
            scope.cancel()
    there = set(numbers(await store.list(99)))
    assert there >= set(range(1, 40, 2))
    assert store._pending == []
    await store.close()


async def test_a_cancelled_add_that_waits_for_its_turn_is_forgotten(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    async with trio.open_nursery() as nursery:
        async with store._turn:
            nursery.start_soon(add, store, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    await add(store, 2)
    assert numbers(await store.list(9)) == [2]
    await store.close()


async def test_a_commit_for_others_is_not_cancelled_with_whoever_runs_it(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    scope = trio.CancelScope()

    async def leader() -> None:
        with scope:
            await add(store, 1)

    async with trio.open_nursery() as nursery:
        async with store._turn:
            nursery.start_soon(leader)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(add, store, 2)
            await trio.testing.wait_all_tasks_blocked()
        scope.cancel()  # the turn is the leader's by now
    assert numbers(await store.list(9)) == [2, 1]
    await store.close()


async def test_a_mail_that_the_engine_refuses_harms_no_other(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    refused: list[OSError] = []

    async def hostile() -> None:
        try:
            await add(store, 7, subject="\ud800")
        except OSError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(add, store, number)
        nursery.start_soon(hostile)
        nursery.start_soon(add, store, 8)
    assert sorted(numbers(await store.list(9))) == [0, 1, 2, 3, 4, 8]
    assert [error.errno for error in refused] == [errno.EINVAL]
    await store.close()


async def test_a_full_disk_says_so_and_takes_mail_again_later(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    await add(store, 1)
    writer = store._database._writer
    assert writer is not None
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 5}").fetchall()
    failures: list[OSError] = []

    async def too_much(number: int) -> None:
        try:
            await add(store, number, b"x" * 100_000)
        except OSError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(2, 6):
            nursery.start_soon(too_much, number)
    assert [error.errno for error in failures] == [errno.ENOSPC] * 4
    assert len({id(error) for error in failures}) == 4
    assert str(tmp_path) in str(failures[0])
    assert await store.count() == 1
    writer.execute("PRAGMA max_page_count = 1000000").fetchall()
    await add(store, 6, b"x" * 100_000)
    assert numbers(await store.list(9)) == [6, 1]
    await store.close()


async def test_space_comes_back_when_mails_go(tmp_path: Path) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    for number in range(10):
        await add(store, number, os.urandom(500_000))
    await store.clear()
    await store.close()
    assert (tmp_path / "inbox.db").stat().st_size < 200_000


@pytest.mark.parametrize("verb", ["add", "list", "count", "raw", "clear"])
async def test_a_closed_store_fails_in_words(tmp_path: Path, verb: str) -> None:
    store = SqliteInbox(tmp_path, WorkerThreads())
    await store.open()
    await store.close()
    await store.close()
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: add(store, 1),
        "list": lambda: store.list(1),
        "count": store.count,
        "raw": lambda: store.raw("x"),
        "clear": store.clear,
    }
    with pytest.raises(OSError, match="not open"):
        await calls[verb]()  # type: ignore[misc]  # each is a coroutine function


async def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "inbox.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OSError, match="later version"):
        await SqliteInbox(tmp_path, WorkerThreads()).open()


@pytest.mark.parametrize("content", [b"not a database at all " * 100, None])
async def test_a_file_that_cannot_be_opened(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "inbox.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(OSError, match=r"inbox\.db"):
        await SqliteInbox(tmp_path, WorkerThreads()).open()


def test_a_commit_that_finds_the_database_locked(tmp_path: Path) -> None:
    database = InboxDatabase(tmp_path, max_mails=9, max_octets=1 << 30)
    database.open()
    blocker = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert database._writer is not None
    database._writer.execute("PRAGMA busy_timeout = 10").fetchall()
    batch: list[Request] = [KeepMail(entry(1), b"x")]
    with pytest.raises(OSError, match="locked"):
        database.commit(batch)
    blocker.execute("COMMIT")
    blocker.close()
    database.commit(batch)
    assert database.count() == 1
    database.close()


def test_a_commit_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    database = InboxDatabase(tmp_path, max_mails=9, max_octets=1 << 30)
    database.open()
    person = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
    person.execute("ALTER TABLE totals RENAME TO hidden")
    with pytest.raises(OSError, match="totals"):
        database.commit([KeepMail(entry(1), b"x")])
    person.execute("ALTER TABLE hidden RENAME TO totals")
    assert database.count() == 0
    database.commit([KeepMail(entry(2), b"x")])
    assert database.count() == 1
    person.close()
    database.close()


def test_workers_that_start_at_once_make_one_file(tmp_path: Path) -> None:
    faster = InboxDatabase(tmp_path, max_mails=10, max_octets=1000)

    class Late(sqlite3.Connection):
        def executescript(self, script: str, /) -> sqlite3.Cursor:
            faster.open()
            return super().executescript(script)

    class Slower(InboxDatabase):
        def _migrate(self, connection: sqlite3.Connection) -> None:
            late = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None, factory=Late)
            super()._migrate(late)
            late.close()

    slower = Slower(tmp_path, max_mails=10, max_octets=1000)
    slower.open()
    slower.close()
    faster.close()
