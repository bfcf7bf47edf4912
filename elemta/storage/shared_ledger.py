"""What a batch of changes does to the mails that it concerns, decided without a database.

What is not here: looking up how those mails stand, locking them meanwhile, or writing down what was decided (the
dialects). The rules are those of `MemoryStore`; what differs is that only the mails and contents that a batch names are
known, and that what is to be written comes out as rows.

Raises nothing: a change that cannot be kept is REFUSED, and has changed nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from attrs import Factory, define, evolve, field, frozen

from elemta.mail.ids import is_queue_id
from elemta.storage.base import Begin, Change, Insert, Result, Settle, Withdraw
from elemta.storage.codec import (
    FIRST_FIXED_COLUMN,
    MAIL_COLUMNS,
    AttemptRow,
    MailRow,
    Unfit,
    encode_attempt,
    encode_mail,
)
from elemta.storage.records import QueuedMail, QueueState

_STATE = MAIL_COLUMNS.index("state")
_OWNER = MAIL_COLUMNS.index("owner")
_ATTEMPTS = MAIL_COLUMNS.index("attempts")
_SINCE = MAIL_COLUMNS.index("attempting_since")
_CONTENT = MAIL_COLUMNS.index("content_id")
_ACTIVE = QueueState.ACTIVE.value

#: The columns of a mail that change while it lies in the queue, in the order of `Writes.changes`.
CHANGING_COLUMNS = ("id", *MAIL_COLUMNS[1:FIRST_FIXED_COLUMN], "token")
#: The columns of a new mail, in the order of `Writes.mails`.
NEW_COLUMNS = (*MAIL_COLUMNS, "token")


@frozen
class Standing:
    """How a mail stands. `token` is its owner's when it was taken, 0 when nobody owns it."""

    id: str
    state: str
    owner: str
    token: int
    attempts: int
    attempting_since: float | None
    content_id: str


@frozen
class Holding:
    """Content as it lies there: its size in octets, below 0 while it is not whole, and how many mails refer to it."""

    id: str
    size: int
    mails: int


@frozen
class Looked:
    """What a batch was found to concern: the latest tokens of nodes by owner, mails and contents by id."""

    nodes: Mapping[str, int] = field(factory=dict)
    mails: Mapping[str, Standing] = field(factory=dict)
    contents: Mapping[str, Holding] = field(factory=dict)
    #: Ids of mails that may have left, for attempts of theirs are recorded.
    attempted: frozenset[str] = frozenset()


@frozen
class Wanted:
    """What has to be looked up, and locked meanwhile. The contents of `leaving` mails go along."""

    owners: list[str]
    mails: list[str]
    contents: list[str]
    leaving: frozenset[str]
    #: Ids of mails whose insert may be a repetition.
    repeated: list[str] = Factory(list)


@define
class Writes:
    """What has to be written, by statement. What leaves is removed before anything of its id comes anew."""

    #: Ids of mails and contents that leave.
    leaving_mails: list[str] = Factory(list)
    leaving_contents: list[str] = Factory(list)
    #: New content: id, octets, how many mails refer to it.
    contents: list[tuple[str, bytes, int]] = Factory(list)
    #: Content that is there: id, how many mails refer to it now.
    recounts: list[tuple[str, int]] = Factory(list)
    mails: list[MailRow] = Factory(list)
    #: Mails that changed: `CHANGING_COLUMNS`.
    changes: list[MailRow] = Factory(list)
    #: Mails of which nothing changed but that an attempt began: id, when.
    begins: list[tuple[str, float]] = Factory(list)
    attempts: list[AttemptRow] = Factory(list)
    #: By how much the number of mails in a state changed.
    tally: dict[str, int] = Factory(dict)


@define
class _Mail:
    """A mail under change. `row` is all of a new mail, the changing columns of one that is there, None for no change
    but a `Begin`."""

    standing: Standing
    is_new: bool
    row: MailRow | None = None
    began: bool = False


@define
class _Content:
    """Content under change; `octets` of what is new."""

    size: int
    mails: int
    before: int
    octets: bytes | None = None


# ---- what to look up -----------------------------------------------------------------------------


