"""The statements of the SQLite store with the rows for them.

What is not here: running them (`sqlite_writer`, `sqlite_reader`). All texts are constant, so that each is
prepared once.

Raises `Unfit` for a change that needs to be looked at by itself.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from attrs import Factory, define, frozen

from elemta.mail.ids import is_queue_id
from elemta.storage.base import Begin, Change, Filter, Insert, Settle
from elemta.storage.codec import (
    ATTEMPT_COLUMNS,
    FIRST_FIXED_COLUMN,
    MAIL_COLUMNS,
    AttemptRow,
    MailRow,
    Unfit,
    encode_attempt,
    encode_mail,
)
from elemta.storage.rules import address_key
from elemta.storage.sqlite_content import Staged

#: Rows that one statement takes at most: the batches that the queue hands over are about as large.
BULK_ROWS = 64
#: Up to so many rows there is a text for each number; beyond, for each multiple of `_COARSE_ROWS`.
_EXACT_ROWS = 16
_COARSE_ROWS = 8


@frozen
class Bulk:
    """One statement for many rows.

    Around each step of a statement Python lets go of its lock, then has to win it back from a busy event loop; row by
    row that costs four times what SQLite takes for the work. So a batch is one step. A large batch is filled up with
    rows of NULL, which every statement here passes over, so that there are few texts to prepare.
    """

    texts: Mapping[int, str]
    columns: int

    def run(self, connection: sqlite3.Connection, rows: Sequence[Sequence[object]]) -> int:
        """Run it for all rows; returns how many rows of the table it changed."""
        changed = 0
        for start in range(0, len(rows), BULK_ROWS):
            part = rows[start : start + BULK_ROWS]
            given = size = len(part)
            values = list(chain.from_iterable(part))
            if given > _EXACT_ROWS:
                size = -(-given // _COARSE_ROWS) * _COARSE_ROWS
                values.extend([None] * ((size - given) * self.columns))
            changed += connection.execute(self.texts[size], values).rowcount
        return changed


def _bulk(text: str, *, columns: int) -> Bulk:
    row = f"({', '.join('?' * columns)})"
    sizes = (*range(1, _EXACT_ROWS + 1), *range(_EXACT_ROWS + _COARSE_ROWS, BULK_ROWS + 1, _COARSE_ROWS))
    return Bulk({size: text.replace("<rows>", f"VALUES {', '.join([row] * size)}") for size in sizes}, columns)


_COLUMNS = ", ".join(MAIL_COLUMNS)
#: The words of the partial index `mails_due`; a statement that uses the index repeats them.
_WAITING = "state IN ('active', 'deferred')"

INSERT_CONTENT = _bulk("INSERT OR IGNORE INTO contents (id, octets, file, size) <rows>", columns=4)
#: Inserts ignore what is there already, and what breaks a constraint; the count of rows tells.
INSERT_MAIL = _bulk(
    f"INSERT OR IGNORE INTO mails ({_COLUMNS}, token) SELECT new.*, COALESCE(nodes.token, 0)"
    f" FROM (<rows>) AS new LEFT JOIN nodes ON nodes.owner = new.column{MAIL_COLUMNS.index('owner') + 1}",
    columns=len(MAIL_COLUMNS),
)
INSERT_ATTEMPT = _bulk(
    f"INSERT OR IGNORE INTO attempts ({', '.join(ATTEMPT_COLUMNS)}) <rows>", columns=len(ATTEMPT_COLUMNS)
)


def _owned_by(first: int) -> str:
    """The condition that id, owner, token of a row, which stand in its columns from `first`, are the mail's."""
    return (
        f"mails.id = new.column{first} AND mails.owner = new.column{first + 1}"
        f" AND mails.token = new.column{first + 2} AND mails.state = 'active'"
    )


