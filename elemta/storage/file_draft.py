"""What a batch of changes makes of the queue, before anything of it is written.

What is not here: files (`file_queue` turns a draft into a `Batch`). A draft lies over the queue: later changes of a
batch see what earlier ones did, and a batch that fails leaves no trace.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from elemta.mail.ids import is_queue_id
from elemta.mail.outcome import Attempt
from elemta.storage.base import Begin, Change, Insert, Result, Settle, Withdraw
from elemta.storage.codec import MailRow, Unfit, encode_attempt, encode_mail
from elemta.storage.records import QueuedMail, QueueState


class Ground(Protocol):
    """The queue as the last batch left it."""

    def load(self, queue_id: str) -> QueuedMail | None:
        """A mail, None when it is not there."""
        ...

    def token_of(self, owner: str) -> int:
        """The latest token of an owner, 0 when it never joined."""
        ...

    def holds(self, owner: str, token: int) -> bool:
        """True when an owner joined, and this is its latest token."""
        ...

    def references(self, content_id: str) -> int:
        """How many mails refer to a content."""
        ...

    def stored_size(self, content_id: str) -> int | None:
        """Octets of content that mails refer to, None when its file is gone."""
        ...

    def staged_size(self, content_id: str) -> int | None:
        """Octets of content that waits for its insert, None when there is none."""
        ...


class Draft:
    """Changes so far."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        #: Mails as they will be, None for those that leave.
        self.mails: dict[str, QueuedMail | None] = {}
        #: Octets that came with inserts.
        self.contents: dict[str, bytes] = {}
        #: Staged content that was referred to.
        self.used: set[str] = set()
        #: By how much the references to a content change.
        self.references: dict[str, int] = {}
        self.attempts: list[tuple[str, Attempt]] = []
        #: Rows of mails that were encoded to see whether they can be.
        self._rows: dict[str, tuple[QueuedMail, MailRow]] = {}

    def load(self, queue_id: str) -> QueuedMail | None:
        """A mail as it is now."""
        if queue_id in self.mails:
            return self.mails[queue_id]
        return self._ground.load(queue_id) if is_queue_id(queue_id) else None

    def row_of(self, mail: QueuedMail) -> MailRow:
        """The row of a mail that was kept."""
        encoded, row = self._rows.get(mail.id, (None, ()))
        return row if encoded is mail else encode_mail(mail)

    def references_of(self, content_id: str) -> int:
        """How many mails will refer to a content."""
        return self._ground.references(content_id) + self.references.get(content_id, 0)

    def apply(self, change: Change) -> Result:
        """Apply one change; one that is not `APPLIED` has no effect, but an `Insert` of a fenced owner."""
        try:
            if isinstance(change, Insert):
                self._check_insert(change, {})
                return self._insert(change)
            if isinstance(change, Begin):
                return self._begin(change)
            if isinstance(change, Settle):
                return self._settle(change)
            return self._withdraw(change)
        except Unfit:
            return Result.REFUSED

    # ---- inserts -------------------------------------------------------------------------------

    def _check_insert(self, insert: Insert, beside: Mapping[str, int]) -> None:
        """Raise `Unfit` unless it can be taken. `beside`: octets of content that arrives in the same change."""
        mail = insert.mail
        self._rows[mail.id] = (mail, encode_mail(mail))
        for attempt in insert.attempts:
            encode_attempt(mail.id, attempt)
        if self.load(mail.id) is not None:
            return
        content_id = mail.content.id
        size = self._known_size(content_id)
        if size is None:
            size = beside.get(content_id)
        if size is None and insert.content is not None:
            size = len(insert.content)
        if size != mail.content.size:
            raise Unfit("the content is not there, or of another size")

    def _known_size(self, content_id: str) -> int | None:
        if self.references_of(content_id) == 0:
            return None if content_id in self.used else self._ground.staged_size(content_id)
        octets = self.contents.get(content_id)
        if octets is not None:
            return len(octets)
        if content_id in self.used:
            return self._ground.staged_size(content_id)
        return self._ground.stored_size(content_id)

    def _insert(self, insert: Insert) -> Result:
        mail = insert.mail
        present = self.load(mail.id)
        asked = None if insert.token is None or not mail.owner else (mail.owner, insert.token)
        if present is not None:
            own = (present.owner, self._token_of(present))
            return Result.APPLIED if asked in (None, own) else Result.FENCED
        result = Result.APPLIED
        if asked is not None and not self._ground.holds(*asked):
            mail, result = attrs.evolve(mail, owner=""), Result.FENCED
        content_id = mail.content.id
        if self._known_size(content_id) is None:
            assert insert.content is not None
            self.contents[content_id] = insert.content
        elif self.references_of(content_id) == 0:
            self.used.add(content_id)
        if mail.attempting_since is not None and not (mail.owner and mail.state is QueueState.ACTIVE):
            mail = attrs.evolve(mail, attempting_since=None)
        self._refer(content_id, 1)
        self.attempts += [(mail.id, attempt) for attempt in insert.attempts]
        self.keep(mail)
        return result

    # ---- changes of a mail ---------------------------------------------------------------------

    def _begin(self, change: Begin) -> Result:
        mail = self.load(change.id)
        fence = self._fence(change, mail)
        if mail is not None and fence is Result.APPLIED:
            self.keep(attrs.evolve(mail, attempting_since=change.at))
        return fence

    def _settle(self, change: Settle) -> Result:
        old, new = self.load(change.id), change.mail
        fence = self._fence(change, old)
        if old is None or fence is not Result.APPLIED:
            return fence
        if new is not None:
            if new.id != change.id:
                raise Unfit("a mail is settled under the id of another")
            encode_mail(new)
        for attempt in change.attempts:
            encode_attempt(change.id, attempt)
        beside: dict[str, int] = {}
        for insert in change.inserts:
            self._check_insert(insert, beside)
            if insert.content is not None:
                beside.setdefault(insert.mail.content.id, len(insert.content))
        self._insert_all(change.inserts)
        self.attempts += [(change.id, attempt) for attempt in change.attempts]
        if new is None:
            self.remove(old)
        else:
            self.keep(attrs.evolve(new, origin_id=old.origin_id, content=old.content, attempting_since=None))
        return Result.APPLIED

    def _insert_all(self, inserts: Sequence[Insert]) -> None:
        """Inserts of one change: content that comes with any of them serves all."""
        octets = {each.mail.content.id: each.content for each in reversed(inserts) if each.content is not None}
        for insert in inserts:
            self._insert(attrs.evolve(insert, content=octets.get(insert.mail.content.id)))

    def _withdraw(self, change: Withdraw) -> Result:
        mail = self.load(change.id)
        if mail is None:
            return Result.GONE
        if mail.attempts or (mail.attempting_since is not None and not change.begun):
            return Result.FENCED
        self.remove(mail)
        return Result.APPLIED

    def _fence(self, change: Begin | Settle, mail: QueuedMail | None) -> Result:
        if mail is None:
            return Result.GONE
        owned = mail.owner != "" and (mail.owner, self._token_of(mail)) == (change.owner, change.token)
        return Result.APPLIED if owned else Result.FENCED

    def _token_of(self, mail: QueuedMail) -> int:
        return self._ground.token_of(mail.owner)

    # ---- what is kept --------------------------------------------------------------------------

    def keep(self, mail: QueuedMail) -> None:
        """Put a mail in the place of what is kept of it. Only an ACTIVE one is owned."""
        owner = mail.owner if mail.state is QueueState.ACTIVE else ""
        if owner != mail.owner or mail.annotations:
            mail = attrs.evolve(mail, owner=owner, annotations=dict(mail.annotations))
        self.mails[mail.id] = mail

    def remove(self, mail: QueuedMail) -> None:
        """Let a mail leave."""
        self.mails[mail.id] = None
        self._refer(mail.content.id, -1)
        if self.references_of(mail.content.id) == 0:
            # Its content goes along: whoever needs it in the same batch has to bring it again.
            self.contents.pop(mail.content.id, None)

    def _refer(self, content_id: str, by: int) -> None:
        self.references[content_id] = self.references.get(content_id, 0) + by
