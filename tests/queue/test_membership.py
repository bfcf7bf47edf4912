"""Several nodes on one queue: who dies, who is cut off, who was only slow. In virtual time, to the second."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
from trio.testing import MockClock as Clock

from elemta.delivery.base import Job
from elemta.mail.envelope import Priority
from elemta.mail.outcome import AttemptResult, Outcome
from elemta.queue.agenda import Room
from elemta.queue.membership import FIRST_JOIN_SECONDS, LONGEST_BEAT_SECONDS
from elemta.storage.base import (
    Claim,
    CommitUnknown,
    Filter,
    Insert,
    Joined,
    Order,
    StoreAway,
    StoreUnavailable,
    Verb,
)
from elemta.storage.memory import MemoryStore
from elemta.storage.records import QueuedMail, QueueState
from tests.queue.link import Link
from tests.queue.world import CONTENT, EPOCH, TAKEN, VirtualWall, World, insert, mail

LEASE = 60.0


class Fleet:
    """Nodes on one store, each over a link of its own."""

    def __init__(self, *names: str) -> None:
        self.store = MemoryStore(VirtualWall())
        self.links = [Link(self.store) for _ in names]
        self.nodes = [
            World(shared=link, node=name, lease=LEASE, look_seconds=2.0, waiting_mails=1000, max_workers=4)
            for name, link in zip(names, self.links, strict=True)
        ]

    def delivered(self) -> Counter[str]:
        return Counter(queue_id for node in self.nodes for queue_id, _, _ in node.delivery.received)

    async def left(self) -> int:
        return sum((await self.store.counts()).values())

    async def is_empty(self) -> bool:
        return not await self.left()


async def seconds_until(condition: Callable[[], Awaitable[bool]]) -> float:
    """How long it takes until a condition holds, to a tenth of a second; gives up after an hour."""
    started = trio.current_time()
    for _ in range(36_000):
        if await condition():
            return trio.current_time() - started
        await trio.sleep(0.1)
    raise AssertionError("it never came to hold")


async def kill(link: Link, node: trio.Nursery) -> None:
    """The node's end without a word to the store."""
    link.is_cut = True
    link.go_on()
    node.cancel_scope.cancel()


def hanging(release: trio.Event) -> Callable[[Job], Awaitable[Sequence[Outcome]]]:
    """A delivery that passes the gate and then waits for a remote."""

    async def deliver(job: Job) -> Sequence[Outcome]:
        assert await job.gate()
        await release.wait()
        return [TAKEN] * len(job.envelope.recipients)

    return deliver


async def test_a_dead_nodes_mails_are_adopted_within_its_lease_and_ten_seconds(autojump_clock: Clock) -> None:
    fleet = Fleet("one", "two")
    one, two = fleet.nodes
    one.delivery.seconds = 1000
    async with two.running():
        async with one.running() as nursery:
            ids = [await one.submit(f"b@{number}.example") for number in range(10)]
            await trio.sleep(20)
            await kill(fleet.links[0], nursery)
        assert LEASE - LONGEST_BEAT_SECONDS <= await seconds_until(fleet.is_empty) <= LEASE + 10
        (adopted,) = two.events("queue.adopted")
        # Four workers had begun; nobody saw the end of those.
        assert (adopted["node"], adopted["recovered"], adopted["uncertain"]) == ("one", 10, 4)
        assert two.figure("elemta_delivery_uncertain_total") == 4
    assert fleet.delivered() == Counter(ids)
    assert [node.owner for node in await fleet.store.nodes()] == []
    results = [attempt.result for attempt in await fleet.store.attempts(ids[0])]
    assert results == [AttemptResult.UNCERTAIN, AttemptResult.DELIVERED]


async def test_a_node_that_leaves_in_order_is_replaced_at_once(autojump_clock: Clock) -> None:
    fleet = Fleet("one", "two")
    one, two = fleet.nodes
    one.delivery.seconds = 50
    async with two.running():
        async with one.running() as nursery:
            for number in range(10):
                await one.submit(f"b@{number}.example")
            await one.service.drain(trio.current_time() + 100)
            nursery.cancel_scope.cancel()
        assert await seconds_until(fleet.is_empty) < 5
        assert two.events("queue.adopted") == []
    assert len(two.delivery.received) == 6
    assert set(fleet.delivered().values()) == {1}


