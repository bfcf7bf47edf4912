"""The folder of ACME's keys, `cache_dir`.

What lies in it: a key for each authority's account, one file for each certificate (its key first, then the chain: one
rename replaces both, so that no crash leaves a pair that does not fit), the answers to challenges under way, a lock.
The folder is 0700, every file 0600. Several processes may use it at once: worker processes read what one of them
ordered, and `elemta cert renew` may order beside a server that runs and lends it its port.
What is not here: what is in the certificates (`tls.acme.keys`), or when they are ordered. Every call blocks on the disk
but for the names of files: call it in a thread.
Failures raised: `OSError`, with the file's name in it; `CabinetBusy` while another process holds the lock.
"""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from elemta.runtime.own_files import OWNER_ALONE, give_to_owner, replace_file

_FOLDER_MODE = 0o700

#: Octets of one of its files that are read at most; a chain has some thousands.
MOST_FILE_OCTETS = 1024 * 1024
#: A challenge's token is base64url without padding, RFC 8555 §8; 22 characters at least, and ours is the bound above.
TOKEN = re.compile(rb"[A-Za-z0-9_-]{1,128}")


class CabinetBusy(Exception):
    """Another process orders a certificate now; the text says which one."""


def certificate_path(cache_dir: str, domain: str) -> Path:
    """Where the certificate with its key lies whose first name is `domain`; it need not be there yet."""
    return Path(cache_dir, f"{domain}.pem")


class Cabinet:
    """One `cache_dir`."""

    def __init__(self, cache_dir: str) -> None:
        self.folder = Path(cache_dir).absolute()
        self._challenges = self.folder / "challenges"

    def open(self) -> None:
        """Make the folder, and keep others out of one that is there. Raises `OSError`."""
        for folder in (self.folder, self._challenges):
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                folder.chmod(_FOLDER_MODE)

    # ---- keys and certificates -------------------------------------------------------------------

    def read(self, path: Path) -> bytes:
        """A file's octets, empty when there is none. Raises `OSError`."""
        try:
            with path.open("rb") as file:
                return file.read(MOST_FILE_OCTETS)
        except FileNotFoundError:
            return b""

    def write(self, path: Path, octets: bytes) -> None:
        """Put a file in its place, durably, in one step: readers see the old one or the new one. Raises `OSError`."""
        replace_file(path, octets)

    def account_path(self, directory_url: str) -> Path:
        """Where the account's key of an authority lies; the name begins with its host, for people."""
        host = re.sub(r"[^a-z0-9.-]", "_", (urlsplit(directory_url).hostname or "").lower())[:100]
        digest = hashlib.sha256(directory_url.encode()).hexdigest()[:16]
        return self.folder / f"account-{host}-{digest}.key"

    # ---- one process at a time -------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Order alone, as long as entered; the kernel lets go when the process ends. Raises `CabinetBusy`, `OSError`.

        Enter and leave may happen in different threads.
        """
        path = self.folder / "order.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, OWNER_ALONE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                raise CabinetBusy(f"process {owner or 'unknown'} orders a certificate in {self.folder} now") from None
            give_to_owner(descriptor, self.folder)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    # ---- answers to http-01 ----------------------------------------------------------------------

    def post_answer(self, token: str, answer: str) -> None:
        """Let every process that holds the port answer a token. Raises `OSError`."""
        self.write(self._challenges / _checked(token), answer.encode())

    def answer(self, token: str) -> bytes:
        """The answer to a token, empty for an unknown one. Raises `OSError`, for a link as well.

        What is read here goes to strangers: a link that somebody left there must not lead them to a key.
        """
        try:
            with open(self._challenges / _checked(token), "rb", opener=_open_itself) as file:
                return file.read(MOST_FILE_OCTETS)
        except FileNotFoundError:
            return b""

    def remove_answer(self, token: str) -> None:
        """Forget a token. Raises `OSError`."""
        (self._challenges / _checked(token)).unlink(missing_ok=True)

    def remove_answers(self) -> None:
        """Forget every token: what a crash left. Only for who holds the lock. Raises `OSError`."""
        for path in self._challenges.iterdir():
            path.unlink(missing_ok=True)


def _open_itself(path: str, flags: int) -> int:
    """Open a file, neither what a link leads to, nor waiting for who writes to a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _checked(token: str) -> str:
    """The token as a file's name: nothing else of the folder can be named by one."""
    if TOKEN.fullmatch(token.encode("ascii", "replace")) is None:
        raise ValueError("this is no token of a challenge")
    return token
