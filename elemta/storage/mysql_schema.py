"""The tables of the queue on a server of the MySQL family, step by step.

What is not here: the statements that use them. A published migration is never changed; a new one is added below it.
Every statement may be run again: MySQL commits each by itself.

Ids are ASCII, all else that is compared is compared code point by code point, so that Python orders it the same way.
Rows lie in the order of their keys, which begin with the time: new ones come to the end.
"""

from elemta.datasource.migrations import Migration
from elemta.storage.shared_statements import LANE

_ID = "CHAR(22) CHARACTER SET ascii COLLATE ascii_bin NOT NULL"
_WORD = "VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL"
#: As long as the index over lane, time, destination and id allows: 3072 octets, four for a character.
_OWNER = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"
_LANE = "VARCHAR(260) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_DESTINATION = "VARCHAR(400) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT ''"
_TEXT = "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT ('')"
_TABLE = "ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

#: The defaults let `INSERT … ON DUPLICATE KEY UPDATE` change many rows that are there without saying the rest of them.
_MAILS = f"""
CREATE TABLE IF NOT EXISTS elemta_mails (
    id {_ID} PRIMARY KEY,
    state {_WORD} DEFAULT '',
    priority SMALLINT NOT NULL DEFAULT 0,
    owner {_OWNER} DEFAULT '',
    token BIGINT NOT NULL DEFAULT 0,
    destination {_DESTINATION},
    sender {_TEXT},
    recipients {_TEXT},
    progress {_TEXT},
    received_at DOUBLE NOT NULL DEFAULT 0,
    next_attempt_at DOUBLE NOT NULL DEFAULT 0,
    expires_at DOUBLE NOT NULL DEFAULT 0,
    attempts BIGINT NOT NULL DEFAULT 0,
    attempting_since DOUBLE,
    reason {_TEXT},
    details {_TEXT},
    origin_id {_ID} DEFAULT '',
    content_id {_ID} DEFAULT '',
    content_size BIGINT NOT NULL DEFAULT 0,
    content_eight_bit SMALLINT NOT NULL DEFAULT 0,
    content_header_octets BIGINT NOT NULL DEFAULT 0,
    content_digest VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
    lane {_LANE} GENERATED ALWAYS AS ({LANE.format(priority="CAST(priority AS CHAR)")}) STORED,
    INDEX elemta_mails_lane (lane, next_attempt_at, destination, id)
) {_TABLE}
"""

#: `size` is -1 until all pieces are there, `mails` counts what refers to it, `staged_at` is NULL once something does.
_CONTENTS = f"""
CREATE TABLE IF NOT EXISTS elemta_contents (
    id {_ID} PRIMARY KEY,
    size BIGINT NOT NULL DEFAULT 0,
    mails BIGINT NOT NULL,
    staged_at DOUBLE,
    octets LONGBLOB,
    INDEX elemta_contents_staged (staged_at)
) {_TABLE}
"""

_PIECES = f"""
CREATE TABLE IF NOT EXISTS elemta_pieces (
    content_id {_ID},
    start BIGINT NOT NULL,
    octets LONGBLOB NOT NULL,
    PRIMARY KEY (content_id, start)
) {_TABLE}
"""

_ATTEMPTS = f"""
CREATE TABLE IF NOT EXISTS elemta_attempts (
    number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    mail_id {_ID},
    started_at DOUBLE NOT NULL,
    duration DOUBLE NOT NULL,
    recipient {_TEXT},
    result {_WORD},
    code BIGINT NOT NULL,
    enhanced {_TEXT},
    reply_lines {_TEXT},
    host {_TEXT},
    address {_TEXT},
    INDEX elemta_attempts_mail (mail_id, number)
) {_TABLE}
"""

FIRST = Migration(
    1,
    "first",
    (
        _MAILS,
        _CONTENTS,
        _PIECES,
        _ATTEMPTS,
        f"CREATE TABLE IF NOT EXISTS elemta_nodes (owner {_OWNER} PRIMARY KEY, token BIGINT NOT NULL) {_TABLE}",
        f"CREATE TABLE IF NOT EXISTS elemta_leases (owner {_OWNER} PRIMARY KEY, token BIGINT NOT NULL,"
        f" lease_until DOUBLE NOT NULL, draining SMALLINT NOT NULL) {_TABLE}",
        "CREATE TABLE IF NOT EXISTS elemta_tokens (number SMALLINT NOT NULL PRIMARY KEY, latest BIGINT NOT NULL)"
        f" {_TABLE}",
        "INSERT INTO elemta_tokens VALUES (1, 0) ON DUPLICATE KEY UPDATE number = 1",
        f"CREATE TABLE IF NOT EXISTS elemta_tally (slot SMALLINT NOT NULL, state {_WORD}, mails BIGINT NOT NULL,"
        f" PRIMARY KEY (slot, state)) {_TABLE}",
    ),
)

MIGRATIONS = (FIRST,)
