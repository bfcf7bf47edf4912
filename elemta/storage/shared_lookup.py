"""What operators ask of a queue on a database server.

What is not here: batches, claims, nodes, content (modules of their own).

The database finds candidates, `rules` says in Python which are meant: what an order means is said in one place for all
stores. A search goes through the queue in windows of ids, so that none of its statements takes long. Raises
`StoreUnavailable`, `StoreAway`, `CommitUnknown`.
"""

from collections.abc import Callable, Sequence

import trio

from elemta.datasource.base import Connection, Row
from elemta.mail.ids import is_queue_id
from elemta.mail.outcome import Attempt
from elemta.storage import shared_statements as sql
from elemta.storage.base import Filter, Order, Ordered, Retention, Verb
from elemta.storage.codec import MAIL_COLUMNS, Unfit, decode_attempt, decode_mail
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.rules import STATES_OF_VERB, matches, obey, takes
from elemta.storage.shared_ledger import Holding, Ledger, Looked, Standing
from elemta.storage.shared_server import Server

#: Mails that one transaction of an order or a cleanup changes: some 50 ms.
CHANGED_AT_ONCE = 200
#: Mails that one look of a search passes over: some 50 ms.
WINDOW_MAILS = 20_000
#: Mails that one look brings along at most.
PAGE_MAILS = 500
#: Rows of attempts that one transaction of a cleanup removes.
CLEANUP_ROWS = 5000

_STATE, _OWNER, _ATTEMPTS, _SINCE, _CONTENT = (
    MAIL_COLUMNS.index(name) for name in ("state", "owner", "attempts", "attempting_since", "content_id")
)

#: Says whether a mail is meant.
IsMeant = Callable[[QueuedMail], bool]


