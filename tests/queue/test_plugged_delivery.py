"""What plugins decide about attempts to deliver."""

from collections.abc import Sequence

import pytest
import trio
from attrs import evolve

from elemta.mail.envelope import Priority
from elemta.mail.outcome import Outcome
from elemta.plugins.api import (
    CONTINUE,
    AddHeader,
    Continue,
    Defer,
    Delivery,
    OnError,
    Plugin,
    Quarantine,
    Reject,
    Verdict,
)
from elemta.storage.base import Filter, Order, StoreUnavailable, Verb
from elemta.storage.records import ContentRef, QueueState
from tests.plugins.fakes import chain_of
from tests.queue.world import CONTENT, EPOCH, World, submission


def deciding(*verdicts: Verdict) -> type[Plugin]:
    left = list(verdicts)

    class Deciding(Plugin):
        async def on_pre_delivery(self, delivery: Delivery) -> Verdict:
            assert b"\r\n" in await delivery.content.read(0, 10_000)
            return left.pop(0) if left else CONTINUE

    return Deciding


async def test_a_deferral_is_tried_again(autojump_clock: object) -> None:
    async with chain_of(deciding(Defer("not at night", 451, "4.7.1"))) as bench:
        world = World(plugins=bench.chain)
        async with world.running():
            queue_id = await world.submit("b@dest.example")
            await trio.sleep(10)
            found = await world.store.get(queue_id)
            assert found is not None
            assert (found.state, found.attempts) == (QueueState.DEFERRED, 1)
            assert not world.delivery.calls, "no transport was asked"
            await trio.sleep(100)
            assert [call.id for call in world.delivery.calls] == [queue_id]


async def test_content_that_cannot_be_read_now_defers_and_is_no_failure_of_the_plugin(autojump_clock: object) -> None:
    async with chain_of(deciding(), on_error=OnError.REJECT) as bench:
        world = World(plugins=bench.chain)
        read, times = world.store.read, 0

        async def away_once(ref: ContentRef, offset: int, limit: int) -> bytes:
            nonlocal times
            times += 1
            if times == 1:
                raise StoreUnavailable("away")
            return await read(ref, offset, limit)

        world.store.read = away_once  # type: ignore[method-assign]  # the database is away
        async with world.running():
            whole = submission(world.ids.new_id())
            writer = await world.service.stage()
            await writer.write([CONTENT])
            content_id = await writer.finish()
            staged = evolve(whole, ref=ContentRef(content_id, len(CONTENT)), content=None)
            await world.service.submit(staged, timeout=60)
            await trio.sleep(10)
            found = await world.store.get(whole.id)
            assert found is not None
            assert found.state is QueueState.DEFERRED
            assert not world.delivery.calls
            await trio.sleep(100)
            assert [call.id for call in world.delivery.calls] == [whole.id]
        assert bench.events("plugin.failed") == []


async def test_a_rejection_bounces(autojump_clock: object) -> None:
    async with chain_of(deciding(Reject("never", 550, "5.7.1"))) as bench:
        world = World(plugins=bench.chain)
        async with world.running():
            queue_id = await world.submit("b@dest.example")
            await trio.sleep(10)
            assert await world.store.get(queue_id) is None
    (told,) = [one for one in world.events("delivery.outcome") if one["queue_id"] == queue_id]
    assert (told["result"], told["reply"]) == ("failed", "550 5.7.1 never")


async def test_a_quarantined_mail_waits_for_an_operator(autojump_clock: object) -> None:
    async with chain_of(deciding(Quarantine("look at this"))) as bench:
        world = World(plugins=bench.chain)
        async with world.running():
            queue_id = await world.submit("b@dest.example")
            await trio.sleep(1000)
            found = await world.store.get(queue_id)
            assert found is not None
            assert (found.state, found.reason, found.owner) == (QueueState.HELD, "look at this", "")
            await world.service.apply(Order(Verb.RELEASE, Filter(), world.clock.wall(), 10))
            await trio.sleep(10)
            assert [call.id for call in world.delivery.calls] == [queue_id]


async def test_what_an_operator_released_is_not_held_once_more(autojump_clock: object) -> None:
    """It may be put off or refused all the same."""
    held = Quarantine("look at this")
    async with chain_of(deciding(held, held, held), deciding(CONTINUE, Defer("busy", 451, "4.7.1"))) as bench:
        world = World(plugins=bench.chain)
        async with world.running():
            queue_id = await world.submit("b@dest.example")
            await trio.sleep(10)
            await world.service.apply(Order(Verb.RELEASE, Filter(), world.clock.wall(), 10))
            await trio.sleep(10)
            found = await world.store.get(queue_id)
            assert found is not None
            assert (found.state, str(found.progress[0].reply)) == (QueueState.DEFERRED, "451 4.7.1 busy")
            assert found.annotations["held by a filter"] == "look at this"
            await trio.sleep(1000)
    assert [call.id for call in world.delivery.calls] == [queue_id]


@pytest.mark.parametrize("on_error", OnError)
async def test_a_failure_is_the_policy(on_error: OnError, autojump_clock: object) -> None:
    async with chain_of(deciding(Continue([AddHeader("X-Late", "1")])), on_error=on_error) as bench:
        world = World(plugins=bench.chain)
        async with world.running():
            await world.submit("b@dest.example", sender=None)  # a report would be asked about as well
            await trio.sleep(10)
            assert len(world.delivery.calls) == (on_error is OnError.ACCEPT)
    assert len(bench.events("plugin.failed")) == 1


async def test_plugins_hear_what_came_of_it(autojump_clock: object) -> None:
    heard: list[tuple[str, int, int]] = []

    class Hearing(Plugin):
        async def on_post_delivery(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
            heard.append((delivery.destination, delivery.attempts, len(outcomes)))
            raise RuntimeError("nobody minds")

    async with chain_of(Hearing) as bench:
        world = World(plugins=bench.chain)
        async with world.running():
            await world.submit("b@dest.example")
            await world.submit("c@dest.example")
            await trio.sleep(10)
            assert len(world.delivery.received) == 2
    assert heard == [("dest.example", 0, 1)] * 2


async def test_a_mail_that_came_held_is_never_tried(autojump_clock: object) -> None:
    world = World()
    async with world.running():
        given = evolve(submission(world.ids.new_id(), "b@dest.example"), held="odd", annotations={"tag": "x"})
        await world.service.submit(given, timeout=10)
        await trio.sleep(1000)
        found = await world.store.get(given.id)
        assert found is not None
        assert (found.state, found.reason, found.annotations) == (QueueState.HELD, "odd", {"tag": "x"})
        assert not world.delivery.calls
        assert found.received_at == EPOCH


async def test_a_mail_with_a_route_of_its_own_is_one_mail_of_its_priority(autojump_clock: object) -> None:
    world = World()
    world.delivery.priorities = {"archive": Priority.LOW, "dest.example": Priority.HIGH}
    async with world.running():
        given = submission(world.ids.new_id(), "b@dest.example", "c@other.example")
        await world.service.submit(evolve(given, route="archive", annotations={"route": "archive"}), timeout=10)
        found = await world.store.get(given.id)
        assert found is not None
        assert found.priority is Priority.LOW
        await trio.sleep(10)
    (call,) = world.delivery.calls
    assert call.job.route == "archive"
    assert call.to == ("b@dest.example", "c@other.example")
