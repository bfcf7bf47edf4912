"""Claims of due mails, several nodes at once.

What is not here: searching behind mails of destinations that can take no more (`shared_scout`).

Nodes do not wait for each other: each passes over what another is just locking. A claim of whose end nobody heard may
have taken mails all the same; they are asked for again with the next one, or no node would ever try them. Raises
`StoreUnavailable`, `StoreAway`, `CommitUnknown`.
"""

from collections.abc import Sequence

import attrs
import trio

from elemta.datasource.base import Connection, Row
from elemta.storage import shared_statements as sql
from elemta.storage.base import Change, Claim, CommitUnknown
from elemta.storage.codec import decode_mail
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.shared_ledger import Writes
from elemta.storage.shared_scout import Scout
from elemta.storage.shared_server import Server


class Claims:
    """The claims of one store."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._scout = Scout(server)
        self._searching = trio.Lock()
        #: Ids that a claim may have taken though nobody heard of it.
        self._doubtful: frozenset[str] = frozenset()

    def note(self, batch: Sequence[Change]) -> None:
        """Changes were committed, or may have been."""
        self._scout.note(batch)

    def forget(self) -> None:
        """Mails came to wait that nobody named."""
        self._scout.forget()

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """Take ownership of due mails; see `QueueStore.claim`."""
        if claim.limit <= 0:
            await trio.lowlevel.checkpoint()
            return []
        if not claim.exclude:
            return await self._take(claim, None)
        async with self._searching:
            passed = self._scout.begin()
            found = None
            try:
                search = await self._scout.search(claim, passed)
                mails = await self._take(claim, search.ids) if search.ids or self._doubtful else []
                if len(mails) == len(search.ids):
                    found = search
                return mails
            finally:
                self._scout.end(found)

    async def _take(self, claim: Claim, ids: Sequence[str] | None) -> list[QueuedMail]:
        """Claim in one transaction: what is due first, or of `ids` what still is."""
        doubtful = self._doubtful
        taken: list[str] = []

        async def work(connection: Connection) -> list[QueuedMail]:
            fence = await self._server.fetch(connection, sql.FENCE, claim.owner)
            taken.clear()
            if list(fence) != [(claim.token,)]:
                return []
            again = await self._server.among(connection, sql.OWNED_AMONG, sorted(doubtful), claim.owner, claim.token)
            mails = [decode_mail(row) for row in await self._due(connection, claim, ids)]
            taken.extend(mail.id for mail in mails)
            await self._own(connection, claim, mails)
            owned = [attrs.evolve(mail, state=QueueState.ACTIVE, owner=claim.owner) for mail in mails]
            return sorted([*owned, *map(decode_mail, again)], key=_order)

        try:
            mails = await self._server.transact(work)
        except CommitUnknown:
            self._doubtful = doubtful.union(taken)
            raise
        self._doubtful -= doubtful
        return mails

    async def _due(self, connection: Connection, claim: Claim, ids: Sequence[str] | None) -> list[Row]:
        if ids is not None:
            return await self._server.among(connection, sql.DUE_AMONG, ids, claim.now)
        rows: list[Row] = []
        for lane in sql.lanes_of(claim.priority):
            if len(rows) < claim.limit:
                rows += await self._server.fetch(connection, sql.DUE, lane, claim.now, claim.limit - len(rows))
        return rows

    async def _own(self, connection: Connection, claim: Claim, mails: Sequence[QueuedMail]) -> None:
        ids = [mail.id for mail in mails]
        for start in range(0, len(ids), sql.IDS_AT_ONCE):
            part = ids[start : start + sql.IDS_AT_ONCE]
            await self._server.execute(connection, sql.TAKE, claim.owner, claim.token, part)
        woken = sum(mail.state is QueueState.DEFERRED for mail in mails)
        if woken:
            tally = {QueueState.ACTIVE.value: woken, QueueState.DEFERRED.value: -woken}
            await self._server.write(connection, Writes(tally=tally))


def _order(mail: QueuedMail) -> tuple[int, float, str, str]:
    return (-mail.priority, mail.next_attempt_at, mail.destination, mail.id)
