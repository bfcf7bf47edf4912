"""Clients behind proxies: whom everything in the server takes them for, who is closed and when, what is logged."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from attrs import evolve

from elemta.config.sections import LimitsSection
from elemta.config.tls import TlsMode
from elemta.inbound.options import ListenerOptions
from elemta.inbound.proxied import HEADER_SECONDS, MAX_AWAITED_HEADERS, REFUSAL_LOG_SECONDS
from elemta.inbound.service import Bound, InboundService
from elemta.net.base import Endpoint
from elemta.tls.stream import HandshakeFailed, connect_tls
from tests.auth.people import LIMITS, House
from tests.inbound.test_inbound_tls import NAME, TlsWorld, served
from tests.inbound.test_login import ALICE, WELCOME, Site, plain
from tests.inbound.world import Client, MemoryStream, World
from tests.net.proxy_headers import LOCAL, SOURCE, UNKNOWN, addresses, binary, line, with_checksum
from tests.tls.served_files import Desk, Office

#: In `allowed_relays` of the worlds, as a proxy on this machine may well be.
PROXY = "127.0.0.1"
STRANGER = "192.0.2.66"
PROXIES = tuple(map(ip_network, (f"{PROXY}/32", "192.0.2.0/29", "2001:db8::/64")))
LISTENER = ListenerOptions(name="behind", address="memory", proxies=PROXIES)
OPEN = ListenerOptions(name="open", address="memory")
RELAY = "127.0.0.9"


class ProxiedWorld(World):
    """A service with one listener behind proxies, another one (`open`) for everybody."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.open = type(self.listener)()
        self.service = InboundService(self.services, [Bound(LISTENER, [self.listener]), Bound(OPEN, [self.open])])

    async def come(self, header: bytes = line(), *, peer: str = PROXY) -> Client:
        """A client whose proxy has sent this."""
        client = self.connect(peer)
        await client.stream.send_all(header)
        return client

    def warnings(self) -> list[tuple[str, str, int]]:
        """Peer, cause, number of each refusal in the log."""
        return [(event["peer"], event["cause"], event["refused"]) for event in self.events("proxy.refused")]


@asynccontextmanager
async def serving(**changes: Any) -> AsyncIterator[ProxiedWorld]:
    world = ProxiedWorld(**changes)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.service.run)
        yield world
        nursery.cancel_scope.cancel()


async def is_closed(client: Client) -> bool:
    """Whether the server has ended the connection without a word, all but at this very moment."""
    with trio.move_on_after(0.001):
        return await client.stream.receive_some() == b""
    return False


# ---- whom the client is taken for ----------------------------------------------------------------


@pytest.mark.parametrize("header", [line(), binary(addresses()), with_checksum(addresses())])
async def test_everything_sees_the_client_that_was_told(header: bytes, autojump_clock: object) -> None:
    async with serving() as world:
        client = await world.come(header)
        assert (await client.begin("alice@example.com")).startswith("250")
        assert (await client.send(b"Subject: s\r\n\r\nx\r\n")).startswith("250")
        assert (await client.say("QUIT")).startswith("221")
        await trio.testing.wait_all_tasks_blocked()
    (submission,) = world.queue.submitted
    assert submission.origin.client == f"{SOURCE}:40000"
    assert submission.content is not None
    assert submission.content.startswith(f"Received: from client.example ([{SOURCE}])".encode())
    assert [event["client"] for event in world.events("mail.accepted")] == [f"{SOURCE}:40000"]
    assert [event["client"] for event in world.events("session.ended")] == [f"{SOURCE}:40000"]
    assert world.warnings() == []


@pytest.mark.parametrize(
    ("header", "reply"),
    [
        (line(), "550 5.7.1"),  # though its proxy may relay
        (line(RELAY), "250"),
        (binary(addresses("::ffff:127.0.0.9", "::ffff:127.0.0.1"), family=0x21), "250"),
        (line("2001:db8::7", "2001:db8::25"), "550 5.7.1"),
        (b"PROXY UNKNOWN\r\n", "250"),  # the proxy itself, as far as anybody knows
        (binary(command=LOCAL, family=UNKNOWN), "250"),
        (binary(addresses(), command=LOCAL), "250"),
    ],
)
async def test_who_may_relay_is_decided_by_the_client(header: bytes, reply: str, autojump_clock: object) -> None:
    async with serving() as world:
        world.listener.local = Endpoint(PROXY, 25)
        assert (await (await world.come(header)).begin()).startswith(reply)


