"""The tarpit: whom it lets wait, how long, how many at once."""

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from elemta.plugins.api import CONTINUE, DEADLINE_SECONDS, Verdict
from elemta.plugins.mail import SessionFacts
from elemta.plugins.protection.tarpit import MOST_SECONDS, Tarpit, TarpitSettings, delay_seconds
from tests.plugins.protection_world import World, a_mail, a_session, to, word_of

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
            assert await plugin.on_rcpt_to(mail, to(f"{number}@here.example")) is CONTINUE
    assert trio.current_time() == 0


async def test_refusals_cost_time(autojump_clock: Clock) -> None:
    plugin, session = tarpit(), a_session()
    waits = []
    for _ in range(10):
        waits.append((await took(plugin, session))[0])
        session.ledger.refusals += 1
    assert waits == [0, 0, 0, 1, 2, 4, 8, 16, 20, 20]
    begin = trio.current_time()
    verdict = await plugin.on_rcpt_to(a_mail(session), to("a@here.example"))
    assert trio.current_time() - begin == 20
    assert word_of(verdict) == "waited 91 seconds in this session"
    assert (await took(plugin, a_session()))[0] == 0


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
