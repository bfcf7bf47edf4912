"""The queue on the file system: a file for each mail's state, a file for its content.

What is not here: what the verbs do (`file_queue`). This module gives each its thread hop: one thread at a time changes
and searches the queue, some more read and stage content. What reads many files does so in short hops, between which
commits go on.

In `queue_dir`:

    active/ID.json      the state of a mail that may be tried now, or is being tried
    deferred/ID.json    waits for its next attempt: its mtime
    held/ID.json        waits for an operator
    failed/ID.json      failed for good and is kept for a while, likewise
    delivered/ID.json   delivered
    data/ID.eml         content, as it came in; it never changes, and opens in any mail program
    shared/CID.ID       an empty file: the mail ID has the content data/CID.eml
    attempts/HOUR.jsonl each attempt as a line, by the hour of its end; kept when the mail is gone
    nodes.json          the latest fencing token of each node
    journal/            what makes it durable, two files that take turns (`file_journal`, `file_record`)
    spare/              files to be written over (`file_folders`)

A state is JSON with a checksum (`file_state`). Between two checkpoints the journal is what counts: after a crash the
store carries it out again when it opens, so that the files say what was committed. While a server runs, nobody else
may change the queue; the lock of `queue_dir` sees to it. Once it stopped in order, a person may read, copy, remove
a state, or move it to another folder: where it lies is what it is.

Raises `StoreUnavailable`, `StoreFull`, `CommitUnknown`, `ContentMissing`, as the contract says.
"""

from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from elemta.mail.ids import is_queue_id
from elemta.mail.outcome import Attempt
from elemta.runtime.clock import Clock
from elemta.runtime.ids import IdSource, SecureIds
from elemta.runtime.threads import Threads
from elemta.storage.base import (
    Change,
    Claim,
    ContentMissing,
    Filter,
    Finding,
    Joined,
    Order,
    Ordered,
    Result,
    Retention,
)
from elemta.storage.file_content import Contents, StagedFile
from elemta.storage.file_errors import explain
from elemta.storage.file_folders import Folders
from elemta.storage.file_queue import BATCH_MAILS, STEP_FILES, FileQueue
from elemta.storage.file_syncs import SYNC_THREADS
from elemta.storage.records import ContentRef, QueuedMail, QueueState
from elemta.storage.rules import STATES_OF_VERB

#: Threads that write staged content: two keep a disk busy, the others wait for its syncs.
STAGING_THREADS = 4
#: Threads that read content; what is queued lies mostly in the system's cache.
READING_THREADS = 4
#: Seconds that throwing staged content away may take; what is left then is collected later.
ABANDON_SECONDS = 5.0


