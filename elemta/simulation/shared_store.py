"""A queue store with faults that several nodes share.

What is not here: a node's way to it (`simulation.link`), or keeping anything. Beside the store a ledger is kept of who
owns what (`simulation.ledger`). It is for a store that does each verb in one step, as the memory store does: then what
the ledger hears is in the order in which it happened. Failures raised: as `simulation.store`.
"""

import random
from collections.abc import Sequence

from elemta.runtime.clock import Clock
from elemta.simulation.ledger import Ledger
from elemta.simulation.store import FaultyStore, StorePlan
from elemta.storage.base import (
    Adopted,
    Change,
    Claim,
    Joined,
    Node,
    Order,
    Ordered,
    Pulse,
    Result,
    SharedStore,
    Verb,
)
from elemta.storage.records import QueuedMail


class FaultySharedStore(FaultyStore):
    """A `SharedStore` for one life of one node."""

    def __init__(
        self,
        inner: SharedStore,
        plan: StorePlan,
        *,
        ledger: Ledger,
        clock: Clock,
        chance: random.Random,
        life: int,
    ) -> None:
        super().__init__(inner, plan, record=ledger.record, clock=clock, chance=chance, life=life)
        self._shared = inner
        self._ledger = ledger

    async def join(self, owner: str, now: float) -> Joined:
        """See `QueueStore.join`."""
        joined = await super().join(owner, now)
        self._ledger.join(owner, joined)
        return joined

    async def renew(self, owner: str, token: int, seconds: float) -> Pulse:
        """See `SharedStore.renew`."""
        self._check()
        return await self._shared.renew(owner, token, seconds)

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        """See `SharedStore.adopt`."""
        self._check()
        dead = await self._shared.adopt(owner)
        for adopted in dead:
            self._record.note("store", "adopt", owner, adopted.owner, adopted.recovered, *sorted(adopted.uncertain))
            self._ledger.end(adopted.owner, "adoption", adopted.uncertain)
        return dead

    async def leave(self, owner: str, token: int) -> None:
        """See `SharedStore.leave`."""
        self._check()
        await self._shared.leave(owner, token)
        self._record.note("store", "leave", owner, token)
        self._ledger.leave(owner, token)

    async def nodes(self) -> Sequence[Node]:
        """See `SharedStore.nodes`."""
        self._check()
        return await self._shared.nodes()

    async def set_draining(self, owner: str, draining: bool) -> bool:
        """See `SharedStore.set_draining`."""
        self._check()
        return await self._shared.set_draining(owner, draining)

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """See `QueueStore.claim`."""
        claimed = await super().claim(claim)
        self._ledger.claim(claim, claimed)
        return claimed

    async def apply(self, order: Order) -> Ordered:
        """See `QueueStore.apply`."""
        ordered = await super().apply(order)
        if order.verb in {Verb.HOLD, Verb.DELETE}:
            self._ledger.release(ordered.changed)
        return ordered

    def _note(self, batch: Sequence[Change], results: Sequence[Result]) -> None:
        super()._note(batch, results)
        self._ledger.commit(batch, results)
