"""The file store keeps the contract, and what is its own: folders, states, full disks, damage."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from email import message_from_bytes
from pathlib import Path

import attrs
import orjson
import pytest

from elemta.runtime.threads import InlineThreads, Threads, WorkerThreads
from elemta.storage import file_index, file_journal, file_queue
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
from elemta.storage.codec import MAIL_COLUMNS, encode_mail
from elemta.storage.file import FileStore
from elemta.storage.file_attempts import hour_name, hour_of
from elemta.storage.file_folders import SPARE_FILE_OCTETS, SPARE_FILES, STATE_OF, Folder
from elemta.storage.file_record import Batch, Header, Write, encode_record, read_records
from elemta.storage.file_state import Damaged, decode_state, encode_state
from elemta.storage.records import PIECE_OCTETS, ContentRef, QueuedMail, QueueState
from tests.storage.contract import QueueStoreContract
from tests.storage.mails import OCTETS, START, HandClock, Post, Stores, attempt, claimed, commit, opened, rich_mail
from tests.storage.mounting import mounted

APPLIED, FULL = Result.APPLIED, Result.FULL
EVERYTHING = Filter()
DEFERRED = QueueState.DEFERRED


class FileStores:
    def __init__(self, folder: Path, threads: Threads | None = None) -> None:
        self.clock = HandClock()
        self.folder = folder
        self._threads = threads or WorkerThreads()

    def build(self) -> QueueStore:
        return FileStore(str(self.folder), self._threads, self.clock)

    def names(self, folder: str) -> set[str]:
        return set(os.listdir(self.folder / folder))

    def state(self, mail: QueuedMail, folder: str = "active") -> Path:
        return self.folder / folder / f"{mail.id}.json"

    def content(self, content_id: str) -> Path:
        return self.folder / "data" / f"{content_id}.eml"


@pytest.fixture
def stores(tmp_path: Path) -> FileStores:
    return FileStores(tmp_path / "queue")


class TestFile(QueueStoreContract):
    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return FileStores(tmp_path / "queue")


class TestFileInline(QueueStoreContract):
    """As the simulated world runs it."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return FileStores(tmp_path / "queue", InlineThreads())


async def staged_mail(store: QueueStore, post: Post, octets: bytes) -> QueuedMail:
    """A mail in the queue whose content was staged."""
    writer = await store.stage()
    for start in range(0, len(octets), PIECE_OCTETS):
        await writer.write([octets[start : start + PIECE_OCTETS]])
    mail = post.mail(content=ContentRef(await writer.finish(), len(octets)))
    assert await commit(store, Insert(mail)) == [APPLIED]
    return mail


async def whats_odd(store: QueueStore) -> dict[str, str]:
    return {finding.where: finding.what for finding in await store.inspect()}


# ---- what a person finds -------------------------------------------------------------------------


async def test_a_person_finds_each_mail_where_its_state_says(stores: FileStores, post: Post) -> None:
    inserts = [post.insert(b"Subject: %b\r\n\r\nHello\r\n" % state.value.encode(), state=state) for state in QueueState]
    async with opened(stores) as store:
        await store.commit(inserts)
        for insert in inserts:
            folder = insert.mail.state.value
            assert stores.names(folder) == {f"{insert.mail.id}.json"}
            said = orjson.loads(stores.state(insert.mail, folder).read_bytes())
            assert [*said] == [*MAIL_COLUMNS, "generation", "token", "check"]
            assert said["recipients"] == ["someone@example.net"]
            message = message_from_bytes(stores.content(insert.mail.id).read_bytes())
            assert message["subject"] == folder
        assert await store.inspect() == []