async def test_a_database_away_at_the_start_is_waited_for(autojump_clock: Clock) -> None:
    fleet = Fleet("one")
    (one,), (link,) = fleet.nodes, fleet.links
    link.is_cut = True
    async with one.running():
        assert "the way to the database is cut" in one.service.trouble
        with pytest.raises(StoreUnavailable):
            await one.submit("b@dest.example")
        await trio.sleep(300)
        link.is_cut = False

        async def is_well() -> bool:
            return not one.service.trouble

        assert await seconds_until(is_well) < 10
        await one.submit("b@dest.example")
        await trio.sleep(1)
    assert len(one.delivery.received) == 1
    assert len(one.events("queue.store_away")) == 1


async def test_a_database_that_hangs_at_the_start_does_not_hold_it_up(autojump_clock: Clock) -> None:
    fleet = Fleet("one")
    (one,), (link,) = fleet.nodes, fleet.links
    link.hang()
    async with one.running():
        assert trio.current_time() == FIRST_JOIN_SECONDS
        assert "has not answered yet" in one.service.trouble
        link.go_on()
        await trio.sleep(1)
        assert one.service.trouble == ""
        await one.submit("b@dest.example")
        await trio.sleep(1)
    assert len(one.delivery.received) == 1


async def test_what_is_no_matter_of_waiting_ends_the_start(autojump_clock: Clock) -> None:
    class Closed(Link):
        async def open(self) -> None:
            raise StoreUnavailable("the password is wrong")

    one = World(shared=Closed(MemoryStore(VirtualWall())))
    with pytest.RaisesGroup(pytest.RaisesExc(StoreUnavailable, match="password"), flatten_subgroups=True):
        await one.service.run()
    assert not issubclass(StoreUnavailable, StoreAway)


async def test_a_node_cut_off_stops_its_attempts_before_its_lease_ends(autojump_clock: Clock) -> None:
    fleet = Fleet("one")
    (one,), (link,) = fleet.nodes, fleet.links
    one.delivery.script("slow.example", hanging(trio.Event()), TAKEN)
    async with one.running():
        queue_id = await one.submit("b@slow.example")
        await trio.sleep(10)
        assert one.delivery.running == 1
        link.is_cut = True

        async def is_cut() -> bool:
            return not one.delivery.running

        assert LEASE * 5 / 6 - LONGEST_BEAT_SECONDS <= await seconds_until(is_cut) <= LEASE * 5 / 6 + 0.2
        (event,) = one.events("queue.lease_ends")
        assert event["cut"] == 1
        await trio.sleep(600)
        link.is_cut = False
        await trio.sleep(120)
        # Nobody adopted: the same life goes on, under the same token, and the mail is tried again.
        assert one.events("queue.fenced") == []
        assert await fleet.left() == 0
    results = [attempt.result for attempt in await fleet.store.attempts(queue_id)]
    assert results == [AttemptResult.UNCERTAIN, AttemptResult.DELIVERED]


async def test_a_renewal_that_hung_cuts_nothing_that_began_since(autojump_clock: Clock) -> None:
    """Its lease counts from the question, asked 49.5 s ago; half a second later it would seem to end."""
    fleet = Fleet("one")
    (one,), (link,) = fleet.nodes, fleet.links
    acknowledges = trio.Event()
    one.delivery.script("slow.example", hanging(acknowledges))
    async with one.running():
        await trio.sleep(2 * LONGEST_BEAT_SECONDS + 1)
        link.hang()
        await trio.sleep(LONGEST_BEAT_SECONDS - 1 + LEASE * 5 / 6 - 0.5)
        link.go_on()
        queue_id = await one.submit("b@slow.example")
        await trio.sleep(LONGEST_BEAT_SECONDS)
        acknowledges.set()
        await trio.sleep(LONGEST_BEAT_SECONDS)
    results = [attempt.result for attempt in await fleet.store.attempts(queue_id)]
    assert results == [AttemptResult.DELIVERED]


async def test_what_a_remote_acknowledged_meanwhile_is_never_sent_again(autojump_clock: Clock) -> None:
    fleet = Fleet("one")
    (one,), (link,) = fleet.nodes, fleet.links
    acknowledges = trio.Event()
    one.delivery.script("slow.example", hanging(acknowledges))
    async with one.running():
        queue_id = await one.submit("b@slow.example")
        await trio.sleep(10)
        link.is_cut = True
        await trio.sleep(20)
        acknowledges.set()
        await trio.sleep(500)
        assert (await fleet.store.get(queue_id)) is not None
        link.is_cut = False
        await trio.sleep(30)
        assert await fleet.left() == 0
    assert len(one.delivery.calls) == 1


