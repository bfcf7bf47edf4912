"""Failures to log in, shared by the nodes that share the users' database.

What is not here: how many are too many (`auth.limits`). Times are the database's. Rows are few and short-lived: what is
over is swept by whoever comes by.

Every failure is written down in this process as well. While the database does not answer, or this node may not write
there, it is what counts, which is logged once a minute. Failures raised: none but cancellation.
"""

import hashlib
from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

import trio
from attrs import evolve, frozen
from structlog.typing import FilteringBoundLogger

from elemta.auth.failure_book import MemoryBook
from elemta.auth.limits import KNOWN_SECONDS, FailureLimits, Kind, Standing, Who
from elemta.datasource.base import Connection, DatabaseError, Row, Work
from elemta.datasource.migrations import MigratableDatabase, Migration, migrate
from elemta.datasource.options import Dialect

#: Whose tables these are in `elemta_migrations`.
COMPONENT = "auth-failures"
#: Seconds for which a database that failed is not asked again.
REST_SECONDS = 5.0
#: Seconds between two log lines about that.
LOG_SECONDS = 60.0
#: Seconds between two sweeps of one node.
SWEEP_SECONDS = 600.0
#: Seconds that making the tables may take: they are made empty.
MIGRATION_SECONDS = 30.0

#: The row that says that a network is a user's own, beside the names of `Kind`.
_KNOWN: Final = "known"


@frozen
class _Words:
    """One dialect's statements.

    `count` takes kind, name, seconds of the window, the most failures; `known` takes name and seconds. An assignment of
    MySQL's sees what those before it set: that of `until_at` sees the new `failures`.
    """

    tables: tuple[str, ...]
    look: str
    count: str
    known: str
    sweep: str


_WORDS: Final = {
    Dialect.POSTGRESQL: _Words(
        tables=(
            """CREATE TABLE IF NOT EXISTS elemta_auth_failures (
            kind varchar(16) NOT NULL, name varchar(64) NOT NULL, failures integer NOT NULL,
            until_at double precision NOT NULL, PRIMARY KEY (kind, name))""",
            "CREATE INDEX IF NOT EXISTS elemta_auth_failures_until ON elemta_auth_failures (until_at)",
        ),
        look="""SELECT kind, failures FROM elemta_auth_failures
            WHERE until_at > extract(epoch FROM clock_timestamp()) AND (kind, name) IN
            (SELECT * FROM unnest($1::varchar[], $2::varchar[]))""",
        count="""INSERT INTO elemta_auth_failures AS old (kind, name, failures, until_at)
            VALUES ($1, $2, 1, extract(epoch FROM clock_timestamp()) + $3::double precision)
            ON CONFLICT (kind, name) DO UPDATE SET
            failures = CASE WHEN old.until_at <= extract(epoch FROM clock_timestamp()) THEN 1
                ELSE old.failures + 1 END,
            until_at = CASE WHEN old.until_at <= extract(epoch FROM clock_timestamp())
                OR old.failures + 1 = $4::integer THEN excluded.until_at ELSE old.until_at END""",
        known="""INSERT INTO elemta_auth_failures (kind, name, failures, until_at)
            VALUES ('known', $1, 0, extract(epoch FROM clock_timestamp()) + $2::double precision)
            ON CONFLICT (kind, name) DO UPDATE SET until_at = excluded.until_at""",
        sweep="DELETE FROM elemta_auth_failures WHERE until_at < extract(epoch FROM clock_timestamp())",
    ),
    Dialect.MYSQL: _Words(
        tables=(
            """CREATE TABLE IF NOT EXISTS elemta_auth_failures (
            kind varchar(16) NOT NULL, name varchar(64) NOT NULL, failures integer NOT NULL,
            until_at double NOT NULL, PRIMARY KEY (kind, name), INDEX elemta_auth_failures_until (until_at)
            ) ENGINE=InnoDB CHARACTER SET ascii COLLATE ascii_bin""",
        ),
        look="""SELECT kind, failures FROM elemta_auth_failures
            WHERE until_at > UNIX_TIMESTAMP(NOW(6)) AND (kind, name) IN ({pairs})""",
        count="""INSERT INTO elemta_auth_failures (kind, name, failures, until_at)
            VALUES (%s, %s, 1, UNIX_TIMESTAMP(NOW(6)) + %s)
            ON DUPLICATE KEY UPDATE failures = IF(until_at <= UNIX_TIMESTAMP(NOW(6)), 1, failures + 1),
            until_at = IF(until_at <= UNIX_TIMESTAMP(NOW(6)) OR failures = %s, VALUES(until_at), until_at)""",
        known="""INSERT INTO elemta_auth_failures (kind, name, failures, until_at)
            VALUES ('known', %s, 0, UNIX_TIMESTAMP(NOW(6)) + %s)
            ON DUPLICATE KEY UPDATE until_at = VALUES(until_at)""",
        sweep="DELETE FROM elemta_auth_failures WHERE until_at < UNIX_TIMESTAMP(NOW(6)) LIMIT 10000",
    ),
}


