"""What the little server of http-01 answers, octet by octet, and what it does not."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import hypothesis.strategies as st
import pytest
import trio
from attrs import define, field
from hypothesis import given
from trio.testing import MockClock

from elemta.net.base import Endpoint, Stream
from elemta.runtime.threads import InlineThreads
from elemta.simulation.network import VirtualNetwork
from elemta.tls.acme.cabinet import Cabinet
from elemta.tls.acme.http01 import CONNECTION_SECONDS, CONNECTIONS, HEAD_OCTETS, Http01, Responder, SharedAnswers
from elemta.tls.acme.order import ChallengeFailed, Task

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
ANSWER = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
PATH = f"/.well-known/acme-challenge/{TOKEN}"
FOUND = (
    "HTTP/1.1 200 \r\nContent-Type: application/octet-stream\r\n"
    f"Content-Length: {len(ANSWER)}\r\nConnection: close\r\n\r\n{ANSWER}"
).encode()
EMPTY = b" \r\nContent-Type: application/octet-stream\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404" + EMPTY
BAD = b"HTTP/1.1 400" + EMPTY
SERVER = Endpoint("192.0.2.1", 80)


@define
class KnownAnswers:
    """One token, and which ones were asked for."""

    asked: list[str] = field(factory=list)

    async def answer(self, token: str) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked.append(token)
        return ANSWER.encode() if token == TOKEN else b""


@define
class Town:
    """The server, and a machine of clients."""

    network: VirtualNetwork
    answers: KnownAnswers = field(factory=KnownAnswers)

    async def connect(self) -> Stream:
        return await self.network.host("198.51.100.7").connect(SERVER)

    async def said(self, *pieces: bytes, ends: bool = False) -> bytes:
        """What comes back until the end."""
        stream = await self.connect()
        for piece in pieces:
            await stream.send_all(piece)
        if ends:
            await stream.send_eof()
        return await rest(stream)


async def rest(stream: Stream) -> bytes:
    heard = b""
    try:
        while piece := await stream.receive_some():
            heard += piece
    except trio.BrokenResourceError:
        return heard + b"<reset>"
    await stream.aclose()
    return heard


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    found = Town(VirtualNetwork(random.Random(1)))
    responder = Responder(found.answers)
    await responder.listen(found.network.host(SERVER.host), ":80")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(responder.run)
        yield found
        nursery.cancel_scope.cancel()


def get(path: str, *, method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: mail.example.com\r\n\r\n".encode()


async def test_a_known_token_is_answered(autojump_clock: MockClock) -> None:
    async with town() as here:
        assert await here.said(get(PATH), ends=True) == FOUND
        assert await here.said(get(PATH, version="1.0"), ends=True) == FOUND


async def test_octet_by_octet_it_is_the_same(autojump_clock: MockClock) -> None:
    async with town() as here:
        assert await here.said(*(bytes([octet]) for octet in get(PATH)), ends=True) == FOUND


@pytest.mark.parametrize(
    "request_",
    [
        get("/"),
        get("/.well-known/acme-challenge/"),
        get("/.well-known/acme-challenge/unknown"),
        get(PATH + "/"),
        get(PATH + "?x"),
        get("/x" + PATH),
        get("http://mail.example.com" + PATH),
        get("/.well-known/acme-challenge/../../etc/passwd"),
        get("/.well-known/acme-challenge/..%2f..%2fetc%2fpasswd"),
        get("/.well-known/acme-challenge/%2e%2e/order.lock"),
        get("/.well-known/acme-challenge/..\\order.lock"),
        get("/.well-known/acme-challenge/" + "a" * 129),
        get("/.well-known/acme-challenge/.mail.example.com.pem"),
        get(PATH, method="HEAD"),
        get(PATH, method="POST"),
        get(PATH, method="OPTIONS"),
        get(PATH, method="PUT"),
        get("*", method="OPTIONS"),
        get("mail.example.com:25", method="CONNECT"),
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
async def test_everything_else_is_not_found(request_: bytes, autojump_clock: MockClock) -> None:
    async with town() as here:
        assert await here.said(request_, ends=True) == NOT_FOUND
        assert {asked for asked in here.answers.asked if "." in asked or "/" in asked} == set()


@pytest.mark.parametrize(
    "garbage",
    [
        b"EHLO mail.example.com\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        b"GET " + PATH.encode() + b"\r\n\r\n",
        b"GET " + PATH.encode() + b" HTTP/1.1\r\n\r\n",
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET " + PATH.encode() + b"\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: a\r\nX: " + b"y" * (2 * HEAD_OCTETS) + b"\r\n\r\n",
        b"GET /" + b"y" * (2 * HEAD_OCTETS),
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
async def test_garbage_is_told_so_and_no_more(garbage: bytes, autojump_clock: MockClock) -> None:
    async with town() as here:
        heard = await here.said(garbage, ends=True)
        assert heard.removesuffix(b"<reset>") in (BAD, b"")
        assert await here.said(get(PATH), ends=True) == FOUND


async def test_a_connection_is_for_one_request(autojump_clock: MockClock) -> None:
    async with town() as here:
        assert await here.said(get(PATH) + get(PATH) + get("/"), ends=True) == FOUND


async def test_a_client_that_says_nothing_is_gone_in_time(autojump_clock: MockClock) -> None:
    async with town() as here:
        begin = trio.current_time()
        assert await here.said() == b"<reset>"
        assert trio.current_time() - begin == pytest.approx(CONNECTION_SECONDS, abs=0.1)
        # Its end instead of a request: nobody is there to be answered.
        assert await here.said(ends=True) == b""
        assert await here.said(b"GET / HT", ends=True) in (b"", BAD)


async def test_a_client_that_drips_is_gone_in_time(autojump_clock: MockClock) -> None:
    async with town() as here:
        begin = trio.current_time()
        stream = await here.connect()
        with suppress(trio.BrokenResourceError):
            for octet in b"GET /" + b"x" * 100:
                await stream.send_all(bytes([octet]))
                await trio.sleep(1)
        assert trio.current_time() - begin <= CONNECTION_SECONDS + 2


async def test_a_client_that_does_not_end_gets_its_answer_and_is_gone_in_time(autojump_clock: MockClock) -> None:
    async with town() as here:
        begin = trio.current_time()
        stream = await here.connect()
        await stream.send_all(get(PATH))
        assert await rest(stream) == FOUND
        assert trio.current_time() - begin < 1


async def test_a_flood_of_slow_clients_keeps_no_authority_out(autojump_clock: MockClock) -> None:
    async with town() as here:
        slow = [await here.connect() for _ in range(3 * CONNECTIONS)]
        begin = trio.current_time()
        assert await here.said(get(PATH), ends=True) == FOUND
        assert trio.current_time() - begin < 1
        cut = 0
        with trio.move_on_after(1):
            for stream in slow:
                cut += await rest(stream) == b"<reset>"
        # The oldest had to go; the place of the one that was answered is free.
        assert cut == 2 * CONNECTIONS + 1


@given(st.binary(max_size=300))
def test_no_octets_break_it(octets: bytes) -> None:
    async def ask() -> None:
        async with town() as here:
            await here.said(octets, ends=True)
            assert await here.said(get(PATH), ends=True) == FOUND

    trio.run(ask, clock=MockClock(autojump_threshold=0))


async def test_answers_lie_in_the_cabinet_as_long_as_the_challenge(tmp_path: Path, autojump_clock: MockClock) -> None:
    cabinet = Cabinet(str(tmp_path / "certs"))
    cabinet.open()
    solver, shared = Http01(cabinet, InlineThreads()), SharedAnswers(cabinet, InlineThreads())
    task = Task("mail.example.com", TOKEN, ANSWER)
    assert await shared.answer(TOKEN) == b""
    await solver.put_up([task])
    assert await shared.answer(TOKEN) == ANSWER.encode()
    await solver.take_down([task])
    await solver.take_down([task])
    assert await shared.answer(TOKEN) == b""


async def test_an_answer_that_cannot_be_kept_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    solver = Http01(Cabinet(str(tmp_path / "missing")), InlineThreads())
    with pytest.raises(ChallengeFailed, match="missing"):
        await solver.put_up([Task("mail.example.com", TOKEN, ANSWER)])
    await solver.take_down([Task("mail.example.com", TOKEN, ANSWER)])