BEGIN_ATTEMPT = _bulk(
    f"UPDATE mails SET attempting_since = new.column4 FROM (<rows>) AS new WHERE {_owned_by(1)}", columns=4
)
#: What a finished attempt may change, after the key of three columns that its rows begin with.
_CHANGING = MAIL_COLUMNS[1:FIRST_FIXED_COLUMN]
UPDATE_OWNED = _bulk(
    f"UPDATE mails SET {', '.join(f'{name} = new.column{column}' for column, name in enumerate(_CHANGING, start=4))},"
    f" token = COALESCE((SELECT token FROM nodes WHERE nodes.owner = new.column{4 + _CHANGING.index('owner')}), 0)"
    f" FROM (<rows>) AS new WHERE {_owned_by(1)}",
    columns=3 + len(_CHANGING),
)
REMOVE_OWNED = (
    "DELETE FROM mails WHERE id IN (SELECT value FROM json_each(?)) AND owner = ? AND token = ? AND state = 'active'"
)
WITHDRAW_BEGUN = "DELETE FROM mails WHERE id IN (SELECT value FROM json_each(?)) AND attempts = 0"
WITHDRAW = f"{WITHDRAW_BEGUN} AND attempting_since IS NULL"

HAS_MAIL = "SELECT 1 FROM mails WHERE id = ?"
OWNER_OF = "SELECT owner, token, state FROM mails WHERE id = ?"
CONTENT_SIZE = "SELECT size FROM contents WHERE id = ?"

NEW_TOKEN = "SELECT COALESCE(MAX(token), 0) + 1 FROM nodes"
JOIN = "INSERT INTO nodes VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET token = excluded.token"
IN_FLIGHT_OF = (
    f"SELECT {_COLUMNS} FROM mails INDEXED BY mails_due"
    f" WHERE owner = ? AND {_WAITING} AND attempting_since IS NOT NULL ORDER BY id"
)
RELEASE_OWNED = f"UPDATE mails SET owner = '', token = 0, attempting_since = NULL WHERE owner = ? AND {_WAITING}"


def _due(priority: int) -> str:
    return (
        "SELECT id FROM (SELECT id FROM mails INDEXED BY mails_due"
        f" WHERE owner = '' AND {_WAITING} AND priority = {priority} AND next_attempt_at <= :now"
        " ORDER BY next_attempt_at, destination, id LIMIT :limit)"
    )


def _claim(priorities: Sequence[int]) -> str:
    due = " UNION ALL ".join(_due(priority) for priority in priorities)
    return (
        f"UPDATE mails SET owner = :owner, token = :token, state = 'active' WHERE id IN ({due} LIMIT :limit)"
        " AND EXISTS (SELECT 1 FROM nodes WHERE owner = :owner AND token = :token)"
        f" RETURNING {_COLUMNS}"
    )


PRIORITIES = (3, 2, 1, 0)
CLAIM_ANY = _claim(PRIORITIES)
CLAIM_PRIORITY = {priority: _claim([priority]) for priority in PRIORITIES}
#: Takes mails that a search found; they may have changed since. The `+` keeps the planner from looking for them among
#: all that nobody owns.
CLAIM_FOUND = (
    "UPDATE mails SET owner = :owner, token = :token, state = 'active'"
    f" WHERE id IN (SELECT value FROM json_each(:ids)) AND +owner = '' AND {_WAITING} AND next_attempt_at <= :now"
    " AND EXISTS (SELECT 1 FROM nodes WHERE owner = :owner AND token = :token)"
    f" RETURNING {_COLUMNS}"
)
_BETWEEN = (
    f"FROM mails INDEXED BY mails_due WHERE owner = '' AND {_WAITING} AND priority = :priority"
    " AND (next_attempt_at, destination, id) > (:moment, :destination, :id)"
    " AND (next_attempt_at, destination, id) <= (:until, :last_destination, :last_id)"
)
_BY_KEY = "ORDER BY next_attempt_at, destination, id"
#: The key at which a step of a search ends; none when fewer mails than a step are left.
SCOUT_STEP = f"SELECT next_attempt_at, destination, id {_BETWEEN} {_BY_KEY} LIMIT 1 OFFSET :step"
SCOUT_DESTINATIONS = f"SELECT destination, min(next_attempt_at) {_BETWEEN} GROUP BY destination"
SCOUT_MAILS = (
    f"SELECT next_attempt_at, destination, id {_BETWEEN}"
    f" AND destination NOT IN (SELECT value FROM json_each(:exclude)) {_BY_KEY} LIMIT :limit"
)
NEXT_DUE = " UNION ALL ".join(
    f"SELECT * FROM (SELECT next_attempt_at FROM mails INDEXED BY mails_due WHERE owner = '' AND {_WAITING}"
    f" AND priority = {priority} ORDER BY next_attempt_at LIMIT 1)"
    for priority in PRIORITIES
)

