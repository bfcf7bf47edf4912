"""TLS in a session: STARTTLS, TLS from the first octet, what is forgotten, what is refused, who may relay."""

import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from attrs import evolve

from elemta.config.tls import ClientCertificates, TlsMode
from elemta.inbound.options import ListenerOptions
from elemta.inbound.service import Bound, InboundService
from elemta.net.base import Endpoint
from elemta.tls.contexts import ContextOptions
from elemta.tls.stream import HandshakeFailed, TlsStream, connect_tls
from tests.inbound.world import Client, MemoryStream, World
from tests.tls.served_files import Desk, Office

NAME = "mx.example.com"
STRANGER = "192.0.2.1"
TIMEOUT_SECONDS = 20.0


class TlsWorld(World):
    """A service whose one listener speaks TLS."""

    def __init__(self, office: Office, mode: TlsMode, *, desk: Desk | None = None, **changes: Any) -> None:
        super().__init__(**changes)
        self.office = office
        self.desk = desk or Desk(office.write("one", NAME), handshake_timeout=TIMEOUT_SECONDS)
        self.services = evolve(self.services, tls=self.desk.tls)
        listener = ListenerOptions(name="smtp", address="memory", tls=mode)
        self.service = InboundService(self.services, [Bound(listener, [self.listener])])

    async def encrypt(self, client: Client, *, issued: trustme.LeafCert | None = None) -> TlsStream:
        """Shake hands."""
        context = self.office.trusting()
        if issued is not None:
            issued.configure_cert(context)
        inner = MemoryStream(client.stream, Endpoint(STRANGER, 40_000), self.listener.local)
        stream = await connect_tls(inner, context, server_name=NAME)
        client.stream = stream  # type: ignore[assignment]  # a client asks for no more than a stream's verbs
        return stream

    async def start_tls(self, client: Client, *, issued: trustme.LeafCert | None = None) -> TlsStream:
        """Greeting, EHLO, STARTTLS, handshake."""
        await client.reply()
        await client.say("EHLO client.example")
        assert (await client.say("STARTTLS")).startswith("220 ")
        return await self.encrypt(client, issued=issued)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@asynccontextmanager
async def served(world: TlsWorld) -> AsyncIterator[TlsWorld]:
    await world.desk.tls.load()
    async with trio.open_nursery() as nursery:
        await nursery.start(world.service.run)
        yield world
        nursery.cancel_scope.cancel()


# ---- STARTTLS ------------------------------------------------------------------------------------


