"""What clients call themselves, and what their addresses are called."""

from typing import Any

import pytest
import trio
import trio.testing
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from elemta.net.base import Endpoint
from elemta.plugins.api import CONTINUE, Continue, Verdict
from elemta.plugins.mail import SessionFacts
from elemta.plugins.protection.hello import is_ours, is_well_formed
from elemta.plugins.protection.helocheck import NAME_SECONDS, HeloCheck, HeloSettings
from elemta.plugins.protection.report import Action
from elemta.plugins.protection.reverse import MAX_NAMES, reverse_names
from elemta.plugins.protection.reversedns import REVERSE_SECONDS, ReverseDns, ReverseDnsSettings
from elemta.simulation.resolver import Name
from tests.plugins.protection_world import CountingResolver, World, a_mail, a_session, mx, reply_of, word_of

Clock = trio.testing.MockClock
KNOWN = {"client.example": Name(addresses=("192.0.2.1",)), "only-mx.example": mx("mx.example"), "bare.example": Name()}
ARPA = "1.2.0.192.in-addr.arpa"


def score_of(verdict: Verdict) -> float:
    assert isinstance(verdict, Continue), verdict
    return verdict.score


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "mx.example.com",
        "MX.Example.COM.",
        "xn--mnchen-3ya.example",
        "münchen.example",
        "win_pc-01.corp.example",
        "1.example",
        "mx.x1",
        "[192.0.2.1]",
        "[IPv6:2001:db8::1]",
        "[ipv6:::1]",
    ],
)
def test_well_formed(said: str) -> None:
    assert is_well_formed(said)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "localhost",
        "WIN-PC01",
        "192.0.2.1",
        "192.0.2.1.",
        "2001:db8::1",
        "mx..example",
        ".example.com",
        "-mx.example",
        "mx-.example",
        "mx example.com",
        "mx.example.123",
        f"{'a' * 64}.example",
        "a." * 127 + "example",
        "[192.0.2.256]",
        "[192.0.2.1",
        "[]",
        "[2001:db8::1]",
        "[IPv6:192.0.2.1]",
        "[mx.example]",
    ],
)
def test_malformed(said: str) -> None:
    assert not is_well_formed(said)


@given(st.text(max_size=300))
def test_nothing_that_is_said_breaks_it(said: str) -> None:
    is_well_formed(said)
    assert is_ours(said, names=(), address="198.51.100.25") in (True, False)


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("mx.here.example", True),
        ("MX.Here.Example.", True),
        ("[198.51.100.25]", True),
        ("198.51.100.25", True),
        ("[IPv6:::ffff:198.51.100.25]", True),
        ("[198.51.100.26]", False),
        ("here.example", False),
        ("a.mx.here.example", False),
    ],
)
def test_ours(said: str, ours: bool) -> None:
    assert is_ours(said, names=("mx.here.example",), address="198.51.100.25") is ours


def test_our_address_of_six() -> None:
    assert is_ours("[IPv6:2001:DB8:0::25]", names=(), address="2001:db8::25")
    assert not is_ours("", names=(), address="/run/smtp.sock")


# ---- the plugin ----------------------------------------------------------------------------------


async def greet(said: str, world: World | None = None, **settings: Any) -> Verdict:
    """What the first mail after this greeting is answered."""
    plugin = HeloCheck((world or World(KNOWN)).host(), HeloSettings(**settings))
    return await plugin.on_mail_from(a_mail(a_session(helo=said)))


async def test_an_honest_client(autojump_clock: Clock) -> None:
    for said in ("client.example", "Client.Example.", "only-mx.example", "[192.0.2.1]"):
        assert await greet(said) is CONTINUE


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("pc", "550 5.7.1 pc is no name to greet with: a whole domain name or an address in brackets is"),
        ("", "550 5.7.1 nothing is no name to greet with: a whole domain name or an address in brackets is"),
        ("mx.here.example", "550 5.7.1 mx.here.example is this server, and not you"),
        ("[198.51.100.25]", "550 5.7.1 [198.51.100.25] is this server, and not you"),
        ("mail.ours.example", "550 5.7.1 mail.ours.example is this server, and not you"),
    ],
)
async def test_what_cannot_be_right_is_refused(said: str, reply: str, autojump_clock: Clock) -> None:
    assert reply_of(await greet(said, own_names=("mail.ours.example",))) == reply


