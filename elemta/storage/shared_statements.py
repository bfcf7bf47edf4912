"""The statements of a queue on a database server, in words common to all dialects.

What is not here: what differs between them (`shared_dialect` and its two halves), or running any.

`?` stands for a value, `?*` for a list of values of at least one; `{now}` is the server's clock in seconds since 1970,
`{share}` locks a row against removal and `FOR UPDATE`, `{if_absent}` ends an INSERT that passes over what is there.

Locks are taken in one order everywhere: leases, nodes, mails, contents, the rest; rows of one table by their key.
"""

from collections.abc import Sequence

import orjson
from attrs import frozen

from elemta.mail.envelope import Priority
from elemta.mail.ids import is_queue_id
from elemta.storage.base import Filter
from elemta.storage.codec import ATTEMPT_COLUMNS, MAIL_COLUMNS
from elemta.storage.records import QueueState
from elemta.storage.rules import address_key

#: Rows of `tally` for each state: nodes and tasks that commit at once seldom wait for each other there.
TALLY_SLOTS = 16
#: Ids that one statement names at most: a text of some 12 KiB.
IDS_AT_ONCE = 500

#: What `lane` says of a mail: its owner behind this sign, its priority while anybody may claim it, else its state.
OWNED_LANE = "@"
#: The lanes of claimable mails, the first to go first.
LANES = tuple(str(int(priority)) for priority in sorted(Priority, reverse=True))
#: The definition of `lane` in SQL, with the cast of a number to text left open.
LANE = (
    f"CASE WHEN owner <> '' THEN CONCAT('{OWNED_LANE}', owner)"
    " WHEN state IN ('active', 'deferred') THEN {priority} ELSE state END"
)

COLUMNS = ", ".join(MAIL_COLUMNS)
#: `lines` is a word of MySQL's own.
ATTEMPT_NAMES = tuple("reply_lines" if name == "lines" else name for name in ATTEMPT_COLUMNS)

# ---- batches -------------------------------------------------------------------------------------

LOOK_NODES = "SELECT owner, token FROM elemta_nodes WHERE owner IN (?*) ORDER BY owner {share}"
LOOK_MAILS = (
    "SELECT id, state, owner, token, attempts, attempting_since, content_id"
    " FROM elemta_mails WHERE id IN (?*) ORDER BY id FOR UPDATE"
)
LOOK_CONTENTS = "SELECT id, size, mails FROM elemta_contents WHERE id IN (?*) ORDER BY id FOR UPDATE"
ATTEMPTED_AMONG = "SELECT DISTINCT mail_id FROM elemta_attempts WHERE mail_id IN (?*)"
PRESENT_AMONG = "SELECT id FROM elemta_mails WHERE id IN (?*)"

# ---- nodes ---------------------------------------------------------------------------------------

ADD_LEASE = "INSERT INTO elemta_leases (owner, token, lease_until, draining) VALUES (?, 0, 0, 0) {if_absent}"
LOCK_LEASE = "SELECT token FROM elemta_leases WHERE owner = ? FOR UPDATE"
ADD_NODE = "INSERT INTO elemta_nodes (owner, token) VALUES (?, 0) {if_absent}"
LOCK_NODE = "SELECT token FROM elemta_nodes WHERE owner = ? FOR UPDATE"
LOCK_IDLE_NODE = "SELECT token FROM elemta_nodes WHERE owner = ? FOR UPDATE SKIP LOCKED"
COUNT_TOKEN = "UPDATE elemta_tokens SET latest = latest + 1"
LATEST_TOKEN = "SELECT latest FROM elemta_tokens"
SET_TOKEN = "UPDATE elemta_nodes SET token = ? WHERE owner = ?"
BEGIN_LEASE = "UPDATE elemta_leases SET token = ?, lease_until = {now} + ?, draining = 0 WHERE owner = ?"
RENEW = "UPDATE elemta_leases SET lease_until = {now} + ? WHERE owner = ? AND token = ?"
IS_DRAINING = "SELECT draining FROM elemta_leases WHERE owner = ? AND token = ?"
DRAIN = "UPDATE elemta_leases SET draining = ? WHERE owner = ?"
DEAD_LEASES = (
    "SELECT owner FROM elemta_leases WHERE lease_until <= {now} AND owner <> ? ORDER BY owner FOR UPDATE SKIP LOCKED"
)
FORGET_LEASE = "DELETE FROM elemta_leases WHERE owner = ?"
FORGET_NODE = "DELETE FROM elemta_nodes WHERE owner = ?"
NODES = (
    "SELECT owner, token, lease_until - {now}, draining,"
    " (SELECT COUNT(*) FROM elemta_mails WHERE lane = CONCAT('@', elemta_leases.owner))"
    " FROM elemta_leases ORDER BY owner"
)
OWNED_IN_FLIGHT = (
    f"SELECT {COLUMNS} FROM elemta_mails WHERE lane = ? AND attempting_since IS NOT NULL ORDER BY id FOR UPDATE"
)
RELEASE_OWNED = "UPDATE elemta_mails SET owner = '', token = 0, attempting_since = NULL WHERE lane = ?"