def wanted_by(batch: Iterable[Change], *, is_fresh: bool = False) -> Wanted:
    """What a batch needs to know.

    `is_fresh` presumes that its inserts are no repetition: then neither their ids nor the content that they bring along
    are looked up, and the database refuses the batch where that was wrong.
    """
    owners: dict[str, None] = {}
    mails: dict[str, None] = {}
    contents: dict[str, None] = {}
    leaving: list[str] = []
    inserts: list[Insert] = []
    for change in batch:
        if isinstance(change, Insert):
            inserts.append(change)
            continue
        mails[change.id] = None
        if isinstance(change, Settle):
            inserts.extend(change.inserts)
            if change.mail is not None:
                owners[change.mail.owner] = None
                continue
        if not isinstance(change, Begin):
            leaving.append(change.id)
    for insert in inserts:
        mail = insert.mail
        owners[mail.owner] = None
        if not is_fresh:
            mails[mail.id] = None
        if insert.content is None or not is_fresh or mail.content.id != mail.id:
            contents[mail.content.id] = None
    return Wanted(
        sorted(filter(_is_owner, owners)),
        sorted(filter(is_queue_id, mails)),
        sorted(filter(is_queue_id, contents)),
        frozenset(leaving),
        []
        if is_fresh
        else sorted(each.mail.id for each in inserts if each.token is not None and is_queue_id(each.mail.id)),
    )


def _is_owner(owner: str) -> bool:
    try:
        owner.encode()
    except UnicodeError:
        return False
    return owner != "" and "\0" not in owner


# ---- decisions -----------------------------------------------------------------------------------


