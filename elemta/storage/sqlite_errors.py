"""Failures of SQLite or the file system in the terms of the store's contract.

What is not here: what is done about it (`sqlite_writer`).
"""

import errno
import os
import sqlite3

from elemta.storage.base import StoreFull, StoreUnavailable

#: The low byte of an extended result code is the primary one, https://sqlite.org/rescode.html.
_PRIMARY = 0xFF
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Which primary result code an errno amounts to; any other means that something cannot be opened.
_CODES = {
    errno.EIO: sqlite3.SQLITE_IOERR,
    errno.EROFS: sqlite3.SQLITE_READONLY,
    errno.ENOMEM: sqlite3.SQLITE_NOMEM,
}
#: Octets that are written to find out whether the file system takes any more.
_SPACE_PROBE_OCTETS = 64 * 1024

#: The engine says these of one change: it would say them again, and of no other change.
POISON = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)

_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another program holds the database locked: close it (`fuser -v {path}` names it)",
    sqlite3.SQLITE_LOCKED: "another program holds the database locked: close it (`fuser -v {path}` names it)",
    sqlite3.SQLITE_READONLY: "the database may not be written: check the owner and mode of {path} and its folder",
    sqlite3.SQLITE_PERM: "the database may not be used: check the owner and mode of {path} and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check what {path} is, its owner and mode, and those of its folder",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: stop the server, copy {path}* to a safe place, save what is left "
    "with `sqlite3 {path} .recover`, and check the disk",
    sqlite3.SQLITE_NOTADB: "{path} is not a database: move it away, or name another queue_dir",
    sqlite3.SQLITE_IOERR: "the disk failed: look into the system's log, and check the disk under {path}",
    sqlite3.SQLITE_NOMEM: "no memory is left: give the server more, or lower its limits",
}


def primary_code(error: sqlite3.Error) -> int:
    """The primary result code, 0 when the error is not the engine's."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY


def is_full(error: BaseException, folder: str) -> bool:
    """True when an error means that no space, no quota or no inode is left in a folder."""
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE
    if not isinstance(error, sqlite3.Error):
        return False
    code = primary_code(error)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        # SQLite tells a missing quota or inode from a broken disk by the errno alone, which it keeps to itself.
        return _takes_no_more(folder)
    return code == sqlite3.SQLITE_FULL


def _takes_no_more(folder: str) -> bool:
    path = os.path.join(folder, f"space-probe-{os.getpid()}")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SPACE_PROBE_OCTETS)
        finally:
            os.close(descriptor)
            os.unlink(path)
    except OSError as error:
        return error.errno in _NO_SPACE
    return False


def explain(error: sqlite3.Error | OSError, path: str) -> StoreUnavailable:
    """The contract's error for the engine's: what happened, where, and how to mend it."""
    folder = os.path.dirname(path)
    if is_full(error, folder):
        return StoreFull(f"no space is left for the queue in {folder}: make room, or move queue_dir ({error})")
    if isinstance(error, OSError):
        code = _CODES.get(error.errno or 0, sqlite3.SQLITE_CANTOPEN)
        return StoreUnavailable(f"{_REMEDIES[code].format(path=error.filename or path)} ({error.strerror or error})")
    remedy = _REMEDIES.get(primary_code(error), "the database refused: see the message, and the system's log")
    return StoreUnavailable(f"{remedy.format(path=path)} ({error})")
