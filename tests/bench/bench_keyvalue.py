"""What the plugins' state takes: calls a second in memory, in SQLite, on PostgreSQL, on MySQL or MariaDB.

Run it: `python -m tests.bench.bench_keyvalue [--seconds 2] [--at-once 1 50] [--store sqlite]`. Servers as for the tests
(`ELEMTA_TEST_POSTGRESQL`, `ELEMTA_TEST_MYSQL`); a database is made and dropped again. Each call is about a key of its
own, but for the counters, of which there are ten.
"""

import argparse
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from elemta.datasource.options import Dialect
from elemta.plugins.api import KeyValue
from elemta.runtime.clock import SystemClock
from elemta.runtime.threads import WorkerThreads
from elemta.storage.keyvalue import KeyValueStore
from elemta.storage.keyvalue_memory import MemoryKeyValue
from elemta.storage.keyvalue_shared import SharedKeyValue
from elemta.storage.keyvalue_sqlite import SqliteKeyValue
from tests.datasource.servers import empty_database, running

SERVERS = {"postgresql": Dialect.POSTGRESQL, "mysql": Dialect.MYSQL}
STORES = ("memory", "sqlite", *SERVERS)
#: As greylisting keeps it: when somebody came first.
VALUE = b"1800000000.25"
LONG_SECONDS = 3600.0
COUNTERS = 10

Call = Callable[[KeyValue, int], Awaitable[object]]

CALLS: dict[str, Call] = {
    "put": lambda part, number: part.put(f"{number}", VALUE, seconds=LONG_SECONDS),
    "get": lambda part, number: part.get(f"{number}"),
    "swap": lambda part, number: part.swap(f"swap {number}", None, VALUE, seconds=LONG_SECONDS),
    "add": lambda part, number: part.add(f"counter {number % COUNTERS}", seconds=LONG_SECONDS),
}


@asynccontextmanager
async def serving(store: KeyValueStore) -> AsyncIterator[KeyValue]:
    await store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store.of("bench")
        nursery.cancel_scope.cancel()
    await store.close()


async def rate(part: KeyValue, call: Call, *, tasks: int, seconds: float) -> float:
    """Calls a second."""
    numbers = itertools.count()
    began = trio.current_time()

    async def ask() -> None:
        while trio.current_time() < began + seconds:
            await call(part, next(numbers))

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(ask)
    return next(numbers) / (trio.current_time() - began)


async def measure(name: str, store: KeyValueStore, arguments: argparse.Namespace) -> None:
    async with serving(store) as part:
        for tasks in arguments.at_once:
            rates = [
                f"{what} {await rate(part, call, tasks=tasks, seconds=arguments.seconds):7.0f}/s"
                for what, call in CALLS.items()
            ]
            print(f"{name:12}{tasks:4} at once  {'  '.join(rates)}")


async def measure_here(name: str, arguments: argparse.Namespace) -> None:
    if name == "memory":
        await measure(name, MemoryKeyValue(SystemClock()), arguments)
        return
    with tempfile.TemporaryDirectory(prefix="elemta-bench-", dir=arguments.folder) as folder:
        await measure(name, SqliteKeyValue(Path(folder), WorkerThreads(), SystemClock()), arguments)


def measure_there(name: str, arguments: argparse.Namespace) -> None:
    with empty_database(SERVERS[name]) as options:

        async def run() -> None:
            async with running(options) as database:
                await measure(name, SharedKeyValue(database), arguments)

        trio.run(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 50], help="tasks that ask")
    parser.add_argument("--store", choices=STORES, nargs="+", default=STORES)
    parser.add_argument("--folder", type=Path, help="where SQLite's file lies")
    arguments = parser.parse_args()
    for name in arguments.store:
        if name in SERVERS:
            measure_there(name, arguments)
        else:
            trio.run(measure_here, name, arguments)


if __name__ == "__main__":
    main()
