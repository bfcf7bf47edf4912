"""Real sockets, real HTTP through Hypercorn."""

import errno
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hypercorn.trio
import pytest
import trio
import trio.testing
from starlette.types import ASGIApp

from elemta.mail.inbox import InboxEntry
from elemta.net.base import Endpoint
from elemta.web import serve as serving
from elemta.web.app import public_app
from elemta.web.base import PREFIX
from elemta.web.serve import serve
from elemta.web.sockets import listen_unix, short_address
from tests.web.desk import Desk, over_tcp, over_unix

#: Seconds that any step of these tests may take before it counts as stuck.
PATIENCE_SECONDS = 20


@asynccontextmanager
async def served(desk: Desk, bind: str, app: ASGIApp | None = None) -> AsyncIterator[Endpoint]:
    """Serve the operators' pages, or `app`, for the block; the shutdown is part of it."""
    shutdown = trio.Event()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(
                partial(serve, app or desk.app, bind=bind, shutdown=shutdown, log=desk.control.log)
            )
            shutdown.set()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def test_a_free_port_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    desk = Desk()
    app = public_app(desk.control, hosts=())
    async with served(desk, "127.0.0.1:0", app) as local:
        assert local.port > 0
        async with over_tcp(str(local)) as http:
            assert (await http.get("/livez")).json() == {"alive": True}
            foreign = await http.get("/livez", headers={"host": "rebound.example"})
            assert foreign.status_code == 421
            assert "server" not in foreign.headers
    assert capfd.readouterr() == ("", "")
    assert desk.logged() == ""
    with pytest.raises(OSError):
        await trio.open_tcp_stream(local.host, local.port)


async def test_an_address_in_use_is_an_error() -> None:
    desk = Desk()
    async with served(desk, "127.0.0.1:0") as local:
        with pytest.raises(OSError) as caught:
            await serve(desk.app, bind=str(local), shutdown=trio.Event(), log=desk.control.log)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost:http", "::1:25", ":70000"])
async def test_an_address_of_no_form_is_an_error(bind: str) -> None:
    with pytest.raises(ValueError):
        await serve(Desk().app, bind=bind, shutdown=trio.Event(), log=Desk().control.log)


async def test_a_unix_socket_is_private_and_goes_with_its_server(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    old = os.umask(0)
    try:
        async with served(Desk(), f"unix:{path}") as local:
            assert local == Endpoint(str(path))
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert names(tmp_path) == ["control.sock"]
            async with over_unix(path) as http:
                assert (await http.get(f"{PREFIX}/status")).json()["running"] is True
    finally:
        os.umask(old)
    assert names(tmp_path) == []


async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    path = folder / "control.sock"
    desk = Desk()
    mail = await desk.add(b"x" * 3_000_000)
    async with served(desk, f"unix:{path}"):
        with short_address(path) as address:
            assert len(address) < 107 < len(str(path))
            async with over_unix(address) as http:
                assert (await http.get(f"{PREFIX}/queue/{mail.id}/raw")).content == b"x" * 3_000_000
    assert names(folder) == []


def test_a_name_too_long_for_any_way_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="queue_dir"), short_address(tmp_path / ("n" * 120)):
        pass


async def test_a_path_that_nobody_listens_at_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    (tmp_path / "control.sock.new").touch()
    async with served(Desk(), f"unix:{path}"), over_unix(path) as http:
        assert (await http.get("/livez")).status_code == 200


async def test_a_path_that_somebody_listens_at_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with served(Desk(), f"unix:{path}"), over_unix(path) as http:
        with pytest.raises(OSError) as caught:
            listen_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert (await http.get("/livez")).status_code == 200
        assert names(tmp_path) == ["control.sock"]


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        listen_unix(path)
    assert path.read_text() == "precious"


def test_a_successor_s_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = listen_unix(path)
    path.unlink()
    second = listen_unix(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


# ---- connections that do harm ------------------------------------------------------------------

HOSTILE = [
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"GET / HTTP/1.1\r\n" + b"a" * 70_000,
    b"GET \xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"EHLO example.com\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)) * 4,
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: !!!\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST /api/ops/v1/queue/actions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/ops/v1/queue/actions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + b"{" * 200_000,
    b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" * 50,
    b"GET /%2e%2e/%00%ff?%ff=%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


