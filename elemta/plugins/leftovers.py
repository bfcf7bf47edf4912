"""Closes what a plugin's call left open in the task that made it.

A hook that breaks off an asynchronous generator, or enters a context by hand, leaves scopes and nurseries behind.
A scope would take the rest of the session with it, and for a nursery that its task never closed Trio ends the server.
What is not here: what becomes of the mail (`plugins.chain`).

Trio has no public names for this; `tests/plugins/test_leftovers.py` says when those that are used here change.
Nothing is raised.
"""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Final

import trio

#: Seconds between two looks whether cancelled tasks have ended.
LOOK_SECONDS: Final = 0.01


class LeftOpen(Exception):
    """The call ended, and what it had opened did not; the text explains."""

    def __init__(self) -> None:
        super().__init__(
            "it left a cancel scope or a nursery open: enter them by `with` alone, and close asynchronous generators "
            "that you break off (contextlib.aclosing)"
        )


def open_in(task: trio.lowlevel.Task) -> object:
    """What is open in the task, to be compared by `is`."""
    return task._cancel_status


def nurseries_in(task: trio.lowlevel.Task) -> int:
    """How many nurseries are open in the task."""
    return len(task._child_nurseries)


async def closing(function: Callable[..., Awaitable[object]], *arguments: object) -> object:
    """Call the function, and close what it left open. What it raises passes."""
    task = trio.lowlevel.current_task()
    before, nurseries = open_in(task), nurseries_in(task)
    error: BaseException | None = None
    answer: object = None
    try:
        answer = await function(*arguments)
    except BaseException as raised:  # noqa: ASYNC103  # it is raised below
        error = raised
    if open_in(task) is not before:
        await close_left_open(task, before, nurseries)
    if error is not None:
        raise error
    return answer


async def close_left_open(task: trio.lowlevel.Task, before: object, nurseries: int) -> None:
    """Close what was opened since, the innermost first: tasks in it are cancelled and waited for.

    To be called in the task itself; it cannot be cancelled meanwhile.
    """
    left = task._child_nurseries[nurseries:]
    for nursery in left:
        nursery.cancel_scope.cancel()
    for nursery in left:
        # A generator that is thrown away closes it once more, in another task, and finds it closed.
        task._child_nurseries.remove(nursery)
        nursery._parent_task = SimpleNamespace(_child_nurseries=[nursery])  # type: ignore[assignment]  # nobody's
        nursery._nested_child_running, nursery._closed = False, True
    for nursery in reversed(left):
        while nursery.child_tasks:
            with trio.CancelScope(shield=True):
                await trio.sleep(LOOK_SECONDS)
    while (status := task._cancel_status) is not before and status is not None:
        status._scope._close(None)
