"""The queue in one SQLite database: the embedded default.

What is not here: statements, tables, files (`sqlite_writer` and its neighbours). This module gives each verb its one
thread hop: one thread at a time changes the queue, one looks into it, one searches it, some more write staged content.

Raises `StoreUnavailable`, `StoreFull`, `CommitUnknown`, `ContentMissing`, as the contract says.
"""

import sqlite3
from collections.abc import Mapping, Sequence

import trio

from elemta.mail.outcome import Attempt
from elemta.runtime.clock import Clock
from elemta.runtime.ids import IdSource, SecureIds
from elemta.runtime.threads import Threads
from elemta.storage.base import (
    Change,
    Claim,
    Filter,
    Finding,
    Joined,
    Order,
    Ordered,
    Result,
    Retention,
    StoreUnavailable,
)
from elemta.storage.records import ContentRef, QueuedMail, QueueState
from elemta.storage.sqlite_content import ContentFolder, StagedFile
from elemta.storage.sqlite_errors import explain
from elemta.storage.sqlite_place import BUSY_SECONDS, OLDEST_SQLITE, Place
from elemta.storage.sqlite_reader import Reader
from elemta.storage.sqlite_schema import UnknownSchema, migrate
from elemta.storage.sqlite_scout import Scout
from elemta.storage.sqlite_writer import CLEANUP_ROWS, Writer

#: Threads that write staged content: two keep a disk busy, the others wait for its syncs.
STAGING_THREADS = 4
#: Seconds that throwing staged content away may take; what is left then is collected later.
ABANDON_SECONDS = 5.0