async def test_a_node_that_was_only_slow_changes_nothing_that_was_adopted(autojump_clock: Clock) -> None:
    fleet = Fleet("one", "two")
    (one, two), (link, _) = fleet.nodes, fleet.links
    acknowledges = trio.Event()
    one.delivery.script("slow.example", hanging(acknowledges), TAKEN)
    async with one.running(), two.running():
        slow = await one.submit("b@slow.example")
        await trio.sleep(10)
        token = one.service._dispatcher.token
        link.hang()
        acknowledges.set()
        await trio.sleep(LEASE + 10)
        (adopted,) = two.events("queue.adopted")
        assert adopted["uncertain_ids"] == [slow]
        assert [queue_id for queue_id, _, _ in two.delivery.received] == [slow]
        link.go_on()
        await trio.sleep(30)
        assert len(one.events("queue.fenced")) == 1
        assert len(one.events("queue.settled_elsewhere")) == 1
        assert one.service._dispatcher.token > token
        # It takes part again.
        again = await one.submit("b@dest.example")
        await trio.sleep(1)
        assert again in {queue_id for queue_id, _, _ in one.delivery.received}
        assert await fleet.left() == 0
    results = [attempt.result for attempt in await fleet.store.attempts(slow)]
    assert results == [AttemptResult.UNCERTAIN, AttemptResult.DELIVERED]


async def test_mail_taken_under_a_fenced_token_is_delivered_once(autojump_clock: Clock) -> None:
    fleet = Fleet("one", "two")
    (one, two), (link, _) = fleet.nodes, fleet.links
    async with one.running(), two.running():
        await trio.sleep(1)
        link.hang()
        accepted: list[str] = []

        async def client() -> None:
            accepted.append(await one.submit("b@dest.example", timeout=500))

        async with trio.open_nursery() as clients:
            for _ in range(20):
                clients.start_soon(client)
            await trio.sleep(LEASE + 10)
            assert two.events("queue.adopted")
            link.go_on()
        await trio.sleep(30)
        assert await fleet.left() == 0
    assert fleet.delivered() == Counter(accepted)
    assert len(accepted) == 20


async def test_an_operator_drains_a_node(autojump_clock: Clock) -> None:
    fleet = Fleet("one", "two")
    one, two = fleet.nodes
    one.delivery.seconds = 30
    async with one.running(), two.running():
        ids = [await one.submit(f"b@{number}.example") for number in range(10)]
        assert await fleet.store.set_draining("one", True)
        await trio.sleep(10)
        assert one.service.resting
        assert len(two.delivery.received) == 6
        ids.append(await one.submit("b@more.example"))
        await trio.sleep(60)
        assert fleet.delivered() == Counter(ids)
        assert len(one.delivery.received) == 4
        assert await fleet.store.set_draining("one", False)
        await trio.sleep(10)
        assert not one.service.resting
        await one.submit("b@home.example")
        await trio.sleep(60)
        assert len(one.delivery.received) == 5


async def test_a_join_whose_answer_is_lost_is_made_again(autojump_clock: Clock) -> None:
    class Deaf(Link):
        joins = 0

        async def join(self, owner: str, now: float) -> Joined:
            joined = await super().join(owner, now)
            self.joins += 1
            if self.joins == 1:
                raise CommitUnknown("the connection broke during COMMIT")
            return joined

    store = MemoryStore(VirtualWall())
    one = World(shared=Deaf(store), lease=LEASE)
    async with one.running():
        await trio.sleep(10)
        assert one.service.trouble == ""
        await one.submit("b@dest.example")
        await trio.sleep(1)
    assert len(one.delivery.received) == 1


async def test_a_claim_whose_answer_is_lost_is_asked_for_again_though_nothing_is_due(autojump_clock: Clock) -> None:
    class Deaf(Link):
        """Forgets the first answer; like a database's store, it gives those mails with the next claim."""

        lost: Sequence[QueuedMail] | None = None

        async def claim(self, claim: Claim) -> list[QueuedMail]:
            mails = await super().claim(claim)
            if mails and self.lost is None:
                self.lost = mails
                raise CommitUnknown("the connection broke during COMMIT")
            again, self.lost = self.lost or (), ()
            return [*again, *mails]

    store = MemoryStore(VirtualWall())
    await store.commit([insert(1)])
    one = World(shared=Deaf(store), lease=LEASE)
    async with one.running():
        await trio.sleep(20)
    assert [queue_id for queue_id, _, _ in one.delivery.received] == [mail(1).id]


