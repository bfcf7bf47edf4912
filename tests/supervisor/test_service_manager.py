"""A service manager: it hears how the server is, and clients at its sockets are served."""

import json
import smtplib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest
import trio

from elemta.supervisor.notify import Notifier, keep_alive
from tests.peers.wire import PATIENCE_SECONDS, Wire
from tests.supervisor.manager import Manager
from tests.supervisor.several import SeveralWorkers

ANYWHERE = {"listen_addr": "127.0.0.1:0"}
MAIL = "Subject: hi\r\n\r\nA line.\r\n"

Manage = Callable[..., Manager]


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def manage(request: pytest.FixtureRequest, tmp_path: Path) -> Manage:
    """Makes a manager of a server with so many processes."""

    def make(config: dict[str, object], *sockets: socket.socket) -> Manager:
        several = SeveralWorkers(tmp_path, config, number=request.param)
        conf = tmp_path / "elemta.conf"
        manager = Manager(tmp_path, {**json.loads(conf.read_text()), **config}, sockets)
        if request.param > 1:
            manager.program = several.program
        return manager

    return make


def listening(address: tuple[str, int] = ("127.0.0.1", 0)) -> tuple[socket.socket, int]:
    sock = socket.create_server(address)
    return sock, sock.getsockname()[1]


# ---- what it hears -------------------------------------------------------------------------------


def test_it_hears_of_ready_reload_and_drain(manage: Manage) -> None:
    with manage(ANYWHERE) as manager:
        manager.start()
        ready = manager.hear("READY=1")
        assert ready["STATUS"].startswith("Serving mail at 127.0.0.1:")
        before = time.monotonic_ns() // 1000
        manager.signal(SIGHUP)
        reloading = manager.hear("RELOADING=1")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert manager.hear("READY=1") == {"READY": "1", "STATUS": "Serving mail"}
        manager.signal(SIGTERM)
        assert manager.hear("STOPPING=1")["STATUS"].startswith("Draining")
        assert manager.wait() == 0
        assert not any("WATCHDOG" in message for message in manager.heard), "nobody watches"


def test_it_hears_nothing_of_ready_while_nobody_listens(manage: Manage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        with manage({"listen_addr": f"127.0.0.1:{holder.getsockname()[1]}"}) as manager:
            manager.start()
            assert manager.wait() == 1
            assert manager.has_silence, manager.heard


def test_it_sees_signs_of_life_while_it_watches(manage: Manage) -> None:
    with manage(ANYWHERE) as manager:
        manager.start(WATCHDOG_USEC="200000")
        manager.hear("READY=1")
        began = time.monotonic()
        for _ in range(3):
            manager.hear("WATCHDOG=1")
        assert time.monotonic() - began < PATIENCE_SECONDS / 2
        manager.signal(SIGTERM)
        assert manager.wait() == 0


async def test_signs_of_life_come_twice_as_often_as_they_must(tmp_path: Path, autojump_clock: object) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000000"}
        with trio.move_on_after(35):
            await keep_alive(Notifier.of_environment(environ, 7))
        assert [ear.recv(100) for _ in range(4)] == [b"WATCHDOG=1"] * 4
        with pytest.raises(BlockingIOError):
            ear.recv(100)
    assert environ == {}, "what a plugin starts is not watched"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Notifier()),
        ({"NOTIFY_SOCKET": "/run/n"}, Notifier("/run/n")),
        ({"NOTIFY_SOCKET": "@n"}, Notifier("@n")),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, Notifier()),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, Notifier("/n", 3.0)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000"}, Notifier("/n", 3.0)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, Notifier("/n")),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, Notifier("/n")),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"}, Notifier("/n")),
    ],
)
def test_what_the_environment_says(environ: dict[str, str], expected: Notifier) -> None:
    assert Notifier.of_environment(environ, 7) == expected
    assert environ == {}


def test_a_name_without_a_path_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("")  # the kernel chooses an abstract name
        ear.settimeout(PATIENCE_SECONDS)
        Notifier(f"@{ear.getsockname()[1:].decode()}").stopping("one\nline")
        assert ear.recv(100) == b"STOPPING=1\nSTATUS=one line"


