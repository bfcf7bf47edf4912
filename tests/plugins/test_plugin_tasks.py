"""Tasks of plugins: bounded, owned, ended, and contained."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
from structlog.testing import LogCapture
from trio.testing import wait_all_tasks_blocked

from elemta.plugins.tasks import MAX_TASKS_OF_MAIL, MAX_TASKS_OF_PLUGIN, TaskKeeper, TasksOfMail
from tests.plugins.fakes import a_mail


@asynccontextmanager
async def keeping() -> AsyncIterator[tuple[TaskKeeper, LogCapture]]:
    capture = LogCapture()
    keeper = TaskKeeper(structlog.wrap_logger(None, processors=[capture]))
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        yield keeper, capture
        nursery.cancel_scope.cancel()


async def test_a_mail_ends_its_tasks_and_begins_no_more() -> None:
    ended: list[str] = []

    async def linger(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    async with keeping() as (keeper, _):
        mails = [a_mail(keeper=keeper) for _ in range(2)]
        for number, mail in enumerate(mails):
            for _ in range(MAX_TASKS_OF_MAIL):
                mail.start_soon(linger, f"mail {number}")
            with pytest.raises(RuntimeError, match=f"{MAX_TASKS_OF_MAIL} tasks already"):
                mail.start_soon(linger, "too many")
        mails[0].release()
        await wait_all_tasks_blocked()
        assert ended == ["mail 0"] * MAX_TASKS_OF_MAIL, "the other mail's go on"
        with pytest.raises(RuntimeError, match="queued or refused already"):
            mails[0].start_soon(linger, "too late")
        mails[0].release()
    assert ended.count("mail 1") == MAX_TASKS_OF_MAIL, "the server ends the rest"


async def test_one_that_has_ended_makes_room() -> None:
    async with keeping() as (keeper, _):
        mail = TasksOfMail(keeper)
        for _ in range(3 * MAX_TASKS_OF_MAIL):
            mail.start("p", trio.lowlevel.checkpoint)
            await wait_all_tasks_blocked()


async def test_tasks_of_one_plugin_are_bounded_whoever_starts_them() -> None:
    async with keeping() as (keeper, _):
        for _ in range(MAX_TASKS_OF_PLUGIN):
            keeper.start("greedy", trio.CancelScope(), trio.sleep_forever)
        with pytest.raises(RuntimeError, match=f"{MAX_TASKS_OF_PLUGIN} tasks already"):
            keeper.start("greedy", trio.CancelScope(), trio.sleep_forever)
        keeper.start("modest", trio.CancelScope(), trio.sleep_forever)


class Own(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), SystemExit(3), Own(), BaseExceptionGroup("many", [Own(), SystemExit()]), GeneratorExit()],
)
async def test_what_a_task_raises_ends_with_it(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    async with keeping() as (keeper, capture):
        keeper.start("p", trio.CancelScope(), fail)
        await wait_all_tasks_blocked()
        (told,) = capture.entries
        assert (told["event"], told["plugin"], told["exc_info"]) == ("plugin.task_failed", "p", error)
        keeper.start("p", trio.CancelScope(), trio.lowlevel.checkpoint)


async def test_without_a_server_there_are_none() -> None:
    keeper = TaskKeeper(structlog.get_logger())
    with pytest.raises(RuntimeError, match="not running"):
        keeper.start("p", trio.CancelScope(), trio.sleep_forever)
