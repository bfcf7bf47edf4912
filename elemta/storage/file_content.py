"""The files of content.

What is not here: which mail refers to which content (`file_queue`).

Content lies in `data/` under its own id from its first octet on; what no mail refers to is no mail's. Staged content is
synced when it is whole, its name with the insert that refers to it.

Raises `OSError`, `StoreFull`, `ContentMissing`.
"""

import os
from collections.abc import Sequence
from contextlib import suppress

from elemta.mail.ids import ID_CHARACTERS, is_queue_id
from elemta.storage.base import ContentMissing, StoreFull, StoreUnavailable
from elemta.storage.file_attempts import made_at
from elemta.storage.file_folders import Folder, Folders, OddFile, Place
from elemta.storage.records import ContentRef

#: Octets kept free for what brings mail out: no new mail is taken below, so that the queue can always be worked off.
RESERVE_OCTETS = 64 * 1024 * 1024
#: On a small file system the reserve is at most one part in so many.
SMALL_PART = 16
#: Inodes kept free beside those of a batch.
RESERVE_INODES = 64
#: Files of one new mail: its state, its content, and the mark that it shares another's.
FILES_OF_A_MAIL = 3
#: Pieces in one call: IOV_MAX of Linux, limits.h.
WRITEV_PIECES = 1024

_SUFFIX = ".eml"


def content_place(content_id: str) -> Place:
    """Where content lies."""
    return Folder.DATA, content_id + _SUFFIX


def content_id_of(name: str) -> str | None:
    """The id of the content whose file has this name; None for other names."""
    content_id = name[:ID_CHARACTERS]
    return content_id if name == content_id + _SUFFIX and is_queue_id(content_id) else None


def check_space(folders: Folders, mails: int = 1) -> None:
    """Raise `StoreFull` when new mail would take what is needed to deliver the old."""
    found = os.fstatvfs(folders.descriptor(Folder.ROOT))
    reserve = min(RESERVE_OCTETS, found.f_blocks * found.f_frsize // SMALL_PART)
    if found.f_bavail * found.f_frsize < reserve:
        raise StoreFull(f"under {reserve} octets are left for the queue in {folders.directory}: make room")
    inodes = RESERVE_INODES + FILES_OF_A_MAIL * mails
    if found.f_files and found.f_favail < inodes:
        raise StoreFull(f"under {inodes} inodes are left for the queue in {folders.directory}: make room")


class Contents:
    """Content beside the mails. Methods block, and may be called in several threads."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        #: Octets of whole content that waits for its insert.
        self.staged: dict[str, int] = {}

    def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """A part of content. Raises `ContentMissing`."""
        try:
            with self.folders.reading(content_place(ref.id)) as (descriptor, size):
                if size == ref.size:
                    return os.pread(descriptor, limit, offset)
        except (FileNotFoundError, OddFile) as error:
            raise ContentMissing(f"the content data/{ref.id}{_SUFFIX} cannot be read: {error}") from error
        raise ContentMissing(f"the content data/{ref.id}{_SUFFIX} has {size} octets instead of {ref.size}")

    def staged_before(self, moment: float) -> list[str]:
        """Content that was staged before a moment, UTC in seconds since 1970, and still waits."""
        return [content_id for content_id in list(self.staged) if made_at(content_id) < moment]

    def discard(self, content_id: str) -> None:
        """Give content up that no mail refers to. Raises `OSError`."""
        self.staged.pop(content_id, None)
        with suppress(FileNotFoundError):
            self.folders.remove(content_place(content_id))


class StagedFile:
    """Content on its way into its file. Methods block, and are called in one thread at a time."""

    def __init__(self, contents: Contents, content_id: str) -> None:
        self._contents = contents
        self.content_id = content_id
        self._descriptor = -1
        self._is_there = False
        self._size = 0

    @property
    def directory(self) -> str:
        """Where the queue lies."""
        return self._contents.folders.directory

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces without joining them. Raises `StoreUnavailable`, `StoreFull`."""
        if not self._contents.folders.is_open:
            raise StoreUnavailable("the queue is not open")
        check_space(self._contents.folders)
        if self._descriptor < 0:
            self._descriptor = self._contents.folders.create(content_place(self.content_id))
            self._is_there = True
        waiting = [memoryview(piece) for piece in pieces if piece]
        while waiting:
            written = os.writev(self._descriptor, waiting[:WRITEV_PIECES])
            self._size += written
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if written:
                waiting[0] = waiting[0][written:]

    def finish(self, pieces: Sequence[bytes]) -> None:
        """Append the last pieces and make the octets durable."""
        self.write(pieces)
        os.fsync(self._descriptor)
        self._close()
        self._contents.staged[self.content_id] = self._size

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def discard(self) -> None:
        """Throw it away."""
        self._close()
        if self._is_there:
            self._contents.discard(self.content_id)
