"""The stores of the dev inbox: in memory, or in an SQLite database beside the queue.

What is not here: the protocol that they match (`delivery.inbox`), or the statements (`storage.inbox_database`). Both
keep the newest mails up to a number and a size; the oldest give way. Older or newer is a mail by when it arrived.
Failures raised: `OSError` when the engine fails, with `ENOSPC` when it is full.
"""

import errno
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, Protocol

import trio
from attrs import define, frozen

from elemta.mail.inbox import InboxEntry
from elemta.runtime.threads import Threads
from elemta.storage.inbox_database import InboxDatabase, KeepMail, KeepPiece, RemoveMails, Request
from elemta.storage.records import PIECE_OCTETS

#: Mails kept: more than anybody reads, few enough that every listing is quick.
MAX_MAILS: Final = 10_000
#: Octets of content kept in memory, the newest mail always.
MAX_MEMORY_OCTETS: Final = 256 * 1024 * 1024
#: Octets of content kept on disk, the newest mail always.
MAX_DISK_OCTETS: Final = 4 * 1024 * 1024 * 1024
#: Arrivals that one waiting caller looks at between two checkpoints.
_BATCH: Final = 100


class Readable(Protocol):
    """Content that is read in pieces."""

    @property
    def size(self) -> int:
        """Octets in all."""
        ...

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`; empty at the end."""
        ...


@frozen
class Bounds:
    """How much an inbox keeps."""

    mails: int
    octets: int


async def _whole_piece(content: Readable, offset: int) -> bytes:
    """`PIECE_OCTETS` of content from `offset`, or what is left of it, however little one `read` gives."""
    wanted = min(PIECE_OCTETS, content.size - offset)
    piece = await content.read(offset, wanted)
    while len(piece) < wanted:
        more = await content.read(offset + len(piece), wanted - len(piece))
        if not more:
            raise EOFError(f"the content ends after {offset + len(piece)} of {content.size} octets")
        piece += more
    return piece


class _Arrivals:
    """Wakes whoever waits for a mail."""

    def __init__(self) -> None:
        self._next = trio.Event()

    def announce(self) -> None:
        """Something arrived."""
        arrived, self._next = self._next, trio.Event()
        arrived.set()

    async def first(
        self, since: "_Since", matches: Callable[[InboxEntry], bool], *, after: int, newer_than: str
    ) -> InboxEntry:
        """The first match among the arrivals after number `after`, of mails whose id is above `newer_than`."""
        while True:
            arrived = self._next
            batch = await since(after, _BATCH)
            for number, entry in batch:
                after = number
                if entry.id > newer_than and matches(entry):
                    return entry
            if not batch:
                await arrived.wait()


class _Since(Protocol):
    """Arrivals after a number, in their order."""

    async def __call__(self, after: int, limit: int) -> Sequence[tuple[int, InboxEntry]]: ...


# ---- in memory ----------------------------------------------------------------------------------


@define
class _Kept:
    """One mail; `number` counts arrivals."""

    number: int
    entry: InboxEntry
    octets: bytes


class MemoryInbox:
    """Keeps mails until the process ends."""

    def __init__(self, bounds: Bounds = Bounds(MAX_MAILS, MAX_MEMORY_OCTETS)) -> None:
        self._bounds = bounds
        self._mails: dict[str, _Kept] = {}
        self._number = 0
        self._octets = 0
        self._arrivals = _Arrivals()

    async def open(self) -> None:
        """Nothing is to be made ready."""
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Nothing is to be let go of."""
        await trio.lowlevel.checkpoint()

    async def add(self, entry: InboxEntry, content: Readable) -> None:
        """Keep a mail, or keep it anew; see `InboxStore.add`."""
        octets = b"".join([await _whole_piece(content, at) for at in range(0, content.size, PIECE_OCTETS)])
        await trio.lowlevel.checkpoint()
        known = self._mails.get(entry.id)
        self._octets += len(octets) - (len(known.octets) if known else 0)
        if known is None:
            self._number += 1
        self._mails[entry.id] = _Kept(known.number if known else self._number, entry, octets)
        self._give_way()
        self._arrivals.announce()

    def _give_way(self) -> None:
        while len(self._mails) > self._bounds.mails or (self._octets > self._bounds.octets and len(self._mails) > 1):
            self._remove(next(iter(self._mails)))

    def _remove(self, queue_id: str) -> bool:
        kept = self._mails.pop(queue_id, None)
        if kept is not None:
            self._octets -= len(kept.octets)
        return kept is not None

    async def list(self, limit: int, before: str | None = None) -> Sequence[InboxEntry]:
        """The newest mails first; see `InboxStore.list`."""
        await trio.lowlevel.checkpoint()
        marked = None if before is None else self._mails.get(before)
        found: list[InboxEntry] = []
        for kept in reversed(self._mails.values()):
            if len(found) >= limit:
                break
            if before is None or (kept.entry.id < before if marked is None else kept.number < marked.number):
                found.append(kept.entry)
        return found

    async def get(self, queue_id: str) -> InboxEntry | None:
        """One mail's entry; None when it is not there."""
        await trio.lowlevel.checkpoint()
        kept = self._mails.get(queue_id)
        return None if kept is None else kept.entry

    async def raw(self, queue_id: str, offset: int = 0, limit: int = PIECE_OCTETS) -> bytes:
        """At most `limit` octets from `offset`; see `InboxStore.raw`."""
        await trio.lowlevel.checkpoint()
        kept = self._mails.get(queue_id)
        return b"" if kept is None else kept.octets[offset : offset + limit]

    async def delete(self, queue_ids: Collection[str]) -> int:
        """Remove these mails; returns how many there were."""
        await trio.lowlevel.checkpoint()
        return sum(self._remove(queue_id) for queue_id in set(queue_ids))

    async def clear(self) -> int:
        """Remove all mails; returns how many there were."""
        return await self.delete(list(self._mails))

    async def count(self) -> int:
        """How many mails are kept."""
        await trio.lowlevel.checkpoint()
        return len(self._mails)

    async def newest(self) -> InboxEntry | None:
        """The mail that arrived last; None when there is none."""
        return next(iter(await self.list(1)), None)

    async def wait_for(self, matches: Callable[[InboxEntry], bool], after: str | None = None) -> InboxEntry:
        """The first mail that matches; see `InboxStore.wait_for`."""
        marked = None if after is None else self._mails.get(after)
        newer_than = after if after is not None and marked is None else ""
        number = 0 if marked is None else marked.number
        return await self._arrivals.first(self._since, matches, after=number, newer_than=newer_than)

    async def _since(self, after: int, limit: int) -> Sequence[tuple[int, InboxEntry]]:
        await trio.lowlevel.checkpoint()
        found = ((kept.number, kept.entry) for kept in self._mails.values() if kept.number > after)
        return [pair for pair, _ in zip(found, range(limit), strict=False)]


# ---- in SQLite ----------------------------------------------------------------------------------


class SqliteInbox:
    """Keeps mails in `inbox.db` in `folder`, durably.

    Whatever is asked while one transaction commits becomes the next one: a batch costs one thread hop and one sync.
    What waits there is bounded by the deliveries in flight, each with at most `PIECE_OCTETS` of content.
    """

    def __init__(self, folder: Path, threads: Threads, *, bounds: Bounds = Bounds(MAX_MAILS, MAX_DISK_OCTETS)) -> None:
        self._threads = threads
        self._database = InboxDatabase(folder, max_mails=bounds.mails, max_octets=bounds.octets)
        self._pending: list[Request] = []
        self._turn = trio.Lock()
        self._one_writer = trio.CapacityLimiter(1)
        self._one_reader = trio.CapacityLimiter(1)
        self._arrivals = _Arrivals()

    async def open(self) -> None:
        """Make or open the database. Raises `OSError` with the remedy in its text."""
        await self._threads.run(self._one_writer, self._database.open)

    async def close(self) -> None:
        """Let go of the database."""
        with trio.CancelScope(shield=True):  # a commit that runs ends by itself: no thread is abandoned
            async with self._turn:
                await self._threads.run(self._one_writer, self._database.close)

    # ---- changes --------------------------------------------------------------------------------

    async def add(self, entry: InboxEntry, content: Readable) -> None:
        """Durable when it returns; see `InboxStore.add`. A large mail goes in pieces before its entry does."""
        octets: bytes | None = None
        if content.size <= PIECE_OCTETS:
            octets = await _whole_piece(content, 0)
        else:
            for number, offset in enumerate(range(0, content.size, PIECE_OCTETS)):
                await self._write(KeepPiece(entry.id, number, await _whole_piece(content, offset)))
        await self._write(KeepMail(entry, octets))

    async def delete(self, queue_ids: Collection[str]) -> int:
        """Remove these mails; returns how many there were."""
        return await self._write(RemoveMails(queue_ids))

    async def clear(self) -> int:
        """Remove all mails; returns how many there were."""
        return await self._write(RemoveMails(None))

    async def _write(self, request: Request) -> int:
        """Make one change durable, with all that others asked for meanwhile."""
        self._pending.append(request)
        try:
            async with self._turn:
                if not request.done:
                    await self._commit()
        except BaseException:
            if request in self._pending:  # else it is in the batch that commits just now
                self._pending.remove(request)
            raise
        if request.error is not None:
            raise request.error
        return request.count

    async def _commit(self) -> None:
        batch, self._pending = self._pending, []
        failure: OSError | None = OSError(errno.EIO, "the inbox broke off with an internal error")
        try:
            with trio.CancelScope(shield=True):  # others wait for it: a commit is never abandoned
                await self._threads.run(self._one_writer, self._database.commit, batch)
            failure = None
        except OSError as error:
            failure = error
        finally:
            for request in batch:
                request.done = True
                if failure is not None:
                    # Each its own: an exception raised twice would gather both tracebacks.
                    request.error = OSError(failure.errno, failure.strerror)
        if any(isinstance(request, KeepMail) for request in batch):
            self._arrivals.announce()

    # ---- looking --------------------------------------------------------------------------------

    async def list(self, limit: int, before: str | None = None) -> Sequence[InboxEntry]:
        """The newest mails first; see `InboxStore.list`."""
        return await self._threads.run(self._one_reader, self._database.newest, limit, before)

    async def get(self, queue_id: str) -> InboxEntry | None:
        """One mail's entry; None when it is not there."""
        return await self._threads.run(self._one_reader, self._database.get, queue_id)

    async def raw(self, queue_id: str, offset: int = 0, limit: int = PIECE_OCTETS) -> bytes:
        """At most `limit` octets from `offset`; see `InboxStore.raw`."""
        return await self._threads.run(self._one_reader, self._database.raw, queue_id, offset, limit)

    async def count(self) -> int:
        """How many mails are kept."""
        return await self._threads.run(self._one_reader, self._database.count)

    async def newest(self) -> InboxEntry | None:
        """The mail that arrived last; None when there is none."""
        return next(iter(await self.list(1)), None)

    async def wait_for(self, matches: Callable[[InboxEntry], bool], after: str | None = None) -> InboxEntry:
        """The first mail that matches; see `InboxStore.wait_for`."""
        number = None
        if after is not None:
            number = await self._threads.run(self._one_reader, self._database.arrival, after)
        newer_than = after if after is not None and number is None else ""
        return await self._arrivals.first(self._since, matches, after=number or 0, newer_than=newer_than)

    async def _since(self, after: int, limit: int) -> Sequence[tuple[int, InboxEntry]]:
        return await self._threads.run(self._one_reader, self._database.since, after, limit)
