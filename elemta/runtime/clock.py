"""The wall clock as an argument.

What is not here: deadlines within the process, which use Trio's monotonic clock (`trio.current_time`).
Everything persisted is UTC in seconds since 1970 from one injected `Clock`.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Source of wall time."""

    def wall(self) -> float:
        """UTC in seconds since 1970-01-01T00:00:00Z."""
        ...


class SystemClock:
    """The system's clock. It may step, and may be wrong until the network sets it."""

    def wall(self) -> float:
        """UTC in seconds since 1970-01-01T00:00:00Z."""
        return time.time()
