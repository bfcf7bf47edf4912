"""The plugins' state in `plugins.db`, a SQLite file beside the queue.

What is not here: statements (`keyvalue_file`). Whatever is asked for while one batch is in its thread becomes the next:
a batch costs one thread hop and one transaction. One process at a time uses the file. The power may take along the
last moments, since commits do not wait for the disk; the process may end as it likes. Failures raised: `SharedAway`.
"""

from collections.abc import Sequence
from pathlib import Path

import trio

from elemta.plugins.api import KeyValue, SharedAway
from elemta.runtime.clock import Clock
from elemta.runtime.threads import Threads
from elemta.storage.keyvalue import CALL_SECONDS, Answer, Shelf
from elemta.storage.keyvalue_desk import Desk, Ticket
from elemta.storage.keyvalue_file import FILE_ENTRIES, StateFile


class SqliteKeyValue:
    """Keeps everything in one file; see `KeyValueStore`."""

    def __init__(self, folder: Path | str, threads: Threads, clock: Clock, *, entries: int = FILE_ENTRIES) -> None:
        self._threads = threads
        self._clock = clock
        self._file = StateFile(Path(folder), entries=entries)
        self._one_thread = trio.CapacityLimiter(1)
        self._desk = Desk(self._file.path, self._serve, at_once=1, seconds=CALL_SECONDS)

    async def open(self) -> None:
        """Make or open the file. Raises `SharedAway` with the remedy in its text."""
        await self._threads.run(self._one_thread, self._file.open)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        await self._desk.run(task_status=task_status)

    async def close(self) -> None:
        """Let go of the file."""
        with trio.CancelScope(shield=True):  # a batch that runs ends by itself: no thread is abandoned
            await self._threads.run(self._one_thread, self._file.close)

    def of(self, namespace: str) -> KeyValue:
        """One plugin's part."""
        return Shelf(namespace, self._desk.do)

    async def _serve(self, batch: Sequence[Ticket]) -> None:
        operations = [ticket.operation for ticket in batch]
        results: Sequence[Answer | Exception]
        try:
            with trio.CancelScope(shield=True):  # what a batch did is told to who asked for it
                results = await self._threads.run(
                    self._one_thread, self._file.carry_out, operations, self._clock.wall()
                )
        except SharedAway as error:
            results = [error] * len(batch)
        for ticket, result in zip(batch, results, strict=True):
            ticket.settle(result)
