"""A configuration that is read again while the server runs: promise 30, the half about a reload.

What is not here: certificates (`test_tls_in`), what the service manager hears (`tests/supervisor`).
"""

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.datasource.servers import SERVERS, empty_database
from tests.peers.test_plugged_server import plugin
from tests.peers.test_workers import dsn_of
from tests.peers.wire import Wire, free_port, wait_until

MAIL = b"MAIL FROM:<s@example.org>\r\n"
STRANGER = b"RCPT TO:<r@elsewhere.example>\r\n"
DISCARDING: dict[str, Any] = {"hostname": "mx.example.com", "routes": [{"domain": "*", "transport": "discard"}]}
OPEN = {**DISCARDING, "allowed_relays": ["127.0.0.1"]}


def events(server: ServerProcess, name: str) -> list[dict[str, Any]]:
    return [event for event in server.events if event["event"] == name]


def reload(server: ServerProcess, config: Any, event: str = "config.reloaded", *, times: int = 1) -> Any:
    """Have another configuration read; the last event that says what came of it."""
    before = len(events(server, event))
    server.configure(config)
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: len(events(server, event)) >= before + times, event)
    return events(server, event)[-1]


def stopped(server: ServerProcess) -> list[str]:
    return [event["word"] for event in events(server, "stopped")]


def begun(server: ServerProcess) -> Wire:
    wire = Wire(server.port)
    wire.greeting()
    wire.ask(b"EHLO client.example\r\n")
    assert wire.ask(MAIL).startswith(b"250 ")
    return wire


def relays(server: ServerProcess) -> bool:
    with begun(server) as wire:
        return wire.ask(STRANGER).startswith(b"250 ")


def deliver(server: ServerProcess) -> bytes:
    with begun(server) as wire:
        assert wire.ask(STRANGER).startswith(b"250 ")
        wire.ask(b"DATA\r\n")
        return wire.ask(b"Subject: x\r\n\r\nbody\r\n.\r\n")


def test_who_comes_finds_what_changed_and_who_is_there_what_was(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, DISCARDING) as server, begun(server) as there:
        told = reload(server, {**OPEN, "max_size": 1000, "limits": {"max_connections_per_address": 2}})
        assert told["changed"] == ["max_size", "allowed_relays", "limits"]
        assert told["after_restart"] == []
        assert there.ask(STRANGER).startswith(b"550 "), "it goes on by what it began with"
        with Wire(server.port) as wire:
            wire.greeting()
            assert b"SIZE 1000" in wire.ask(b"EHLO client.example\r\n")
            wire.ask(MAIL)
            assert wire.ask(STRANGER).startswith(b"250 ")
            with Wire(server.port) as third:
                assert third.greeting().startswith(b"421 ")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('{"max_size": 100,}', "elemta.conf:1"),
        ({**OPEN, "max_sise": 1000}, "max_sise"),
        ({**OPEN, "routes": [{"domain": "*", "transport": "pigeon"}]}, "routes[0].transport"),
        ({**OPEN, "rules": {"enabled": True, "path": "/nowhere"}}, "/nowhere"),
        (
            {**OPEN, "plugins": {"plugins": ["nobody", "noone"]}},
            'plugins.plugins[1]: there is no plugin named "noone".',
        ),
    ],
)
def test_what_is_not_sound_changes_nothing(tmp_path: Path, config: Any, says: str) -> None:
    with ServerProcess(tmp_path, DISCARDING) as server:
        told = reload(server, config, "config.reload_failed")
        assert any(says in problem and "\n" not in problem for problem in told["problems"])
        with begun(server) as wire:
            assert wire.ask(STRANGER).startswith(b"550 ")
        assert reload(server, OPEN)["changed"] == ["allowed_relays"], "the next one is taken over"
        assert deliver(server).startswith(b"250 ")


def test_a_plugin_that_cannot_start_changes_nothing(tmp_path: Path) -> None:
    quick = plugin(tmp_path, "quick", "    async def on_connect(self, session):\n        return CONTINUE\n")
    broken = plugin(tmp_path, "broken", '    async def start(self):\n        raise ValueError("no licence")\n')
    folder = {"plugin_path": str(tmp_path / "plugins")}
    with ServerProcess(tmp_path, {**DISCARDING, "plugins": {**folder, "plugins": [quick]}}) as server:
        config = {**OPEN, "plugins": {**folder, "plugins": [quick, broken]}}
        told = reload(server, config, "config.reload_failed")
        assert "no licence" in told["problems"][0]
        with begun(server) as wire:
            assert wire.ask(STRANGER).startswith(b"550 ")


def test_what_a_person_should_know_is_told_again(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, DISCARDING) as server:
        route = {"domain": "*", "transport": "maildir", "path": str(tmp_path / "nowhere/at/all/{local}")}
        told = reload(server, {**DISCARDING, "routes": [route]})
        assert told["changed"] == ["routes"]
        assert "nowhere" in " ".join(told["warnings"])


def test_what_needs_a_new_start_is_named(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, DISCARDING) as server:
        config = {**OPEN, "hostname": "other.example.com", "max_workers": 7, "limits": {"message_memory": 10_000_000}}
        told = reload(server, config)
        assert told["changed"] == ["allowed_relays"]
        assert sorted(told["after_restart"]) == ["hostname", "limits.message_memory", "max_workers"]
        with Wire(server.port) as wire:
            assert b"mx.example.com" in wire.greeting()