class SqliteStore:
    """A `QueueStore` in `directory`: `queue.db`, and `content/` for what is too large for it."""

    def __init__(
        self,
        directory: str,
        threads: Threads,
        clock: Clock,
        *,
        ids: IdSource | None = None,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        """`busy_seconds` is how long a change waits for another program's lock. `ids` names staged content."""
        self._threads = threads
        self._clock = clock
        self._ids = ids or SecureIds(clock)
        self._place = Place(directory, busy_seconds=busy_seconds)
        self._contents = ContentFolder(self._place.contents)
        self._writer = Writer(self._place, self._contents)
        self._reader = Reader(self._place, self._contents)
        self._scout = Scout(self._place)
        self._searching = trio.Lock()
        self._one_writer = trio.CapacityLimiter(1)
        self._one_reader = trio.CapacityLimiter(1)
        self._one_scout = trio.CapacityLimiter(1)
        self._stagers = trio.CapacityLimiter(STAGING_THREADS)

    async def open(self) -> None:
        """Make or open the database; see `QueueStore.open`."""
        await self._threads.run(self._one_writer, self._open)

    def _open(self) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            oldest = ".".join(map(str, OLDEST_SQLITE))
            raise StoreUnavailable(f"SQLite {sqlite3.sqlite_version} is too old: {oldest} is needed")
        try:
            self._place.prepare()
            self._contents.prepare()
            connection = self._place.connect()
            try:
                migrate(connection, self._clock.wall())
            finally:
                connection.close()
        except UnknownSchema as error:
            raise StoreUnavailable(f"{self._place.database} cannot be used: {error}") from error
        except (OSError, sqlite3.Error) as error:
            raise explain(error, self._place.database) from error
        self._writer.open()
        self._reader.open()
        self._scout.open()

    async def close(self) -> None:
        """Let go of the database; see `QueueStore.close`."""
        await self._threads.run(self._one_scout, self._scout.close)
        await self._threads.run(self._one_reader, self._reader.close)
        await self._threads.run(self._one_writer, self._writer.close)

    async def join(self, owner: str, now: float) -> Joined:
        """Take part as `owner`; see `QueueStore.join`."""
        try:
            return await self._threads.run(self._one_writer, self._writer.join, owner)
        finally:
            self._scout.forget()

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """One transaction and one sync for the batch; see `QueueStore.commit`. A cancelled commit has done nothing."""
        try:
            return await self._threads.run(self._one_writer, self._writer.commit, batch)
        finally:
            self._scout.note(batch)

    async def stage(self) -> "SqliteWriter":
        """Begin to stage content in a file of its own."""
        await trio.lowlevel.checkpoint()
        staged = StagedFile(self._contents, self._ids.new_id())
        return SqliteWriter(staged, self._threads, limiter=self._stagers, place=self._place)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """A part of the content; see `QueueStore.read`."""
        return await self._threads.run(self._one_reader, self._reader.read, ref, offset, limit)

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """Take ownership of due mails; see `QueueStore.claim`."""
        if not claim.exclude:
            return await self._threads.run(self._one_writer, self._writer.claim, claim)
        async with self._searching:
            passed, found = self._scout.begin(), None
            try:
                search = await self._threads.run(self._one_scout, self._scout.search, claim, passed)
                mails: list[QueuedMail] = []
                if search.ids:
                    mails = await self._threads.run(self._one_writer, self._writer.claim_found, claim, search.ids)
                if len(mails) == len(search.ids):
                    found = search
                return mails
            finally:
                self._scout.end(found)

    async def next_due(self) -> float | None:
        """When the earliest claimable mail is due."""
        return await self._threads.run(self._one_reader, self._reader.next_due)

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail by its id."""
        return await self._threads.run(self._one_reader, self._reader.get, queue_id)

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first."""
        return await self._threads.run(self._one_reader, self._reader.attempts, queue_id)

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        """Mails in order of id; see `QueueStore.list`."""
        return await self._threads.run(self._one_reader, self._reader.list_mails, chosen, limit, after)

    async def counts(self) -> Mapping[QueueState, int]:
        """How many mails stand in each state; every state is named."""
        return await self._threads.run(self._one_reader, self._reader.counts)

    async def apply(self, order: Order) -> Ordered:
        """Find what an order means beside the commits, then carry it out; see `QueueStore.apply`."""
        ids = await self._threads.run(self._one_reader, self._reader.meant, order)
        try:
            return await self._threads.run(self._one_writer, self._writer.apply, order, ids)
        finally:
            self._scout.forget()

    async def cleanup(self, retention: Retention) -> int:
        """Remove what is past its retention, in short transactions; see `QueueStore.cleanup`."""
        removed = await self._threads.run(self._one_writer, self._writer.remove_finished, retention)
        if retention.attempts_before is not None:
            before = retention.attempts_before
            while await self._threads.run(self._one_writer, self._writer.remove_attempts, before) == CLEANUP_ROWS:
                pass
        if retention.staged_before is not None:
            await self._threads.run(self._one_writer, self._writer.remove_staged, retention.staged_before)
        return removed

    async def inspect(self) -> Sequence[Finding]:
        """What is odd about the database and its folder; see `QueueStore.inspect`."""
        return await self._threads.run(self._one_reader, self._reader.inspect)


class SqliteWriter:
    """Content on its way into the queue: one hop for all pieces of a call."""

    def __init__(self, staged: StagedFile, threads: Threads, *, limiter: trio.CapacityLimiter, place: Place) -> None:
        self._staged = staged
        self._threads = threads
        self._limiter = limiter
        self._place = place
        self._finished = False

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces; see `ContentWriter.write`."""
        await self._threads.run(self._limiter, self._write, pieces)

    def _write(self, pieces: Sequence[bytes]) -> None:
        try:
            self._place.check_space()
            self._staged.write(pieces)
        except OSError as error:
            raise explain(error, self._place.database) from error

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        """Sync the file; see `ContentWriter.finish`."""
        await self._threads.run(self._limiter, self._finish, pieces)
        self._finished = True
        return self._staged.content_id

    def _finish(self, pieces: Sequence[bytes]) -> None:
        try:
            self._place.check_space()
            self._staged.finish(pieces)
        except OSError as error:
            raise explain(error, self._place.database) from error

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