class SharedBook:
    """The book of all nodes on one database."""

    def __init__(self, database: MigratableDatabase, limits: FailureLimits, log: FilteringBoundLogger) -> None:
        self._database = database
        self._words = _WORDS[database.dialect]
        self._window_seconds = limits.lockout_seconds
        self._most = {
            Kind.ADDRESS: limits.per_address,
            Kind.NETWORK: limits.per_network,
            Kind.USER: limits.per_user,
        }
        self._here = MemoryBook(limits)
        self._log = log
        self._is_migrated = False
        self._rests_until = self._next_log = self._next_sweep = -inf

    def standing_here(self, who: Who) -> Standing:
        """How somebody stands as far as this node knows."""
        return self._here.standing_here(who)

    def is_own_network(self, who: Who) -> bool:
        """Whether the user logged in from there lately, as far as this node knows; after `standing`, all nodes."""
        return self._here.is_own_network(who)

    async def standing(self, who: Who) -> Standing:
        """How somebody stands with all nodes."""
        keys = [*((kind.value, name) for kind, name in _keys(who)), (_KNOWN, _known_name(who))]

        async def work(connection: Connection) -> Sequence[Row]:
            return await self._look(connection, keys)

        rows = await self._ask(work)
        return self._standing(who, rows or ())

    async def failed(self, who: Who) -> Standing:
        """Write down a failure."""
        here = self._here.failed_here(who)
        counted = [(kind, name) for kind, name in _keys(who) if self._counts(kind, who)]
        sweeps = trio.current_time() >= self._next_sweep

        async def work(connection: Connection) -> Sequence[Row]:
            if sweeps:
                await connection.execute(self._words.sweep)
            for kind, name in counted:
                values = (kind.value, name, self._window_seconds, self._most[kind])
                await connection.execute(self._words.count, *values)
            return await self._look(connection, [(kind.value, name) for kind, name in counted])

        rows = await self._ask(work, is_transaction=True)
        if rows is None:
            return here
        if sweeps:
            self._next_sweep = trio.current_time() + SWEEP_SECONDS
        counts = {str(kind): int(count) for kind, count in rows}
        crossed = any(counts.get(kind.value) == self._most[kind] for kind, _ in counted)
        return evolve(self._standing(who, rows), is_new=crossed)

    async def succeeded(self, who: Who) -> None:
        """Write down that a user logged in from there, once a day."""
        if not self._here.succeeded_here(who):
            return

        async def work(connection: Connection) -> Sequence[Row]:
            await connection.execute(self._words.known, _known_name(who), KNOWN_SECONDS)
            return ()

        await self._ask(work, is_transaction=True)

    # ---- the database --------------------------------------------------------------------------------

    async def _look(self, connection: Connection, keys: Sequence[tuple[str, str]]) -> Sequence[Row]:
        if self._database.dialect is Dialect.POSTGRESQL:
            return await connection.fetch(self._words.look, [kind for kind, _ in keys], [name for _, name in keys])
        pairs = ", ".join(["(%s, %s)"] * len(keys))
        flat = [part for key in keys for part in key]
        return await connection.fetch(self._words.look.format(pairs=pairs), *flat)

    async def _ask(self, work: Work[Sequence[Row]], *, is_transaction: bool = False) -> Sequence[Row] | None:
        """Run a unit of work; None where the database cannot say."""
        if trio.current_time() < self._rests_until:
            return None
        try:
            if not self._is_migrated:
                migrations = (Migration(1, "failures", self._words.tables),)
                await migrate(self._database, migrations, component=COMPONENT, seconds=MIGRATION_SECONDS)
                self._is_migrated = True
            ask = self._database.transact if is_transaction else self._database.look
            rows: Sequence[Row] = await ask(work)
        except DatabaseError as error:
            self._rest(error)
            return None
        return rows

    def _rest(self, error: DatabaseError) -> None:
        now = trio.current_time()
        self._rests_until = now + REST_SECONDS
        if now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            self._log.warning(
                "auth.failures_not_shared",
                error=str(error),
                remedy="failed logins at other nodes do not count here meanwhile; this node's own do",
            )

    def _standing(self, who: Who, rows: Iterable[Row]) -> Standing:
        """What this node and all nodes know, the worse of both."""
        failures = {str(kind): int(count) for kind, count in rows}
        if _KNOWN in failures and not self._here.is_own_network(who):
            self._here.succeeded_here(who)
        here = self._here.standing_here(who)
        too_many = (k for k in Kind if failures.get(k.value, 0) >= self._most[k] and self._counts(k, who))
        return Standing(here.locked or next(too_many, None), max(here.failures, failures.get(Kind.ADDRESS.value, 0)))

    def _counts(self, kind: Kind, who: Who) -> bool:
        return kind is not Kind.USER or not self._here.is_own_network(who)


def _keys(who: Who) -> list[tuple[Kind, str]]:
    """The keys of the rows; a user's name may hold anything, so its digest stands for it."""
    return [(kind, key if kind is not Kind.USER and _fits(key) else _digest(key)) for kind, key in who.keys]


def _fits(key: str) -> bool:
    return len(key) <= 64 and key.isascii()


def _known_name(who: Who) -> str:
    return _digest(f"{who.user}\n{who.network}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
