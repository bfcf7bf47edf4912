"""Measures whole servers with Postfix's smtp-source: Elemta, Postfix, a durable aiosmtpd handler, in turn.

    python -m tests.bench.bench_server accept [--rounds 3] [--mails 2000] [--case "S50 kept"]
    python -m tests.bench.bench_server relay
    python -m tests.bench.bench_server idle [--connections 1000]

Every server stores on the same disk. Postfix parks what it takes in hold; Elemta delivers to `discard`, which costs it
an attempt, its record and its removal for each mail. smtp-sink, which throws mail away, is the ceiling of the tool.
Only the ratios of one run travel to another machine. Needs root (Postfix) and Debian's postfix.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from elemta.testing.process import ServerProcess
from tests.peers.postfix import Postfix

SOURCE, SINK = "/usr/sbin/smtp-source", "/usr/sbin/smtp-sink"
#: name → (sessions, kept connection, octets a mail, share of the mails asked for)
CASES = {
    "S1": (1, False, 4096, 0.25),
    "S10": (10, False, 4096, 1.0),
    "S50": (50, False, 4096, 1.0),
    "S1 kept": (1, True, 4096, 0.25),
    "S10 kept": (10, True, 4096, 1.0),
    "S50 kept": (50, True, 4096, 1.0),
    "M10": (10, True, 1_048_576, 0.1),
}
#: Seconds that one case may take.
CASE_SECONDS = 300
#: Between two looks at another process, which cannot tell us when.
LOOK_SECONDS = 0.01
_UNTHROTTLED = "in_flow_delay = 0\nsmtpd_client_connection_count_limit = 0"
_HOLD = f"smtpd_data_restrictions = check_client_access static:HOLD\n{_UNTHROTTLED}"

_AIOSMTPD = """
import asyncio, os, sys, uuid
from aiosmtpd.controller import Controller
folder, port = sys.argv[1], int(sys.argv[2])

def keep(content):
    name = os.path.join(folder, uuid.uuid4().hex)
    with open(name + ".new", "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(name + ".new", name)
    there = os.open(folder, os.O_RDONLY)
    os.fsync(there)
    os.close(there)

class Durable:
    async def handle_DATA(self, server, session, envelope):
        await asyncio.get_running_loop().run_in_executor(None, keep, envelope.original_content)
        return "250 kept"

Controller(Durable(), hostname="127.0.0.1", port=port, data_size_limit=30_000_000).start()
print("ready", flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 15
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(LOOK_SECONDS)
        else:
            return


@contextmanager
def sink(*options: str) -> Iterator[tuple[int, Callable[[], int]]]:
    """A running smtp-sink: its port, and how many mails it has counted."""
    port = free_port()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([SINK, "-u", "nobody", "-c", *options, f"127.0.0.1:{port}", "1000"], stdout=said)

        def counted() -> int:
            said.seek(0)
            last = said.read().rsplit(b"mesg=", 1)[-1]
            return int(last.split(b"\r")[0].split()[0] or 0) if last else 0

        try:
            wait_for_port(port)
            yield port, counted
        finally:
            process.terminate()
            process.wait()


def load(port: int, case: str, mails: int) -> float:
    """Run one case; the seconds it took."""
    sessions, kept, octets, _ = CASES[case]
    options = ["-d"] if kept else []
    sizes = ["-s", str(sessions), "-m", str(mails), "-l", str(octets)]
    began = time.monotonic()
    subprocess.run(
        [SOURCE, *options, *sizes, "-f", "s@example.org", "-t", "r@example.com", f"127.0.0.1:{port}"],
        check=True,
        timeout=CASE_SECONDS,
    )
    return time.monotonic() - began


@contextmanager
def elemta(folder: Path, *, relay_to: int | None = None) -> Iterator[int]:
    way = {"transport": "discard"} if relay_to is None else {"transport": "smtp", "host": "127.0.0.1", "port": relay_to}
    limits = {"max_connections_per_address": 10_000, "max_connections_per_network": 10_000, "max_connections": 10_000}
    config = {
        "hostname": "elemta.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", **way}],
        "limits": limits,
    }
    with ServerProcess(folder, config) as server:
        yield server.port
        server.stop()


@contextmanager
def postfix(folder: Path, *, relay_to: int | None = None) -> Iterator[int]:
    port = free_port()
    extra = _HOLD if relay_to is None else _UNTHROTTLED
    folder.chmod(0o755)
    with Postfix(Path("/usr/sbin/postfix"), folder, port=port, relay_port=relay_to or 9, extra=extra):
        wait_for_port(port)
        yield port


@contextmanager
def aiosmtpd(folder: Path) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _AIOSMTPD, str(folder), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield port
    finally:
        process.kill()
        process.communicate()


@contextmanager
def place() -> Iterator[Path]:
    """A new folder on the disk that is measured; ELEMTA_BENCH_DIR names another disk."""
    folder = Path(tempfile.mkdtemp(prefix="elemta-bench-", dir=os.environ.get("ELEMTA_BENCH_DIR", "/var/tmp")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


Rates = dict[tuple[str, str], list[float]]


def measure_accept(cases: list[str], rounds: int, mails: int) -> Rates:
    servers = {"elemta": elemta, "postfix": postfix, "aiosmtpd": aiosmtpd}
    rates: Rates = {}
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


def measure_relay(cases: list[str], rounds: int, mails: int) -> Rates:
    rates: Rates = {}
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


def show(rates: Rates, cases: list[str], title: str) -> None:
    names = list(dict.fromkeys(name for _, name in rates))
    table = Table("case", *names, *(f"elemta / {name}" for name in names if name != "elemta"), title=title)
    for case in cases:
        medians = {name: statistics.median(rates[case, name]) for name in names}
        ratios = [f"{medians['elemta'] / medians[name]:.2f}" for name in names if name != "elemta"]
        table.add_row(case, *(f"{medians[name]:.0f}" for name in names), *ratios)
    Console(width=120).print(table)


def measure_idle(connections: int) -> None:
    """Memory of idle connections: resident KiB of the server before and after."""
    with place() as folder:
        config = {"hostname": "elemta.example.com", "dev_mode": True}
        many = {"max_connections_per_address": 10_000, "max_connections_per_network": 10_000, "max_connections": 10_000}
        with ServerProcess(folder, {**config, "limits": many}) as server:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accept", "relay", "idle"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mails", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--case", action="append", choices=CASES)
    chosen = parser.parse_args()
    if chosen.what == "idle":
        measure_idle(chosen.connections)
        return
    default = [*CASES] if chosen.what == "accept" else ["S10", "S10 kept", "S50 kept"]
    cases = chosen.case or default
    run = measure_accept if chosen.what == "accept" else measure_relay
    show(run(cases, chosen.rounds, chosen.mails), cases, f"{chosen.what}: mails a second, medians of {chosen.rounds}")


if __name__ == "__main__":
    main()
