"""The users that a configuration names.

What is not here: how they are kept (`auth.users_…`), who asks for them. The server and `elemta user` get them here.
What is slow to import is imported where it is used.

Failure raised: `UsersUnusable`, for settings that name no users; it names the key.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from attrs import evolve, frozen
from structlog.typing import FilteringBoundLogger

from elemta.auth.base import ManagedUsers, UsersUnusable
from elemta.auth.user_query import UnfitQuery, rendered
from elemta.auth.users_query import QueriedUsers
from elemta.auth.users_tables import Engine, TableUsers
from elemta.config.auth import AuthSection
from elemta.runtime.world import Runtime
from elemta.supervisor.failures import only_one

if TYPE_CHECKING:
    from elemta.datasource.options import DatabaseOptions
    from elemta.datasource.pool import PooledDatabase

#: Connections to the users' database: a login holds one for a millisecond, and hashing bounds how many log in at once.
POOL_SIZE = 4
#: The parts of `auth.timeout` in which a question waits for a connection, makes one, and gets its answer.
_WAIT_SHARE, _CONNECT_SHARE, _UNIT_SHARE = 0.3, 0.3, 0.7


@frozen
class UserBackend:
    """Users, not open yet, and the database they are in where that is a server's: whoever logs in shares it."""

    users: ManagedUsers
    database: "PooledDatabase | None" = None


@asynccontextmanager
async def make_users(auth: AuthSection, runtime: Runtime, *, log: FilteringBoundLogger) -> AsyncIterator[UserBackend]:
    """The users of a configuration, with what must run beside them, for the block. Raises `UsersUnusable`."""
    if auth.datasource_type in ("file", "sqlite"):
        yield UserBackend(_on_this_machine(auth, runtime, log))
        return
    database = users_database(auth)
    backend = UserBackend(_on_a_server(auth, database, runtime=runtime, log=log), database)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(database.run)
            yield backend
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # What runs beside has a nursery of its own, which wraps what the block itself raises.
        raise only_one(group) from None


def _on_this_machine(auth: AuthSection, runtime: Runtime, log: FilteringBoundLogger) -> ManagedUsers:
    path, threads, clock = auth.datasource_path, runtime.threads, runtime.clock
    if auth.datasource_type == "file":
        if auth.user_query is not None:
            raise UsersUnusable(
                'auth.user_query: a file has no tables; it is for a datasource_type with SQL, not "file"'
            )
        from elemta.auth.users_file import FileUsers

        return FileUsers(path, threads, clock=clock, seconds=auth.timeout, log=log)
    from elemta.auth.users_sqlite import SqliteEngine

    managed = auth.user_query is None
    engine = SqliteEngine(path, threads, clock=clock, seconds=auth.timeout, managed=managed)
    return _users_on(engine, auth, runtime=runtime, log=log)


def _on_a_server(
    auth: AuthSection, database: "PooledDatabase", *, runtime: Runtime, log: FilteringBoundLogger
) -> ManagedUsers:
    from elemta.auth.users_mysql import MYSQL_DIALECT
    from elemta.auth.users_postgresql import POSTGRESQL_DIALECT
    from elemta.auth.users_server import ServerEngine

    dialect = POSTGRESQL_DIALECT if auth.datasource_type == "postgresql" else MYSQL_DIALECT
    return _users_on(ServerEngine(database, dialect), auth, runtime=runtime, log=log)


def _users_on(engine: Engine, auth: AuthSection, *, runtime: Runtime, log: FilteringBoundLogger) -> ManagedUsers:
    if auth.user_query is None:
        return TableUsers(engine, runtime.clock, log=log)
    try:
        return QueriedUsers(engine, auth.user_query, rendered=_in_terms_of(auth.datasource_type, auth.user_query))
    except UnfitQuery as error:
        raise UsersUnusable(f"auth.user_query: {error}") from None


def _in_terms_of(engine: str, statement: str) -> str:
    match engine:
        case "postgresql":
            return rendered(statement, placeholder=lambda number: f"${number}")
        case "mysql":
            return rendered(statement, placeholder=lambda _: "%s", plain=lambda text: text.replace("%", "%%"))
        case _:
            return rendered(statement, placeholder=lambda _: "?")


def users_database(auth: AuthSection) -> "PooledDatabase":
    """The database of users on a server; its `run` must run beside whoever uses it. Raises `UsersUnusable`."""
    from elemta.datasource.options import Dialect

    options = _with_deadlines(_database_options(auth), auth.timeout)
    if options.dialect is Dialect.POSTGRESQL:
        from elemta.datasource.postgresql import PostgresqlDatabase

        return PostgresqlDatabase(options)
    from elemta.datasource.mysql import MysqlDatabase

    return MysqlDatabase(options)


def _database_options(auth: AuthSection) -> "DatabaseOptions":
    from elemta.datasource.dsn import is_loopback, parse_dsn
    from elemta.datasource.options import DatabaseOptions, Dialect, Encryption

    dialect = Dialect(auth.datasource_type)
    parts = (auth.datasource_host, auth.datasource_port, auth.datasource_user, auth.datasource_pass, auth.datasource_db)
    if auth.datasource_dsn is not None:
        if any(part is not None for part in parts):
            raise UsersUnusable("auth.datasource_dsn: it says host, user and database: leave the keys for each out")
        try:
            options = parse_dsn(auth.datasource_dsn)
        except ValueError as error:
            raise UsersUnusable(f"auth.datasource_dsn: {error}") from None
        if options.dialect is not dialect:
            raise UsersUnusable(f'auth.datasource_dsn: it names no server of datasource_type "{dialect.value}"')
        return options
    if not auth.datasource_db:
        raise UsersUnusable("auth.datasource_db: name the database, or say all in auth.datasource_dsn")
    if not auth.datasource_user:
        raise UsersUnusable("auth.datasource_user: name the database user, or say all in auth.datasource_dsn")
    host = auth.datasource_host or "127.0.0.1"
    is_near = host.startswith("/") or is_loopback(host)
    return DatabaseOptions(
        dialect=dialect,
        host="127.0.0.1" if host.startswith("/") else host,
        port=auth.datasource_port or 0,
        socket=host if host.startswith("/") else "",
        user=auth.datasource_user,
        password=auth.datasource_pass or "",
        database=auth.datasource_db,
        encryption=Encryption.DISABLE if is_near else Encryption.VERIFY_FULL,
    )


def _with_deadlines(options: "DatabaseOptions", seconds: float) -> "DatabaseOptions":
    """So that a database that hangs is known to be away within `auth.timeout`, with waiting for a connection."""
    unit = seconds * _UNIT_SHARE
    return evolve(
        options,
        pool_size=min(options.pool_size, POOL_SIZE),
        connect_seconds=min(options.connect_seconds, seconds * _CONNECT_SHARE),
        pool_wait_seconds=seconds * _WAIT_SHARE,
        statement_seconds=min(options.statement_seconds, unit),
        lock_seconds=min(options.lock_seconds, unit),
        unit_seconds=unit,
    )
