"""Copies the mails of one queue into another store, whatever engines the two are.

A copy is told to nobody: what runs on the target finds the mails by claiming them. Mails come with content, state,
progress, times and attempts; they are nobody's. An attempt that was in flight when the source stopped is recorded as
uncertain in the target, as `QueueStore.join` would have recorded it in the source.

It is safe to interrupt and to repeat. A mail that is in the target already is left as it stands there, and one that the
target had and finished is not brought back: the target remembers an attempt later than the source's last. With
`remove`, a mail leaves the source once it was read back whole from the target; one that the target finished stays in
the source for a person to look at.

What is not here: opening the stores, or making sure that nobody delivers from the source (`cli.queue_transfer`).
Failures raised: `StoreUnavailable`, `SameStore`, `SourceInUse`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from hashlib import sha256

import trio
from attrs import Factory, define, evolve, field, frozen

from elemta.mail.outcome import Attempt
from elemta.queue.shared import as_shared, nodes_alive
from elemta.queue.wholeness import check_content, pieces_of
from elemta.runtime.clock import Clock
from elemta.storage.base import (
    Change,
    CommitUnknown,
    ContentMissing,
    Filter,
    Insert,
    Order,
    QueueStore,
    Result,
    StoreFull,
    StoreUnavailable,
    Verb,
)
from elemta.storage.records import INLINE_CONTENT_OCTETS, ContentRef, QueuedMail
from elemta.storage.rules import uncertain_attempts

#: Mails looked at together, and at most in one commit.
PAGE_MAILS = 200
#: Octets after which a commit is made: some 40 ms of a disk's work, and what is held in memory.
BATCH_OCTETS = 4 * 1024 * 1024
#: What the record of one attempt counts for: two names, an address, a reply line.
ATTEMPT_OCTETS = 512
#: Contents remembered by where they went: mails that share content were accepted together, so their ids are neighbours.
REMEMBERED_CONTENTS = 10_000
#: Seconds to take out of the target again what a copy put there for itself.
LEAVE_SECONDS = 5.0
#: How often a commit of unknown outcome is repeated.
COMMIT_TRIES = 3
#: Troubles kept with their words; the others are counted.
NAMED_TROUBLES = 1000


class SameStore(Exception):
    """Source and target are one store."""


class SourceInUse(Exception):
    """A node delivers from the source, so that a copied mail might be delivered by both."""


@frozen
class Trouble:
    """A mail that was not copied, and why, for people."""

    id: str
    what: str


@define
class Tally:
    """What a copy did so far. `octets` are those of content that was copied."""

    #: Mails in the source when it began.
    total: int = 0
    seen: int = 0
    copied: int = 0
    octets: int = 0
    #: Mails that the target had already.
    present: int = 0
    #: Mails that the target had and finished since an earlier run.
    finished: int = 0
    #: Copied mails whose attempt was in flight when the source stopped.
    uncertain: int = 0
    #: Mails that left the source.
    removed: int = 0
    failed: int = 0
    #: The first of the failed.
    troubles: list[Trouble] = Factory(list)

    def fail(self, queue_id: str, what: str) -> None:
        """Count a mail that was not copied."""
        self.failed += 1
        if len(self.troubles) < NAMED_TROUBLES:
            self.troubles.append(Trouble(queue_id, what))


@frozen
class Terms:
    """How to copy. `owner` is the copy's own name in a shared target, nobody else's ever.

    `remove` takes out of the source what is safe in the target. `source_in_use` allows nodes that deliver from the
    source meanwhile: for a copy that is kept, never for one that is delivered.
    """

    owner: str
    remove: bool = False
    source_in_use: bool = False


@frozen
class _Passage:
    """One mail on its way: as it shall lie in the target, with the octets or None, and what its history lacks there."""

    old: QueuedMail
    new: QueuedMail
    octets: bytes | None
    history: tuple[Attempt, ...]
    #: True when its content came with another mail.
    shares: bool

    def insert(self) -> Insert:
        return Insert(self.new, self.octets, attempts=self.history)

    @property
    def weight(self) -> int:
        return len(self.octets or b"") + len(self.history) * ATTEMPT_OCTETS


@define
class _Batch:
    passages: list[_Passage] = field(factory=list)
    octets: int = 0

    def add(self, passage: _Passage) -> bool:
        """Add a mail; True when it is time to commit."""
        self.passages.append(passage)
        self.octets += passage.weight
        return self.octets >= BATCH_OCTETS


class Transfer:
    """One copy from an open store to another."""

    def __init__(self, source: QueueStore, target: QueueStore, *, clock: Clock, terms: Terms) -> None:
        self._source = source
        self._target = target
        self._clock = clock
        self._terms = terms
        #: Where large content went, by its id in the source.
        self._moved: OrderedDict[str, ContentRef] = OrderedDict()
        #: Large content that did not come back whole, by its id in the target.
        self._damaged: set[str] = set()
        #: Mails of this page that may leave the source.
        self._safe: list[QueuedMail] = []
        self._tally = Tally()

    async def run(self, tell: Callable[[Tally], None]) -> Tally:
        """Copy every mail; `tell` gets the tally as it grows. Raises `StoreUnavailable`, `SameStore`, `SourceInUse`."""
        tally = self._tally
        tally.total = sum((await self._source.counts()).values())
        await self._check_apart()
        page = await self._source.list(Filter(), PAGE_MAILS)
        while page:
            await self._check_idle()
            await self._copy_page(page, tell)
            page = await self._source.list(Filter(), PAGE_MAILS, page[-1].id)
        return tally

    # ---- nodes -----------------------------------------------------------------------------------

    async def _check_apart(self) -> None:
        """Refuse to copy a store into itself, however its address is spelt: who joins the one is seen in the other."""
        source, target = as_shared(self._source), as_shared(self._target)
        if source is None or target is None:
            return
        token = (await target.join(self._terms.owner, self._clock.wall())).token
        try:
            is_same = any(node.owner == self._terms.owner for node in await source.nodes())
        finally:
            with trio.move_on_after(LEAVE_SECONDS, shield=True), suppress(StoreUnavailable):
                await target.leave(self._terms.owner, token)
        if is_same:
            raise SameStore("source and target are the same queue: nothing was done.")

    async def _check_idle(self) -> None:
        if self._terms.source_in_use:
            return
        alive = await nodes_alive(self._source)
        if alive:
            names = ", ".join(node.owner for node in alive)
            raise SourceInUse(f"the source is in use by {names}: a mail might be delivered by both.")

    # ---- a page ----------------------------------------------------------------------------------

    async def _copy_page(self, page: Sequence[QueuedMail], tell: Callable[[Tally], None]) -> None:
        present = await self._lookup([mail.id for mail in page])
        batch, self._safe = _Batch(), []
        for mail in page:
            passage = await self._passage(mail, present.get(mail.id))
            if passage is not None and batch.add(passage):
                await self._write(batch)
                batch = _Batch()
            self._tally.seen += 1
            tell(self._tally)
        await self._write(batch)
        if self._terms.remove and self._safe:
            await self._remove(self._safe)
        tell(self._tally)

    async def _lookup(self, ids: Sequence[str]) -> dict[str, QueuedMail]:
        found = await self._target.list(Filter(ids=frozenset(ids)), len(ids))
        return {mail.id: mail for mail in found}

    async def _passage(self, mail: QueuedMail, present: QueuedMail | None) -> _Passage | None:
        """What to write for a mail; None when there is nothing to write, which is counted."""
        if present is not None:
            await self._meet(mail, present)
            return None
        history, known = await self._source.attempts(mail.id), await self._target.attempts(mail.id)
        if mail.attempting_since is not None:
            history += uncertain_attempts(mail, mail.attempting_since)
        if _is_finished(mail, history, known):
            self._tally.finished += 1
            return None
        try:
            return await self._prepare(mail, tuple(each for each in history if each not in set(known)))
        except ContentMissing as error:
            self._tally.fail(mail.id, str(error))
            return None

    async def _meet(self, mail: QueuedMail, present: QueuedMail) -> None:
        """Leave a mail that is in the target already as it stands; before it leaves the source, look at it."""
        self._remember(mail.content, present.content)
        if self._terms.remove:
            try:
                if (mail.origin_id, mail.content.size) != (present.origin_id, present.content.size):
                    raise ContentMissing("another mail has its id")
                await self._check_content(present, shares=False)
            except ContentMissing as error:
                self._tally.fail(mail.id, f"in the target {error}")
                return
            self._safe.append(mail)
        self._tally.present += 1

    async def _prepare(self, mail: QueuedMail, history: tuple[Attempt, ...]) -> _Passage:
        octets, ref = None, self._moved.get(mail.content.id)
        shares = ref is not None
        if ref is None and mail.content.size <= INLINE_CONTENT_OCTETS:
            ref, octets = await self._small(mail.content)
        elif ref is None:
            ref = await self._stage(mail.content)
            self._remember(mail.content, ref)
        new = evolve(mail, content=ref, owner="", attempting_since=None)
        return _Passage(mail, new, octets, history, shares)

    async def _small(self, ref: ContentRef) -> tuple[ContentRef, bytes]:
        async with aclosing(pieces_of(ref, self._source.read)) as pieces:
            octets = b"".join([piece async for piece in pieces])
        return evolve(ref, digest=sha256(octets).hexdigest()), octets

    async def _stage(self, ref: ContentRef) -> ContentRef:
        """Copy large content piece by piece, look at it in the source only once, and name it as the target does."""
        digest = sha256()
        writer = await self._target.stage()
        try:
            async with aclosing(pieces_of(ref, self._source.read)) as pieces:
                async for piece in pieces:
                    digest.update(piece)
                    await writer.write([piece])
            return evolve(ref, id=await writer.finish(), digest=digest.hexdigest())
        except BaseException:
            with trio.move_on_after(LEAVE_SECONDS, shield=True):
                await writer.abandon()
            raise

    def _remember(self, old: ContentRef, new: ContentRef) -> None:
        """Mails that shared large content in the source share it in the target."""
        if old.size > INLINE_CONTENT_OCTETS:
            self._moved[old.id] = new
            if len(self._moved) > REMEMBERED_CONTENTS:
                self._moved.popitem(last=False)

    # ---- writing ---------------------------------------------------------------------------------

    async def _write(self, batch: _Batch) -> None:
        """Commit a batch, then look at what lies there."""
        passages = batch.passages
        if not passages:
            return
        results = await self._commit([passage.insert() for passage in passages])
        written = await self._lookup([passage.new.id for passage in passages])
        for passage, result in zip(passages, results, strict=True):
            await self._judge(passage, result, written.get(passage.new.id))

    async def _commit(self, changes: Sequence[Change]) -> Sequence[Result]:
        for _ in range(COMMIT_TRIES - 1):
            with suppress(CommitUnknown):
                return await self._target.commit(changes)
        return await self._target.commit(changes)

    async def _judge(self, passage: _Passage, result: Result, written: QueuedMail | None) -> None:
        """Count a mail by what the target says of it now."""
        mail = passage.new
        if result is Result.FULL:
            raise StoreFull("no room is left in the target")
        if result is Result.REFUSED and passage.shares:
            # The one that brought the content has left the target meanwhile, and the content with it.
            self._moved.pop(passage.old.content.id, None)
            await self._write(_Batch([await self._prepare(passage.old, passage.history)]))
            return
        if result is Result.REFUSED:
            self._tally.fail(mail.id, "the target does not take it: it holds something that the target cannot keep")
            return
        try:
            await self._check_written(passage, written)
        except ContentMissing as error:
            self._tally.fail(mail.id, f"in the target {error}")
            return
        self._safe.append(passage.old)
        self._tally.copied += 1
        self._tally.octets += 0 if passage.shares else mail.content.size
        self._tally.uncertain += passage.old.attempting_since is not None

    async def _check_written(self, passage: _Passage, written: QueuedMail | None) -> None:
        """Read back what was written. Raises `ContentMissing` when it is not what it should be."""
        if written is None:
            # A node of the target may have delivered it by now, which leaves a record.
            known = await self._target.attempts(passage.new.id)
            if not _is_finished(passage.old, passage.history, known):
                raise ContentMissing("it is not there after it was written")
            return
        if _lasting(written) != _lasting(passage.new):
            raise ContentMissing("it is not the mail that was written")
        await self._check_content(written, shares=passage.shares)

    async def _check_content(self, mail: QueuedMail, *, shares: bool) -> None:
        """Read content back, once for all mails that share it."""
        if shares:
            if mail.content.id in self._damaged:
                raise ContentMissing(f"the content {mail.content.id} is damaged")
            return
        missing: ContentMissing | None = None
        try:
            await check_content(mail.content, self._target.read)
        except ContentMissing as error:
            missing = error
        if missing is not None and await self._target.get(mail.id) is not None:
            self._damaged.add(mail.content.id)
            raise missing

    # ---- the source ------------------------------------------------------------------------------

    async def _remove(self, mails: Sequence[QueuedMail]) -> None:
        """Take out of the source what the target has whole."""
        ids = frozenset(mail.id for mail in mails)
        order = Order(Verb.DELETE, Filter(ids=ids), self._clock.wall(), len(ids))
        ordered = await self._source.apply(order)
        self._tally.removed += len(ordered.changed)
        if ordered.in_flight:
            # Of a node that stopped in the middle: nobody delivers from the source, or we would not be here.
            for owner in sorted({mail.owner for mail in mails if mail.id in ordered.in_flight}):
                await self._free(owner)
            self._tally.removed += len((await self._source.apply(order)).changed)

    async def _free(self, owner: str) -> None:
        joined = await self._source.join(owner, self._clock.wall())
        shared = as_shared(self._source)
        if shared is not None:
            await shared.leave(owner, joined.token)


def _is_finished(mail: QueuedMail, history: Sequence[Attempt], known: Sequence[Attempt]) -> bool:
    """True for a mail that is not in the target although the target tried it: it left there.

    In doubt it did not, and is copied: once too often is better than never. Each store forgets old attempts in its own
    time, so that only an attempt after all that the source remembers tells.
    """
    if not history and mail.attempts:
        return False
    newest = max((each.started_at for each in history), default=0.0)
    return any(each.started_at >= newest for each in set(known) - set(history))


def _lasting(mail: QueuedMail) -> object:
    """What no delivery changes of a mail."""
    return mail.id, mail.origin_id, mail.content, mail.envelope, mail.received_at, mail.expires_at
