"""An operator who gives orders to the running server.

What is not here: what an order does (`storage.rules`), or drawing one (`simulation.scenario`). An order that comes
while the server is off, or that its store refuses, is not given again. The last one is: whatever is held is released in
the end, so that every mail leaves the queue. Failures raised: none.
"""

from collections.abc import Callable

import trio
from attrs import frozen

from elemta.queue.service import QueueService
from elemta.runtime.clock import Clock
from elemta.simulation.record import Record
from elemta.storage.base import Filter, Order, StoreUnavailable, Verb
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


class Operator:
    """Gives orders to whatever life of the server `queue` finds; it returns None while the server is off."""

    def __init__(self, queue: Callable[[], QueueService | None], clock: Clock, record: Record) -> None:
        self._queue = queue
        self._clock = clock
        self._record = record

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
        queue = self._queue()
        if queue is None:
            return False
        try:
            ordered = await queue.apply(Order(verb, chosen, self._clock.wall(), _ALL_MAILS, reason="simulated"))
        except StoreUnavailable as error:
            self._record.note("operator", verb.value, "failed", error)
            return False
        self._record.note("operator", verb.value, "changed", len(ordered.changed), "left", *ordered.in_flight)
        return True
