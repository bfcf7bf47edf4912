"""What the queue itself costs a mail: submit, spool, dispatch, worker; without disk, sockets, log lines.

Run it: `python tests/bench/bench_queue.py --mails 20000 --sessions 10`. Times are of this process's CPU; a figure means
something only beside another from the same machine.
"""

import argparse
import cProfile
import pstats
import random
import tempfile
import time
from collections.abc import Mapping, Sequence

import trio

from elemta.delivery.base import Job
from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Priority, Recipient
from elemta.mail.outcome import Delivered, Outcome
from elemta.mail.reply import Reply
from elemta.observe.log import make_logger
from elemta.observe.metrics import Metrics
from elemta.observe.watch import Watch
from elemta.queue.options import QueueOptions
from elemta.queue.schedule import RetryPolicy
from elemta.queue.service import QueueService
from elemta.queue.submission import Submission
from elemta.runtime.clock import SystemClock
from elemta.runtime.ids import IdSource, SecureIds
from elemta.runtime.threads import WorkerThreads
from elemta.runtime.world import Runtime
from elemta.storage.base import Change, Claim, Insert, Joined, QueueStore, Result, Retention
from elemta.storage.memory import MemoryStore
from elemta.storage.records import ContentRef, QueuedMail, QueueState
from elemta.storage.sqlite import SqliteStore

DELIVERED = Delivered(Reply(250, "2.0.0", "queued"))


class NullDelivery:
    """Reads the content, passes the gate, delivers."""

    def __init__(self, mails: int, pause: float) -> None:
        self.left = mails
        self.pause = pause
        self.done = trio.Event()

    def destination(self, address: Address, route: str = "") -> str:
        return address.domain

    def priority_for(self, address: Address, route: str = "") -> Priority | None:
        return None

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        await job.content.read(0, job.content.size)
        await trio.sleep(self.pause) if self.pause else await trio.lowlevel.checkpoint()
        if not await job.gate():
            raise RuntimeError("the gate closed")
        self.left -= 1
        if not self.left:
            self.done.set()
        return [DELIVERED] * len(job.envelope.recipients)


class NullStore:
    """Answers at once after a pause that stands for the sync; keeps what waits for a claim."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.unowned: dict[str, QueuedMail] = {}
        self.contents: dict[str, bytes] = {}

    async def join(self, owner: str, now: float) -> Joined:
        return Joined(1, 0)

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        await trio.sleep(self.pause) if self.pause else await trio.lowlevel.checkpoint()
        for change in batch:
            if type(change) is Insert and not change.mail.owner:
                self.unowned[change.mail.id] = change.mail
                self.contents[change.mail.content.id] = change.content or b""
        return [Result.APPLIED] * len(batch)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.contents.pop(ref.id)

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        await trio.lowlevel.checkpoint()
        if not self.unowned or next(iter(self.unowned.values())).destination in claim.exclude:
            return []
        return [self.unowned.pop(key) for key in list(self.unowned)[: claim.limit]]

    async def next_due(self) -> float | None:
        return 0.0 if self.unowned else None

    async def counts(self) -> Mapping[QueueState, int]:
        return {}

    async def cleanup(self, retention: Retention) -> int:
        return 0


async def make_store(arguments: argparse.Namespace, runtime: Runtime, folder: str) -> NullStore | QueueStore:
    if arguments.store == "null":
        return NullStore(arguments.sync / 1000)
    store = MemoryStore() if arguments.store == "memory" else SqliteStore(folder, runtime.threads, runtime.clock)
    await store.open()
    return store


async def session(service: QueueService, ids: IdSource, mails: int, content: bytes) -> None:
    envelope = Envelope(Address("a", "source.example"), (Recipient(Address("b", "sink.example")),))
    for _ in range(mails):
        queue_id = ids.new_id()
        submission = Submission(queue_id, envelope, ContentRef(queue_id, len(content)), content)
        await service.submit(submission, timeout=60)


async def run(arguments: argparse.Namespace, folder: str) -> None:
    clock = SystemClock()
    runtime = Runtime(clock, WorkerThreads(), SecureIds(clock), random.Random(1))
    store = await make_store(arguments, runtime, folder)
    mails = arguments.mails // arguments.sessions * arguments.sessions
    delivery = NullDelivery(mails, arguments.dialogue / 1000)
    options = QueueOptions(node="bench", hostname="bench.example", retry=RetryPolicy((60.0,), 3))
    watch = Watch(make_logger("info" if arguments.log else "error", "json"), Metrics())
    service = QueueService(store, delivery, runtime=runtime, options=options, watch=watch)  # type: ignore[arg-type]  # only the verbs the bench meets
    content = b"Subject: bench\r\n\r\n" + b"x" * 4076 + b"\r\n"
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        began, cpu = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as sessions:
            for _ in range(arguments.sessions):
                sessions.start_soon(session, service, runtime.ids, mails // arguments.sessions, content)
        accepted = time.perf_counter()
        await delivery.done.wait()
        ended, cpu_ended = time.perf_counter(), time.process_time()
        nursery.cancel_scope.cancel()
    commits = watch.metrics.registry.get_sample_value("elemta_store_commits_total") or 1
    changes = watch.metrics.registry.get_sample_value("elemta_store_changes_total") or 0
    print(
        f"{mails} mails, {arguments.sessions} sessions: {(cpu_ended - cpu) / mails * 1e6:.1f} µs CPU a mail, "
        f"accepted {mails / (accepted - began):.0f}/s, relayed {mails / (ended - began):.0f}/s, "
        f"{commits / mails:.3f} syncs a mail, {changes / commits:.1f} changes a sync"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", type=int, default=20_000)
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--store", choices=["null", "memory", "sqlite"], default="null")
    parser.add_argument("--folder", help="where the SQLite queue is made; default: the system's temporary folder")
    parser.add_argument("--sync", type=float, default=0.0, help="milliseconds that a commit of the null store takes")
    parser.add_argument("--dialogue", type=float, default=0.0, help="milliseconds that a delivery takes")
    parser.add_argument("--log", action="store_true", help="write log events to standard error")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if not arguments.profile:
            trio.run(run, arguments, folder)
            return
        profile = cProfile.Profile()
        profile.runcall(trio.run, run, arguments, folder)
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
