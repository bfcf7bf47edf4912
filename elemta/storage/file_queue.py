"""The verbs of the queue on the file system, one thread at a time.

What is not here: threads (`file`), what a batch of changes means (`file_draft`), how it becomes durable
(`file_journal`), how the folders are read when the store opens (`file_survey`).

Raises `StoreUnavailable`, `StoreFull`, `CommitUnknown`, as the contract says.
"""

from collections.abc import Iterable, Sequence

import attrs

from elemta.mail.ids import is_queue_id
from elemta.mail.outcome import Attempt
from elemta.runtime.clock import Clock
from elemta.storage.base import (
    Change,
    Claim,
    Filter,
    Finding,
    Insert,
    Joined,
    Order,
    Ordered,
    Result,
    Retention,
    StoreFull,
    StoreUnavailable,
    Verb,
)
from elemta.storage.file_attempts import History, encode_attempts, made_at
from elemta.storage.file_check import Inspector
from elemta.storage.file_content import Contents, check_space, content_place
from elemta.storage.file_draft import Draft
from elemta.storage.file_errors import explain
from elemta.storage.file_folders import FOLDER_OF, Folders, OddFile, Place
from elemta.storage.file_index import Index
from elemta.storage.file_journal import Journal
from elemta.storage.file_nodes import NODES, Nodes
from elemta.storage.file_record import Batch, Write
from elemta.storage.file_state import Damaged, decode_state, encode_state, state_name
from elemta.storage.file_survey import shared_place, survey
from elemta.storage.file_syncs import SYNC_THREADS
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.rules import is_older, matches, obey, takes, uncertain_attempts

#: Mails kept in memory as they were last written, some 2 KiB each: those under way need not be read again.
RECENT_MAILS = 4096
#: Files that one call reads, some 20 ms: no commit waits longer for it.
STEP_FILES = 500
#: Mails that one batch of a join or an order changes.
BATCH_MAILS = 1000


