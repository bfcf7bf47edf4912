"""The servers that are measured, with the load of Postfix's smtp-source.

What is not here: what is measured, or how it is shown. Every server is a context manager on a folder of its own that
gives its port. Failures raised: `ServerFailed`, or `subprocess.CalledProcessError` for what the programs said.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
HOLD = f"smtpd_data_restrictions = check_client_access static:HOLD\n{_UNTHROTTLED}"

#: Limits that no load of ours meets.
LIMITS = {"max_connections_per_address": 10_000, "max_connections_per_network": 10_000, "max_connections": 10_000}

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
def elemta_process(folder: Path, *, relay_to: int | None = None) -> Iterator[ServerProcess]:
    """Elemta with its queue in `folder`; a queue that lies there already is taken up. Stopped in order at the end."""
    way = {"transport": "discard"} if relay_to is None else {"transport": "smtp", "host": "127.0.0.1", "port": relay_to}
    config = {
        "hostname": "elemta.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", **way}],
        "limits": LIMITS,
    }
    with ServerProcess(folder, config) as server:
        yield server
        server.stop()


@contextmanager
def elemta(folder: Path, *, relay_to: int | None = None) -> Iterator[int]:
    with elemta_process(folder, relay_to=relay_to) as server:
        yield server.port


@contextmanager
def postfix(folder: Path, *, relay_to: int | None = None) -> Iterator[int]:
    port = free_port()
    extra = HOLD if relay_to is None else _UNTHROTTLED
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
    """A new folder on the disk that is measured; BENCH_DIR names another disk."""
    folder = Path(tempfile.mkdtemp(prefix="elemta-bench-", dir=os.environ.get("BENCH_DIR", "/var/tmp")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
