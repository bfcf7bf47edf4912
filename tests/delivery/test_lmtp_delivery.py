"""LMTP: LHLO, a reply a recipient, over TCP and over a unix socket."""

from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define

from elemta.config.sections import TimeoutsSection
from elemta.delivery.hops import Hop
from elemta.delivery.lmtp import LMTP_PORT, lmtp_transport, tcp_hops, unix_hops
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.session import ClientOptions
from elemta.mail.outcome import Deferred, Delivered, Outcome
from elemta.net.base import Endpoint
from elemta.net.sockets import SystemNetwork
from elemta.resolver.base import MailExchanger
from tests.delivery.jobs import attempt
from tests.delivery.scripted import Host, silent_log, world

CONTENT = b"Subject: hello\r\n\r\n.world\r\n"


@define
class Names:
    """A resolver that knows one host."""

    known: list[str]

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        raise AssertionError("LMTP asks for no MX")

    async def addresses(self, host: str) -> list[str]:
        return self.known

    async def ipv4_addresses(self, name: str) -> list[str]:
        raise AssertionError("LMTP asks for no A alone")

    async def pointers(self, address: str) -> list[str]:
        raise AssertionError("LMTP asks for no PTR")

    async def texts(self, name: str) -> list[str]:
        raise AssertionError("LMTP asks for no TXT")


async def deliver(host: Host, *recipients: str) -> list[Outcome]:
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        outcomes = list(await here.transport.deliver(attempt(*recipients, content=CONTENT).job))
        nursery.cancel_scope.cancel()
    return outcomes


def brief(outcomes: list[Outcome]) -> list[str]:
    return [f"{type(each).__name__} {each.reply.code}" for each in outcomes]


async def test_each_recipient_has_its_own_reply() -> None:
    host = Host(
        lmtp=True,
        replies={
            "RCPT": ["250 ok", "550 5.1.1 no", "250 ok"],
            ".": ["250 2.0.0 saved", "452 4.2.2 full", "550 5.7.0 no"],
        },
    )
    recipients = [f"{name}@example.net" for name in ("a", "nobody", "b", "c")]
    outcomes = await deliver(host, *recipients)
    assert brief(outcomes) == ["Delivered 250", "Failed 550", "Deferred 452", "Failed 550"]
    assert isinstance(outcomes[0], Delivered)
    assert outcomes[0].final  # it is in the mailbox, not at another relay
    assert host.commands[0] == "LHLO client.example.org"
    assert len(host.mails) == 1


@pytest.mark.parametrize(
    ("last", "uncertain"),
    [("close", [False, True, True]), ("nonsense", [False, True, True]), ("421 4.3.2 closing", [False, False, True])],
)
async def test_recipients_without_a_reply_are_uncertain(last: str, uncertain: list[bool]) -> None:
    host = Host(lmtp=True, replies={".": ["250 2.0.0 saved", last]})
    outcomes = await deliver(host, "a@example.net", "b@example.net", "c@example.net")
    assert [type(each) for each in outcomes] == [Delivered, Deferred, Deferred]
    assert [isinstance(each, Deferred) and each.uncertain for each in outcomes] == uncertain


async def test_there_is_no_helo_in_lmtp() -> None:
    host = Host(lmtp=True, replies={"LHLO": ["500 5.5.1 what?"]})
    assert brief(await deliver(host, "a@example.net")) == ["Failed 500"]
    assert host.commands == ["LHLO client.example.org"]


async def test_a_session_is_reused_whatever_became_of_the_recipients() -> None:
    host = Host(lmtp=True, replies={".": ["550 5.7.0 no", "250 2.0.0 saved"]})
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        for expected in (["Failed 550", "Delivered 250"], ["Delivered 250", "Delivered 250"]):
            outcomes = await here.transport.deliver(attempt("a@example.net", "b@example.net", content=CONTENT).job)
            assert brief(list(outcomes)) == expected
        nursery.cancel_scope.cancel()
    assert host.sessions == 1


async def test_over_a_real_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    network = SystemNetwork()
    host = Host(lmtp=True, replies={".": ["250 2.0.0 saved", "550 5.7.0 no"]})
    async with trio.open_nursery() as nursery:
        (listener,) = await network.listen(f"unix:{path}", 5)

        async def accept() -> None:
            while True:
                nursery.start_soon(host.serve, await listener.accept())

        nursery.start_soon(accept)
        pool = ConnectionPool()
        options = ClientOptions("client.example.org", TimeoutsSection())
        transport = lmtp_transport(unix_hops(path), network, pool=pool, options=options, log=silent_log())
        for _ in range(2):
            outcomes = await transport.deliver(attempt("a@example.net", "b@example.net", content=CONTENT).job)
        assert brief(list(outcomes)) == ["Failed 550", "Failed 550"]
        assert outcomes[0].peer.host == f"unix:{path}"
        await pool.close_all()
        nursery.cancel_scope.cancel()
    listener.close()
    assert host.sessions == 1
    assert host.commands[-1] == "QUIT"


async def test_hosts_are_found_by_name_or_address() -> None:
    names = Names(["192.0.2.7", "2001:db8::7"])
    by_name = await tcp_hops("store.example.net", None, names).hops("example.net")
    assert by_name == [
        Hop("store.example.net", Endpoint("192.0.2.7", LMTP_PORT)),
        Hop("store.example.net", Endpoint("2001:db8::7", LMTP_PORT)),
    ]
    by_address = await tcp_hops("[2001:db8::8]", 2424, names).hops("example.net")
    assert by_address == (Hop("[2001:db8::8]", Endpoint("2001:db8::8", 2424)),)


def test_the_port_of_smtp_is_refused() -> None:
    with pytest.raises(ValueError, match="RFC 2033 §5"):
        tcp_hops("store.example.net", 25, Names([]))
