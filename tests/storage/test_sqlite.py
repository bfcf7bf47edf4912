"""The SQLite store keeps the contract, and what is its own: files, locks, full disks, damage."""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
from sqlite_utils import Database

from elemta.runtime.threads import InlineThreads, Threads, WorkerThreads
from elemta.storage import sqlite_statements as sql
from elemta.storage.base import (
    Begin,
    Claim,
    ContentMissing,
    Filter,
    Insert,
    QueueStore,
    Result,
    Retention,
    Settle,
    StoreFull,
    StoreUnavailable,
    Withdraw,
)
from elemta.storage.records import PIECE_OCTETS, ContentRef, QueuedMail
from elemta.storage.sqlite import SqliteStore
from elemta.storage.sqlite_content import SPARE_FILE_OCTETS, SPARE_FILES
from elemta.storage.sqlite_place import CHECKPOINT_PAGES, OLDEST_SQLITE
from elemta.storage.sqlite_schema import MIGRATIONS
from tests.storage.contract import QueueStoreContract
from tests.storage.mails import OCTETS, START, HandClock, Post, Stores, attempt, claimed, commit, opened
from tests.storage.mounting import mounted

APPLIED, FULL = Result.APPLIED, Result.FULL
EVERYTHING = Filter()


class SqliteStores:
    def __init__(self, folder: Path, threads: Threads | None = None) -> None:
        self.clock = HandClock()
        self.folder = folder
        self._threads = threads or WorkerThreads()

    def build(self) -> QueueStore:
        return SqliteStore(str(self.folder), self._threads, self.clock, busy_seconds=0.02)

    @property
    def database(self) -> Path:
        return self.folder / "queue.db"

    def files(self) -> list[Path]:
        return sorted((self.folder / "content").iterdir())


@pytest.fixture
def stores(tmp_path: Path) -> SqliteStores:
    return SqliteStores(tmp_path / "queue")


class TestSqlite(QueueStoreContract):
    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return SqliteStores(tmp_path / "queue")


