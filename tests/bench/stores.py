"""Whole servers on each store, and several nodes on one database.

What is not here: the servers of others (`servers`), or how figures are shown (`tables`). Databases are made on the
servers that `ELEMTA_TEST_POSTGRESQL` and `ELEMTA_TEST_MYSQL` name, and dropped again.

The accept measurement is the one of `bench_server accept`: durable acceptance, and an attempt, its record and its
removal for each mail. Syncs are counted in a run of their own: of our process by strace, of a database server by its
own counters.
"""

import contextlib
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import frozen
from rich.console import Console
from rich.progress import Progress

from elemta.datasource.base import Connection, Row
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.testing.process import ServerProcess
from tests.bench.servers import CASE_SECONDS, CASES, LOOK_SECONDS, load, place, postfix, sink
from tests.datasource.servers import empty_database, running

#: Mails of the run in which syncs are counted.
SYNC_MAILS = 2000
#: Where a database server counts its syncs: of the log; MariaDB those of its data files as well.
_SYNCS = {
    Dialect.POSTGRESQL: "SELECT wal_sync FROM pg_stat_wal",
    Dialect.MYSQL: "SHOW GLOBAL STATUS LIKE 'Innodb_data_fsyncs'",
}
_STRACE_ROW = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s.*\b(?:fsync|fdatasync)$", re.MULTILINE)


@frozen
class StoreKind:
    """One way to keep the queue."""

    name: str
    dialect: Dialect | None = None
    type: str = ""
    processes: int = 1


STORES = (
    StoreKind("sqlite", type="sqlite"),
    StoreKind("file", type="file"),
    StoreKind("postgresql", Dialect.POSTGRESQL),
    StoreKind("mysql", Dialect.MYSQL),
    StoreKind("postgresql, 2 processes", Dialect.POSTGRESQL, processes=2),
    StoreKind("mysql, 2 processes", Dialect.MYSQL, processes=2),
)


def dsn_of(options: DatabaseOptions) -> str:
    """The address of a database on this machine."""
    user = f"{options.user}@" if options.user else ""
    return f"{options.dialect.value}://{user}{options.host}:{options.port}/{options.database}"


def node_config(storage: Mapping[str, Any], *, relay_to: int | None, processes: int = 1) -> dict[str, Any]:
    way = {"transport": "discard"} if relay_to is None else {"transport": "smtp", "host": "127.0.0.1", "port": relay_to}
    many = {"max_connections_per_address": 10_000, "max_connections_per_network": 10_000, "max_connections": 10_000}
    return {
        "hostname": "elemta.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", **way}],
        "limits": many,
        "storage": dict(storage),
        "processes": processes,
    }


@contextmanager
def storage_of(kind: StoreKind) -> Iterator[tuple[dict[str, Any], DatabaseOptions | None]]:
    """The section `storage`, with the new database where there is one."""
    if kind.dialect is None:
        yield {"type": kind.type}, None
        return
    with empty_database(kind.dialect) as options:
        yield {"type": kind.dialect.value, "dsn": dsn_of(options)}, options


@contextmanager
def stored_on(kind: StoreKind, folder: Path) -> Iterator[tuple[ServerProcess, DatabaseOptions | None]]:
    """A server on a store of this kind."""
    with storage_of(kind) as (storage, options):
        with ServerProcess(folder, node_config(storage, relay_to=None, processes=kind.processes)) as server:
            yield server, options
            server.stop()


