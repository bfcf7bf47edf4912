"""What the library's authority makes of answers that are wrong, late, large or no answers at all."""

import datetime
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from elemta.runtime.threads import WorkerThreads
from elemta.tls.acme import library
from elemta.tls.acme.base import (
    AccountRequest,
    AuthorityAway,
    AuthorityFailed,
    AuthorityRefused,
    Binding,
    OrderRequest,
    RateLimited,
)
from elemta.tls.acme.keys import make_key
from elemta.tls.acme.library import LibraryAuthority, load_account_key, retry_after_seconds
from tests.peers.wire import free_port

Answer = tuple[int, dict[str, str], bytes]
PROBLEM = {"Content-Type": "application/problem+json"}


class Desk(ThreadingHTTPServer):
    """An HTTP server that answers as told, by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: dict[str, Callable[[], Answer]] = {}
        self.heard: list[tuple[str, bytes]] = []
        names = ("newNonce", "newAccount", "newOrder", "renewalInfo")
        members = ", ".join(f'"{name}": "{self.url}/{name}"' for name in names)
        self.says("/dir", 200, f'{{{members}, "meta": {{"termsOfService": "x"}}}}'.encode())
        self.says("/newNonce", 200, b"")

    def says(self, path: str, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.answers[path] = lambda: (status, headers or {}, body)


class Handler(BaseHTTPRequestHandler):
    server: Desk

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.heard.append((self.path, body))
        status, headers, answer = self.server.answers[self.path]()
        self.send_response(status)
        fields = {"Replay-Nonce": "bm9uY2U", "Content-Length": str(len(answer)), **headers}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def authority(url: str) -> LibraryAuthority:
    return LibraryAuthority(f"{url}/dir", make_key("ecdsa-p256"), threads=WorkerThreads())


async def failure_of(desk: Desk) -> AuthorityFailed:
    """What comes of an attempt to register."""
    asked = authority(desk.url)
    try:
        await asked.directory()
        with pytest.raises(AuthorityFailed) as caught:
            await asked.register(AccountRequest(agrees=True))
    finally:
        await asked.aclose()
    return caught.value


async def test_nobody_there_is_away() -> None:
    asked = authority(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(AuthorityAway, match="is not reached: Connection refused"):
        await asked.directory()
    await asked.aclose()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"newNonce": 1}', b"\xff\xfe", b"null", b"[" * 100_000]
)
async def test_what_is_no_directory_is_away(desk: Desk, body: bytes) -> None:
    desk.says("/dir", 200, body)
    asked = authority(desk.url)
    with pytest.raises(AuthorityAway):
        await asked.directory()
    await asked.aclose()


@pytest.mark.parametrize("status", [301, 403, 404, 500, 502, 503])
async def test_no_problem_document_is_away(desk: Desk, status: int) -> None:
    desk.says("/newAccount", status, b"<html>sorry", {"Location": f"{desk.url}/elsewhere"})
    assert isinstance(await failure_of(desk), AuthorityAway)
    assert [path for path, _ in desk.heard if path == "/elsewhere"] == []


async def test_a_problem_document_is_a_refusal_in_its_words(desk: Desk) -> None:
    below = b'"subproblems": [{"type": "x", "detail": "y"}]'
    body = b'{"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids", %b}' % below
    desk.says("/newAccount", 403, body, PROBLEM)
    failure = await failure_of(desk)
    assert isinstance(failure, AuthorityRefused)
    assert (failure.problem, str(failure)) == ("caa", "CAA forbids; y (caa)")


@pytest.mark.parametrize("below", [b"[]", b'[{"type": "x", "detail": 6}]'])
async def test_words_that_are_no_text_are_told_all_the_same(desk: Desk, below: bytes) -> None:
    desk.says("/newAccount", 403, b'{"type": "x", "detail": 5, "subproblems": %b}' % below, PROBLEM)
    assert "5" in str(await failure_of(desk))


async def test_a_long_tale_is_cut(desk: Desk) -> None:
    desk.says("/newAccount", 403, b'{"type": "x", "detail": "' + b"y" * 100_000 + b'"}', PROBLEM)
    assert len(str(await failure_of(desk))) < 1000


@pytest.mark.parametrize(("value", "expected"), [("7", 7.0), ("", None), ("soon", None)])
async def test_a_rate_limit_says_when(desk: Desk, value: str, expected: float | None) -> None:
    headers = {**PROBLEM, **({"Retry-After": value} if value else {})}
    desk.says("/newAccount", 429, b'{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "slow"}', headers)
    failure = await failure_of(desk)
    assert isinstance(failure, RateLimited)
    assert failure.retry_after == expected


async def test_trouble_inside_is_away(desk: Desk) -> None:
    desk.says("/newAccount", 500, b'{"type": "urn:ietf:params:acme:error:serverInternal", "detail": "oops"}', PROBLEM)
    assert isinstance(await failure_of(desk), AuthorityAway)


@pytest.mark.parametrize("headers", [{"Replay-Nonce": ""}, {"Replay-Nonce": "?"}, {}])
async def test_an_answer_without_its_headers_is_no_success(desk: Desk, headers: dict[str, str]) -> None:
    desk.says("/newAccount", 201, b"{}", headers)
    assert isinstance(await failure_of(desk), AuthorityAway)


async def test_an_endless_answer_is_cut(desk: Desk) -> None:
    desk.says("/newAccount", 200, b" " * (library.MOST_ANSWER_OCTETS + 1))
    assert "more than 1048576 octets" in str(await failure_of(desk))


async def test_an_answer_that_does_not_come_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "PIECE_SECONDS", 0.05)
    desk.says("/newAccount", 200, b"{", {"Content-Length": "1000"})
    assert isinstance(await failure_of(desk), AuthorityAway)


async def test_a_binding_is_sent_and_not_shown(desk: Desk) -> None:
    asked = authority(desk.url)
    await asked.directory()
    desk.says("/newAccount", 201, b"{}", {"Location": f"{desk.url}/account/1"})
    assert await asked.register(AccountRequest("x@example.com", True, Binding("kid", "c2VjcmV0"))) == (
        f"{desk.url}/account/1"
    )
    desk.says("/newOrder", 201, b'{"status": "odd"}', {"Location": f"{desk.url}/order/1"})
    with pytest.raises(AuthorityAway, match="not ACME"):
        await asked.new_order(OrderRequest(("mail.example.com",), "shortlived", "a.b"))
    await asked.aclose()
    assert b"c2VjcmV0" not in b"".join(body for _, body in desk.heard)


async def test_renewal_information_is_read(desk: Desk) -> None:
    asked = authority(desk.url)
    await asked.directory()
    window = b'{"suggestedWindow": {"start": "2030-01-01T00:00:00Z", "end": "2030-01-02T00:00:00.5Z"}}'
    desk.says("/renewalInfo/a.b", 200, window, {"Retry-After": "600"})
    found = await asked.window("a.b")
    await asked.aclose()
    assert found is not None
    assert found.start == datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert (found.end - found.start, found.retry_after) == (86_400.5, 600.0)


def test_a_retry_after_is_seconds_or_a_date() -> None:
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp()
    values = ["120", " 120 ", "Tue, 01 Jan 2030 00:02:00 GMT", "Tue, 01 Jan 2019 00:00:00 GMT"]
    assert [retry_after_seconds(value, now) for value in values] == [120, 120, 120, 0]
    for value in (None, "", "-1", "soon", "1e9", "\u0663", "Tue, 99 Jan 2030"):
        assert retry_after_seconds(value, now) is None
    assert retry_after_seconds("9" * 400, now) == 9_999_999_999


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(ValueError):
        load_account_key(b"nonsense")
