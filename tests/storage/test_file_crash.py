"""The file store after a process, a disk, or the power failed."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from elemta.mail.outcome import AttemptResult
from elemta.runtime.clock import SystemClock
from elemta.runtime.threads import InlineThreads
from elemta.storage import file_journal
from elemta.storage.base import CommitUnknown, Filter, Insert, Result, Settle, StoreUnavailable
from elemta.storage.file import FileStore
from elemta.storage.records import PIECE_OCTETS, ContentRef, QueueState
from tests.storage.committer import content_of
from tests.storage.mails import OCTETS, START, HandClock, Post, attempt, commit, opened
from tests.storage.mounting import mounted
from tests.storage.test_sqlite_crash import Ledger, cut_power, follow, make_disk

COMMITTER = Path(__file__).with_name("file_committer.py")
Needs = Callable[[str], Path]
APPLIED = Result.APPLIED


class FileLedger(Ledger):
    """What a committer of files said, its reports too."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: dict[str, str] = {}

    def note(self, line: str) -> None:
        if not line.startswith("~ "):
            # A mail whose report did not come to be in one life may leave without one in the next.
            if line.startswith("> "):
                self.reports.pop(line.split()[1], None)
            super().note(line)
            return
        _, queue_id, report, _ = line.split()
        self.reports[queue_id] = report
        self.touched.add(queue_id)

    async def check(self, folder: Path) -> None:
        """Everything that was acknowledged is there, whole; a report is there exactly when its mail is not."""
        store = FileStore(str(folder), InlineThreads(), SystemClock())
        await store.open()
        mails = {mail.id: mail for mail in await store.list(Filter(), 1_000_000)}
        assert set(self.accepted) - self.touched <= set(mails)
        assert not self.gone & set(mails)
        for queue_id, mail in mails.items():
            octets = b"".join(
                [
                    await store.read(mail.content, start, PIECE_OCTETS)
                    for start in range(0, mail.content.size, PIECE_OCTETS)
                ]
            )
            assert octets == content_of(queue_id, mail.content.size)
        for queue_id, report in self.reports.items():
            assert (queue_id in mails) != (report in mails)
        for queue_id in self.touched:
            # One that a life before began without an end is recorded as such, then comes the one that ended.
            ended = [each for each in await store.attempts(queue_id) if each.result is not AttemptResult.UNCERTAIN]
            left = queue_id not in mails or mails[queue_id].state is QueueState.DEFERRED
            assert len(ended) == left
        assert sum((await store.counts()).values()) == len(mails)
        begun = {queue_id for queue_id, mail in mails.items() if mail.attempting_since is not None}
        joined = await store.join("one", START)
        assert set(joined.uncertain) == begun <= self.touched
        odd = [finding for finding in await store.inspect() if not is_leftover(finding.where)]
        assert odd == []
        await store.close()


def is_leftover(where: str) -> bool:
    """Content that was on its way in when its process ended: a cleanup removes it."""
    return where.startswith("data/")


@contextmanager
def committing(
    folder: Path, seed: int, *, prefix: tuple[str, ...] = (), batches: int | None = None
) -> Iterator["subprocess.Popen[str]"]:
    command = [*prefix, sys.executable, str(COMMITTER), str(folder), str(seed)]
    if batches is not None:
        command.append(str(batches))
    # A group of its own: a tracer and what it traces end together.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_a_killed_process_loses_nothing_acknowledged(tmp_path: Path, seed: int) -> None:
    ledger = FileLedger()
    chance = random.Random(seed)
    # The second and third life begin with what the one before left.
    for life in range(3):
        with committing(tmp_path / "queue", seed * 10 + life) as process:
            follow(process, ledger, lines=chance.randint(1, 300))
            os.kill(process.pid, signal.SIGKILL)
            follow(process, ledger)
        await ledger.check(tmp_path / "queue")
    assert len(ledger.accepted) > 20


