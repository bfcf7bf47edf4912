"""Backends of users on real files and real servers, for the tests of this folder and of the commands.

What is not here: the servers (`tests.datasource.servers`). One database serves all tests of a module; its tables are
emptied between them.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
from structlog.testing import CapturingLogger
from structlog.typing import FilteringBoundLogger

from elemta.auth.base import ManagedUsers, User
from elemta.config.auth import AuthSection
from elemta.datasource.options import PORTS, DatabaseOptions, Dialect
from elemta.runtime.world import Runtime, system_runtime
from elemta.supervisor.user_backends import make_users
from tests.datasource.servers import administer, empty_database

#: Every managed backend.
KINDS = ("file", "sqlite", "postgresql", "mysql")
DIALECTS = {"postgresql": Dialect.POSTGRESQL, "mysql": Dialect.MYSQL}
GROUPS = {Dialect.POSTGRESQL: "groups", Dialect.MYSQL: "`groups`"}

HASH = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0c2FsdA$mS7uiXGxG8jYL3F7lpIJCSFSL1LzrpSmjuqHMPqDb4E"
BOB = User(
    name="bob@example.com",
    password=HASH,
    scram="SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy",
    email="robert@example.com",
    full_name="Robert Müller",
    is_admin=True,
    groups=("staff", "wheel"),
    attributes={"senders": "sales@example.com @example.net", "quota": "10G"},
)


def log_of(entries: CapturingLogger) -> FilteringBoundLogger:
    """A log whose calls a test can look at."""
    return entries


def server_section(options: DatabaseOptions, **more: Any) -> AuthSection:
    """The configuration of users in a database."""
    return AuthSection(
        datasource_type=options.dialect.value,
        datasource_host=options.host,
        datasource_port=options.port or PORTS[options.dialect],
        datasource_user=options.user,
        datasource_pass=options.password,
        datasource_db=options.database,
        **more,
    )


def local_section(kind: str, folder: Path, **more: Any) -> AuthSection:
    """The configuration of users in a file."""
    return AuthSection(datasource_type=kind, datasource_path=str(folder / f"users.{kind}"), **more)


@contextlib.asynccontextmanager
async def opened(
    auth: AuthSection, *, runtime: Runtime | None = None, log: CapturingLogger | None = None
) -> AsyncIterator[ManagedUsers]:
    """The users of a configuration, open."""
    async with make_users(auth, runtime or system_runtime(), log=log_of(log or CapturingLogger())) as backend:
        await backend.users.open()
        try:
            yield backend.users
        finally:
            with trio.move_on_after(5, shield=True):
                await backend.users.close()


@contextlib.contextmanager
def users_database(dialect: Dialect) -> Iterator[DatabaseOptions]:
    """A database for the tests of a module."""
    with empty_database(dialect) as options:
        if dialect is Dialect.POSTGRESQL:
            administer(options, f"ALTER DATABASE {options.database} SET synchronous_commit = off")

        async def make() -> None:
            async with opened(server_section(options)):
                pass

        trio.run(make)
        yield options


def empty_users(options: DatabaseOptions) -> None:
    """Begin anew."""
    tables = ("users", GROUPS[options.dialect], "user_groups", "user_attributes")
    administer(options, *(f"DELETE FROM {table}" for table in tables))


def without_times(user: User | None) -> User | None:
    """What somebody says of a user, without what the backend keeps."""
    return None if user is None else attrs.evolve(user, created_at=None, updated_at=None, last_login_at=None)
