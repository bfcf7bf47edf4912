"""Database servers of our own, to be killed, stopped, starved.

What is not here: the servers of the machine, which are never touched (`tests.datasource.servers`). Each server here has
a folder, a port and processes of its own, and the durability its makers ship: every commit is synced. As root it
runs as the user that its package made.
Failures raised: `DatabaseServerFailed` with the end of the server's log.
"""

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from elemta.datasource.base import DatabaseError
from elemta.datasource.options import DatabaseOptions, Dialect
from tests.datasource.servers import administer
from tests.peers.wire import free_port, wait_until

#: Seconds until a server answers; recovery after a kill included.
ANSWERS_SECONDS = 60.0
STOPS_SECONDS = 60.0
DATABASE = "elemta"
#: Where Debian keeps servers, by what is looked for.
FOLDERS = {
    "initdb": "/usr/lib/postgresql/*/bin",
    "postgres": "/usr/lib/postgresql/*/bin",
    "mariadb-install-db": "/usr/bin",
    "mariadbd": "/usr/sbin",
}
PACKAGES = {Dialect.POSTGRESQL: "postgresql", Dialect.MYSQL: "mariadb-server"}


class DatabaseServerFailed(Exception):
    """The server did not start, or did not stop; the text ends with its log."""


class DatabaseServer:
    """One server on 127.0.0.1, with log and socket in `folder`, which every user must be able to reach.

    `data` is where its data lie when not there; `wal` where PostgreSQL keeps its log of changes when not with them.
    """

    def __init__(self, dialect: Dialect, folder: Path, *, data: Path | None = None, wal: Path | None = None) -> None:
        self.dialect = dialect
        self.port = free_port()
        self.data = data or folder / "data"
        self._log_path = folder / "server.log"
        # Two MariaDBs that share a folder for what is temporary trip over each other's files.
        self._environment = {**os.environ, "TMPDIR": str(folder)}
        self._user = {Dialect.POSTGRESQL: "postgres", Dialect.MYSQL: "mysql"}[dialect]
        self._process: subprocess.Popen[bytes] | None = None
        _make_own(folder, self._user)
        _make_own(self.data, self._user)
        self._log_path.touch()
        self._install(wal)

    def __enter__(self) -> Self:
        self.start()
        self._make_database()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # ---- what it is ----------------------------------------------------------------------------

    @property
    def options(self) -> DatabaseOptions:
        """How to reach its own first database."""
        user, first = ("postgres", "postgres") if self.dialect is Dialect.POSTGRESQL else ("root", "mysql")
        return DatabaseOptions(self.dialect, host="127.0.0.1", port=self.port, user=user, database=first)

    def dsn(self, port: int | None = None) -> str:
        """How Elemta reaches its database; at the port of a proxy if that is given."""
        user = "postgres" if self.dialect is Dialect.POSTGRESQL else "root"
        return f"{self.dialect.value}://{user}@127.0.0.1:{port or self.port}/{DATABASE}"

    @property
    def log(self) -> str:
        """What the server wrote."""
        return self._log_path.read_text(errors="replace")

    @property
    def pids(self) -> list[int]:
        """Its processes: the first one, and for PostgreSQL every child of it."""
        if self._process is None:
            return []
        return [self._process.pid, *_children(self._process.pid)]

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def answers(self) -> bool:
        """True when it serves a statement."""
        is_there = True
        try:
            administer(self.options, "SELECT 1")
        except* DatabaseError:
            is_there = False
        return is_there

    # ---- its life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, recovering from whatever happened, and wait until it answers."""
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*_as(self._user), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environment,
            )
        try:
            wait_until(lambda: not self.is_running or self.answers(), "the database server answers", ANSWERS_SECONDS)
        except TimeoutError as error:
            raise DatabaseServerFailed(f"{error}\n{self.log[-2000:]}") from None
        if not self.is_running:
            self._process = None
            raise DatabaseServerFailed(f"{self.dialect.value} ended at once\n{self.log[-2000:]}")

    def kill(self) -> None:
        """End every process of it at once, as `kill -9` does; returns when none is left."""
        if self._process is None:
            return
        pids = self.pause()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        # What the first one started is nobody's child now, and may hold its folder open a moment longer.
        wait_until(lambda: not any(map(_is_running, pids)), "all processes of the database server ended")

    def pause(self) -> list[int]:
        """Let every process of it stand still; connections stay. Returns its processes."""
        if self._process is None:
            return []
        # The first one first, that it starts no more of them; were it killed, the others would not be its children.
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGSTOP)
        pids = self.pids
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return pids

    def resume(self) -> None:
        """Let it go on."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it in order."""
        if self._process is None:
            return
        # PostgreSQL's fast shutdown waits for no client: https://www.postgresql.org/docs/15/server-shutdown.html
        self._process.send_signal(signal.SIGINT if self.dialect is Dialect.POSTGRESQL else signal.SIGTERM)
        try:
            self._process.wait(STOPS_SECONDS)
        except subprocess.TimeoutExpired:
            raise DatabaseServerFailed(f"it did not stop\n{self.log[-2000:]}") from None
        self._process = None

    # ---- what it takes -------------------------------------------------------------------------

    def _install(self, wal: Path | None) -> None:
        command: list[str | Path]
        if self.dialect is Dialect.POSTGRESQL:
            words = ("-A", "trust", "-U", "postgres", "-E", "UTF8")
            command = [*_as(self._user), _program("initdb"), "-D", self.data, *words]
            if wal is not None:
                _make_own(wal, self._user)
                command += ["-X", wal]
        else:
            names = ("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
            user = [f"--user={self._user}"] if os.geteuid() == 0 else []
            command = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", *user, *names]
        with self._log_path.open("ab") as log:
            made = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False, env=self._environment
            )
        if made.returncode != 0:
            raise DatabaseServerFailed(f"its folder could not be made\n{self.log[-2000:]}")

    def _command(self) -> list[str | Path]:
        here = self._log_path.parent
        if self.dialect is Dialect.POSTGRESQL:
            return [_program("postgres"), "-D", self.data, "-p", str(self.port), "-k", here, "-h", "127.0.0.1"]
        where = (f"--datadir={self.data}", f"--socket={here / 'socket'}", f"--pid-file={here / 'pid'}")
        reach = (f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve")
        # No default of the machine's; what is not said here are the compiled ones.
        return [_program("mariadbd"), "--no-defaults", *where, *reach]

    def _make_database(self) -> None:
        collation = "" if self.dialect is Dialect.POSTGRESQL else " CHARACTER SET utf8mb4"
        administer(self.options, f"CREATE DATABASE {DATABASE}{collation}")


def _program(name: str) -> Path:
    """A server's program, the newest version of it; skips the test where it is not installed."""
    pattern = Path(FOLDERS[name])
    folders = sorted(Path("/").glob(str(pattern.relative_to("/"))), reverse=True)
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt install {' or '.join(PACKAGES.values())}")
    return Path(found)


def _as(user: str) -> list[str | Path]:
    """Words before a command that let it run as a user: PostgreSQL refuses to run as root."""
    return ["setpriv", "--reuid", user, "--regid", user, "--init-groups"] if os.geteuid() == 0 else []


def _make_own(folder: Path, user: str) -> None:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)


def _children(parent: int) -> list[int]:
    """The processes that a process started and that still run."""
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [number for number in numbers if _parent_of(number) == parent]


def _is_running(pid: int) -> bool:
    return _parent_of(pid) is not None


def _parent_of(pid: int) -> int | None:
    """The process that started it; None once it ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)
