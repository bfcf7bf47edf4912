"""The statements of the SQLite store, and a batch of changes as rows for them.

What is not here: running them (`sqlite_writer`, `sqlite_reader`). All texts are constant, so that each is
prepared once.

Raises `Unfit` for a change that needs to be looked at by itself.
"""

from collections.abc import Callable, Sequence

from attrs import Factory, define

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

_COLUMNS = ", ".join(MAIL_COLUMNS)
_MARKS = ", ".join("?" * len(MAIL_COLUMNS))
_LATEST_TOKEN = "COALESCE((SELECT token FROM nodes WHERE owner = {}), 0)"
#: The words of the partial index `mails_due`; a statement that uses the index repeats them.
_WAITING = "state IN ('active', 'deferred')"
_OF_OWNER = "id = ? AND owner = ? AND token = ? AND state = 'active'"

INSERT_CONTENT = "INSERT OR IGNORE INTO contents VALUES (?, ?)"
#: An INSERT that ignores what is there already, and what breaks a constraint; the count of rows tells.
INSERT_MAIL = f"INSERT OR IGNORE INTO mails ({_COLUMNS}, token) VALUES ({_MARKS}, {_LATEST_TOKEN.format('?4')})"
INSERT_ATTEMPT = f"INSERT INTO attempts ({', '.join(ATTEMPT_COLUMNS)}) VALUES ({', '.join('?' * len(ATTEMPT_COLUMNS))})"
BEGIN_ATTEMPT = f"UPDATE mails SET attempting_since = ? WHERE {_OF_OWNER}"
REMOVE_OWNED = f"DELETE FROM mails WHERE {_OF_OWNER}"
_CHANGING = MAIL_COLUMNS[1:FIRST_FIXED_COLUMN]
UPDATE_OWNED = (
    f"UPDATE mails SET {', '.join(f'{name} = ?' for name in _CHANGING)}, token = {_LATEST_TOKEN.format('?3')}"
    f" WHERE {_OF_OWNER}"
)
WITHDRAW = "DELETE FROM mails WHERE id = ? AND attempting_since IS NULL AND attempts = 0"

HAS_MAIL = "SELECT 1 FROM mails WHERE id = ?"
OWNER_OF = "SELECT owner, token, state FROM mails WHERE id = ?"
CONTENT_LENGTH = "SELECT octets IS NULL, length(octets) FROM contents WHERE id = ?"

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
        " AND destination NOT IN (SELECT value FROM json_each(:exclude))"
        " ORDER BY next_attempt_at, destination, id LIMIT :limit)"
    )


def _claim(priorities: Sequence[int]) -> str:
    due = " UNION ALL ".join(_due(priority) for priority in priorities)
    return (
        f"UPDATE mails SET owner = :owner, token = :token, state = 'active' WHERE id IN ({due} LIMIT :limit)"
        " AND EXISTS (SELECT 1 FROM nodes WHERE owner = :owner AND token = :token)"
        f" RETURNING {_COLUMNS}"
    )


_PRIORITIES = (3, 2, 1, 0)
CLAIM_ANY = _claim(_PRIORITIES)
CLAIM_PRIORITY = {priority: _claim([priority]) for priority in _PRIORITIES}
NEXT_DUE = " UNION ALL ".join(
    f"SELECT * FROM (SELECT next_attempt_at FROM mails INDEXED BY mails_due WHERE owner = '' AND {_WAITING}"
    f" AND priority = {priority} ORDER BY next_attempt_at LIMIT 1)"
    for priority in _PRIORITIES
)

