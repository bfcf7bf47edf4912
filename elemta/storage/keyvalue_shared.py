"""The plugins' state on a database server, shared by all nodes.

What is not here: statements (`keyvalue_statements`), connections (`datasource`). Calls are gathered into batches, each
one transaction, a few at a time, so that plugins leave the queue its connections. A batch goes through its keys in
their order: two nodes do not wait for each other in a circle.

The table is made as soon as the server is there, or by the first call. What is over is swept by every node; a
namespace with too many entries loses those that end soonest, and may hold more until the next look. Failures raised:
`SharedAway`; a call that waited for its answer, or whose connection broke, may have been carried out, once.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from math import inf
from typing import Final

import trio

from elemta.datasource.base import Connection, DatabaseError, DatabaseRefused, OutcomeUnknown, Work
from elemta.datasource.migrations import MigratableDatabase, migrate
from elemta.datasource.options import Dialect
from elemta.plugins.api import KeyValue, SharedAway
from elemta.storage.keyvalue import CALL_SECONDS, Add, Answer, Get, NoCounter, Shelf
from elemta.storage.keyvalue_desk import Desk, Ticket
from elemta.storage.keyvalue_statements import COMPONENT, WORDS, carry_out_there

#: Batches under way at once: a quarter of the pool's connections, `datasource.options.POOL_SIZE`.
BATCHES_AT_ONCE: Final = 2
#: Seconds for which a server that failed is not asked again: callers hear so at once.
REST_SECONDS: Final = 1.0
#: Seconds that making the table may take: it is made empty.
MIGRATION_SECONDS: Final = 30.0
#: Entries of one namespace. Ours: a seat for each correspondent of a large site.
SHARED_ENTRIES: Final = 1_000_000
#: Seconds between two sweeps of one node.
SWEEP_SECONDS: Final = 60.0
#: Sweeps between two looks for namespaces with too many entries, which count every row.
SWEEPS_A_LOOK: Final = 10
#: Entries that one statement sweeps: some 10 ms, for which it may be in the way of others.
SWEPT_ENTRIES: Final = 500

#: Told to who has left.
NOBODY: Final = Answer(is_done=False)
#: As SQLite does it: what the power takes along are the last moments. MySQL leaves no choice to a session.
_ASYNCHRONOUS: Final = "SELECT set_config('synchronous_commit', 'off', true)"


class SharedKeyValue:
    """Keeps everything on one database; see `KeyValueStore`. The database is run by whoever made it."""

    def __init__(
        self, database: MigratableDatabase, *, seconds: float = CALL_SECONDS, entries: int = SHARED_ENTRIES
    ) -> None:
        self._database = database
        self._words = WORDS[database.dialect]
        self._entries = entries
        self._desk = Desk(database.name, self._serve, at_once=BATCHES_AT_ONCE, seconds=seconds)
        self._making = trio.Lock()
        self._is_made = False
        self._rests_until = -inf
        self._why = ""

    async def open(self) -> None:
        """Nothing is to be made ready: the server may start before its database does."""
        await trio.lowlevel.checkpoint()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and sweep until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_sweeping)
            await self._desk.run(task_status=task_status)

    async def close(self) -> None:
        """Nothing is to be let go of."""
        await trio.lowlevel.checkpoint()

    def of(self, namespace: str) -> KeyValue:
        """One plugin's part."""
        return Shelf(namespace, self._desk.do)

    # ---- batches ---------------------------------------------------------------------------------

    async def _serve(self, batch: Sequence[Ticket]) -> None:
        if trio.current_time() < self._rests_until:
            self._fail(batch, self._why)
            return
        tickets = sorted(batch, key=lambda ticket: (ticket.operation.namespace, ticket.operation.key))
        try:
            answers = await self._carry_out(tickets)
        except DatabaseRefused as error:
            await self._refused(tickets, error)
        except DatabaseError as error:
            if not isinstance(error, OutcomeUnknown):
                self._why, self._rests_until = str(error), trio.current_time() + REST_SECONDS
            self._fail(tickets, str(error))
        else:
            for ticket, answer in zip(tickets, answers, strict=True):
                ticket.settle(answer)

    async def _refused(self, tickets: Sequence[Ticket], error: DatabaseRefused) -> None:
        """One of them adds to what is no counter, for all else was looked at before: each by itself."""
        if len(tickets) > 1:
            for ticket in tickets:
                await self._serve([ticket])
        elif isinstance(tickets[0].operation, Add):
            tickets[0].settle(NoCounter(tickets[0].operation.key))
        else:
            self._fail(tickets, str(error))

    def _fail(self, tickets: Sequence[Ticket], why: str) -> None:
        for ticket in tickets:
            ticket.settle(SharedAway(why))

    async def _carry_out(self, tickets: Sequence[Ticket]) -> Sequence[Answer]:
        await self._make()

        async def work(connection: Connection) -> list[Answer]:
            # It may run again long after: what nobody waits for any more is not done behind everybody's back.
            return [
                NOBODY if ticket.is_left else await carry_out_there(connection, self._words, ticket.operation)
                for ticket in tickets
            ]

        async def not_synced(connection: Connection) -> list[Answer]:
            await connection.fetch(_ASYNCHRONOUS)
            return await work(connection)

        if all(isinstance(ticket.operation, Get) for ticket in tickets):
            return await self._database.look(work)
        return await self._database.transact(not_synced if self._database.dialect is Dialect.POSTGRESQL else work)

    async def _make(self) -> None:
        """Make the table, once."""
        if self._is_made:
            return
        async with self._making:
            if not self._is_made:
                migrations = (self._words.migration,)
                await migrate(self._database, migrations, component=COMPONENT, seconds=MIGRATION_SECONDS)
                self._is_made = True

    # ---- sweeping --------------------------------------------------------------------------------

    async def _keep_sweeping(self) -> None:
        """The first time at once, which makes the table: who may make it need not be who calls later."""
        for number in count():
            # Calls fail for the same reason, and say so; the next sweep takes what this one left.
            with suppress(DatabaseError):
                await self.sweep(looks=number % SWEEPS_A_LOOK == 0)
            await trio.sleep(SWEEP_SECONDS)

    async def sweep(self, *, looks: bool = True) -> None:
        """Remove what is over; and where it `looks`, what is too much. Raises `DatabaseError`."""
        await self._make()
        await self._remove(self._words.sweep)
        if looks:
            for namespace, surplus, until in await self._database.look(self._crowded):
                await self._remove(self._words.thin, namespace, until, surplus=surplus)

    async def _crowded(self, connection: Connection) -> list[tuple[bytes, int, float]]:
        """The namespaces that have too many entries: how many too many, and when the last of those ends."""
        found = []
        for namespace, entries in await connection.fetch(self._words.crowded, self._entries):
            surplus = int(entries) - self._entries
            for (until,) in await connection.fetch(self._words.edge, namespace, surplus - 1):
                found.append((namespace, surplus, until))
        return found

    async def _remove(self, statement: str, *values: object, surplus: float = inf) -> None:
        """Remove so many, some at a time."""
        while surplus > 0:
            most = int(min(surplus, SWEPT_ENTRIES))
            gone = await self._database.transact(_executing(statement, *values, most))
            surplus -= gone
            if gone < most:
                return


def _executing(statement: str, *values: object) -> Work[int]:
    async def work(connection: Connection) -> int:
        return await connection.execute(statement, *values)

    return work