class Lookup:
    """The look-ups and orders of one store."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail by its id."""
        if not is_queue_id(queue_id):
            await trio.lowlevel.checkpoint()
            return None
        rows = await self._server.find(sql.GET, queue_id)
        return decode_mail(rows[0]) if rows else None

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first."""
        if not is_queue_id(queue_id):
            await trio.lowlevel.checkpoint()
            return []
        return [decode_attempt(row) for row in await self._server.find(sql.ATTEMPTS_OF, queue_id)]

    async def counts(self) -> dict[QueueState, int]:
        """How many mails stand in each state."""
        counts = dict.fromkeys(QueueState, 0)
        for state, mails in await self._server.find(sql.COUNTS):
            counts[QueueState(state)] = int(mails)
        return counts

    async def next_due(self) -> float | None:
        """When the earliest claimable mail is due."""
        return min((row[0] for row in await self._server.find(sql.NEXT_DUE) if row[0] is not None), default=None)

    # ---- searching -----------------------------------------------------------------------------

    async def list_mails(self, chosen: Filter, limit: int, after: str) -> list[QueuedMail]:
        """Mails in order of id."""
        terms = sql.filter_terms(chosen)
        return await self._search(terms, lambda mail: matches(chosen, mail), limit=limit, after=after)

    async def meant(self, order: Order) -> list[str]:
        """The ids of the mails that an order means, in flight or not."""
        terms = sql.filter_terms(order.filter)
        if terms is not None:
            terms += sql.state_terms(STATES_OF_VERB[order.verb])
        found = await self._search(terms, lambda mail: takes(order, mail), limit=order.limit, after="")
        return [mail.id for mail in found]

    async def _search(self, terms: sql.Terms | None, is_meant: IsMeant, *, limit: int, after: str) -> list[QueuedMail]:
        found: list[QueuedMail] = []
        if terms is None or limit <= 0 or "\0" in after:
            await trio.lowlevel.checkpoint()
            return found
        while len(found) < limit:
            # Where nothing is left out, the first page is all that has to be looked at.
            end = await self._window_end(after) if terms.texts else None
            found += await self._search_window(terms, is_meant, limit=limit - len(found), between=(after, end))
            if end is None:
                break
            after = end
        return found

    async def _window_end(self, after: str) -> str | None:
        """The last id of a window, None when the queue ends before."""
        rows = await self._server.find(sql.WINDOW_END, after, WINDOW_MAILS - 1)
        return str(rows[0][0]) if rows else None

    async def _search_window(
        self, terms: sql.Terms, is_meant: IsMeant, *, limit: int, between: tuple[str, str | None]
    ) -> list[QueuedMail]:
        after, end = between
        bounds = sql.Terms() if end is None else sql.Terms(("id <= ?",), (end,))
        page = min(max(limit, 1), PAGE_MAILS)
        found: list[QueuedMail] = []
        while len(found) < limit:
            here = sql.Terms(("id > ?",), (after,)) + bounds + terms
            rows = await self._server.find(sql.chosen(here), *here.values, page)
            found += [mail for mail in map(decode_mail, rows) if is_meant(mail)]
            if len(rows) < page:
                break
            after = rows[-1][0]
        return found[:limit]

    # ---- orders and age ------------------------------------------------------------------------

    async def apply(self, order: Order) -> Ordered:
        """Carry out an order, some mails a transaction; see `QueueStore.apply`."""
        changed: list[str] = []
        in_flight: list[str] = []
        ids = await self.meant(order)
        for start in range(0, len(ids), CHANGED_AT_ONCE):
            part = await self._obey(order, ids[start : start + CHANGED_AT_ONCE])
            changed += part.changed
            in_flight += part.in_flight
        return Ordered(tuple(changed), tuple(in_flight))

    async def _obey(self, order: Order, ids: Sequence[str]) -> Ordered:
        async def work(connection: Connection) -> Ordered:
            rows = await self._server.among(connection, sql.LOCK_MAILS, ids)
            meant = [mail for mail in map(decode_mail, rows) if takes(order, mail)]
            free = [mail for mail in meant if mail.attempting_since is None]
            ledger = await self._ledger(connection, rows, nodes={row[_OWNER]: row[-1] for row in rows if row[_OWNER]})
            changed = [mail.id for mail in free if _carry_out(ledger, order, mail)]
            await self._server.write(connection, ledger.writes())
            return Ordered(tuple(changed), tuple(mail.id for mail in meant if mail.attempting_since is not None))

        return await self._server.transact(work)

    async def remove_finished(self, retention: Retention) -> int:
        """Remove DELIVERED and FAILED mails past their retention, the oldest first."""
        limit = max(retention.limit, 0)
        finished: list[tuple[float, str]] = []
        for state, before in (
            (QueueState.DELIVERED, retention.delivered_before),
            (QueueState.FAILED, retention.failed_before),
        ):
            if before is not None and limit:
                rows = await self._server.find(sql.FINISHED_BEFORE, state.value, float(before), limit)
                finished += [(row[0], row[1]) for row in rows]
        ids = sorted(queue_id for _, queue_id in sorted(finished)[:limit])
        removed = 0
        for start in range(0, len(ids), CHANGED_AT_ONCE):
            removed += await self._remove(ids[start : start + CHANGED_AT_ONCE])
        return removed

    async def _remove(self, ids: Sequence[str]) -> int:
        async def work(connection: Connection) -> int:
            rows = await self._server.among(connection, sql.LOCK_MAILS, ids)
            # An operator may have brought one back meanwhile.
            finished = [row for row in rows if row[_STATE] in (QueueState.DELIVERED.value, QueueState.FAILED.value)]
            ledger = await self._ledger(connection, finished, nodes={})
            for row in finished:
                ledger.remove(row[0])
            await self._server.write(connection, ledger.writes())
            return len(finished)

        return await self._server.transact(work)

    async def _ledger(self, connection: Connection, rows: Sequence[Row], *, nodes: dict[str, int]) -> Ledger:
        """A ledger of mails that are locked, as LOCK_MAILS gave them, with their contents."""
        mails = {row[0]: _standing_of(row) for row in rows}
        content_ids = sorted({mail.content_id for mail in mails.values()})
        contents = {
            row[0]: Holding(*row) for row in await self._server.among(connection, sql.LOOK_CONTENTS, content_ids)
        }
        return Ledger(Looked(nodes, mails, contents))

    async def remove_attempts(self, before: float) -> None:
        """Remove old attempts, whatever their number."""

        async def work(connection: Connection) -> bool:
            ((last,),) = await self._server.fetch(connection, sql.OLDEST_ATTEMPTS, CLEANUP_ROWS)
            if last is None:
                return False
            return await self._server.execute(connection, sql.FORGET_ATTEMPTS, last, before) > CLEANUP_ROWS // 2

        while await self._server.transact(work):
            pass


def _standing_of(row: Row) -> Standing:
    return Standing(row[0], row[_STATE], row[_OWNER], row[-1], row[_ATTEMPTS], row[_SINCE], row[_CONTENT])


def _carry_out(ledger: Ledger, order: Order, mail: QueuedMail) -> bool:
    """Whether the order could be carried out: the reason that it gives may be no text."""
    if order.verb is Verb.DELETE:
        ledger.remove(mail.id)
        return True
    try:
        ledger.change(obey(order, mail))
    except Unfit:
        return False
    return True
