"""Which hosts are tried, in which order, for how long."""

import math

import attrs
import pytest
import trio
import trio.testing

from elemta.delivery.hops import Hop
from elemta.delivery.session import SLACK_SECONDS
from elemta.delivery.smarthost import FixedHops
from elemta.delivery.smtp import MAX_HOPS
from elemta.mail.outcome import Deferred, Failed, Outcome
from elemta.mail.reply import Reply
from elemta.net.sockets import SystemNetwork
from tests.delivery.jobs import attempt
from tests.delivery.scripted import EVERYTHING, Host, hops, world

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
NO_HELLO = {"EHLO": ["550 5.7.1 not you"], "HELO": ["550 5.7.1 not you"]}


async def deliver(*hosts: Host | None, recipients: int = 1) -> tuple[list[Outcome], list[str]]:
    """The outcomes, and the hosts that were connected to."""
    async with trio.open_nursery() as nursery:
        here = world(nursery, *hosts)
        given = attempt(*(f"r{number}@example.net" for number in range(recipients)), content=CONTENT)
        outcomes = list(await here.transport.deliver(given.job))
        nursery.cancel_scope.cancel()
    return outcomes, [endpoint.host for endpoint in here.network.tried]


def brief(outcome: Outcome) -> str:
    return f"{type(outcome).__name__} {outcome.reply.code} {outcome.reply.enhanced}".strip()


@pytest.mark.parametrize(
    "first",
    [
        None,
        Host(greeting="554 5.3.2 no service"),
        Host(greeting="421 4.3.2 busy"),
        Host(greeting="451 later"),
        Host(replies={"connect": ["close"]}),
        Host(greeting="hello there"),
        Host(greeting="220-one\r\n250 two"),
        Host(greeting="2" * 5000),
        Host(greeting="220-more\r\n" * 200 + "220 enough"),
        Host(greeting="250 odd but fine\r\n250 and who asked?"),
        Host(replies={"EHLO": ["421 busy"]}),
        Host(extensions=("x\r\n451 and then this",)),
        Host(replies={"MAIL": ["close"]}),
        Host(replies={"MAIL": ["421 4.7.0 slow down"]}),
        Host(replies={"MAIL": ["452 4.3.1 no room"]}),
        Host(replies={"MAIL": ["354 what?"]}),
        Host(replies={"RCPT": ["close"]}),
        Host(replies={"RCPT": ["421 4.7.0 slow down"]}),
        Host(replies={"MAIL": ["hang"]}),
        Host(replies={"connect": ["hang"]}),
    ],
)
async def test_the_next_host_gets_what_the_first_does_not_decide(
    first: Host | None, autojump_clock: trio.testing.MockClock
) -> None:
    second = Host()
    outcomes, tried = await deliver(first, second)
    assert [brief(each) for each in outcomes] == ["Delivered 250 2.0.0"]
    assert outcomes[0].peer.host == "mx2.example.net"
    assert tried == ["192.0.2.1", "192.0.2.2"]
    assert len(second.mails) == 1


@pytest.mark.parametrize(
    "first",
    [
        Host(replies={"RCPT": ["450 4.7.1 greylisted"]}),
        Host(replies={"MAIL": ["550 5.7.1 not you"]}),
        Host(replies={"RCPT": ["250 ok", "421 4.3.2 closing"]}),
        Host(replies={"DATA": ["close"]}),
        Host(replies={".": ["close"]}),
        Host(replies={".": ["451 4.3.0 later"]}),
    ],
)
async def test_what_the_first_host_decided_is_not_asked_again(first: Host) -> None:
    second = Host()
    outcomes, tried = await deliver(first, second, recipients=2)
    assert not any(brief(each).startswith("Delivered") for each in outcomes)
    assert tried == ["192.0.2.1"]


async def test_recipients_refused_before_the_host_went_away_are_not_asked_again() -> None:
    second = Host()
    outcomes, _ = await deliver(Host(replies={"RCPT": ["550 5.1.1 no", "close"]}), second, recipients=2)
    assert [brief(each) for each in outcomes] == ["Failed 550 5.1.1", "Delivered 250 2.0.0"]
    assert [command for command in second.commands if command.startswith("RCPT")] == ["RCPT TO:<r1@example.net>"]


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([None, None], "Deferred 451 4.4.1"),
        ([Host(greeting="554 5.7.1 you are listed")], "Deferred 554 5.7.1"),
        ([Host(greeting="554 5.7.1 you are listed"), Host(greeting="521 5.3.2 no mail here")], "Deferred 521 5.3.2"),
        ([Host(greeting="554 5.7.1 you are listed"), None], "Deferred 451 4.4.1"),
        ([Host(greeting="421 4.3.2 busy"), Host(greeting="554 5.7.1 you are listed")], "Deferred 554 5.7.1"),
        ([Host(replies=NO_HELLO)], "Failed 550 5.7.1"),
        ([Host(replies=NO_HELLO), Host(greeting="421 4.3.2 busy"), Host(replies=NO_HELLO)], "Deferred 421 4.3.2"),
        ([Host(greeting="554 5.7.1 you are listed"), Host(replies=NO_HELLO)], "Deferred 554 5.7.1"),
        ([None, Host(greeting="421 4.3.2 busy")], "Deferred 421 4.3.2"),
        ([Host(replies={"EHLO": ["close"]}), Host(replies={"MAIL": ["close"]})], "Deferred 451 4.4.2"),
        ([Host(greeting="nonsense")], "Deferred 451 4.5.0"),
    ],
)
async def test_when_no_host_decides(hosts: list[Host | None], expected: str) -> None:
    outcomes, _ = await deliver(*hosts, recipients=2)
    assert [brief(each) for each in outcomes] == [expected] * 2
    assert all(isinstance(each, Deferred | Failed) for each in outcomes)


