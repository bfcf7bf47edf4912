"""Files of users that a command makes as root for a server that runs as somebody else.

What is not here: what the files hold (`users_file`, `users_sqlite`). Failure raised: `OSError`.
"""

import os
from pathlib import Path

#: A file of passwords is read and written by its owner, perhaps by a group, by nobody else.
OWNER_ALONE = 0o600
OWNER_AND_GROUP = 0o660


def give_to_owner(descriptor: int, folder: Path) -> None:
    """Give a file that root has just made to the owner of its folder, which the server can use."""
    if os.geteuid() != 0:
        return
    found, made = folder.stat(), os.fstat(descriptor)
    if made.st_uid == 0 and made.st_size == 0 and found.st_uid != 0:
        os.fchown(descriptor, found.st_uid, found.st_gid)


def make_alike(descriptor: int, like: os.stat_result | None) -> None:
    """Give a file the owner and the mode of the one whose place it takes, without what others might do with that."""
    os.fchmod(descriptor, OWNER_ALONE if like is None else (like.st_mode & OWNER_AND_GROUP) | OWNER_ALONE)
    if like is not None and os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)