class FileStore:
    """A `QueueStore` in the folders of `directory`."""

    def __init__(
        self,
        directory: str,
        threads: Threads,
        clock: Clock,
        *,
        ids: IdSource | None = None,
        sync_threads: int = SYNC_THREADS,
    ) -> None:
        """`ids` names staged content. `sync_threads` sync files at a checkpoint, within its hop."""
        self._threads = threads
        self._ids = ids or SecureIds(clock)
        self._folders = Folders(directory)
        self._contents = Contents(self._folders)
        self._queue = FileQueue(self._folders, self._contents, clock, sync_threads=sync_threads)
        self._one = trio.CapacityLimiter(1)
        self._stagers = trio.CapacityLimiter(STAGING_THREADS)
        self._readers = trio.CapacityLimiter(READING_THREADS)

    async def open(self) -> None:
        """Make or read the folders; see `QueueStore.open`."""
        await self._threads.run(self._one, self._queue.open)

    async def close(self) -> None:
        """Let go of the folders; see `QueueStore.close`."""
        await self._threads.run(self._one, self._queue.close)

    async def join(self, owner: str, now: float) -> Joined:
        """Take part as `owner`; see `QueueStore.join`."""
        return await self._threads.run(self._one, self._queue.join, owner)

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """One record and one sync for the batch; see `QueueStore.commit`. A cancelled commit has done nothing."""
        return await self._threads.run(self._one, self._queue.commit, batch)

    async def stage(self) -> "FileWriter":
        """Begin to stage content."""
        await trio.lowlevel.checkpoint()
        return FileWriter(StagedFile(self._contents, self._ids.new_id()), self._threads, limiter=self._stagers)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """A part of the content; see `QueueStore.read`."""
        return await self._threads.run(self._readers, self._read, ref, offset, limit)

    def _read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        if not is_queue_id(ref.id) or not self._queue.is_needed(ref.id):
            raise ContentMissing("the content is not in the queue")
        try:
            octets = self._contents.read(ref, offset, limit)
        except OSError as error:
            raise explain(error, self._folders.directory) from error
        # When the mail left meanwhile, its file may hold another's content already.
        if not self._queue.is_needed(ref.id):
            raise ContentMissing("the content is not in the queue any more")
        return octets

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """Take ownership of due mails; see `QueueStore.claim`."""
        while True:
            mails = await self._threads.run(self._one, self._queue.claim, claim)
            if mails is not None:
                return mails

    async def next_due(self) -> float | None:
        """When the earliest claimable mail is due."""
        return await self._threads.run(self._one, self._queue.next_due)

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail by its id."""
        return await self._threads.run(self._one, self._queue.get, queue_id)

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first."""
        return await self._threads.run(self._readers, self._queue.attempts, queue_id)

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        """Mails in order of id; see `QueueStore.list`."""
        ids = await self._threads.run(self._one, self._queue.candidates, chosen, after)
        found: list[QueuedMail] = []
        for start in range(0, len(ids), STEP_FILES):
            if len(found) >= limit:
                break
            step = ids[start : start + STEP_FILES]
            found += await self._threads.run(self._one, self._queue.chosen, step, chosen, limit - len(found))
        return found

    async def counts(self) -> Mapping[QueueState, int]:
        """How many mails stand in each state; every state is named."""
        return await self._threads.run(self._one, self._queue.counts)

    async def apply(self, order: Order) -> Ordered:
        """Carry out an operator's order in batches; see `QueueStore.apply`."""
        states = STATES_OF_VERB[order.verb]
        if order.filter.states is not None:
            states &= order.filter.states
        chosen = attrs.evolve(order.filter, states=states)
        ids = await self._threads.run(self._one, self._queue.candidates, chosen)
        meant: list[str] = []
        for start in range(0, len(ids), STEP_FILES):
            if len(meant) >= order.limit:
                break
            step = ids[start : start + STEP_FILES]
            meant += await self._threads.run(self._one, self._queue.meant, step, order, order.limit - len(meant))
        changed: tuple[str, ...] = ()
        in_flight: tuple[str, ...] = ()
        for start in range(0, len(meant), BATCH_MAILS):
            part = await self._threads.run(self._one, self._queue.obey, order, meant[start : start + BATCH_MAILS])
            changed += part.changed
            in_flight += part.in_flight
        return Ordered(changed, in_flight)

    async def cleanup(self, retention: Retention) -> int:
        """Remove what is past its retention; see `QueueStore.cleanup`."""
        removed = await self._threads.run(self._one, self._queue.remove_finished, retention)
        if retention.attempts_before is not None:
            await self._threads.run(self._one, self._queue.remove_attempts, retention.attempts_before)
        if retention.staged_before is not None:
            await self._threads.run(self._one, self._queue.remove_staged, retention.staged_before)
        return removed

    async def inspect(self) -> Sequence[Finding]:
        """Look over every file; see `QueueStore.inspect`."""
        found, places = await self._threads.run(self._one, self._queue.begin_inspection)
        for start in range(0, len(places), STEP_FILES):
            found += await self._threads.run(self._one, self._queue.inspect, places[start : start + STEP_FILES])
        return found


class FileWriter:
    """Content on its way into the queue: one hop for all pieces of a call."""

    def __init__(self, staged: StagedFile, threads: Threads, *, limiter: trio.CapacityLimiter) -> None:
        self._staged = staged
        self._threads = threads
        self._limiter = limiter
        self._finished = False

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces; see `ContentWriter.write`."""
        await self._threads.run(self._limiter, self._do, self._staged.write, pieces)

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        """Sync the file; see `ContentWriter.finish`."""
        await self._threads.run(self._limiter, self._do, self._staged.finish, pieces)
        self._finished = True
        return self._staged.content_id

    def _do(self, work: Callable[[Sequence[bytes]], None], pieces: Sequence[bytes]) -> None:
        try:
            work(pieces)
        except OSError as error:
            raise explain(error, self._staged.directory) from error

    async def abandon(self) -> None:
        """Remove the file, unless it was finished: then an insert may refer to it already."""
        if self._finished:
            await trio.lowlevel.checkpoint()
            return
        self._finished = True
        with trio.move_on_after(ABANDON_SECONDS, shield=True):
            await self._threads.run(self._limiter, self._discard)

    def _discard(self) -> None:
        try:
            self._staged.discard()
        except OSError:
            # What cannot be removed now is collected later, as content that nothing refers to.
            return