def test_mail_that_waits_takes_the_new_way(tmp_path: Path) -> None:
    away = {"hostname": "mx.example.com", "allowed_relays": ["127.0.0.1"], "retry_schedule": [1, 1, 1]}

    def by(port: int) -> list[dict[str, Any]]:
        return [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": port, "tls": "none"}]

    with RecordingSink() as sink, ServerProcess(tmp_path, {**away, "routes": by(free_port())}) as server:
        assert deliver(server).startswith(b"250 ")
        wait_until(lambda: bool(events(server, "delivery.outcome")), "the smarthost is away")
        reload(server, {**away, "routes": by(sink.port)})
        wait_until(lambda: events(server, "delivery.outcome")[-1]["result"] == "delivered", "by the new smarthost")


def test_a_connection_of_before_takes_no_mail_of_after(tmp_path: Path) -> None:
    """It stands for a password, a certificate, authorities that may be others now."""
    with RecordingSink() as sink:
        route = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port, "tls": "none"}
        config = {**OPEN, "routes": [route]}
        with ServerProcess(tmp_path, config) as server:
            for count in (1, 2):
                assert deliver(server).startswith(b"250 ")
                sink.wait_for(count)
                wait_until(lambda: len(events(server, "delivery.outcome")) == len(sink.mails), "delivered")
            assert sink.connections == 1, "it is kept between mails"
            reload(server, config)
            assert deliver(server).startswith(b"250 ")
            sink.wait_for(3)
            assert sink.connections == 2


def test_each_session_keeps_the_plugins_that_it_began_with(tmp_path: Path) -> None:
    def refusing(word: str) -> dict[str, Any]:
        body = f"""\
    async def stop(self):
        self.host.log.info("stopped", word="{word}")

    async def on_rcpt_to(self, mail, recipient):
        return Reject("{word}")
"""
        entry = plugin(tmp_path, "refusing", body)
        return {**OPEN, "plugins": {"plugin_path": str(tmp_path / "plugins"), "plugins": [entry]}}

    with ServerProcess(tmp_path, refusing("first")) as server:
        with begun(server) as there:
            reload(server, refusing("second"))
            assert b"first" in there.ask(STRANGER)
            with begun(server) as wire:
                assert b"second" in wire.ask(STRANGER)
            assert not events(server, "stopped"), "they are asked as long as there is somebody to ask about"
        wait_until(lambda: stopped(server) == ["first"], "nobody has them any more")
        reload(server, OPEN)
        assert deliver(server).startswith(b"250 ")
        wait_until(lambda: stopped(server) == ["first", "second"], "and none followed")


def test_a_delivery_keeps_the_plugins_that_it_began_with(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = f"""\
    async def stop(self):
        self.host.log.info("stopped", word="only")

    async def on_pre_delivery(self, delivery):
        self.host.log.info("asked")
        while not __import__("os").path.exists({str(gate)!r}):
            await trio.sleep(0.01)
        return CONTINUE
"""
    entry = plugin(tmp_path, "waiting", body)
    config = {**OPEN, "plugins": {"plugin_path": str(tmp_path / "plugins"), "plugins": [entry]}}
    with ServerProcess(tmp_path, config) as server:
        assert deliver(server).startswith(b"250 ")
        wait_until(lambda: bool(events(server, "asked")), "asked")
        reload(server, OPEN)
        assert deliver(server).startswith(b"250 ")
        wait_until(lambda: bool(events(server, "delivery.outcome")), "the next one asks none")
        gate.touch()
        wait_until(lambda: bool(stopped(server)), "nobody has them any more")
        told = [event["event"] for event in server.events]
        assert told.index("stopped") > max(at for at, name in enumerate(told) if name == "delivery.outcome")
        assert told.count("delivery.outcome") == 2
        assert told.count("asked") == 1


def test_many_generations_leave_nothing(tmp_path: Path) -> None:
    def running() -> tuple[int, int]:
        told = len(events(server, "server.tasks"))
        os.kill(server.pid, signal.SIGUSR2)
        wait_until(lambda: len(events(server, "server.tasks")) > told, "the tasks")
        return len(os.listdir(f"/proc/{server.pid}/task")), len(events(server, "server.tasks")[-1]["tree"])

    quick = plugin(tmp_path, "quick", "    async def on_connect(self, session):\n        return CONTINUE\n")
    config = {**OPEN, "plugins": {"plugin_path": str(tmp_path / "plugins"), "plugins": [quick]}}
    with ServerProcess(tmp_path, config) as server:
        reload(server, config)  # whatever a server starts in its first moments is there by now
        threads, tasks = running()
        with ExitStack() as sessions:
            for _ in range(8):
                sessions.enter_context(begun(server))
                reload(server, config)
            assert running()[0] < threads + 8, "no thread each"
            assert running()[1] > tasks + 16, "their plugins are there"
        wait_until(lambda: running()[1] <= tasks, "nobody has them any more")


@pytest.mark.parametrize("dialect", SERVERS[:1])
def test_workers_that_are_there_and_workers_that_come_later(tmp_path: Path, dialect: Any) -> None:
    with empty_database(dialect) as options:
        both = {"processes": 2, "storage": {"type": dialect.value, "dsn": dsn_of(options)}}
        with ServerProcess(tmp_path, {**DISCARDING, **both}) as server:
            reload(server, {**OPEN, **both}, times=2)
            assert {event["worker"] for event in events(server, "config.reloaded")} == {1, 2}
            for worker in events(server, "worker.started"):
                os.kill(worker["pid"], signal.SIGKILL)
            wait_until(lambda: len(events(server, "worker.ready")) == 4, "others take their places")
            for _ in range(4):
                wait_until(lambda: relays(server), "they have it, or have it soon")
