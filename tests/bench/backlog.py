"""What Elemta takes for a mail while many others wait in its queue.

The waiting mails are due tomorrow, so that nothing tries them; each has a few octets of content. They are written once
for each size, behind the store's back (`bench_store.fill`); every round starts a server on a copy, synced before, lest
the disk still writes the copy while the server is measured.
What is not here: the store by itself, statement by statement (`bench_store`).
"""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import trio
from rich.console import Console
from rich.progress import Progress

from elemta.testing.process import ServerProcess
from tests.bench.bench_store import Bench, fill
from tests.bench.servers import CASE_SECONDS, LOOK_SECONDS, elemta_process, load, place
from tests.bench.tables import Samples

CASE = "S10 kept"
#: Octets of content of a mail that waits: a content of its own for each, without gigabytes to copy.
WAITING_OCTETS = 16
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def prepare(folder: Path, queued: int, progress: Progress) -> None:
    """A queue in `folder` with so many deferred mails, no connection open."""
    bench = Bench(folder)

    async def make() -> None:
        await bench.store.open()
        await bench.store.close()

    trio.run(make)
    task = progress.add_task(f"fill {queued}", total=queued)
    fill(bench, queued, octets=WAITING_OCTETS, advance=lambda mails: progress.advance(task, mails))
    progress.update(task, visible=False)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, user and system; its threads included, its children not (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def wait_for_deliveries(server: ServerProcess, mails: int) -> None:
    """Wait until so many mails have left; raises `TimeoutError`."""
    deadline = time.monotonic() + CASE_SECONDS
    while server.log.count('"delivery.outcome"') < mails:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"not all of {mails} mails were delivered within {CASE_SECONDS} s:\n{server.log[-2000:]}"
            )
        threading.Event().wait(LOOK_SECONDS * 10)


def measure_once(template: Path, mails: int) -> tuple[float, float]:
    """Mails a second answered 250; milliseconds of the server's processor for a mail, until the last has left."""
    with place() as folder:
        shutil.copytree(template / "queue", folder / "queue")
        os.sync()
        with elemta_process(folder) as server:
            warm_up = max(10, mails // 20)
            load(server.port, CASE, warm_up)
            wait_for_deliveries(server, warm_up)
            before = cpu_seconds(server.pid)
            rate = mails / load(server.port, CASE, mails)
            wait_for_deliveries(server, warm_up + mails)
            return rate, (cpu_seconds(server.pid) - before) * 1e3 / mails


def measure_backlog(sizes: Sequence[int], rounds: int, mails: int) -> Samples:
    """A sample a round for each size, the sizes in turn."""
    samples: Samples = {}
    with Progress(console=Console(stderr=True)) as progress, place() as templates:
        for queued in sizes:
            (templates / str(queued)).mkdir()
            prepare(templates / str(queued), queued, progress)
        task = progress.add_task("backlog", total=rounds * len(sizes))
        for _ in range(rounds):
            for queued in sizes:
                rate, cpu = measure_once(templates / str(queued), mails)
                samples.setdefault((str(queued), "mails a second"), []).append(rate)
                samples.setdefault((str(queued), "CPU ms a mail"), []).append(cpu)
                progress.advance(task)
    return samples
