"""What hooks leave open is closed behind them, and costs nobody else anything."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from elemta.plugins.api import CONTINUE, Mail, OnError, Plugin, Verdict
from elemta.plugins.leftovers import closing
from tests.inbound.test_plugged import deliver, serving
from tests.plugins.fakes import chain_of

Hook = Callable[[Plugin, Mail], Awaitable[Verdict]]

ENDED: list[str] = []


async def linger() -> None:
    try:
        await trio.sleep_forever()
    finally:
        ENDED.append("one")


#: As text, since the rules for this project's own code forbid what is tried.
GENERATORS = """
async def numbers():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(linger)
        yield 1
        yield 2

async def slow_numbers():
    with trio.fail_after(5):
        await trio.lowlevel.checkpoint()
        yield 1
"""
made: dict[str, Callable[[], AsyncIterator[int]]] = {}
exec(GENERATORS, {"trio": trio, "linger": linger}, made)
numbers, slow_numbers = made["numbers"], made["slow_numbers"]


async def breaking_off(_: Plugin, __: Mail) -> Verdict:
    async for _number in numbers():
        return CONTINUE
    return CONTINUE


async def breaking_off_a_deadline(_: Plugin, __: Mail) -> Verdict:
    async for _number in slow_numbers():
        return CONTINUE
    return CONTINUE


KEPT: list[AsyncIterator[int]] = []


async def keeping(_: Plugin, __: Mail) -> Verdict:
    KEPT.append(numbers())
    await anext(KEPT[-1])
    return CONTINUE


async def entering(_: Plugin, __: Mail) -> Verdict:
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(linger)
    return CONTINUE


async def entering_twice_and_raising(_: Plugin, __: Mail) -> Verdict:
    await trio.open_nursery().__aenter__()
    trio.CancelScope().__enter__()
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(linger)
    raise RuntimeError("no")


async def entering_and_hanging(_: Plugin, __: Mail) -> Verdict:
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(linger)
    await trio.sleep_forever()
    return CONTINUE


async def cancelling(_: Plugin, __: Mail) -> Verdict:
    scope = trio.CancelScope()
    scope.__enter__()
    scope.cancel()
    await trio.sleep(1)
    return CONTINUE


LEAVING: list[Hook] = [
    breaking_off,
    breaking_off_a_deadline,
    keeping,
    entering,
    entering_twice_and_raising,
    entering_and_hanging,
    cancelling,
]


# What Python and pytest say of generators that are thrown away is the mistake that is tried.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("hook", LEAVING)
async def test_sessions_go_on_whatever_a_hook_leaves_open(hook: Hook, autojump_clock: object) -> None:
    ENDED.clear()
    leaving: type[Plugin] = type("Leaving", (Plugin,), {"on_data_complete": hook})

    class Looking(Plugin):
        priority = 10

        async def on_data_complete(self, mail: Mail) -> Verdict:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 10)
                nursery.start_soon(trio.sleep, 1)
            return CONTINUE

    async with serving(leaving, Looking, on_error=OnError.ACCEPT) as (world, bench):
        client = world.connect()
        assert (await deliver(client)).startswith("250")
        assert (await client.say("NOOP")).startswith("250")
        assert await client.say("QUIT")
        assert await client.reply() == ""
        assert (await deliver(world.connect())).startswith("250")
        assert not world.events("session.failed")
        KEPT.clear()
        await trio.sleep(1)
    assert bench.metrics.registry.get_sample_value("elemta_plugin_failures_total", {"plugin": "leaving"}) == 2
    if hook not in (breaking_off_a_deadline, cancelling):
        assert len(ENDED) == 2


async def test_tasks_that_leave_something_open_end_alone(autojump_clock: object) -> None:
    ENDED.clear()
    async with chain_of() as bench:

        async def leaving() -> None:
            nursery = await trio.open_nursery().__aenter__()
            nursery.start_soon(linger)

        bench.keeper.start("one", trio.CancelScope(), leaving)
        await trio.sleep(1)
        assert ENDED == ["one"]


async def test_what_is_closed_in_order_is_left_alone(autojump_clock: object) -> None:
    async def orderly(value: int) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
            nursery.start_soon(trio.sleep, 0.5)
        return value

    async with trio.open_nursery() as around:
        around.start_soon(trio.sleep, 5)
        assert await closing(orderly, 3) == 3
        assert trio.current_time() == 1
    assert trio.current_time() == 5
