"""A watchdog in real time over a world in virtual time.

What is not here: the world. Under the jumping clock a deadlock spins for ever instead of standing still, and a task
that never waits lets nobody else run. A thread therefore looks whether the history still grows; when it does not, it
writes the tree of tasks, then ends the run. Failures raised: `Stuck`, from the run.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

#: Real seconds without a new event before a world counts as stuck. The longest quiet stretch of a healthy world, a
#: year in which nothing is due, takes half of that on a slow machine.
STUCK_SECONDS = 60.0
#: Real seconds that the ending of a stuck world may take before the process is ended.
_ABORT_SECONDS = 10.0
#: Places shown of each task, the innermost; Trio's own are left out.
_FRAMES = 3


class Stuck(Exception):
    """A world made no progress; the text is its tree of tasks."""


@contextmanager
def watching(
    progress: Callable[[], int], cancel: Callable[[], None], *, seconds: float = STUCK_SECONDS
) -> Iterator[None]:
    """Inside, `progress()` must change within `seconds` of real time; otherwise the tasks are written to standard error
    and `cancel()` is called in the run. Raises `Stuck` at the end when it was."""
    token = trio.lowlevel.current_trio_token()
    root = trio.lowlevel.current_root_task()
    done = threading.Event()
    trees: list[str] = []

    def watch() -> None:
        seen = -1
        while (now := progress()) != seen:
            seen = now
            if done.wait(seconds):
                return
        trees.append(task_tree(root))
        sys.stderr.write(f"the simulated world made no progress in {seconds} s:\n{trees[0]}\n")
        faulthandler.dump_traceback()
        token.run_sync_soon(cancel)
        if not done.wait(_ABORT_SECONDS):
            os._exit(70)  # a task that never waits cannot be cancelled

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if trees:  # instead of the cancellation that it caused
            raise Stuck(trees[0])


def task_tree(root: trio.lowlevel.Task | None) -> str:
    """The tasks below `root`, a line each, with where they wait."""
    rows: list[str] = []

    def walk(task: trio.lowlevel.Task, depth: int) -> None:
        frames = [
            (frame, line) for frame, line in task.iter_await_frames() if "trio._" not in frame.f_globals["__name__"]
        ]
        where = [f"{frame.f_code.co_qualname}:{line}" for frame, line in frames[-_FRAMES:]]
        rows.append("  " * depth + task.name + "  " + " < ".join(reversed(where)))
        for nursery in task.child_nurseries:
            for child in tuple(nursery.child_tasks):
                walk(child, depth + 1)

    if root is not None:
        walk(root, 0)
    return "\n".join(rows)
