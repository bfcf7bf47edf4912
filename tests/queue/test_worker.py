"""One attempt: what is sent when, what is kept of it, whatever goes wrong."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from attrs import evolve

from elemta.delivery.base import AttemptStopped, Job
from elemta.mail.address import Address
from elemta.mail.envelope import Notify
from elemta.mail.outcome import Attempt, AttemptResult, Delivered, Outcome
from elemta.mail.reply import Reply
from elemta.queue.options import ATTEMPT_SECONDS
from elemta.queue.schedule import RetryPolicy
from elemta.storage.base import CommitUnknown, Filter, Order, Settle, StoreUnavailable, Verb
from elemta.storage.records import QueuedMail, QueueState, RecipientStatus
from tests.queue.world import BUSY, CONTENT, EPOCH, LOST, PEER, REFUSED, TAKEN, World, insert, mail

Clock = trio.testing.MockClock
AWAY = StoreUnavailable("the disk is gone")


@pytest.fixture
def world() -> World:
    return World()


async def kept(world: World, queue_id: str) -> QueuedMail:
    found = await world.store.get(queue_id)
    assert found is not None
    return found


def reports(world: World) -> list[QueuedMail]:
    """Every report that was ever queued."""
    settles = [change for batch in world.store.changes() for change in batch if isinstance(change, Settle)]
    return [each.mail for settle in settles for each in settle.inserts]


# ---- the usual road ----


async def test_delivered_once_and_gone(world: World, autojump_clock: Clock) -> None:
    world.delivery.seconds = 2
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(10)
        assert world.delivery.received == [(queue_id, "b@dest.example", CONTENT)]
        assert await world.store.get(queue_id) is None
        assert await world.store.attempts(queue_id) == [
            Attempt(EPOCH, 2.0, "b@dest.example", AttemptResult.DELIVERED, TAKEN.reply, PEER)
        ]
    (event,) = world.events("delivery.outcome")
    assert event["queue_id"] == queue_id
    assert event["result"] == "delivered"
    assert event["reply"] == "250 2.0.0 taken"
    assert world.figure("elemta_messages_delivered_total") == 1
    assert world.figure("elemta_delivery_attempts_total") == world.figure("elemta_delivery_successes_total") == 1


async def slip_in(world: World, order: Order) -> None:
    """An order as the service carries it out, in the last moment before a batch that waited for it."""
    ordered = await world.store.apply(order)
    world.service._dispatcher.forget(frozenset(ordered.changed))


async def stored(world: World) -> str:
    """Put a mail into the store before the start; its id. It is claimed, so that its attempt needs a `Begin`."""
    await world.store.commit([insert(1)])
    return insert(1).mail.id


async def test_the_first_attempt_of_a_mail_begins_with_its_insert(world: World, autojump_clock: Clock) -> None:
    begun = []

    async def looks(job: Job) -> Sequence[Outcome]:
        begun.append((await kept(world, job.id)).attempting_since)
        assert await job.gate()
        return [TAKEN]

    world.delivery.script("dest.example", looks)
    async with world.running():
        await world.submit("b@dest.example")
        await trio.sleep(10)
    assert begun == [EPOCH]
    kinds = [[type(change).__name__ for change in batch] for batch in world.store.changes()]
    assert kinds == [["Insert"], ["Settle"]]


async def test_begin_is_durable_while_the_dialogue_runs_and_before_the_gate_opens(
    world: World, autojump_clock: Clock
) -> None:
    opened_at = []

    async def slow(job: Job) -> Sequence[Outcome]:
        await trio.sleep(5)
        assert (await kept(world, job.id)).attempting_since == EPOCH
        assert await job.gate()
        opened_at.append(trio.current_time())
        return [TAKEN]

    world.delivery.script("dest.example", slow)
    await stored(world)
    async with world.running():
        await trio.sleep(10)
    assert opened_at == [5]
    kinds = [[type(change).__name__ for change in batch] for batch in world.store.changes()]
    assert kinds == [["Insert"], ["Begin"], ["Settle"]]


async def test_the_gate_waits_for_the_store(world: World, autojump_clock: Clock) -> None:
    await stored(world)
    world.store.faults = [world.store.takes(7)]
    opened_at = []

    async def quick(job: Job) -> Sequence[Outcome]:
        assert await job.gate()
        opened_at.append(trio.current_time())
        return [TAKEN]

    world.delivery.script("dest.example", quick)
    async with world.running():
        await trio.sleep(10)
    assert opened_at == [7]


async def test_retried_as_scheduled_then_bounced_once(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("dest.example", BUSY)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(10)
        waiting = await kept(world, queue_id)
        assert (waiting.state, waiting.attempts, waiting.owner) == (QueueState.DEFERRED, 1, "")
        assert waiting.progress[0].reply == BUSY.reply
        await trio.sleep(1000)
        # 60 seconds, then 300 for every further one; max_retries is 3.
        assert world.delivery.times(queue_id) == [0, 60, 360, 660]
        assert await world.store.get(queue_id) is None
        assert len(await world.store.attempts(queue_id)) == 4
        (report,) = reports(world)
        assert world.delivery.received[0][:2] == (report.id, "a@source.example")
        assert b"Action: failed" in world.delivery.received[0][2]
        assert (await world.service.counts())[QueueState.ACTIVE] == 0
    assert [event["final"] for event in world.events("delivery.outcome") if "final" in event] == [True]
    assert world.figure("elemta_delivery_failures_total", result="deferred") == 4
    assert world.figure("elemta_messages_failed_total") == 1
    (queued,) = world.events("queue.report")
    assert (queued["about"], queued["to"]) == (queue_id, "a@source.example")


async def test_what_was_delivered_is_never_sent_again(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("b@dest.example", [TAKEN, BUSY, REFUSED])
    world.delivery.script("c@dest.example", BUSY, TAKEN)
    async with world.running():
        queue_id = await world.submit("b@dest.example", "c@dest.example", "d@dest.example")
        await trio.sleep(30)
        statuses = [each.status for each in (await kept(world, queue_id)).progress]
        assert statuses == [RecipientStatus.DELIVERED, RecipientStatus.PENDING, RecipientStatus.FAILED]
        await trio.sleep(1000)
    calls = [(call.at, call.to) for call in world.delivery.calls if call.id == queue_id]
    assert [(round(at), to) for at, to in calls] == [
        (0, ("b@dest.example", "c@dest.example", "d@dest.example")),
        (60, ("c@dest.example",)),
        (360, ("c@dest.example",)),
    ]
    assert [to for _, to, _ in world.delivery.received if to != "a@source.example"] == [
        "b@dest.example",
        "c@dest.example",
    ]
    # One report, about the one that failed at once; it did not wait for the others.
    (report,) = reports(world)
    assert report.received_at == EPOCH


async def test_nobody_answers_a_null_reverse_path(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("dest.example", REFUSED)
    async with world.running():
        queue_id = await world.submit("b@dest.example", sender=None)
        await trio.sleep(10)
        assert await world.store.get(queue_id) is None
    assert reports(world) == []
    (event,) = world.events("queue.double_bounce")
    assert (event["queue_id"], event["recipient"]) == (queue_id, "b@dest.example")


async def test_a_report_that_bounces_ends_there(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("dest.example", REFUSED)
    world.delivery.script("source.example", REFUSED)
    async with world.running():
        await world.submit("b@dest.example")
        await trio.sleep(1000)
        assert sum((await world.service.counts()).values()) == 0
    assert len(reports(world)) == len(world.events("queue.double_bounce")) == 1


async def test_a_success_report_for_who_asked(world: World, autojump_clock: Clock) -> None:
    async with world.running():
        await world.submit("b@dest.example", notify=Notify.SUCCESS)
        await trio.sleep(10)
        world.delivery.script("relay.example", evolve(TAKEN, relayed_dsn=True))
        await world.submit("b@relay.example", notify=Notify.SUCCESS)
        await trio.sleep(10)
    (report,) = reports(world)
    assert str(report.envelope.recipients[0].address) == "a@source.example"
    assert report.envelope.reverse_path is None


async def test_a_report_is_written_though_the_content_cannot_be_read(world: World, autojump_clock: Clock) -> None:
    async def lose_content(job: Job) -> Sequence[Outcome]:
        world.store._contents.clear()
        return [REFUSED]

    world.store._mails.clear()
    await world.store.commit([insert(1)])
    world.delivery.script("dest.example", lose_content)
    async with world.running():
        await trio.sleep(1)
    assert len(reports(world)) == 1


async def test_a_delay_is_reported_once_to_who_asked(autojump_clock: Clock) -> None:
    world = World(retry=RetryPolicy((3 * 3600.0,), 5))
    world.delivery.script("dest.example", BUSY)
    async with world.running():
        await world.submit("b@dest.example", notify=Notify.DELAY | Notify.FAILURE)
        await trio.sleep(14 * 3600)
        delayed = reports(world)
        assert [report.received_at for report in delayed] == [pytest.approx(EPOCH + 6 * 3600)]
        await trio.sleep(3600 * 24)
        assert len(reports(world)) == 2


async def test_an_uncertain_attempt_is_recorded_so_and_tried_again(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("dest.example", LOST, TAKEN)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(100)
        results = [attempt.result for attempt in await world.store.attempts(queue_id)]
    assert results == [AttemptResult.UNCERTAIN, AttemptResult.DELIVERED]
    assert world.figure("elemta_delivery_uncertain_total") == 1
    assert world.delivery.times() == [0, 60]


@pytest.mark.parametrize("keep", [True, False])
async def test_delivered_mail_is_kept_on_demand(autojump_clock: Clock, keep: bool) -> None:
    world = World(keep_delivered=keep)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(10)
        found = await world.store.get(queue_id)
    assert (found.state if found else None) == (QueueState.DELIVERED if keep else None)


@pytest.mark.parametrize("hours", [2.0, 0.0])
async def test_failed_mail_is_kept_for_its_time(autojump_clock: Clock, hours: float) -> None:
    world = World(failed_retention_hours=hours)
    world.delivery.script("dest.example", REFUSED)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(10)
        found = await world.store.get(queue_id)
        assert (found.state if found else None) == (QueueState.FAILED if hours else None)
        await trio.sleep(hours * 3600 + 3600)
        assert await world.store.get(queue_id) is None
    assert len(reports(world)) == 1


# ---- what may go wrong in a delivery ----


async def raises(job: Job) -> Sequence[Outcome]:
    raise ValueError("a defect in a transport")


async def raises_after_the_gate(job: Job) -> Sequence[Outcome]:
    assert await job.gate()
    raise ValueError("a defect in a transport")


async def raises_a_group(job: Job) -> Sequence[Outcome]:
    raise ExceptionGroup("two", [ValueError("one"), KeyError("two")])


async def forgets_a_recipient(job: Job) -> Sequence[Outcome]:
    assert await job.gate()
    return []


async def stops_by_itself(job: Job) -> Sequence[Outcome]:
    raise AttemptStopped


@pytest.mark.parametrize(
    ("answer", "uncertain"),
    [
        (raises, False),
        (raises_after_the_gate, True),
        (raises_a_group, False),
        (forgets_a_recipient, True),
        (stops_by_itself, False),
    ],
)
async def test_a_defect_of_a_transport_is_a_deferral(autojump_clock: Clock, answer: object, uncertain: bool) -> None:
    world = World()
    world.delivery.script("dest.example", answer, TAKEN)  # type: ignore[arg-type]  # parametrize forgets the type
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(100)
        first, second = await world.store.attempts(queue_id)
    assert first.result is (AttemptResult.UNCERTAIN if uncertain else AttemptResult.DEFERRED)
    assert (first.reply.code, first.reply.enhanced) == (451, "4.3.0")
    assert second.result is AttemptResult.DELIVERED
    assert world.delivery.times() == [0, 60]
    assert len(world.events("delivery.defect")) == 1


async def test_lost_content_is_said_and_deferred(world: World, autojump_clock: Clock) -> None:
    await world.store.commit([insert(1)])
    world.store._contents.clear()

    async def read(job: Job) -> Sequence[Outcome]:
        await job.content.read(0, 10)
        return [TAKEN]

    world.delivery.script("dest.example", read)
    async with world.running():
        await trio.sleep(1)
        (attempt,) = await world.store.attempts(mail(1).id)
    assert (attempt.result, attempt.reply.text) == (AttemptResult.DEFERRED, "the content cannot be read")
    assert len(world.events("delivery.content_missing")) == 1


@pytest.mark.parametrize("past_the_gate", [False, True])
async def test_an_attempt_has_a_deadline(autojump_clock: Clock, past_the_gate: bool) -> None:
    world = World()

    async def hangs(job: Job) -> Sequence[Outcome]:
        if past_the_gate:
            assert await job.gate()
        await trio.sleep_forever()
        raise AssertionError

    world.delivery.script("dest.example", hangs, TAKEN)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        other = await world.submit("c@other.example")
        await trio.sleep(ATTEMPT_SECONDS - 1)
        assert world.delivery.running == 1
        await trio.sleep(100)
        first, second = await world.store.attempts(queue_id)
        assert len(await world.store.attempts(other)) == 1
    assert first.duration == ATTEMPT_SECONDS == 1800
    assert first.result is (AttemptResult.UNCERTAIN if past_the_gate else AttemptResult.DEFERRED)
    assert second.result is AttemptResult.DELIVERED
    # The same task went on with other mail.
    assert world.delivery.times(queue_id) == [0, 1860]


async def test_a_delivery_that_ends_as_its_deadline_comes_is_settled_once(autojump_clock: Clock) -> None:
    """In whichever order the scheduler wakes who has the reply and who watches the deadline."""
    world = World(attempt_seconds=10.0)
    replies = {f"{number}.example": trio.Event() for number in range(40)}

    async def reply_comes(destination: str) -> None:
        await trio.sleep(10)
        replies[destination].set()

    async def waits_for_reply(job: Job) -> Sequence[Outcome]:
        assert await job.gate()
        await replies[job.envelope.recipients[0].address.domain].wait()
        return [TAKEN]

    async with world.running() as nursery:
        for destination in replies:
            world.delivery.script(destination, waits_for_reply)
        ids = [await world.submit(f"b@{destination}") for destination in replies]
        for destination in replies:
            nursery.start_soon(reply_comes, destination)
        await trio.sleep(11)
        settles = [change.id for batch in world.store.changes() for change in batch if isinstance(change, Settle)]
        assert sorted(settles) == sorted(ids)
        await trio.sleep(1000)
        assert sum((await world.service.counts()).values()) == 0
    assert world.events("queue.settled_elsewhere") == []


async def test_a_defect_while_it_is_cut_does_not_end_the_server(autojump_clock: Clock) -> None:
    world = World(attempt_seconds=10.0)

    async def raises_when_cut(job: Job) -> Sequence[Outcome]:
        async def fails() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("a defect in clean-up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)
            nursery.start_soon(trio.sleep_forever)
        raise AssertionError

    world.delivery.script("dest.example", raises_when_cut, TAKEN)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(100)
        assert len(await world.store.attempts(queue_id)) == 2
    assert len(world.events("delivery.defect")) == 1


# ---- the mail changes hands meanwhile ----


@pytest.mark.parametrize("verb", [Verb.DELETE, Verb.HOLD])
async def test_what_an_operator_took_before_begin_is_not_delivered(autojump_clock: Clock, verb: Verb) -> None:
    world = World()
    order = Order(verb, Filter(), EPOCH, 10)

    async def order_comes_first(batch: object) -> list[object]:
        await slip_in(world, order)
        return await world.store.commit(batch)  # type: ignore[arg-type,return-value]  # a fault passes the batch on

    queue_id = await stored(world)
    world.store.faults = [order_comes_first]  # type: ignore[list-item]  # as above
    async with world.running():
        await trio.sleep(1000)
        found = await world.store.get(queue_id)
        assert (found.state if found else None) == (QueueState.HELD if verb is Verb.HOLD else None)
        assert await world.store.attempts(queue_id) == []
    assert world.delivery.received == []
    assert len(world.events("delivery.stopped")) == 1


async def test_a_mail_made_due_again_while_its_begin_waits_is_tried_once(autojump_clock: Clock) -> None:
    world = World()

    async def order_comes_first(batch: object) -> list[object]:
        await slip_in(world, Order(Verb.HOLD, Filter(), EPOCH, 10))
        await slip_in(world, Order(Verb.RELEASE, Filter(), EPOCH, 10))
        await trio.sleep(5)
        return await world.store.commit(batch)  # type: ignore[arg-type,return-value]  # a fault passes the batch on

    await stored(world)
    world.store.faults = [order_comes_first]  # type: ignore[list-item]  # as above
    async with world.running():
        await trio.sleep(1000)
        assert sum((await world.service.counts()).values()) == 0
    assert len(world.delivery.calls) == len(world.delivery.received) == 1


async def test_what_another_node_took_over_is_left_to_it(world: World, autojump_clock: Clock) -> None:
    async def adopted(job: Job) -> Sequence[Outcome]:
        assert await job.gate()
        world.store._tokens[job.id] = 99
        return [TAKEN]

    world.delivery.script("dest.example", adopted)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(10)
        assert await world.store.attempts(queue_id) == []
    (event,) = world.events("queue.settled_elsewhere")
    assert (event["queue_id"], event["result"]) == (queue_id, "fenced")


# ---- the store fails ----


async def test_a_closed_gate_costs_no_attempt(world: World, autojump_clock: Clock) -> None:
    queue_id = await stored(world)
    world.store.faults = [world.store.fails(AWAY)] * 3
    async with world.running():
        await trio.sleep(60)
        assert len(await world.store.attempts(queue_id)) == 1
    # Paused for five seconds after each failure, not in a hurry.
    assert world.delivery.times() == [0, 5, 10, 15]
    assert len(world.delivery.received) == 1


async def test_content_that_the_store_cannot_give_now_costs_no_attempt(world: World, autojump_clock: Clock) -> None:
    await world.store.commit([insert(1)])

    async def reads(job: Job) -> Sequence[Outcome]:
        await job.content.read(0, 10)
        assert await job.gate()
        return [TAKEN]

    async def store_away(job: Job) -> Sequence[Outcome]:
        world.store.away = AWAY
        try:
            return await reads(job)
        finally:
            world.store.away = None

    world.delivery.script("dest.example", store_away, reads)
    async with world.running():
        await trio.sleep(60)
        assert [attempt.result for attempt in await world.store.attempts(mail(1).id)] == [AttemptResult.DELIVERED]
    assert world.delivery.times() == [0, 5]


async def test_what_was_delivered_while_the_store_went_away_is_remembered(world: World, autojump_clock: Clock) -> None:
    async def last_success(job: Job) -> Sequence[Outcome]:
        assert await job.gate()
        world.store.away = AWAY
        return [TAKEN]

    world.delivery.script("dest.example", last_success)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(3600)
        assert world.service.trouble
        world.store.away = None
        await trio.sleep(10)
        assert not world.service.trouble
        assert await world.store.get(queue_id) is None
        assert len(await world.store.attempts(queue_id)) == 1
    assert world.delivery.times() == [0]


async def test_a_settle_in_doubt_lands_once(world: World, autojump_clock: Clock) -> None:
    world.delivery.script("b@dest.example", BUSY, TAKEN)
    store = world.store
    store.faults = [store.takes(0), store.takes(0), store.fails(CommitUnknown("?"), landed=True)]
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(100)
        assert len(await store.attempts(queue_id)) == 2
    assert world.delivery.times() == [0, 60]
    assert world.events("queue.settled_elsewhere") == []


async def test_a_settle_that_the_store_refuses_becomes_a_held_mail(world: World, autojump_clock: Clock) -> None:
    unfit = Delivered(Reply(250, "2.0.0", "\ud800"))
    world.delivery.script("b@dest.example", [unfit, BUSY])
    async with world.running():
        queue_id = await world.submit("b@dest.example", "c@dest.example")
        await trio.sleep(1000)
        held = await kept(world, queue_id)
        assert (held.state, held.reason) == (QueueState.HELD, "the store refused what came of its attempt")
        assert [each.status for each in held.progress] == [RecipientStatus.DELIVERED, RecipientStatus.PENDING]
        assert world.delivery.times() == [0]
        await world.service.apply(Order(Verb.RELEASE, Filter(), EPOCH + 2000, 10))
        await trio.sleep(10)
    assert [call.to for call in world.delivery.calls[1:]] == [("c@dest.example",)]
    assert len(world.events("queue.held")) == 1


async def test_a_settlement_that_cannot_be_made_becomes_a_held_mail(world: World, autojump_clock: Clock) -> None:
    routes = world.delivery.destination

    def no_route_back(to: Address, route: str = "") -> str:
        if to.domain == "source.example":
            raise LookupError("a defect in routing")
        return routes(to)

    world.delivery.destination = no_route_back  # type: ignore[method-assign,assignment]  # a defect, this once
    world.delivery.script("dest.example", [TAKEN, REFUSED], REFUSED)
    async with world.running():
        queue_id = await world.submit("b@dest.example", "c@dest.example")
        await trio.sleep(1000)
        held = await kept(world, queue_id)
        assert held.state is QueueState.HELD
        world.delivery.destination = routes  # type: ignore[method-assign]  # mended
        await world.service.apply(Order(Verb.RELEASE, Filter(), EPOCH + 2000, 10))
        await trio.sleep(10)
    assert len(world.events("queue.defect")) == 1
    # The one that failed is tried again, so that its sender hears of it; the other is not.
    assert [call.to for call in world.delivery.calls if call.id == queue_id][1:] == [("c@dest.example",)]
    assert len(reports(world)) == 1


# ---- the server stops ----


@pytest.mark.parametrize("how", ["cancelled", "drained"])
@pytest.mark.parametrize("past_the_gate", [False, True])
async def test_an_attempt_that_the_end_cuts(autojump_clock: Clock, how: str, past_the_gate: bool) -> None:
    world = World()

    async def hangs(job: Job) -> Sequence[Outcome]:
        if past_the_gate:
            assert await job.gate()
        await trio.sleep_forever()
        raise AssertionError

    world.delivery.script("dest.example", hangs)
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(10)
        if how == "drained":
            assert not await world.service.drain(trio.current_time() + 5)
            assert trio.current_time() == 15
    found = await kept(world, queue_id)
    assert (found.owner, found.attempting_since) == ("", None)
    attempts = await world.store.attempts(queue_id)
    if past_the_gate:
        assert [attempt.result for attempt in attempts] == [AttemptResult.UNCERTAIN]
        assert found.state is QueueState.DEFERRED
    else:
        assert attempts == []
        assert found == evolve(found, state=QueueState.ACTIVE, attempts=0, next_attempt_at=EPOCH)
    joined = await world.store.join("one", EPOCH)
    assert (joined.recovered, joined.uncertain) == (0, ())


async def test_an_attempt_cut_while_it_is_settled_lands(world: World, autojump_clock: Clock) -> None:
    world.store.faults = [world.store.takes(0), world.store.takes(3)]
    async with world.running():
        queue_id = await world.submit("b@dest.example")
        await trio.sleep(1)
        assert len(world.store.batches) == 2
    assert await world.store.get(queue_id) is None
    assert len(await world.store.attempts(queue_id)) == 1
    assert len(world.store.batches) == 2


async def test_an_outcome_known_at_the_end_is_kept(world: World, autojump_clock: Clock) -> None:
    """Cut while the original is read for the report: what the remote said is not forgotten."""
    reading = trio.Event()

    async def refuses(job: Job) -> Sequence[Outcome]:
        return [REFUSED]

    async def slow_read(*_: object) -> bytes:
        reading.set()
        await trio.sleep(3)
        return CONTENT

    await world.store.commit([insert(1)])
    world.delivery.script("dest.example", refuses)
    world.store.read = slow_read  # type: ignore[method-assign,assignment]  # a store that is slow this once
    async with world.running():
        await reading.wait()
    assert await world.store.get(mail(1).id) is None
    assert len(reports(world)) == 1


async def test_a_released_mail_with_nobody_pending_is_not_sent(world: World, autojump_clock: Clock) -> None:
    done = mail(1).progress[0]
    await world.store.commit([insert(1, progress=(evolve(done, status=RecipientStatus.DELIVERED),))])
    async with world.running():
        await trio.sleep(10)
        assert await world.store.get(mail(1).id) is None
    assert world.delivery.calls == []
    assert world.events("delivery.defect") == []


async def test_retries_stop_with_the_queue_time(autojump_clock: Clock) -> None:
    world = World(max_queue_time=1000.0, retry=RetryPolicy((60.0, 400.0), 100))
    world.delivery.script("dest.example", BUSY)
    async with world.running():
        await world.submit("b@dest.example")
        await trio.sleep(5000)
    # The last interval is cut so that the whole time is used.
    times = [at for at, call in zip(world.delivery.times(), world.delivery.calls, strict=True) if "dest" in call.to[0]]
    assert times == [0, 60, 460, 860, 1000]
    assert len(reports(world)) == 1


async def test_no_mail_expires_without_an_attempt(autojump_clock: Clock) -> None:
    world = World(max_queue_time=1000.0)
    await world.store.commit([insert(1, expires_at=EPOCH - 5000.0, received_at=EPOCH - 9000.0)])
    async with world.running():
        await trio.sleep(10)
    assert len(world.delivery.received) == 1
    assert reports(world) == []
