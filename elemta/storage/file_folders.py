"""The folders of a queue on the file system.

What is not here: what a file holds, or when it is durable (`file_journal`).

Everything is reached from descriptors of the folders themselves and never follows a link, so that whoever can change a
path cannot lead a write astray. Folders are the user's alone (0700), files too (0600). What is read must be a regular
file with one name: a link to it from elsewhere could be written behind our back.

Raises `OSError` as the system does, and `OddFile` for what is no such file.
"""

import enum
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from elemta.storage.records import QueueState

#: Octets of a state; a mail with the most recipients that a session takes has a tenth of it.
LARGEST_STATE_OCTETS = 64 * 1024 * 1024
#: Where a file is written before it takes the place of another.
ANEW = ".new"
#: The farthest moment that every common file system keeps, the year 2446: ext4's inodes.
_LAST_MOMENT = float(2**33)
_NANOSECONDS = 1_000_000_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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


FOLDER_OF = {state: Folder(state.value) for state in QueueState}
STATE_OF = {folder: state for state, folder in FOLDER_OF.items()}

#: A file's folder and its name in it.
Place = tuple[Folder, str]


def path_of(place: Place) -> str:
    """A place as a person reads it, below `queue_dir`."""
    folder, name = place
    return name if folder is Folder.ROOT else f"{folder.value}/{name}"


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

    def open(self) -> None:
        """Make what is missing, durably, and hold a descriptor of each folder."""
        self.close()
        with suppress(FileExistsError):
            os.mkdir(self.directory, 0o700)
            with _opened(os.path.dirname(self.directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) as parent:
                os.fsync(parent)
        # The folder itself may be a link: where the queue lies is the operator's choice, what lies in it is not.
        root = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._descriptors[Folder.ROOT] = root
        for folder in Folder:
            if folder is not Folder.ROOT:
                with suppress(FileExistsError):
                    os.mkdir(folder.value, 0o700, dir_fd=root)
                self._descriptors[folder] = os.open(folder.value, _FOLDER, dir_fd=root)
        os.fsync(root)

    def close(self) -> None:
        """Let go; more than once is no failure."""
        descriptors, self._descriptors = self._descriptors, {}
        for descriptor in descriptors.values():
            with suppress(OSError):
                os.close(descriptor)

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
                    is_plain = stat.S_ISREG(said.st_mode) and said.st_nlink == 1
                    yield each.name, said.st_mtime_ns / _NANOSECONDS, is_plain

    def size(self, place: Place) -> int:
        """Octets of a file."""
        return os.stat(place[1], dir_fd=self._descriptors[place[0]], follow_symlinks=False).st_size

    @contextmanager
    def reading(self, place: Place) -> Iterator[tuple[int, int]]:
        """A descriptor of a plain file, and its octets' number. Raises `OddFile`."""
        folder, name = place
        with _opened(name, _READ, self._descriptors[folder]) as descriptor:
            said = os.fstat(descriptor)
            if not stat.S_ISREG(said.st_mode):
                raise OddFile("it is no plain file")
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
        return os.open(place[1], _CREATE, 0o600, dir_fd=self._descriptors[place[0]])

    def put(self, place: Place, octets: bytes, *, moment: float | None = None, is_new: bool = False) -> None:
        """Write a file, or put another in its place; nothing half-written stays when it fails. `moment`: its mtime.

        `is_new` says that nothing should stand there, which spares a rename.
        """
        if is_new:
            with suppress(FileExistsError):
                self._write_new(place, octets, moment)
                return
        anew = (place[0], place[1] + ANEW)
        with suppress(FileNotFoundError):
            self.remove(anew)
        self._write_new(anew, octets, moment)
        self.take_place(anew, place[1])

    def take_place(self, anew: Place, name: str) -> None:
        """Give a file the name of another, which is gone then."""
        descriptor = self._descriptors[anew[0]]
        try:
            os.rename(anew[1], name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        except OSError:
            with suppress(OSError):
                self.remove(anew)
            raise

    def _write_new(self, place: Place, octets: bytes, moment: float | None) -> None:
        descriptor = self.create(place)
        try:
            write_all(descriptor, octets)
            if moment is not None:
                nanoseconds = round(min(max(moment, 0.0), _LAST_MOMENT) * _NANOSECONDS)
                os.utime(descriptor, ns=(nanoseconds, nanoseconds))
        except BaseException:
            with suppress(OSError):
                self.remove(place)
            raise
        finally:
            os.close(descriptor)

    def remove(self, place: Place) -> None:
        """Remove a name. Raises `FileNotFoundError`."""
        os.unlink(place[1], dir_fd=self._descriptors[place[0]])

    # ---- making durable ------------------------------------------------------------------------

    def sync(self, folder: Folder) -> None:
        """Make the names in a folder durable."""
        os.fsync(self._descriptors[folder])

    def sync_file(self, place: Place) -> None:
        """Make a file's octets durable."""
        with self.reading(place) as (descriptor, _):
            os.fsync(descriptor)


@contextmanager
def _opened(path: str, flags: int, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
