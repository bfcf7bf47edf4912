"""Group commit: which changes share a batch, and who learns what when the store fails."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import LogCapture

from elemta.observe.metrics import Metrics
from elemta.queue import spool as spool_module
from elemta.queue.spool import (
    ENDING_SECONDS,
    FAILING_SECONDS,
    FIRST_PAUSE_SECONDS,
    GATHERING_ROUNDS,
    LAST_PAUSE_SECONDS,
    Spool,
)
from elemta.queue.submission import SubmissionTimeout
from elemta.storage.base import (
    Begin,
    Change,
    CommitUnknown,
    Insert,
    Result,
    Settle,
    StoreFull,
    StoreUnavailable,
    Withdraw,
)
from elemta.storage.records import QueueState
from tests.queue.world import FaultyStore, begin, capturing, insert, mail, settle

AWAY = StoreUnavailable("the disk is gone")
FULL = StoreFull("no space left")
UNKNOWN = CommitUnknown("the connection broke during COMMIT")
FOREVER = float("inf")


class Bench:
    """A spool on a store that fails on order."""

    def __init__(self) -> None:
        self.store = FaultyStore()
        self.captured = LogCapture()
        self.metrics = Metrics()
        self.spool = Spool(self.store, log=capturing(self.captured), metrics=self.metrics)
        self.heard: dict[object, object] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        await self.store.join("one", 0)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.spool.run)
            yield nursery
            self.spool.close()

    async def insert(self, *inserts: Insert, deadline: float = FOREVER) -> None:
        """Insert, and note under the first id what was heard."""
        key = inserts[0].mail.id
        try:
            await self.spool.insert(inserts, deadline=deadline)
            self.heard[key] = "durable"
        except (StoreUnavailable, SubmissionTimeout) as error:
            self.heard[key] = type(error)

    async def commit(self, change: Change) -> None:
        """Commit, and note under its key what was heard."""
        try:
            self.heard[key(change)] = await self.spool.commit(change)
        except StoreUnavailable as error:
            self.heard[key(change)] = type(error)

    async def ids(self) -> list[str]:
        return sorted(self.store._mails)

    def kinds(self) -> list[list[str]]:
        return [[type(change).__name__ for change in batch] for batch in self.store.changes()]

    def logged(self, event: str) -> list[object]:
        return [entry for entry in self.captured.entries if entry["event"] == event]


def key(change: Begin | Settle | Withdraw | Change) -> str:
    return f"{type(change).__name__} {change.mail.id if isinstance(change, Insert) else change.id}"


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def settle_down() -> None:
    await trio.testing.wait_all_tasks_blocked()


# ---- batches ----


async def test_what_comes_during_a_commit_is_the_next_batch_in_order(bench: Bench) -> None:
    release = trio.Event()
    bench.store.faults = [bench.store.waits(release)]
    async with bench.running() as nursery:
        nursery.start_soon(bench.insert, insert(0))
        await settle_down()
        for number in range(1, 11):
            nursery.start_soon(bench.insert, insert(number))
            await settle_down()
        assert len(bench.store.batches) == 1
        release.set()
        await settle_down()
        assert set(bench.heard.values()) == {"durable"}
    ids = [[change.mail.id for change in batch if isinstance(change, Insert)] for batch in bench.store.changes()]
    assert ids == [[mail(0).id], [mail(number).id for number in range(1, 11)]]
    assert bench.metrics.registry.get_sample_value("elemta_store_commits_total") == 2
    assert bench.metrics.registry.get_sample_value("elemta_store_changes_total") == 11


async def test_sessions_that_are_ready_together_share_the_first_batch(bench: Bench) -> None:
    async def session(number: int) -> None:
        # Woken by the same octets of the network, sessions are not equally far from their insert.
        for _ in range(number % (GATHERING_ROUNDS + 1)):
            await trio.lowlevel.checkpoint()
        await bench.insert(insert(number))

    async with bench.running() as nursery:
        await settle_down()
        for number in range(40):
            nursery.start_soon(session, number)
        await settle_down()
    assert [len(batch) for batch in bench.store.changes()] == [40]


async def test_each_gets_its_own_result(bench: Bench) -> None:
    async with bench.running() as nursery:
        await bench.insert(insert(1, owner="one"))
        changes: list[Change] = [begin(1), begin(2), begin(1, owner="two"), settle(1), Withdraw(mail(1).id)]
        tickets = [bench.spool.post(change) for change in changes]
        nursery.start_soon(bench.insert, insert(2))
        await settle_down()
        results = [(await ticket.wait())[0] for ticket in tickets]
    assert results == [Result.APPLIED, Result.GONE, Result.FENCED, Result.APPLIED, Result.GONE]
    assert bench.kinds()[1] == ["Begin", "Begin", "Begin", "Settle", "Withdraw", "Insert"]


async def test_a_posted_change_is_waited_for_later(bench: Bench) -> None:
    async with bench.running():
        await bench.insert(insert(1, owner="one"))
        ticket = bench.spool.post(begin(1))
        await settle_down()
        assert await ticket.wait() == [Result.APPLIED]
        assert await ticket.wait() == [Result.APPLIED]


async def test_a_batch_is_bounded_in_changes_and_in_octets(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "BATCH_CHANGES", 4)
    release = trio.Event()
    bench.store.faults = [bench.store.waits(release)]
    async with bench.running() as nursery:
        for number in range(10):
            nursery.start_soon(bench.insert, insert(number))
        await settle_down()
        nursery.start_soon(bench.insert, *[insert(number) for number in range(20, 26)])
        await settle_down()
        release.set()
        await settle_down()
        monkeypatch.setattr(spool_module, "BATCH_CHANGES", 1000)
        monkeypatch.setattr(spool_module, "BATCH_OCTETS", 3 * len(insert(0).content or b""))
        release = trio.Event()
        bench.store.faults = [bench.store.waits(release)]
        for number in range(30, 37):
            nursery.start_soon(bench.insert, insert(number))
        await settle_down()
        release.set()
        await settle_down()
    # A group larger than a batch is a batch of its own: it must stay together.
    assert [len(batch) for batch in bench.store.changes()] == [4, 4, 2, 6, 3, 3, 1]
    assert set(bench.heard.values()) == {"durable"}


@pytest.mark.parametrize("bound", ["WAITING_CHANGES", "WAITING_OCTETS"])
async def test_beyond_the_bound_new_mail_is_refused_but_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(spool_module, bound, 3 if bound == "WAITING_CHANGES" else 3 * len(insert(0).content or b""))
    async with bench.running() as nursery:
        await bench.insert(insert(100, owner="one"))
        release = trio.Event()
        bench.store.faults = [bench.store.waits(release)]
        nursery.start_soon(bench.insert, insert(0))
        await settle_down()
        for number in range(1, 6):
            nursery.start_soon(bench.insert, insert(number))
            await settle_down()
            assert bench.spool.waiting <= 3
        nursery.start_soon(bench.commit, settle(100))
        await settle_down()
        release.set()
        await settle_down()
    assert [bench.heard[mail(number).id] for number in range(6)] == ["durable"] * 4 + [StoreUnavailable] * 2
    assert bench.heard[key(settle(100))] is Result.APPLIED


# ---- who gives up ----


async def test_cancelled_before_it_was_taken_it_never_happens(bench: Bench) -> None:
    release = trio.Event()
    bench.store.faults = [bench.store.waits(release)]
    async with bench.running() as nursery:
        nursery.start_soon(bench.insert, insert(0))
        await settle_down()
        with trio.move_on_after(0) as scope:
            await bench.insert(insert(1))
        assert scope.cancelled_caught
        release.set()
        await settle_down()
        assert await bench.ids() == [mail(0).id]
    assert len(bench.store.batches) == 1
    assert bench.spool.waiting == 0


async def test_cancelled_while_it_is_committed_it_lands_and_is_withdrawn(bench: Bench) -> None:
    release = trio.Event()
    bench.store.faults = [bench.store.waits(release)]
    async with bench.running() as nursery:
        scope = trio.CancelScope()

        async def submit() -> None:
            with scope:
                await bench.insert(insert(0), insert(1))

        nursery.start_soon(submit)
        await settle_down()
        scope.cancel()
        await settle_down()
        assert scope.cancelled_caught
        assert bench.heard == {}
        release.set()
        await settle_down()
        assert await bench.ids() == []
    assert bench.store.changes() == [[insert(0), insert(1)], [Withdraw(mail(0).id), Withdraw(mail(1).id)]]


async def test_cancelled_after_it_landed_nothing_is_taken_back(bench: Bench) -> None:
    async with bench.running() as nursery:
        scope = trio.CancelScope()

        async def submit() -> None:
            with scope:
                await bench.insert(insert(0))
                scope.cancel()
                await trio.lowlevel.checkpoint()

        nursery.start_soon(submit)
        await settle_down()
    assert bench.heard == {mail(0).id: "durable"}
    assert await bench.ids() == [mail(0).id]


async def test_a_settle_lands_although_its_task_was_cancelled_before(bench: Bench) -> None:
    async with bench.running() as nursery:
        await bench.insert(insert(1, owner="one"))
        release = trio.Event()
        bench.store.faults = [bench.store.waits(release)]
        nursery.start_soon(bench.insert, insert(0))
        await settle_down()
        with trio.move_on_after(0):
            await bench.commit(settle(1))
        release.set()
        await settle_down()
        assert await bench.ids() == [mail(0).id]


async def test_a_begin_that_nobody_waits_for_any_more_can_be_taken_back(bench: Bench) -> None:
    release = trio.Event()
    bench.store.faults = [bench.store.waits(release)]
    async with bench.running() as nursery:
        nursery.start_soon(bench.insert, insert(0))
        await settle_down()
        bench.spool.post(begin(0)).leave()
        release.set()
        await settle_down()
    assert bench.kinds() == [["Insert"]]


async def test_past_its_deadline_a_submitter_hears_so_to_the_second(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.store.faults = [bench.store.takes(100)]
    ended: dict[int, float] = {}

    async def submit(number: int, seconds: float) -> None:
        await bench.insert(insert(number), deadline=trio.current_time() + seconds)
        ended[number] = trio.current_time()

    async with bench.running() as nursery:
        nursery.start_soon(submit, 0, 60)
        await settle_down()
        for number, seconds in [(1, 40.0), (2, 20.0), (3, 99.5), (4, 200.0)]:
            nursery.start_soon(submit, number, seconds)
    assert ended == {2: 20, 1: 40, 0: 60, 3: 99.5, 4: 100}
    assert [bench.heard[mail(number).id] for number in range(5)] == [SubmissionTimeout] * 4 + ["durable"]
    # Number 0 was in the store's hands: it landed, and went. The others never went in.
    assert bench.kinds() == [["Insert"], ["Insert", "Withdraw"]]
    assert await bench.ids() == [mail(4).id]


async def test_withdrawn_too_late_is_said(bench: Bench) -> None:
    release = trio.Event()
    bench.store.faults = [bench.store.waits(release)]
    scope = trio.CancelScope()

    async def submit() -> None:
        with scope:
            await bench.insert(insert(0, owner="one"))

    async with bench.running() as nursery:
        nursery.start_soon(submit)
        await settle_down()
        bench.spool.post(begin(0))
        scope.cancel()
        release.set()
        await settle_down()
        assert await bench.ids() == [mail(0).id]
    assert bench.kinds() == [["Insert"], ["Begin", "Withdraw"]]
    assert bench.logged("queue.possible_duplicate")


async def test_of_a_refused_group_nothing_stays_before_its_submitter_hears(bench: Bench) -> None:
    unfit = Insert(mail(1), b"of another size")
    async with bench.running() as nursery:
        nursery.start_soon(bench.insert, insert(0), unfit, insert(2))
        nursery.start_soon(bench.insert, insert(3))
        await settle_down()
        assert bench.heard == {mail(0).id: StoreUnavailable, mail(3).id: "durable"}
        assert await bench.ids() == [mail(3).id]
    assert bench.store.changes()[1] == [Withdraw(mail(0).id), Withdraw(mail(2).id)]


async def test_a_group_whose_withdrawal_hangs_is_answered_by_its_deadline(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.store.faults = [bench.store.takes(1), bench.store.takes(100)]
    async with bench.running() as nursery:
        nursery.start_soon(lambda: bench.insert(insert(0), Insert(mail(1), b"?"), deadline=60.0))
        await trio.sleep(61)
        assert bench.heard == {mail(0).id: SubmissionTimeout}
        await trio.sleep(60)
        assert await bench.ids() == []


# ---- the store fails ----


async def test_whoever_sends_nothing_to_a_failing_store_hears_that_it_may_be_back(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench.running():
        bench.store.faults = [bench.store.fails(AWAY)]
        await bench.insert(insert(1))
        await trio.sleep(FAILING_SECONDS - 0.1)
        assert bench.spool.failing
        await trio.sleep(0.2)
        assert not bench.spool.failing
        # What must land keeps it failing, however long that takes.
        bench.store.away = AWAY
        bench.spool.post(settle(1))
        await trio.sleep(FAILING_SECONDS * 10)
        assert bench.spool.failing
        bench.store.away = None
        await trio.sleep(FAILING_SECONDS * 2)
        assert not bench.spool.failing


async def test_a_store_that_hangs_counts_as_failing_once_somebody_was_told(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.store.faults = [bench.store.takes(100)]
    async with bench.running() as nursery:
        nursery.start_soon(lambda: bench.insert(insert(0), deadline=20.0))
        await trio.sleep(19)
        assert not bench.spool.failing, "slow, but nobody was refused"
        await trio.sleep(2)
        assert bench.heard == {mail(0).id: SubmissionTimeout}
        assert bench.spool.failing
        await trio.sleep(80)
        assert not bench.spool.failing


async def test_a_hanging_store_that_fails_in_the_end_is_given_the_benefit_of_the_doubt(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    async def hang_and_fail(batch: Sequence[Change]) -> list[Result]:
        await trio.sleep(100)
        raise AWAY

    bench.store.faults = [hang_and_fail]
    async with bench.running() as nursery:
        nursery.start_soon(lambda: bench.insert(insert(0), deadline=20.0))
        await trio.sleep(100 + FAILING_SECONDS - 0.1)
        assert bench.spool.failing
        await trio.sleep(0.2)
        assert not bench.spool.failing


@pytest.mark.parametrize("error", [AWAY, FULL])
async def test_a_failed_commit_fails_new_mail_and_gates_at_once(bench: Bench, error: StoreUnavailable) -> None:
    async with bench.running() as nursery:
        await bench.insert(insert(1, owner="one"))
        bench.store.faults = [bench.store.fails(error)]
        nursery.start_soon(bench.insert, insert(2))
        nursery.start_soon(bench.commit, begin(1))
        await settle_down()
        assert bench.heard == {mail(1).id: "durable", mail(2).id: type(error), key(begin(1)): type(error)}
        assert bench.spool.failing
        await bench.insert(insert(3))
        assert bench.heard[mail(3).id] == "durable"
        assert not bench.spool.failing
    assert len(bench.logged("store.failed")) == len(bench.logged("store.back")) == 1


async def test_a_settle_is_kept_until_the_store_is_back(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    async with bench.running() as nursery:
        await bench.insert(insert(1, owner="one"))
        bench.store.away = AWAY
        began = trio.current_time()
        nursery.start_soon(bench.commit, settle(1))
        nursery.start_soon(bench.insert, insert(2))
        await settle_down()
        assert bench.heard[mail(2).id] is StoreUnavailable
        await trio.sleep(0.05)
        nursery.start_soon(bench.insert, insert(3))
        await trio.sleep(30)
        # New mail is answered with the next try, never kept until the store is back.
        assert bench.heard[mail(3).id] is StoreUnavailable
        assert key(settle(1)) not in bench.heard
        bench.store.away = None
        await trio.sleep(LAST_PAUSE_SECONDS)
        assert bench.heard[key(settle(1))] is Result.APPLIED
        assert await bench.ids() == []
    tries = [round(at - began, 1) for at, batch in bench.store.batches if settle(1) in batch]
    assert tries[:8] == [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3]
    assert FIRST_PAUSE_SECONDS == 0.1
    assert len(bench.logged("store.failed")) == 1


async def test_what_must_land_goes_before_anything_newer(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    async with bench.running() as nursery:
        await bench.insert(insert(1, owner="one"))
        bench.store.faults = [bench.store.fails(AWAY)]
        nursery.start_soon(bench.commit, settle(1))
        await settle_down()
        nursery.start_soon(bench.insert, insert(2))
    assert bench.kinds()[1:] == [["Settle"], ["Settle"], ["Insert"]]


@pytest.mark.parametrize("landed", [True, False])
async def test_an_unknown_outcome_is_committed_again_as_it_was(
    bench: Bench, autojump_clock: trio.testing.MockClock, landed: bool
) -> None:
    deferred = mail(1, state=QueueState.DEFERRED, attempts=1, next_attempt_at=2e9)
    changes: list[Change] = [settle(1, deferred), settle(2), begin(3)]
    async with bench.running() as nursery:
        await bench.spool.insert([insert(number, owner="one") for number in (1, 2, 3)], deadline=FOREVER)
        bench.store.faults = [
            bench.store.fails(UNKNOWN, landed=landed),
            bench.store.fails(UNKNOWN),
            bench.store.fails(AWAY),
        ]
        for change in changes:
            nursery.start_soon(bench.commit, change)
        nursery.start_soon(bench.insert, insert(4))
        await settle_down()
        assert bench.spool.in_doubt
        assert bench.heard == {}
    batches = bench.store.changes()[1:]
    assert len(batches) == 4
    assert all(batch == batches[0] for batch in batches)
    assert [bench.heard[key(change)] for change in changes] == [Result.APPLIED] * 3
    assert bench.heard[mail(4).id] == "durable"
    assert await bench.ids() == [mail(number).id for number in (1, 3, 4)]
    assert not bench.spool.in_doubt


async def test_what_landed_in_doubt_after_its_deadline_is_withdrawn(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench.running() as nursery:
        bench.store.faults = [bench.store.fails(UNKNOWN, landed=True)] + [bench.store.fails(AWAY)] * 20
        nursery.start_soon(lambda: bench.insert(insert(0), deadline=30.0))
        await trio.sleep(31)
        assert bench.heard == {mail(0).id: SubmissionTimeout}
        assert await bench.ids() == [mail(0).id]
        bench.store.faults.clear()
        await trio.sleep(LAST_PAUSE_SECONDS)
        assert await bench.ids() == []


async def test_a_real_fence_is_told(bench: Bench) -> None:
    async with bench.running():
        await bench.insert(insert(1, owner="two"))
        assert await bench.spool.commit(settle(1)) is Result.FENCED
        assert await bench.spool.commit(settle(9)) is Result.GONE


async def test_a_defect_of_the_store_harms_one_ticket_alone(bench: Bench) -> None:
    async with bench.running() as nursery:
        bench.store.faults = [bench.store.breaks_on(mail(3).id, TypeError("unfit"))]
        for number in range(6):
            nursery.start_soon(bench.insert, insert(number))
        await settle_down()
        bench.store.faults.clear()
        await bench.insert(insert(7))
    expected = {mail(number).id: "durable" for number in (0, 1, 2, 4, 5, 7)} | {mail(3).id: StoreUnavailable}
    assert bench.heard == expected
    assert await bench.ids() == sorted(key for key, heard in expected.items() if heard == "durable")
    assert len(bench.logged("store.defect")) == 2


# ---- the end ----


async def test_a_commit_is_never_cancelled(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    bench.store.faults = [bench.store.takes(3)]
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.spool.run)
        ticket = bench.spool.post(insert(0))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 3
    assert await ticket.wait() == [Result.APPLIED]
    assert len(bench.store.batches) == 1


async def cancelled(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.spool.run)
        nursery.start_soon(bench.insert, insert(0))
        await settle_down()
        bench.spool.post(settle(1))
        nursery.cancel_scope.cancel()


async def closed(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.spool.run)
        nursery.start_soon(bench.insert, insert(0))
        await settle_down()
        bench.spool.post(settle(1))
        bench.spool.close()


@pytest.mark.parametrize("end", [cancelled, closed])
async def test_at_the_end_what_waits_is_committed(
    bench: Bench, end: Callable[[Bench], Awaitable[None]], autojump_clock: trio.testing.MockClock
) -> None:
    await bench.store.join("one", 0)
    await bench.store.commit([insert(1, owner="one")])
    bench.store.faults = [bench.store.takes(3), bench.store.fails(AWAY), bench.store.fails(UNKNOWN)]
    await end(bench)
    assert mail(1).id not in await bench.ids()
    with pytest.raises(StoreUnavailable):
        bench.spool.post(settle(1))


async def test_a_store_that_stays_away_does_not_keep_the_end_waiting(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.spool.run)
        bench.store.away = AWAY
        nursery.start_soon(bench.commit, settle(1))
        await trio.sleep(60)
        began = trio.current_time()
        bench.spool.close()
    assert trio.current_time() - began <= ENDING_SECONDS
    assert bench.heard == {key(settle(1)): StoreUnavailable}
    assert bench.logged("queue.commits_lost") == [
        {
            "event": "queue.commits_lost",
            "log_level": "error",
            "ids": [mail(1).id],
            "count": 1,
            "in_doubt": False,
        }
    ]


# ---- whatever happens ----

FAULTS = ("none", "none", "slow", "away", "full", "unknown", "unknown, landed")


@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=12),
    sessions=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 3), st.sampled_from([0.5, 2.0, 60.0]), st.booleans()), max_size=12
    ),
)
def test_durable_is_what_was_said_to_be(
    faults: Sequence[str], sessions: Sequence[tuple[int, int, float, bool]]
) -> None:
    """A mail is in the store exactly when its submitter was told so; whatever failed, whoever gave up, whenever."""

    async def scenario() -> None:
        bench = Bench()
        make = {
            "none": lambda: bench.store.takes(0.1),
            "slow": lambda: bench.store.takes(1.5),
            "away": lambda: bench.store.fails(AWAY),
            "full": lambda: bench.store.fails(FULL),
            "unknown": lambda: bench.store.fails(UNKNOWN),
            "unknown, landed": lambda: bench.store.fails(UNKNOWN, landed=True),
        }
        bench.store.faults = [make[fault]() for fault in faults]

        async def session(number: int, plan: tuple[int, int, float, bool]) -> None:
            start, size, seconds, cancelled = plan
            await trio.sleep(start / 10)
            group = [insert(number * 10 + offset) for offset in range(size)]
            with trio.move_on_after(seconds if cancelled else FOREVER):
                await bench.insert(*group, deadline=FOREVER if cancelled else trio.current_time() + seconds)

        async with bench.running() as nursery:
            async with trio.open_nursery() as clients:
                for number, plan in enumerate(sessions):
                    clients.start_soon(session, number, plan)
            await trio.sleep(60)
            nursery.start_soon(settle_down)
        expected = [
            mail(number * 10 + offset).id
            for number, plan in enumerate(sessions)
            for offset in range(plan[1])
            if bench.heard.get(mail(number * 10).id) == "durable"
        ]
        assert await bench.ids() == expected
        assert bench.spool.waiting == 0

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
