"""A server of several worker processes without a database.

Each worker has a queue of its own in memory, which no configuration allows: what is tested with it is the parent and
its workers, not the queue. What is not here: assertions.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elemta.testing.process import ServerProcess
from tests.peers.wire import Wire, wait_until

_PROGRAM = """
import sys
import attrs
from elemta.cli.main import main
from elemta.supervisor import process

number, run_process = int(sys.argv.pop(1)), process.run_process

def run_several(source, options):
    source.config = attrs.evolve(source.config, processes=number)
    run_process(source, options)

process.run_process = run_several
main()
"""

MAIL = b"Subject: whole\r\n\r\nA line.\r\n.\r\n"


class SeveralWorkers(ServerProcess):
    """`elemta run` with `number` workers."""

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None, *, number: int = 2) -> None:
        base = {"hostname": "mx.example.com", "storage": {"type": "memory"}, "allowed_relays": ["127.0.0.1"]}
        routes = [{"domain": "*", "transport": "discard"}]
        super().__init__(folder, {**base, "routes": routes, **(config or {})})
        self.program = ("-c", _PROGRAM, str(number))

    def events_of(self, name: str) -> list[dict[str, Any]]:
        """The events of one name, oldest first."""
        return [event for event in self.events if event["event"] == name]

    def worker(self, number: int) -> int:
        """The process id of a worker that was started last."""
        return int([event["pid"] for event in self.events_of("worker.started") if event["worker"] == number][-1])

    def wait_for_events(self, name: str, count: int) -> list[dict[str, Any]]:
        """Wait until an event of this name was logged so often."""
        wait_until(lambda: len(self.events_of(name)) >= count, f"{count} times {name}")
        return self.events_of(name)


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return _state(pid) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let these processes stand still for the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: all(_state(pid) == "T" for pid in pids), f"{pids} stopped")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def open_descriptors(pid: int) -> set[str]:
    """What the descriptors of a process are."""
    folder = f"/proc/{pid}/fd"
    return {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}


def begin(wire: Wire) -> None:
    """Bring a dialogue to the middle of a mail."""
    assert wire.reply().startswith(b"220")
    for line in (b"EHLO client", b"MAIL FROM:<s@example.org>", b"RCPT TO:<r@example.net>", b"DATA"):
        assert wire.ask(line + b"\r\n")[:1] in (b"2", b"3")


def finish(wire: Wire) -> bytes:
    """Send the rest of the mail; its reply."""
    return wire.ask(MAIL)
