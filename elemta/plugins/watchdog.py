"""Names the plugin that blocks the event loop.

Nothing can end such a call: it holds the only thread that could. A thread beside the loop sees that the loop has not
turned for a while, looks at where the loop's thread stands, and says whose call that is. What is not here: ending calls
that wait (`plugins.chain`).
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, Final

import trio
from structlog.typing import FilteringBoundLogger

#: Seconds without a turn of the loop that are told: nobody else is served meanwhile.
BLOCKED_SECONDS: Final = 1.0
#: Seconds between two beats of the loop.
BEAT_SECONDS: Final = 0.25
#: Seconds between two looks of the thread.
LOOK_SECONDS: Final = 0.5
#: Frames of the blocked call that are told, the innermost first.
TOLD_FRAMES: Final = 5


#: Whose call it is, and at which stage, by the local variables of the function that calls plugins.
Caller = Callable[[Mapping[str, Any]], tuple[str, str]]


class Watchdog:
    """Beats with the loop, and watches the beats from a thread. `callers` are the functions that call plugins, by their
    code."""

    def __init__(self, callers: Mapping[CodeType, Caller], log: FilteringBoundLogger) -> None:
        self._callers = callers
        self._log = log
        self._beat = time.monotonic()
        self._loop_thread = 0
        self._stopped = threading.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        self._loop_thread = threading.get_ident()
        self._beat = time.monotonic()
        threading.Thread(target=self._watch, name="elemta-plugin-watchdog", daemon=True).start()
        task_status.started()
        try:
            while True:
                self._beat = time.monotonic()
                await trio.sleep(BEAT_SECONDS)
        finally:
            self._stopped.set()

    def _watch(self) -> None:
        told = 0.0
        while not self._stopped.wait(LOOK_SECONDS):
            beat = self._beat
            if time.monotonic() - beat >= BLOCKED_SECONDS and beat != told:
                told = beat
                self._tell(sys._current_frames().get(self._loop_thread), time.monotonic() - beat)

    def _tell(self, frame: FrameType | None, seconds: float) -> None:
        where: list[str] = []
        while frame is not None and frame.f_code not in self._callers:
            where.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        if frame is None:
            return  # something else holds the loop
        plugin, stage = self._callers[frame.f_code](frame.f_locals)
        self._log.error(
            "plugin.blocks",
            plugin=plugin,
            stage=stage,
            seconds=round(seconds, 1),
            at=where[:TOLD_FRAMES],
            remedy="nobody is served meanwhile: await instead, or let the plugin say blocking = True",
        )
