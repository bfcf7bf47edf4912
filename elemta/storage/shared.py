"""A queue on a database server, shared by any number of nodes.

What is not here: one server's dialect (`postgresql`, `mysql`), or connections (`datasource`). Each part of the contract
has a module of its own: batches, claims, nodes, content, look-ups, inspection.

Every verb raises `StoreUnavailable`, `StoreAway` while the server cannot be reached, `CommitUnknown` when nobody can
say what became of a transaction.
"""

from collections.abc import Mapping, Sequence

import trio

from elemta.datasource.migrations import MigratableDatabase
from elemta.mail.outcome import Attempt
from elemta.runtime.clock import Clock
from elemta.runtime.ids import IdSource, SecureIds
from elemta.storage import shared_batches, shared_content
from elemta.storage.base import (
    Adopted,
    Change,
    Claim,
    CommitUnknown,
    Filter,
    Finding,
    Insert,
    Joined,
    Node,
    Order,
    Ordered,
    Pulse,
    Result,
    Retention,
)
from elemta.storage.records import ContentRef, QueuedMail, QueueState
from elemta.storage.shared_claims import Claims
from elemta.storage.shared_content import SharedWriter
from elemta.storage.shared_dialect import Dialect
from elemta.storage.shared_inspection import inspect
from elemta.storage.shared_lookup import Lookup
from elemta.storage.shared_nodes import Nodes
from elemta.storage.shared_server import Server


class DatabaseStore:
    """A `SharedStore` on a database that somebody else runs. `ids` names staged content."""

    def __init__(
        self, database: MigratableDatabase, dialect: Dialect, *, clock: Clock, ids: IdSource | None = None
    ) -> None:
        self._clock = clock
        self._ids = ids or SecureIds(clock)
        self._server = Server(database, dialect)
        self._nodes = Nodes(self._server)
        self._claims = Claims(self._server)
        self._lookup = Lookup(self._server)
        #: Ids of new mails of which nobody knows whether they landed; at most those of a batch or two.
        self._doubtful: frozenset[str] = frozenset()

    async def open(self) -> None:
        """Bring the tables up to date; see `QueueStore.open`."""
        await self._server.prepare()

    async def close(self) -> None:
        """Nothing is kept open here; the connections are the database's."""
        await trio.lowlevel.checkpoint()

    # ---- nodes ---------------------------------------------------------------------------------

    async def join(self, owner: str, now: float) -> Joined:
        """Take part as `owner`; see `QueueStore.join`."""
        try:
            return await self._nodes.join(owner)
        finally:
            self._claims.forget()

    async def renew(self, owner: str, token: int, seconds: float) -> Pulse:
        """Let the lease end `seconds` from now; see `SharedStore.renew`."""
        return await self._nodes.renew(owner, token, seconds)

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        """Take the mails of dead nodes from them; see `SharedStore.adopt`."""
        try:
            return await self._nodes.adopt(owner)
        finally:
            self._claims.forget()

    async def leave(self, owner: str, token: int) -> None:
        """End the life of a node in order; see `SharedStore.leave`."""
        try:
            await self._nodes.leave(owner, token)
        finally:
            self._claims.forget()

    async def nodes(self) -> Sequence[Node]:
        """Every node, in order of name."""
        return await self._nodes.nodes()

    async def set_draining(self, owner: str, draining: bool) -> bool:  # the one thing it sets
        """Ask a node to drain, or to take part again."""
        return await self._nodes.set_draining(owner, draining)

    # ---- changes -------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """One transaction for the batch; see `QueueStore.commit`. A cancelled commit has done nothing."""
        new = frozenset(change.mail.id for change in batch if isinstance(change, Insert))
        try:
            results = await shared_batches.commit(self._server, batch, is_fresh=new.isdisjoint(self._doubtful))
        except CommitUnknown:
            self._doubtful |= new
            raise
        finally:
            self._claims.note(batch)
        self._doubtful -= new
        return results

    async def stage(self) -> SharedWriter:
        """Begin to stage content."""
        await trio.lowlevel.checkpoint()
        return SharedWriter(self._server, self._clock, content_id=self._ids.new_id())

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """A part of the content; see `QueueStore.read`."""
        return await shared_content.read(self._server, ref, offset=offset, limit=limit)

    # ---- what is there -------------------------------------------------------------------------

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """Take ownership of due mails; see `QueueStore.claim`."""
        return await self._claims.claim(claim)

    async def next_due(self) -> float | None:
        """When the earliest claimable mail is due."""
        return await self._lookup.next_due()

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail by its id."""
        return await self._lookup.get(queue_id)

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first."""
        return await self._lookup.attempts(queue_id)

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        """Mails in order of id; see `QueueStore.list`."""
        return await self._lookup.list_mails(chosen, limit, after)

    async def counts(self) -> Mapping[QueueState, int]:
        """How many mails stand in each state; every state is named."""
        return await self._lookup.counts()

    # ---- orders and age ------------------------------------------------------------------------

    async def apply(self, order: Order) -> Ordered:
        """Find what an order means, then carry it out; see `QueueStore.apply`."""
        try:
            return await self._lookup.apply(order)
        finally:
            self._claims.forget()

    async def cleanup(self, retention: Retention) -> int:
        """Remove what is past its retention, in short transactions; see `QueueStore.cleanup`."""
        removed = await self._lookup.remove_finished(retention)
        if retention.attempts_before is not None:
            await self._lookup.remove_attempts(retention.attempts_before)
        if retention.staged_before is not None:
            await shared_content.collect(self._server, retention.staged_before)
        return removed

    async def inspect(self) -> Sequence[Finding]:
        """Look over what lies in the store; see `QueueStore.inspect`."""
        return await inspect(self._server)
