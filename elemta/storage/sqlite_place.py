"""Where the SQLite queue lies, with its connections' settings.

What is not here: tables (`sqlite_schema`), or statements (`sqlite_statements`). The folder is the user's alone (0700,
files 0600).

Raises `OSError` and `sqlite3.Error` for what the file system and the engine say.
"""

import os
import sqlite3

from elemta.storage.base import StoreFull
from elemta.storage.sqlite_content import sync_folder

#: Seconds to wait for another program's lock, well under the client's patience of 10 minutes, RFC 5321 §4.5.3.2.6.
BUSY_SECONDS = 5.0
#: RETURNING came with 3.35 (2021), https://sqlite.org/lang_returning.html.
OLDEST_SQLITE = (3, 35, 0)
#: Octets of a page.
PAGE_OCTETS = 4096
#: Pages of log after which a commit brings them into the database; then the log is written over from its beginning,
#: which costs less a sync than letting it grow. Measured with 10 mails a commit: bringing 64 MiB home takes some 70 ms
#: once in 500 commits, 16 MiB some 40 ms once in 130, which is more than one mail in a hundred.
CHECKPOINT_PAGES = 16_384
#: KiB of pages that a connection keeps in memory: the one that writes, the others.
WRITER_CACHE_KIB = 16 * 1024
READER_CACHE_KIB = 4 * 1024
#: Prepared statements kept by one connection.
STATEMENTS = 256
#: Octets kept free for what brings mail out: no new mail is taken below, so that the queue can always be worked off.
RESERVE_OCTETS = 64 * 1024 * 1024
#: On a small file system the reserve, or the log, takes at most one part in so many.
SMALL_PART = 16
#: Inodes kept free: the log, its index, and some content.
RESERVE_INODES = 64


class Place:
    """A folder with `queue.db` and `content/`."""

    def __init__(self, directory: str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self._busy_seconds = busy_seconds
        self.directory = os.path.abspath(directory)
        self.database = os.path.join(self.directory, "queue.db")
        self.contents = os.path.join(self.directory, "content")

    def prepare(self) -> None:
        """Make the folder and an empty database, for this user alone, durably."""
        try:
            os.mkdir(self.directory, 0o700)
            sync_folder(os.path.dirname(self.directory))
        except FileExistsError:
            pass
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(self.database, flags, 0o600))
        sync_folder(self.directory)

    def connect(self) -> sqlite3.Connection:
        """A connection whose commits are synced. SQLite gives the log and its index the database's mode."""
        connection = sqlite3.connect(
            self.database,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS,
        )
        try:
            for name, value in (
                ("page_size", PAGE_OCTETS),
                ("journal_mode", "WAL"),
                ("synchronous", "FULL"),
                ("wal_autocheckpoint", self._checkpoint_pages()),
                ("temp_store", "MEMORY"),
                ("cache_size", -WRITER_CACHE_KIB),
                # Debian builds SQLite to write zeros over all that is deleted, which doubles what a mail writes.
                ("secure_delete", "OFF"),
                ("cell_size_check", "ON"),
                ("trusted_schema", "OFF"),
            ):
                connection.execute(f"PRAGMA {name} = {value}").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def connect_to_read(self) -> sqlite3.Connection:
        """A connection that changes nothing."""
        connection = self.connect()
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA cache_size = {-READER_CACHE_KIB}")
        return connection

    def check_space(self, connection: sqlite3.Connection | None = None) -> None:
        """Raise `StoreFull` when new mail would take what is needed to deliver the old.

        With the connection, pages count that mails gave back: they do not return to the file system, but new mail can
        have them.
        """
        found = os.statvfs(self.directory)
        reserve = min(RESERVE_OCTETS, found.f_blocks * found.f_frsize // SMALL_PART)
        free = found.f_bavail * found.f_frsize
        if free < reserve and connection is not None:
            free += connection.execute("PRAGMA freelist_count").fetchone()[0] * PAGE_OCTETS
        if free < reserve:
            raise StoreFull(f"under {reserve} octets are left for the queue in {self.directory}: make room")
        if found.f_files and found.f_favail < RESERVE_INODES:
            raise StoreFull(f"under {RESERVE_INODES} inodes are left for the queue in {self.directory}: make room")

    def _checkpoint_pages(self) -> int:
        found = os.statvfs(self.directory)
        return max(64, min(CHECKPOINT_PAGES, found.f_blocks * found.f_frsize // SMALL_PART // PAGE_OCTETS))
