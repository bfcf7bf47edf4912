"""The queue as other rooms see it: what is durable when, orders, recovery, upkeep."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from attrs import evolve

from elemta.mail.envelope import Priority
from elemta.mail.outcome import AttemptResult
from elemta.queue.schedule import RetryPolicy
from elemta.queue.submission import SubmissionTimeout
from elemta.queue.upkeep import UPKEEP_SECONDS
from elemta.storage.base import (
    Begin,
    Change,
    CommitUnknown,
    ContentMissing,
    Filter,
    Insert,
    Joined,
    Order,
    Result,
    StoreFull,
    StoreUnavailable,
    Verb,
    Withdraw,
)
from elemta.storage.records import ContentRef, QueueState
from tests.queue import world as world_module
from tests.queue.world import (
    BUSY,
    CONTENT,
    EPOCH,
    TAKEN,
    FaultyStore,
    ScriptedDelivery,
    World,
    insert,
    mail,
    submission,
)

Clock = trio.testing.MockClock
HOUR = 3600.0


@pytest.fixture
def world() -> World:
    return World()


# ---- submit ----


async def test_durable_when_it_returns(world: World, autojump_clock: Clock) -> None:
    world.store.faults = [world.store.takes(3)]
    world.delivery.seconds = 10
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        assert trio.current_time() == 3
        found = await world.service.get(queue_id)
        assert found is not None
        assert found.state is QueueState.ACTIVE
        assert (found.received_at, found.next_attempt_at) == (EPOCH, EPOCH)
        assert found.expires_at == EPOCH + world.options.max_queue_time == EPOCH + 172_800
        assert await world.service.read_content(found.content, 0, 1000) == CONTENT


async def test_a_mail_for_several_destinations_is_one_commit(world: World, autojump_clock: Clock) -> None:
    async with world.running():
        to = ("a@one.example", "b@two.example", "c@one.example", "d@three.example")
        queue_id = await world.submit(*to)
        await trio.sleep(10)
    inserts = [change for change in world.store.changes()[0] if isinstance(change, Insert)]
    assert [change.mail.origin_id for change in inserts] == [queue_id] * 3
    assert inserts[0].mail.id == queue_id
    assert len({change.mail.id for change in inserts}) == 3
    assert {change.mail.content for change in inserts} == {ContentRef(queue_id, len(CONTENT))}
    assert [change.content for change in inserts] == [CONTENT, None, None]
    groups = [[str(each.address) for each in change.mail.envelope.recipients] for change in inserts]
    assert groups == [["a@one.example", "c@one.example"], ["b@two.example"], ["d@three.example"]]
    assert sorted(to for _, to, _ in world.delivery.received) == sorted(to)
    assert {content for _, _, content in world.delivery.received} == {CONTENT}
    assert {event.get("origin_id", event["queue_id"]) for event in world.events("delivery.outcome")} == {queue_id}


async def test_a_route_s_priority_counts_for_its_part_where_the_mail_says_nothing(
    world: World, autojump_clock: Clock
) -> None:
    world.delivery.priorities = {"low.example": Priority.LOW}
    async with world.running():
        await world.submit("b@low.example", "b@plain.example")
        await world.submit("b@low.example", priority=Priority.HIGH)
    first, second = ([c.mail.priority for c in batch if isinstance(c, Insert)] for batch in world.store.changes()[:2])
    assert first + second == [Priority.LOW, Priority.NORMAL, Priority.HIGH]


async def test_other_settings_hold_from_the_next_step_of_each_mail_on(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("a@dest.example", BUSY, BUSY, TAKEN)
    other = ScriptedDelivery()
    async with world.running():
        first = await world.submit("a@dest.example")
        await trio.sleep(1)
        quick = evolve(world.options, retry=RetryPolicy((7.0,), 10), max_queue_time=1000)
        world.service.adopt(world.delivery, quick, None)
        await trio.sleep(world.options.retry.schedule[0])
        later = await world.submit("b@dest.example")
        await trio.sleep(1)
        found = await world.service.get(first)
        assert found is not None
        assert found.next_attempt_at - EPOCH == pytest.approx(world.options.retry.schedule[0] + 7, abs=1)
        assert found.expires_at == EPOCH + 172_800, "as long as it was promised"
        world.service.adopt(other, quick, None)
        await trio.sleep(20)
    assert [queue_id for queue_id, _, _ in other.received] == [first]
    assert [queue_id for queue_id, _, _ in world.delivery.received] == [later]


async def test_staged_content_is_delivered(world: World, autojump_clock: Clock) -> None:
    large = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 20_000 + b"\r\n"
    async with world.running():
        writer = await world.service.stage()
        await writer.write([large[:100_000]])
        await writer.write([large[100_000:]])
        content_id = await writer.finish()
        queue_id = world.ids.new_id()
        whole = submission(queue_id)
        await world.service.submit(evolve(whole, ref=ContentRef(content_id, len(large)), content=None), timeout=60)
        await trio.sleep(10)
    assert world.delivery.received == [(queue_id, "b@dest.example", large)]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreFull("full")])
async def test_a_store_that_fails_takes_nothing(world: World, error: StoreUnavailable, autojump_clock: Clock) -> None:
    world.store.faults = [world.store.fails(error)]
    async with world.running():
        with pytest.raises(type(error)):
            await world.submit("b@dest.example")
        await trio.sleep(100)
        assert sum((await world.service.counts()).values()) == 0
        for _ in range(10):
            await world.submit("b@dest.example")
        await trio.sleep(1)
    assert len(world.delivery.received) == 10


@pytest.mark.parametrize("recipients", [("b@dest.example",), ("b@dest.example", "c@other.example")])
async def test_no_room_beside_changes_that_are_needed_is_said_as_such(
    world: World, autojump_clock: Clock, recipients: tuple[str, ...]
) -> None:
    """Of several mails that one submission became, none stays."""

    async def full(batch: Sequence[Change]) -> list[Result]:
        return [*await super(FaultyStore, world.store).commit(batch[:-1]), Result.FULL]

    world.store.faults = [full]
    async with world.running():
        with pytest.raises(StoreFull):
            await world.submit(*recipients)
        await trio.sleep(100)
        assert sum((await world.service.counts()).values()) == 0
    assert world.delivery.calls == []


async def test_no_order_is_carried_out_while_a_batch_is_in_doubt(world: World, autojump_clock: Clock) -> None:
    """The batch is repeated: it would bring back what an order took away."""
    unknown = CommitUnknown("?")
    world.store.faults = [world.store.fails(unknown, landed=True), world.store.fails(unknown), world.store.takes(10)]
    order = Order(Verb.HOLD, Filter(), EPOCH, 10)
    async with world.running() as nursery:
        nursery.start_soon(world.submit, "b@dest.example")
        await trio.sleep(0.01)
        with pytest.raises(StoreUnavailable, match="durable"):
            await world.service.apply(order)
        await trio.sleep(1)  # the batch is being committed once more
        await world.service.apply(order)
        assert trio.current_time() > 10


async def test_too_late_is_withdrawn_and_never_tried(world: World, autojump_clock: Clock) -> None:
    world.store.faults = [world.store.takes(100)]
    async with world.running():
        with pytest.raises(SubmissionTimeout):
            await world.submit("b@dest.example", timeout=60)
        assert trio.current_time() == 60
        await trio.sleep(1000)
        assert sum((await world.service.counts()).values()) == 0
    assert world.delivery.calls == []
    assert [type(change) for change in world.store.changes()[1]] == [Withdraw]


async def test_too_late_without_room_is_never_tried_either(
    world: World, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """Anybody may claim such a mail: its withdrawal stands in the line before any `Begin`."""
    monkeypatch.setattr(world_module, "waiting_mails", 0)
    world = World()
    world.store.faults = [world.store.takes(100)]
    async with world.running():
        with pytest.raises(SubmissionTimeout):
            await world.submit("b@dest.example", timeout=60)
        world.service._dispatcher.note_due(EPOCH)
        await trio.sleep(1000)
        assert sum((await world.service.counts()).values()) == 0
    assert world.delivery.received == []
    assert not any(isinstance(change, Begin) for change in world.store.changes()[0])


async def test_a_cancelled_submitter_gives_its_room_back(world: World, autojump_clock: Clock) -> None:
    async with world.running():
        room = world.service._dispatcher._agenda.room(submission("0" * 22).priority)
        world.store.faults = [world.store.takes(5)] * 5
        for _ in range(5):
            with trio.move_on_after(1):
                await world.submit("b@one.example", "b@two.example")
        await trio.sleep(100)
        assert world.service._dispatcher._agenda.room(submission("0" * 22).priority) == room
        assert sum((await world.service.counts()).values()) == 0


# ---- recovery ----


async def test_what_was_accepted_and_not_finished_is_picked_up_again(autojump_clock: Clock) -> None:
    store = FaultyStore()
    await store.join("one", EPOCH)
    await store.commit([insert(number, owner="one") for number in range(5)])
    await store.commit([Begin(mail(3).id, "one", 1, EPOCH - 9)])
    world = World(store)
    async with world.running():
        await trio.sleep(10)
    (event,) = world.events("queue.joined")
    assert (event["recovered"], event["uncertain"], event["uncertain_ids"]) == (5, 1, [mail(3).id])
    assert world.figure("elemta_delivery_uncertain_total") == 1
    assert sorted(call.id for call in world.delivery.calls) == [mail(number).id for number in range(5)]
    results = [attempt.result for attempt in await store.attempts(mail(3).id)]
    assert results == [AttemptResult.UNCERTAIN, AttemptResult.DELIVERED]


async def test_without_a_store_there_is_no_start(world: World) -> None:
    class Unjoinable(FaultyStore):
        async def join(self, owner: str, now: float) -> Joined:
            raise StoreUnavailable("locked by another server")

    joining = pytest.RaisesExc(StoreUnavailable, match="locked")
    with pytest.RaisesGroup(joining, flatten_subgroups=True):
        await World(Unjoinable()).service.run()


# ---- orders ----


async def test_held_mail_in_line_is_not_tried_until_released(autojump_clock: Clock) -> None:
    world = World(max_workers=1)
    world.delivery.seconds = 10
    async with world.running():
        ids = [await world.submit(f"b@{number}.example") for number in range(4)]
        await trio.sleep(1)
        order = Order(Verb.HOLD, Filter(), world.clock.wall(), 10, "looks odd")
        ordered = await world.service.apply(order)
        assert ordered.in_flight == (ids[0],)
        assert sorted(ordered.changed) == sorted(ids[1:])
        assert world.service._dispatcher.waiting == 0
        await trio.sleep(100)
        assert len(world.delivery.calls) == 1
        held = await world.service.list(Filter(states=frozenset({QueueState.HELD})), 10)
        assert [each.reason for each in held] == ["looks odd"] * 3
        await world.service.apply(Order(Verb.RELEASE, Filter(ids=frozenset(ids[2:])), world.clock.wall(), 10))
        await trio.sleep(100)
    assert [call.id for call in world.delivery.calls] == [ids[0], *ids[2:]]
    (event, _) = world.events("queue.ordered")
    assert (event["verb"], event["changed"], event["in_flight"], event["reason"]) == ("hold", 3, 1, "looks odd")


async def test_retry_makes_due_at_once(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("dest.example", BUSY, BUSY, TAKEN)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(10)
        await world.service.apply(Order(Verb.RETRY, Filter(ids=frozenset({queue_id})), world.clock.wall(), 10))
        await trio.sleep(500)
    assert world.delivery.times() == [0, 10, 310]


async def test_deleted_mail_in_line_is_gone(autojump_clock: Clock) -> None:
    world = World(max_workers=1)
    world.delivery.seconds = 10
    async with world.running():
        for number in range(4):
            await world.submit(f"b@{number}.example")
        await trio.sleep(1)
        await world.service.apply(Order(Verb.DELETE, Filter(destination="2.example"), world.clock.wall(), 10))
        await trio.sleep(100)
        assert sum((await world.service.counts()).values()) == 0
    assert [call.to[0] for call in world.delivery.calls] == ["b@0.example", "b@1.example", "b@3.example"]


async def test_what_operators_ask(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("dest.example", BUSY)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(10)
        counts = await world.service.counts()
        assert counts[QueueState.DEFERRED] == 1
        assert world.figure("elemta_queue_size", queue_type="deferred") == 1
        assert await world.service.next_due() == pytest.approx(EPOCH + 60)
        assert len(await world.service.attempts(queue_id)) == 1
        assert [each.id for each in await world.service.list(Filter(), 10)] == [queue_id]
        with pytest.raises(ContentMissing):
            await world.service.read_content(ContentRef("0" * 22, 5), 0, 10)


# ---- upkeep ----


async def test_upkeep_removes_what_is_past_its_time(autojump_clock: Clock) -> None:
    world = World(keep_delivered=True, message_retention_hours=2.0)
    async with world.running():
        writer = await world.service.stage()
        await writer.write([b"abandoned"])
        content_id = await writer.finish()
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(1.9 * HOUR)
        assert await world.service.get(queue_id) is not None
        await trio.sleep(1.2 * HOUR)
        assert await world.service.get(queue_id) is None
        assert await world.service.attempts(queue_id) == []
        assert content_id in world.store._contents
        await trio.sleep(25 * HOUR)
        assert content_id not in world.store._contents
    assert [event["removed"] for event in world.events("queue.cleaned_up")] == [1]


async def test_upkeep_outlives_a_store_that_is_away(world: World, autojump_clock: Clock) -> None:
    async def away(retention: object) -> int:
        raise StoreUnavailable("away")

    world.store.cleanup = away  # type: ignore[method-assign]  # away, this once
    async with world.running():
        await trio.sleep(1)
        del world.store.cleanup
        await world.store.commit([insert(1, state=QueueState.FAILED, next_attempt_at=EPOCH - 9 * HOUR)])
        await trio.sleep(UPKEEP_SECONDS)
        assert await world.service.get(mail(1).id) is None
    assert len(world.events("queue.cleanup_failed")) == 1


async def test_upkeep_goes_on_until_nothing_is_left(autojump_clock: Clock) -> None:
    world = World()
    failed = [insert(n, state=QueueState.FAILED, next_attempt_at=EPOCH - 9 * HOUR) for n in range(1100)]
    await world.store.commit(failed)
    async with world.running():
        await trio.sleep(1)
        assert sum((await world.service.counts()).values()) == 0
    assert [event["removed"] for event in world.events("queue.cleaned_up")] == [1100]


async def test_cancelled_the_service_ends_with_what_was_handed_over(world: World, autojump_clock: Clock) -> None:
    heard: list[str] = []

    async def client() -> None:
        heard.append(await world.submit("b@dest.example", timeout=60))

    async with trio.open_nursery() as clients:
        async with world.running():
            world.store.faults = [world.store.takes(2)]
            clients.start_soon(client)
            await trio.sleep(1)
    assert await world.store.get(heard[0]) is not None
    with pytest.raises(StoreUnavailable):
        await world.submit("b@dest.example")
