"""One simulated world, from its first connection to its last mail.

What is not here: what the world is made of (`simulation.scenario`), or whether what happened was right
(`testing.invariants`). It has one server, or several on one queue; what was durable stays from one life of a server to
the next: the memory store's object, or the SQLite files. Failures raised: `Stuck` from the watchdog; a defect that ends
a server's run passes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from random import Random

import trio

from elemta.config.sections import TransportName
from elemta.queue.shared import as_shared
from elemta.simulation.channel import Contexts
from elemta.simulation.clients import Client
from elemta.simulation.clock import VirtualClock, chance_of, run_virtual
from elemta.simulation.freezer import Freezer
from elemta.simulation.hosts import RemoteHost
from elemta.simulation.keeper import Keeper, alone, runtime_of, together
from elemta.simulation.life import Surroundings
from elemta.simulation.network import VirtualNetwork
from elemta.simulation.operators import Operator, give_rest
from elemta.simulation.record import Record
from elemta.simulation.scenario import Scenario
from elemta.simulation.seat import Seat
from elemta.simulation.watchdog import watching
from elemta.storage.inbox import MemoryInbox
from elemta.storage.keyvalue_memory import MemoryKeyValue

#: Virtual seconds for the drain at the end: nothing is left to do.
_DRAIN_SECONDS = 60.0
#: Virtual seconds after the last trouble before the end: the spool's longest pause, and some slow commits.
_CALM_SECONDS = 30.0


def simulate(scenario: Scenario, keeper: Keeper) -> Record:
    """Run a world to its end; what happened. A world of several nodes needs a keeper of one `MemoryStore`."""
    record = Record()
    with _certificates(scenario) as certificates:
        run_virtual(_World(scenario, keeper, record, certificates).run, seed=scenario.seed)
    return record


@contextmanager
def _certificates(scenario: Scenario) -> Iterator[Contexts | None]:
    if not scenario.speaks_tls:
        yield None
        return
    from elemta.simulation.certificates import certificates  # late: it imports what is slow

    named = (name for name, known in scenario.names.items() if known.addresses)
    with certificates([scenario.config.hostname, *named]) as made:
        yield made


class _World:
    def __init__(self, scenario: Scenario, keeper: Keeper, record: Record, certificates: Contexts | None) -> None:
        self.scenario = scenario
        self.record = record
        #: The true time, with which no node's clock steps: that of the store that nodes share.
        self.clock = VirtualClock()
        self.network = VirtualNetwork(chance_of(scenario.seed, "network"), latency=scenario.latency)
        self.freezer = Freezer()
        self.store = keeper(runtime_of(scenario.seed, self.clock, "store")) if scenario.nodes else None
        shared = None if self.store is None else as_shared(self.store)
        chance = partial(chance_of, scenario.seed)
        if shared is None:
            stores = alone(keeper, scenario.store, record=record, chance=chance)
        else:
            stores = together(shared, scenario.store, record=record, chance=chance)
        self.shared = shared
        self.keeper = keeper
        self.certificates = certificates
        state = MemoryKeyValue(self.clock)
        around = Surroundings(scenario, record, self.network, MemoryInbox(), self.freezer, stores, state, certificates)
        self.seats = [Seat(around, plan) for plan in scenario.plans]

    async def run(self) -> None:
        record = self.record
        with trio.CancelScope(deadline=self.scenario.deadline) as limit, self._freezing():
            with watching(lambda: len(record.events), limit.cancel):
                await self._play()
        record.overdue = limit.cancelled_caught
        record.ended_at = trio.current_time()
        await self._read_attempts()

    async def _play(self) -> None:
        record = self.record
        async with trio.open_nursery() as nursery:
            await self._populate(nursery)
            await self._send_everything()
            await record.wait_until_empty()
            # A commit may have landed though its server does not know it yet.
            await trio.sleep_until(max(self.scenario.trouble_ends_at, trio.current_time()) + _CALM_SECONDS)
            await record.wait_until_empty()
            async with trio.open_nursery() as ends:
                for seat in self.seats:
                    ends.start_soon(seat.end, _DRAIN_SECONDS)
            nursery.cancel_scope.cancel()

    @contextmanager
    def _freezing(self) -> Iterator[None]:
        """Looking at each task that becomes ready takes time, which worlds without a freeze need not spend."""
        if not any(plan.freezes for plan in self.scenario.plans):
            yield
            return
        trio.lowlevel.add_instrument(self.freezer)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self.freezer)

    async def _populate(self, nursery: trio.Nursery) -> None:
        """Hosts, servers, and who drains nodes."""
        for host in self._hosts():
            await nursery.start(host.run, self.network)
        for seat in self.seats:
            await nursery.start(seat.run)
        if self.shared is not None:
            for plan in self.scenario.plans:
                for span in plan.rests:
                    nursery.start_soon(give_rest, self.shared, plan.name, span, self.record)

    def _hosts(self) -> list[RemoteHost]:
        routes = self.scenario.config.routes
        smarthost = any(route.transport is TransportName.SMTP and route.domain == "*" for route in routes)

        def destination(domain: str) -> str:
            return "relay" if smarthost else domain

        return [
            RemoteHost(
                address,
                personality,
                record=self.record,
                chance=self._chance("host", address),
                destination=destination,
                contexts=self.certificates,
            )
            for address, personality in self.scenario.hosts.items()
        ]

    def _chance(self, *purpose: object) -> Random:
        return chance_of(self.scenario.seed, *purpose)

    async def _send_everything(self) -> None:
        """Mails from clients, orders from the operator."""
        servers = [plan.address for plan in self.scenario.plans]
        async with trio.open_nursery() as nursery:
            operator = Operator(self.seats, self.freezer, record=self.record, chance=self._chance("operator"))
            nursery.start_soon(operator.run, self.scenario.orders)
            for script in self.scenario.clients:
                machine = self.network.host(script.address)
                client = Client(
                    script,
                    machine,
                    record=self.record,
                    chance=self._chance("client", script.address),
                    contexts=self.certificates,
                )
                nursery.start_soon(client.run, *servers)

    async def _read_attempts(self) -> None:
        store = self.store or self.keeper(runtime_of(self.scenario.seed, self.clock, "afterwards"))
        await store.open()
        for passage in self.record.passages.values():
            passage.attempts = tuple(await store.attempts(passage.mail.id))
        await store.close()