# Where the process dies: before the n-th call of its kind. Opening and joining take some 15 syncs of folders and 6 of
# the journal; a batch is one sync, a move for each file; checkpoints come each 1 MiB, and when the store opens.
DEATHS = [
    *(("renameat", number) for number in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)),
    *(("write", number) for number in (1, 2, 3, 5, 9, 17, 33, 65, 129, 257)),
    *(("fdatasync", number) for number in (1, 2, 3, 4, 5, 6, 7, 9, 12, 20, 33, 50)),
    *(("fsync", number) for number in (1, 2, 5, 9, 15, 17, 20, 25, 30, 40, 50, 70)),
    *(("ftruncate", number) for number in (1, 7, 20)),
    *(("writev", number) for number in (1, 2, 7)),
]


@pytest.mark.slow
@pytest.mark.needs("strace")
@pytest.mark.parametrize(("call", "number"), DEATHS)
async def test_a_crash_between_any_two_steps(tmp_path: Path, needs: Needs, call: str, number: int) -> None:
    tracer = (str(needs("strace")), "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    ledger = FileLedger()
    with committing(tmp_path / "queue", 1, prefix=tracer, batches=12) as process:
        follow(process, ledger)
        assert process.wait() != 0
    await ledger.check(tmp_path / "queue")
    # A second life on what the first one left.
    with committing(tmp_path / "queue", 2, batches=3) as process:
        follow(process, ledger)
        assert process.wait() == 0
    await ledger.check(tmp_path / "queue")


@pytest.mark.slow
@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
@pytest.mark.parametrize("number", [8, 13, 16, 20, 23, 31])
async def test_a_sync_that_fails_once(tmp_path: Path, needs: Needs, call: str, number: int) -> None:
    number += 18 if call == "fsync" else 0
    tracer = (str(needs("strace")), "-qq", "-o", "/dev/null", "-e", f"inject={call}:error=EIO:when={number}")
    ledger = FileLedger()
    with committing(tmp_path / "queue", 1, prefix=tracer, batches=10) as process:
        follow(process, ledger)
        assert process.wait() == 0
    # What failed is known to be nowhere; a file whose sync failed was written anew, and nobody noticed.
    assert len(ledger.errors) <= 1
    if call == "fdatasync":
        assert ledger.errors[0].startswith("StoreUnavailable: "), ledger.errors
    assert len(ledger.accepted) > 20
    await ledger.check(tmp_path / "queue")


@pytest.mark.slow
@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["fdatasync", "fdatasync,fsync"])
async def test_a_disk_that_never_syncs_again(tmp_path: Path, needs: Needs, call: str) -> None:
    number = 10 if call == "fdatasync" else 35
    tracer = (str(needs("strace")), "-qq", "-o", "/dev/null", "-e", f"inject={call}:error=EIO:when={number}+")
    ledger = FileLedger()
    with committing(tmp_path / "queue", 1, prefix=tracer, batches=8) as process:
        follow(process, ledger)
    assert any(error.startswith("CommitUnknown: ") for error in ledger.errors), ledger.errors
    assert all("system's log" in error for error in ledger.errors)
    # Nothing was acknowledged once the first one had failed, and what had been before is there.
    await ledger.check(tmp_path / "queue")


@pytest.mark.slow
@pytest.mark.needs("mkfs.ext4")
@pytest.mark.parametrize("seed", range(4))
async def test_a_power_cut_loses_nothing_acknowledged(tmp_path: Path, needs: Needs, seed: int) -> None:
    image = make_disk(tmp_path / "disk", str(needs("mkfs.ext4")))
    ledger = FileLedger()
    chance = random.Random(seed)
    for life in range(3):
        with mounted(tmp_path / "mount", "-o", "loop", str(image)) as folder:
            with committing(folder / "queue", life) as process:
                follow(process, ledger, lines=chance.randint(1, 400))
                cut_power(folder)
                # From here on the committer can only fail; what it said before was acknowledged.
                os.kill(process.pid, signal.SIGKILL)
                follow(process, ledger)
        with mounted(tmp_path / "mount", "-o", "loop", str(image)) as folder:
            await ledger.check(folder / "queue")
    assert len(ledger.accepted) > 20


# ---- a disk that fails in this process -----------------------------------------------------------