async def test_another_machines_loopback_is_no_relay_of_ours(autojump_clock: object) -> None:
    async with serving() as world:
        client = await world.come(line("127.0.0.1"), peer="192.0.2.1")
        assert (await client.begin()).startswith("550 5.7.1")
        await client.say("QUIT")
        await trio.testing.wait_all_tasks_blocked()
        assert world.events("session.ended")[0]["client"] == "192.0.2.1:40000"


async def test_admission_counts_clients_and_not_their_proxy(autojump_clock: object) -> None:
    async with serving(limits=LimitsSection(max_connections_per_address=1)) as world:
        first, other = await world.come(), await world.come(line("198.51.100.8"))
        assert (await first.reply()).startswith("220")
        assert (await other.reply()).startswith("220")
        assert (await (await world.come(line(ports="40001 25"))).reply()).startswith("421 4.7.0")
        await first.say("QUIT")
        await trio.testing.wait_all_tasks_blocked()
        assert (await (await world.come(line(ports="40002 25"))).reply()).startswith("220")
        assert world.service.open_connections == 2
    assert world.service.open_connections == 0


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
async def test_octets_behind_the_header_are_the_clients(size: int, autojump_clock: object) -> None:
    async with serving() as world:
        client = world.connect(PROXY)
        octets = binary(addresses()) + b"NOOP\r\nRSET\r\nQUIT\r\n"
        for start in range(0, len(octets), size):
            await client.stream.send_all(octets[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        codes = [(await client.reply())[:3] for _ in range(4)]
        assert codes == ["220", "250", "250", "221"]


@pytest.mark.parametrize("second", [line(RELAY), binary(addresses(RELAY)) + b"\r\n"])
async def test_a_second_header_is_none(second: bytes, autojump_clock: object) -> None:
    """Whoever is behind the proxy may write one as well, and is who he was."""
    dialogue = b"EHLO client.example\r\nMAIL FROM:<s@example.org>\r\nRCPT TO:<r@example.net>\r\nQUIT\r\n"
    async with serving() as world:
        world.listener.local = Endpoint(PROXY, 25)
        client = await world.come(line() + second + dialogue)
        replies = [await client.reply()]
        while replies[-1]:
            replies.append(await client.reply())
        await trio.testing.wait_all_tasks_blocked()
        assert replies[0].startswith("220")
        assert replies[1].startswith("500")
        assert not any(reply.startswith("250 2.1.5") for reply in replies)
        assert [event["client"] for event in world.events("session.ended")] == [f"{SOURCE}:40000"]


# ---- who is closed -------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [line(), binary(addresses()), line("127.0.0.1"), b"", b"EHLO client.example\r\n"])
async def test_whoever_is_no_trusted_proxy_is_closed_at_once(header: bytes, autojump_clock: object) -> None:
    async with serving() as world:
        client = world.connect(STRANGER)
        with suppress(trio.BrokenResourceError):  # it is closed before it can send
            await client.stream.send_all(header)
        assert await is_closed(client)
        assert world.warnings() == [(f"{STRANGER}:40000", "this peer is no trusted proxy", 1)]
        assert world.events("session.ended") == []


@pytest.mark.parametrize("peer", ["", "/run/haproxy", "192.0.2.7", "2001:db8::5"])
async def test_proxies_are_named_by_networks(peer: str, autojump_clock: object) -> None:
    async with serving() as world:
        assert (await (await world.come(peer=peer)).reply()).startswith("220")


async def test_a_listener_without_proxies_takes_no_header(autojump_clock: object) -> None:
    async with serving() as world:
        client = world.open.connect(PROXY)
        assert (await client.reply()).startswith("220")
        assert (await client.say("PROXY TCP4 198.51.100.7 203.0.113.25 40000 25")).startswith("5")
        await client.say("QUIT")
        await trio.testing.wait_all_tasks_blocked()
        assert world.events("session.ended")[0]["client"] == f"{PROXY}:40000"


@pytest.mark.parametrize(
    ("spoken", "cause"),
    [
        (b"EHLO client.example\r\n", "it begins with something else than a PROXY header"),
        (line(ports="0 25"), "a port is not a number from 1 to 65535"),
        (with_checksum(addresses())[:-1] + b"!", "its checksum is wrong"),
    ],
)
async def test_a_bad_header_closes(spoken: bytes, cause: str, autojump_clock: object) -> None:
    async with serving() as world:
        client = await world.come(spoken)
        assert await is_closed(client)
        assert world.warnings() == [(f"{PROXY}:40000", cause, 1)]
        assert world.services.metrics.connection_errors.labels(cause="proxy")._value.get() == 1


@pytest.mark.parametrize("spoken", [b"", b"PROXY TCP4 198", binary(addresses())[:-1]])
async def test_a_header_that_does_not_come_closes(spoken: bytes, autojump_clock: object) -> None:
    async with serving() as world:
        client = await world.come(spoken)
        began = trio.current_time()
        assert (await (await world.come()).reply()).startswith("220")  # nobody waits for somebody else's
        assert (await world.open.connect(STRANGER).reply()).startswith("220")
        assert trio.current_time() == began
        assert await client.reply() == ""
        assert trio.current_time() - began == HEADER_SECONDS
        assert world.warnings() == [(f"{PROXY}:40000", f"no header within {HEADER_SECONDS:g} s", 1)]


async def test_who_drips_its_header_has_no_more_time(autojump_clock: object) -> None:
    async with serving() as world:
        client = await world.come(b"PROXY UNKNOWN ")
        for _ in range(4):
            await trio.sleep(HEADER_SECONDS / 4 - 0.01)
            await client.stream.send_all(b".")
        assert not await is_closed(client)
        await trio.sleep(0.05)
        assert await is_closed(client)


async def test_a_look_at_the_port_is_no_offence(autojump_clock: object) -> None:
    async with serving() as world:
        client = await world.come(b"")
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert world.warnings() == []
        assert world.events("proxy.left")[0]["log_level"] == "debug"


async def test_a_flood_is_a_line_now_and_then(autojump_clock: object) -> None:
    async with serving() as world:
        for _ in range(50):
            world.connect(STRANGER)
            await world.come(b"EHLO")
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(REFUSAL_LOG_SECONDS)
        world.connect(STRANGER)
        await trio.testing.wait_all_tasks_blocked()
        assert [(peer, count) for peer, _, count in world.warnings()] == [
            (f"{STRANGER}:40000", 1),
            (f"{PROXY}:40000", 1),  # a kind of its own: strangers do not drown what is wrong with our proxy
            (f"{STRANGER}:40000", 50),
        ]


async def test_no_more_headers_are_awaited_than_the_bound(autojump_clock: object) -> None:
    async with serving() as world:
        clients = []
        for _ in range(MAX_AWAITED_HEADERS):
            clients.append(world.connect(PROXY))
            await trio.testing.wait_all_tasks_blocked()
        assert await is_closed(world.connect(PROXY))
        assert world.warnings() == [(f"{PROXY}:40000", "too many headers are awaited", 1)]
        await clients[0].stream.send_all(b"PROXY UNKNOWN\r\n")
        assert (await clients[0].reply()).startswith("220")
        assert (await (await world.come()).reply()).startswith("220")


class Defective(MemoryStream):
    """Fails as only a defect of ours can."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise ArithmeticError("a defect")


async def test_a_defect_ends_one_connection(autojump_clock: object) -> None:
    async with serving() as world:
        client = world.listener.connect(PROXY, Defective)
        assert await is_closed(client)
        assert len(world.events("proxy.failed")) == 1
        assert (await (await world.come()).reply()).startswith("220")


# ---- drain ---------------------------------------------------------------------------------------


async def test_a_drain_refuses_who_tells_its_client_now_and_ends_who_does_not(autojump_clock: object) -> None:
    async with serving() as world:
        busy, waiting, silent = await world.come(), world.connect(PROXY), world.connect(PROXY)
        await busy.begin("alice@example.com")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.service.drain, 2)
            await trio.testing.wait_all_tasks_blocked()
            await waiting.stream.send_all(line())
            assert (await waiting.reply()).startswith("421 4.3.2")
            assert (await (await world.come()).reply()).startswith("421 4.3.2")
            assert (await busy.reply()).startswith("421 4.3.2")
            assert trio.current_time() == pytest.approx(2)
        assert await is_closed(silent)
        assert not world.service.accepting


async def test_a_stop_closes_what_is_awaited(autojump_clock: object) -> None:
    async with serving() as world:
        client = world.connect(PROXY)
        await trio.testing.wait_all_tasks_blocked()
    assert await is_closed(client)
    assert world.warnings() == []


# ---- TLS and AUTH --------------------------------------------------------------------------------


def behind_proxies(world: TlsWorld, mode: TlsMode) -> TlsWorld:
    world.service = InboundService(world.services, [Bound(evolve(LISTENER, tls=mode), [world.listener])])
    return world


class Ahead(MemoryStream):
    """Sends a header in one piece with the first octets of a client."""

    def __init__(self, client: Client, header: bytes) -> None:
        super().__init__(client.stream, Endpoint(SOURCE, 40_000), Endpoint(PROXY, 25))
        self._header = header

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        header, self._header = self._header, b""
        await super().send_all(header + bytes(data))


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.mark.parametrize("header", [line(), binary(addresses())])
async def test_a_header_comes_before_tls(office: Office, header: bytes, autojump_clock: object) -> None:
    world = behind_proxies(TlsWorld(office, TlsMode.IMPLICIT), TlsMode.IMPLICIT)
    async with served(world):
        client = world.connect(PROXY)
        stream = await connect_tls(Ahead(client, header), office.trusting(), server_name=NAME)
        assert stream.facts.version == "TLSv1.3"
        client.stream = stream  # type: ignore[assignment]  # a client asks for no more than a stream's verbs
        assert (await client.begin("alice@example.com")).startswith("250")
        await client.say("QUIT")
        await trio.testing.wait_all_tasks_blocked()
    (event,) = world.events("session.ended")
    assert (event["client"], event["tls"]) == (f"{SOURCE}:40000", "TLSv1.3")


async def test_an_octet_between_header_and_tls_spoils_the_handshake(office: Office, autojump_clock: object) -> None:
    world = behind_proxies(TlsWorld(office, TlsMode.IMPLICIT), TlsMode.IMPLICIT)
    async with served(world):
        client = world.connect(PROXY)
        with pytest.raises(HandshakeFailed):
            await connect_tls(Ahead(client, line() + b"x"), office.trusting(), server_name=NAME)


async def test_starttls_forgets_what_came_with_the_header(office: Office, autojump_clock: object) -> None:
    world = behind_proxies(TlsWorld(office, TlsMode.STARTTLS), TlsMode.STARTTLS)
    async with served(world):
        client = world.connect(PROXY)
        await client.stream.send_all(line() + b"EHLO client.example\r\n")
        assert (await client.reply()).startswith("220")
        assert "STARTTLS" in await client.reply()
        assert (await client.say("STARTTLS")).startswith("220")
        await world.encrypt(client)
        assert (await client.say("MAIL FROM:<s@example.org>")).startswith("503")
        assert "STARTTLS" not in await client.say("EHLO client.example")
        assert (await client.say("QUIT")).startswith("221")
        await trio.testing.wait_all_tasks_blocked()
    assert world.events("session.ended")[0]["client"] == f"{SOURCE}:40000"


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
async def test_handshakes_are_counted_for_the_client(office: Office, mode: TlsMode, autojump_clock: object) -> None:
    desk = Desk(office.write("one", NAME), handshakes_per_address=1)
    world = behind_proxies(TlsWorld(office, mode, desk=desk), mode)
    shake = world.encrypt if mode is TlsMode.IMPLICIT else world.start_tls
    async with served(world):
        for host in ["198.51.100.8"] * 5 + ["198.51.100.9"] * 5:
            client = world.connect(PROXY)
            await client.stream.send_all(line(host))
            await (await shake(client)).aclose()
        assert desk.events("tls.refused") == []
        client = world.connect(PROXY)
        await client.stream.send_all(line("198.51.100.8"))
        with suppress(HandshakeFailed, AssertionError):  # closed, or answered 454
            await shake(client)
    assert [event["client"] for event in desk.events("tls.refused")] == ["198.51.100.8"]


@pytest.mark.parametrize(
    ("peer", "local", "header", "offered"),
    [
        ("127.0.0.1", "127.0.0.1", line(), False),  # far away, behind a proxy of ours
        ("127.0.0.1", "127.0.0.1", line(SOURCE, "127.0.0.1"), False),
        ("127.0.0.1", "127.0.0.1", line("127.0.0.2", "127.0.0.1"), True),
        ("127.0.0.1", "127.0.0.1", line("127.0.0.2"), False),
        ("127.0.0.1", "127.0.0.1", binary(command=LOCAL, family=UNKNOWN), True),
        ("192.0.2.1", "192.0.2.25", line("127.0.0.1", "127.0.0.1"), False),  # on the proxy's machine, not on ours
        ("192.0.2.1", "127.0.0.1", line("127.0.0.1", "127.0.0.1"), False),
        ("2001:db8::1", "2001:db8::2", line("::1", "::1"), False),
        ("192.0.2.1", "192.0.2.25", binary(command=LOCAL, family=UNKNOWN), False),
    ],
)
async def test_auth_in_the_clear_is_for_clients_on_this_machine(
    peer: str, local: str, header: bytes, offered: bool, autojump_clock: object
) -> None:
    house = House(limits=LIMITS)
    site = Site(house, evolve(LISTENER, auth=True), local)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.authenticator.run)
        await nursery.start(site.service.run)
        client = site.world.connect(peer)
        await client.stream.send_all(header)
        await client.reply()
        hello = await client.say("EHLO client.example")
        assert ("AUTH PLAIN" in hello) is offered
        reply = await client.say(f"AUTH PLAIN {plain(ALICE)}")
        assert (reply == WELCOME) is offered
        nursery.cancel_scope.cancel()
