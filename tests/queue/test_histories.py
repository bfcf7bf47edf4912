"""Whole histories by seed: the store fails, deliveries fail, the server stops at any moment and starts again.

What must hold after each: whatever was accepted is delivered or reported, once; twice only where an attempt is recorded
as uncertain; whatever was not accepted is not delivered; bounds are kept on the way.
"""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from elemta.delivery.base import AttemptStopped, Job
from elemta.mail.outcome import AttemptResult, Delivered, Outcome
from elemta.queue import dispatcher as dispatcher_module
from elemta.queue.schedule import RetryPolicy
from elemta.queue.submission import SubmissionTimeout
from elemta.storage.base import CommitUnknown, Insert, StoreUnavailable
from tests.queue import world as world_module
from tests.queue.world import BUSY, LOST, REFUSED, TAKEN, FaultyStore, World, submission

MAILS = 60
LIVES = 5
WORKERS = 6


class History:
    """One seed's story."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = FaultyStore()
        self.accepted: set[str] = set()
        self.refused: set[str] = set()
        self.delivered: Counter[tuple[str, str]] = Counter()
        self.failed: set[tuple[str, str]] = set()
        self.most = 0
        self.running = 0
        self.kind = True
        #: Mails that the log names as possible duplicates.
        self.suspects: set[str] = set()

    def world(self) -> World:
        world = World(self.store, max_workers=WORKERS, retry=RetryPolicy((5.0,), 1000), max_queue_time=1e9)
        world.ids._chance.seed(self.chance.random())
        world.delivery.deliver = self.deliver  # type: ignore[method-assign]  # this story's own way
        return world

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(self.chance.choice([0, 0, 0.3, 2]))
            answer = TAKEN if self.kind else self.chance.choice([TAKEN, TAKEN, BUSY, LOST, REFUSED, None])
            if answer is None:
                raise ValueError("a defect in a transport")
            if not await job.gate():
                raise AttemptStopped
            for recipient in job.envelope.recipients:
                key = (job.id, str(recipient.address))
                if isinstance(answer, Delivered) or answer is LOST:
                    self.delivered[key] += 1
                elif answer is REFUSED:
                    self.failed.add(key)
            await trio.sleep(self.chance.choice([0, 0, 0.1]))
            return [answer] * len(job.envelope.recipients)
        finally:
            self.running -= 1

    async def client(self, world: World) -> None:
        await trio.sleep(self.chance.uniform(0, 8))
        to = [f"b@{self.chance.choice('xyz')}.example" for _ in range(self.chance.choice([1, 1, 2, 3]))]
        seconds = self.chance.choice([0.5, 3, 60])
        queue_id = world.ids.new_id()
        try:
            await world.service.submit(submission(queue_id, *dict.fromkeys(to), sender=None), timeout=seconds)
            self.accepted.add(queue_id)
        except (StoreUnavailable, SubmissionTimeout):
            self.refused.add(queue_id)

    def mails_of(self, origins: set[str]) -> set[str]:
        """The ids of all mails that came of these submissions, each for a destination of its own."""
        inserts = [change for batch in self.store.changes() for change in batch if isinstance(change, Insert)]
        return {insert.mail.id for insert in inserts if insert.mail.origin_id in origins}

    async def life(self, seconds: float) -> None:
        world = self.world()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                await nursery.start(world.service.run)
                for _ in range(MAILS // LIVES):
                    nursery.start_soon(self.client, world)
                if self.chance.random() < 0.3:
                    await trio.sleep(seconds / 2)
                    await world.service.drain(trio.current_time() + 2)
                await trio.sleep_forever()
        for event in world.events("queue.possible_duplicate"):
            self.suspects |= set(event["ids"])
        for event in world.events("queue.commits_lost"):
            self.suspects |= set(event["ids"])

    def make_trouble(self) -> None:
        store = self.store
        troubles = [
            store.takes(0.01),
            store.takes(0.5),
            store.takes(4),
            store.fails(StoreUnavailable("away")),
            store.fails(CommitUnknown("?")),
            store.fails(CommitUnknown("?"), landed=True),
        ]
        store.faults = [self.chance.choice([store.takes(0.01), *troubles]) for _ in range(25)]

    async def run(self) -> None:
        for _ in range(LIVES):
            self.kind = False
            self.make_trouble()
            await self.life(self.chance.uniform(0.5, 20))
        self.kind = True
        self.store.faults.clear()
        world = self.world()
        async with world.running():
            await trio.sleep(1000)
            assert sum((await world.service.counts()).values()) == 0


@pytest.mark.parametrize("seed", range(40))
async def test_history(seed: int, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    # Little room, so that every road is taken: directly, through the store, left out of a claim.
    monkeypatch.setattr(world_module, "waiting_mails", 6)
    monkeypatch.setattr(dispatcher_module, "CLAIM_MAILS", 2)
    monkeypatch.setattr(dispatcher_module, "LANE_FULL_MAILS", 3)
    monkeypatch.setattr(dispatcher_module, "LANE_LOW_MAILS", 2)
    history = History(seed)
    await history.run()
    assert history.most <= WORKERS
    reached = {queue_id for queue_id, _ in history.delivered} | {queue_id for queue_id, _ in history.failed}
    assert history.mails_of(history.accepted) <= reached
    assert len(history.accepted) > 3
    # What was answered 4yz was withdrawn in time, or it was said that it may not have been.
    assert not (history.mails_of(history.refused) & reached) - history.suspects
    for (queue_id, recipient), times in history.delivered.items():
        attempts = [each for each in await history.store.attempts(queue_id) if each.recipient == recipient]
        uncertain = sum(each.result is AttemptResult.UNCERTAIN for each in attempts)
        assert times <= 1 + uncertain, (queue_id, recipient)
        assert not (uncertain == 0 and (queue_id, recipient) in history.failed)
