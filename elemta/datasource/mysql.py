"""MySQL, MariaDB by way of asyncmy.

What is not here: pooling, deadlines and repetition (`pool`), what the codes mean (`faults`), any table.

The least rights. One user may have all; or the last line's alone, but for the first start, and the one after an upgrade
that changes tables:

    CREATE DATABASE elemta;
    CREATE USER elemta IDENTIFIED BY '…';
    GRANT CREATE, ALTER, INDEX, DROP ON elemta.* TO elemta;
    GRANT SELECT, INSERT, UPDATE, DELETE ON elemta.* TO elemta;
"""

import asyncio
import random
import ssl
from collections.abc import Sequence
from typing import Any

import asyncmy
from asyncmy.constants import CLIENT
from asyncmy.errors import MySQLError

from elemta.datasource.base import Named, Row
from elemta.datasource.encryption import client_context
from elemta.datasource.faults import Fault, FaultKind, mysql_fault
from elemta.datasource.mysqltext import ValueRefused, render
from elemta.datasource.network import network_fault
from elemta.datasource.options import PORTS, DatabaseOptions, Dialect
from elemta.datasource.pool import PooledDatabase
from elemta.datasource.sockets import watch_peer
from elemta.datasource.wire import RolledBack

#: Refuses what does not fit, never cuts it; with neither NO_BACKSLASH_ESCAPES nor ANSI_QUOTES, see `mysqltext`.
SQL_MODE = "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"


#: Seconds of silence after which MySQL (not MariaDB) gives up a connection with what it has locked: `storage.lease` by
#: default, and long enough that a heartbeat keeps a connection.
MYSQL_SILENT_SECONDS = 60


