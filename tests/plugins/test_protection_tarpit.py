"""The tarpit: whom it lets wait, how long, how many at once."""

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.protection import RateLimiterSection
from elemta.plugins.api import CONTINUE, DEADLINE_SECONDS, Verdict
from elemta.plugins.mail import SessionFacts
from elemta.plugins.protection.greylisting import Greylisting
from elemta.plugins.protection.ratelimit import RateLimit
from elemta.plugins.protection.tarpit import MOST_SECONDS, Tarpit, TarpitSettings, delay_seconds
from tests.plugins.protection_world import World, a_mail, a_session, reply_of, to, word_of

Clock = trio.testing.MockClock


def tarpit(world: World | None = None, **settings: Any) -> Tarpit:
    return Tarpit((world or World()).host(), TarpitSettings(**settings))


async def took(plugin: Tarpit, session: SessionFacts, *, score: float = 0.0) -> tuple[float, Verdict]:
    """Seconds that the reply to a further MAIL takes, and the verdict."""
    begin = trio.current_time()
    mail = a_mail(session)
    mail.ledger.score += score
    verdict = await plugin.on_mail_from(mail)
    return trio.current_time() - begin, verdict


@given(st.integers(0, 10**6), st.floats(-1e6, 1e6), st.integers(0, 10))
def test_delays_grow_and_have_an_end(refusals: int, score: float, free: int) -> None:
    settings = TarpitSettings(free_refusals=free)
    now = delay_seconds(refusals, score, settings=settings)
    assert 0 <= now <= settings.max_delay < DEADLINE_SECONDS
    assert now <= delay_seconds(refusals + 1, score, settings=settings)
    assert now <= delay_seconds(refusals, score + 1, settings=settings)


@pytest.mark.parametrize(
    ("refusals", "score", "seconds"),
    [(0, 0, 0), (2, 0, 0), (3, 0, 1), (4, 0, 2), (5, 0, 4), (8, 0, 20), (0, 1.9, 0), (0, 2, 1), (0, 4, 2), (3, 2, 2)],
)
def test_delays(refusals: int, score: float, seconds: float) -> None:
    assert delay_seconds(refusals, score, settings=TarpitSettings()) == seconds


def test_a_bad_score_outweighs_no_refusals_and_a_good_one_buys_none() -> None:
    assert delay_seconds(3, -100.0, settings=TarpitSettings()) == 1


async def test_an_honest_client_never_waits(autojump_clock: Clock) -> None:
    plugin, session = tarpit(), a_session()
    for _ in range(50):
        mail = a_mail(session)
        assert await plugin.on_mail_from(mail) is CONTINUE
        for number in range(5):
            recipient = to(f"{number}@here.example")
            assert await plugin.on_rcpt_to(mail, recipient) is CONTINUE
            mail.add_recipient(recipient)
        await plugin.on_queued(mail)
    assert trio.current_time() == 0


async def test_mails_that_come_to_nothing_cost_time(autojump_clock: Clock) -> None:
    plugin, session = tarpit(), a_session()
    waits = [(await took(plugin, session))[0] for _ in range(10)]
    assert waits == [0, 0, 0, 1, 2, 4, 8, 16, 20, 20]
    waited, verdict = await took(plugin, session)
    assert waited == 20
    assert word_of(verdict) == "waited 91 seconds in this session"
    assert (await took(plugin, a_session()))[0] == 0


async def test_refused_recipients_cost_time(autojump_clock: Clock) -> None:
    plugin = tarpit()
    mail = a_mail()
    await plugin.on_mail_from(mail)
    waits = []
    for number in range(12):
        begin = trio.current_time()
        await plugin.on_rcpt_to(mail, to(f"{number}@here.example"))
        waits.append(trio.current_time() - begin)
        if number % 2 == 0:  # every second one is refused by somebody else
            mail.add_recipient(to(f"{number}@here.example"))
    assert waits == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 4, 4]


async def test_who_was_told_to_come_again_has_done_nothing_bad(autojump_clock: Clock) -> None:
    """A mail to many, all greylisted, and mails beyond a limit; a mail that came to nothing otherwise still counts."""
    world = World()
    plugin, session = tarpit(world), a_session()
    grey = Greylisting(world.host())
    for _ in range(3):
        mail = a_mail(session)
        await plugin.on_mail_from(mail)
        for number in range(10):
            assert await plugin.on_rcpt_to(mail, to(f"{number}@here.example")) is CONTINUE
            assert reply_of(await grey.on_rcpt_to(mail, to(f"{number}@here.example")))
    limit = RateLimit(world.host(), RateLimiterSection(max_messages_per_hour=1))
    for _ in range(5):
        mail = a_mail(session)
        assert await plugin.on_mail_from(mail) is CONTINUE
        await limit.on_mail_from(mail)
    assert trio.current_time() == 0
    waits = [(await took(plugin, session))[0] for _ in range(5)]
    assert waits == [0, 0, 1, 2, 4]  # the first mail of the limit was taken, and came to nothing


async def test_a_score_costs_time(autojump_clock: Clock) -> None:
    assert (await took(tarpit(), a_session(), score=6.0))[0] == 4


@pytest.mark.parametrize("facts", [{"user": "bob"}, {"may_relay": True}, {"client": "::1"}])
async def test_who_never_waits(facts: dict[str, Any], autojump_clock: Clock) -> None:
    assert await took(tarpit(), a_session(**facts), score=100.0) == (0, CONTINUE)


async def test_only_so_many_wait_at_once(autojump_clock: Clock) -> None:
    plugin = tarpit(max_delayed=3)
    waits: list[float] = []

    async def come() -> None:
        waits.append((await took(plugin, a_session(), score=100.0))[0])

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(come)
    assert sorted(waits) == [0] * 7 + [20] * 3
    assert (await took(plugin, a_session(), score=100.0))[0] == 20  # there is room again


async def test_who_goes_away_makes_room(autojump_clock: Clock) -> None:
    plugin = tarpit(max_delayed=1)
    for _ in range(3):
        with trio.move_on_after(1):
            await took(plugin, a_session(), score=100.0)
    assert (await took(plugin, a_session(), score=100.0))[0] == 20


async def test_a_dry_run_waits_for_nothing(autojump_clock: Clock) -> None:
    world = World()
    waited, verdict = await took(tarpit(world, dry_run=True), a_session(), score=6.0)
    assert (waited, word_of(verdict)) == (0, "would wait 4 seconds")
    assert len(world.events("plugin.would_refuse")) == 1


def test_no_delay_comes_near_a_plugins_deadline() -> None:
    assert Tarpit.deadline - 5 >= MOST_SECONDS
