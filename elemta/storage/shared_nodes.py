"""Nodes that share one queue: their leases, their fencing tokens, what becomes of their mails.

What is not here: when a node renews or adopts (`queue`).

A node has two rows: the lease, which heartbeats change, and the fence with its token, which every commit that gives the
node a mail locks against a change. So a heartbeat never waits for a commit, and no mail becomes a node's while it is
declared dead. Raises `StoreUnavailable`, `StoreAway`, `CommitUnknown`.
"""

from collections.abc import Sequence

from elemta.datasource.base import Connection
from elemta.storage import shared_statements as sql
from elemta.storage.base import JOIN_LEASE_SECONDS, Adopted, Joined, Node, Pulse
from elemta.storage.codec import AttemptRow, decode_mail, encode_attempt
from elemta.storage.rules import uncertain_attempts
from elemta.storage.shared_ledger import Writes
from elemta.storage.shared_server import Server


class Nodes:
    """The verbs of `SharedStore` about nodes."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def join(self, owner: str) -> Joined:
        """Take part as `owner`; see `QueueStore.join`."""

        async def work(connection: Connection) -> Joined:
            await self._server.execute(connection, sql.ADD_LEASE, owner)
            while not await self._server.fetch(connection, sql.LOCK_LEASE, owner):
                # Somebody forgot the node just now, for whose end the lock had to wait.
                await self._server.execute(connection, sql.ADD_LEASE, owner)
            await self._server.execute(connection, sql.ADD_NODE, owner)
            await self._server.fetch(connection, sql.LOCK_NODE, owner)
            token = await self._new_token(connection, owner)
            await self._server.execute(connection, sql.BEGIN_LEASE, token, JOIN_LEASE_SECONDS, owner)
            released = await self._release(connection, owner)
            return Joined(token, released.recovered, released.uncertain)

        return await self._server.transact(work)

    async def renew(self, owner: str, token: int, seconds: float) -> Pulse:
        """Let the lease end `seconds` from now; see `SharedStore.renew`."""

        async def work(connection: Connection) -> Pulse:
            if not await self._server.execute(connection, sql.RENEW, float(seconds), owner, token):
                return Pulse(is_held=False)
            found = await self._server.fetch(connection, sql.IS_DRAINING, owner, token)
            return Pulse(is_held=bool(found), is_draining=bool(found and found[0][0]))

        return await self._server.look(work)

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        """Forget dead nodes; see `SharedStore.adopt`."""

        async def work(connection: Connection) -> list[Adopted]:
            dead = [row[0] for row in await self._server.fetch(connection, sql.DEAD_LEASES, owner)]
            return [adopted for each in dead if (adopted := await self._adopt(connection, each)) is not None]

        return await self._server.transact(work)

    async def _adopt(self, connection: Connection, dead: str) -> Adopted | None:
        # Whoever holds the fence gives the node a mail just now; then it is dealt with the next time.
        if not await self._server.fetch(connection, sql.LOCK_IDLE_NODE, dead):
            return None
        return await self._end(connection, dead)

    async def leave(self, owner: str, token: int) -> None:
        """End the life of a node in order; see `SharedStore.leave`."""

        async def work(connection: Connection) -> None:
            if list(await self._server.fetch(connection, sql.LOCK_LEASE, owner)) != [(token,)]:
                return
            await self._server.fetch(connection, sql.LOCK_NODE, owner)
            await self._end(connection, owner)

        await self._server.transact(work)

    async def nodes(self) -> Sequence[Node]:
        """Every node, in order of name."""
        rows = await self._server.find(sql.NODES)
        return [
            Node(owner, token, float(left), bool(draining), int(mails)) for owner, token, left, draining, mails in rows
        ]

    async def set_draining(self, owner: str, draining: bool) -> bool:  # the one thing it sets
        """Ask a node to drain, or to take part again."""
        server = self._server
        changed = await server.look(lambda connection: server.execute(connection, sql.DRAIN, int(draining), owner))
        return changed > 0

    # ---- within a unit of work -----------------------------------------------------------------

    async def _new_token(self, connection: Connection, owner: str) -> int:
        """A token greater than all before, as the fence of a node whose row is locked."""
        await self._server.execute(connection, sql.COUNT_TOKEN)
        ((token,),) = await self._server.fetch(connection, sql.LATEST_TOKEN)
        await self._server.execute(connection, sql.SET_TOKEN, token, owner)
        return int(token)

    async def _release(self, connection: Connection, owner: str) -> Adopted:
        """Make a node's mails claimable, and record the attempts that nobody saw the end of."""
        lane = sql.OWNED_LANE + owner
        rows = await self._server.fetch(connection, sql.OWNED_IN_FLIGHT, lane)
        in_flight = [decode_mail(row) for row in rows]
        attempts: list[AttemptRow] = []
        for mail in in_flight:
            if mail.attempting_since is not None:
                attempts += [encode_attempt(mail.id, each) for each in uncertain_attempts(mail, mail.attempting_since)]
        await self._server.write(connection, Writes(attempts=attempts))
        recovered = await self._server.execute(connection, sql.RELEASE_OWNED, lane)
        return Adopted(owner, recovered, tuple(mail.id for mail in in_flight))

    async def _end(self, connection: Connection, owner: str) -> Adopted:
        """Forget a node whose rows are locked: no commit can give it a mail any more."""
        released = await self._release(connection, owner)
        await self._server.execute(connection, sql.FORGET_NODE, owner)
        await self._server.execute(connection, sql.FORGET_LEASE, owner)
        return released
