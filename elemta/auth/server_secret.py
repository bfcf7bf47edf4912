"""The server's secret, from which come the salts that SCRAM shows for users who do not exist.

What is not here: those salts (`auth.scram`). It has to outlive a restart, or who asks before and after one learns who
exists; nodes that share their users share it in the users' database, and so do worker processes of one server.
Failures raised: `OSError` where it can be kept nowhere.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from elemta.datasource.base import Connection, DatabaseError, Row
from elemta.datasource.migrations import MigratableDatabase, Migration, migrate
from elemta.datasource.options import Dialect
from elemta.runtime.own_files import make_once
from elemta.runtime.threads import Threads

#: As many as the digest that it keys gives, RFC 2104 §3.
SECRET_OCTETS: Final = 32
#: The file's name in `queue_dir`.
SECRET_NAME: Final = "auth.secret"
#: Whose table this is in `elemta_migrations`.
COMPONENT: Final = "auth-secret"
#: Seconds that making the table may take.
MIGRATION_SECONDS: Final = 30.0

_TABLE: Final = {
    Dialect.POSTGRESQL: """CREATE TABLE IF NOT EXISTS elemta_auth_secret (
        number integer NOT NULL PRIMARY KEY, secret varchar(64) NOT NULL)""",
    Dialect.MYSQL: """CREATE TABLE IF NOT EXISTS elemta_auth_secret (
        number integer NOT NULL PRIMARY KEY, secret varchar(64) NOT NULL
        ) ENGINE=InnoDB CHARACTER SET ascii COLLATE ascii_bin""",
}
_PUT: Final = {
    Dialect.POSTGRESQL: "INSERT INTO elemta_auth_secret VALUES (1, $1) ON CONFLICT DO NOTHING",
    Dialect.MYSQL: "INSERT IGNORE INTO elemta_auth_secret VALUES (1, %s)",
}


class FileSecret:
    """Kept in a folder, readable for its owner alone."""

    def __init__(self, folder: Path, threads: Threads) -> None:
        self._path = folder / SECRET_NAME
        self._threads = threads
        self._limiter = trio.CapacityLimiter(1)

    async def get(self) -> bytes:
        """The secret; made when there is none. Raises `OSError`."""
        return await self._threads.run(self._limiter, self._get)

    def _get(self) -> bytes:
        with suppress(FileNotFoundError):
            return self._read()
        make_once(self._path, secrets.token_bytes(SECRET_OCTETS))
        return self._read()

    def _read(self) -> bytes:
        secret = self._path.read_bytes()
        if len(secret) != SECRET_OCTETS:
            raise OSError(f"{self._path} does not hold {SECRET_OCTETS} octets: remove it, and it is made anew")
        return secret


class SharedSecret:
    """Kept in the users' database; in a file where that cannot be written."""

    def __init__(self, database: MigratableDatabase, file: FileSecret) -> None:
        self._database = database
        self._file = file

    async def get(self) -> bytes:
        """The secret; made when there is none. Raises `OSError`."""
        own = await self._file.get()

        async def work(connection: Connection) -> Sequence[Row]:
            await connection.execute(_PUT[self._database.dialect], own.hex())
            return await connection.fetch("SELECT secret FROM elemta_auth_secret WHERE number = 1")

        migration = Migration(1, "secret", (_TABLE[self._database.dialect],))
        try:
            await migrate(self._database, (migration,), component=COMPONENT, seconds=MIGRATION_SECONDS)
            rows = await self._database.transact(work)
        except DatabaseError:
            return own
        try:
            return bytes.fromhex(str(rows[0][0]))
        except (LookupError, ValueError):
            says = f"{self._database.name}: elemta_auth_secret does not hold what was put there: empty it"
            raise OSError(f"{says}, and it is made anew") from None
