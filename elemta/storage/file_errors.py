"""Failures of the file system in the terms of the store's contract.

What is not here: what is done about them (`file_journal`).
"""

import errno

from elemta.storage.base import StoreFull, StoreUnavailable

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMLINK})

_REMEDIES = {
    errno.EIO: "the disk failed: look into the system's log, and check the disk under it",
    errno.EROFS: "the file system may not be written: look into the system's log, and mount it anew",
    errno.EACCES: "it may not be used: check its owner and mode, and those of its folder",
    errno.EPERM: "it may not be used: check its owner and mode, and those of its folder",
    errno.ENOTDIR: "it is no folder, or a link: move it away, or name another queue_dir",
    errno.ELOOP: "it is a link: move it away, or name another queue_dir",
    errno.EEXIST: "it is no folder: move it away, or name another queue_dir",
    errno.EMFILE: "too many files are open: raise the limit (`ulimit -n`, or LimitNOFILE in the unit)",
    errno.ENFILE: "the system has too many files open: raise fs.file-max",
    errno.ENOMEM: "no memory is left: give the server more, or lower its limits",
}
_OTHER = "the file system refused: see the message, and the system's log"


def is_full(error: OSError) -> bool:
    """True when no space, quota or inode is left."""
    return error.errno in _NO_SPACE


def explain(error: OSError, directory: str) -> StoreUnavailable:
    """The contract's error for the system's: what happened, where, and how to mend it."""
    if is_full(error):
        return StoreFull(f"no space is left for the queue in {directory}: make room, or move queue_dir ({error})")
    remedy = _REMEDIES.get(error.errno or 0, _OTHER)
    where = f"{directory}: {error.filename}" if error.filename else directory
    return StoreUnavailable(f"{where}: {remedy} ({error.strerror or error})")
