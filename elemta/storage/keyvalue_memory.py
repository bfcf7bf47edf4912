"""The plugins' state in memory, which ends with the process.

What is not here: what an operation does (`keyvalue`). Each namespace has a bound; beyond it the entries that end
soonest go first, as they do when their time has come. Failures raised: none but those of `keyvalue`.
"""

from heapq import heapify, heappop, heappush
from typing import Final

import trio

from elemta.plugins.api import KeyValue
from elemta.runtime.clock import Clock
from elemta.storage.keyvalue import Answer, Entry, Operation, Shelf, carry_out

#: Entries of one namespace. Ours: 90 MiB where each is as large as it may be; 5 MiB as plugins use it.
MEMORY_ENTRIES: Final = 20_000
#: Ends that the list of ends may hold for each entry, before those that mean nothing any more are thrown out.
_ENDS_AN_ENTRY: Final = 2


class MemoryKeyValue:
    """Keeps everything in this process; see `KeyValueStore`."""

    def __init__(self, clock: Clock, *, entries: int = MEMORY_ENTRIES) -> None:
        self._clock = clock
        self._entries = entries
        self._rooms: dict[str, _Room] = {}

    async def open(self) -> None:
        """Nothing is to be made ready."""
        await trio.lowlevel.checkpoint()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing is to be done beside the calls."""
        task_status.started()
        await trio.sleep_forever()

    async def close(self) -> None:
        """Nothing is to be let go of."""
        await trio.lowlevel.checkpoint()

    def of(self, namespace: str) -> KeyValue:
        """One plugin's part."""
        return Shelf(namespace, self._do)

    async def _do(self, operation: Operation) -> Answer:
        await trio.lowlevel.checkpoint()
        room = self._rooms.setdefault(operation.namespace, _Room())
        now = self._clock.wall()
        entry, answer = carry_out(operation, room.get(operation.key), now=now)
        room.set(operation.key, entry)
        room.sweep(now=now, entries=self._entries)
        return answer


class _Room:
    """One namespace: its entries, and when they end."""

    def __init__(self) -> None:
        self._kept: dict[str, Entry] = {}
        #: A heap; an end that its entry does not have any more means nothing.
        self._ends: list[tuple[float, str]] = []

    def get(self, key: str) -> Entry | None:
        return self._kept.get(key)

    def set(self, key: str, entry: Entry | None) -> None:
        before = self._kept.get(key)
        if entry is None:
            self._kept.pop(key, None)
        elif entry is not before:
            self._kept[key] = entry
            if before is None or before.until != entry.until:
                heappush(self._ends, (entry.until, key))

    def sweep(self, *, now: float, entries: int) -> None:
        """Let go of what is over, and of what is too much."""
        while self._ends and (self._ends[0][0] <= now or len(self._kept) > entries):
            until, key = heappop(self._ends)
            entry = self._kept.get(key)
            if entry is not None and entry.until == until:
                del self._kept[key]
        if len(self._ends) > _ENDS_AN_ENTRY * (len(self._kept) + 1):
            self._ends = [(entry.until, key) for key, entry in self._kept.items()]
            heapify(self._ends)
