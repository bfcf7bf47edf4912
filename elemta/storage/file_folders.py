"""The folders of a queue on the file system.

What is not here: what a file holds, or when it is durable (`file_journal`).

Everything is reached from descriptors of the folders themselves and never follows a link, so that whoever can change a
path cannot lead a write astray. Folders are the user's alone (0700), files too (0600). What is read must be a regular
file with one name: a link to it from elsewhere could be written behind our back.

A file is written in `spare/` and then moved to its place, and one that is no longer needed is moved back to be written
over. Making and removing files at this rate takes ext4 ten times as long: it searches for an inode past all that were
freed within the last seconds.

Raises `OSError` as the system does, and `OddFile` for what is no such file.
"""

import enum
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

from elemta.storage.records import QueueState

#: Octets of a state; a mail with the most recipients that a session takes has a tenth of it.
LARGEST_STATE_OCTETS = 64 * 1024 * 1024
#: Files kept to be written over: two for each mail that a busy server has under way. At most 64 MiB, mostly a tenth.
SPARE_FILES = 2048
#: Octets of content whose file is kept; a larger one gives its space back.
SPARE_FILE_OCTETS = 32 * 1024
#: The farthest moment that every common file system keeps, the year 2446: ext4's inodes.
_LAST_MOMENT = float(2**33)
_NANOSECONDS = 1_000_000_000

#: Modes of a file and of a folder.
_OURS_ALONE = 0o600
_OUR_FOLDER = 0o700

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OVERWRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Not waiting for whoever might open the other end, should it be a pipe.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OddFile(Exception):
    """A file that is none of ours: a link, a pipe, a folder, or one with a second name. The text says which."""


class Folder(enum.Enum):
    """The folders below `queue_dir`, and itself."""

    ROOT = "."
    ACTIVE = "active"
    DEFERRED = "deferred"
    HELD = "held"
    FAILED = "failed"
    DELIVERED = "delivered"
    DATA = "data"
    SHARED = "shared"
    ATTEMPTS = "attempts"
    JOURNAL = "journal"
    SPARE = "spare"

    # Each of them is one object; `Enum` would hash its name, thirty times a mail.
    __hash__ = object.__hash__


FOLDER_OF = {state: Folder(state.value) for state in QueueState}
STATE_OF = {folder: state for state, folder in FOLDER_OF.items()}

#: What `open` says of a link that is not followed, and of a socket.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO})

#: A file's folder and its name in it.
Place = tuple[Folder, str]


def path_of(place: Place) -> str:
    """A place as a person reads it, below `queue_dir`."""
    folder, name = place
    return name if folder is Folder.ROOT else f"{folder.value}/{name}"


def _is_plain(said: os.stat_result) -> bool:
    return stat.S_ISREG(said.st_mode) and said.st_nlink == 1


def _new_names() -> Iterator[str]:
    life = secrets.token_hex(8)
    return (f"{life}-{number}" for number in count())


def write_all(descriptor: int, octets: bytes) -> None:
    """Write until all is written: the system may take a part only."""
    written = os.write(descriptor, octets)
    while written < len(octets):
        written += os.write(descriptor, memoryview(octets)[written:])