async def test_only_the_state_moves(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        insert = post.insert(owner="one")
        mail = insert.mail
        await commit(store, insert)
        inode = stores.content(mail.id).stat().st_ino
        later = attrs.evolve(mail, state=DEFERRED, next_attempt_at=START + 0.3)
        await commit(store, Settle(mail.id, "one", token, later, (attempt(),)))
        assert (stores.names("active"), stores.names("deferred")) == (set(), {f"{mail.id}.json"})
        # As Postfix does it: the time of a deferred mail's file is that of its next attempt.
        assert stores.state(mail, "deferred").stat().st_mtime == START + 0.3
        assert stores.content(mail.id).stat().st_ino == inode
        (name,) = stores.names("attempts")
        assert b'"result":"deferred"' in (stores.folder / "attempts" / name).read_bytes()
        assert await claimed(store, token, now=START + 1) == [mail.id]
        assert (stores.names("active"), stores.names("deferred")) == ({f"{mail.id}.json"}, set())
        await commit(store, Settle(mail.id, "one", token, None))
        assert not any(stores.names(folder.value) for folder in STATE_OF)
        assert stores.names("data") == set()


async def test_nobody_else_can_look_into_the_queue(stores: FileStores, post: Post) -> None:
    mask = os.umask(0)
    try:
        async with opened(stores) as store:
            await store.join("one", START)
            shared = await staged_mail(store, post, OCTETS)
            await commit(store, post.insert(state=DEFERRED), Withdraw(shared.id), post.insert())
    finally:
        os.umask(mask)
    for path in (stores.folder, *stores.folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


async def test_a_mail_moved_by_hand_is_what_its_folder_says(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        held, gone, kept = (post.insert(state=DEFERRED) for _ in range(3))
        await commit(store, held, gone, kept)
    stores.state(held.mail, "deferred").rename(stores.state(held.mail, "held"))
    stores.state(gone.mail, "deferred").unlink()
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        assert await claimed(store, token) == [kept.mail.id]
        assert await store.get(held.mail.id) == attrs.evolve(held.mail, state=QueueState.HELD)
        assert await whats_odd(store) == {
            f"data/{gone.mail.id}.eml": "no mail refers to it: a cleanup removes it when it is a day old"
        }


async def test_a_state_that_is_not_whole_is_told_from_one_that_is() -> None:
    mail = rich_mail(Post().new_id())
    octets = encode_state(encode_mail(mail), generation=7, token=3)
    state = decode_state(octets, mail.id, mail.state)
    assert (state.mail, state.generation, state.token) == (mail, 7, 3)
    for cut in range(len(octets)):
        with pytest.raises(Damaged):
            decode_state(octets[:cut], mail.id, mail.state)
        with pytest.raises(Damaged):
            decode_state(octets[:cut] + bytes([octets[cut] ^ 1]) + octets[cut + 1 :], mail.id, mail.state)
    with pytest.raises(Damaged, match="another mail"):
        decode_state(octets, Post().new_id()[::-1], mail.state)


# ---- opening -------------------------------------------------------------------------------------


async def test_waiting_mails_are_not_read_until_they_are_due(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        waits = [post.insert(state=DEFERRED, next_attempt_at=START + number) for number in range(5)]
        await store.commit(waits)
    async with opened(stores) as store:
        # Nobody notices what happened to files that were not asked for.
        for insert in waits[3:]:
            stores.state(insert.mail, "deferred").write_bytes(b"not a state")
        assert await store.next_due() == START
        assert (await store.counts())[DEFERRED] == 5
        token = (await store.join("one", START)).token
        assert await claimed(store, token, now=START + 2.5) == [insert.mail.id for insert in waits[:3]]
        assert (await store.counts())[DEFERRED] == 2
        # Once they are due they are passed over, and told of.
        assert await claimed(store, token, now=START + 9) == []
        assert await whats_odd(store) == {
            f"deferred/{insert.mail.id}.json": "it is not whole: move it away, or put a whole one in its place"
            for insert in waits[3:]
        }
        # What they need is kept.
        assert stores.content(waits[4].mail.id).exists()
        await store.cleanup(Retention(None, None, None, staged_before=START + 1e6))
        assert stores.content(waits[4].mail.id).exists()


async def test_many_due_files_are_read_in_steps(
    stores: FileStores, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserts = [post.insert(state=DEFERRED, next_attempt_at=START - number % 7) for number in range(50)]
    async with opened(stores) as store:
        await store.commit(inserts)
    monkeypatch.setattr(file_queue, "STEP_FILES", 8)
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        expected = sorted(inserts, key=lambda each: (each.mail.next_attempt_at, each.mail.id))
        assert await claimed(store, token, limit=20) == [each.mail.id for each in expected[:20]]
        assert await claimed(store, token) == [each.mail.id for each in expected[20:]]


async def test_of_two_states_the_newer_counts(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        insert = post.insert(owner="one")
        mail = insert.mail
        await commit(store, insert)
        old = stores.state(mail).read_bytes()
        await commit(store, Settle(mail.id, "one", token, attrs.evolve(mail, state=DEFERRED, reason="newer")))
    stores.state(mail).write_bytes(old)
    stores.state(mail).chmod(0o600)
    # A newer one that is not whole is none.
    stores.state(mail, "held").write_bytes(old[:-3])
    async with opened(stores) as store:
        found = await store.get(mail.id)
        assert found is not None
        assert (found.state, found.reason) == (DEFERRED, "newer")
        assert await store.counts() == {**dict.fromkeys(QueueState, 0), DEFERRED: 1}
        assert not stores.state(mail).exists()
        assert [*await whats_odd(store)] == [f"held/{mail.id}.json"]


async def test_generations_go_on_when_the_journal_is_gone(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        for _ in range(5):
            await commit(store, post.insert(state=DEFERRED, next_attempt_at=START + 1))
    shutil.rmtree(stores.folder / "journal")
    async with opened(stores) as store:
        new = post.insert()
        await commit(store, new)
        assert orjson.loads(stores.state(new.mail).read_bytes())["generation"] == 6


async def test_tokens_go_on_when_their_file_is_damaged(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        for owner in ("one", "two", "one"):
            token = (await store.join(owner, START)).token
        await commit(store, post.insert(owner="one"))
    shutil.rmtree(stores.folder / "journal")
    (stores.folder / "nodes.json").write_bytes(b"[]")
    async with opened(stores) as store:
        assert "nodes.json" in await whats_odd(store)
        assert (await store.join("one", START)).token == token + 1
        assert await store.inspect() == []


@asynccontextmanager
async def crashed(stores: FileStores) -> AsyncIterator[QueueStore]:
    """A store that is not closed before others had the folders."""
    store = stores.build()
    await store.open()
    yield store
    async with opened(stores) as other:
        before = await other.list(EVERYTHING, 100)
        await store.close()
        # It knows that it was not the last.
        assert await commit(other, Insert(before[0], b"")) == [APPLIED]
    async with opened(stores) as other:
        assert await other.list(EVERYTHING, 100) == before


async def test_what_a_crash_cut_off_is_carried_out_again(stores: FileStores, post: Post) -> None:
    async with crashed(stores) as store:
        token = (await store.join("one", START)).token
        inserts = [post.insert(b"%d" % number, owner="one") for number in range(9)]
        await store.commit(inserts)
        await store.commit([Settle(each.mail.id, "one", token, None, (attempt(),)) for each in inserts[:3]])
        before = await store.list(EVERYTHING, 100)
        # The power went before any of the files reached the disk.
        for name in ("active", "data", "attempts"):
            shutil.rmtree(stores.folder / name)
        (stores.folder / "nodes.json").unlink()
        async with opened(stores) as other:
            assert await other.list(EVERYTHING, 100) == before
            assert await other.read(inserts[5].mail.content, 0, 9) == b"5"
            assert await other.attempts(inserts[1].mail.id) == [attempt()]
            assert await commit(other, Settle(inserts[4].mail.id, "one", token, None)) == [APPLIED]
            assert await other.inspect() == []


async def test_a_record_that_is_not_whole_ends_the_journal(stores: FileStores, post: Post) -> None:
    async with crashed(stores) as store:
        first, second = post.insert(), post.insert()
        await commit(store, first)
        end = journal_end(stores)
        await commit(store, second)
        path, octets = journal(stores)
        path.write_bytes(octets[: end + 40] + bytes(len(octets) - end - 40))
        # None of the second's files had reached the disk.
        stores.state(second.mail).unlink()
        stores.content(second.mail.id).unlink()
        async with opened(stores) as other:
            assert [mail.id for mail in await other.list(EVERYTHING, 10)] == [first.mail.id]
            assert await commit(other, second) == [APPLIED]


async def test_a_stop_in_order_leaves_nothing_to_be_carried_out(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        await commit(store, post.insert())
        header, octets = Header.parse(journal(stores)[1][:4096]), journal(stores)[1]
        assert header is not None
        assert len(read_records(octets, header)[0]) == 1
    header, octets = Header.parse(journal(stores)[1][:4096]), journal(stores)[1]
    assert header is not None
    assert (header.base, read_records(octets, header)) == (1, ([], 4096))


def journal(stores: FileStores) -> tuple[Path, bytes]:
    """The journal that counts."""
    paths = [path for path in (stores.folder / "journal").iterdir() if Header.parse(path.read_bytes()[:4096])]
    assert len(paths) == 1
    return paths[0], paths[0].read_bytes()


def journal_end(stores: FileStores) -> int:
    return len(journal(stores)[1].rstrip(b"\0"))


def test_a_mail_cannot_pass_for_a_record() -> None:
    header = Header("0" * 32, 4)
    forged = encode_record(Header("1" * 32, 4), 9, Batch(removes=[(Folder.ROOT, "nodes.json")]))
    place = (Folder.DATA, "x.eml")
    record = encode_record(header, 5, Batch(contents=[Write(place, forged * 50)]))
    octets = header.encode().ljust(4096, b"\0") + record
    assert [generation for generation, _ in read_records(octets, header)[0]] == [5]
    # An earlier turn's mail lies just where the record after the last one would begin.
    assert [generation for generation, _ in read_records(octets + forged, header)[0]] == [5]
    # The same record again is an earlier turn's too.
    assert [generation for generation, _ in read_records(octets + record, header)[0]] == [5]
    for cut in range(4096, len(octets)):
        assert read_records(octets[:cut], header) == ([], 4096)


async def test_checkpoints_change_nothing(stores: FileStores, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_journal, "JOURNAL_OCTETS", 20_000)
    async with opened(stores) as store:
        keys = set()
        for number in range(60):
            await commit(store, post.insert(b"%d" % number * 100))
            keys.add(journal(stores)[1][:60])
        assert len(keys) > 3
        assert len(stores.names("journal")) == 2
    for path in (stores.folder / "journal").iterdir():
        assert path.stat().st_size < 40_000
    async with opened(stores) as store:
        mails = await store.list(EVERYTHING, 100)
        assert len(mails) == 60
        assert await store.read(mails[7].content, 0, 4) == b"7777"


# ---- files that are used again -------------------------------------------------------------------


async def test_files_are_used_again_and_bounded(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        first, second = post.insert(b"a" * 5000), post.insert(b"b" * 400)
        await commit(store, first, second)
        inodes = {path.stat().st_ino for path in stores.folder.glob("*/*.*")}
        await commit(store, Withdraw(first.mail.id))
        third = post.insert(b"c" * 300)
        await commit(store, third)
        assert inodes == {path.stat().st_ino for path in stores.folder.glob("*/*.*")}
        assert await store.read(third.mail.content, 0, 10_000) == b"c" * 300
        assert await store.read(second.mail.content, 0, 10_000) == b"b" * 400
        large = await staged_mail(store, post, bytes(SPARE_FILE_OCTETS + 1))
        many = [post.insert() for _ in range(SPARE_FILES)]
        await store.commit(many)
        await store.commit([Withdraw(mail.id) for mail in (large, *(each.mail for each in many))])
        assert len(stores.names("spare")) == SPARE_FILES
        assert all(path.stat().st_size <= SPARE_FILE_OCTETS for path in (stores.folder / "spare").iterdir())
    async with opened(stores) as store:
        await commit(store, post.insert())
        assert len(stores.names("spare")) == SPARE_FILES - 2


async def test_content_of_an_earlier_life_goes_with_a_cleanup(stores: FileStores, post: Post) -> None:
    crashed = stores.build()
    await crashed.open()
    kept = await staged_mail(crashed, post, OCTETS)
    writer = await crashed.stage()
    await writer.write([OCTETS])
    left = await (await crashed.stage()).finish()
    await crashed.close()
    stores.clock.now = START + 60
    async with opened(stores) as store:
        assert len(stores.names("data")) == 3
        # What is not this life's stays until it is old, but nobody can refer to it.
        assert await commit(store, Insert(post.mail(content=ContentRef(left, 0)))) == [Result.REFUSED]
        await store.cleanup(Retention(None, None, None, staged_before=START))
        assert len(stores.names("data")) == 3
        await store.cleanup(Retention(None, None, None, staged_before=START + 60))
        assert stores.names("data") == {f"{kept.content.id}.eml"}
        assert await store.read(kept.content, 0, 100) == OCTETS
        assert await store.inspect() == []


# ---- hostile files -------------------------------------------------------------------------------


async def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "queue").write_text("a file")
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "queue")):
        await FileStores(tmp_path / "queue").build().open()


async def test_a_folder_that_is_a_link_is_refused(stores: FileStores, tmp_path: Path) -> None:
    stores.folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (stores.folder / "active").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="active: it is no folder, or a link"):
        await stores.build().open()


async def test_a_store_that_is_not_open_says_so(stores: FileStores, post: Post) -> None:
    store = stores.build()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="not open"):
            await commit(store, post.insert())
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.get(post.new_id())
        with pytest.raises(StoreUnavailable, match="not open"):
            await (await store.stage()).write([OCTETS])
        await store.open()
        await store.close()


def make_hostile(stores: FileStores, secret: Path, mails: list[QueuedMail]) -> dict[str, str]:
    """Names, links, pipes that a stranger might leave; what should be said of each."""
    strange = "it is none of the queue's: move it away"
    plain = "it is no file: move it away, or put a whole one in its place"
    second = "it has a second name (a hard link): move it away, or put a whole one in its place"
    folder = stores.folder
    found: dict[str, str] = {}
    for name in ("..json", "x.json", "\n.json", "\udc80.json", mails[0].id, f"{mails[0].id}.json.bak", "%2e%2e.json"):
        (folder / "deferred" / name).write_bytes(b"{}")
        found[f"deferred/{name}"] = strange
    (folder / "data" / "readme").write_bytes(b"x")
    (folder / "shared" / "x.y").write_bytes(b"")
    (folder / "attempts" / "2027-99-99T99.jsonl").write_bytes(b"")
    (folder / "journal" / "x").write_bytes(b"")
    found |= dict.fromkeys(("data/readme", "shared/x.y", "attempts/2027-99-99T99.jsonl", "journal/x"), strange)
    os.symlink(secret, folder / "active" / f"{mails[0].id[::-1]}.json")
    found[f"active/{mails[0].id[::-1]}.json"] = plain.replace("it is no", "it is a link, or no")
    os.mkfifo(folder / "deferred" / f"{mails[1].id[::-1]}.json")
    found[f"deferred/{mails[1].id[::-1]}.json"] = plain
    os.link(secret, folder / "held" / f"{mails[2].id[::-1]}.json")
    found[f"held/{mails[2].id[::-1]}.json"] = second
    (folder / "failed" / f"{mails[3].id[::-1]}.json").mkdir()
    found[f"failed/{mails[3].id[::-1]}.json"] = plain
    return found


async def test_what_strangers_leave_is_survived_and_told(stores: FileStores, post: Post, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    async with opened(stores) as store:
        inserts = [post.insert(state=DEFERRED) for _ in range(4)]
        await store.commit(inserts)
    secret.write_bytes(stores.state(inserts[0].mail, "deferred").read_bytes())
    before = secret.read_bytes()
    expected = make_hostile(stores, secret, [each.mail for each in inserts])
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        assert await claimed(store, token) == [each.mail.id for each in inserts]
        found = await whats_odd(store)
        assert found == expected
    assert secret.read_bytes() == before


async def test_a_link_in_a_mails_place_leads_nowhere(stores: FileStores, post: Post, tmp_path: Path) -> None:
    """Content and states that became links are missing; what is written takes the link's place."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        insert, other = post.insert(b"public", owner="one"), post.insert(b"public", owner="one")
        await commit(store, insert, other)
        for place in (stores.content(insert.mail.id), stores.state(other.mail)):
            place.unlink()
            place.symlink_to(secret)
        with pytest.raises(ContentMissing, match="it is a link"):
            await store.read(insert.mail.content, 0, 10)
        stores.content(insert.mail.id).unlink()
        os.link(secret, stores.content(insert.mail.id))
        with pytest.raises(ContentMissing, match="second name"):
            await store.read(insert.mail.content, 0, 10)
        assert await commit(store, Begin(other.mail.id, "one", token, START)) == [APPLIED]
        assert not stores.state(other.mail).is_symlink()
        # A new mail's state finds a link in its place.
        new = post.insert(b"new")
        stores.state(new.mail).symlink_to(secret)
        stores.content(new.mail.id).symlink_to(secret)
        assert await commit(store, new) == [APPLIED]
        assert await store.read(new.mail.content, 0, 10) == b"new"
    assert secret.read_bytes() == b"secret"


async def test_modes_that_let_others_in_are_told(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        insert = post.insert()
        await commit(store, insert)
        stores.content(insert.mail.id).chmod(0o644)
        (stores.folder / "held").chmod(0o750)
        assert set(await whats_odd(store)) == {f"data/{insert.mail.id}.eml", "held"}
        # Such a file is not written over with another's content.
        await commit(store, Withdraw(insert.mail.id))
        await store.commit([post.insert() for _ in range(3)])
        assert {path.stat().st_mode & 0o777 for path in stores.folder.glob("*/*.*")} == {0o600}


@pytest.mark.parametrize("damage", ["removed", "cut"])
async def test_content_that_was_damaged_is_missing(stores: FileStores, post: Post, damage: str) -> None:
    async with opened(stores) as store:
        mail = await staged_mail(store, post, OCTETS)
        file = stores.content(mail.content.id)
        if damage == "cut":
            file.write_bytes(OCTETS[:-1])
        else:
            file.unlink()
        with pytest.raises(ContentMissing, match=mail.content.id):
            await store.read(mail.content, 0, 10)


# ---- attempts ------------------------------------------------------------------------------------


def test_hours_and_their_names() -> None:
    assert hour_name(START) == "2027-01-15T08.jsonl"
    assert hour_of("2027-01-15T08.jsonl") == START
    for name in ("2027-02-31T08.jsonl", "2027-01-15T08.json", "../2027-01-15T08.jsonl", "2027-01-15T08.jsonl\n"):
        assert hour_of(name) is None


async def test_attempts_of_several_hours_stay_in_order_and_old_ones_go(stores: FileStores, post: Post) -> None:
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        mail = post.mail(owner="one")
        await commit(store, Insert(mail, OCTETS))
        for number in range(4):
            stores.clock.now = START + 3600 * 10 * number
            moment = stores.clock.now - 1
            await commit(store, Settle(mail.id, "one", token, mail, (attempt(started_at=moment),)))
        assert len(stores.names("attempts")) == 4
        path = stores.folder / "attempts" / hour_name(stores.clock.now)
        with path.open("ab") as file:
            file.write(b'{"half a li')
        assert [each.started_at for each in await store.attempts(mail.id)] == [
            START + 3600 * 10 * number - 1 for number in range(4)
        ]
        keep = Retention(None, None, attempts_before=START + 36_000)
        await store.cleanup(keep)
        assert len(await store.attempts(mail.id)) == 2
        assert len(stores.names("attempts")) == 2
    async with opened(stores) as store:
        assert len(await store.attempts(mail.id)) == 2
        await store.cleanup(attrs.evolve(keep, attempts_before=START + 1e6))
        assert stores.names("attempts") == set()


# ---- full disks ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[FileStores]:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=32m", "none") as folder:
        yield FileStores(folder / "queue")


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
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def work_off(store: QueueStore, token: int, ids: list[str]) -> None:
    for start in range(0, len(ids), 50):
        part = ids[start : start + 50]
        assert await store.commit([Begin(queue_id, "one", token, START) for queue_id in part]) == [APPLIED] * len(part)
        settles = [Settle(queue_id, "one", token, None, (attempt(),)) for queue_id in part]
        assert await store.commit(settles) == [APPLIED] * len(part)


async def test_a_full_queue_can_be_worked_off_and_takes_mail_again(small_disk: FileStores, post: Post) -> None:
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


async def test_a_disk_filled_by_others_is_no_harm(small_disk: FileStores, post: Post) -> None:
    async with opened(small_disk) as store:
        token = (await store.join("one", START)).token
        inserts = [post.insert(owner="one") for _ in range(20)]
        await store.commit(inserts)
        ballast = small_disk.folder.parent / "ballast"
        write_until_full(ballast)
        with pytest.raises(StoreFull):
            await commit(store, post.insert())
        # A report too large for what is left fails with the disk itself, and takes its settlement along.
        queue_id = inserts[0].mail.id
        reports = tuple(post.insert(os.urandom(100_000)) for _ in range(10))
        with pytest.raises(StoreFull):
            await commit(store, Settle(queue_id, "one", token, None, (attempt(),), reports))
        assert await store.get(queue_id) == inserts[0].mail
        assert await store.attempts(queue_id) == []
        assert len(await store.list(EVERYTHING, 100)) == 20
        # Without any space mail still goes out: the journal has its own.
        await work_off(store, token, [each.mail.id for each in inserts[1:]])
    async with opened(small_disk) as store:
        assert [mail.id for mail in await store.list(EVERYTHING, 10)] == [queue_id]
        ballast.unlink()
        token = (await store.join("one", START)).token
        assert await claimed(store, token) == [queue_id]
        assert await commit(store, Settle(queue_id, "one", token, None, (attempt(),), reports)) == [APPLIED]
        assert await commit(store, post.insert()) == [APPLIED]
        assert await store.attempts(inserts[7].mail.id) == [attempt()]
        assert await store.inspect() == []


async def test_a_disk_without_inodes_is_full(tmp_path: Path, post: Post) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64m,nr_inodes=96", "none") as folder:
        async with opened(FileStores(folder / "queue")) as store:
            assert await commit(store, post.insert()) == [APPLIED]
            for number in range(20):
                (folder / str(number)).touch()
            with pytest.raises(StoreFull, match="inodes"):
                await commit(store, post.insert())
            with pytest.raises(StoreFull, match="inodes"):
                await (await store.stage()).finish()
            for number in range(20):
                (folder / str(number)).unlink()
            assert await commit(store, post.insert()) == [APPLIED]


# ---- size ----------------------------------------------------------------------------------------


async def test_claims_are_ordered_within_a_large_backlog(
    stores: FileStores, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same order as the reference has, with ties in the time, however often all is put in order anew."""
    monkeypatch.setattr(file_index, "STALE_ENTRIES", 3)
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        inserts = [
            post.insert(next_attempt_at=START - number % 3, destination="ab"[number % 2]) for number in range(60)
        ]
        await store.commit(inserts[::-1])
        mails: list[QueuedMail] = []
        for limit in (1, 10, 29):
            mails += await store.claim(Claim("one", token, START, limit))
        keys = [(mail.next_attempt_at, mail.destination, mail.id) for mail in mails]
        expected = sorted((each.mail.next_attempt_at, each.mail.destination, each.mail.id) for each in inserts)
        assert keys == expected[:40]