async def test_no_more_addresses_are_tried_than_the_bound() -> None:
    _, tried = await deliver(*[None] * (MAX_HOPS + 3))
    assert len(tried) == MAX_HOPS


async def test_a_finder_without_hosts_has_the_last_word() -> None:
    nowhere = Failed(Reply(550, "5.1.10", "the domain takes no mail"))

    class Nowhere:
        async def hops(self, domain: str) -> Failed:
            assert domain == "example.net"
            return nowhere

    async with trio.open_nursery() as nursery:
        here = world(nursery)
        here.transport.finder = Nowhere()
        outcomes = await here.transport.deliver(attempt("a@example.net", "b@example.net").job)
    assert outcomes == [nowhere, nowhere]


async def test_helo_follows_a_refused_ehlo() -> None:
    old = Host(replies={"EHLO": ["500 5.5.2 what?"]})
    outcomes, _ = await deliver(old)
    assert [brief(each) for each in outcomes] == ["Delivered 250 2.0.0"]
    assert old.commands[:3] == ["EHLO client.example.org", "HELO client.example.org", "MAIL FROM:<sender@example.org>"]


@pytest.mark.parametrize("extensions", [EVERYTHING, ()])
@pytest.mark.parametrize(
    ("verb", "seconds"),
    [  # RFC 5321 §4.5.3.2.1 to §4.5.3.2.6
        ("connect", 300.0),
        ("EHLO", 300.0),
        ("MAIL", 300.0),
        ("RCPT", 300.0),
        ("DATA", 120.0),
        (".", 600.0),
    ],
)
async def test_each_reply_has_its_time(
    verb: str, seconds: float, extensions: tuple[str, ...], autojump_clock: trio.testing.MockClock
) -> None:
    started = trio.current_time()
    host = Host(replies={verb: ["hang"]}, extensions=extensions)
    (outcome,), _ = await deliver(host)
    assert trio.current_time() - started == pytest.approx(seconds, abs=SLACK_SECONDS)
    assert brief(outcome) == "Deferred 451 4.4.2"
    assert "timed out" in outcome.reply.text
    assert host.streams[0].aborted


@pytest.mark.parametrize("verb", ["connect", "MAIL", "."])
async def test_dripping_octets_earn_no_time(verb: str, autojump_clock: trio.testing.MockClock) -> None:
    class Drip(Host):
        async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
            if verb != "connect":
                await stream.send_all(b"220 hi\r\n")
                await stream.receive_some()
                await stream.send_all(b"250-mx\r\n250 PIPELINING\r\n")
                await stream.receive_some()
            if verb == ".":
                await stream.send_all(b"250 ok\r\n250 ok\r\n354 go\r\n")
                await stream.receive_some()
            for octet in b"250-" + b"x" * 1000:
                await stream.send_all(bytes([octet]))
                await trio.sleep(10)

    started = trio.current_time()
    (outcome,), _ = await deliver(Drip())
    assert trio.current_time() - started == pytest.approx(600 if verb == "." else 300, abs=SLACK_SECONDS)
    assert isinstance(outcome, Deferred)
    assert outcome.uncertain == (verb == ".")


async def test_a_slow_host_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """Each reply within its time: recipients may take longer than one reply's time together."""
    host = Host(delay=100.0)
    outcomes, _ = await deliver(host, recipients=10)
    assert [brief(each) for each in outcomes] == ["Delivered 250 2.0.0"] * 10


async def test_a_host_that_reads_no_content_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        here = world(nursery, Host(window=300_000, extensions=("PIPELINING",)))
        started = trio.current_time()
        given = attempt("a@example.net", content=(b"x" * 76 + b"\r\n") * 10_000)
        (outcome,) = await here.transport.deliver(given.job)
        assert trio.current_time() - started == pytest.approx(180.0, abs=SLACK_SECONDS)  # RFC 5321 §4.5.3.2.5
        nursery.cancel_scope.cancel()
    assert isinstance(outcome, Deferred)
    assert not outcome.uncertain