class FileQueue:
    """A queue in its folders. Methods block, and are called in one thread at a time."""

    def __init__(self, folders: Folders, contents: Contents, clock: Clock, *, sync_threads: int = SYNC_THREADS) -> None:
        self._folders = folders
        self._contents = contents
        self._clock = clock
        self._journal = Journal(folders, sync_threads=sync_threads)
        self._history = History(folders)
        self._index = Index()
        self._nodes = Nodes()
        self._orphans: set[str] = set()
        self._recent: dict[str, QueuedMail] = {}

    def open(self) -> None:
        """Make the folders, or find out what lies there. Raises `StoreUnavailable`."""
        try:
            self._folders.open()
            self._journal.open()
            found = survey(self._folders, read_all=self._journal.is_new)
        except OddFile as error:
            raise StoreUnavailable(f"{self._folders.directory} cannot be used: {error}") from error
        except OSError as error:
            raise explain(error, self._folders.directory) from error
        self._index, self._nodes, self._orphans = found.index, found.nodes, found.orphans
        self._journal.generation = max(self._journal.generation, found.generation)
        self._recent.clear()

    def close(self) -> None:
        """Let go; more than once is no failure."""
        self._journal.close()
        self._folders.close()

    def _check_open(self) -> None:
        if not self._folders.is_open:
            raise StoreUnavailable("the queue is not open")

    # ---- the ground of a draft -----------------------------------------------------------------

    def load(self, queue_id: str) -> QueuedMail | None:
        """A mail as the last batch left it, None when it is not there. Raises `StoreUnavailable`."""
        mail = self._recent.get(queue_id)
        if mail is not None or queue_id not in self._index.entries:
            return mail
        return self._read(queue_id)

    def _read(self, queue_id: str) -> QueuedMail | None:
        entry = self._index.entries[queue_id]
        try:
            octets = self._journal.read((FOLDER_OF[entry.state], state_name(queue_id)))
            mail = decode_state(octets, queue_id, entry.state).mail
        except FileNotFoundError:
            # Somebody removed it by hand.
            self._index.remove(queue_id)
            return None
        except (OddFile, Damaged):
            self._index.lose(queue_id)
            return None
        except OSError as error:
            raise explain(error, self._folders.directory) from error
        if entry.priority is None:
            self._index.put(mail)
        return mail

    def token_of(self, owner: str) -> int:
        """The latest token of an owner, 0 when it never joined."""
        return self._nodes.token_of(owner)

    def holds(self, owner: str, token: int) -> bool:
        """True when an owner joined, and this is its latest token."""
        return self._nodes.tokens.get(owner) == token

    def references(self, content_id: str) -> int:
        """How many mails refer to a content."""
        return self._index.references.get(content_id, 0)

    def stored_size(self, content_id: str) -> int | None:
        """Octets of content that mails refer to, None when its file is gone."""
        try:
            return self._folders.size(content_place(content_id))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain(error, self._folders.directory) from error

    def staged_size(self, content_id: str) -> int | None:
        """Octets of content that waits for its insert, None when there is none."""
        return self._contents.staged.get(content_id)

    # ---- changes -------------------------------------------------------------------------------

    def commit(self, batch: Sequence[Change]) -> list[Result]:
        """One record of the journal for the whole batch; see `QueueStore.commit`."""
        self._check_open()
        new = sum(isinstance(change, Insert) for change in batch)
        if new:
            try:
                self._make_space(new)
            except StoreFull:
                if new == len(batch):
                    raise
                return self._commit_without_inserts(batch)
        draft = Draft(self)
        results = [draft.apply(change) for change in batch]
        self._write(draft)
        return results

    def _commit_without_inserts(self, batch: Sequence[Change]) -> list[Result]:
        """Without room for new mail, the old must still go out. One that landed already is not refused."""
        others = iter(self.commit([change for change in batch if not isinstance(change, Insert)]))
        return [self._present(change) if isinstance(change, Insert) else next(others) for change in batch]

    def _present(self, insert: Insert) -> Result:
        return Result.APPLIED if insert.mail.id in self._index.entries else Result.FULL

    def _make_space(self, new: int) -> None:
        """Raise `StoreFull` when there is no room for new mails. Spare files yield to them."""
        if self._journal.trouble is not None:
            self._journal.ready()
        if self._journal.trouble is not None:
            raise explain(self._journal.trouble, self._folders.directory)
        try:
            try:
                check_space(self._folders, new)
            except StoreFull:
                self._folders.drop_spares()
                check_space(self._folders, new)
        except OSError as error:
            raise explain(error, self._folders.directory) from error

    def _write(self, draft: Draft, *more: Write) -> None:
        """Make a draft durable."""
        if not draft.mails and not more:
            self._journal.ready()
            return
        self._journal.commit(self._batch_of(draft, more))
        for queue_id, mail in draft.mails.items():
            if mail is None:
                self._index.remove(queue_id)
                self._recent.pop(queue_id, None)
            else:
                self._index.put(mail)
                self._remember(mail)
        for content_id in draft.used:
            self._contents.staged.pop(content_id, None)

    def _remember(self, mail: QueuedMail) -> None:
        self._recent.pop(mail.id, None)
        self._recent[mail.id] = mail
        if len(self._recent) > RECENT_MAILS:
            del self._recent[next(iter(self._recent))]

    def _batch_of(self, draft: Draft, more: Iterable[Write]) -> Batch:
        contents: list[Write] = []
        writes = list(more)
        removes: list[Place] = []
        has_staged = False
        for queue_id in draft.mails:
            self._place_mail(draft, queue_id, writes=writes, removes=removes)
        for content_id in draft.references:
            was_needed, is_needed = self.references(content_id) > 0, draft.references_of(content_id) > 0
            place, octets = content_place(content_id), draft.contents.get(content_id)
            if is_needed and octets is not None:
                # What stands there while others need it is replaced only once the batch is durable.
                (writes if was_needed else contents).append(Write(place, octets, is_new=not was_needed))
            elif is_needed and content_id in draft.used:
                has_staged = True
            elif not is_needed and (was_needed or content_id in draft.used):
                removes.append(place)
        appends = encode_attempts(draft.attempts, self._clock.wall())
        return Batch(contents, writes, appends, removes, has_staged)

    def _place_mail(self, draft: Draft, queue_id: str, *, writes: list[Write], removes: list[Place]) -> None:
        """Say what becomes of a mail's state, and of its mark."""
        old = self._index.entries.get(queue_id)
        was_at = None if old is None else (FOLDER_OF[old.state], state_name(queue_id))
        old_mark = None if old is None or old.content == queue_id else shared_place(old.content, queue_id)
        is_at = mark = None
        mail = draft.mails[queue_id]
        if mail is not None:
            is_at = (FOLDER_OF[mail.state], state_name(queue_id))
            token = self.token_of(mail.owner)
            octets = encode_state(draft.row_of(mail), generation=self._journal.generation + 1, token=token)
            moment = None if mail.state is QueueState.ACTIVE else mail.next_attempt_at
            writes.append(Write(is_at, octets, moment, is_new=is_at != was_at))
            if mail.content.id != queue_id:
                mark = shared_place(mail.content.id, queue_id)
        if mark is not None and mark != old_mark:
            writes.append(Write(mark, b"", is_new=True))
        if old_mark is not None and mark != old_mark:
            removes.append(old_mark)
        if was_at is not None and is_at != was_at:
            removes.append(was_at)

    # ---- nodes and claims ----------------------------------------------------------------------

    def join(self, owner: str) -> Joined:
        """A new token, and the owner's mails made claimable; see `QueueStore.join`."""
        self._check_open()
        nodes = self._nodes.joined(owner)
        own = sorted(queue_id for queue_id, entry in self._index.entries.items() if entry.owner == owner)
        uncertain: list[str] = []
        more = [Write(NODES, nodes.encode())]
        for start in range(0, max(len(own), 1), BATCH_MAILS):
            draft = Draft(self)
            for mail in self._load_all(own[start : start + BATCH_MAILS]):
                if mail.attempting_since is not None:
                    uncertain.append(mail.id)
                    draft.attempts += [(mail.id, each) for each in uncertain_attempts(mail, mail.attempting_since)]
                draft.keep(attrs.evolve(mail, owner="", attempting_since=None))
            self._write(draft, *more)
            self._nodes, more = nodes, []
        return Joined(token=nodes.last, recovered=len(own), uncertain=tuple(uncertain))

    def _load_all(self, ids: Iterable[str]) -> list[QueuedMail]:
        return [mail for queue_id in ids if (mail := self.load(queue_id)) is not None]

    def claim(self, claim: Claim) -> list[QueuedMail] | None:
        """Take what is due; None when files must be read first that this call did not come to: ask again."""
        self._check_open()
        if not self.holds(claim.owner, claim.token):
            return []
        if not self._ripen(claim.now):
            return None
        taken = self._index.take(claim.now, claim.limit, exclude=claim.exclude, priority=claim.priority)
        draft = Draft(self)
        try:
            mails = self._load_all(queue_id for _, queue_id in taken)
            for mail in mails:
                draft.keep(attrs.evolve(mail, state=QueueState.ACTIVE, owner=claim.owner))
            self._write(draft)
        except BaseException:
            self._index.give_back(taken)
            raise
        return [copy_of(mail) for mail in draft.mails.values() if mail is not None]

    def _ripen(self, now: float) -> bool:
        for steps, queue_id in enumerate(self._index.ripen(now)):
            due = self._index.entries[queue_id].due
            if steps == STEP_FILES:
                self._index.give_back([(due, queue_id)])
                return False
            try:
                self._read(queue_id)
            except StoreUnavailable:
                self._index.give_back([(due, queue_id)])
                raise
        return True

    def next_due(self) -> float | None:
        """When the earliest waiting mail is due."""
        self._check_open()
        return self._index.next_due()

    # ---- what is there -------------------------------------------------------------------------

    def get(self, queue_id: str) -> QueuedMail | None:
        """One mail by its id."""
        self._check_open()
        mail = self.load(queue_id)
        return None if mail is None else copy_of(mail)

    def attempts(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first."""
        self._check_open()
        try:
            return self._history.of(queue_id) if is_queue_id(queue_id) else []
        except OSError as error:
            raise explain(error, self._folders.directory) from error

    def counts(self) -> dict[QueueState, int]:
        """How many mails stand in each state."""
        self._check_open()
        return self._index.counts()

    def is_needed(self, content_id: str) -> bool:
        """True while a mail refers to content. May be called in any thread."""
        self._check_open()
        return content_id in self._index.references

    def candidates(self, chosen: Filter, after: str = "") -> list[str]:
        """The ids in order that a filter may mean, as far as it can be said without reading files."""
        self._check_open()
        entries = self._index.entries
        ids = entries.keys() if chosen.ids is None else chosen.ids & entries.keys()
        if chosen.states is None:
            return sorted(each for each in ids if each > after)
        return sorted(each for each in ids if each > after and entries[each].state in chosen.states)

    def chosen(self, ids: Sequence[str], chosen: Filter, limit: int) -> list[QueuedMail]:
        """At most `limit` of these mails that a filter means."""
        found: list[QueuedMail] = []
        for queue_id in ids:
            mail = self.load(queue_id)
            if mail is not None and matches(chosen, mail):
                found.append(copy_of(mail))
                if len(found) == limit:
                    break
        return found

    # ---- orders and age ------------------------------------------------------------------------

    def meant(self, ids: Sequence[str], order: Order, limit: int) -> list[str]:
        """At most `limit` of these ids whose mails an order has something to do for, in flight or not."""
        found: list[str] = []
        for queue_id in ids:
            mail = self.load(queue_id)
            if mail is not None and takes(order, mail):
                found.append(queue_id)
                if len(found) == limit:
                    break
        return found

    def obey(self, order: Order, ids: Sequence[str]) -> Ordered:
        """Carry out an order on mails that were found to be meant; their state is looked at again."""
        self._check_open()
        changed: list[str] = []
        in_flight: list[str] = []
        draft = Draft(self)
        for mail in self._load_all(ids):
            if not takes(order, mail):
                continue
            if mail.attempting_since is not None:
                in_flight.append(mail.id)
                continue
            changed.append(mail.id)
            if order.verb is Verb.DELETE:
                draft.remove(mail)
            else:
                draft.keep(obey(order, mail))
        self._write(draft)
        return Ordered(tuple(changed), tuple(in_flight))

    def remove_finished(self, retention: Retention) -> int:
        """Remove DELIVERED and FAILED mails past their retention."""
        self._check_open()
        before = {QueueState.DELIVERED: retention.delivered_before, QueueState.FAILED: retention.failed_before}
        entries = self._index.entries.items()
        old = sorted((each.due, queue_id) for queue_id, each in entries if is_older(each.due, before.get(each.state)))
        draft = Draft(self)
        mails = self._load_all(queue_id for _, queue_id in old[: max(retention.limit, 0)])
        for mail in mails:
            draft.remove(mail)
        self._write(draft)
        return len(mails)

    def remove_attempts(self, before: float) -> None:
        """Remove attempts that began before a moment."""
        self._check_open()
        # What the journal would append again after a crash must not meet files that became shorter.
        self._journal.checkpoint()
        try:
            self._history.forget(before)
        except OSError as error:
            raise explain(error, self._folders.directory) from error

    def remove_staged(self, before: float) -> None:
        """Give up content that no mail refers to and that came before a moment, in this life or an earlier one."""
        self._check_open()
        old = {content_id for content_id in self._orphans if made_at(content_id) < before}
        self._orphans -= old
        try:
            for content_id in old.union(self._contents.staged_before(before)):
                if content_id not in self._index.references:
                    self._contents.discard(content_id)
        except OSError as error:
            raise explain(error, self._folders.directory) from error

    # ---- looking it over -----------------------------------------------------------------------

    def begin_inspection(self) -> tuple[list[Finding], list[Place]]:
        """What is odd about the folders, and all places to `inspect`."""
        self._check_open()
        inspector = Inspector(self._folders, self._index)
        try:
            return inspector.look_at_folders(), inspector.places()
        except OSError as error:
            raise explain(error, self._folders.directory) from error

    def inspect(self, places: Sequence[Place]) -> list[Finding]:
        """What is odd among these."""
        self._check_open()
        try:
            return Inspector(self._folders, self._index).look(places, list(self._contents.staged))
        except OSError as error:
            raise explain(error, self._folders.directory) from error


def copy_of(mail: QueuedMail) -> QueuedMail:
    """A mail that its taker may change."""
    return attrs.evolve(mail, annotations=dict(mail.annotations)) if mail.annotations else mail
