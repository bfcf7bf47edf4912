"""The tables of `queue.db`, step by step.

What is not here: the statements that use them (`sqlite_writer`, `sqlite_reader`). A published migration is never
changed; a new one is added below it. `sqlite-utils` keeps the table `migrations`, so that a person who opens the file
sees how it came to be; it is used at opening only.

Raises `sqlite3.Error` for what the engine says, `UnknownSchema` for a file that another program, or a later version of
this one, wrote.
"""

import sqlite3

from attrs import frozen

from elemta.storage.records import QueueState

#: `PRAGMA application_id`: "Elem", so that `file` and a person can tell whose database it is.
APPLICATION_ID = 0x456C656D


class UnknownSchema(Exception):
    """The file is a database, but not one of ours to open. The text says why."""


@frozen
class Migration:
    """One step from a schema to the next. All its statements succeed in one transaction, or none."""

    name: str
    statements: tuple[str, ...]


_MAILS = """
CREATE TABLE mails (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    owner TEXT NOT NULL,
    token INTEGER NOT NULL,
    destination TEXT NOT NULL,
    sender TEXT NOT NULL,
    recipients TEXT NOT NULL,
    progress TEXT NOT NULL,
    received_at REAL NOT NULL,
    next_attempt_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    attempting_since REAL,
    reason TEXT NOT NULL,
    details TEXT NOT NULL,
    origin_id TEXT NOT NULL,
    content_id TEXT NOT NULL,
    content_size INTEGER NOT NULL,
    content_eight_bit INTEGER NOT NULL,
    content_header_octets INTEGER NOT NULL
) WITHOUT ROWID
"""

_ATTEMPTS = """
CREATE TABLE attempts (
    number INTEGER PRIMARY KEY,
    mail_id TEXT NOT NULL,
    started_at REAL NOT NULL,
    duration REAL NOT NULL,
    recipient TEXT NOT NULL,
    result TEXT NOT NULL,
    code INTEGER NOT NULL,
    enhanced TEXT NOT NULL,
    lines TEXT NOT NULL,
    host TEXT NOT NULL,
    address TEXT NOT NULL
)
"""

#: Content lies in its row, or in a file of `content/` when the octets are NULL; `size` in octets.
_CONTENTS = """
CREATE TABLE contents (
    id TEXT NOT NULL PRIMARY KEY,
    octets BLOB,
    file TEXT,
    size INTEGER NOT NULL
)
"""

#: Content leaves with the last mail that refers to it.
_CONTENT_LEAVES = """
CREATE TRIGGER content_leaves AFTER DELETE ON mails BEGIN
    DELETE FROM contents WHERE id = OLD.content_id
        AND NOT EXISTS (SELECT 1 FROM mails WHERE content_id = OLD.content_id AND content_id <> id)
        AND NOT EXISTS (SELECT 1 FROM mails WHERE id = OLD.content_id AND content_id = id);
END
"""

FIRST = Migration(
    "first",
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        _MAILS,
        _ATTEMPTS,
        _CONTENTS,
        "CREATE TABLE nodes (owner TEXT NOT NULL PRIMARY KEY, token INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE tally (state TEXT NOT NULL PRIMARY KEY, mails INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE probes (number INTEGER PRIMARY KEY, written INTEGER NOT NULL)",
        # One index serves the claims (owner '') and the recovery of a node's mails (its own name).
        "CREATE INDEX mails_due ON mails (owner, priority, next_attempt_at, destination)"
        " WHERE state IN ('active', 'deferred')",
        "CREATE INDEX mails_parked ON mails (state, next_attempt_at) WHERE state IN ('held', 'failed', 'delivered')",
        "CREATE INDEX mails_sharing ON mails (content_id) WHERE content_id <> id",
        # No file can hold two contents.
        "CREATE UNIQUE INDEX contents_files ON contents (file) WHERE file IS NOT NULL",
        "CREATE INDEX attempts_mail ON attempts (mail_id)",
        _CONTENT_LEAVES,
        "CREATE TRIGGER tally_insert AFTER INSERT ON mails BEGIN"
        " UPDATE tally SET mails = mails + 1 WHERE state = NEW.state; END",
        "CREATE TRIGGER tally_delete AFTER DELETE ON mails BEGIN"
        " UPDATE tally SET mails = mails - 1 WHERE state = OLD.state; END",
        "CREATE TRIGGER tally_update AFTER UPDATE OF state ON mails WHEN OLD.state <> NEW.state BEGIN"
        " UPDATE tally SET mails = mails - 1 WHERE state = OLD.state;"
        " UPDATE tally SET mails = mails + 1 WHERE state = NEW.state; END",
        *(f"INSERT INTO tally VALUES ('{state.value}', 0)" for state in QueueState),
        "INSERT INTO probes VALUES (1, 0)",
    ),
)

#: SHA-256 of the content in hexadecimal, empty for mail of before.
DIGEST = Migration("digest", ("ALTER TABLE mails ADD COLUMN content_digest TEXT NOT NULL DEFAULT ''",))

MIGRATIONS = (FIRST, DIGEST)


def migrate(connection: sqlite3.Connection, now: float) -> None:
    """Bring a database to the schema of this version. `now` is UTC in seconds since 1970."""
    applied = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and owner != APPLICATION_ID:
        raise UnknownSchema("another program made it; move it away, or name another queue_dir")
    if applied > len(MIGRATIONS):
        raise UnknownSchema(
            f"a later version of Elemta wrote it (schema {applied}, this one knows {len(MIGRATIONS)}): install that one"
        )
    if applied == len(MIGRATIONS):
        return
    from sqlite_utils import Database  # 0.2 s of imports that no other start has to pay for

    database = Database(connection)
    for number, migration in enumerate(MIGRATIONS[applied:], start=applied + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migration.statements:
                connection.execute(statement)
            database.table("migrations").create(
                {"number": int, "name": str, "applied_at": float}, pk="number", if_not_exists=True
            )
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", (number, migration.name, now))
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