class Disk:
    """Makes syncs fail: the next `failing` of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing = 0
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def maybe(descriptor: int) -> None:
            if self.failing:
                self.failing -= 1
                raise OSError(5, "Input/output error")
            sync(descriptor)

        return maybe


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def build(folder: Path) -> FileStore:
    return FileStore(str(folder), InlineThreads(), HandClock())


class Rebuilt:
    """The same folder, store after store."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.folder = folder

    def build(self) -> FileStore:
        return build(self.folder)


async def test_a_batch_whose_sync_failed_is_nowhere(tmp_path: Path, post: Post, disk: Disk) -> None:
    stores = Rebuilt(tmp_path / "queue")
    async with opened(stores) as store:
        token = (await store.join("one", START)).token
        first, second = post.insert(owner="one"), post.insert()
        await commit(store, first)
        for number in range(3):
            disk.failing = 1
            with pytest.raises(StoreUnavailable) as raised:
                await commit(store, second, Settle(first.mail.id, "one", token, None, (attempt(),), (post.insert(),)))
            assert type(raised.value) is StoreUnavailable, number
            assert [mail.id for mail in await store.list(Filter(), 10)] == [first.mail.id]
            async with opened(stores) as other:
                assert [mail.id for mail in await other.list(Filter(), 10)] == [first.mail.id]
                assert await other.attempts(first.mail.id) == []
    async with opened(stores) as store:
        assert await commit(store, second) == [APPLIED]
        assert await store.read(second.mail.content, 0, 100) == OCTETS


async def test_while_nobody_knows_the_same_batch_settles_it(tmp_path: Path, post: Post, disk: Disk) -> None:
    stores = Rebuilt(tmp_path / "queue")
    async with opened(stores) as store:
        insert = post.insert()
        disk.failing = 9
        with pytest.raises(CommitUnknown):
            await commit(store, insert)
        with pytest.raises(StoreUnavailable, match="still fails"):
            await commit(store, insert)
        disk.failing = 0
        assert await commit(store, insert) == [APPLIED]
        assert await store.inspect() == []
    async with opened(stores) as store:
        assert [mail.id for mail in await store.list(Filter(), 10)] == [insert.mail.id]


async def test_a_file_whose_sync_fails_is_written_anew(
    tmp_path: Path, post: Post, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_journal, "DIRTY_FILES", 3)
    stores = Rebuilt(tmp_path / "queue")
    async with opened(stores) as store:
        inserts = [post.insert(state=QueueState.DEFERRED) for _ in range(2)]
        await store.commit(inserts)
        paths = [stores.folder / "data" / f"{each.mail.id}.eml" for each in inserts]
        before = {path: path.stat().st_ino for path in paths}
        # While they are open, nothing else gets their numbers.
        held = [path.open("rb") for path in paths]
        disk.failing = 1
        assert await commit(store, post.insert()) == [APPLIED]
        changed = [path for path in paths if path.stat().st_ino != before[path]]
        assert len(changed) == 1
        # Its old octets' pages may be lost: they are not written over either.
        assert before[changed[0]] not in {path.stat().st_ino for path in stores.folder.rglob("*")}
        for file in held:
            file.close()
        for each in inserts:
            assert await store.get(each.mail.id) == each.mail
            assert await store.read(each.mail.content, 0, 100) == OCTETS
        assert {path.stat().st_mtime for path in (stores.folder / "deferred").iterdir()} == {START}


async def test_staged_content_whose_sync_fails_is_not_taken(tmp_path: Path, post: Post, disk: Disk) -> None:
    stores = Rebuilt(tmp_path / "queue")
    async with opened(stores) as store:
        writer = await store.stage()
        await writer.write([OCTETS])
        disk.failing = 1
        with pytest.raises(StoreUnavailable):
            await writer.finish()
        await writer.abandon()
        assert await store.inspect() == []
        writer = await store.stage()
        ref = ContentRef(await writer.finish([OCTETS]), len(OCTETS))
        # The name of what was staged cannot be made durable.
        disk.failing = 1
        mail = attrs.evolve(post.mail(), content=ref)
        with pytest.raises(StoreUnavailable):
            await commit(store, Insert(mail))
        assert await commit(store, Insert(mail)) == [APPLIED]