async def test_mail_held_and_released_at_another_node_is_tried_once(autojump_clock: Clock) -> None:
    """It waits at one node, which cannot know of it, and is claimed there once more."""
    fleet = Fleet("one", "two")
    one, two = fleet.nodes
    one.delivery.seconds = two.delivery.seconds = 5
    async with one.running():
        first = [await one.submit(f"b@{number}.example") for number in range(4)]
        async with two.running() as nursery:
            waiting = await one.submit("b@last.example")
            for verb in (Verb.HOLD, Verb.RELEASE):
                order = Order(verb, Filter(ids=frozenset({waiting})), one.clock.wall(), 10)
                assert (await two.service.apply(order)).changed == (waiting,)
            await kill(fleet.links[1], nursery)
        await trio.sleep(3)
        assert one.service._dispatcher.waiting == 1
        await trio.sleep(60)
        assert fleet.delivered() == Counter([*first, waiting])
        assert one.service._dispatcher.waiting == 0


async def test_mail_without_room_at_one_node_is_delivered_by_another(autojump_clock: Clock) -> None:
    fleet = Fleet("one", "two")
    one, two = fleet.nodes
    one.delivery.seconds = 10_000
    async with two.running(), one.running():
        ids = [await one.submit("b@dest.example") for _ in range(1100)]
        await trio.sleep(60)
        assert len(two.delivery.received) >= 90
        assert (await fleet.store.counts())[QueueState.ACTIVE] == len(ids) - len(two.delivery.received)


async def test_what_comes_to_wait_at_a_node_that_rests_goes_back_as_well(autojump_clock: Clock) -> None:
    """Its place was kept before the operator's word came."""
    fleet = Fleet("one")
    (one,) = fleet.nodes
    one.delivery.seconds = 30
    async with one.running():
        for number in range(4):
            await one.submit(f"b@{number}.example")
        dispatcher = one.service._dispatcher
        assert dispatcher.reserve(Priority.NORMAL, "dest.example") is Room.WAITING
        dispatcher.rest(True)
        late = mail(1, owner="one")
        await fleet.store.commit([Insert(late, CONTENT, dispatcher.token)])
        dispatcher.offer(late, CONTENT, token=dispatcher.token)
        await trio.sleep(2)
        found = await fleet.store.get(late.id)
        assert found is not None
        assert (found.owner, dispatcher.waiting) == ("", 0)


async def test_a_fenced_node_ends_what_is_in_flight(autojump_clock: Clock) -> None:
    fleet = Fleet("one", "two")
    one, two = fleet.nodes
    one.delivery.script("slow.example", hanging(trio.Event()), TAKEN)
    async with one.running(), two.running():
        await one.submit("b@slow.example")
        await trio.sleep(1)
        await fleet.store.renew("one", one.service._dispatcher.token, -1.0)
        assert len(await fleet.store.adopt("two")) == 1
        await trio.sleep(LONGEST_BEAT_SECONDS * 2)
        assert len(one.events("queue.fenced")) == 1
        assert one.delivery.running == 0
        assert await fleet.is_empty()
    assert len(two.delivery.received) == 1


async def test_an_attempt_that_was_marked_under_a_lost_token_does_not_begin(autojump_clock: Clock) -> None:
    """Between the insert that marked it and its delivery task's first step, the node learns that it was adopted."""
    fleet = Fleet("one")
    (one,) = fleet.nodes
    async with one.running():
        dispatcher = one.service._dispatcher
        token = dispatcher.token
        assert dispatcher.reserve(Priority.NORMAL, "dest.example") is Room.TASK
        marked = mail(1, owner="one", attempting_since=EPOCH)
        await fleet.store.commit([Insert(marked, CONTENT, token)])
        dispatcher.offer(marked, CONTENT, token=token)
        dispatcher.lose()
        await trio.sleep(0.5)
        assert len(one.delivery.calls) == 1
        assert one.delivery.received == []
        assert len(one.events("delivery.stopped")) == 1
