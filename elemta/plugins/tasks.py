"""Tasks that plugins start, all of them owned by the server.

What is not here: the calls of hooks (`plugins.chain`). A task belongs to a mail or to the server: it is cancelled when
that ends, and whatever it raises ends here, in the log. One nursery has them all, each in a cancel scope of its own: a
nursery a mail would have to be open in the session's task from before the first plugin is asked, whether it starts
tasks or not.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio
from structlog.typing import FilteringBoundLogger

from elemta.plugins.containment import to_pass
from elemta.plugins.leftovers import closing

#: Tasks of one mail at once.
MAX_TASKS_OF_MAIL: Final = 20
#: Tasks of one plugin at once, those of mails included.
MAX_TASKS_OF_PLUGIN: Final = 1000


class TaskKeeper:
    """The nursery of all plugins' tasks."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._nursery: trio.Nursery | None = None
        self._running: dict[str, int] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def start(
        self, plugin: str, scope: trio.CancelScope, function: Callable[..., Awaitable[object]], *arguments: object
    ) -> None:
        """Run a task of a plugin within `scope`. Raises `RuntimeError` when it has too many, or the server ends."""
        running = self._running.get(plugin, 0)
        if running >= MAX_TASKS_OF_PLUGIN:
            raise RuntimeError(f"the plugin has {running} tasks already")
        if self._nursery is None:
            raise RuntimeError("the server is not running")
        self._nursery.start_soon(self.run_one, plugin, scope, function, arguments, name=f"{plugin}: {function}")
        self._running[plugin] = running + 1

    async def run_one(
        self,
        plugin: str,
        scope: trio.CancelScope,
        function: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
    ) -> None:
        """One task. The watchdog knows this function's frames, see `run_in`."""
        try:
            with scope:
                try:
                    await closing(function, *arguments)
                except BaseException as error:  # noqa: ASYNC103  # what must pass does
                    passing = to_pass(error)
                    if passing is not error:
                        self._log.error("plugin.task_failed", plugin=plugin, error=repr(error)[:500], exc_info=error)
                    if passing is not None:
                        raise passing from None  # noqa: ASYNC104  # as above
        finally:
            self._running[plugin] -= 1


def run_in(frame: Mapping[str, Any]) -> tuple[str, str]:
    """The plugin whose task runs in a frame of `TaskKeeper.run_one`; `frame` are its local variables."""
    return frame["plugin"], "task"


class TasksOfMail:
    """The tasks of one mail; they end with it."""

    __slots__ = ("_keeper", "_scopes")

    def __init__(self, keeper: TaskKeeper) -> None:
        self._keeper = keeper
        self._scopes: set[trio.CancelScope] = set()

    def start(self, plugin: str, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run a task. Raises `RuntimeError` when the mail has too many."""
        if len(self._scopes) >= MAX_TASKS_OF_MAIL:
            raise RuntimeError(f"the mail has {len(self._scopes)} tasks already")
        scope = trio.CancelScope()
        self._keeper.start(plugin, scope, self._run, scope, function, arguments)
        self._scopes.add(scope)

    async def _run(
        self, scope: trio.CancelScope, function: Callable[..., Awaitable[object]], arguments: tuple[object, ...]
    ) -> None:
        try:
            await function(*arguments)
        finally:
            self._scopes.discard(scope)

    def close(self) -> None:
        """The mail is queued or refused."""
        for scope in tuple(self._scopes):
            scope.cancel()
        with suppress(KeyError):
            self._scopes.clear()
