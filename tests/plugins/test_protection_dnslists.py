"""Lists in DNS: questions, answers that count and answers that do not, one deadline."""

from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from elemta.net.base import Endpoint
from elemta.plugins.api import CONTINUE, Continue, Reject, Verdict
from elemta.plugins.mail import SessionFacts
from elemta.plugins.protection.dnslists import (
    LOG_SECONDS,
    MAX_ZONES,
    AnswerSettings,
    DnsLists,
    DnsListsSettings,
    ZoneSettings,
)
from elemta.plugins.protection.listing import (
    Answer,
    Trouble,
    Zone,
    control_question,
    parse_pattern,
    question,
    read,
)
from elemta.simulation.resolver import Name
from tests.plugins.protection_world import World, a_mail, a_session, listed, reply_of, word_of

Clock = trio.testing.MockClock
BLACK = ZoneSettings("black.example", 5.0)
GREY = ZoneSettings("grey.example", 2.0)
WHITE = ZoneSettings("white.example", -3.0)
HERE = "1.2.0.192"


def lists(world: World, *zones: ZoneSettings, **settings: Any) -> DnsLists:
    return DnsLists(world.host(), DnsListsSettings(zones or (BLACK, GREY, WHITE), **settings))


async def ask(world: World, *zones: ZoneSettings, session: SessionFacts | None = None, **settings: Any) -> Verdict:
    """What a first mail is answered."""
    return await lists(world, *zones, **settings).on_mail_from(a_mail(session))


# ---- questions and answers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.99", "99.2.0.192.bad.example"),  # RFC 5782 §2.1
        (
            "2001:db8:1:2:3:4:567:89ab",  # RFC 5782 §2.4
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bad.example",
        ),
    ],
)
def test_questions(address: str, name: str) -> None:
    assert question(ip_address(address), "bad.example") == name


def test_control_questions() -> None:
    """RFC 5782 §5: 127.0.0.1 and ::FFFF:7F00:1 are on no list."""
    assert control_question(ip_address("192.0.2.1"), "x") == "1.0.0.127.x"
    six = control_question(ip_address("2001:db8::1"), "x")
    assert six == "1.0.0.0.0.0.f.7.f.f.f.f" + ".0" * 20 + ".x"


@pytest.mark.parametrize(
    ("answers", "score", "trouble"),
    [
        ([], 0, None),
        (["127.0.0.2"], 5, None),
        (["127.0.0.2", "127.0.0.3"], 5, None),
        (["127.255.255.254"], 0, Trouble.BLOCKED),
        (["127.255.255.255", "127.0.0.2"], 0, Trouble.BLOCKED),
        (["127.255.254.255"], 5, None),
        (["127.0.0.1"], 0, Trouble.FOREIGN),
        (["192.0.2.80"], 0, Trouble.FOREIGN),
        (["127.0.0.2", "192.0.2.80"], 0, Trouble.FOREIGN),
    ],
)
def test_answers(answers: list[str], score: float, trouble: Trouble | None) -> None:
    found = read(Zone("x", 5.0), answers)
    assert (found.score, found.trouble) == (score, trouble)


def test_scores_by_answer() -> None:
    zone = Zone("x", 1.0, (Answer("127.0.0.2-3", 5.0), Answer("127.0.*.3", -4.0), Answer("127.0.10-20.*", 2.0)))
    expected = {
        "127.0.0.2": 5.0,
        "127.0.0.3": 5.0,  # the first that fits
        "127.0.7.3": -4.0,
        "127.0.15.200": 2.0,
        "127.0.0.4": 0.0,  # none of them, and no other counts
        "127.1.0.2": 0.0,
    }
    assert {answer: read(zone, [answer]).score for answer in expected} == expected
    assert read(zone, ["127.0.15.1", "127.0.7.3"]).score == -4.0  # what says most


@given(st.tuples(*[st.tuples(st.integers(0, 255), st.integers(0, 255)) for _ in range(4)]), st.integers(0, 2**32 - 1))
def test_patterns(bounds: tuple[tuple[int, int], ...], number: int) -> None:
    ordered = [sorted(pair) for pair in bounds]
    pattern = ".".join(f"{low}-{high}" if low < high else str(low) for low, high in ordered)
    address = IPv4Address(number)
    within = all(low <= octet <= high for octet, (low, high) in zip(address.packed, ordered, strict=True))
    assert Answer(parse_pattern(pattern), 1.0).fits(address) is within
    assert Answer("*.*.*.*", 1.0).fits(address)


@pytest.mark.parametrize("text", ["", "127.0.0", "127.0.0.2/31", "127.0.0.3-2", "127.0.0.256", "127.0.0.²", "127..0.2"])
def test_no_patterns(text: str) -> None:
    with pytest.raises(ValueError, match="octet"):
        parse_pattern(text)


# ---- verdicts ------------------------------------------------------------------------------------


async def test_a_listed_client_is_refused_with_the_reason(autojump_clock: Clock) -> None:
    world = World({f"{HERE}.black.example": listed("127.0.0.2", texts=("spam\r\nseen on thé 1st",))})
    verdict = await ask(world)
    assert reply_of(verdict) == "550 5.7.1 192.0.2.1 is listed by black.example: spam seen on th? 1st"
    assert isinstance(verdict, Reject)
    assert verdict.score == 5
    verdict.reply.render()