GET = f"SELECT {_COLUMNS} FROM mails WHERE id = ?"
ATTEMPTS_OF = f"SELECT {', '.join(ATTEMPT_COLUMNS)} FROM attempts WHERE mail_id = ? ORDER BY number"
CONTENT_PART = "SELECT octets IS NULL, length(octets), substr(octets, ?, ?) FROM contents WHERE id = ?"
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
    "SELECT id FROM mails INDEXED BY mails_parked WHERE state IN ('held', 'failed', 'delivered')"
    " AND state = :state AND next_attempt_at < :before ORDER BY next_attempt_at LIMIT :limit"
)
#: Attempts are numbered as they end, so that the old ones stand at the front.
OLD_ATTEMPTS = (
    "DELETE FROM attempts WHERE started_at < :before"
    " AND number IN (SELECT number FROM attempts ORDER BY number LIMIT :limit)"
)
DROPPED_FILES = "SELECT id FROM dropped_files LIMIT ?"
FORGET_DROPPED = "DELETE FROM dropped_files WHERE id = ?"
UNKNOWN_FILES = "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM contents WHERE contents.id = value)"
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


@define
class Rows:
    """A batch as rows, by statement. Applying them in the order of the fields equals applying the changes in theirs."""

    contents: dict[str, bytes | None] = Factory(dict)
    mails: list[MailRow] = Factory(list)
    begins: list[tuple[object, ...]] = Factory(list)
    updates: list[tuple[object, ...]] = Factory(list)
    removals: list[tuple[str, str, int]] = Factory(list)
    withdrawals: list[tuple[str]] = Factory(list)
    attempts: list[AttemptRow] = Factory(list)
    #: Content that lies in files.
    files: int = 0


#: Octets of a staged file, None when there is none.
SizeOfFile = Callable[[str], int | None]


def rows_of(batch: Sequence[Change], size_of_file: SizeOfFile) -> Rows:
    """The rows of a batch whose changes do not depend on each other.

    Raises `Unfit` when one cannot be taken, or when two concern the same mail, or when content must be looked up: then
    each change is applied by itself.
    """
    rows = Rows()
    ids: list[str] = []
    for change in batch:
        if isinstance(change, Insert):
            _add_insert(rows, change, size_of_file)
            ids.append(change.mail.id)
            continue
        ids.append(change.id)
        if isinstance(change, Begin | Settle) and not change.owner:
            raise Unfit("nobody is no owner")
        if isinstance(change, Begin):
            rows.begins.append((change.at, change.id, change.owner, change.token))
        elif isinstance(change, Settle):
            _add_settle(rows, change)
            for insert in change.inserts:
                _add_insert(rows, insert, size_of_file)
                ids.append(insert.mail.id)
        else:
            rows.withdrawals.append((change.id,))
    if len(set(ids)) != len(ids):
        raise Unfit("two changes of one mail")
    return rows


def _add_insert(rows: Rows, insert: Insert, size_of_file: SizeOfFile) -> None:
    rows.mails.append(insert_row(insert))
    ref = insert.mail.content
    if ref.id in rows.contents:
        known = rows.contents[ref.id]
        if known is not None and len(known) != ref.size:
            raise Unfit("the content is of another size")
        if known is not None:
            return
    elif insert.content is not None:
        if len(insert.content) != ref.size:
            raise Unfit("the content is of another size")
        rows.contents[ref.id] = insert.content
        return
    if size_of_file(ref.id) != ref.size:
        raise Unfit("the content is not there, or of another size")
    rows.contents[ref.id] = None
    rows.files += 1


def insert_row(insert: Insert) -> MailRow:
    """The row of a new mail: nothing is in flight, and only an ACTIVE mail is owned."""
    row = encode_mail(insert.mail)
    if row[12] is not None or (row[3] and row[1] != "active"):
        return (*row[:3], row[3] if row[1] == "active" else "", *row[4:12], None, *row[13:])
    return row


def _add_settle(rows: Rows, change: Settle) -> None:
    key = (change.id, change.owner, change.token)
    if change.mail is None:
        rows.removals.append(key)
    else:
        if change.mail.id != change.id:
            raise Unfit("a mail is settled under the id of another")
        row = encode_mail(change.mail)
        owner = row[3] if row[1] == "active" else ""
        rows.updates.append((*row[1:3], owner, *row[4:12], None, *row[13:FIRST_FIXED_COLUMN], *key))
    for attempt in change.attempts:
        rows.attempts.append(encode_attempt(change.id, attempt))