class Ledger:
    """The mails and contents that a transaction concerns, as its changes leave them one after another."""

    def __init__(self, looked: Looked) -> None:
        self._nodes = looked.nodes
        self._mails = {each.id: _Mail(each, is_new=False) for each in looked.mails.values()}
        self._contents = {
            each.id: _Content(each.size, each.mails, each.mails) for each in looked.contents.values() if each.size >= 0
        }
        self._attempted = looked.attempted
        self._writes = Writes()
        self._tally: Counter[str] = Counter()

    def apply(self, change: Change) -> Result:
        """Decide on one change."""
        try:
            if isinstance(change, Insert):
                return self._insert(change, self._check_insert(change, {}))
            if isinstance(change, Begin):
                return self._begin(change)
            if isinstance(change, Settle):
                return self._settle(change)
            return self._withdraw(change)
        except Unfit:
            return Result.REFUSED

    def remove(self, queue_id: str) -> None:
        """A mail that is there leaves, and its content with the last mail that refers to it."""
        mail = self._mails.pop(queue_id)
        self._tally[mail.standing.state] -= 1
        if not mail.is_new:
            self._writes.leaving_mails.append(queue_id)
        content_id = mail.standing.content_id
        content = self._contents.get(content_id)
        if content is None:
            return
        content.mails -= 1
        if content.mails <= 0:
            del self._contents[content_id]
            if content.octets is None:
                self._writes.leaving_contents.append(content_id)

    def change(self, mail: QueuedMail) -> None:
        """A mail that is there becomes another, but for where it came from. Raises `Unfit`."""
        old = self._mails[mail.id]
        self._replace(old, encode_mail(mail))

    def record(self, attempts: Iterable[AttemptRow]) -> None:
        """Keep records of attempts."""
        self._writes.attempts.extend(attempts)

    def writes(self) -> Writes:
        """Everything that has to be written."""
        writes = self._writes
        for queue_id, mail in self._mails.items():
            if mail.row is not None:
                (writes.mails if mail.is_new else writes.changes).append(mail.row)
            elif mail.began and mail.standing.attempting_since is not None:
                writes.begins.append((queue_id, mail.standing.attempting_since))
        for content_id, content in self._contents.items():
            if content.octets is not None:
                writes.contents.append((content_id, content.octets, content.mails))
            elif content.mails != content.before:
                writes.recounts.append((content_id, content.mails))
        writes.tally = {state: number for state, number in sorted(self._tally.items()) if number}
        return writes

    # ---- inserts -------------------------------------------------------------------------------

    def _check_insert(self, insert: Insert, beside: Mapping[str, int]) -> MailRow:
        """The row of an insert, if it can be taken. `beside` has the sizes of content that comes in the same change."""
        mail = insert.mail
        row = encode_mail(mail)
        for attempt in insert.attempts:
            encode_attempt(mail.id, attempt)
        if mail.id in self._mails or self._has_left(insert):
            return row
        known = self._contents.get(mail.content.id)
        size = known.size if known else beside.get(mail.content.id, _size_of(insert.content))
        if size != mail.content.size:
            raise Unfit("the content is not there, or of another size")
        return row

    def _has_left(self, insert: Insert) -> bool:
        return insert.token is not None and insert.mail.id in self._attempted

    def _insert(self, insert: Insert, row: MailRow) -> Result:
        mail = insert.mail
        latest = self._nodes.get(mail.owner)
        there = self._mails.get(mail.id)
        if there is not None:
            is_own = (there.standing.owner, there.standing.token) == (mail.owner, insert.token)
            return Result.APPLIED if insert.token is None or not mail.owner or is_own else Result.FENCED
        if self._has_left(insert):
            return Result.FENCED
        asks = mail.owner != "" and mail.state is QueueState.ACTIVE
        is_asked = insert.token is not None and mail.owner != ""
        is_fenced = latest != insert.token if is_asked else asks and latest is None
        if is_fenced or not asks:
            row, latest = (*row[:_OWNER], "", *row[_OWNER + 1 : _SINCE], None, *row[_SINCE + 1 :]), 0
        row = (*row, latest)
        self._mails[mail.id] = _Mail(_standing_of(row, row[_CONTENT]), is_new=True, row=row)
        self._tally[row[_STATE]] += 1
        self._refer(insert)
        self.record(encode_attempt(mail.id, attempt) for attempt in insert.attempts)
        return Result.FENCED if is_fenced else Result.APPLIED

    def _refer(self, insert: Insert) -> None:
        ref = insert.mail.content
        content = self._contents.get(ref.id)
        if content is None:
            content = self._contents[ref.id] = _Content(ref.size, 0, 0, insert.content)
        content.mails += 1

    # ---- what is there -------------------------------------------------------------------------

    def _begin(self, change: Begin) -> Result:
        fence = self._fence(change)
        if fence is not Result.APPLIED:
            return fence
        mail = self._mails[change.id]
        mail.standing = evolve(mail.standing, attempting_since=change.at)
        mail.began = True
        if mail.row is not None:
            mail.row = (*mail.row[:_SINCE], change.at, *mail.row[_SINCE + 1 :])
        return Result.APPLIED

    def _settle(self, change: Settle) -> Result:
        fence = self._fence(change)
        if fence is not Result.APPLIED:
            return fence
        new = change.mail
        if new is not None and new.id != change.id:
            raise Unfit("a mail is settled under the id of another")
        row = None if new is None else encode_mail(new)
        records = [encode_attempt(change.id, attempt) for attempt in change.attempts]
        beside: dict[str, int] = {}
        rows = []
        for insert in change.inserts:
            rows.append(self._check_insert(insert, beside))
            if insert.content is not None:
                beside.setdefault(insert.mail.content.id, len(insert.content))
        for insert, new_row in zip(change.inserts, rows, strict=True):
            self._insert(insert, new_row)
        self.record(records)
        if row is None:
            self.remove(change.id)
        else:
            self._replace(self._mails[change.id], row)
        return Result.APPLIED

    def _replace(self, mail: _Mail, row: MailRow) -> None:
        """Give a mail another state. Only an ACTIVE one is owned, and always under its owner's latest token."""
        old = mail.standing
        owner = row[_OWNER] if row[_STATE] == _ACTIVE else ""
        token = self._nodes.get(owner, 0)
        if not token:
            owner = ""
        head = (*row[:_OWNER], owner, *row[_OWNER + 1 : _SINCE], None, *row[_SINCE + 1 : FIRST_FIXED_COLUMN])
        fixed = mail.row[FIRST_FIXED_COLUMN:-1] if mail.is_new and mail.row is not None else ()
        mail.row = (*head, *fixed, token)
        mail.standing = _standing_of(mail.row, old.content_id)
        self._tally[old.state] -= 1
        self._tally[mail.standing.state] += 1

    def _withdraw(self, change: Withdraw) -> Result:
        mail = self._mails.get(change.id)
        if mail is None:
            return Result.GONE
        standing = mail.standing
        if standing.attempts or (standing.attempting_since is not None and not change.begun):
            return Result.FENCED
        self.remove(change.id)
        return Result.APPLIED

    def _fence(self, change: Begin | Settle) -> Result:
        mail = self._mails.get(change.id)
        if mail is None:
            return Result.GONE
        standing = mail.standing
        owned = standing.owner != "" and (standing.owner, standing.token) == (change.owner, change.token)
        return Result.APPLIED if owned else Result.FENCED


def _size_of(content: bytes | None) -> int:
    return -1 if content is None else len(content)


def _standing_of(row: MailRow, content_id: str) -> Standing:
    return Standing(row[0], row[_STATE], row[_OWNER], row[-1], row[_ATTEMPTS], row[_SINCE], content_id)