async def test_a_list_without_a_reason(autojump_clock: Clock) -> None:
    world = World({f"{HERE}.black.example": listed("127.0.0.2")})
    assert reply_of(await ask(world)) == "550 5.7.1 192.0.2.1 is listed by black.example"


async def test_a_client_of_six(autojump_clock: Clock) -> None:
    address = ip_address("2001:db8::7")
    world = World({question(address, "black.example"): listed("127.0.0.2")})
    assert "2001:db8::7 is listed by black.example" in reply_of(await ask(world, session=a_session("2001:DB8::7")))


async def test_an_ipv4_client_in_ipv6_dress(autojump_clock: Clock) -> None:
    world = World({f"{HERE}.black.example": listed("127.0.0.2")})
    assert "192.0.2.1 is listed" in reply_of(await ask(world, session=a_session("::ffff:192.0.2.1")))


async def test_scores_add_up(autojump_clock: Clock) -> None:
    names = {f"{HERE}.{zone}": listed("127.0.0.2") for zone in ("grey.example", "pale.example")}
    world = World(names)
    zones = (GREY, ZoneSettings("pale.example", 2.5), BLACK)
    verdict = await ask(world, *zones)
    assert isinstance(verdict, Continue)
    assert verdict.score == 4.5
    assert word_of(verdict) == "grey.example +2, pale.example +2.5"
    assert reply_of(await ask(world, *zones, reject_at=4.5)) == "550 5.7.1 192.0.2.1 is listed by pale.example"


async def test_a_good_name_outweighs_a_bad_one(autojump_clock: Clock) -> None:
    world = World({f"{HERE}.{zone}": listed("127.0.0.2") for zone in ("black.example", "white.example")})
    verdict = await ask(world)
    assert isinstance(verdict, Continue)
    assert verdict.score == 2.0


async def test_nobody_lists_the_client(autojump_clock: Clock) -> None:
    world = World()
    assert await ask(world) is CONTINUE
    assert set(world.resolver.asked) == {f"{HERE}.{zone.zone}" for zone in (BLACK, GREY, WHITE)}


@pytest.mark.parametrize("address", ["127.255.255.254", "192.0.2.80"])
async def test_what_is_no_listing_is_logged_once_an_hour(address: str, autojump_clock: Clock) -> None:
    world = World({f"{HERE}.black.example": listed(address)})
    plugin = lists(world)
    for _ in range(3):
        assert await plugin.on_mail_from(a_mail()) is CONTINUE
    (event,) = world.events("plugin.list_ignored")
    assert event["zone"] == "black.example"
    assert event["log_level"] == "warning"
    await trio.sleep(LOG_SECONDS)
    await plugin.on_mail_from(a_mail())
    assert len(world.events("plugin.list_ignored")) == 2


async def test_an_ipv6_address_is_no_answer_of_a_list(autojump_clock: Clock) -> None:
    """RFC 5782 §2.1: lists answer with A records; nothing else is asked for."""
    world = World({f"{HERE}.black.example": listed("2001:db8::80", "::ffff:127.0.0.2")})
    assert await ask(world) is CONTINUE
    assert not world.events("plugin.list_ignored")


async def test_a_list_that_was_written_twice_counts_once(autojump_clock: Clock) -> None:
    world = World({f"{HERE}.grey.example": listed("127.0.0.2")})
    verdict = await ask(world, GREY, ZoneSettings("grey.example", 4.0))
    assert isinstance(verdict, Continue)
    assert (verdict.score, word_of(verdict)) == (2.0, "grey.example +2")


async def test_a_list_that_has_everybody_on_it_counts_for_nothing(autojump_clock: Clock) -> None:
    names = {f"{HERE}.black.example": listed("127.0.0.2"), "1.0.0.127.black.example": listed("127.0.0.2")}
    world = World(names)
    assert await ask(world) is CONTINUE
    (event,) = world.events("plugin.list_ignored")
    assert event["reason"] == Trouble.LISTS_ALL.value


# ---- who is asked about, when, and for how long --------------------------------------------------


@pytest.mark.parametrize(
    ("client", "facts"),
    [
        ("192.0.2.1", {"user": "bob"}),
        ("192.0.2.1", {"may_relay": True}),
        ("127.0.0.1", {}),
        ("10.1.2.3", {}),
        ("172.31.0.1", {}),
        ("192.168.0.1", {}),
        ("100.64.0.1", {}),
        ("169.254.1.1", {}),
        ("::1", {}),
        ("fd00::1", {}),
        ("fe80::1", {}),
        ("::ffff:10.0.0.1", {}),
        ("203.0.113.5", {}),
    ],
)
async def test_who_is_not_asked_about(client: str, facts: dict[str, Any], autojump_clock: Clock) -> None:
    world = World()
    assert await ask(world, session=a_session(client, **facts), whitelist_ips=("203.0.113.0/24",)) is CONTINUE
    assert not world.resolver.asked