async def test_a_silent_address_costs_the_connect_timeout(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        here = world(nursery, None, Host())
        here.network.silent.add(hops(1)[0].endpoint)
        started = trio.current_time()
        (outcome,) = await here.transport.deliver(attempt("a@example.net", content=CONTENT).job)
        assert brief(outcome) == "Delivered 250 2.0.0"
        assert trio.current_time() - started == 30.0
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("recipients", [1, 2])
@pytest.mark.parametrize("extensions", [EVERYTHING, ()])
async def test_a_break_at_any_octet_that_the_host_reads(extensions: tuple[str, ...], recipients: int) -> None:
    """Never delivered, never failed, uncertain only where the content may have gone."""
    whole = math.inf
    octet = 0
    while octet < whole:
        host = Host(extensions=extensions, reads=octet)
        outcomes, _ = await deliver(host, recipients=recipients)
        if host.dots:
            whole = octet
            assert [brief(each) for each in outcomes] == ["Delivered 250 2.0.0"] * recipients
            break
        assert all(isinstance(each, Deferred) for each in outcomes)
        content_began = any(command == "DATA" for command in host.commands)
        uncertain = [isinstance(each, Deferred) and each.uncertain for each in outcomes]
        assert uncertain == [content_began] * recipients
        octet += 1
    assert octet > len(CONTENT) + len("EHLO client.example.org MAIL FROM:<sender@example.org> DATA")


@pytest.mark.slow
@pytest.mark.parametrize("extensions", [EVERYTHING, ()])
async def test_a_break_at_any_octet_that_the_host_says(extensions: tuple[str, ...]) -> None:
    octet, early = 1, 0
    while True:
        host = Host(extensions=extensions, says=octet)
        (outcome,), _ = await deliver(host)
        if not isinstance(outcome, Deferred):
            break
        assert outcome.uncertain or not host.dots
        early += outcome.uncertain and not host.dots
        octet += 1
    assert early <= 1  # it broke behind the whole "354", before a whole dot was read
    # The line end is what makes "250 2.0.0 queued" a reply.
    assert brief(outcome) == "Delivered 250 2.0.0"
    assert octet > 100


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
async def test_replies_may_come_in_any_pieces(chunk: int) -> None:
    host = Host(chunk=chunk, replies={"RCPT": ["250 ok", "550-5.1.1 no\r\n550 5.1.1 no", "250 ok"]})
    outcomes, _ = await deliver(host, recipients=3)
    assert [brief(each).split()[0] for each in outcomes] == ["Delivered", "Failed", "Delivered"]


async def test_what_a_host_says_is_made_printable() -> None:
    host = Host(replies={"RCPT": ["550 5.1.1 \x1b[31mred\x07\u202e \udcff\x00 caf\u00e9"]})
    (outcome,), _ = await deliver(host)
    assert outcome.reply.text == r"\x1b[31mred\x07\u202e \xff\x00 café"


async def test_a_cancelled_attempt_cuts_its_connection(autojump_clock: trio.testing.MockClock) -> None:
    for verb in ("connect", "EHLO", "MAIL", "DATA", "."):
        host = Host(replies={verb: ["hang"]})
        async with trio.open_nursery() as nursery:
            here = world(nursery, host)
            with trio.move_on_after(5) as scope:
                await here.transport.deliver(attempt("a@example.net", content=CONTENT).job)
            assert scope.cancelled_caught
            assert here.pool.idle == 0
            assert host.streams[0].aborted
            nursery.cancel_scope.cancel()


async def test_cancelled_while_the_gate_waits(autojump_clock: trio.testing.MockClock) -> None:
    host = Host()
    given = attempt("a@example.net", content=CONTENT)

    async def stuck() -> bool:
        await trio.sleep_forever()
        raise AssertionError

    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        with trio.move_on_after(5) as scope:
            await here.transport.deliver(attrs.evolve(given.job, gate=stuck))
        assert scope.cancelled_caught
        assert host.streams[0].aborted
        nursery.cancel_scope.cancel()
    assert host.mails == []


async def test_a_defect_of_ours_cuts_the_connection_and_is_seen() -> None:
    host = Host()
    given = attempt("a@example.net", content=CONTENT)

    async def broken() -> bool:
        raise ZeroDivisionError

    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        with pytest.raises(ZeroDivisionError):
            await here.transport.deliver(attrs.evolve(given.job, gate=broken))
        assert host.streams[0].aborted
        nursery.cancel_scope.cancel()


async def test_a_real_reset_is_a_lost_connection() -> None:
    network = SystemNetwork()
    (listener,) = await network.listen("127.0.0.1:0", 5)
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            while True:
                stream = await listener.accept()
                await stream.send_all(b"220 hi\r\n")
                await stream.receive_some()
                stream.abort()

        nursery.start_soon(accept)
        here = world(nursery)
        here.transport.network = network
        here.transport.finder = FixedHops(Hop("mx.example.net", listener.local))
        (outcome,) = await here.transport.deliver(attempt("a@example.net", content=CONTENT).job)
        assert brief(outcome) == "Deferred 451 4.4.2"
        assert outcome.reply.text == "connection lost waiting for the reply to EHLO"
        nursery.cancel_scope.cancel()
    listener.close()
