"""The two roads to the pages: a socket with good and bad servers behind it, a call in this process."""

import json
import socket
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from elemta.cli.client import PIECE_OCTETS, Api, Refused, _run_at_once
from elemta.cli.client_road import Answer, CallRoad, Request, SocketRoad
from elemta.cli.output import CommandError, ExitCode
from elemta.web.base import CONTROL_NAME, PREFIX
from tests.cli.at_desk import server
from tests.web.desk import Desk


@contextmanager
def scripted(path: Path, answer: bytes | None) -> Iterator[None]:
    """Somebody at a socket who reads one request, sends these octets and hangs up; with None, just never answers."""
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            if answer is None:
                done.wait(30)
            else:
                connection.recv(65536)
                connection.sendall(answer)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(30)


def asked(path: Path, seconds: float = 10) -> Answer:
    """One request over a socket."""
    return _run_at_once(SocketRoad(str(path)).send(Request("GET", "/", seconds)))


@pytest.mark.parametrize(
    "answer",
    [b"", b"220 mail.example.com ESMTP\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfar less"],
    ids=["nothing", "not HTTP", "cut off"],
)
def test_a_server_that_hangs_up(tmp_path: Path, answer: bytes) -> None:
    with scripted(tmp_path / "s", answer), pytest.raises(CommandError, match="the server hung up: ") as caught:
        asked(tmp_path / "s")
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with scripted(tmp_path / "s", None), pytest.raises(CommandError, match="does not answer; try again") as caught:
        asked(tmp_path / "s", seconds=0.05)
    assert caught.value.exit_code == ExitCode.TEMPORARY


def test_a_server_that_went_away(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="the server hung up: ") as caught:
        asked(tmp_path / "s")
    assert caught.value.exit_code == ExitCode.UNREACHABLE


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"\xff", b""])
def test_an_answer_of_another_kind(tmp_path: Path, content: bytes) -> None:
    head = f"HTTP/1.1 502 Bad\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    with (
        scripted(tmp_path / "s", head + content),
        pytest.raises(CommandError, match=r"answer \(502\) is not understood"),
    ):
        _run_at_once(Api(SocketRoad(str(tmp_path / "s")), running=True).get("/queue"))


def test_a_command_that_waits_for_something_else() -> None:
    class Never:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def job() -> None:
        await Never()

    with pytest.raises(RuntimeError, match="waited for an event loop"):
        _run_at_once(job())


# ---- both roads ----------------------------------------------------------------------------------

Run = Callable[[Callable[[Api], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(params=["socket", "call"])
def run(request: pytest.FixtureRequest, desk: Desk, tmp_path: Path) -> Iterator[Run]:
    """Runs a job with the pages of the desk, over one of the roads."""
    if request.param == "call":
        yield lambda job: trio.run(job, Api(CallRoad(desk.app), running=False))
        return
    with server(desk, tmp_path):
        yield lambda job: _run_at_once(job(Api(SocketRoad(str(tmp_path / CONTROL_NAME)), running=True)))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_every_kind_of_request(run: Run, desk: Desk) -> None:
    (mail,) = (trio.run(desk.add),)

    async def job(api: Api) -> None:
        page = await api.get("/queue", {"limit": 5, "sender": None, "recipient": "@example.net"})
        assert [each["id"] for each in page["mails"]] == [mail.id]
        held = await api.post("/queue/actions", {"action": "hold", "ids": [mail.id]})
        assert held["changed"] == [mail.id]
        with pytest.raises(Refused) as refused:
            await api.get("/queue", {"limit": "many"})
        assert refused.value.exit_code == ExitCode.USAGE
        with pytest.raises(Refused):
            await api.delete("/inbox", {"every": "one"})

    run(job)


@pytest.mark.parametrize("limit", [None, 10, PIECE_OCTETS + 10])
@pytest.mark.parametrize("size", [0, 1, PIECE_OCTETS, 2 * PIECE_OCTETS + 5])
def test_content_comes_in_pieces(run: Run, desk: Desk, size: int, limit: int | None) -> None:
    octets = bytes(range(256)) * (size // 256 + 1)
    mail = trio.run(partial(desk.add, octets=octets[:size]))
    pieces: list[bytes] = []
    assert run(lambda api: api.content(f"/queue/{mail.id}/raw", pieces.append, limit)) == size
    assert b"".join(pieces) == octets[:size][:limit]
    assert all(len(piece) <= PIECE_OCTETS for piece in pieces)


def test_an_answer_that_breaks_off() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == f"{PREFIX}/queue"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({}).encode(), "more_body": True})

    with pytest.raises(CommandError, match="not whole"):
        trio.run(Api(CallRoad(app), running=False).get, "/queue")
