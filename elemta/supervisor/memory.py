"""The task that gives the memory of past floods back to the system.

What is not here: how memory is measured or given back (`runtime.memory`), or the bounds of what is held at all
(`runtime.budget`). Failures raised: none.
"""

from typing import Final

import trio

from elemta.runtime.memory import Memory, SystemMemory
from elemta.runtime.threads import Threads, WorkerThreads

#: Seconds between two looks: a third of the minute within which a flood is to be forgotten.
LOOK_SECONDS: Final = 20.0
#: Octets of growth that are left alone: giving back less is not worth the call.
SPARE_OCTETS: Final = 16 * 1024 * 1024


class MemoryKeeper:
    """Has memory given back at each look that finds more than `SPARE_OCTETS` above the least that was ever seen.

    Size alone cannot tell what is in use from what was freed since the last look, so a process that needs more than it
    did is asked in vain: about a millisecond of a thread. While a flood lasts, what is given back is wanted again: for
    200 MiB some 20 ms of a thread, then 80 ms of faults, in each `LOOK_SECONDS`.
    """

    def __init__(self, memory: Memory, threads: Threads) -> None:
        self._memory = memory
        self._threads = threads
        self._limiter = trio.CapacityLimiter(1)
        self._least = memory.resident_octets()

    async def run(self) -> None:
        """Look every `LOOK_SECONDS`, until cancelled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self._threads.run(self._limiter, self._look)

    def _look(self) -> None:
        resident = self._memory.resident_octets()
        self._least = min(self._least, resident)
        if resident > self._least + SPARE_OCTETS:
            self._memory.give_back()


def memory_keeper(threads: Threads) -> MemoryKeeper | None:
    """A keeper where calls run in threads; none in the simulated world, whose process is not the server's own."""
    return MemoryKeeper(SystemMemory(), threads) if isinstance(threads, WorkerThreads) else None
