"""Stops parts of a world as SIGSTOP stops a process.

What is not here: when (`simulation.seat`). While a part is frozen none of its tasks runs: a task that becomes ready is
kept aside, and all of them are ready at once when the part goes on. Octets and connections that reach the part wait for
it, as in a kernel; its deadlines pass, and it finds out afterwards. Failures raised: none.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import trio
from trio._core import _run


class Freezer(trio.abc.Instrument):
    """Watches which tasks become ready. A task belongs to a part when it, or a task that began it, is `inside` it."""

    def __init__(self) -> None:
        self._part: ContextVar[object] = ContextVar("part")
        self._kept: dict[object, list[trio.lowlevel.Task]] = {}

    @contextmanager
    def inside(self, part: object) -> Iterator[None]:
        """The task that calls counts as the part's within: it stands still where the part does."""
        before = self._part.set(part)
        try:
            yield
        finally:
            self._part.reset(before)

    def is_frozen(self, part: object) -> bool:
        """True while nothing of the part runs."""
        return part in self._kept

    def freeze(self, part: object) -> None:
        """From the next round of the scheduler on, nothing of the part runs."""
        if part in self._kept:
            return
        ready = _ready_tasks()
        self._kept[part] = [task for task in ready if self._part_of(task) is part]
        for task in self._kept[part]:
            ready.remove(task)

    def thaw(self, part: object) -> None:
        """Go on."""
        _ready_tasks().extend(self._kept.pop(part, ()))

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Trio has put a task at the end of those that are ready; see `trio.abc.Instrument`."""
        part = self._part_of(task)
        if part in self._kept:
            self._kept[part].append(_ready_tasks().pop())

    def _part_of(self, task: trio.lowlevel.Task) -> object:
        return task.context.get(self._part)


def _ready_tasks() -> deque[trio.lowlevel.Task]:
    """Trio's own list. It is private: Trio has no public way to keep a task from running; this is the one place."""
    return _run.GLOBAL_RUN_CONTEXT.runner.runq