async def test_hostile_connections_harm_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with served(Desk(), f"unix:{path}"), over_unix(path) as http:
        for octets in HOSTILE:
            for whole in (True, False):
                stream = await trio.open_unix_socket(str(path))
                try:
                    await stream.send_all(octets)
                    with trio.move_on_after(0.05):
                        while whole and await stream.receive_some():
                            pass
                except trio.BrokenResourceError:
                    pass
                finally:
                    await stream.aclose()
            assert (await http.get("/livez")).json() == {"alive": True}


async def test_a_crash_of_the_worker_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control.sock"
    desk = Desk()
    sound = hypercorn.trio.serve
    runs = 0

    async def crashes_once(*args: Any, **options: Any) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await trio.lowlevel.checkpoint()
            raise ExceptionGroup("a connection's defect", [RuntimeError("boom")])
        await sound(*args, **options)

    monkeypatch.setattr(hypercorn.trio, "serve", crashes_once)
    monkeypatch.setattr(serving, "RESTART_SECONDS", 0.01)
    async with served(desk, f"unix:{path}"), over_unix(path) as http:
        assert (await http.get("/livez")).status_code == 200
    event = json.loads(desk.logged())
    assert (event["event"], event["level"]) == ("web.worker_crashed", "error")


# ---- the end -----------------------------------------------------------------------------------


async def stubborn(path: Path, desk: Desk) -> trio.SocketStream:
    """A client that asks for a large mail, and reads no more than its beginning."""
    mail = await desk.add(b"x" * 20_000_000)
    stream = await trio.open_unix_socket(str(path))
    await stream.send_all(f"GET {PREFIX}/queue/{mail.id}/raw HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert await stream.receive_some(16)
    return stream


@pytest.mark.parametrize("end", ["shutdown", "cancel"])
async def test_a_client_that_reads_nothing_delays_no_end(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(serving, "LATE_SECONDS", 0.1)
    path = tmp_path / "control.sock"
    desk = Desk()
    shutdown = trio.Event()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, desk.app, bind=f"unix:{path}", shutdown=shutdown, log=desk.control.log))
            stream = await stubborn(path, desk)
            await trio.testing.wait_all_tasks_blocked()
            if end == "shutdown":
                shutdown.set()
            else:
                nursery.cancel_scope.cancel()
    await stream.aclose()
    assert "web.cut_off" in desk.logged()
    assert not path.exists()


async def test_a_request_in_hand_is_answered_after_the_shutdown(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    desk = Desk()
    release = trio.Event()
    begun = trio.Event()

    class Slow:
        async def wait_for(self, *_: object) -> InboxEntry:
            begun.set()
            await release.wait()
            return InboxEntry("0" * 22, "a@b", ("c@d",), "s", 1, 0.0)

    desk.use_inbox(Slow())
    found: list[int] = []
    shutdown = trio.Event()

    async def waiting() -> None:
        async with over_unix(path) as http:
            found.append((await http.get(f"{PREFIX}/inbox/wait?timeout=60", timeout=None)).status_code)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, desk.app, bind=f"unix:{path}", shutdown=shutdown, log=desk.control.log))
            nursery.start_soon(waiting)
            await begun.wait()
            shutdown.set()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError):
                await trio.open_unix_socket(str(path))
            release.set()
    assert found == [200]


async def test_nobody_waits_for_a_client_that_left(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    desk = Desk()
    begun, cancelled = trio.Event(), trio.Event()

    class Never:
        async def wait_for(self, *_: object) -> InboxEntry:
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()
            raise AssertionError

    desk.use_inbox(Never())
    async with served(desk, f"unix:{path}"):
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(f"GET {PREFIX}/inbox/wait?timeout=60 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await begun.wait()
        await stream.aclose()
        await cancelled.wait()
