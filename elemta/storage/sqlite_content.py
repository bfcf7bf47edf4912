"""The folder of content too large for the database: one synced file each.

What is not here: which mail refers to which file (the table `contents`). A file is created under its final name, an id
that nobody can guess: it counts for nothing until a committed insert refers to it, so it needs no second name to hide
under, and no second sync for a rename.

Raises `OSError` for what the file system says, `ContentMissing` for a file that is not there or not whole.
"""

import os
from collections.abc import Iterable, Sequence

from elemta.mail.ids import ALPHABET, TIME_CHARACTERS, is_queue_id
from elemta.storage.base import ContentMissing

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def staged_at(content_id: str) -> float:
    """When content was named, UTC in seconds since 1970: the first characters of its id."""
    milliseconds = 0
    for character in content_id[:TIME_CHARACTERS]:
        milliseconds = milliseconds * len(ALPHABET) + ALPHABET.index(character)
    return milliseconds / 1000


class ContentFolder:
    """Files of staged content. Every method blocks; ids are checked before they become names."""

    def __init__(self, path: str) -> None:
        self._path = path

    def prepare(self) -> None:
        """Make the folder, for this user alone."""
        try:
            os.mkdir(self._path, 0o700)
        except FileExistsError:
            return
        sync_folder(os.path.dirname(self._path))

    def has_files(self) -> bool:
        """True when any content lies here."""
        with os.scandir(self._path) as entries:
            return next(entries, None) is not None

    def create(self, content_id: str) -> int:
        """A descriptor to write new content to."""
        return os.open(self._name(content_id), _CREATE, 0o600)

    def size(self, content_id: str) -> int | None:
        """Octets of a file, None when there is none."""
        try:
            return os.stat(self._name(content_id), follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def read(self, content_id: str, offset: int, limit: int, *, size: int) -> bytes:
        """A part of a file that must have `size` octets."""
        try:
            descriptor = os.open(self._name(content_id), _READ)
        except FileNotFoundError:
            raise ContentMissing(f"the content {content_id} is not in {self._path}") from None
        try:
            found = os.fstat(descriptor).st_size
            if found != size:
                raise ContentMissing(f"the content {content_id} in {self._path} has {found} octets instead of {size}")
            return os.pread(descriptor, limit, offset)
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """Make the names of all files durable: once for all content of a batch."""
        sync_folder(self._path)

    def remove(self, content_ids: Iterable[str]) -> None:
        """Remove files; those that are gone already are no failure."""
        for content_id in content_ids:
            try:
                os.unlink(self._name(content_id))
            except FileNotFoundError:
                continue

    def staged_before(self, moment: float) -> list[str]:
        """The ids of files that were staged before a moment, UTC in seconds since 1970."""
        with os.scandir(self._path) as entries:
            return [entry.name for entry in entries if is_queue_id(entry.name) and staged_at(entry.name) < moment]

    def _name(self, content_id: str) -> str:
        if not is_queue_id(content_id):
            raise ContentMissing("an id is not of the form that ids have")
        return os.path.join(self._path, content_id)


class StagedFile:
    """One file on its way. Every method blocks, and is called in one thread at a time."""

    def __init__(self, folder: ContentFolder, content_id: str) -> None:
        self._folder = folder
        self.content_id = content_id
        self._descriptor = -1

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces without joining them."""
        if self._descriptor < 0:
            self._descriptor = self._folder.create(self.content_id)
        waiting = [memoryview(piece) for piece in pieces if piece]
        while waiting:
            written = os.writev(self._descriptor, waiting[:_WRITEV_PIECES])
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if written:
                waiting[0] = waiting[0][written:]

    def finish(self, pieces: Sequence[bytes]) -> None:
        """Append the last pieces and make the whole durable. Its name is made durable by `ContentFolder.sync`."""
        self.write(pieces)
        os.fdatasync(self._descriptor)
        self.close()

    def close(self) -> None:
        """Let go of the descriptor; more than once is no failure."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def discard(self) -> None:
        """Throw it away."""
        self.close()
        self._folder.remove([self.content_id])


#: Pieces in one call: IOV_MAX of Linux, limits.h.
_WRITEV_PIECES = 1024
