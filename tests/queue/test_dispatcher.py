"""Who is tried when: order, shares, room, clocks, the end."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from elemta.delivery.base import Job
from elemta.mail.envelope import Priority
from elemta.mail.outcome import Outcome
from elemta.queue import dispatcher as dispatcher_module
from elemta.queue.dispatcher import AWAY_SECONDS, CLAIM_MAILS, LANE_FULL_MAILS
from elemta.queue.options import LOOK_SECONDS
from elemta.queue.priority import STARVING_AFTER_SECONDS
from elemta.queue.schedule import RetryPolicy
from elemta.storage.base import Change, CommitUnknown, Filter, Insert, Order, Result, Settle, StoreUnavailable, Verb
from elemta.storage.records import QueueState
from tests.queue import world as world_module
from tests.queue.world import BUSY, CONTENT, EPOCH, TAKEN, FaultyStore, World, insert, mail

Clock = trio.testing.MockClock
AWAY = StoreUnavailable("the disk is gone")


def first_calls(world: World, count: int) -> list[str]:
    return [call.id for call in world.delivery.calls[:count]]


# ---- order and shares ----


async def test_the_higher_priority_always_goes_first(autojump_clock: Clock) -> None:
    world = World(max_workers=1)
    world.delivery.seconds = 10
    async with world.running():
        running = await world.submit("b@dest.example")
        await trio.sleep(1)
        order = [Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.CRITICAL]
        ids = []
        for number, priority in enumerate(order):
            ids.append(await world.submit(f"b@{number}.example", priority=priority))
            await trio.sleep(0.1)
        await trio.sleep(100)
    assert first_calls(world, 7) == [running, *[ids[index] for index in (2, 5, 3, 1, 4, 0)]]
    assert world.delivery.times() == [0, 10, 20, 30, 40, 50, 60]


async def test_a_claimed_mail_of_higher_priority_overtakes_too(autojump_clock: Clock) -> None:
    """A retry that becomes due while the house is full of ordinary mail does not queue up behind it."""
    world = World(max_workers=1)
    world.delivery.seconds = 10
    await world.store.commit([insert(1, next_attempt_at=EPOCH + 25, priority=Priority.HIGH)])
    async with world.running():
        for number in range(10):
            await world.submit(f"b@{number}.example")
        await trio.sleep(200)
    assert world.delivery.calls[3].id == mail(1).id


async def test_a_destination_gets_at_most_half_of_the_workers(autojump_clock: Clock) -> None:
    world = World(max_workers=10)
    world.delivery.seconds = 10
    async with world.running():
        for _ in range(20):
            await world.submit("b@slow.example")
        others = [await world.submit("b@other.example") for _ in range(8)]
        await trio.sleep(5)
        assert world.delivery.running == 10
        await trio.sleep(200)
    assert world.delivery.most_running == {"slow.example": 5, "other.example": 5}
    started = {call.id: call.at for call in world.delivery.calls}
    assert [round(started[queue_id]) for queue_id in others] == [0] * 5 + [10] * 3
    assert len(world.delivery.received) == 28


async def test_a_place_in_the_share_is_free_before_the_attempt_is_settled(autojump_clock: Clock) -> None:
    world = World(max_workers=2)
    world.delivery.seconds = 10
    async with world.running():
        await world.submit("b@dest.example")
        await world.submit("b@dest.example")
        await trio.sleep(1)
        world.store.faults = [world.store.takes(100)]
        await trio.sleep(300)
    assert world.delivery.times() == [0, 10]


async def test_starving_mail_is_reported(autojump_clock: Clock) -> None:
    world = World(max_workers=1)
    world.delivery.seconds = 100
    async with world.running():
        await world.submit("b@low.example", priority=Priority.LOW)
        await world.submit("b@low.example", priority=Priority.LOW)
        for _ in range(20):
            await world.submit("b@high.example", priority=Priority.HIGH)
        await trio.sleep(STARVING_AFTER_SECONDS - 1)
        assert world.events("queue.starving") == []
        await trio.sleep(LOOK_SECONDS + 2)
        (event,) = world.events("queue.starving")
        assert event["oldest_due_seconds"] >= STARVING_AFTER_SECONDS
        assert world.figure("elemta_queue_oldest_due_seconds") >= STARVING_AFTER_SECONDS
        await trio.sleep(800)
        assert len(world.events("queue.starving")) == 1
        await trio.sleep(2000)
        assert world.figure("elemta_queue_oldest_due_seconds") == 0


# ---- room ----


def keep_small(monkeypatch: pytest.MonkeyPatch, mails: int) -> None:
    monkeypatch.setattr(world_module, "waiting_mails", mails)
    monkeypatch.setattr(dispatcher_module, "CLAIM_MAILS", max(1, mails // 4))
    monkeypatch.setattr(dispatcher_module, "LANE_FULL_MAILS", max(1, mails // 2))
    monkeypatch.setattr(dispatcher_module, "LANE_LOW_MAILS", max(1, mails // 4))


@pytest.mark.parametrize("destinations", [1, 3, 50])
async def test_what_has_no_room_waits_in_the_store_and_comes_in_its_turn(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, destinations: int
) -> None:
    keep_small(monkeypatch, 20)
    world = World(max_workers=2)
    world.delivery.seconds = 0.05
    async with world.running():
        ids = []
        for number in range(200):
            ids.append(await world.submit(f"b@{number % destinations}.example"))
            await trio.sleep(0.001)
            assert world.service._dispatcher.waiting <= 20
        for _ in range(200):
            await trio.sleep(0.05)
            assert world.service._dispatcher.waiting <= 20 + 2
            assert world.delivery.running <= 2
        await trio.sleep(20)
        assert sum((await world.service.counts()).values()) == 0
    assert sorted(call.id for call in world.delivery.calls) == sorted(ids)
    if destinations == 1:
        # Nobody is overtaken: newer mail for a destination that has mail in the store goes there as well.
        assert [call.id for call in world.delivery.calls] == ids
        assert 150 <= world.store.claimed <= 200
    # The delivery never ran dry: a twentieth of a second each, `share` at a time.
    width = 1 if destinations == 1 else 2
    assert world.delivery.times()[-1] <= 200 * 0.05 / width + 3


async def test_a_flood_to_one_destination_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    keep_small(monkeypatch, 20)
    world = World(max_workers=4)
    world.delivery.seconds = 50
    async with world.running():
        for _ in range(100):
            await world.submit("b@flood.example")
        queue_id = await world.submit("b@other.example")
        await trio.sleep(1)
        assert world.delivery.times(queue_id) == [0]
        claimed = world.store.claimed
        await trio.sleep(40)
        # While the flood's lane is full, it is left out of the claims.
        assert world.store.claimed == claimed
        assert {"flood.example"} in [set(claim.exclude) for claim in world.store.claims]


async def test_newer_mail_never_overtakes_what_waits_in_the_store(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    keep_small(monkeypatch, 8)
    monkeypatch.setattr(world_module, "waiting_mails", 40)
    world = World(max_workers=2)
    world.delivery.seconds = 1
    async with world.running():
        ids = [await world.submit("b@dest.example") for _ in range(60)]
        for _ in range(100):
            await trio.sleep(0.45)
            ids.append(await world.submit("b@dest.example"))
        await trio.sleep(200)
    order = [call.id for call in world.delivery.calls]
    assert sorted(order[:60]) == sorted(ids[:60])
    assert order[60:] == ids[60:]


async def owners(world: World) -> list[str]:
    """Who got the mails that were submitted, in order."""
    return [change.mail.owner for batch in world.store.changes() for change in batch if isinstance(change, Insert)]


async def test_once_nothing_waits_in_the_store_new_mail_goes_directly_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    keep_small(monkeypatch, 8)
    world = World(max_workers=4)
    async with world.running():
        async with world.service._dispatcher.holding_claims():
            world.delivery.seconds = 1
            for _ in range(20):
                await world.submit("b@dest.example")
            assert (await owners(world))[-1] == ""
            deleted = await world.store.apply(Order(Verb.DELETE, Filter(), EPOCH, 100))
            assert deleted.changed
        await trio.sleep(LOOK_SECONDS * 2)
        await world.submit("b@dest.example")
        assert (await owners(world))[-1] == "one"


async def test_a_destination_that_has_caught_up_goes_directly_though_another_has_not(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    keep_small(monkeypatch, 8)
    world = World(max_workers=4)

    async def slow(job: Job) -> Sequence[Outcome]:
        await trio.sleep(1000)
        return [TAKEN]

    async def soon(job: Job) -> Sequence[Outcome]:
        await trio.sleep(1)
        return [TAKEN]

    world.delivery.script("slow.example", slow)
    world.delivery.script("soon.example", soon)
    async with world.running():
        for destination in ("slow.example", "soon.example"):
            for _ in range(20):
                await world.submit(f"b@{destination}")
            assert (await owners(world))[-1] == ""
        await trio.sleep(60)
        assert len(world.store.claims[-1].exclude) == 1
        await world.submit("b@soon.example")
        assert (await owners(world))[-1] == "one"
        await world.submit("b@slow.example")
        assert (await owners(world))[-1] == ""


async def test_a_backlog_without_room_is_no_reason_to_look_after_each_attempt(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    keep_small(monkeypatch, 8)
    world = World(max_workers=4)

    async def slow(job: Job) -> Sequence[Outcome]:
        await trio.sleep(1000)
        return [TAKEN]

    world.delivery.script("slow.example", slow)
    world.delivery.script("busy.example", BUSY)
    async with world.running():
        for _ in range(20):
            await world.submit("b@slow.example")
        await trio.sleep(0.05)
        looks = len(world.store.claims)
        for _ in range(100):
            await world.submit("b@busy.example")
            await trio.sleep(0.1)
        # Ten seconds, a look each.
        assert len(world.store.claims) - looks <= 12


async def test_a_critical_mail_finds_room_in_a_full_house(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    keep_small(monkeypatch, 8)
    world = World(max_workers=2)
    world.delivery.seconds = 10
    async with world.running():
        for number in range(40):
            await world.submit(f"b@{number}.example")
        await trio.sleep(5)
        queue_id = await world.submit("b@urgent.example", priority=Priority.CRITICAL)
        await trio.sleep(10)
        assert world.delivery.times(queue_id) == [10]


async def test_a_claim_by_priority_when_ordinary_mail_has_no_room(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    keep_small(monkeypatch, 8)
    world = World(max_workers=2)
    world.delivery.seconds = 10
    changes = [insert(number, f"{number}.example") for number in range(100)]
    await world.store.commit([*changes, insert(200, next_attempt_at=EPOCH + 5, priority=Priority.HIGH)])
    async with world.running():
        await trio.sleep(11)
        assert world.delivery.times(mail(200).id) == [10]


async def test_what_is_not_due_is_never_loaded(autojump_clock: Clock) -> None:
    world = World()
    later = [insert(number, next_attempt_at=EPOCH + 1e6) for number in range(10, 3000)]
    due = [insert(number) for number in range(3)]
    deferred = [insert(number, state=QueueState.DEFERRED, next_attempt_at=EPOCH + 100) for number in range(3, 6)]
    await world.store.commit([*later, *due, *deferred])
    async with world.running():
        await trio.sleep(5000)
    assert world.store.claimed == 6
    assert world.delivery.times() == [0, 0, 0, 100, 100, 100]
    # A look a minute, and a claim only where something was due.
    assert len(world.store.claims) == 2


async def test_claims_come_in_batches(autojump_clock: Clock) -> None:
    world = World()
    await world.store.commit([insert(number) for number in range(1000)])
    async with world.running():
        await trio.sleep(100)
    assert world.store.claimed == len(world.delivery.received) == 1000
    assert max(claim.limit for claim in world.store.claims) == CLAIM_MAILS
    assert len(world.store.claims) < 40
    assert LANE_FULL_MAILS < CLAIM_MAILS


async def test_content_is_kept_only_within_its_budget(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    monkeypatch.setattr(dispatcher_module, "KEPT_CONTENT_OCTETS", 3 * len(CONTENT))
    world = World(max_workers=2)
    world.delivery.seconds = 10
    async with world.running():
        for _ in range(6):
            await world.submit("b@dest.example")
        await trio.sleep(100)
        assert world.store.reads == 3
        await world.submit("b@dest.example")
        await trio.sleep(100)
        assert world.store.reads == 3
    assert [content for _, _, content in world.delivery.received] == [CONTENT] * 7


# ---- clocks ----


async def test_a_wall_clock_that_jumps_ahead_is_noticed(autojump_clock: Clock) -> None:
    world = World()
    await world.store.commit([insert(1, next_attempt_at=EPOCH + 7200)])
    async with world.running():
        await trio.sleep(10)
        world.clock.stepped = 7200
        await trio.sleep(200)
    assert world.delivery.times() == [LOOK_SECONDS]


async def test_a_wall_clock_that_jumps_back_does_not_spin(autojump_clock: Clock) -> None:
    world = World()
    world.delivery.script("dest.example", BUSY, TAKEN)
    async with world.running():
        await world.submit("b@dest.example")
        await trio.sleep(10)
        world.clock.stepped = -3600
        await trio.sleep(3500)
        assert world.delivery.times() == [0]
        await trio.sleep(200)
    assert world.delivery.times() == [0, 3660]


async def test_an_earlier_mail_moves_the_next_look_up(autojump_clock: Clock) -> None:
    world = World(retry=RetryPolicy((10.0,), 3))
    await world.store.commit([insert(1, next_attempt_at=EPOCH + 55)])
    world.delivery.script("soon.example", BUSY, TAKEN)
    async with world.running():
        await trio.sleep(1)
        await world.submit("b@soon.example")
        await trio.sleep(100)
    assert world.delivery.times() == [1, 11, 55]


# ---- the store fails ----


async def test_a_store_that_is_away_is_asked_again(autojump_clock: Clock) -> None:
    world = World()
    await world.store.commit([insert(1, next_attempt_at=EPOCH + 50)])
    async with world.running():
        await trio.sleep(10)
        world.store.away = AWAY
        await trio.sleep(100)
        world.store.away = None
        await trio.sleep(AWAY_SECONDS + 1)
        assert len(world.delivery.received) == 1


async def test_nothing_is_claimed_while_a_batch_is_in_doubt(autojump_clock: Clock) -> None:
    """The settle in doubt may have landed: a claim would hand out what its repeat must find untouched."""
    world = World(retry=RetryPolicy((0.01,), 3))
    world.delivery.script("dest.example", BUSY, TAKEN)
    store = world.store
    unknown = CommitUnknown("?")
    async with world.running():
        store.faults = [store.takes(0), store.fails(unknown, landed=True), *[store.fails(unknown)] * 5]
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(1)
        assert world.service._spool.in_doubt
        world.service._dispatcher.note_due(EPOCH)
        await trio.sleep(100)
        assert len(await store.attempts(queue_id)) == 2
    assert len(world.delivery.received) == 1
    assert world.delivery.times()[1] > 3.1


async def test_a_mail_that_is_due_again_before_its_settle_is_answered_is_tried_again(autojump_clock: Clock) -> None:
    world = World()
    world.delivery.script("b@dest.example", BUSY, TAKEN)
    store = world.store

    async def answers_late(batch: Sequence[Change]) -> list[Result]:
        results = await super(FaultyStore, store).commit(batch)
        if any(isinstance(change, Settle) for change in batch):
            await trio.sleep(100)  # the first retry is due after 60
        else:
            store.faults.append(answers_late)
        return results

    store.faults.append(answers_late)
    async with world.running():
        await world.submit("b@dest.example")
        await trio.sleep(110)
    assert store.claimed == 1
    assert world.delivery.times() == [0, 100]
    assert len(world.delivery.received) == 1


# ---- the end ----


async def test_a_drain_lets_attempts_finish_and_starts_none(autojump_clock: Clock) -> None:
    world = World(max_workers=2)
    world.delivery.seconds = 10
    async with world.running():
        ids = [await world.submit(f"b@{number}.example") for number in range(5)]
        await trio.sleep(1)
        assert await world.service.drain(trio.current_time() + 60)
        assert trio.current_time() == 10
        assert len(world.delivery.received) == 2
        # Sessions that still run may still hand in mail.
        ids.append(await world.submit("b@late.example"))
        await trio.sleep(1000)
        assert len(world.delivery.calls) == 2
    (event,) = world.events("queue.drained")
    assert (event["in_flight"], event["cut"]) == (2, False)
    again = World(world.store)
    async with again.running():
        await trio.sleep(100)
    assert sorted(call.id for call in (*world.delivery.calls, *again.delivery.calls)) == sorted(ids)


async def test_a_drain_of_an_idle_queue_is_immediate(autojump_clock: Clock) -> None:
    world = World()
    async with world.running():
        assert await world.service.drain(trio.current_time() + 60)
        await world.submit("b@dest.example")
        assert await world.service.drain(trio.current_time() + 60)
    assert trio.current_time() == 0
    idle = World()
    async with idle.running():
        await idle.submit("b@dest.example")
        await trio.sleep(10)
        assert await idle.service.drain(trio.current_time() + 60)
        assert trio.current_time() == 10


async def test_a_second_drain_hurries_the_first(autojump_clock: Clock) -> None:
    world = World()
    world.delivery.seconds = 1000
    heard: list[bool] = []

    async def drain(seconds: float) -> None:
        heard.append(await world.service.drain(trio.current_time() + seconds))

    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, 500)
            await trio.sleep(10)
            nursery.start_soon(drain, 0)
        assert trio.current_time() == 11
    assert heard == [False, False]
    found = await world.store.get(queue_id)
    assert found is not None
    assert (found.state, found.owner) == (QueueState.ACTIVE, "")


async def test_workers_are_as_many_as_needed_and_no_more(autojump_clock: Clock) -> None:
    world = World(max_workers=6)
    world.delivery.seconds = 10
    async with world.running() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        for number in range(2):
            await world.submit(f"b@{number}.example")
        await trio.sleep(1)
        assert trio.lowlevel.current_statistics().tasks_living - before == 2
        for number in range(40):
            await world.submit(f"b@{number % 7}.example")
        await trio.sleep(1)
        assert trio.lowlevel.current_statistics().tasks_living - before == 6
        await trio.sleep(300)
        assert len(world.delivery.received) == 42
        nursery.start_soon(trio.sleep, 0)


async def test_two_nodes_on_one_store_deliver_each_mail_once(autojump_clock: Clock) -> None:
    store = FaultyStore()
    one, two = (World(store, node=name, waiting_mails=100) for name in ("one", "two"))
    one.delivery.seconds = two.delivery.seconds = 1
    await store.commit([insert(number, f"{number % 7}.example") for number in range(600)])
    async with one.running(), two.running():
        await trio.sleep(1000)
    delivered = [call.id for call in (*one.delivery.calls, *two.delivery.calls)]
    assert sorted(delivered) == [mail(number).id for number in range(600)]
    assert one.delivery.calls
    assert two.delivery.calls


async def test_an_order_between_two_looks_meets_the_same_mails(autojump_clock: Clock) -> None:
    """See `holding_claims`: no claim runs while an order is carried out."""
    world = World()
    seen: list[int] = []

    async def deliver(job: Job) -> Sequence[Outcome]:
        assert await job.gate()
        seen.append(len(world.store.claims))
        return [TAKEN]

    world.delivery.script("dest.example", deliver)
    async with world.running():
        async with world.service._dispatcher.holding_claims():
            await world.store.commit([Insert(mail(5), CONTENT)])
            world.service._dispatcher.note_due(EPOCH)
            await trio.sleep(30)
            assert world.store.claims == []
        await trio.sleep(1)
    assert seen == [1]
