"""What a unit of work on PostgreSQL and MySQL takes: the drivers, the border between Trio and asyncio, the server.

Run it: `python -m tests.bench.bench_datasource [--units 2000] [--at-once 1 8]`. Servers as for the tests
(`ELEMTA_TEST_POSTGRESQL`, `ELEMTA_TEST_MYSQL`). CPU is this process's alone; what is not CPU is the server's and its
disk's. The driver's own figures beside them are of the same statements, one after another within one unit of work.
"""

import argparse
import os
import time
from collections.abc import Awaitable, Callable

import trio

from elemta.datasource.base import Connection
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.datasource.pool import PooledDatabase
from tests.datasource.servers import empty_database, running, statement

ROWS, ROW_OCTETS = 50, 4096
LONG_SECONDS = 600.0

Work = Callable[[Connection], Awaitable[None]]


class Sorts:
    """The sorts of work that are measured, in one dialect."""

    def __init__(self, options: DatabaseOptions) -> None:
        self._options = options
        self._made = 0
        self._content = os.urandom(ROW_OCTETS)
        self._insert = statement(options, "INSERT INTO t VALUES " + ", ".join(["(%s, %s)"] * ROWS))

    async def make(self, connection: Connection) -> None:
        await connection.execute(statement(self._options, "CREATE TABLE t (id bigint PRIMARY KEY, content OCTETS)"))

    async def nothing(self, connection: Connection) -> None:
        pass

    async def one_row(self, connection: Connection) -> None:
        await connection.fetch("SELECT 1")

    async def insert(self, connection: Connection) -> None:
        values: list[object] = []
        for number in range(self._made, self._made + ROWS):
            values += (number, self._content)
        self._made += ROWS
        await connection.execute(self._insert, *values)


async def measure(label: str, units: int, at_once: int, unit: Callable[[], Awaitable[None]]) -> None:
    """Run units in so many tasks, print the rate and this process's CPU for one."""
    left = units

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await unit()

    wall, cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{label:44}{at_once:3} at once {units / wall:9.0f} units/s {cpu / units * 1e6:8.0f} µs CPU a unit")


async def driver_alone(database: PooledDatabase, sorts: Sorts, units: int) -> None:
    """Round trips within one unit: no border is crossed, no place taken."""

    async def many(connection: Connection) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(units):
            await sorts.one_row(connection)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rate, micro = units / wall, cpu / units * 1e6
        print(f"{'  one round trip, within one unit':44}  1 at once {rate:9.0f} units/s {micro:8.0f} µs CPU a unit")

    await database.labour(many, seconds=LONG_SECONDS)


async def bench(options: DatabaseOptions, units: int, at_once: list[int]) -> None:
    sorts = Sorts(options)
    async with running(options) as database:
        await database.look(sorts.make)
        print(options.dialect.value)
        await driver_alone(database, sorts, units)
        for tasks in at_once:
            await measure("  look: one SELECT", units, tasks, lambda: database.look(sorts.one_row))
            await measure("  transact: nothing", units, tasks, lambda: database.transact(sorts.nothing))
            label = f"  transact: insert {ROWS} rows of {ROW_OCTETS} octets"
            await measure(label, max(1, units // 10), tasks, lambda: database.transact(sorts.insert))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=2000, help="units of work of each sort; a tenth of them inserts")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8], help="tasks that ask for them")
    arguments = parser.parse_args()
    for dialect in Dialect:
        with empty_database(dialect) as options:
            trio.run(bench, options, arguments.units, arguments.at_once)


if __name__ == "__main__":
    main()
