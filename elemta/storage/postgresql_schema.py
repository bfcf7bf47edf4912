"""The queue's tables on PostgreSQL, step by step.

What is not here: the statements that use them. A published migration is never changed; a new one is added below it.

Everything is compared octet by octet (collation "C"): so Python orders text, too. The tables of mails and contents are
written over and over: they keep room on each page for the next version of a row, and are vacuumed early.
"""

from elemta.datasource.migrations import Migration
from elemta.storage.shared_statements import LANE

_TEXT = 'text COLLATE "C" NOT NULL'
#: Vacuum after a thousand rows and 2 % of the table: its default of 20 % leaves an index of dead entries to walk over.
_BUSY = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05"
)

#: CONCAT is no function of its arguments alone there.
_LANE = LANE.replace("CONCAT('@', owner)", "'@' || owner").format(priority="priority::text")

_MAILS = f"""
CREATE TABLE elemta_mails (
    id {_TEXT} PRIMARY KEY,
    state {_TEXT},
    priority smallint NOT NULL,
    owner {_TEXT},
    token bigint NOT NULL,
    destination {_TEXT},
    sender {_TEXT},
    recipients {_TEXT},
    progress {_TEXT},
    received_at double precision NOT NULL,
    next_attempt_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    attempts bigint NOT NULL,
    attempting_since double precision,
    reason {_TEXT},
    details {_TEXT},
    origin_id {_TEXT},
    content_id {_TEXT},
    content_size bigint NOT NULL,
    content_eight_bit smallint NOT NULL,
    content_header_octets bigint NOT NULL,
    content_digest {_TEXT},
    lane {_TEXT} GENERATED ALWAYS AS ({_LANE}) STORED
) WITH (fillfactor = 85, {_BUSY})
"""

#: `size` is -1 until all pieces are there, `mails` counts what refers to it, `staged_at` is NULL once something does.
_CONTENTS = f"""
CREATE TABLE elemta_contents (
    id {_TEXT} PRIMARY KEY,
    size bigint NOT NULL,
    mails bigint NOT NULL,
    staged_at double precision,
    octets bytea
) WITH ({_BUSY})
"""

_PIECES = f"""
CREATE TABLE elemta_pieces (
    content_id {_TEXT},
    start bigint NOT NULL,
    octets bytea NOT NULL,
    PRIMARY KEY (content_id, start)
)
"""

_ATTEMPTS = f"""
CREATE TABLE elemta_attempts (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mail_id {_TEXT},
    started_at double precision NOT NULL,
    duration double precision NOT NULL,
    recipient {_TEXT},
    result {_TEXT},
    code bigint NOT NULL,
    enhanced {_TEXT},
    reply_lines {_TEXT},
    host {_TEXT},
    address {_TEXT}
)
"""

FIRST = Migration(
    1,
    "first",
    (
        _MAILS,
        # One index serves the claims (a priority), a node's mails (its name), the clean-up (a state).
        "CREATE INDEX elemta_mails_lane ON elemta_mails (lane, next_attempt_at, destination, id)",
        _CONTENTS,
        "CREATE INDEX elemta_contents_staged ON elemta_contents (staged_at) WHERE staged_at IS NOT NULL",
        # Mail seldom shrinks enough to pay for trying; and a part is read without the rest.
        "ALTER TABLE elemta_contents ALTER octets SET STORAGE EXTERNAL",
        _PIECES,
        "ALTER TABLE elemta_pieces ALTER octets SET STORAGE EXTERNAL",
        _ATTEMPTS,
        "CREATE INDEX elemta_attempts_mail ON elemta_attempts (mail_id, number)",
        f"CREATE TABLE elemta_nodes (owner {_TEXT} PRIMARY KEY, token bigint NOT NULL)",
        f"CREATE TABLE elemta_leases (owner {_TEXT} PRIMARY KEY, token bigint NOT NULL,"
        " lease_until double precision NOT NULL, draining smallint NOT NULL)",
        "CREATE TABLE elemta_tokens (latest bigint NOT NULL)",
        "INSERT INTO elemta_tokens VALUES (0)",
        f"CREATE TABLE elemta_tally (slot smallint NOT NULL, state {_TEXT}, mails bigint NOT NULL,"
        " PRIMARY KEY (slot, state)) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000)",
    ),
)

MIGRATIONS = (FIRST,)
