"""Several workers on one queue: what was answered 250 arrives, whoever of them is killed."""

import itertools
import json
import os
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.datasource.servers import SERVERS, empty_database
from tests.peers.test_restart import SENDERS, Load, relay_config, wait_until_all_arrived
from tests.peers.wire import free_port, wait_until

#: More than two, so that a worker is neither the first nor the last.
PROCESSES = 3


class Returning(Load):
    """Senders that come again when their connection breaks; what was not answered then is not acknowledged."""

    def _send(self, port: int, name: str) -> None:
        for visit in itertools.count():
            if self._stop.is_set():
                return
            super()._send(port, f"{name}-{visit}")


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The section `storage` of an empty database."""
    dialect: Dialect = request.param
    with empty_database(dialect) as options:
        yield {"type": dialect.value, "dsn": dsn_of(options)}


def dsn_of(options: DatabaseOptions) -> str:
    user = f"{options.user}@" if options.user else ""
    return f"{options.dialect.value}://{user}{options.host}:{options.port}/{options.database}"


def events(server: ServerProcess, name: str) -> list[dict[str, Any]]:
    return [event for event in server.events if event["event"] == name]


def uncertain(server: ServerProcess) -> int:
    """Attempts in flight at a death, as found by whoever took the mails up."""
    found = [*events(server, "queue.joined"), *events(server, "queue.adopted")]
    return sum(event["uncertain"] for event in found)


@pytest.mark.parametrize("storage", SERVERS, indirect=True)
@pytest.mark.parametrize("killed", [(2,), (1, 2, 3)], ids=["one of them", "each in turn"])
def test_no_acknowledged_mail_is_lost_by_a_killed_worker(
    tmp_path: Path, storage: dict[str, str], killed: tuple[int, ...]
) -> None:
    with RecordingSink() as sink:
        config = {**relay_config(sink), "storage": storage, "processes": PROCESSES}
        with ServerProcess(tmp_path, config) as server:
            pids = {event["worker"]: event["pid"] for event in events(server, "worker.started")}
            load = Returning(server.port, "killed")
            for number in killed:
                sink.wait_for(len(sink.mails) + 100)
                os.kill(pids[number], signal.SIGKILL)
            wait_until(lambda: len(events(server, "worker.ready")) == PROCESSES + len(killed), "all are back")
            acknowledged = load.end()
            assert len(acknowledged) > 100
            arrived = wait_until_all_arrived(sink, acknowledged)
            missing = acknowledged - set(arrived)
            assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged mails never arrived"
            twice = [mark for mark, times in arrived.items() if times > 1]
            assert len(twice) <= uncertain(server) <= SENDERS * len(killed), "only what was in flight"
            assert server.stop() == 0


@pytest.mark.parametrize("storage", SERVERS, indirect=True)
def test_orders_reach_every_mail_whoever_took_it(tmp_path: Path, storage: dict[str, str]) -> None:
    route = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": free_port()}
    config = {
        "hostname": "mx.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [route],
        "storage": storage,
        "processes": PROCESSES,
    }
    with ServerProcess(tmp_path, config) as server:
        for _ in range(3 * PROCESSES):
            with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client") as client:
                client.sendmail("s@example.org", ["r@example.net"], "Subject: one\r\n\r\nText\r\n")
        wait_until(lambda: len(listed(server, "--state", "deferred")) == 3 * PROCESSES, "all tried once")
        assert queue(server, "delete", "--sender", "s@example.org", "--yes").returncode == 0
        assert listed(server) == []
        assert server.stop() == 0


def queue(server: ServerProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "elemta", "queue", *arguments]
    return subprocess.run(command, cwd=server.folder, capture_output=True, text=True, timeout=60, check=False)


def listed(server: ServerProcess, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(queue(server, "list", "-o", "json", *arguments).stdout)
    return found