async def test_starttls_encrypts_and_forgets(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    async with served(TlsWorld(office, TlsMode.STARTTLS)) as world:
        client = world.connect()
        await client.reply()
        hello = await client.say("EHLO client.example")
        assert "250-STARTTLS" in hello
        assert "REQUIRETLS" not in hello
        await client.say("MAIL FROM:<s@example.org>")
        assert await client.say("STARTTLS") == "220 2.0.0 ready to start TLS"
        await world.encrypt(client)
        assert (await client.say("MAIL FROM:<s@example.org>")).startswith("503 ")
        hello = await client.say("EHLO client.example")
        assert "STARTTLS" not in hello
        assert "REQUIRETLS" in hello
        assert (await client.say("RCPT TO:<r@example.net>")).startswith("503 ")  # that transaction is gone
        assert (await client.say("STARTTLS")).startswith("503 ")
        await client.say("MAIL FROM:<s@example.org>")
        await client.say("RCPT TO:<r@example.net>")
        assert (await client.send(b"Subject: s\r\n\r\nx\r\n")).startswith("250 ")
        assert (await client.say("QUIT")).startswith("221 ")
        assert await client.reply() == ""
        await trio.testing.wait_all_tasks_blocked()
    (submission,) = world.queue.submitted
    assert submission.origin.protocol == "ESMTPS"
    assert submission.content is not None
    trace = submission.content.partition(b"Subject")[0]
    assert b" with ESMTPS id " in trace.replace(b"\r\n\t", b" ")
    assert b"\r\n\t(using TLSv1.3 with cipher TLS_" in trace
    (event,) = world.events("session.ended")
    assert (event["tls"], event["cause"]) == ("TLSv1.3", "quit")


async def test_a_session_in_the_clear_says_so(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    async with served(TlsWorld(office, TlsMode.STARTTLS)) as world:
        client = world.connect()
        assert (await client.begin()).startswith("250 ")
        await client.send(b"Subject: s\r\n\r\nx\r\n")
        await client.say("QUIT")
        await trio.testing.wait_all_tasks_blocked()
    assert world.queue.submitted[0].origin.protocol == "ESMTP"
    assert "tls" not in world.events("session.ended")[0]


async def test_what_came_in_the_clear_behind_starttls_is_dropped(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    """The injection of CVE-2011-0411: a command behind STARTTLS in the same segment would count as encrypted."""
    async with served(TlsWorld(office, TlsMode.STARTTLS)) as world:
        client = world.connect()
        await client.reply()
        await client.say("EHLO client.example")
        await client.stream.send_all(b"STARTTLS\r\nMAIL FROM:<injected@example.org>\r\n")
        reply = await client.reply()
        assert reply.startswith("554 ")  # it talks past a command whose reply it must wait for
        assert await client.reply() == ""


async def test_a_handshake_that_fails_ends_the_session(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    async with served(TlsWorld(office, TlsMode.STARTTLS)) as world:
        client = world.connect()
        await client.reply()
        await client.say("EHLO client.example")
        await client.say("STARTTLS")
        await client.stream.send_all(b"MAIL FROM:<s@example.org>\r\n")
        rest = b""
        while data := await client.stream.receive_some():
            rest += bytes(data)
        assert rest[:1] in (b"", b"\x15")  # nothing, or an alert: never a reply
        assert b"250" not in rest
        await trio.testing.wait_all_tasks_blocked()
    (event,) = world.events("session.ended")
    assert event["cause"].startswith("no TLS: ")
    assert "tls" not in event


async def test_a_stalled_handshake_ends_at_its_deadline(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    async with served(TlsWorld(office, TlsMode.STARTTLS)) as world:
        client = world.connect()
        await client.reply()
        await client.say("EHLO client.example")
        await client.say("STARTTLS")
        assert await client.stream.receive_some() == b""
        assert trio.current_time() == pytest.approx(TIMEOUT_SECONDS, abs=0.5)
        await trio.testing.wait_all_tasks_blocked()
    assert world.events("session.ended")[0]["cause"] == f"no TLS: the handshake took more than {TIMEOUT_SECONDS:g} s"
    assert world.service.open_connections == 0


async def test_too_many_handshakes_are_put_off(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(office.write("one", NAME), handshakes_per_address=1)
    async with served(TlsWorld(office, TlsMode.STARTTLS, desk=desk)) as world:
        for _ in range(5):
            await (await world.start_tls(world.connect())).aclose()
        client = world.connect()
        await client.reply()
        await client.say("EHLO client.example")
        assert await client.say("STARTTLS") == "454 4.7.0 TLS is not available to you now, try again later"
        assert (await client.say("NOOP")).startswith("250 ")  # the client decides whether to go on
        await trio.sleep(1)
        assert (await client.say("STARTTLS")).startswith("220 ")


async def test_starttls_is_not_offered_before_there_is_a_certificate(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    desk = Desk(office.files("ordered", awaited=True))
    async with served(TlsWorld(office, TlsMode.STARTTLS, desk=desk)) as world:
        client = world.connect()
        await client.reply()
        assert "STARTTLS" not in await client.say("EHLO client.example")
        assert (await client.say("STARTTLS")).startswith("502 ")
        office.write("ordered", NAME)
        await desk.tls.reload("renewed")
        await (await world.start_tls(world.connect())).aclose()


async def test_a_session_outlives_the_certificate_that_it_began_with(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    async with served(TlsWorld(office, TlsMode.STARTTLS)) as world:
        client = world.connect()
        first = await world.start_tls(client)
        office.write("one", NAME)
        assert await world.desk.tls.reload("SIGHUP")
        second = await world.start_tls(world.connect())
        assert first.facts.peer_fingerprint != second.facts.peer_fingerprint
        assert (await client.say("NOOP")).startswith("250 ")


async def test_a_drain_reaches_encrypted_sessions(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    world = TlsWorld(office, TlsMode.STARTTLS)
    await world.desk.tls.load()
    async with trio.open_nursery() as nursery:
        await nursery.start(world.service.run)
        client = world.connect()
        await world.start_tls(client)
        stalled = world.connect()
        await stalled.reply()
        await stalled.say("EHLO client.example")
        await stalled.say("STARTTLS")
        nursery.start_soon(world.service.drain, 5.0)
        assert (await client.reply()).startswith("421 4.3.2 ")
        assert await stalled.stream.receive_some() == b""  # cut in its handshake: nothing is said in the clear
    assert trio.current_time() <= 6.0


# ---- from the first octet ------------------------------------------------------------------------


async def test_tls_from_the_first_octet(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    async with served(TlsWorld(office, TlsMode.IMPLICIT)) as world:
        client = world.connect()
        await world.encrypt(client)
        assert (await client.reply()).startswith("220 mx.example.com ")
        hello = await client.say("EHLO client.example")
        assert "STARTTLS" not in hello
        assert "REQUIRETLS" in hello
        assert (await client.say("QUIT")).startswith("221 ")
        await trio.testing.wait_all_tasks_blocked()
    assert world.events("session.ended")[0]["tls"] == "TLSv1.3"


@pytest.mark.parametrize("spoken", [b"EHLO client.example\r\n", b"GET / HTTP/1.0\r\n\r\n"])
async def test_a_client_in_the_clear_gets_no_reply(
    office: Office, autojump_clock: trio.testing.MockClock, spoken: bytes
) -> None:
    async with served(TlsWorld(office, TlsMode.IMPLICIT)) as world:
        client = world.connect()
        await client.stream.send_all(spoken)
        heard = await client.stream.receive_some()
        assert bytes(heard)[:1] in (b"", b"\x15")
        await trio.testing.wait_all_tasks_blocked()
    assert world.events("session.ended")[0]["cause"].startswith("no TLS: ")


async def test_too_many_handshakes_are_closed(office: Office, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(office.write("one", NAME), handshakes_per_address=1)
    async with served(TlsWorld(office, TlsMode.IMPLICIT, desk=desk)) as world:
        for _ in range(5):
            await (await world.encrypt(world.connect())).aclose()
        with pytest.raises(HandshakeFailed):
            await world.encrypt(world.connect())
        await trio.testing.wait_all_tasks_blocked()
    assert len(world.events("session.ended")) == 5
    (event,) = desk.events("tls.refused")
    assert event["cause"] == "too many handshakes from this address"
    assert world.service.open_connections == 0


async def test_connections_are_closed_before_there_is_a_certificate(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    desk = Desk(office.files("ordered", awaited=True))
    async with served(TlsWorld(office, TlsMode.IMPLICIT, desk=desk)) as world:
        with pytest.raises(HandshakeFailed):
            await world.encrypt(world.connect())
        await trio.testing.wait_all_tasks_blocked()
    assert desk.events("tls.refused")[0]["cause"] == "there is no certificate yet"


async def test_a_client_that_is_one_too_many_hears_nothing_in_the_clear(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    limits = evolve(World().services.options.limits, max_connections=1)
    async with served(TlsWorld(office, TlsMode.IMPLICIT, limits=limits)) as world:
        await world.encrypt(world.connect())
        late = world.connect()
        assert await late.stream.receive_some() == b""


# ---- client certificates -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
async def test_the_holder_of_a_listed_certificate_may_relay(
    office: Office, autojump_clock: trio.testing.MockClock, mode: TlsMode, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    listed, other = authority.issue_cert("one.client"), authority.issue_cert("other.client")
    context = ContextOptions(client_auth=ClientCertificates.REQUEST, client_ca_file=str(tmp_path / "clients.pem"))
    desk = Desk(office.write("one", NAME), context=context)
    fingerprint = fingerprint_of(listed)
    async with served(TlsWorld(office, mode, desk=desk, relay_certificates=frozenset({fingerprint}))) as world:
        for issued, code in ((listed, "250"), (other, "550"), (None, "550")):
            client = world.listener.connect(STRANGER)
            if mode is TlsMode.STARTTLS:
                await world.start_tls(client, issued=issued)
            else:
                await world.encrypt(client, issued=issued)
                await client.reply()
            await client.say("EHLO client.example")
            await client.say("MAIL FROM:<s@example.org>")
            assert (await client.say("RCPT TO:<r@elsewhere.example>"))[:3] == code


def fingerprint_of(issued: trustme.LeafCert) -> str:
    der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    return hashlib.sha256(der).hexdigest()