def measure_stores(cases: list[str], rounds: int, mails: int) -> dict[tuple[str, str], list[float]]:
    """Mails a second of each store, and of Postfix, in turn."""
    rates: dict[tuple[str, str], list[float]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("stores", total=rounds * len(cases) * (len(STORES) + 1))
        for _ in range(rounds):
            for case in cases:
                count = max(20, int(mails * CASES[case][3]))
                for kind in STORES:
                    with place() as folder, stored_on(kind, folder) as (server, _):
                        rates.setdefault((kind.name, case), []).append(_rate(server.port, case, count))
                    progress.advance(task)
                with place() as folder, postfix(folder) as port:
                    rates.setdefault(("postfix", case), []).append(_rate(port, case, count))
                progress.advance(task)
    return rates


def _rate(port: int, case: str, count: int) -> float:
    load(port, case, max(10, count // 20))
    return count / load(port, case, count)


def count_syncs(case: str) -> dict[str, float]:
    """Syncs a mail, by store: of the server's process, or of the database's log."""
    return {kind.name: _syncs_on(kind, case) / SYNC_MAILS for kind in STORES}


def _syncs_on(kind: StoreKind, case: str) -> int:
    with place() as folder, storage_of(kind) as (storage, options):
        server = ServerProcess(folder, node_config(storage, relay_to=None, processes=kind.processes))
        if options is None:
            with server:
                load(server.port, case, 50)
                syncs = _syncs_of_process(server.pid, folder, server.port, case)
                server.stop()
            return syncs
        before = _syncs_of_database(options)
        with server:
            load(server.port, case, SYNC_MAILS)
            # A connection tells what it did when it ends, at the latest.
            server.stop()
        return _syncs_of_database(options) - before


def _syncs_of_process(pid: int, folder: Path, port: int, case: str) -> int:
    report = folder / "strace"
    watching = ["strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-o", str(report), "-p", str(pid)]
    with subprocess.Popen(watching, stderr=subprocess.PIPE) as watcher:
        assert watcher.stderr is not None
        watcher.stderr.readline()  # "attached"
        load(port, case, SYNC_MAILS)
        watcher.terminate()
    return sum(map(int, _STRACE_ROW.findall(report.read_text())))


def _syncs_of_database(options: DatabaseOptions) -> int:
    async def look() -> list[Row]:
        async def ask(connection: Connection) -> list[Row]:
            return list(await connection.fetch(_SYNCS[options.dialect]))

        async with running(options) as database:
            return await database.look(ask)

    return int(trio.run(look)[0][-1])


# ---- nodes ---------------------------------------------------------------------------------------


@frozen
class NodesRun:
    """What several nodes did together: seconds until all was accepted, and until all was out.

    `reached` counts what the sink got, `twice` the mails that were delivered more than once by the nodes' own records,
    `shares` the mails that each node delivered.
    """

    mails: int
    accepted_seconds: float
    out_seconds: float
    reached: int
    twice: int
    shares: tuple[int, ...]


def measure_nodes(dialect: Dialect, nodes: int, mails: int, *, sessions: int = 20) -> NodesRun:
    """`mails` into `nodes` servers on one database, relayed to a sink; every node is fed its part at the same time."""
    with ExitStack() as stack:
        options = stack.enter_context(empty_database(dialect))
        target, counted = stack.enter_context(sink())
        storage = {"type": dialect.value, "dsn": dsn_of(options)}
        servers = []
        for _ in range(nodes):
            config = node_config(storage, relay_to=target)
            servers.append(stack.enter_context(ServerProcess(stack.enter_context(place()), config)))
        parts = [mails // nodes + (at < mails % nodes) for at in range(nodes)]
        began = time.monotonic()
        pairs = zip(servers, parts, strict=True)
        feeds = [threading.Thread(target=_feed, args=(server.port, part, sessions)) for server, part in pairs]
        for feed in feeds:
            feed.start()
        for feed in feeds:
            feed.join()
        accepted = time.monotonic() - began
        while counted() < mails and time.monotonic() - began < CASE_SECONDS:
            threading.Event().wait(LOOK_SECONDS)
        out = time.monotonic() - began
        for server in servers:
            server.stop()
        delivered = [_delivered(server) for server in servers]
        twice = sum(times > 1 for times in sum(delivered, Counter[str]()).values())
        shares = tuple(sum(each.values()) for each in delivered)
        return NodesRun(mails, accepted, out, counted(), twice, shares)


def _feed(port: int, mails: int, sessions: int) -> None:
    source = ["/usr/sbin/smtp-source", "-d", "-s", str(sessions), "-m", str(mails), "-l", "4096"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*source, "-f", "s@example.org", "-t", "r@example.com", f"127.0.0.1:{port}"],
            check=True,
            timeout=CASE_SECONDS,
        )


def _delivered(server: ServerProcess) -> Counter[str]:
    """How often each mail was delivered, by the server's log."""
    outcomes = (event for event in server.events if event["event"] == "delivery.outcome")
    return Counter(event["queue_id"] for event in outcomes if event["result"] == "delivered")
