"""Several workers under one parent: who is killed, who goes on, what a client sees of it."""

import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from elemta.supervisor import backoff
from elemta.testing.process import ServerProcess
from tests.peers.wire import PATIENCE_SECONDS, Wire, free_port, wait_until
from tests.supervisor.several import (
    SeveralWorkers,
    begin,
    finish,
    is_running,
    open_descriptors,
    stopped,
)

DRAIN = {"timeouts": {"shutdown_timeout": 20}}


def fixed_port(**more: object) -> dict[str, object]:
    return {"listen_addr": f"127.0.0.1:{free_port()}", **more}


def test_every_worker_serves_the_shared_listeners(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, number=3) as server:
        workers = {number: server.worker(number) for number in (1, 2, 3)}
        for number, pid in workers.items():
            others = [other for other in workers.values() if other != pid]
            with stopped(*others), smtplib.SMTP("127.0.0.1", server.port, local_hostname=f"client{number}") as client:
                client.sendmail("s@example.org", ["r@example.net"], "Subject: one\r\n\r\nText\r\n")
        assert server.stop() == 0
    served = {event["helo"]: event["worker"] for event in server.events_of("session.ended")}
    assert served == {"client1": 1, "client2": 2, "client3": 3}


class Callers:
    """Clients that come all the time; a connection that breaks is no refusal."""

    def __init__(self, port: int, count: int = 4) -> None:
        self.refused: list[str] = []
        self.served = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(port,)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _call(self, port: int) -> None:
        while not self._stop.is_set():
            try:
                with Wire(port) as wire:
                    begin(wire)
                    self.served += finish(wire).startswith(b"250")
            except ConnectionRefusedError as error:
                self.refused.append(str(error))
            except (AssertionError, OSError):
                continue

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_killed_worker_is_started_again_and_nobody_is_refused(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path) as server:
        first, second = server.worker(1), server.worker(2)
        callers = Callers(server.port)
        try:
            wait_until(lambda: callers.served > 20, "served before")
            os.kill(second, signal.SIGKILL)
            server.wait_for_events("worker.ready", 3)
            served = callers.served
            wait_until(lambda: callers.served > served + 20, "served after")
        finally:
            callers.end()
        assert callers.refused == []
        assert server.worker(1) == first
        assert server.worker(2) != second
        (ended,) = server.events_of("worker.ended")
        assert (ended["worker"], ended["pid"], ended["signal"]) == (2, second, "SIGKILL")
        assert abs(ended["again_in"] - backoff.FIRST_SECONDS) <= backoff.FIRST_SECONDS * backoff.JITTER + 0.1
        assert len(server.events_of("server.ready")) == 1
        assert server.stop() == 0


def test_clients_wait_while_the_only_other_worker_is_away(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path) as server:
        for number in (1, 2):
            os.kill(server.worker(number), signal.SIGKILL)
        server.wait_for_events("worker.ended", 2)
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=PATIENCE_SECONDS) as client:
            assert client.noop()[0] == 250
        assert server.stop() == 0


def test_a_killed_parent_leaves_its_place_at_once_and_its_workers_drain(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, fixed_port(**DRAIN, web={"listen_addr": f"127.0.0.1:{free_port()}"})) as server:
        idle, busy = server.worker(1), server.worker(2)
        with stopped(idle):
            wire = Wire(server.port)
            begin(wire)
        with wire:
            os.kill(server.pid, signal.SIGKILL)
            assert server.wait() == -signal.SIGKILL
            wait_until(lambda: not is_running(idle), "the end of the idle one")
            server.start()
            assert is_running(busy)
            assert finish(wire).startswith(b"250")
            assert wire.rest().startswith(b"421")
        wait_until(lambda: not is_running(busy), "the end of the busy one")
        assert server.stop() == 0


def test_a_killed_group_can_be_started_again_at_once(tmp_path: Path) -> None:
    web = {"listen_addr": f"127.0.0.1:{free_port()}"}
    with SeveralWorkers(tmp_path, fixed_port(web=web)) as server:
        with Wire(server.port) as wire:
            begin(wire)
            server.kill()
            server.start()
        assert server.stop() == 0
        assert list((tmp_path / "queue").glob("*.sock*")) == []


def test_a_stop_lets_every_worker_finish(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, DRAIN) as server:
        wires = []
        for number in (1, 2):
            with stopped(server.worker(3 - number)):
                wires.append(Wire(server.port))
                begin(wires[-1])
        server.terminate()
        server.wait_for_events("server.draining", 3)
        for wire in wires:
            assert finish(wire).startswith(b"250")
            assert wire.rest().startswith(b"421")
            wire.close()
        assert server.wait() == 0
    assert [event["status"] for event in server.events_of("worker.ended")] == [0, 0]
    assert [event["in_order"] for event in server.events_of("server.drained")] == [True, True]


def test_a_second_signal_stops_now(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, {"timeouts": {"shutdown_timeout": 600}}) as server, Wire(server.port) as wire:
        begin(wire)
        server.terminate()
        server.wait_for_events("server.draining", 3)
        server.terminate()
        assert server.wait() == 0


def test_a_signal_to_the_whole_group_is_one_signal(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, DRAIN) as server, Wire(server.port) as wire:
        begin(wire)
        os.killpg(server.pid, signal.SIGINT)
        server.wait_for_events("server.draining", 3)
        assert finish(wire).startswith(b"250")
        assert server.wait() == 0
    assert server.events_of("server.stopping") == []


