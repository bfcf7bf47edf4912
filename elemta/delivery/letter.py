"""One mail on its way into one Maildir, in blocking calls for a thread.

What is not here: which Maildir a recipient has, or what a failure means to the mail (`delivery.maildir`).
The file is written to `tmp` and synced, then renamed into `new`, whose folder is synced. Everything below the
operator's folder is opened relative to it, component by component, without following symbolic links: a user who owns a
Maildir must not lead us elsewhere.
Failures raised: `MailboxMissing`; `Unsure` when the mail may have arrived; `OSError` when it surely has not.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from attrs import frozen

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class MailboxMissing(Exception):
    """There is no such Maildir, and none is to be made."""


class Unsure(OSError):
    """The mail stood in `new`, but could not be made durable, nor surely be taken back."""


@frozen
class Target:
    """One Maildir: the operator's folder, the components below it, and whether missing ones are made."""

    base: str
    parts: tuple[str, ...]
    may_create: bool


def folder_is_there(base: str, parts: Sequence[str]) -> bool:
    """Whether the folder exists. Raises `OSError` when that cannot be seen."""
    try:
        os.close(_open_below(base, parts, create=False))
    except MailboxMissing:
        return False
    return True


def _open_below(base: str, parts: Sequence[str], *, create: bool) -> int:
    """A descriptor of the folder. Raises `MailboxMissing`, `OSError`."""
    folder = os.open(base, _FOLDER)
    try:
        for depth, part in enumerate(parts):
            try:
                below = _open_part(folder, part, create=create)
            except MailboxMissing:
                if depth == 0 and _is_empty(folder):
                    raise OSError(errno.ENOENT, "the folder is empty; is its file system mounted?", base) from None
                raise
            os.close(folder)
            folder = below
    except BaseException:
        os.close(folder)
        raise
    return folder


def _open_part(folder: int, part: str, *, create: bool) -> int:
    try:
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise MailboxMissing from None
    except NotADirectoryError:
        if create or stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
            raise  # links are refused, not overlooked: whoever put one there must hear of it
        raise MailboxMissing from None
    _make(folder, part)
    return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)


def _make(folder: int, part: str) -> None:
    with contextlib.suppress(FileExistsError):  # another delivery made it meanwhile
        os.mkdir(part, 0o700, dir_fd=folder)
    os.fsync(folder)


def _is_empty(folder: int) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


class Letter:
    """One mail for one recipient. `targets` are tried in order; `head` goes before the content, with LF line ends."""

    def __init__(self, targets: Sequence[Target], name: str, *, head: bytes) -> None:
        self._targets = targets
        self._name = name
        self._head = head
        self._folders: list[int] = []
        self._tmp = self._new = self._file = -1
        self._in_tmp = False
        #: A CR at the end of the last piece, whose LF may begin the next.
        self._carry = b""
        #: Where it goes, for the log; empty before the first `write`.
        self.path = ""

    @property
    def is_open(self) -> bool:
        """Whether `abandon` has something to do."""
        return bool(self._folders) or self._file >= 0

    def write(self, octets: bytes) -> None:
        """Append content with CRLF line ends, which become LF: so Maildirs keep them."""
        if not self._folders:
            self._open()
        octets = self._carry + octets
        self._carry = b"\r" if octets.endswith(b"\r") else b""
        self._put(octets.removesuffix(b"\r").replace(b"\r\n", b"\n"))

    def finish(self) -> None:
        """Make it durable, then visible, then make that durable. Raises `Unsure` when only the last step failed."""
        self._put(self._carry)
        os.fsync(self._file)
        self._close_file()
        os.rename(self._name, self._name, src_dir_fd=self._tmp, dst_dir_fd=self._new)
        self._in_tmp = False
        try:
            os.fsync(self._new)
        except OSError as error:
            # Never synced again in hope: after a failure the kernel may call the lost page clean.
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._new)
            raise Unsure(error.errno, error.strerror) from error
        self._close_folders()

    def abandon(self) -> None:
        """Remove what `finish` did not make visible. Safe at any time, more than once; never raises."""
        with contextlib.suppress(OSError):
            self._close_file()
        if self._in_tmp:
            self._in_tmp = False
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._tmp)
        self._close_folders()

    def _open(self) -> None:
        maildir = self._open_maildir()
        self._folders.append(maildir)
        self._tmp = self._open_inner(maildir, "tmp")
        self._new = self._open_inner(maildir, "new")
        self._file = os.open(self._name, _FILE, 0o600, dir_fd=self._tmp)
        self._in_tmp = True
        self._put(self._head)

    def _open_maildir(self) -> int:
        for target in self._targets:
            self.path = "/".join((target.base, *target.parts))
            with contextlib.suppress(MailboxMissing):
                return _open_below(target.base, target.parts, create=target.may_create)
        raise MailboxMissing

    def _open_inner(self, maildir: int, part: str) -> int:
        try:
            folder = _open_part(maildir, part, create=False)
        except MailboxMissing:
            _make(maildir, "cur")  # a new Maildir: readers expect all three
            folder = _open_part(maildir, part, create=True)
        self._folders.append(folder)
        return folder

    def _put(self, octets: bytes) -> None:
        left = memoryview(octets)
        while left:
            left = left[os.write(self._file, left) :]

    def _close_file(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _close_folders(self) -> None:
        while self._folders:
            os.close(self._folders.pop())