def test_a_manager_that_is_gone_hinders_nobody(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nowhere")).ready("fine")


# ---- its sockets ---------------------------------------------------------------------------------


def test_clients_at_its_sockets_are_served_and_wait_through_a_restart(manage: Manage) -> None:
    sock, port = listening()
    config = {"listen_addr": f"127.0.0.1:{port}"}
    with sock, manage(config, sock) as manager:
        with Wire(port) as early:
            manager.start()
            assert early.reply().startswith(b"220 ")
            manager.hear("READY=1")
            with smtplib.SMTP("127.0.0.1", port, local_hostname="client") as client:
                client.sendmail("s@example.org", ["r@example.net"], MAIL)
        manager.signal(SIGTERM)
        assert manager.wait() == 0
        with Wire(port) as between:  # nobody serves, and nobody is refused
            manager.start()
            assert between.reply().startswith(b"220 ")
        manager.signal(SIGTERM)
        assert manager.wait() == 0


def test_what_it_did_not_bind_is_bound_by_the_server(manage: Manage) -> None:
    sock, port = listening()
    listeners = [{"address": f"127.0.0.1:{port}"}, {"address": "127.0.0.1:0"}]
    with sock, manage({"listeners": listeners}, sock) as manager:
        manager.start()
        places = manager.hear("READY=1")["STATUS"].removeprefix("Serving mail at ").split(", ")
        assert places[0] == f"127.0.0.1:{port}"
        with Wire(int(places[1].rpartition(":")[2])) as client:
            assert client.reply().startswith(b"220 ")
        manager.signal(SIGTERM)
        assert manager.wait() == 0


def test_an_authority_asks_at_its_socket(manage: Manage, tmp_path: Path) -> None:
    sock, port = listening()
    certificates = {
        "enabled": True,
        "http_addr": f"127.0.0.1:{port}",
        "cache_dir": str(tmp_path / "certs"),
        "directory_url": "https://127.0.0.1:1/nobody",
    }
    config = {
        "listeners": [{"address": "127.0.0.1:0", "tls": "starttls"}],
        "tls": {"enabled": True, "lets_encrypt": certificates},
    }
    with sock, manage(config, sock) as manager:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(b"GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: mx.example.com\r\n\r\n")
            manager.start()
            manager.hear("READY=1")
            assert client.recv(1000).startswith(b"HTTP/1.1 404 ")
        manager.signal(SIGTERM)
        assert manager.wait() == 0


def test_a_path_of_its_own_stays(manage: Manage, tmp_path: Path) -> None:
    path = tmp_path / "mail.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with manage({"listen_addr": f"unix:{path}"}, sock) as manager:
            manager.start()
            manager.hear("READY=1")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE_SECONDS)
                client.connect(str(path))
                assert client.recv(4) == b"220 "
            manager.signal(SIGTERM)
            assert manager.wait() == 0
    assert path.is_socket()


def test_a_socket_that_no_listener_asks_for_is_named(manage: Manage) -> None:
    sock, port = listening()
    with sock, manage(ANYWHERE, sock) as manager:
        manager.start(LISTEN_FDNAMES="submission")
        assert manager.wait() == 78
        assert f'the service manager listens at 127.0.0.1:{port} for us (as "submission")' in manager.log
        assert "Traceback" not in manager.log


def test_a_socket_that_does_not_listen_is_refused(manage: Manage) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, manage(ANYWHERE, sock) as manager:
        manager.start()
        assert manager.wait() == 78
        assert "descriptor 3 (unknown) does not listen" in manager.log


def test_told_to_stop_before_its_workers_are_ready_it_ends_in_order(tmp_path: Path) -> None:
    several = SeveralWorkers(tmp_path, ANYWHERE, number=4)
    with Manager(tmp_path, json.loads((tmp_path / "elemta.conf").read_text())) as manager:
        manager.program = several.program
        manager.start()
        several.wait_for_events("worker.ready", 1)  # the others are some milliseconds behind
        manager.signal(SIGTERM)
        assert manager.wait() == 0
