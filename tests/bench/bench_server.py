"""Measures whole servers: Elemta, Postfix, a durable aiosmtpd handler, in turn.

    python -m tests.bench.bench_server accept [--rounds 3] [--mails 2000] [--case "S50 kept"]
    python -m tests.bench.bench_server relay
    python -m tests.bench.bench_server latency [--rounds 3] [--mails 2000]
    python -m tests.bench.bench_server tls [--rounds 3] [--mails 2000]
    python -m tests.bench.bench_server logins [--rounds 3]
    python -m tests.bench.bench_server plugins [--rounds 3] [--mails 2000] [--case "S50 kept"]
    python -m tests.bench.bench_server backlog [--queued 0 10000 1000000]
    python -m tests.bench.bench_server idle [--connections 1000]
    python -m tests.bench.bench_server stores [--rounds 3] [--mails 2000] [--case S50]
    python -m tests.bench.bench_server syncs [--case S50]
    python -m tests.bench.bench_server nodes [--rounds 3] [--mails 20000]

Every server stores on the same disk. Postfix parks what it takes in hold; Elemta delivers to `discard`, which costs it
an attempt, its record and its removal for each mail. The load is Postfix's smtp-source, for `latency` a client of our
own, for `tls` openssl and stunnel as well. smtp-sink, which throws mail away, is the ceiling of the tool. `backlog` is
about Elemta alone. Only the ratios of one run travel to another machine. Needs root (Postfix) and Debian's postfix.
"""

import argparse
import socket
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from elemta.datasource.options import Dialect
from elemta.testing.process import ServerProcess
from tests.bench import backlog, encryption, latency, logins
from tests.bench.backlog import measure_backlog
from tests.bench.encryption import measure_encryption
from tests.bench.latency import measure_latency
from tests.bench.logins import measure_logins
from tests.bench.plugged import measure_plugins
from tests.bench.servers import CASE_SECONDS, CASES, LIMITS, LOOK_SECONDS, aiosmtpd, elemta, load, place, postfix, sink
from tests.bench.stores import count_syncs, measure_nodes, measure_stores
from tests.bench.tables import Samples, show, show_growth, show_nodes, show_stores


def measure_accept(cases: list[str], rounds: int, mails: int) -> Samples:
    servers = {"elemta": elemta, "postfix": postfix, "aiosmtpd": aiosmtpd}
    rates: Samples = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("accept", total=rounds * len(cases) * (len(servers) + 1))
        for _ in range(rounds):
            for case in cases:
                count = max(20, int(mails * CASES[case][3]))
                with sink() as (port, _):
                    rates.setdefault((case, "smtp-sink"), []).append(count / load(port, case, count))
                progress.advance(task)
                for name, server in servers.items():
                    with place() as folder, server(folder) as port:
                        load(port, case, max(10, count // 20))
                        rates.setdefault((case, name), []).append(count / load(port, case, count))
                    progress.advance(task)
    return rates


def measure_relay(cases: list[str], rounds: int, mails: int) -> Samples:
    rates: Samples = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("relay", total=rounds * len(cases) * 2)
        for _ in range(rounds):
            for case in cases:
                count = max(20, int(mails * CASES[case][3]))
                for name, server in (("elemta", elemta), ("postfix", postfix)):
                    with place() as folder, sink() as (target, counted), server(folder, relay_to=target) as port:
                        began = time.monotonic()
                        load(port, case, count)
                        while counted() < count and time.monotonic() - began < CASE_SECONDS:
                            threading.Event().wait(LOOK_SECONDS)
                        rates.setdefault((case, name), []).append(counted() / (time.monotonic() - began))
                    progress.advance(task)
    return rates


def measure_idle(connections: int) -> None:
    """Memory of idle connections: resident KiB of the server before and after."""
    with place() as folder:
        config = {"hostname": "elemta.example.com", "dev_mode": True}
        with ServerProcess(folder, {**config, "limits": LIMITS}) as server:
            steps = [count for count in (0, 100, 1000, 5000) if count <= connections]
            held: list[socket.socket] = []
            first = 0
            for step in steps:
                while len(held) < step:
                    client = socket.create_connection(("127.0.0.1", server.port))
                    client.recv(1000)
                    client.sendall(b"EHLO idle\r\n")
                    client.recv(1000)
                    held.append(client)
                resident = _resident_kib(server.pid)
                first = first or resident
                each = (resident - first) / step if step else 0.0
                print(f"{step:5} connections: {resident} KiB resident, {each:.1f} KiB each")
            for client in held:
                client.close()


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


WHAT = ("accept", "relay", "latency", "backlog", "tls", "logins", "plugins", "idle", "stores", "syncs", "nodes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mails", type=int)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--queued", type=int, nargs="+", default=[0, 10_000, 1_000_000])
    parser.add_argument("--case", action="append", choices=CASES)
    chosen = parser.parse_args()
    chosen.mails = chosen.mails or (20_000 if chosen.what == "nodes" else 2000)
    medians = f"medians of {chosen.rounds}"
    match chosen.what:
        case "idle":
            measure_idle(chosen.connections)
        case "stores":
            cases = chosen.case or ["S10", "S50", "S50 kept"]
            show_stores(measure_stores(cases, chosen.rounds, chosen.mails), cases, f"stores: mails a second, {medians}")
        case "syncs":
            for case in chosen.case or ["S50"]:
                print(f"syncs a mail, {case}:", {name: round(each, 2) for name, each in count_syncs(case).items()})
        case "nodes":
            for dialect in Dialect:
                runs = {
                    nodes: [measure_nodes(dialect, nodes, chosen.mails) for _ in range(chosen.rounds)]
                    for nodes in (1, 2, 3)
                }
                show_nodes(runs, f"nodes on one {dialect.value}: {chosen.mails} mails, {medians}")
        case "latency":
            show(measure_latency(chosen.rounds, chosen.mails), latency.ROWS, f"latency: ten sessions, 4 KiB, {medians}")
        case "tls":
            show(measure_encryption(chosen.rounds, chosen.mails), encryption.ROWS, f"TLS: {medians}")
        case "logins":
            show(measure_logins(chosen.rounds), logins.ROWS, f"logins: ten sessions, {medians}")
        case "plugins":
            cases = chosen.case or ["S10", "S50", "S50 kept"]
            show(measure_plugins(cases, chosen.rounds, chosen.mails), cases, f"plugins: mails a second, {medians}")
        case "backlog":
            samples = measure_backlog(chosen.queued, chosen.rounds, chosen.mails)
            show_growth(samples, [str(size) for size in chosen.queued], f"backlog: {backlog.CASE}, {medians}")
        case _:
            default = [*CASES] if chosen.what == "accept" else ["S10", "S10 kept", "S50 kept"]
            cases = chosen.case or default
            run = measure_accept if chosen.what == "accept" else measure_relay
            show(run(cases, chosen.rounds, chosen.mails), cases, f"{chosen.what}: mails a second, {medians}")


if __name__ == "__main__":
    main()