class Folders:
    """Files by folder and name. Methods block."""

    def __init__(self, directory: str) -> None:
        self.directory = os.path.abspath(directory)
        self._descriptors: dict[Folder, int] = {}
        #: Names in `spare/` of files to be written over.
        self._spares: list[str] = []
        #: New names there, unlike those of another life.
        self._names = _new_names()

    def open(self) -> None:
        """Make what is missing, durably, and hold a descriptor of each folder."""
        self.close()
        with suppress(FileExistsError):
            os.mkdir(self.directory, _OUR_FOLDER)
            with _closing(os.open(os.path.dirname(self.directory), os.O_RDONLY | os.O_DIRECTORY)) as parent:
                os.fsync(parent)
        # The folder itself may be a link: where the queue lies is the operator's choice, what lies in it is not.
        root = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._descriptors[Folder.ROOT] = root
        for folder in Folder:
            if folder is not Folder.ROOT:
                with suppress(FileExistsError):
                    os.mkdir(folder.value, _OUR_FOLDER, dir_fd=root)
                self._descriptors[folder] = os.open(folder.value, _FOLDER, dir_fd=root)
        os.fsync(root)
        self._find_spares()

    def close(self) -> None:
        """Let go; more than once is no failure."""
        descriptors, self._descriptors = self._descriptors, {}
        for descriptor in descriptors.values():
            with suppress(OSError):
                os.close(descriptor)
        self._spares.clear()

    @property
    def is_open(self) -> bool:
        """True between `open` and `close`."""
        return bool(self._descriptors)

    def descriptor(self, folder: Folder) -> int:
        """The folder's own descriptor."""
        return self._descriptors[folder]

    # ---- looking -------------------------------------------------------------------------------

    def names(self, folder: Folder) -> list[str]:
        """Every name in a folder, whatever it is."""
        return os.listdir(self._descriptors[folder])

    def entries(self, folder: Folder) -> Iterator[tuple[str, float, bool]]:
        """Every name, its mtime in seconds since 1970 UTC, whether it is a plain file with one name; in no order."""
        with os.scandir(self._descriptors[folder]) as found:
            for each in found:
                with suppress(FileNotFoundError):
                    said = each.stat(follow_symlinks=False)
                    yield each.name, said.st_mtime_ns / _NANOSECONDS, _is_plain(said)

    def size(self, place: Place) -> int:
        """Octets of a file."""
        return os.stat(place[1], dir_fd=self._descriptors[place[0]], follow_symlinks=False).st_size

    @contextmanager
    def reading(self, place: Place) -> Iterator[tuple[int, int]]:
        """A descriptor of a plain file, and its octets' number. Raises `OddFile`."""
        folder, name = place
        try:
            descriptor = os.open(name, _READ, dir_fd=self._descriptors[folder])
        except OSError as error:
            if error.errno in _NO_FILE:
                raise OddFile("it is a link, or no file") from error
            raise
        with _closing(descriptor):
            said = os.fstat(descriptor)
            if not stat.S_ISREG(said.st_mode):
                raise OddFile("it is no file")
            if said.st_nlink != 1:
                raise OddFile("it has a second name (a hard link)")
            yield descriptor, said.st_size

    def read(self, place: Place, *, most: int = LARGEST_STATE_OCTETS) -> bytes:
        """A whole file of at most so many octets. Raises `OddFile`."""
        with self.reading(place) as (descriptor, size):
            if size > most:
                raise OddFile(f"it has more than {most} octets")
            return os.read(descriptor, size)

    # ---- changing ------------------------------------------------------------------------------

    def create(self, place: Place) -> int:
        """A descriptor of a file that was not there."""
        return os.open(place[1], _CREATE, _OURS_ALONE, dir_fd=self._descriptors[place[0]])

    def put(self, place: Place, octets: bytes, *, moment: float | None = None, replaces: bool = False) -> None:
        """Write a file and give it its place; nothing half-written ever stands there. `moment`: its mtime.

        `replaces` says that another stands there, which can be used again. One that stands there unexpected goes.
        """
        spare = self._write_spare(octets, moment)
        try:
            if replaces:
                self.remove(place)
        except FileNotFoundError:
            pass
        self.take_place(spare, place)

    def take_place(self, file: Place, place: Place) -> None:
        """Move a file. What stood there is gone then; when it cannot be moved, it is gone itself."""
        source, target = self._descriptors[file[0]], self._descriptors[place[0]]
        try:
            os.rename(file[1], place[1], src_dir_fd=source, dst_dir_fd=target)
        except OSError:
            with suppress(OSError):
                self.unlink(file)
            raise

    def _write_spare(self, octets: bytes, moment: float | None) -> Place:
        spare, descriptor, size = self._take_spare()
        try:
            write_all(descriptor, octets)
            if size > len(octets):
                os.ftruncate(descriptor, len(octets))
            if moment is not None:
                nanoseconds = round(min(max(moment, 0.0), _LAST_MOMENT) * _NANOSECONDS)
                os.utime(descriptor, ns=(nanoseconds, nanoseconds))
        except BaseException:
            with suppress(OSError):
                self.unlink(spare)
            raise
        finally:
            os.close(descriptor)
        return spare

    def _take_spare(self) -> tuple[Place, int, int]:
        """A file to be written over from its beginning: its place, a descriptor, its octets."""
        while self._spares:
            spare = (Folder.SPARE, self._spares.pop())
            with suppress(OSError):
                descriptor = os.open(spare[1], _OVERWRITE, dir_fd=self._descriptors[Folder.SPARE])
                said = os.fstat(descriptor)
                if _is_plain(said) and stat.S_IMODE(said.st_mode) == _OURS_ALONE:
                    return spare, descriptor, said.st_size
                os.close(descriptor)
            # A link that stood in a mail's place, perhaps, or what others may read.
            with suppress(OSError):
                self.unlink(spare)
        spare = (Folder.SPARE, next(self._names))
        return spare, self.create(spare), 0

    def remove(self, place: Place) -> None:
        """Take a file away. Raises `FileNotFoundError`."""
        if len(self._spares) >= SPARE_FILES or (place[0] is Folder.DATA and self.size(place) > SPARE_FILE_OCTETS):
            self.unlink(place)
            return
        name = next(self._names)
        os.rename(place[1], name, src_dir_fd=self._descriptors[place[0]], dst_dir_fd=self._descriptors[Folder.SPARE])
        self._spares.append(name)

    def unlink(self, place: Place) -> None:
        """Remove a name and never use its file again. Raises `FileNotFoundError`."""
        os.unlink(place[1], dir_fd=self._descriptors[place[0]])

    def drop_spares(self) -> None:
        """Give the space of spare files back."""
        while self._spares:
            with suppress(FileNotFoundError):
                self.unlink((Folder.SPARE, self._spares.pop()))

    def _find_spares(self) -> None:
        for name, _, is_plain in list(self.entries(Folder.SPARE)):
            if is_plain and len(self._spares) < SPARE_FILES:
                self._spares.append(name)
            else:
                with suppress(OSError):
                    self.unlink((Folder.SPARE, name))

    # ---- making durable ------------------------------------------------------------------------

    def sync(self, folder: Folder) -> None:
        """Make the names in a folder durable."""
        os.fsync(self._descriptors[folder])

    def put_synced(self, place: Place, octets: bytes, *, moment: float | None = None) -> None:
        """Write a file that never was there before, make it durable, and only then give it its place."""
        self._spares, spares = [], self._spares
        try:
            spare = self._write_spare(octets, moment)
        finally:
            self._spares = spares
        self.sync_file(spare)
        self.take_place(spare, place)

    def sync_file(self, place: Place) -> None:
        """Make a file's octets durable."""
        with self.reading(place) as (descriptor, _):
            os.fsync(descriptor)


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