# ---- what is due ---------------------------------------------------------------------------------

FENCE = "SELECT token FROM elemta_nodes WHERE owner = ? {share}"
#: One lane's mails that are due, the longest due first.
DUE = (
    f"SELECT {COLUMNS} FROM elemta_mails WHERE lane = ? AND next_attempt_at <= ?"
    " ORDER BY next_attempt_at, destination, id LIMIT ? FOR UPDATE SKIP LOCKED"
)
#: Takes mails that a search found; they may have changed since.
DUE_AMONG = (
    f"SELECT {COLUMNS} FROM elemta_mails WHERE id IN (?*) AND owner = '' AND state IN ('active', 'deferred')"
    " AND next_attempt_at <= ? ORDER BY id FOR UPDATE SKIP LOCKED"
)
#: Mails of a claim of which nobody heard.
OWNED_AMONG = (
    f"SELECT {COLUMNS} FROM elemta_mails"
    " WHERE id IN (?*) AND owner = ? AND token = ? AND attempting_since IS NULL ORDER BY id FOR UPDATE"
)
TAKE = "UPDATE elemta_mails SET owner = ?, token = ?, state = 'active' WHERE id IN (?*)"
NEXT_DUE = " UNION ALL ".join(f"SELECT MIN(next_attempt_at) FROM elemta_mails WHERE lane = '{lane}'" for lane in LANES)

#: Between two keys of one lane, the first left out. Rows are not compared as such, for which MySQL knows no index.
_BETWEEN = (
    "FROM elemta_mails WHERE lane = ? AND next_attempt_at >= ? AND next_attempt_at <= ?"
    " AND (next_attempt_at > ? OR destination > ? OR (destination = ? AND id > ?))"
    " AND (next_attempt_at < ? OR destination < ? OR (destination = ? AND id <= ?))"
)
_BY_KEY = "ORDER BY next_attempt_at, destination, id"
#: The key at which a step of a search ends; none when fewer mails than a step are left.
SCOUT_STEP = f"SELECT next_attempt_at, destination, id {_BETWEEN} {_BY_KEY} LIMIT 1 OFFSET ?"
SCOUT_DESTINATIONS = f"SELECT destination, MIN(next_attempt_at) {_BETWEEN} GROUP BY destination"
SCOUT_MAILS = f"SELECT next_attempt_at, destination, id {_BETWEEN} AND destination NOT IN (?*) {_BY_KEY} LIMIT ?"

# ---- what is there -------------------------------------------------------------------------------

GET = f"SELECT {COLUMNS} FROM elemta_mails WHERE id = ?"
ATTEMPTS_OF = f"SELECT {', '.join(ATTEMPT_NAMES)} FROM elemta_attempts WHERE mail_id = ? ORDER BY number"
COUNTS = "SELECT state, SUM(mails) FROM elemta_tally GROUP BY state"
LOCK_MAILS = f"SELECT {COLUMNS}, token FROM elemta_mails WHERE id IN (?*) ORDER BY id FOR UPDATE"
WINDOW_END = "SELECT id FROM elemta_mails WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
#: Of one lane, what was due before a moment.
FINISHED_BEFORE = (
    "SELECT next_attempt_at, id FROM elemta_mails WHERE lane = ? AND next_attempt_at < ?"
    " ORDER BY next_attempt_at, id LIMIT ?"
)
#: Attempts are numbered as they end, so that the old ones stand at the front.
OLDEST_ATTEMPTS = "SELECT MAX(number) FROM (SELECT number FROM elemta_attempts ORDER BY number LIMIT ?) AS oldest"
FORGET_ATTEMPTS = "DELETE FROM elemta_attempts WHERE number <= ? AND started_at < ?"

