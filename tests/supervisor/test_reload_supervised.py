"""When a server reads its configuration again, what its parent and its service manager hear, and how it ends meanwhile.

What is not here: what of a configuration is taken over (`tests/peers/test_reload.py`, `tests/config`).
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from elemta.testing.process import ServerProcess
from tests.peers.test_plugged_server import plugin
from tests.peers.wire import Wire, wait_until
from tests.supervisor.manager import Manager
from tests.supervisor.several import SeveralWorkers, begin, finish

#: Starts once there is the file that it names.
GATED = """\
    async def start(self):
        self.host.log.info("gate.waits")
        while not __import__("os").path.exists({gate!r}):
            await trio.sleep(0.01)
"""
#: Starts in all processes but the first that tries.
ONE_FAILS = """\
    async def start(self):
        try:
            open({mark!r}, "x")
        except FileExistsError:
            return
        raise ValueError("no licence")
"""
#: Fails when it is told to end.
ILL_TEMPERED = """\
    async def start(self):
        self.host.log.info("gate.waits")
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("not now")
"""
FAILS = """\
    async def start(self):
        raise ValueError("no licence")
"""
MUCH = {"hostname": "mx.example.com", "storage": {"type": "memory"}, "allowed_relays": ["127.0.0.1"]}
BASE: dict[str, Any] = {**MUCH, "routes": [{"domain": "*", "transport": "discard"}]}


def with_plugin(folder: Path, body: str, **keys: Any) -> dict[str, Any]:
    return {
        **BASE,
        "plugins": {"plugin_path": str(folder / "plugins"), "plugins": [plugin(folder, "own", body)]},
        **keys,
    }


def gated(folder: Path, **keys: Any) -> dict[str, Any]:
    return with_plugin(folder, GATED.format(gate=str(folder / "gate")), **keys)


def open_gate(folder: Path) -> None:
    (folder / "gate").touch()


def events(log: str, name: str) -> list[dict[str, Any]]:
    whole, _, _ = log.rpartition("\n")
    found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return [event for event in found if event["event"] == name]


def wait_for(server: ServerProcess | Manager, name: str, count: int = 1) -> list[dict[str, Any]]:
    wait_until(lambda: len(events(server.log, name)) >= count, f"{count} times {name}")
    return events(server.log, name)


def hang_up(server: ServerProcess, config: dict[str, Any]) -> None:
    server.configure(config)
    os.kill(server.pid, signal.SIGHUP)


def sizes(server: ServerProcess) -> set[bool]:
    """Whether the size that a reload brought is offered, by all workers that answer."""
    found = set()
    for _ in range(4):
        with Wire(server.port) as wire:
            wire.greeting()
            found.add(b"SIZE 100000" in wire.ask(b"EHLO client.example\r\n"))
    return found


# ---- one process -----------------------------------------------------------------------------------------------------


def test_whatever_comes_meanwhile_is_one_reload_more(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, BASE) as server, Wire(server.port) as wire:
        wire.greeting()
        hang_up(server, gated(tmp_path))
        wait_for(server, "gate.waits")
        for _ in range(20):
            os.kill(server.pid, signal.SIGHUP)
            wire.ask(b"NOOP\r\n")  # it was heard, and who is there is served meanwhile
        server.configure({**BASE, "max_size": 100_000})
        open_gate(tmp_path)
        wait_for(server, "config.reloaded", 2)
        hang_up(server, BASE)
        told = wait_for(server, "config.reloaded", 3)
        assert [event["changed"] for event in told] == [["plugins"], ["max_size", "plugins"], ["max_size"]]
        assert len(events(server.log, "server.reloading")) == 3


def test_a_drain_ends_a_reload(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, BASE) as server:
        with Wire(server.port) as wire:
            begin(wire)
            hang_up(server, gated(tmp_path))
            wait_for(server, "gate.waits")
            server.terminate()
            wait_for(server, "server.draining")
            os.kill(server.pid, signal.SIGHUP)
            open_gate(tmp_path)
            assert finish(wire).startswith(b"250 ")
        assert server.wait() == 0
        assert not events(server.log, "config.reloaded")
        assert len(events(server.log, "server.reloading")) == 1


def test_a_plugin_that_hangs_at_its_start_does_not_keep_the_server_from_its_end(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, BASE) as server:
        hang_up(server, gated(tmp_path))
        wait_for(server, "gate.waits")
        server.terminate()
        assert server.wait(10.0) == 0


def test_a_file_that_cannot_be_read_to_its_end_does_not_keep_the_server_from_its_end(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, BASE) as server:
        path = tmp_path / "elemta.conf"
        path.unlink()
        os.mkfifo(path)
        os.kill(server.pid, signal.SIGHUP)
        wait_for(server, "server.reloading")
        server.terminate()
        assert server.wait(10.0) == 0


# ---- what the service manager hears ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2], ids=["one process", "two workers"])
def test_ready_is_said_when_it_is_so(tmp_path: Path, number: int) -> None:
    program = SeveralWorkers(tmp_path, BASE, number=number).program
    config = {"listen_addr": "127.0.0.1:0", **gated(tmp_path)}
    with Manager(tmp_path, config) as manager:
        if number > 1:
            manager.program = program
        manager.start()
        wait_for(manager, "gate.waits", number)
        manager.signal(signal.SIGHUP)
        open_gate(tmp_path)
        assert manager.hear("READY=1")["STATUS"].startswith("Serving mail at ")
        assert len(manager.heard) == 1, "nothing is ready before it serves"
        wait_for(manager, "config.reloaded", number)
        (tmp_path / "gate").unlink()
        manager.signal(signal.SIGHUP)
        wait_for(manager, "gate.waits", 3 * number)
        while not manager.has_silence:
            continue
        assert manager.heard[-1]["unasked"].startswith("RELOADING=1"), "nor before it has reloaded"
        open_gate(tmp_path)
        manager.hear("READY=1")
        assert len(events(manager.log, "config.reloaded")) == 2 * number
        manager.signal(signal.SIGTERM)
        assert manager.wait() == 0


def test_ready_is_not_said_of_a_reload_that_a_drain_has_ended(tmp_path: Path) -> None:
    config = {"listen_addr": "127.0.0.1:0", **BASE}
    with Manager(tmp_path, config) as manager:
        manager.start()
        manager.hear("READY=1")
        (tmp_path / "elemta.conf").write_text(json.dumps({**config, **with_plugin(tmp_path, ILL_TEMPERED)}))
        manager.signal(signal.SIGHUP)
        wait_for(manager, "gate.waits")
        manager.signal(signal.SIGTERM)
        manager.hear("STOPPING=1")
        assert manager.wait() == 0
        assert manager.has_silence


# ---- several workers -------------------------------------------------------------------------------------------------


def test_what_no_worker_could_take_over_is_not_for_later_ones(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, BASE) as server:
        hang_up(server, with_plugin(tmp_path, FAILS, max_size=100_000))
        wait_for(server, "config.reload_failed", 2)
        os.kill(server.worker(1), signal.SIGKILL)
        server.wait_for_events("worker.ready", 3)
        with Wire(server.port) as wire:
            begin(wire)
            assert finish(wire).startswith(b"250 ")
        assert not events(server.log, "worker.cannot_start")


def test_what_one_worker_cannot_take_over_the_others_do(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, BASE) as server:
        hang_up(server, with_plugin(tmp_path, ONE_FAILS.format(mark=str(tmp_path / "mark"))))
        (failed,) = wait_for(server, "config.reload_failed")
        assert "no licence" in failed["problems"][0]
        (taken,) = wait_for(server, "config.reloaded")
        assert {failed["worker"], taken["worker"]} == {1, 2}
        os.kill(server.pid, signal.SIGHUP)
        assert [event["changed"] for event in wait_for(server, "config.reloaded", 3)[1:]].count(["plugins"]) == 1


def test_a_worker_that_ends_in_the_middle_has_a_successor_that_reloads(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, BASE) as server:
        hang_up(server, gated(tmp_path, max_size=100_000))
        wait_for(server, "gate.waits", 2)
        os.kill(server.worker(1), signal.SIGKILL)
        server.wait_for_events("worker.ready", 3)
        wait_for(server, "gate.waits", 3)
        open_gate(tmp_path)
        assert {event["worker"] for event in wait_for(server, "config.reloaded", 2)} == {1, 2}
        os.kill(server.worker(2), signal.SIGKILL)
        server.wait_for_events("worker.ready", 4)
        assert sizes(server) == {True}
        assert len(events(server.log, "gate.waits")) == 4, "it began with what the others had taken over"


def test_what_a_worker_has_said_does_not_hold_for_its_successor(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, BASE) as server:
        hang_up(server, with_plugin(tmp_path, FAILS))
        wait_for(server, "config.reload_failed", 2)
        os.kill(server.worker(1), signal.SIGKILL)
        server.wait_for_events("worker.ended", 1)
        hang_up(server, {**BASE, "max_size": 100_000})
        server.wait_for_events("worker.ready", 3)
        wait_for(server, "config.reloaded")
        os.kill(server.worker(2), signal.SIGKILL)
        server.wait_for_events("worker.ready", 4)
        wait_until(lambda: sizes(server) == {True}, "both have it")


def test_workers_reload_once_when_all_processes_are_told(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, BASE) as server:
        server.configure({**BASE, "max_size": 100_000})
        for number in (1, 2):
            os.kill(server.worker(number), signal.SIGHUP)
        os.kill(server.pid, signal.SIGHUP)
        wait_for(server, "config.reloaded", 2)
        hang_up(server, BASE)
        wait_for(server, "config.reloaded", 4)
        assert [event["changed"] for event in events(server.log, "config.reloaded")] == [["max_size"]] * 4
