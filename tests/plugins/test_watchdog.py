"""A plugin that blocks the event loop is named, on the real clock; what blocks it otherwise is not."""

import select
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from elemta.plugins.api import CONTINUE, Mail, Plugin, Stage, Verdict
from elemta.plugins.chain import Chain, asked_in
from elemta.plugins.tasks import TaskKeeper, run_in
from elemta.plugins.watchdog import BLOCKED_SECONDS, LOOK_SECONDS, TOLD_FRAMES, Watchdog
from tests.plugins.fakes import Bench, a_mail, chain_of

#: Seconds that blocking takes here: enough for two looks of the watchdog.
BLOCKING_SECONDS = 2.0


def hold() -> None:
    select.select([], [], [], BLOCKING_SECONDS)  # the call that is to be told of


class Blocking(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        await trio.lowlevel.checkpoint()
        hold()
        return CONTINUE


class Waiting(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        await trio.sleep(BLOCKING_SECONDS)
        return CONTINUE


class Quick(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        return CONTINUE


async def watched(plugin: type[Plugin], beside: Callable[[Bench], object] = lambda _: None) -> list[dict[str, Any]]:
    """What the watchdog says while the plugin is asked once."""
    async with chain_of(plugin) as bench, trio.open_nursery() as nursery:
        callers = {Chain.ask_on.__code__: asked_in, TaskKeeper.run_one.__code__: run_in}
        await nursery.start(Watchdog(callers, bench.chain._log).run)
        mail = a_mail()
        await bench.chain.ask(Stage.DATA_COMPLETE, mail, mail)
        beside(bench)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return bench.events("plugin.blocks")


@pytest.mark.slow
async def test_a_plugin_that_blocks_is_named_with_its_line() -> None:
    (told,) = await watched(Blocking)
    assert (told["plugin"], told["stage"]) == ("blocking", "data_complete")
    assert BLOCKED_SECONDS <= told["seconds"] <= BLOCKING_SECONDS + LOOK_SECONDS
    line = hold.__code__.co_firstlineno + 1
    innermost, caller = told["at"][:2]
    assert innermost == f"{__file__}:{line} hold"
    assert caller.endswith(" on_data_complete")
    assert len(told["at"]) <= TOLD_FRAMES
    assert "blocking = True" in told["remedy"]


@pytest.mark.slow
async def test_one_that_waits_is_not() -> None:
    assert await watched(Waiting) == []


@pytest.mark.slow
async def test_what_else_holds_the_loop_is_no_plugins() -> None:
    assert await watched(Quick, beside=lambda _: hold()) == []


@pytest.mark.slow
async def test_a_task_that_blocks_is_named_as_well() -> None:
    async def task() -> None:
        await trio.lowlevel.checkpoint()
        hold()

    (told,) = await watched(Quick, beside=lambda bench: bench.keeper.start("busy", trio.CancelScope(), task))
    assert (told["plugin"], told["stage"]) == ("busy", "task")
    assert told["at"][0].endswith(" hold")


@pytest.mark.slow
async def test_its_thread_ends_with_it() -> None:
    before = threading.active_count()
    await watched(Waiting)
    with trio.fail_after(5):
        while threading.active_count() > before:  # noqa: ASYNC110  # a thread has no event
            await trio.sleep(LOOK_SECONDS / 5)