@pytest.mark.parametrize("said", ["missing.example", "bare.example", "missing-ü.example", "-ü.example"])
async def test_a_name_that_dns_does_not_know_has_a_score(said: str, autojump_clock: Clock) -> None:
    shown = said.replace("ü", "?")
    text = f"the name {shown} that you greet with is not known to DNS"
    verdict = await greet(said, malformed=Action.OFF)
    assert (score_of(verdict), word_of(verdict)) == (2.0, text)
    assert reply_of(await greet(said, malformed=Action.OFF, unknown=Action.DEFER)) == f"450 4.7.1 {text}"


async def test_each_check_has_its_switch(autojump_clock: Clock) -> None:
    world = World()
    off: dict[str, Any] = {"malformed": Action.OFF, "ours": Action.OFF, "unknown": Action.OFF}
    for said in ("pc", "mx.here.example", "missing.example"):
        assert await greet(said, world, **off) is CONTINUE
    assert not world.resolver.asked
    assert score_of(await greet("pc", **(off | {"malformed": Action.SCORE}))) == 2.0
    assert reply_of(await greet("mx.here.example", **(off | {"ours": Action.DEFER}))).startswith("450 4.7.1 ")
    assert reply_of(await greet("missing.example", **(off | {"unknown": Action.REJECT}))).startswith("550 5.7.1 ")


@pytest.mark.parametrize("facts", [{"user": "bob"}, {"may_relay": True}, {"client": "127.0.0.1"}])
async def test_who_may_say_what_they_like(facts: dict[str, Any], autojump_clock: Clock) -> None:
    plugin = HeloCheck(World().host())
    assert await plugin.on_mail_from(a_mail(a_session(helo="pc", **facts))) is CONTINUE
    socket = SessionFacts("s", Endpoint("/run/x"), Endpoint("/run/x"), "lmtp", helo="pc")
    assert await plugin.on_mail_from(a_mail(socket)) is CONTINUE


async def test_a_name_is_asked_for_once_a_greeting(autojump_clock: Clock) -> None:
    world = World(KNOWN)
    plugin, session = HeloCheck(world.host()), a_session()
    for _ in range(3):
        assert await plugin.on_mail_from(a_mail(session)) is CONTINUE
    assert world.resolver.asked["client.example"] == 1
    again = evolve(session, helo="pc")  # after STARTTLS it says something else
    assert reply_of(await plugin.on_mail_from(a_mail(again)))


async def test_while_dns_does_not_answer_a_name_counts_as_known(autojump_clock: Clock) -> None:
    broken = World({"client.example": Name(failing_until=1e9)})
    assert await greet("client.example", broken) is CONTINUE
    begin = trio.current_time()
    silent = World()
    silent.resolver = Silent()
    assert await greet("client.example", silent) is CONTINUE
    assert trio.current_time() - begin >= NAME_SECONDS


class Silent(CountingResolver):
    """Name servers that do not answer."""

    def __init__(self) -> None:
        super().__init__({})

    async def _name(self, text: str) -> Name:
        await trio.sleep(3600)
        return await super()._name(text)


async def test_a_dry_run_of_greetings_only_reports(autojump_clock: Clock) -> None:
    world = World(KNOWN)
    assert word_of(await greet("pc", world, dry_run=True)).startswith("would answer 550 5.7.1 pc is no name")
    assert (await greet("missing.example", world, dry_run=True)).score == 0
    reports = [event["report"] for event in world.events("plugin.would_refuse")]
    assert reports[1:] == ["would add 2 to the score"]


# ---- the address's names -------------------------------------------------------------------------

TRUE = {ARPA: Name(pointers=("other.example", "mx.example")), "mx.example": Name(addresses=("192.0.2.1",))}
UNTRUE = {ARPA: Name(pointers=("mx.bank.example",)), "mx.bank.example": Name(addresses=("203.0.113.1",))}


async def look(names: dict[str, Name], client: str = "192.0.2.1", **settings: Any) -> Verdict:
    plugin = ReverseDns(World(names).host(), ReverseDnsSettings(**settings))
    return await plugin.on_mail_from(a_mail(a_session(client)))