class MysqlWire:
    """One connection; see `wire.Wire`.

    Where autocommit is off the first statement begins a transaction by itself, which saves a round trip; each
    connection keeps the mode it had last, for units of one sort mostly follow each other.
    """

    def __init__(self, connection: Any, *, packet_octets: int) -> None:
        self._connection = connection
        self._packet_octets = packet_octets
        self._is_single = False
        #: The answer that ended the whole transaction, though the unit may have passed over it.
        self._ended_by: MySQLError | None = None

    @property
    def is_dead(self) -> bool:
        # `connected` stays true when the server hangs up on an idle connection.
        return bool(self._connection._stream_broken)

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement; its rows."""
        await self._query(render(statement, values))
        # Not by a cursor, which asks for each warning in a round trip more.
        rows: Sequence[Row] | None = self._connection._result.rows
        return rows or ()

    async def fetch_named(self, statement: str, *values: Any) -> Named:
        """Run a statement; its rows with the names of its columns."""
        rows = await self.fetch(statement, *values)
        return Named(tuple(column[0] for column in self._connection._result.description or ()), rows)

    async def execute(self, statement: str, *values: Any) -> int:
        """Run a statement; how many rows it matched. For ON DUPLICATE KEY UPDATE each row counts as MySQL has it."""
        return int(await self._query(render(statement, values)))

    async def _query(self, text: bytes) -> Any:
        if len(text) >= self._packet_octets:
            # The server would say so as well, and hang up, perhaps before we came to read it.
            raise ValueRefused(f"{len(text)} octets in one statement, but max_allowed_packet is {self._packet_octets}")
        try:
            return await self._connection.query(text)
        except MySQLError as error:
            if mysql_fault(*code_of(error)).kind is FaultKind.CONFLICT:
                self._ended_by = error
            raise

    async def begin(self) -> None:
        self._ended_by = None
        await self._set_single(single=False)

    async def singly(self) -> None:
        self._ended_by = None
        await self._set_single(single=True)

    async def _set_single(self, *, single: bool) -> None:
        if self._is_single is not single:
            await self._connection.query(b"SET autocommit = %d" % single)
            self._is_single = single

    async def commit(self) -> None:
        # A deadlock rolls everything back; what the unit did after it would be committed alone.
        if self._ended_by is not None:
            raise RolledBack(mysql_fault(*code_of(self._ended_by)))
        await self._connection.query(b"COMMIT")

    async def rollback(self) -> None:
        if not self._is_single:
            await self._connection.query(b"ROLLBACK")

    def abort(self) -> None:
        transport = self._connection._transport
        if transport is not None:
            transport.abort()
        self._connection.close()

    async def close(self) -> None:
        await self._connection.ensure_closed()


class MysqlDriver:
    """Makes connections; see `wire.Driver`."""

    def __init__(self, options: DatabaseOptions) -> None:
        self._options = options
        self._context = None if options.socket else client_context(options)

    async def connect(self, *, at_length: float | None = None) -> MysqlWire:
        options = self._options
        connection: Any = await asyncmy.connect(
            host=options.host,
            port=options.port or PORTS[Dialect.MYSQL],
            unix_socket=options.socket or None,
            user=options.user,
            password=options.password.encode(),
            database=options.database or None,
            ssl=self._context,
            charset="utf8mb4",
            client_flag=CLIENT.FOUND_ROWS,
            connect_timeout=2 * options.connect_seconds,  # the pool's own comes first
            autocommit=None,
            program_name="elemta",
        )
        try:
            watch_peer(connection._transport.get_extra_info("socket"))  # the driver shows it nowhere else
            is_mariadb = "MariaDB" in connection.server_version
            await connection.query(self._settings(is_mariadb=is_mariadb, at_length=at_length).encode())
            # The variable's name differs with the server's age; the statement's does not.
            await connection.query(b"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            await connection.query(b"SELECT @@max_allowed_packet")
            ((packet_octets,),) = connection._result.rows
        except BaseException:
            connection.close()
            raise
        return MysqlWire(connection, packet_octets=packet_octets)

    def _settings(self, *, is_mariadb: bool, at_length: float | None) -> str:
        seconds = at_length or self._options.statement_seconds
        settings = {
            "autocommit": "0",
            "sql_mode": f"'{SQL_MODE}'",
            "time_zone": "'+00:00'",
            "innodb_lock_wait_timeout": f"{max(1, round(at_length or self._options.lock_seconds))}",
        }
        if is_mariadb:
            silent = f"{max(1, round(self._options.silent_seconds))}"
            limit = {"max_statement_time": f"{seconds:g}", "idle_transaction_timeout": silent}
        else:
            # Milliseconds, and for SELECT alone; what else hangs there ends with the unit's deadline. MySQL bounds the
            # silence within a transaction by `wait_timeout` alone, which ends idle connections as well: the pool
            # replaces those.
            limit = {"max_execution_time": f"{round(seconds * 1000)}", "wait_timeout": f"{MYSQL_SILENT_SECONDS}"}
        return "SET " + ", ".join(f"SESSION {name} = {value}" for name, value in (settings | limit).items())

    def explain(self, error: BaseException) -> Fault | None:
        return explain(error)


def code_of(error: MySQLError) -> tuple[int, str]:
    """The number and the words of an exception; the number is 0 where the driver gave none."""
    match error.args:
        case (int(code), str(words)):
            return code, words
    return 0, str(error)


def explain(error: BaseException) -> Fault | None:
    """What an exception of asyncmy means; None when it is none of it."""
    match error:
        case MySQLError() if isinstance(error.__cause__, OSError):
            return network_fault(error.__cause__)
        case MySQLError():
            code, words = code_of(error)
            # Without a number it is the driver that lost its way in what the server sent.
            return mysql_fault(code, words) if code else Fault(FaultKind.LOST, words)
        case ValueRefused():
            return Fault(FaultKind.REFUSED, str(error))
        case OSError() | asyncio.IncompleteReadError() | ssl.SSLError():
            return network_fault(error)
    return None


class MysqlDatabase(PooledDatabase):
    """A database on a MySQL or MariaDB server, or on what speaks their protocol."""

    def __init__(self, options: DatabaseOptions, *, rng: random.Random | None = None) -> None:
        super().__init__(options, MysqlDriver(options), rng=rng)
