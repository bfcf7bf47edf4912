"""Calls of plugins on their way into batches."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from elemta.plugins.api import SharedAway
from elemta.storage import keyvalue_desk
from elemta.storage.keyvalue import Answer, Get, Operation
from elemta.storage.keyvalue_desk import BATCH_OPERATIONS, Desk, Ticket


class Server:
    """Answers batches once it may."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = trio.Event()
        self.defect: Exception | None = None

    async def serve(self, batch: Sequence[Ticket]) -> None:
        self.batches.append(len(batch))
        await self.gate.wait()
        if self.defect is not None:
            raise self.defect
        for ticket in batch:
            ticket.settle(Answer(ticket.operation.key.encode()))


def get(number: int) -> Operation:
    return Get("one", f"{number}")


class Callers:
    """Ask a desk, and write down what they hear."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.heard: list[str] = []

    async def ask(self, number: int) -> None:
        try:
            answer = await self._desk.do(get(number))
        except SharedAway as error:
            self.heard.append(str(error))
        else:
            self.heard.append((answer.value or b"").decode())


async def test_so_many_batches_are_served_at_once_and_the_rest_gathers(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    desk = Desk("store", server.serve, at_once=2, seconds=5)
    callers = Callers(desk)
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.run)
        for number in range(2):
            nursery.start_soon(callers.ask, number)
            await trio.testing.wait_all_tasks_blocked()
        for number in range(2, 2 * BATCH_OPERATIONS):
            nursery.start_soon(callers.ask, number)
        await trio.testing.wait_all_tasks_blocked()
        assert server.batches == [1, 1]
        server.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert server.batches == [1, 1, BATCH_OPERATIONS, BATCH_OPERATIONS - 2]
        assert sorted(map(int, callers.heard)) == list(range(2 * BATCH_OPERATIONS))
        nursery.cancel_scope.cancel()


async def test_more_than_so_many_do_not_wait(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyvalue_desk, "WAITING_OPERATIONS", 3)
    server = Server()
    desk = Desk("store", server.serve, at_once=1, seconds=5)
    callers = Callers(desk)
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.run)
        for number in range(6):
            nursery.start_soon(callers.ask, number)
            await trio.testing.wait_all_tasks_blocked()
        assert callers.heard == ["store: 3 calls wait for it already"] * 2
        assert trio.current_time() == 0
        await trio.sleep(5)
        await trio.testing.wait_all_tasks_blocked()
        assert callers.heard[2:] == ["store: no answer within 5 s"] * 4
        server.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        await callers.ask(7)  # those that left take nobody's place
        assert callers.heard[-1] == "7"
        assert server.batches == [1, 1]
        nursery.cancel_scope.cancel()


async def test_a_defect_costs_the_calls_of_its_batch_alone(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    server.gate.set()
    desk = Desk("store", server.serve, at_once=1, seconds=5)
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.run)
        server.defect = KeyError("x")
        with pytest.raises(SharedAway, match=r"store: an internal error: KeyError\('x'\)"):
            await desk.do(get(1))
        server.defect = None
        assert await desk.do(get(2)) == Answer(b"2")
        nursery.cancel_scope.cancel()


async def test_who_waits_is_told_when_it_stops(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    desk = Desk("store", server.serve, at_once=1, seconds=5)
    callers = Callers(desk)
    async with trio.open_nursery() as asking:
        async with trio.open_nursery() as running:
            await running.start(desk.run)
            for number in range(3):
                asking.start_soon(callers.ask, number)
                await trio.testing.wait_all_tasks_blocked()
            running.cancel_scope.cancel()
    assert callers.heard == ["store: the server stops"] * 3
    assert trio.current_time() == 0
    await callers.ask(4)
    assert callers.heard[-1] == "store: not in use: the server starts or stops"