async def test_a_unix_socket_is_not_asked_about(autojump_clock: Clock) -> None:
    world = World()
    session = SessionFacts("s", Endpoint("/run/x"), Endpoint("/run/x"), "lmtp")
    assert await ask(world, session=session) is CONTINUE
    assert not world.resolver.asked


async def test_a_session_is_asked_about_once_and_every_mail_has_its_score(autojump_clock: Clock) -> None:
    world = World({f"{HERE}.grey.example": listed("127.0.0.2")})
    plugin, session = lists(world), a_session()
    verdicts = [await plugin.on_mail_from(a_mail(session)) for _ in range(3)]
    assert [verdict.score for verdict in verdicts if isinstance(verdict, Continue)] == [2.0] * 3
    assert world.resolver.asked[f"{HERE}.black.example"] == 1


async def test_lists_are_asked_at_once(autojump_clock: Clock) -> None:
    world = World(dns_seconds=2.0)
    begin = trio.current_time()
    await ask(world, *(ZoneSettings(f"{number}.example", 1.0) for number in range(MAX_ZONES + 5)))
    assert trio.current_time() - begin <= 2.0
    assert world.resolver.most_at_once == MAX_ZONES


async def test_who_answers_too_late_says_nothing(autojump_clock: Clock) -> None:
    """One deadline for all: what is known by then counts, a reason that is still missing does not hold it up."""
    world = World({f"{HERE}.{zone}": listed("127.0.0.2") for zone in ("black.example", "grey.example")})
    world.resolver._seconds = 0.0
    slow = SlowZone(world, "grey.example", 60.0)
    begin = trio.current_time()
    assert reply_of(await ask(slow.world)) == "550 5.7.1 192.0.2.1 is listed by black.example"
    assert trio.current_time() - begin == 5.0
    (event,) = world.events("plugin.list_ignored")
    assert (event["zone"], event["reason"]) == ("grey.example", Trouble.SILENT.value)


async def test_a_reason_that_is_late_is_done_without(autojump_clock: Clock) -> None:
    world = World({f"{HERE}.black.example": listed("127.0.0.2", texts=("spam",))}, dns_seconds=0.0)
    ask_texts = world.resolver.texts

    async def texts(name: str) -> list[str]:
        await trio.sleep(60)
        return await ask_texts(name)

    world.resolver.texts = texts  # type: ignore[method-assign]  # slow, and otherwise the same
    assert reply_of(await ask(world)) == "550 5.7.1 192.0.2.1 is listed by black.example"
    assert trio.current_time() == 5.0


async def test_the_deadline_is_far_from_the_plugins_own(autojump_clock: Clock) -> None:
    world = World(dns_seconds=0.0)
    slow = SlowZone(world, "grey.example", 10_000.0)
    begin = trio.current_time()
    assert await ask(slow.world, timeout=3600.0) is CONTINUE
    assert trio.current_time() - begin == 20.0


class SlowZone:
    """A zone whose name servers take their time."""

    def __init__(self, world: World, zone: str, seconds: float) -> None:
        self.world = world
        self._ask = world.resolver.ipv4_addresses
        self._zone, self._seconds = zone, seconds
        world.resolver.ipv4_addresses = self.answer  # type: ignore[method-assign]  # one zone of many

    async def answer(self, name: str) -> list[str]:
        if name.endswith(self._zone):
            await trio.sleep(self._seconds)
        return await self._ask(name)


@pytest.mark.parametrize("away", [f"{HERE}.black.example", "1.0.0.127.black.example"])
async def test_a_list_that_is_away_lists_nobody(away: str, autojump_clock: Clock) -> None:
    """Nor does one that does not say whether it lists everybody."""
    names = {f"{HERE}.black.example": listed("127.0.0.2"), away: Name(addresses=("127.0.0.2",), failing_until=1e9)}
    world = World(names)
    assert await ask(world) is CONTINUE
    (event,) = world.events("plugin.list_ignored")
    assert (event["zone"], event["reason"]) == ("black.example", Trouble.SILENT.value)


async def test_a_dry_run_only_reports(autojump_clock: Clock) -> None:
    world = World({f"{HERE}.black.example": listed("127.0.0.2"), f"{HERE}.grey.example": listed("127.0.0.2")})
    verdict = await ask(world, dry_run=True)
    assert word_of(verdict) == "would answer 550 5.7.1 192.0.2.1 is listed by black.example"
    assert len(world.events("plugin.would_refuse")) == 1
    verdict = await ask(world, GREY, dry_run=True)
    assert isinstance(verdict, Continue)
    assert (word_of(verdict), verdict.score) == ("grey.example +2", 0.0)


async def test_answers_of_the_settings_count(autojump_clock: Clock) -> None:
    zone = ZoneSettings("black.example", 9.0, (AnswerSettings("127.0.0.4-7", 3.0),))
    for answer, score in (("127.0.0.5", 3.0), ("127.0.0.2", 0.0)):
        verdict = await ask(World({f"{HERE}.black.example": listed(answer)}), zone)
        assert isinstance(verdict, Continue)
        assert verdict.score == score
