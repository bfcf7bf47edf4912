"""The folder of content too large for the database.

What is not here: which mail refers to which file (the table `contents`, and the `Writer` that changes it).

Files are used again. Making and removing one for each mail costs the file system a journal commit each time, with an
ever longer search for a free inode; writing over what is there costs half. A file's name says nothing of its content,
so that nothing has to be renamed and synced either: the committed row that names it is what makes it content. A file is
free again once the removal of its row is durable. It may hold old octets beyond its content's size; nobody reads them.

Raises `OSError` for what the file system says, `ContentMissing` for a file that is not there or not whole.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from threading import Lock

from attrs import frozen

from elemta.mail.ids import ALPHABET, TIME_CHARACTERS, is_queue_id
from elemta.storage.base import ContentMissing

#: Files kept for the next content: as many as a busy server has under way.
SPARE_FILES = 64
#: Octets of a file that is kept; a larger one gives its space back.
SPARE_FILE_OCTETS = 2 * 1024 * 1024
#: A file is cut to its content when it is larger by more than this factor.
WASTE_FACTOR = 4
#: Pieces in one call: IOV_MAX of Linux, limits.h.
WRITEV_PIECES = 1024

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OVERWRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
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


@frozen
class Staged:
    """Whole and synced content that waits for its insert. `size` in octets."""

    file: str
    size: int


class ContentFolder:
    """Files of large content. Methods block, and may be called in several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = Lock()
        self._spares: list[str] = []
        self._staged: dict[str, Staged] = {}
        #: True when a file was made whose name is not durable yet.
        self._has_new_names = False

    def prepare(self) -> None:
        """Make the folder, for this user alone."""
        try:
            os.mkdir(self._path, 0o700)
        except FileExistsError:
            return
        sync_folder(os.path.dirname(self._path))

    def files(self) -> list[str]:
        """The names of all files."""
        with os.scandir(self._path) as entries:
            return [entry.name for entry in entries if is_queue_id(entry.name)]

    def odd_names(self) -> list[str]:
        """Paths in the folder that no content of ours has: other names, links, folders."""
        with os.scandir(self._path) as entries:
            return sorted(
                entry.path
                for entry in entries
                if not is_queue_id(entry.name) or not entry.is_file(follow_symlinks=False)
            )

    def use_again(self, files: Iterable[str]) -> None:
        """Take files that no content refers to as spares. Nothing is removed here: see `remove_surplus`."""
        with self._lock:
            self._spares = list(files)

    def remove_surplus(self, most: int = SPARE_FILES) -> None:
        """Remove spares beyond a number."""
        with self._lock:
            surplus, self._spares = self._spares[most:], self._spares[:most]
        for file in surplus:
            self._remove(file)

    def release(self, file: str) -> None:
        """Take back a file whose content left durably."""
        try:
            if os.stat(self._name(file), follow_symlinks=False).st_size <= SPARE_FILE_OCTETS:
                with self._lock:
                    if len(self._spares) < SPARE_FILES:
                        self._spares.append(file)
                        return
        except FileNotFoundError:
            return
        self._remove(file)

    # ---- staged content ------------------------------------------------------------------------

    def take(self, new_name: str) -> tuple[str, int]:
        """A file to write to from its beginning, a spare or a new one: its name and its descriptor."""
        while True:
            with self._lock:
                spare = self._spares.pop() if self._spares else None
            if spare is None:
                descriptor = os.open(self._name(new_name), _CREATE, 0o600)
                self._has_new_names = True
                return new_name, descriptor
            with suppress(FileNotFoundError):
                return spare, os.open(self._name(spare), _OVERWRITE)

    def keep_staged(self, content_id: str, staged: Staged) -> None:
        """Remember content until its insert is committed."""
        self._staged[content_id] = staged

    def staged(self, content_id: str) -> Staged | None:
        """Content that waits for its insert."""
        return self._staged.get(content_id)

    def staged_before(self, moment: float) -> list[str]:
        """The ids of content that was staged before a moment, UTC in seconds since 1970, and still waits."""
        return [content_id for content_id in list(self._staged) if staged_at(content_id) < moment]

    def forget_staged(self, content_ids: Iterable[str], *, referred: Collection[str]) -> None:
        """Content waits no longer: an insert refers to it now, or its file is free again."""
        for content_id in content_ids:
            staged = self._staged.pop(content_id, None)
            if staged is not None and content_id not in referred:
                self.release(staged.file)

    def sync_names(self) -> None:
        """Make the names of new files durable: once for all content of a batch."""
        if self._has_new_names:
            # Before the sync: a file made during it sets this again.
            self._has_new_names = False
            try:
                sync_folder(self._path)
            except OSError:
                self._has_new_names = True
                raise

    # ---- reading -------------------------------------------------------------------------------

    def read(self, file: str, offset: int, limit: int, *, size: int) -> bytes:
        """A part of the first `size` octets of a file."""
        try:
            descriptor = os.open(self._name(file), _READ)
        except FileNotFoundError:
            raise ContentMissing(f"the content's file {file} is not in {self._path}") from None
        try:
            found = os.fstat(descriptor).st_size
            if found < size:
                raise ContentMissing(f"the content's file {file} in {self._path} has {found} octets instead of {size}")
            return os.pread(descriptor, max(min(limit, size - offset), 0), offset)
        finally:
            os.close(descriptor)

    def _remove(self, file: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._name(file))

    def discard(self, file: str) -> None:
        """Remove a file that was not finished."""
        self._remove(file)

    def _name(self, file: str) -> str:
        if not is_queue_id(file):
            raise ContentMissing("a name is not of the form that names have")
        return os.path.join(self._path, file)


class StagedFile:
    """Content on its way into one file. Methods block, and are called in one thread at a time."""

    def __init__(self, folder: ContentFolder, content_id: str) -> None:
        self._folder = folder
        self.content_id = content_id
        self._file = ""
        self._descriptor = -1
        self._size = 0

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces without joining them."""
        if not self._file:
            self._file, self._descriptor = self._folder.take(self.content_id)
        waiting = [memoryview(piece) for piece in pieces if piece]
        while waiting:
            written = os.writev(self._descriptor, waiting[:WRITEV_PIECES])
            self._size += written
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if written:
                waiting[0] = waiting[0][written:]

    def finish(self, pieces: Sequence[bytes]) -> None:
        """Append the last pieces and make the whole durable. Its name is made durable by `sync_names`."""
        self.write(pieces)
        if os.fstat(self._descriptor).st_size > max(self._size, 1) * WASTE_FACTOR:
            os.ftruncate(self._descriptor, self._size)
        os.fdatasync(self._descriptor)
        self._close()
        self._folder.keep_staged(self.content_id, Staged(self._file, self._size))

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def discard(self) -> None:
        """Throw it away. A file whose sync failed is never used again: its pages may be lost without a further word."""
        self._close()
        if self._file:
            self._folder.discard(self._file)
