"""A queue store with faults that several nodes share.

What is not here: a node's way to it (`simulation.link`), or keeping anything. Beside the store a ledger is kept of who
owns what (`simulation.ledger`). It is for a store that does each verb in one step, as the memory store does: then what
the ledger hears is in the order in which it happened. Failures raised: as `simulation.store`.
"""

import random
from collections.abc import Sequence

from elemta.runtime.clock import Clock
from elemta.simulation.ledger import Ledger
from elemta.simulation.relay import SharedRelay
from elemta.simulation.store import FaultyStore, StorePlan
from elemta.storage.base import (
    Adopted,
    Change,
    Claim,
    Joined,
    Order,
    Ordered,
    Result,
    SharedStore,
    Verb,
)
from elemta.storage.records import QueuedMail


class FaultySharedStore(FaultyStore[SharedStore], SharedRelay):
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
        self._ledger = ledger

    async def join(self, owner: str, now: float) -> Joined:
        """See `QueueStore.join`."""
        joined = await super().join(owner, now)
        self._ledger.join(owner, joined)
        return joined

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        """See `SharedStore.adopt`."""
        dead = await super().adopt(owner)
        for adopted in dead:
            self._record.note("store", "adopt", owner, adopted.owner, adopted.recovered, *sorted(adopted.uncertain))
            self._ledger.end(adopted.owner, "adoption", adopted.uncertain)
        return dead

    async def leave(self, owner: str, token: int) -> None:
        """See `SharedStore.leave`."""
        await super().leave(owner, token)
        self._record.note("store", "leave", owner, token)
        self._ledger.leave(owner, token)

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
