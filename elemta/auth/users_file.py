"""Users in a file: JSON that is managed here, or an htpasswd file that another tool writes.

What is not here: the forms (`user_documents`). The file is looked at before each look-up, and read again when it
changed. While what was written is broken, those who were there before may log in still, and the log says so; when the
file is gone or empty, nobody may, and clients are told to try again later.

It is written beside, synced, then moved to its place, while `<path>.lock` is held: so two writers do not undo each
other. Owner and mode stay what they were, but nothing is left for others.

Failures raised: `UsersAway` while somebody else writes, `UsersUnusable` for a file that is missing or broken,
`NotManaged` for htpasswd, and the rest of `ManagedUsers`'.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

import trio
from attrs import evolve, frozen
from structlog.typing import FilteringBoundLogger

from elemta.auth.base import NoSuchUser, NotManaged, User, UserExists, UsersAway, UsersUnusable
from elemta.auth.records import checked, key_of
from elemta.auth.sasl.preparation import fold_name
from elemta.auth.user_documents import DocumentForm, UnfitDocument, form_of, parse, render
from elemta.runtime.clock import Clock
from elemta.runtime.own_files import OWNER_AND_GROUP, give_to_owner, replace_file
from elemta.runtime.threads import Threads

T = TypeVar("T")

#: Octets of a file of users: a hundred thousand of them have 30 MB.
MAX_FILE_OCTETS = 64 * 1024 * 1024
#: Users added at once: as many as such a file holds.
MAX_BATCH = 200_000
#: Seconds between two tries to get the lock that another writer holds.
LOCK_PAUSE_SECONDS = 0.05
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class Locked(Exception):
    """Somebody else writes the file just now."""


@frozen
class _Reading:
    """What a file said."""

    mark: tuple[int, ...]
    form: DocumentForm
    users: dict[str, User]
    #: What stood at the path when it was read.
    found: os.stat_result


def mark_of(found: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from another."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class FileUsers:
    """`ManagedUsers` in one file."""

    def __init__(self, path: str, threads: Threads, *, clock: Clock, seconds: float, log: FilteringBoundLogger) -> None:
        """`seconds` are how long somebody waits for another writer."""
        self._path = Path(path).absolute()
        self._threads = threads
        self._clock = clock
        self._seconds = seconds
        self._log = log
        self._one = trio.CapacityLimiter(1)
        self._reading: _Reading | None = None
        #: The state of the file that the log was told to be broken.
        self._broken: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Where it is."""
        return f"file:{self._path}"

    async def open(self) -> None:
        """Read the file; see `Users.open`. One that is not there yet is an error only where users are asked for."""
        await self._threads.run(self._one, self._open)

    async def close(self) -> None:
        """Nothing: no file is kept open."""

    async def find(self, name: str) -> User | None:
        """The user of a name; see `Users.find`."""
        return (await self._threads.run(self._one, self._users)).get(key_of(name) or "")

    async def list(self, *, containing: str = "", after: str = "", limit: int = 100) -> Sequence[User]:
        """Users by name; see `ManagedUsers.list`."""
        users = await self._threads.run(self._one, self._users)
        wanted = key_of(containing) if containing else ""
        if wanted is None:
            return []
        names = sorted(name for name in users if name > after)
        chosen = (users[name] for name in names if wanted in name or wanted in fold_name(users[name].email))
        return [user for user, _ in zip(chosen, range(limit), strict=False)]

    async def renew(self, name: str, *, old: str, password: str, scram: str | None = None) -> bool:
        """Put a new hash in the place of an old one; see `Users.renew`. An htpasswd file is left alone."""

        def change(users: dict[str, User]) -> bool:
            user = users.get(key_of(name) or "")
            if user is None or user.password != old:
                return False
            verifier = user.scram if scram is None else scram
            users[user.name] = evolve(user, password=password, scram=verifier, updated_at=self._now())
            return True

        try:
            return await self._changing(change)
        except NotManaged:
            return False

    async def note_login(self, name: str, at: float) -> None:
        """Nothing: a file that is written anew for each login would serve nobody."""

    async def add(self, user: User) -> None:
        """A new user; see `ManagedUsers.add`."""
        if await self.add_all([user]):
            raise UserExists(f"there is a user {checked(user).name} already")

    @property
    def batch(self) -> int:
        """As many as may be there: the file is written anew each time."""
        return MAX_BATCH

    async def add_all(self, users: Sequence[User]) -> Sequence[str]:
        """New users at once; see `ManagedUsers.add_all`."""
        fit, now = [checked(user) for user in users], self._now()

        def change(kept: dict[str, User]) -> Sequence[str]:
            present = []
            for user in fit:
                if user.name in kept:
                    present.append(user.name)
                else:
                    created, updated = user.created_at or now, user.updated_at or now
                    kept[user.name] = evolve(user, created_at=created, updated_at=updated)
            return present

        return await self._changing(change)

    async def update(self, user: User) -> None:
        """Everything of a user anew but the times; see `ManagedUsers.update`."""
        fit = checked(user)

        def change(users: dict[str, User]) -> None:
            if fit.name not in users:
                raise NoSuchUser(f"there is no user {fit.name}")
            old = users[fit.name]
            created, login = old.created_at, old.last_login_at
            users[fit.name] = evolve(fit, created_at=created, last_login_at=login, updated_at=self._now())

        await self._changing(change)

    async def delete(self, name: str) -> None:
        """Remove a user; see `ManagedUsers.delete`."""

        def change(users: dict[str, User]) -> None:
            if users.pop(key_of(name) or "", None) is None:
                raise NoSuchUser(f"there is no user {name!a}")

        await self._changing(change)

    def _now(self) -> float:
        return float(int(self._clock.wall()))

    # ---- reading, in a thread --------------------------------------------------------------------

    def _open(self) -> None:
        with suppress(FileNotFoundError):
            self._path.stat()
            self._users()

    def _users(self) -> dict[str, User]:
        """The users as the file stands now. Raises `UsersUnusable`."""
        try:
            found = os.stat(self._path)
            if self._reading is None or self._reading.mark != mark_of(found):
                self._read_anew(mark_of(found))
        except FileNotFoundError:
            self._reading = None
            raise UsersUnusable(f"{self.name}: there is no such file (`elemta user add` begins one)") from None
        except OSError as error:
            raise UsersUnusable(f"{self.name}: it cannot be read: {error.strerror or error}") from error
        assert self._reading is not None
        return self._reading.users

    def _read_anew(self, mark: tuple[int, ...]) -> None:
        if mark == self._broken and self._reading is not None:
            return
        try:
            self._reading = self._read()
        except UnfitDocument as error:
            self._broken = mark
            if self._reading is None:
                raise UsersUnusable(f"{self.name}: {error}") from None
            self._log.error(
                "users.broken", users=self.name, error=str(error), effect="those of before may log in still"
            )
            return
        if self._broken:
            self._log.info("users.mended", users=self.name)
        self._broken = ()
        if stat.S_IMODE(self._reading.found.st_mode) & ~OWNER_AND_GROUP & 0o007:
            self._log.warning("users.readable_by_all", users=self.name, remedy=f"chmod o= {self._path}")

    def _read(self) -> _Reading:
        descriptor = os.open(self._path, _READ)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UnfitDocument("it is no file")
            octets = file.read(MAX_FILE_OCTETS + 1)
        if len(octets) > MAX_FILE_OCTETS:
            raise UnfitDocument(f"it has more than {MAX_FILE_OCTETS} octets: keep so many users in a database")
        try:
            text = octets.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnfitDocument(f"octet {error.start} is no UTF-8") from None
        if not text.strip():
            # Half written, or emptied on purpose: in neither case may those of before go on.
            self._reading = None
            raise UnfitDocument("it is empty")
        form = form_of(text)
        return _Reading(mark_of(found), form, parse(text, form), found)

    # ---- writing ---------------------------------------------------------------------------------

    async def _changing(self, change: Callable[[dict[str, User]], T]) -> T:
        """Read, change, write, as one step for everybody else. Raises `UsersAway` for a writer that takes too long."""
        patience = trio.current_time() + self._seconds
        while True:
            try:
                return await self._threads.run(self._one, self._change, change)
            except Locked:
                if trio.current_time() >= patience:
                    says = f"{self.name}: another program writes it (`fuser -v {self._path}.lock` names it)"
                    raise UsersAway(says) from None
            await trio.sleep(LOCK_PAUSE_SECONDS)

    def _change(self, change: Callable[[dict[str, User]], T]) -> T:
        try:
            with self._lock():
                reading = self._to_be_changed()
                users = {} if reading is None else dict(reading.users)
                before = dict(users)
                value = change(users)
                if users != before or reading is None:
                    self._write(render(users), None if reading is None else reading.found)
                return value
        except OSError as error:
            raise UsersUnusable(f"{self.name}: it cannot be written: {error.strerror or error}") from error

    def _to_be_changed(self) -> _Reading | None:
        """What the file says now, not what it said before it was broken; None when it is not there."""
        try:
            reading = self._read()
        except FileNotFoundError:
            return None
        except UnfitDocument as error:
            if self._path.stat().st_size == 0:
                return None
            raise UsersUnusable(f"{self.name}: {error}") from None
        if reading.form is not DocumentForm.JSON:
            self._refuse()
        return reading

    def _refuse(self) -> NoReturn:
        remedy = "change it by htpasswd, or `elemta user import` it into a file that does not exist yet"
        raise NotManaged(f"{self.name}: an htpasswd file is read here, not written ({remedy})")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = f"{self._path}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner(descriptor, self._path.parent)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Locked from None
            yield
        finally:
            os.close(descriptor)

    def _write(self, text: str, like: os.stat_result | None) -> None:
        # Where the path is a link, what it leads to is written.
        target = Path(os.path.realpath(self._path))
        replace_file(target, text.encode(), like=like)
