"""What the stores on a disk take for a mail: by size of the batch, for large content, with a backlog (SQLite alone).

Run it: `python tests/bench/bench_store.py [--store file] [--folder DISK] [--rounds 5] [batches] [content] [backlog]`.
The folder must lie on the disk that is to be measured. Every figure stands beside a plain file's on the same disk,
taken in turn; one figure by itself means nothing on another machine. On a busy disk, `backlog` says more in `/dev/shm`:
what the disk takes for a sync has nothing to do with the backlog.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.outcome import Attempt, AttemptResult, Peer
from elemta.mail.reply import Reply
from elemta.runtime.clock import SystemClock
from elemta.runtime.ids import SecureIds
from elemta.runtime.threads import WorkerThreads
from elemta.storage import sqlite_statements as sql
from elemta.storage.base import Begin, Change, Claim, Filter, Insert, QueueStore, Result, Settle
from elemta.storage.codec import encode_mail
from elemta.storage.file import FileStore
from elemta.storage.records import UNTRIED, ContentRef, Origin, QueuedMail, QueueState
from elemta.storage.sqlite import SqliteStore
from elemta.storage.sqlite_place import Place

OWNER = "bench"
BATCHES = (1, 8, 32, 64)
BACKLOGS = (0, 10_000, 1_000_000)
SMALL_OCTETS, LARGE_OCTETS, WAITING_OCTETS = 4096, 1024 * 1024, 500
PIECE_OCTETS = 64 * 1024
DAY_SECONDS = 86_400.0


class Bench:
    """One store on the disk, and mails for it."""

    def __init__(self, folder: Path, store: str = "sqlite") -> None:
        self.folder = folder
        self.clock = SystemClock()
        self._ids = SecureIds(self.clock)
        kind = FileStore if store == "file" else SqliteStore
        self.store: QueueStore = kind(str(folder / "queue"), WorkerThreads(), self.clock)
        self.token = 0
        self._octets = os.urandom(SMALL_OCTETS)
        self._plain = QueuedMail(
            id="",
            origin_id="",
            content=ContentRef("", SMALL_OCTETS),
            envelope=Envelope(Address("sender", "example.org"), (Recipient(Address("someone", "example.net")),)),
            progress=(UNTRIED,),
            destination="example.net",
            received_at=self.clock.wall(),
            next_attempt_at=self.clock.wall(),
            expires_at=self.clock.wall() + 2 * DAY_SECONDS,
            origin=Origin("192.0.2.1", "client.example", "0.0.0.0:25", "", "ESMTP"),
        )
        self._attempt = Attempt(
            self.clock.wall(),
            0.01,
            "someone@example.net",
            AttemptResult.DELIVERED,
            Reply(250, "2.0.0", "Ok: queued as 4bQ2xk3Xyz"),
            Peer("mx.example.net", "192.0.2.2:25"),
        )

    async def open(self) -> None:
        await self.store.open()
        self.token = (await self.store.join(OWNER, self.clock.wall())).token

    def mail(self, *, size: int = SMALL_OCTETS, content_id: str = "", owner: str = OWNER) -> QueuedMail:
        queue_id = self._ids.new_id()
        content = ContentRef(content_id or queue_id, size)
        return attrs.evolve(self._plain, id=queue_id, origin_id=queue_id, content=content, owner=owner)

    def inserts(self, number: int, *, owner: str = OWNER) -> list[Insert]:
        return [Insert(self.mail(owner=owner), self._octets) for _ in range(number)]

    def begins(self, mails: Sequence[QueuedMail]) -> list[Begin]:
        return [Begin(mail.id, OWNER, self.token, 1.0) for mail in mails]

    def settles(self, mails: Sequence[QueuedMail]) -> list[Settle]:
        return [Settle(mail.id, OWNER, self.token, None, (self._attempt,)) for mail in mails]

    def deferrals(self, mails: Sequence[QueuedMail]) -> list[Settle]:
        """The mails wait until tomorrow."""
        tomorrow = self.clock.wall() + DAY_SECONDS
        state = QueueState.DEFERRED
        later = [attrs.evolve(mail, state=state, attempts=1, next_attempt_at=tomorrow) for mail in mails]
        return [Settle(mail.id, OWNER, self.token, mail, (self._attempt,)) for mail in later]

    async def commit(self, batch: Sequence[Change]) -> None:
        if set(await self.store.commit(batch)) - {Result.APPLIED}:
            raise RuntimeError("a change was not applied")


@contextmanager
def folder_on(disk: str | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=disk))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Seconds of the wall, seconds of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - wall, time.process_time() - cpu


# ---- by size of the batch ------------------------------------------------------------------------


def append_and_sync(path: Path, octets: int, times: int) -> float:
    """Syncs a second of a plain file that grows."""
    piece = os.urandom(octets)
    with path.open("ab", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(times):
            file.write(piece)
            os.fdatasync(file.fileno())
        return times / (time.perf_counter() - started)


async def measure_batches(folder: Path, rounds: int, store: str) -> None:
    bench = Bench(folder, store)
    await bench.open()
    kinds = ("insert", "begin", "deliver", "defer")
    for size in BATCHES:
        number = max(640 // size, 20)
        raw: list[float] = []
        walls: dict[str, list[float]] = {kind: [] for kind in kinds}
        cpus: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            raw.append(append_and_sync(folder / "raw", SMALL_OCTETS * size, number))
            inserts = [bench.inserts(size) for _ in range(number)]
            mails = [[insert.mail for insert in batch] for batch in inserts]
            # Every second batch is deferred, the others leave.
            steps: dict[str, list[Sequence[Change]]] = {
                "insert": list(inserts),
                "begin": [bench.begins(batch) for batch in mails],
                "deliver": [bench.settles(batch) for batch in mails[::2]],
                "defer": [bench.deferrals(batch) for batch in mails[1::2]],
            }
            for kind, batches in steps.items():

                async def commit_all(batches: list[Sequence[Change]] = batches) -> None:
                    for batch in batches:
                        await bench.commit(batch)

                wall, cpu = await timed(commit_all)
                walls[kind].append(wall / len(batches))
                cpus[kind].append(cpu / len(batches) / size)
        syncs = statistics.median(raw)
        print(f"batches of {size}: raw append + fdatasync {syncs:.0f}/s")
        for kind in kinds:
            wall, cpu = statistics.median(walls[kind]), statistics.median(cpus[kind])
            print(
                f"  {kind:8} {1 / wall:6.0f} commits/s = {1 / wall / syncs:4.2f} of raw, {size / wall:7.0f} mails/s,"
                f" CPU {cpu * 1e6:4.0f} µs a mail"
            )
    await bench.store.close()


# ---- large content -------------------------------------------------------------------------------


def write_files(folder: Path, octets: int, times: int) -> float:
    """New files a second, each synced."""
    folder.mkdir()
    piece = os.urandom(octets)
    started = time.perf_counter()
    for number in range(times):
        with (folder / str(number)).open("xb", buffering=0) as file:
            file.write(piece)
            os.fdatasync(file.fileno())
    rate = times / (time.perf_counter() - started)
    shutil.rmtree(folder)
    return rate


async def measure_content(folder: Path, rounds: int, store: str) -> None:
    bench = Bench(folder, store)
    await bench.open()
    piece = os.urandom(PIECE_OCTETS)
    waiting: list[QueuedMail] = []

    async def accept() -> None:
        writer = await bench.store.stage()
        for _ in range(LARGE_OCTETS // PIECE_OCTETS):
            await writer.write([piece])
        mail = bench.mail(size=LARGE_OCTETS, content_id=await writer.finish())
        await bench.commit([Insert(mail)])
        waiting.append(mail)

    async def accept_ten() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(accept)

    async def keep() -> None:
        for _ in range(10):
            await accept_ten()

    async def pass_on() -> None:
        for _ in range(10):
            await accept_ten()
            await bench.commit(bench.settles(waiting[-10:]))
            del waiting[-10:]

    for number in range(rounds):
        raw = write_files(folder / f"raw-{number}", LARGE_OCTETS, 100)
        kept, _ = await timed(keep)
        await bench.commit(bench.settles(waiting))
        waiting.clear()
        passed, cpu = await timed(pass_on)
        print(
            f"1 MiB, ten at once: {100 / kept:4.0f} mails/s kept, {100 / passed:4.0f} passed on"
            f" (CPU {cpu * 10:4.1f} ms a mail); one synced file after another {raw:4.0f}/s"
        )
    await bench.store.close()


# ---- with a backlog ------------------------------------------------------------------------------


def fill(
    bench: Bench, mails: int, *, octets: int = WAITING_OCTETS, advance: Callable[[int], None] = lambda mails: None
) -> None:
    """Deferred mails for tomorrow, to a thousand destinations, written behind the store's back to save an hour.

    Each has so many octets of content; `advance` hears how many were written since it was called last.
    """
    database = Place(str(bench.folder / "queue")).connect()
    database.execute("PRAGMA synchronous = OFF")
    tomorrow = bench.clock.wall() + DAY_SECONDS
    for start in range(0, mails, 10_000):
        rows, contents = [], []
        for number in range(start, min(start + 10_000, mails)):
            mail = bench.mail(size=octets, owner="")
            mail = attrs.evolve(
                mail,
                destination=f"host{number % 1000}.example",
                state=QueueState.DEFERRED,
                next_attempt_at=tomorrow + number % 9973,
                attempts=1,
            )
            rows.append(encode_mail(mail))
            contents.append((mail.id, bytes(octets), None, octets))
        database.execute("BEGIN IMMEDIATE")
        sql.INSERT_CONTENT.run(database, contents)
        sql.INSERT_MAIL.run(database, rows)
        database.execute("COMMIT")
        advance(len(rows))
    database.close()


async def road(bench: Bench, batches: int) -> dict[str, float]:
    """Seconds a batch of 32 for each step of the road, with what the dispatcher and the health page ask."""
    seconds: dict[str, float] = {}

    async def step(name: str, work: Callable[[], Awaitable[object]]) -> None:
        wall, _ = await timed(work)
        seconds[name] = seconds.get(name, 0.0) + wall / batches

    for _ in range(batches):
        inserts = bench.inserts(32, owner="")
        mails = [insert.mail for insert in inserts]
        claim = Claim(OWNER, bench.token, bench.clock.wall(), 32)
        await step("insert", lambda batch=inserts: bench.commit(batch))  # type: ignore[misc]  # a default binds it
        await step("claim", lambda claim=claim: bench.store.claim(claim))  # type: ignore[misc]  # likewise
        await step("begin", lambda mails=mails: bench.commit(bench.begins(mails)))  # type: ignore[misc]  # likewise
        await step("settle", lambda mails=mails: bench.commit(bench.settles(mails)))  # type: ignore[misc]  # likewise
        await step("next due", bench.store.next_due)
        await step("counts", bench.store.counts)
        await step("list 50", lambda: bench.store.list(Filter(), 50))
    return seconds


async def measure_backlog(folder: Path, rounds: int, store: str) -> None:
    if store != "sqlite":
        print("the backlog is written behind SQLite's back: only it can be measured so")
        return
    benches: dict[int, Bench] = {}
    for backlog in BACKLOGS:
        (folder / str(backlog)).mkdir()
        bench = benches[backlog] = Bench(folder / str(backlog))
        await bench.open()
        await trio.to_thread.run_sync(fill, bench, backlog)
        await bench.store.close()
        bench = benches[backlog] = Bench(folder / str(backlog))
        opening, _ = await timed(bench.open)
        print(f"{backlog} waiting: open and join {opening * 1e3:.0f} ms")
        await road(bench, 20)
    figures: dict[int, list[dict[str, float]]] = {backlog: [] for backlog in BACKLOGS}
    for _ in range(rounds):
        for backlog, bench in benches.items():
            figures[backlog].append(await road(bench, 20))
    for name in figures[0][0]:
        medians = [statistics.median(each[name] for each in figures[backlog]) for backlog in BACKLOGS]
        columns = "  ".join(f"{backlog}: {m * 1e3:6.2f} ms" for backlog, m in zip(BACKLOGS, medians, strict=True))
        print(f"{name:9} {columns}  last to first {medians[-1] / medians[0]:4.2f}")
    for bench in benches.values():
        await bench.store.close()


MEASURES = {"batches": measure_batches, "content": measure_content, "backlog": measure_backlog}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="a folder on the disk to be measured; default: the one for temporary files")
    parser.add_argument("--store", choices=["sqlite", "file"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("what", nargs="*", choices=[*MEASURES, []], help="default: all")
    chosen = parser.parse_args()
    for what in chosen.what or MEASURES:
        with folder_on(chosen.folder) as folder:
            trio.run(MEASURES[what], folder, chosen.rounds, chosen.store)


if __name__ == "__main__":
    main()
