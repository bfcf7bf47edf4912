"""PostgreSQL by way of asyncpg.

What is not here: pooling, deadlines and repetition (`pool`), what the codes mean (`faults`), any table.

The least rights. One user may own all; else an owner makes the tables (`elemta` is started once as that user, and again
after an upgrade that changes them), and the server runs as a user that cannot change them:

    CREATE ROLE elemta_owner LOGIN PASSWORD '…';
    CREATE ROLE elemta LOGIN PASSWORD '…';
    CREATE DATABASE elemta OWNER elemta_owner;
    -- as elemta_owner, in the database elemta:
    ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO elemta;
    ALTER DEFAULT PRIVILEGES GRANT USAGE, SELECT ON SEQUENCES TO elemta;

A pooler between (PgBouncer) must keep a session for each of our connections: settings and prepared statements are the
session's.
"""

import asyncio
import random
import ssl
from collections.abc import Sequence
from typing import Any

import asyncpg

from elemta.datasource.base import Named, Row
from elemta.datasource.encryption import client_context
from elemta.datasource.faults import Fault, FaultKind, postgresql_fault
from elemta.datasource.network import network_fault
from elemta.datasource.options import PORTS, DatabaseOptions, Dialect
from elemta.datasource.pool import PooledDatabase
from elemta.datasource.sockets import watch_peer
from elemta.datasource.wire import RolledBack

#: Statements kept prepared on a connection: every one that a store has, with those made for a batch's size.
CACHED_STATEMENTS = 200

#: Characters of the longest statement that is kept prepared: those made for a batch's size are longer than the
#: driver's default of 15 KiB.
CACHED_STATEMENT_CHARACTERS = 256 * 1024


class PostgresqlWire:
    """One connection; see `wire.Wire`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._passed_over: BaseException | None = None

    @property
    def is_dead(self) -> bool:
        return bool(self._connection.is_closed())

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement; its rows."""
        try:
            return [tuple(row) for row in await self._connection.fetch(statement, *values)]
        except asyncpg.PostgresError as error:
            self._passed_over = error
            raise

    async def fetch_named(self, statement: str, *values: Any) -> Named:
        """Run a statement; its rows with the names of its columns."""
        try:
            prepared = await self._connection.prepare(statement)
            rows = [tuple(row) for row in await prepared.fetch(*values)]
            return Named(tuple(attribute.name for attribute in prepared.get_attributes()), rows)
        except asyncpg.PostgresError as error:
            self._passed_over = error
            raise

    async def execute(self, statement: str, *values: Any) -> int:
        """Run a statement; how many rows it changed."""
        try:
            tag: str = await self._connection.execute(statement, *values)
        except asyncpg.PostgresError as error:
            self._passed_over = error
            raise
        count = tag.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    async def begin(self) -> None:
        self._passed_over = None
        await self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")

    async def commit(self) -> None:
        # A transaction of which a statement failed answers COMMIT with ROLLBACK, and no error.
        if await self._connection.execute("COMMIT") != "COMMIT":
            fault = None if self._passed_over is None else explain(self._passed_over)
            raise RolledBack(fault or Fault(FaultKind.AWAY, "the server rolled the transaction back"))

    async def rollback(self) -> None:
        if self._connection.is_in_transaction():
            await self._connection.execute("ROLLBACK")

    async def singly(self) -> None:
        pass

    def abort(self) -> None:
        self._connection.terminate()

    async def close(self) -> None:
        await self._connection.close()


class PostgresqlDriver:
    """Makes connections; see `wire.Driver`."""

    def __init__(self, options: DatabaseOptions) -> None:
        self._options = options
        self._context = None if options.socket else client_context(options)

    async def connect(self, *, at_length: float | None = None) -> PostgresqlWire:
        options = self._options
        connection = await asyncpg.connect(
            host=options.socket or options.host,
            port=options.port or PORTS[Dialect.POSTGRESQL],
            user=options.user,
            password=options.password,
            database=options.database or options.user,
            # False, for None would look into the environment.
            ssl=self._context or False,
            timeout=2 * options.connect_seconds,  # the pool's own comes first
            statement_cache_size=CACHED_STATEMENTS,
            max_cacheable_statement_size=CACHED_STATEMENT_CHARACTERS,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": "elemta"},
        )
        try:
            watch_peer(connection._transport.get_extra_info("socket"))  # the driver shows it nowhere else
            await connection.execute(self._settings(at_length))
        except BaseException:
            connection.terminate()
            raise
        return PostgresqlWire(connection)

    def _settings(self, at_length: float | None) -> str:
        """Set after login, since what stands between us and the server may refuse more than the name at login."""
        milliseconds = {
            "statement_timeout": at_length or self._options.statement_seconds,
            "lock_timeout": at_length or self._options.lock_seconds,
            "idle_in_transaction_session_timeout": self._options.silent_seconds,
        }
        return "; ".join(f"SET {name} = {round(seconds * 1000)}" for name, seconds in milliseconds.items())

    def explain(self, error: BaseException) -> Fault | None:
        return explain(error)


def explain(error: BaseException) -> Fault | None:
    """What an exception of asyncpg means; None when it is none of it."""
    match error:
        case asyncpg.InvalidCachedStatementError():
            return Fault(FaultKind.CONFLICT, "the tables changed meanwhile")
        case asyncpg.PostgresError():
            severity = getattr(error, "severity_en", None) or getattr(error, "severity", None) or "ERROR"
            return postgresql_fault(error.sqlstate or "", error.args[0] if error.args else "", severity=severity)
        case asyncpg.exceptions._base.DataError():
            return Fault(FaultKind.REFUSED, str(error))
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return Fault(FaultKind.LOST, str(error))
        case OSError() | asyncio.IncompleteReadError() | ssl.SSLError():
            return network_fault(error)
    return None


class PostgresqlDatabase(PooledDatabase):
    """A database on a PostgreSQL server, or on what speaks its protocol."""

    def __init__(self, options: DatabaseOptions, *, rng: random.Random | None = None) -> None:
        super().__init__(options, PostgresqlDriver(options), rng=rng)
