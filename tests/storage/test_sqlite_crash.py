"""The SQLite store after a process, a disk, or the power failed."""

import fcntl
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elemta.mail.outcome import AttemptResult
from elemta.runtime.clock import SystemClock
from elemta.runtime.threads import InlineThreads
from elemta.storage.base import Filter
from elemta.storage.records import PIECE_OCTETS
from elemta.storage.sqlite import SqliteStore
from tests.storage.committer import content_of
from tests.storage.mails import START
from tests.storage.mounting import mounted

COMMITTER = Path(__file__).with_name("committer.py")
Needs = Callable[[str], Path]

#: FS_IOC_SHUTDOWN with NOLOGFLUSH, linux/fs/ext4/ext4.h: the file system stops as if the power went.
SHUTDOWN, WITHOUT_FLUSHING = 0x8004587D, struct.pack("I", 2)


class Ledger:
    """What a committer said."""

    def __init__(self) -> None:
        self.accepted: dict[str, int] = {}
        self.touched: set[str] = set()
        self.gone: set[str] = set()
        self.errors: list[str] = []

    def note(self, line: str) -> None:
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "+":
            queue_id, size, result = rest.split()
            assert result == "applied"
            self.accepted[queue_id] = int(size)
        elif kind == ">":
            self.touched.add(rest)
        elif kind == "-":
            self.gone.add(rest)
        else:
            assert kind == "!"
            self.errors.append(rest)

    async def check(self, folder: Path) -> None:
        """Everything that was acknowledged is there, whole; nothing hangs loose."""
        store = SqliteStore(str(folder), InlineThreads(), SystemClock())
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
        for queue_id in self.gone:
            # One that a life before began without an end is recorded as such, then comes the one that ended.
            ended = [each for each in await store.attempts(queue_id) if each.result is not AttemptResult.UNCERTAIN]
            assert len(ended) == 1
        assert sum((await store.counts()).values()) == len(mails)
        begun = {queue_id for queue_id, mail in mails.items() if mail.attempting_since is not None}
        joined = await store.join("one", START)
        assert set(joined.uncertain) == begun <= self.touched
        await store.close()
        check_database(folder)


def check_database(folder: Path) -> None:
    database = sqlite3.connect(folder / "queue.db")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    loose = "SELECT count(*) FROM contents WHERE id NOT IN (SELECT content_id FROM mails)"
    assert database.execute(loose).fetchone() == (0,)
    empty = "SELECT count(*) FROM mails WHERE content_id NOT IN (SELECT id FROM contents)"
    assert database.execute(empty).fetchone() == (0,)
    database.close()


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


def follow(process: "subprocess.Popen[str]", ledger: Ledger, *, lines: int | None = None) -> None:
    """Note what a committer says: so many lines, or all."""
    assert process.stdout is not None
    for number, line in enumerate(process.stdout, start=1):
        ledger.note(line)
        if number == lines:
            return


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_a_killed_process_loses_nothing_acknowledged(tmp_path: Path, seed: int) -> None:
    ledger = Ledger()
    chance = random.Random(seed)
    # The second and third life begin with what the one before left.
    for life in range(2):
        with committing(tmp_path / "queue", seed * 10 + life) as process:
            follow(process, ledger, lines=chance.randint(1, 300))
            os.kill(process.pid, signal.SIGKILL)
            follow(process, ledger)
        await ledger.check(tmp_path / "queue")
    assert len(ledger.accepted) > 20


# Where the process dies: before the n-th call of its kind. Opening and joining take 12 syncs and some 60 writes, the
# first staged content one sync, a batch one sync and up to 200 writes.
DEATHS = [
    *(("pwrite64", number) for number in (7, 30, 60, 90, 140, 233, 377, 610, 987)),
    *(("fdatasync", number) for number in (1, 2, 5, 9, 12, 13, 14, 15, 16, 20)),
    *(("writev", number) for number in (1, 2)),
]


@pytest.mark.slow
@pytest.mark.needs("strace")
@pytest.mark.parametrize(("call", "number"), DEATHS)
async def test_a_crash_between_any_two_steps(tmp_path: Path, needs: Needs, call: str, number: int) -> None:
    tracer = (str(needs("strace")), "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    ledger = Ledger()
    with committing(tmp_path / "queue", 1, prefix=tracer, batches=12) as process:
        follow(process, ledger)
        assert process.wait() != 0
    await ledger.check(tmp_path / "queue")


@pytest.mark.slow
@pytest.mark.needs("strace")
@pytest.mark.parametrize("number", [14, 15, 16, 17])
async def test_a_sync_that_fails_once(tmp_path: Path, needs: Needs, number: int) -> None:
    tracer = (str(needs("strace")), "-qq", "-o", "/dev/null", "-e", f"inject=fdatasync:error=EIO:when={number}")
    ledger = Ledger()
    with committing(tmp_path / "queue", 1, prefix=tracer, batches=8) as process:
        follow(process, ledger)
        assert process.wait() == 0
    # What failed is known to be nowhere: a small transaction after it was durable.
    (error,) = ledger.errors
    assert error.startswith("StoreUnavailable: "), error
    assert len(ledger.accepted) > 20
    await ledger.check(tmp_path / "queue")


@pytest.mark.slow
@pytest.mark.needs("strace")
async def test_a_disk_that_never_syncs_again(tmp_path: Path, needs: Needs) -> None:
    tracer = (str(needs("strace")), "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=14+")
    ledger = Ledger()
    with committing(tmp_path / "queue", 1, prefix=tracer, batches=8) as process:
        follow(process, ledger)
    assert ledger.errors
    assert any(error.startswith("CommitUnknown: ") for error in ledger.errors), ledger.errors
    assert all("system's log" in error for error in ledger.errors)
    await ledger.check(tmp_path / "queue")


def make_disk(image: Path, mkfs: str) -> Path:
    with image.open("wb") as file:
        file.truncate(192 * 1024 * 1024)
    subprocess.run([mkfs, "-q", "-F", str(image)], check=True)
    return image


def cut_power(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(descriptor, SHUTDOWN, WITHOUT_FLUSHING)
    os.close(descriptor)


@pytest.mark.slow
@pytest.mark.needs("mkfs.ext4")
async def test_a_power_cut_loses_nothing_acknowledged(tmp_path: Path, needs: Needs) -> None:
    image = make_disk(tmp_path / "disk", str(needs("mkfs.ext4")))
    ledger = Ledger()
    chance = random.Random(5)
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
    assert len(ledger.accepted) > 50
