"""Tokens validated by a server that answers RFC 7662, over real sockets on loopback."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import h11
import pytest
import trio
from attrs import define, evolve, field

from elemta.auth.oauth import MAX_ANSWER_OCTETS, MAX_CACHE_SECONDS, Introspection, IntrospectionOptions
from elemta.auth.tokens import ValidatorAway
from elemta.runtime.threads import WorkerThreads

NOW = 1_700_000_000.0


class Wall:
    def wall(self) -> float:
        return NOW


@define
class Endpoint:
    """An introspection endpoint: answers what it is told, remembers what it was asked."""

    answer: object = None
    status: int = 200
    hangs: bool = False
    asked: list[dict[str, list[str]]] = field(factory=list)
    headers: list[dict[bytes, bytes]] = field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await stream.receive_some(65536)
                connection.receive_data(data)
                if not data:
                    return
            elif isinstance(event, h11.Request):
                self.headers.append(dict(event.headers))
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return
        self.asked.append(parse_qs(body.decode()))
        if self.hangs:
            await trio.sleep_forever()
        says = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        headers = [("content-length", str(len(says))), ("connection", "close"), ("location", "http://127.0.0.1:9/")]
        parts = (h11.Response(status_code=self.status, headers=headers), h11.Data(data=says), h11.EndOfMessage())
        await stream.send_all(b"".join(connection.send(part) or b"" for part in parts))


@asynccontextmanager
async def asking(answer: object = None, **changes: Any) -> AsyncIterator[tuple[Endpoint, Introspection]]:
    endpoint = Endpoint(answer)
    async with trio.open_nursery() as nursery:
        serving = partial(trio.serve_tcp, endpoint.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serving)
        port = listener.socket.getsockname()[1]
        options = IntrospectionOptions(f"http://127.0.0.1:{port}/introspect", "mail server", "s:cret", seconds=5.0)
        validator = Introspection(evolve(options, **changes), WorkerThreads(), Wall())
        yield endpoint, validator
        await validator.aclose()
        nursery.cancel_scope.cancel()


ALICE = {"active": True, "username": "alice@example.com"}


async def test_a_good_token_is_asked_for_once() -> None:
    async with asking(ALICE) as (endpoint, validator):
        assert await validator.owner("a.b-c_d~e+f/g=") == "alice@example.com"
        assert await validator.owner("a.b-c_d~e+f/g=") == "alice@example.com"
        assert endpoint.asked == [{"token": ["a.b-c_d~e+f/g="], "token_type_hint": ["access_token"]}]
        # RFC 6749 §2.3.1: "mail server" and "s:cret" are form-encoded before they are joined by a colon.
        assert endpoint.headers[0][b"authorization"] == b"Basic bWFpbCtzZXJ2ZXI6cyUzQWNyZXQ="
        await validator.owner("another")
        assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        {"active": False},
        {},
        {"active": "true", "username": "alice@example.com"},
        {"active": True},
        {"active": True, "username": 5},
        {**ALICE, "exp": NOW - 1},
        {"active": False, "exp": "1"},
    ],
)
async def test_a_token_that_is_not_good(answer: object) -> None:
    async with asking(answer) as (endpoint, validator):
        assert await validator.owner("token") is None
        assert await validator.owner("token") is None
        assert len(endpoint.asked) == 2, "it may become good"


@pytest.mark.parametrize(("scope", "good"), [("mail openid", True), ("mailbox", False), (None, False), (7, False)])
async def test_a_scope_that_it_must_have(scope: object, good: bool) -> None:
    async with asking({**ALICE, "scope": scope}, scope="mail") as (_, validator):
        assert await validator.owner("token") == ("alice@example.com" if good else None)


async def test_another_claim_names_the_user() -> None:
    async with asking({**ALICE, "email": "liddell@example.com"}, user_claim="email") as (_, validator):
        assert await validator.owner("token") == "liddell@example.com"


@pytest.mark.parametrize(
    ("exp", "seconds"), [(NOW + 20, 20.0), (NOW + 10**6, MAX_CACHE_SECONDS), (10**400, 60.0), (None, 60.0)]
)
def test_an_answer_is_good_until_the_token_ends_and_for_a_minute_at_most(exp: object, seconds: float) -> None:
    validator = Introspection(IntrospectionOptions("http://127.0.0.1/"), WorkerThreads(), Wall())
    assert validator.read({**ALICE, "exp": exp}) == ("alice@example.com", seconds)


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (ALICE, 401, "it answers 401"),
        (ALICE, 302, "it answers 302"),
        (ALICE, 500, "it answers 500"),
        (b"<html>", 200, "no JSON"),
        (b"[]", 200, "no object"),
        (b"[" * (MAX_ANSWER_OCTETS - 1), 200, "no JSON"),
        ({**ALICE, "exp": "1"}, 200, "no time"),
        ({**ALICE, "exp": True}, 200, "no time"),
        (b'{"active": true, "username": "alice@example.com", "exp": NaN}', 200, "no time"),
        (b" " * (MAX_ANSWER_OCTETS + 1), 200, "more than"),
    ],
)
async def test_what_is_no_clear_answer_is_no_wrong_token(answer: object, status: int, says: str) -> None:
    async with asking(answer) as (endpoint, validator):
        endpoint.status = status
        with pytest.raises(ValidatorAway, match=says) as raised:
            await validator.owner("s3cret-token")
        assert "s3cret-token" not in str(raised.value)


async def test_a_server_that_hangs_or_is_not_there() -> None:
    async with asking(ALICE, seconds=0.2) as (endpoint, validator):
        endpoint.hangs = True
        with pytest.raises(ValidatorAway, match=r"no answer within 0\.2 s"):
            await validator.owner("token")
    away = Introspection(IntrospectionOptions("http://127.0.0.1:1/"), WorkerThreads(), Wall())
    with pytest.raises(ValidatorAway, match="ConnectError"):
        await away.owner("token")
    await away.aclose()
