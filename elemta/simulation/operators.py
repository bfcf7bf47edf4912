"""An operator who gives orders to the running server.

What is not here: what an order does (`storage.rules`), or drawing one (`simulation.scenario`). An order that comes
while the server is off, or that its store refuses, is not given again. The last one is: whatever is held is released in
the end, so that every mail leaves the queue. Failures raised: none.
"""

from collections.abc import Sequence
from random import Random
from typing import Protocol

import trio
from attrs import frozen

from elemta.queue.service import QueueService
from elemta.runtime.clock import Clock
from elemta.simulation.freezer import Freezer
from elemta.simulation.nodes import Span
from elemta.simulation.record import Record
from elemta.storage.base import Filter, Order, SharedStore, StoreUnavailable, Verb
from elemta.storage.records import QueueState

#: Mails that one order takes: more than any world has.
_ALL_MAILS = 10_000
#: Seconds before the last order is given again.
_AGAIN_SECONDS = 5.0


@frozen
class OrderScript:
    """At the virtual time `at` the operator asks for `verb` on all mails that `chosen` matches."""

    at: float
    verb: Verb
    chosen: Filter = Filter()


class Served(Protocol):
    """Where an operator finds a server. Its life is one part of the world; its queue is there while it serves."""

    @property
    def life(self) -> object:
        """The life that runs, or ran last."""
        ...

    @property
    def queue(self) -> QueueService | None:
        """The queue of the life that serves now."""
        ...

    @property
    def clock(self) -> Clock:
        """The server's wall clock."""
        ...


class Operator:
    """Gives orders to whatever life of a server it finds at one of its `seats`."""

    def __init__(self, seats: Sequence[Served], freezer: Freezer, *, record: Record, chance: Random) -> None:
        self._seats = seats
        self._freezer = freezer
        self._record = record
        self._chance = chance

    async def run(self, orders: tuple[OrderScript, ...]) -> None:
        """Give the orders, in their order; then release what is held. An operator without orders does nothing."""
        for script in sorted(orders, key=lambda script: script.at):
            await trio.sleep_until(script.at)
            await self._give(script.verb, script.chosen)
        held = Filter(states=frozenset({QueueState.HELD}))
        while orders:
            if await self._give(Verb.RELEASE, held):
                return
            await trio.sleep(_AGAIN_SECONDS)

    async def _give(self, verb: Verb, chosen: Filter) -> bool:
        """True when the order was carried out."""
        seat = self._chance.choice(self._seats)
        queue = seat.queue
        if queue is None:
            return False
        order = Order(verb, chosen, seat.clock.wall(), _ALL_MAILS, reason="simulated")
        try:
            with self._freezer.inside(seat.life):
                await trio.lowlevel.checkpoint()
                ordered = await queue.apply(order)
        except StoreUnavailable as error:
            self._record.note("operator", verb.value, "failed", error)
            return False
        self._record.note("operator", verb.value, "changed", len(ordered.changed), "left", *ordered.in_flight)
        return True


async def give_rest(store: SharedStore, node: str, span: Span, record: Record) -> None:
    """Drain a node for a while, by the store: the order reaches the node with its next renewal."""
    for at, resting in zip(span, (True, False), strict=True):
        await trio.sleep_until(at)
        known = await store.set_draining(node, resting)
        record.note("operator", "drains" if resting else "undrains", node, "" if known else "which is not there")
