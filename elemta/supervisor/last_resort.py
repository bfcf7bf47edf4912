"""The end of a process that does not end by itself.

A plugin that swallows its cancellation keeps its session, and Trio waits for every task: without this the process would
stay until somebody kills it. What is not here: ending in order (`supervisor.server`). Whatever was acknowledged is
durable, so an end at any moment loses nothing.
"""

import os
import threading
from collections.abc import Callable
from typing import Final

from structlog.typing import FilteringBoundLogger

from elemta.supervisor.failures import FAILED

#: Seconds beyond the drain's own: what cut sessions, deliveries, plugins, stores and the web side may take for their
#: last steps is 37 in all.
MARGIN_SECONDS: Final = 45.0


def end_within(seconds: float, log: FilteringBoundLogger, *, leave: Callable[[int], object] = os._exit) -> None:
    """Have this process end in so many seconds, whatever it waits for. The thread that does it holds nothing up."""

    def end() -> None:
        log.error(
            "server.does_not_end",
            seconds=seconds,
            remedy="something swallows its cancellation, see plugin.does_not_end; what is accepted is in the queue",
        )
        leave(FAILED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