GET = f"SELECT {_COLUMNS} FROM mails WHERE id = ?"
ATTEMPTS_OF = f"SELECT {', '.join(ATTEMPT_COLUMNS)} FROM attempts WHERE mail_id = ? ORDER BY number"
CONTENT_PART = "SELECT size, file, substr(octets, ?, ?) FROM contents WHERE id = ?"
CONTENT_FILE = "SELECT file FROM contents WHERE id = ?"
WITHOUT_CONTENT = "SELECT id FROM mails WHERE content_id NOT IN (SELECT id FROM contents) ORDER BY id"
TALLY = "SELECT state, mails FROM tally"

_IDS = "id IN (SELECT value FROM json_each(:ids))"
AMONG_IN_FLIGHT = f"SELECT id FROM mails WHERE {_IDS} AND attempting_since IS NOT NULL"
HOLD = (
    "UPDATE mails SET state = 'held', owner = '', token = 0, reason = :reason"
    f" WHERE {_IDS} AND {_WAITING} AND attempting_since IS NULL RETURNING id"
)
RELEASE = (
    "UPDATE mails SET state = iif(attempts > 0, 'deferred', 'active'), reason = '',"
    f" next_attempt_at = min(next_attempt_at, :now) WHERE {_IDS} AND state = 'held' RETURNING id"
)
RETRY_WAITING = (
    "UPDATE mails SET next_attempt_at = :now"
    f" WHERE {_IDS} AND {_WAITING} AND attempting_since IS NULL AND next_attempt_at > :now RETURNING id"
)
FAILED_AMONG = f"SELECT {_COLUMNS} FROM mails WHERE {_IDS} AND state = 'failed'"
RETRY_FAILED = "UPDATE mails SET state = 'deferred', reason = '', next_attempt_at = ?, progress = ? WHERE id = ?"
DELETE = f"DELETE FROM mails WHERE {_IDS} AND attempting_since IS NULL RETURNING id"

FINISHED_BEFORE = (
    "SELECT next_attempt_at, id FROM mails INDEXED BY mails_parked WHERE state IN ('held', 'failed', 'delivered')"
    " AND state = :state AND next_attempt_at < :before ORDER BY next_attempt_at, id LIMIT :limit"
)
#: Attempts are numbered as they end, so that the old ones stand at the front.
OLD_ATTEMPTS = (
    "DELETE FROM attempts WHERE started_at < :before"
    " AND number IN (SELECT number FROM attempts ORDER BY number LIMIT :limit)"
)
#: Files whose content left, to be used again once that is durable. Kept in memory for this connection alone: after a
#: crash, what no content refers to is found by looking.
WATCH_FILES = (
    "CREATE TEMP TABLE dropped_files (file TEXT)",
    "CREATE TEMP TRIGGER file_leaves AFTER DELETE ON main.contents WHEN OLD.file IS NOT NULL BEGIN"
    " INSERT INTO dropped_files VALUES (OLD.file); END",
)
DROPPED_FILES = "SELECT file FROM dropped_files"
FORGET_DROPPED = "DELETE FROM dropped_files"
FILES_IN_USE = "SELECT file FROM contents INDEXED BY contents_files WHERE file IS NOT NULL"
CONTENT_AMONG = "SELECT id FROM contents WHERE id IN (SELECT value FROM json_each(?))"
PROBE = "UPDATE probes SET written = written + 1"


def filter_terms(chosen: Filter) -> tuple[list[str], dict[str, object]]:
    """The terms of a filter as SQL, all to be joined by AND, with their values."""
    terms: list[str] = []
    values: dict[str, object] = {}
    for name, column, key in (
        ("sender", "sender = :sender", chosen.sender),
        ("recipient", "value = :recipient", chosen.recipient),
    ):
        if key is None:
            continue
        values[name] = address_key(key)
        if key.startswith("@"):
            # An address ends in its domain; the `@` keeps out the longer domains that end alike.
            subject = column.partition(" ")[0]
            column = f"substr({subject}, -length(:{name})) = :{name}"
        terms.append(f"EXISTS (SELECT 1 FROM json_each(recipients) WHERE {column})" if name == "recipient" else column)
    if chosen.destination is not None:
        terms.append("destination = :destination")
        values["destination"] = chosen.destination
    if chosen.received_before is not None:
        terms.append("received_at <= :received_before")
        values["received_before"] = chosen.received_before
    return terms, values


