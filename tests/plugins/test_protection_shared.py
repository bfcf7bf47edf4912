"""The key-value store away, as the chain that asks the plugins sees it."""

from typing import Any

import pytest
import structlog
import trio
import trio.testing

from elemta.config.protection import RateLimiterSection
from elemta.observe.metrics import Metrics
from elemta.plugins.api import CONTINUE, OnError, SharedAway, Stage, Verdict
from elemta.plugins.breaker import FAILURES_TO_OPEN
from elemta.plugins.chain import Chain, Member
from elemta.plugins.protection.greylisting import Greylisting
from elemta.plugins.protection.ratelimit import RateLimit
from elemta.plugins.protection.report import Protection
from elemta.plugins.protection.shared import LOG_SECONDS, REST_SECONDS, SHARED_SECONDS, SharedState
from tests.plugins.protection_world import World, a_mail, reply_of, to

Clock = trio.testing.MockClock

ONE_RECIPIENT = RateLimiterSection(max_recipients_per_hour=1)


class Guarded:
    """One plugin in a chain that would refuse everything for its failure."""

    def __init__(self, world: World, plugin: Protection) -> None:
        self.member = Member(plugin.label, plugin, plugin.priority, plugin.deadline, OnError.REJECT)
        log = structlog.wrap_logger(None, processors=[world.capture])
        self.chain = Chain([self.member], log=log, metrics=Metrics())

    async def __call__(self) -> Verdict:
        """What is answered to a recipient of a mail."""
        mail, recipient = a_mail(), to()
        return await self.chain.ask(Stage.RCPT_TO, mail, mail, recipient)


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("plugin", [Greylisting, RateLimit])
async def test_a_store_that_is_away_is_no_failure_of_the_plugin(
    plugin: type[Protection], hangs: bool, autojump_clock: Clock
) -> None:
    """Nothing is refused by `on_error`, the plugin is not left alone, and it works again once the store does."""
    world = World()
    guarded = Guarded(world, plugin(world.host(), ONE_RECIPIENT if plugin is RateLimit else None))
    world.shared.is_away, world.shared.hangs_seconds = not hangs, 1e6 if hangs else 0.0
    async with trio.open_nursery() as nursery:
        await nursery.start(guarded.chain.run)
        first = await guarded()
        for _ in range(3 * FAILURES_TO_OPEN):
            await trio.sleep(REST_SECONDS)
            refused = await guarded()
            assert refused == CONTINUE or "too many recipients" in reply_of(refused)
        assert first == CONTINUE
        assert guarded.member.breaker.failures == 0
        assert not world.events("plugin.failed")
        world.shared.is_away, world.shared.hangs_seconds = False, 0.0
        await trio.sleep(REST_SECONDS)
        calls = sum(world.shared.calls.values())
        await guarded()
        assert sum(world.shared.calls.values()) > calls
        assert reply_of(await guarded())  # a stranger, or one too many
        nursery.cancel_scope.cancel()


async def test_work_that_does_not_ask_the_store_fails_as_it_likes(autojump_clock: Clock) -> None:
    state = SharedState(World().host(), meanwhile="nothing")

    async def work() -> Any:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await state.ask(work)
    assert not state.rests


async def test_many_who_wait_at_once_begin_one_rest(autojump_clock: Clock) -> None:
    world = World()
    state = SharedState(world.host(), meanwhile="what holds")

    async def work() -> Any:
        await trio.sleep_forever()

    async def come(after: float) -> None:
        await trio.sleep(after)
        assert await state.ask(work) is None

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(come, number / 10)
    assert trio.current_time() == SHARED_SECONDS + 0.9
    await trio.sleep(REST_SECONDS - 0.9)
    assert not state.rests
    (event,) = world.events("plugin.shared_away")
    assert (event["error"], event["remedy"]) == ("no answer within 2 s", "what holds")


async def test_it_is_told_once_a_minute(autojump_clock: Clock) -> None:
    world = World()
    state = SharedState(world.host(), meanwhile="what holds")

    async def work() -> Any:
        raise SharedAway("gone")

    while trio.current_time() < 2 * LOG_SECONDS:
        assert await state.ask(work) is None
        await trio.sleep(1)
    assert [event["error"] for event in world.events("plugin.shared_away")] == ["gone", "gone"]
