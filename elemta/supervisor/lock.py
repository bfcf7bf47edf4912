"""The lock that makes one process the owner of a queue folder.

What is not here: what the owner does with it. A second server, or a command that would write behind a running server's
back, is refused with the owner's process id. Failures raised: `QueueBusy`, `QueueUnusable`.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_NAME = "elemta.lock"


class QueueBusy(Exception):
    """Somebody else owns the queue folder; the text says who."""


class QueueUnusable(Exception):
    """The queue folder cannot be made or written; the text says why, and how to mend it."""


class QueueLock:
    """Holds the lock while entered. The kernel lets go of it when the process ends, however it ends."""

    def __init__(self, queue_dir: Path) -> None:
        self._queue_dir = queue_dir
        self._path = queue_dir / LOCK_NAME
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._queue_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise QueueUnusable(
                f"the queue folder {self._queue_dir} cannot be used: {error.strerror or error}. "
                f"Give it to this user (uid {os.geteuid()}), or name another in queue_dir."
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise QueueBusy(
                f"the queue folder {self._queue_dir} is in use by process {owner or 'unknown'}. "
                "Stop it, or name another queue_dir."
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def disown(self) -> None:
        """In a forked process: leave the lock to the one that took it, so that it ends with that one."""
        os.close(self._descriptor)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