# ---- content -------------------------------------------------------------------------------------

BEGIN_CONTENT = "INSERT INTO elemta_contents (id, size, mails, staged_at, octets) VALUES (?, -1, 0, ?, NULL)"
ADD_PIECE = "INSERT INTO elemta_pieces (content_id, start, octets) VALUES (?, ?, ?)"
FINISH_CONTENT = "UPDATE elemta_contents SET size = ?, staged_at = ? WHERE id = ? AND size = -1 AND mails = 0"
ABANDON_CONTENT = "DELETE FROM elemta_contents WHERE id = ? AND size = -1 AND mails = 0"
DROP_CONTENTS = "DELETE FROM elemta_contents WHERE id IN (?*)"
DROP_PIECES = "DELETE FROM elemta_pieces WHERE content_id IN (?*)"
STAGED_BEFORE = (
    "SELECT id FROM elemta_contents WHERE staged_at < ? ORDER BY staged_at, id LIMIT ? FOR UPDATE SKIP LOCKED"
)
#: A part of what lies in one row; NULL when it lies in pieces.
CONTENT_PART = "SELECT size, mails, SUBSTRING(octets, ?, ?) FROM elemta_contents WHERE id = ?"
PIECES = "SELECT start, octets FROM elemta_pieces WHERE content_id = ? AND start > ? AND start < ? ORDER BY start"


@frozen
class Terms:
    """Conditions to be joined by AND, with their values in the same order."""

    texts: tuple[str, ...] = ()
    values: tuple[object, ...] = ()

    def __add__(self, other: "Terms") -> "Terms":
        return Terms(self.texts + other.texts, self.values + other.values)


def chosen(terms: Terms) -> str:
    """The statement for mails that meet terms, in order of id, at most so many."""
    return f"SELECT {COLUMNS} FROM elemta_mails WHERE {' AND '.join(terms.texts)} ORDER BY id LIMIT ?"


def filter_terms(chosen: Filter) -> Terms | None:
    """What a database can say of a filter: no mail that it means is left out, `rules.matches` says the rest.

    None when no mail can be meant.
    """
    terms = Terms()
    if chosen.ids is not None:
        terms += Terms(("id IN (?*)",), ([each for each in chosen.ids if is_queue_id(each)],))
    if chosen.states is not None:
        terms += state_terms(chosen.states)
    if chosen.destination is not None:
        terms += Terms(("destination = ?",), (chosen.destination,))
    if chosen.received_before is not None:
        terms += Terms(("received_at <= ?",), (float(chosen.received_before),))
    if chosen.sender is not None:
        key = address_key(chosen.sender)
        terms += Terms(("POSITION(? IN sender) > 0",) if key.startswith("@") else ("sender = ?",), (key,))
    try:
        if chosen.recipient is not None:
            # As it stands in the JSON: behind a quote where it is a whole address, before one in any case.
            key = address_key(chosen.recipient)
            quoted = orjson.dumps(key).decode()
            terms += Terms(("POSITION(? IN recipients) > 0",), (quoted[1:] if key.startswith("@") else quoted,))
        return terms if all(_can_be_said(value) for value in terms.values) else None
    except (UnicodeError, TypeError):
        return None


def state_terms(states: frozenset[QueueState]) -> Terms:
    """One of these states."""
    return Terms(("state IN (?*)",), (sorted(state.value for state in states),))


def _can_be_said(value: object) -> bool:
    """Whether a mail can have such a value. Raises `UnicodeError` for text that is not Unicode."""
    if isinstance(value, str):
        value.encode()
        return "\0" not in value
    return bool(value) if isinstance(value, Sequence) else True


def lanes_of(priority: Priority | None) -> tuple[str, ...]:
    """The lanes of a claim, the first to go first."""
    return LANES if priority is None else (str(int(priority)),)
