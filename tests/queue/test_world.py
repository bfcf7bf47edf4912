"""The fakes of the queue's tests do what they say."""

import pytest
import trio
import trio.testing

from elemta.delivery.base import AttemptStopped, Job
from elemta.storage.base import CommitUnknown, StoreUnavailable
from tests.queue.world import (
    BUSY,
    CONTENT,
    EPOCH,
    REFUSED,
    TAKEN,
    FaultyStore,
    ScriptedDelivery,
    VirtualWall,
    insert,
    mail,
    submission,
)


class Whole:
    """Content in memory."""

    size = len(CONTENT)
    eight_bit = False

    async def read(self, offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return CONTENT[offset : offset + limit]


async def opened() -> bool:
    await trio.lowlevel.checkpoint()
    return True


async def closed() -> bool:
    await trio.lowlevel.checkpoint()
    return False


def job(*to: str) -> Job:
    return Job("0" * 22, submission("0" * 22, *to).envelope, Whole(), opened)


async def test_the_wall_follows_the_virtual_clock(autojump_clock: trio.testing.MockClock) -> None:
    wall = VirtualWall()
    await trio.sleep(90)
    assert wall.wall() == EPOCH + 90
    wall.stepped = -3600
    assert wall.wall() == EPOCH + 90 - 3600


async def test_a_delivery_follows_its_script(autojump_clock: trio.testing.MockClock) -> None:
    delivery = ScriptedDelivery(seconds=2)
    delivery.script("b@x.example", BUSY, REFUSED)
    delivery.script("y.example", [TAKEN, BUSY])
    assert [await delivery.deliver(job("b@x.example")) for _ in range(3)] == [[BUSY], [REFUSED], [REFUSED]]
    assert await delivery.deliver(job("c@y.example", "d@y.example")) == [TAKEN, BUSY]
    assert await delivery.deliver(job("e@z.example")) == [TAKEN]
    assert delivery.times() == [0, 2, 4, 6, 8]
    assert delivery.received == [("0" * 22, "c@y.example", CONTENT), ("0" * 22, "e@z.example", CONTENT)]


async def test_a_delivery_stops_at_a_closed_gate(autojump_clock: trio.testing.MockClock) -> None:
    delivery = ScriptedDelivery()
    with pytest.raises(AttemptStopped):
        await delivery.deliver(Job("0" * 22, submission("0" * 22).envelope, Whole(), closed))
    assert delivery.received == []


async def test_a_delivery_counts_what_runs(autojump_clock: trio.testing.MockClock) -> None:
    delivery = ScriptedDelivery(seconds=2)
    async with trio.open_nursery() as nursery:
        for to in ("a@x.example", "b@x.example", "a@y.example"):
            nursery.start_soon(delivery.deliver, job(to))
        await trio.sleep(1)
        assert delivery.running == 3
    assert delivery.running == 0
    assert delivery.most_running == {"x.example": 2, "y.example": 1}


async def test_a_store_fails_on_order_and_only_then(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore()
    store.faults = [
        store.fails(StoreUnavailable("away")),
        store.fails(CommitUnknown("who knows"), landed=True),
        store.takes(5),
    ]
    with pytest.raises(StoreUnavailable):
        await store.commit([insert(1)])
    assert await store.get(mail(1).id) is None
    with pytest.raises(CommitUnknown):
        await store.commit([insert(2)])
    assert await store.get(mail(2).id) is not None
    await store.commit([insert(3)])
    await store.commit([insert(4)])
    assert [at for at, _ in store.batches] == [0, 0, 0, 5]
    store.away = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await store.next_due()


async def test_a_store_breaks_on_one_mail(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore()
    store.faults = [store.breaks_on(mail(2).id, TypeError("unfit"))]
    await store.commit([insert(1)])
    with pytest.raises(TypeError):
        await store.commit([insert(3), insert(2)])
    assert await store.get(mail(3).id) is None