class TestSqliteInline(QueueStoreContract):
    """As the simulated world runs it."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return SqliteStores(tmp_path / "queue", InlineThreads())


# ---- the folder ----------------------------------------------------------------------------------


async def staged_mail(store: QueueStore, post: Post, octets: bytes) -> QueuedMail:
    """A mail in the queue whose content was staged."""
    writer = await store.stage()
    for start in range(0, len(octets), PIECE_OCTETS):
        await writer.write([octets[start : start + PIECE_OCTETS]])
    mail = post.mail(content=ContentRef(await writer.finish(), len(octets)))
    assert await commit(store, Insert(mail)) == [APPLIED]
    return mail


async def test_nobody_else_can_look_into_the_queue(stores: SqliteStores, post: Post) -> None:
    mask = os.umask(0)
    try:
        async with opened(stores) as store:
            await staged_mail(store, post, OCTETS)
            modes = {
                path.relative_to(stores.folder).as_posix(): path.stat().st_mode & 0o777 for path in all_paths(stores)
            }
    finally:
        os.umask(mask)
    (content,) = stores.files()
    private = dict.fromkeys(("queue.db", "queue.db-wal", "queue.db-shm", f"content/{content.name}"), 0o600)
    assert modes == {".": 0o700, "content": 0o700} | private


def all_paths(stores: SqliteStores) -> list[Path]:
    return [stores.folder, *stores.folder.rglob("*")]


async def test_a_queue_that_is_a_link_is_refused(stores: SqliteStores, tmp_path: Path) -> None:
    stores.folder.mkdir()
    stores.database.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match=r"queue\.db"):
        await stores.build().open()
    assert not (tmp_path / "elsewhere").exists()


async def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "queue").write_text("a file")
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "queue")):
        await SqliteStores(tmp_path / "queue").build().open()


async def test_a_store_that_is_not_open_says_so(stores: SqliteStores, post: Post) -> None:
    store = stores.build()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="not open"):
            await commit(store, post.insert())
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.get(post.new_id())
        await store.open()
        await store.close()


# ---- the files of large content ------------------------------------------------------------------


async def test_files_are_used_again(stores: SqliteStores, post: Post) -> None:
    async with opened(stores) as store:
        first = await staged_mail(store, post, b"a" * 5000)
        second = await staged_mail(store, post, b"b" * 400)
        before = {path.name for path in stores.files()}
        await commit(store, Withdraw(first.id))
        third = await staged_mail(store, post, b"c" * 3000)
        assert {path.name for path in stores.files()} == before
        # The file still ends with what it held before, and nobody can read that.
        assert await store.read(third.content, 0, 10_000) == b"c" * 3000
        assert await store.read(third.content, 2999, 10_000) == b"c"
        assert await store.read(second.content, 0, 10_000) == b"b" * 400
        with pytest.raises(ContentMissing):
            await store.read(first.content, 0, 10)


async def test_a_much_larger_file_is_cut(stores: SqliteStores, post: Post) -> None:
    async with opened(stores) as store:
        await commit(store, Withdraw((await staged_mail(store, post, b"a" * 50_000)).id))
        await staged_mail(store, post, b"b" * 100)
        (file,) = stores.files()
        assert file.read_bytes() == b"b" * 100


async def test_files_that_are_kept_are_bounded(stores: SqliteStores, post: Post) -> None:
    async with opened(stores) as store:
        large = await staged_mail(store, post, bytes(SPARE_FILE_OCTETS + 1))
        mails = [await staged_mail(store, post, OCTETS) for _ in range(SPARE_FILES + 5)]
        await commit(store, *(Withdraw(mail.id) for mail in [large, *mails]))
        assert len(stores.files()) == SPARE_FILES


async def test_what_a_crash_leaves_is_used_again(stores: SqliteStores, post: Post) -> None:
    crashed = stores.build()
    await crashed.open()
    kept = await staged_mail(crashed, post, b"kept" * 50)
    writer = await crashed.stage()
    await writer.write([bytes(PIECE_OCTETS)])
    for octets in (b"finished" * 50, b"too" * 50):
        await (await crashed.stage()).finish()
        finished = await crashed.stage()
        await finished.write([octets])
        await finished.finish()
    assert len(stores.files()) == 6
    async with opened(stores) as store:
        assert len(stores.files()) == 6
        for _ in range(5):
            mail = await staged_mail(store, post, b"new" * 50)
            assert await store.read(mail.content, 0, 1000) == b"new" * 50
        assert len(stores.files()) == 6
        assert await store.read(kept.content, 0, 1000) == b"kept" * 50
    await crashed.close()


async def test_files_beyond_the_bound_go_with_the_cleanup(stores: SqliteStores, post: Post) -> None:
    crashed = stores.build()
    await crashed.open()
    for _ in range(SPARE_FILES + 5):
        await (await crashed.stage()).finish()
    await crashed.close()
    async with opened(stores) as store:
        mail = await staged_mail(store, post, OCTETS)
        # One file is the mail's; as many as are kept stay beside it.
        await store.cleanup(Retention(None, None, None, staged_before=START))
        assert len(stores.files()) == SPARE_FILES + 1
        assert await store.read(mail.content, 0, 1000) == OCTETS


@pytest.mark.parametrize("damage", ["removed", "cut"])
async def test_content_that_was_damaged_is_missing(stores: SqliteStores, post: Post, damage: str) -> None:
    async with opened(stores) as store:
        mail = await staged_mail(store, post, OCTETS)
        (file,) = stores.files()
        if damage == "cut":
            file.write_bytes(OCTETS[:-1])
        else:
            file.unlink()
        with pytest.raises(ContentMissing, match=file.name):
            await store.read(mail.content, 0, 10)


# ---- other programs, other databases -------------------------------------------------------------


async def test_a_lock_of_another_program_is_waited_for_and_named(stores: SqliteStores, post: Post) -> None:
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        await commit(store, post.insert())
        other = sqlite3.connect(stores.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="fuser") as raised:
            await commit(store, post.insert())
        assert type(raised.value) is StoreUnavailable
        with pytest.raises(StoreUnavailable, match="fuser"):
            await claimed(store, token)
        assert len(await store.list(EVERYTHING, 10)) == 1
        other.execute("ROLLBACK")
        other.close()
        assert await commit(store, post.insert()) == [APPLIED]
        assert len(await claimed(store, token)) == 2


async def test_a_file_that_is_no_database_is_named(stores: SqliteStores) -> None:
    stores.folder.mkdir()
    stores.database.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreUnavailable, match=r"queue\.db is not a database"):
        await stores.build().open()


async def test_a_damaged_database_is_named(stores: SqliteStores, post: Post) -> None:
    async with opened(stores) as store:
        await store.commit([post.insert() for _ in range(200)])
    octets = bytearray(stores.database.read_bytes())
    for page in range(30 * 4096, len(octets), 4096):
        octets[page : page + 8] = b"\xff" * 8
    stores.database.write_bytes(octets)
    async with opened(stores) as store:
        with pytest.raises(StoreUnavailable, match=r"damaged.*queue\.db"):
            await store.list(EVERYTHING, 1000)
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.commit([post.insert() for _ in range(200)])


async def test_a_database_of_a_later_version_is_left_alone(stores: SqliteStores) -> None:
    async with opened(stores):
        pass
    with sqlite3.connect(stores.database) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    with pytest.raises(StoreUnavailable, match="later version"):
        await stores.build().open()


async def test_a_database_of_another_program_is_left_alone(stores: SqliteStores) -> None:
    stores.folder.mkdir()
    with sqlite3.connect(stores.database) as database:
        database.execute("CREATE TABLE users (name TEXT)")
    database.close()
    with pytest.raises(StoreUnavailable, match="another program"):
        await stores.build().open()


async def test_a_person_can_open_and_query_it(stores: SqliteStores, post: Post) -> None:
    async with opened(stores) as store:
        insert = post.insert()
        await commit(store, insert)
        database = Database(sqlite3.connect(stores.database))
        assert {"mails", "contents", "attempts", "nodes", "tally", "migrations"} <= set(database.table_names())
        assert [row["name"] for row in database.query("SELECT name FROM migrations")] == [
            each.name for each in MIGRATIONS
        ]
        found = database.query(
            "SELECT mails.id, state, value FROM mails, json_each(recipients) WHERE value LIKE '%@%net'"
        )
        assert list(found) == [{"id": insert.mail.id, "state": "active", "value": "someone@example.net"}]
        database.close()


def test_this_sqlite_is_new_enough() -> None:
    assert sqlite3.sqlite_version_info >= OLDEST_SQLITE


@pytest.mark.parametrize(
    "statement",
    [
        sql.CLAIM_ANY,
        sql.CLAIM_PRIORITY[1],
        sql.NEXT_DUE,
        sql.CLAIM_FOUND,
        sql.SCOUT_STEP,
        sql.SCOUT_DESTINATIONS,
        sql.SCOUT_MAILS,
        sql.RELEASE_OWNED,
        sql.IN_FLIGHT_OF,
        sql.FINISHED_BEFORE,
        sql.REMOVE_OWNED,
        sql.WITHDRAW,
        sql.BEGIN_ATTEMPT.texts[8],
        sql.UPDATE_OWNED.texts[8],
        sql.HOLD,
        sql.DELETE,
        sql.ATTEMPTS_OF,
        sql.FILES_IN_USE,
        "DELETE FROM contents WHERE id IN (SELECT content_id FROM mails WHERE content_id = ? AND content_id <> id)",
    ],
)
async def test_no_statement_of_the_road_looks_at_every_mail(stores: SqliteStores, statement: str) -> None:
    async with opened(stores):
        database = sqlite3.connect(stores.database)
        marks = statement.count("?")
        values = [None] * marks if marks else dict.fromkeys(re.findall(r":(\w+)", statement))
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        database.close()
    assert plan
    if "id IN (SELECT value" in statement:
        assert "SEARCH mails USING PRIMARY KEY (id=?)" in plan
    assert not [
        step
        for step in plan
        if step.startswith(("SCAN mails", "SCAN attempts", "SCAN contents")) and "contents_files" not in step
    ]


# ---- full disks ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SqliteStores]:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16m", "none") as folder:
        yield SqliteStores(folder / "queue")


async def fill(store: QueueStore, post: Post) -> list[str]:
    """Insert until there is no room; the ids that were taken."""
    taken: list[str] = []
    with suppress(StoreFull):
        while True:
            batch = [post.insert(os.urandom(5000), owner="one") for _ in range(16)]
            assert await store.commit(batch) == [APPLIED] * 16
            taken += [insert.mail.id for insert in batch]
    return taken


def write_until_full(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


async def work_off(store: QueueStore, token: int, ids: list[str]) -> None:
    for start in range(0, len(ids), 50):
        part = ids[start : start + 50]
        assert await store.commit([Begin(queue_id, "one", token, START) for queue_id in part]) == [APPLIED] * len(part)
        settles = [Settle(queue_id, "one", token, None, (attempt(),)) for queue_id in part]
        assert await store.commit(settles) == [APPLIED] * len(part)


async def test_a_full_queue_can_be_worked_off_and_takes_mail_again(small_disk: SqliteStores, post: Post) -> None:
    async with opened(small_disk) as store:
        token = (await store.join("one", START)).token
        taken = await fill(store, post)
        assert len(taken) > 1000
        with pytest.raises(StoreFull):
            await (await store.stage()).finish()
        assert len(await store.list(EVERYTHING, 10_000)) == len(taken)
        # In the reserve there is room for the reports as well.
        mail = await store.get(taken[0])
        assert mail is not None
        begin = Begin(mail.id, "one", token, START)
        assert await commit(store, post.insert(), begin, Insert(mail, b"")) == [FULL, APPLIED, APPLIED]
        bounce = post.insert(b"bounce" * 1000, owner="one")
        assert await commit(store, Settle(mail.id, "one", token, None, (attempt(),), (bounce,))) == [APPLIED]
        await work_off(store, token, [*taken[1:], bounce.mail.id])
        again = await fill(store, post)
        # The records of the attempts stay, so it is a little less than before.
        assert len(again) > len(taken) * 0.8
        await work_off(store, token, again)


async def test_a_disk_filled_by_others_is_no_harm(small_disk: SqliteStores, post: Post) -> None:
    async with opened(small_disk) as store:
        token = (await store.join("one", START)).token
        inserts = [post.insert(owner="one") for _ in range(20)]
        await store.commit(inserts)
        ballast = small_disk.folder.parent / "ballast"
        write_until_full(ballast)
        with pytest.raises(StoreFull):
            await commit(store, post.insert())
        # A report too large for what is left fails with the engine itself, and takes its settlement along.
        queue_id = inserts[0].mail.id
        reports = tuple(post.insert(os.urandom(100_000)) for _ in range(10))
        with pytest.raises(StoreFull):
            await commit(store, Settle(queue_id, "one", token, None, (attempt(),), reports))
        assert await store.get(queue_id) == inserts[0].mail
        assert await store.attempts(queue_id) == []
        assert len(await store.list(EVERYTHING, 100)) == 20
        ballast.unlink()
        assert await commit(store, Settle(queue_id, "one", token, None, (attempt(),), reports)) == [APPLIED]
        assert await commit(store, post.insert()) == [APPLIED]
    database = sqlite3.connect(small_disk.database)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


async def test_a_disk_without_inodes_is_full(tmp_path: Path, post: Post) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64m,nr_inodes=72", "none") as folder:
        stores = SqliteStores(folder / "queue")
        async with opened(stores) as store:
            assert await commit(store, post.insert()) == [APPLIED]
            for number in range(5):
                (folder / str(number)).touch()
            with pytest.raises(StoreFull, match="inodes"):
                await commit(store, post.insert())
            with pytest.raises(StoreFull, match="inodes"):
                await (await store.stage()).finish()
            for number in range(5):
                (folder / str(number)).unlink()
            assert await commit(store, post.insert()) == [APPLIED]


# ---- size ----------------------------------------------------------------------------------------


async def test_the_log_does_not_grow_without_end(stores: SqliteStores, post: Post) -> None:
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        octets = os.urandom(100_000)
        sizes = []
        for _ in range(90):
            inserts = [post.insert(octets, owner="one") for _ in range(20)]
            await store.commit(inserts)
            await store.commit([Settle(insert.mail.id, "one", token, None) for insert in inserts])
            sizes.append((stores.folder / "queue.db-wal").stat().st_size)
        # 180 MB were written by then; a page of log has 4120 octets.
        assert max(sizes) < CHECKPOINT_PAGES * 4120 * 1.1
        assert stores.database.stat().st_size < 10_000_000


async def test_claims_are_ordered_within_a_large_backlog(stores: SqliteStores, post: Post) -> None:
    """The same order as the reference has, with ties in the time."""
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        inserts = [
            post.insert(next_attempt_at=START - number % 3, destination="ab"[number % 2]) for number in range(60)
        ]
        await store.commit(inserts[::-1])
        mails = await store.claim(Claim("one", token, START, 40))
        keys = [(mail.next_attempt_at, mail.destination, mail.id) for mail in mails]
        expected = sorted((each.mail.next_attempt_at, each.mail.destination, each.mail.id) for each in inserts)
        assert keys == expected[:40]
        assert mails[0] == attrs.evolve(mails[0], owner="one")