def test_a_worker_that_is_told_to_end_alone_leaves_new_clients_to_the_others(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path, DRAIN) as server:
        ending = server.worker(1)
        with stopped(server.worker(2)):
            wire = Wire(server.port)
            begin(wire)
        with stopped(ending):
            busier = [Wire(server.port) for _ in range(3)]
            for one in busier:
                assert one.reply().startswith(b"220")
        with wire:
            os.kill(ending, signal.SIGTERM)
            server.wait_for_events("server.draining", 1)
            for _ in range(5):
                with Wire(server.port) as other:
                    assert other.reply().startswith(b"220"), "the other one, which has more to do"
            for one in busier:
                one.close()
            assert finish(wire).startswith(b"250")
        server.wait_for_events("worker.ready", 3)
        (ended,) = server.events_of("worker.ended")
        assert (ended["pid"], ended["status"]) == (ending, 0)
        assert server.stop() == 0


def test_clients_that_stay_are_shared_among_the_workers(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path) as server:
        wires = [Wire(server.port) for _ in range(40)]
        for wire in wires:
            assert wire.reply().startswith(b"220")
        for wire in wires:
            wire.close()
        server.wait_for_events("session.ended", len(wires))
        served = Counter(event["worker"] for event in server.events_of("session.ended"))
        assert min(served[1], served[2]) >= len(wires) // 8, served
        assert server.stop() == 0


def test_ready_is_said_once_by_the_parent_alone(tmp_path: Path) -> None:
    server = SeveralWorkers(tmp_path)
    reads, writes = os.pipe()
    command = [sys.executable, *server.program, "run", "-c", str(tmp_path / "elemta.conf"), "--ready-fd", str(writes)]
    with subprocess.Popen(command, pass_fds=(writes,), cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        os.close(writes)
        with open(reads, "rb") as pipe:
            said = pipe.read()  # to its end: neither parent nor worker keeps it open
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    (line,) = said.splitlines()
    assert json.loads(line)["pid"] == process.pid


def test_the_parent_is_one_thread_and_serves_nobody(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path) as server:
        assert len(os.listdir(f"/proc/{server.pid}/task")) == 1
        lock = str(tmp_path / "queue" / "elemta.lock")
        assert lock in open_descriptors(server.pid)
        assert not any(lock in open_descriptors(server.worker(number)) for number in (1, 2))
        assert server.stop() == 0


def test_a_worker_that_fails_at_every_start_waits_longer_each_time(tmp_path: Path) -> None:
    obstacle = tmp_path / "queue" / "control-2.sock"
    obstacle.mkdir(parents=True)
    server = SeveralWorkers(tmp_path, fixed_port())
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        wait_until(lambda: (tmp_path / "elemta.log").exists(), "the log")
        ended = server.wait_for_events("worker.ended", 3)
        assert {event["worker"] for event in ended} == {2}
        waits = [event["again_in"] for event in ended]
        for number, wait in enumerate(waits):
            expected = backoff.FIRST_SECONDS * 2**number
            assert abs(wait - expected) <= expected * backoff.JITTER + 0.1
        assert f"{obstacle} cannot be bound" in server.events_of("worker.cannot_start")[0]["error"]
        assert server.events_of("server.ready") == []
        config = json.loads((tmp_path / "elemta.conf").read_text())
        with Wire(int(config["listen_addr"].rpartition(":")[2])) as wire:
            assert wire.reply().startswith(b"220"), "the other one serves"
        obstacle.rmdir()
        starting.join(PATIENCE_SECONDS)
        assert server.ready["pid"] == server.pid
        assert server.stop() == 0
    finally:
        server.kill()
        starting.join()


def test_what_no_worker_can_start_with_ends_the_parent(tmp_path: Path) -> None:
    storage = {"type": "postgresql", "dsn": "postgresql://nobody@127.0.0.1:9/nothing"}
    server = ServerProcess(tmp_path, {"hostname": "mx.example.com", "storage": storage, "processes": 2})
    (tmp_path / "queue").mkdir(mode=0o700)
    (tmp_path / "queue" / "node-id").write_text("not a name")
    began = time.monotonic()
    command = [sys.executable, *server.program, "run", "-c", str(tmp_path / "elemta.conf")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("elemta: this node's name cannot be kept")
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - began < 20


def test_a_busy_port_is_named_and_no_worker_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        server = SeveralWorkers(tmp_path, {"listen_addr": address})
        command = [sys.executable, *server.program, "run", "-c", str(tmp_path / "elemta.conf")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith(f"elemta: {address} is in use by another program")
    assert "worker.started" not in ended.stderr


def test_a_signal_shows_the_tasks_of_every_worker(tmp_path: Path) -> None:
    with SeveralWorkers(tmp_path) as server:
        os.kill(server.pid, signal.SIGUSR2)
        events = server.wait_for_events("server.tasks", 2)
        assert {event["worker"] for event in events} == {1, 2}
        assert server.stop() == 0


def test_a_unix_listener_outlives_a_worker_and_goes_with_the_parent(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    with SeveralWorkers(tmp_path, {"listen_addr": f"unix:{path}"}) as server:
        os.kill(server.worker(1), signal.SIGTERM)
        server.wait_for_events("worker.ready", 3)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_SECONDS)
            client.connect(str(path))
            assert client.recv(100).startswith(b"220")
        assert server.stop() == 0
    assert not path.exists()
