"""What scanners are told of the client: only names that lead back to its address."""

from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from elemta.net.base import Endpoint
from elemta.net.sockets import SystemNetwork
from elemta.plugins.mail import SessionFacts
from elemta.plugins.scanners.client import LOOKUP_SECONDS, client_name, prologue
from elemta.simulation.resolver import Name, ScriptedResolver
from tests.plugins.scanning import CLIENT, CLIENT_NAME, NAMES, ScannedMail, ScannerHost


def facts(client: str, port: int = 4711, **words: Any) -> SessionFacts:
    return SessionFacts("s", Endpoint(client, port), Endpoint("192.0.2.25", 25), "smtp", **words)


async def named(session: SessionFacts, names: dict[str, Name] = NAMES, *, seconds: float = 0.02) -> str:
    host: Any = ScannerHost(SystemNetwork(), ScriptedResolver(names, Random(0), seconds=seconds))
    return await client_name(host, session)


async def test_a_name_leads_back(autojump_clock: MockClock) -> None:
    assert await named(facts(CLIENT)) == CLIENT_NAME


@pytest.mark.parametrize(
    "names",
    [
        {},
        {**NAMES, CLIENT_NAME: Name(addresses=("192.0.2.77",))},
        {**NAMES, CLIENT_NAME: Name(failing_until=1e9)},
        {"7.100.51.198.in-addr.arpa": Name(failing_until=1e9)},
    ],
)
async def test_what_is_no_name(autojump_clock: MockClock, names: dict[str, Name]) -> None:
    assert await named(facts(CLIENT), names) == ""


async def test_a_unix_socket_has_none(autojump_clock: MockClock) -> None:
    assert await named(facts("/run/socket", 0)) == ""


async def test_nobody_waits_for_dns(autojump_clock: MockClock) -> None:
    assert await named(facts(CLIENT), seconds=1e6) == ""
    assert trio.current_time() == LOOKUP_SECONDS


def a_prologue(session: SessionFacts, name: str) -> bytes:
    mail: Any = ScannedMail()
    mail.session = session
    return prologue(mail, name, server="mail.example.com", at=0.0)


def test_without_a_name_there_is_no_received() -> None:
    assert a_prologue(facts(CLIENT), "") == b"Return-Path: <a@example.org>\r\n"


def test_no_field_can_be_smuggled_in() -> None:
    hostile = facts("2001:db8::1", helo="x)\r\nX-Spam-Flag: NO\r\n\r\n" + "y" * 1000, tls="TLSv1.3")
    lines = a_prologue(hostile, "n(\r\n").split(b"\r\n")
    assert [line.partition(b" ")[0] for line in lines] == [b"Return-Path:", b"Received:", b"\tby", b"\tThu,", b""]
    assert lines[1].startswith(b"Received: from x???X-Spam-Flag:?NO????yyyy")
    assert lines[1].endswith(b" (n??? [IPv6:2001:db8::1])")
    assert b"with ESMTPS id" in lines[2]
    assert max(map(len, lines)) < 998