async def test_a_true_name(autojump_clock: Clock) -> None:
    assert await look(TRUE, missing=Action.REJECT, untrue=Action.REJECT) is CONTINUE
    assert await look(TRUE, "::ffff:192.0.2.1", missing=Action.REJECT, untrue=Action.REJECT) is CONTINUE


async def test_a_true_name_of_six(autojump_clock: Clock) -> None:
    arpa = "1" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa"
    names = {arpa: Name(pointers=("mx.example",)), "mx.example": Name(addresses=("2001:DB8:0::1",))}
    assert await look(names, "2001:db8::1", missing=Action.REJECT, untrue=Action.REJECT) is CONTINUE


@pytest.mark.parametrize("names", [{}, {ARPA: Name()}])
async def test_no_name(names: dict[str, Name], autojump_clock: Clock) -> None:
    verdict = await look(names)
    assert (score_of(verdict), word_of(verdict)) == (2.0, "your address 192.0.2.1 has no name in DNS")
    assert reply_of(await look(names, missing=Action.DEFER)) == ("450 4.7.1 your address 192.0.2.1 has no name in DNS")
    assert await look(names, missing=Action.OFF, untrue=Action.REJECT) is CONTINUE


@pytest.mark.parametrize("names", [UNTRUE, {ARPA: UNTRUE[ARPA]}])
async def test_an_untrue_name(names: dict[str, Name], autojump_clock: Clock) -> None:
    text = "your address 192.0.2.1 is called mx.bank.example, which does not lead back to it"
    verdict = await look(names)
    assert (score_of(verdict), word_of(verdict)) == (2.0, text)
    assert reply_of(await look(names, untrue=Action.REJECT)) == f"550 5.7.1 {text}"
    assert await look(names, untrue=Action.OFF, missing=Action.REJECT) is CONTINUE


@pytest.mark.parametrize("failing", [ARPA, "mx.bank.example"])
async def test_while_dns_does_not_answer_nothing_is_held_against_the_client(
    failing: str, autojump_clock: Clock
) -> None:
    names = UNTRUE | {failing: Name(pointers=("mx.bank.example",), failing_until=1e9)}
    assert await look(names, missing=Action.REJECT, untrue=Action.REJECT) is CONTINUE


async def test_silent_name_servers_have_a_deadline(autojump_clock: Clock) -> None:
    world = World()
    world.resolver = Silent()
    plugin = ReverseDns(world.host(), ReverseDnsSettings(missing=Action.REJECT))
    begin = trio.current_time()
    session = a_session()
    for _ in range(3):
        assert await plugin.on_mail_from(a_mail(session)) is CONTINUE
    assert trio.current_time() - begin == REVERSE_SECONDS  # once a session


async def test_names_without_end(autojump_clock: Clock) -> None:
    many = tuple(f"{number}.example" for number in range(100))
    resolver = CountingResolver({ARPA: Name(pointers=many)})
    names = await reverse_names(resolver, "192.0.2.1")
    assert (len(names.claimed), names.confirmed, names.failed) == (MAX_NAMES, (), False)
    assert resolver.asked.total() == 1 + MAX_NAMES
    assert resolver.most_at_once == MAX_NAMES


@pytest.mark.parametrize("client", ["127.0.0.1", "10.0.0.1", "203.0.113.8", "fd00::1"])
async def test_whose_address_needs_no_name(client: str, autojump_clock: Clock) -> None:
    assert await look({}, client, missing=Action.REJECT, whitelist_ips=("203.0.113.8",)) is CONTINUE


async def test_users_need_no_names(autojump_clock: Clock) -> None:
    world = World()
    plugin = ReverseDns(world.host(), ReverseDnsSettings(missing=Action.REJECT))
    for facts in ({"user": "bob"}, {"may_relay": True}):
        assert await plugin.on_mail_from(a_mail(a_session(**facts))) is CONTINUE
    assert not world.resolver.asked


async def test_a_dry_run_of_names_only_reports(autojump_clock: Clock) -> None:
    verdict = await look({}, missing=Action.DEFER, dry_run=True)
    assert word_of(verdict) == "would answer 450 4.7.1 your address 192.0.2.1 has no name in DNS"
    assert word_of(await look({}, dry_run=True)) == "would add 2 to the score"