# ---- batches -------------------------------------------------------------------------------------


#: A row of `contents`: id, octets, file, size.
ContentRow = tuple[str, bytes | None, str | None, int]


@define
class Rows:
    """A batch as rows, by statement. Applying them in the order of the fields equals applying the changes in theirs."""

    contents: dict[str, ContentRow] = Factory(dict)
    mails: list[MailRow] = Factory(list)
    begins: list[tuple[object, ...]] = Factory(list)
    updates: list[tuple[object, ...]] = Factory(list)
    #: Ids of mails that leave, by their owner and its token.
    removals: dict[tuple[str, int], list[str]] = Factory(dict)
    #: Ids of mails that are taken back, by `Withdraw.begun`.
    withdrawals: dict[bool, list[str]] = Factory(dict)
    attempts: list[AttemptRow] = Factory(list)
    #: Ids of staged content that is referred to now.
    staged: list[str] = Factory(list)


#: Finds content that waits for its insert.
FindStaged = Callable[[str], Staged | None]


def rows_of(batch: Sequence[Change], find_staged: FindStaged) -> Rows:
    """The rows of a batch whose changes do not depend on each other.

    Raises `Unfit` when one cannot be taken, or when two concern the same mail, or when content must be looked up: then
    each change is applied by itself.
    """
    rows = Rows()
    ids: list[str] = []
    for change in batch:
        if isinstance(change, Insert):
            _add_insert(rows, change, find_staged)
            ids.append(change.mail.id)
            continue
        ids.append(change.id)
        if not is_queue_id(change.id) or (isinstance(change, Begin | Settle) and not change.owner):
            raise Unfit("no mail has such an id or owner")
        if isinstance(change, Begin):
            rows.begins.append((change.id, change.owner, change.token, change.at))
        elif isinstance(change, Settle):
            _add_settle(rows, change)
            for insert in change.inserts:
                _add_insert(rows, insert, find_staged)
                ids.append(insert.mail.id)
        else:
            rows.withdrawals.setdefault(change.begun, []).append(change.id)
    if len(set(ids)) != len(ids):
        raise Unfit("two changes of one mail")
    return rows


def _add_insert(rows: Rows, insert: Insert, find_staged: FindStaged) -> None:
    rows.mails.append(insert_row(insert))
    if insert.attempts:
        rows.attempts.extend(encode_attempt(insert.mail.id, attempt) for attempt in insert.attempts)
    ref = insert.mail.content
    known = rows.contents.get(ref.id)
    if known is None:
        known = rows.contents[ref.id] = content_row(insert, find_staged)
        if known[2] is not None:
            rows.staged.append(ref.id)
    if known[3] != ref.size:
        raise Unfit("the content is of another size")


def content_row(insert: Insert, find_staged: FindStaged) -> ContentRow:
    """The row of the content that an insert brings along. Raises `Unfit` when it brings none."""
    ref = insert.mail.content
    staged = find_staged(ref.id)
    if staged is not None:
        return (ref.id, None, staged.file, staged.size)
    if insert.content is None:
        raise Unfit("the content is not there")
    return (ref.id, insert.content, None, len(insert.content))


def insert_row(insert: Insert) -> MailRow:
    """The row of a new mail: only an ACTIVE mail is owned, and only one that is owned is in flight."""
    row = encode_mail(insert.mail)
    owned = row[3] != "" and row[1] == "active"
    if not owned and (row[3] or row[12] is not None):
        return (*row[:3], "", *row[4:12], None, *row[13:])
    return row


def _add_settle(rows: Rows, change: Settle) -> None:
    if change.mail is None:
        rows.removals.setdefault((change.owner, change.token), []).append(change.id)
    else:
        if change.mail.id != change.id:
            raise Unfit("a mail is settled under the id of another")
        row = encode_mail(change.mail)
        owner = row[3] if row[1] == "active" else ""
        key = (change.id, change.owner, change.token)
        rows.updates.append((*key, *row[1:3], owner, *row[4:12], None, *row[13:FIRST_FIXED_COLUMN]))
    for attempt in change.attempts:
        rows.attempts.append(encode_attempt(change.id, attempt))
