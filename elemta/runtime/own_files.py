"""Files that belong to the server's user, written whole or not at all.

Root may write them by a command for a server that runs as somebody else. What is not here: what they hold. Every call
blocks on the disk: call it in a thread. Failure raised: `OSError`.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

#: A file of secrets is read and written by its owner, perhaps by a group, by nobody else.
OWNER_ALONE = 0o600
OWNER_AND_GROUP = 0o660

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def give_to_owner(descriptor: int, folder: Path) -> None:
    """Give a file that root has just made to the owner of its folder, which the server can use."""
    if os.geteuid() != 0:
        return
    found, made = folder.stat(), os.fstat(descriptor)
    if made.st_uid == 0 and made.st_size == 0 and found.st_uid != 0:
        os.fchown(descriptor, found.st_uid, found.st_gid)


def replace_file(path: Path, octets: bytes, *, mode: int = OWNER_ALONE, like: os.stat_result | None = None) -> None:
    """Put a file in its place, durably, in one step: readers see the old one or the new one.

    `like` is the file whose place it takes: it gets that one's owner, and its mode without what others might do. Where
    the path is a link, the link is replaced.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    with suppress(FileNotFoundError):  # what a crash of a process with our number left
        fresh.unlink()
    try:
        with os.fdopen(os.open(fresh, _NEW, mode), "wb") as file:
            give_to_owner(file.fileno(), path.parent)
            if like is not None:
                _make_alike(file.fileno(), like)
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
    _sync_folder(path.parent)


def make_once(path: Path, octets: bytes) -> None:
    """Make a file for its owner alone, whole, unless it is there: of two who make it at once, one does."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, _NEW, OWNER_ALONE), "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _make_alike(descriptor: int, like: os.stat_result) -> None:
    os.fchmod(descriptor, (like.st_mode & OWNER_AND_GROUP) | OWNER_ALONE)
    if os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
