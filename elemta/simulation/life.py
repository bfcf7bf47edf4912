"""One life of one server, from its start to its crash or its drain.

What is not here: when it begins or ends (`simulation.seat`). The server is the real one, `supervisor.server.Server`,
built as the real process builds it, on virtual parts.

A crash ends a life as SIGKILL would: from that instant its store does nothing, its connections are cut, its log is not
read. Its tasks are then cancelled, but whatever they still try has no effect. Failures raised: a defect that ends the
server's run passes.
"""

from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import structlog
import trio
from attrs import evolve, frozen
from structlog.typing import FilteringBoundLogger

from elemta.config.load import Loaded
from elemta.config.sections import Config
from elemta.observe.metrics import Metrics
from elemta.observe.watch import Watch
from elemta.queue.service import QueueService
from elemta.simulation.channel import Contexts
from elemta.simulation.clock import VirtualClock
from elemta.simulation.freezer import Freezer
from elemta.simulation.keeper import StoreGiver, runtime_of
from elemta.simulation.network import VirtualNetwork
from elemta.simulation.nodes import Drain, NodePlan
from elemta.simulation.record import Record
from elemta.simulation.resolver import ScriptedResolver
from elemta.simulation.scenario import CERT_FILE, SERVER_ADDRESS, Scenario
from elemta.storage.base import StoreUnavailable
from elemta.storage.inbox import MemoryInbox
from elemta.storage.keyvalue_memory import MemoryKeyValue
from elemta.supervisor.build import Security, Site, Stores, World, bind, build_server
from elemta.supervisor.plugins import plugins_of
from elemta.supervisor.reload import ConfigSource, Reloader
from elemta.supervisor.server import Server
from elemta.supervisor.tls import load_server_tls


@frozen(eq=False)
class Surroundings:
    """What all lives of a world have around them."""

    scenario: Scenario
    record: Record
    network: VirtualNetwork
    inbox: MemoryInbox
    freezer: Freezer
    stores: StoreGiver
    #: What plugins keep, for all nodes and all their lives.
    state: MemoryKeyValue
    certificates: Contexts | None = None


@frozen
class _Ears:
    """Reads a server's log: warnings and errors go to the record while the server lives."""

    record: Record
    is_listening: Callable[[], bool]

    def __call__(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if self.is_listening():
            name = str(event.pop("event"))
            error = event.pop("exc_info", None)
            details = " ".join(f"{key}={value}" for key, value in event.items())
            self.record.complain(method, name, details if error is None else f"{details} {error!r}")
        raise structlog.DropEvent


class Life:
    """One life of a node's machine. `number` counts the lives of all nodes."""

    def __init__(self, around: Surroundings, plan: NodePlan, clock: VirtualClock) -> None:
        self._around = around
        self._plan = plan
        self.number = around.record.begin_life(plan.address)
        self._machine = around.network.host(plan.address)
        self._runtime = runtime_of(around.scenario.seed, clock, "life", self.number)
        self._given = around.stores(self._runtime, plan, self.number)
        self._given.faults.crash = self.crash
        self._scope = trio.CancelScope()
        self.server: Server | None = None
        self.started_or_over = trio.Event()
        self.over = trio.Event()
        self.crashed = False
        self.drained = False
        self._drain: Drain | None = None

    @property
    def queue(self) -> QueueService | None:
        """Its queue while it serves."""
        return None if self.over.is_set() or self.server is None else self.server.parts.queue

    async def run(self) -> None:
        """Serve until drained or crashed, or until the store could not be opened."""
        record = self._around.record
        try:
            with self._scope, self._around.freezer.inside(self):
                await self._serve()
                self.drained = True
                assert self._drain is not None
                record.drained(self.number, self._drain.at, self._drain.seconds)
        except* StoreUnavailable as group:
            # The process would end with a message; its service manager starts it again.
            record.note("server", self._plan.address, "could not run", len(group.exceptions))
        finally:
            self._machine.crash()
            record.end_life(self.number)
            self.started_or_over.set()
            self.over.set()

    async def _serve(self) -> None:
        around = self._around
        source = ConfigSource(self._read_file(), lambda: Loaded(self._read_file(), (), {}, None))
        around.record.take_over(self.number, source.config)
        bound = await bind(source.config, self._machine)
        resolver = ScriptedResolver(around.scenario.names, self._runtime.chance)
        outside = World(self._runtime, self._machine, resolver)
        watch = Watch(self._logger(), Metrics())
        shared = self._given.shared
        if shared is None:
            stores = Stores(self._given.faults, around.inbox)
        else:
            stores = Stores(shared, around.inbox, shared, self._plan.name)
        tls = await load_server_tls(source.config, self._runtime, watch)
        site = Site(outside, stores, bound, watch)
        plugins_here = partial(plugins_of, offered=around.scenario.plugins)
        async with trio.open_nursery() as houses:
            reloader = Reloader(source, site, houses, make_state=lambda: around.state, open_plugins=plugins_here)
            self.server = build_server(source.config, site, Security(tls=tls, plugins=await reloader.first_plugins()))
            async with trio.open_nursery() as nursery:
                await nursery.start(self.server.run)
                around.record.note("server", self._plan.address, "serves")
                self.started_or_over.set()
                houses.start_soon(self._reload_on_time, self.server, source, reloader)
            houses.cancel_scope.cancel()

    def _read_file(self) -> Config:
        """What the node's configuration says now."""
        config = self._around.scenario.config
        for reload in self._plan.reloads:
            if reload.at <= trio.current_time():
                config = reload.config
        return _config_at(config, self._plan.address, self._around.certificates)

    async def _reload_on_time(self, server: Server, source: ConfigSource, reloader: Reloader) -> None:
        record = self._around.record
        began = record.lived[self.number - 1].configs[0][0]
        for reload in self._plan.reloads:
            if reload.at > began:
                await trio.sleep_until(reload.at)
                if self._drain is not None:
                    return  # the process reloads no more
                await reloader.reload(server)
                record.take_over(self.number, source.config)

    def _logger(self) -> FilteringBoundLogger:
        ears = _Ears(self._around.record, lambda: not self.crashed)
        wrapper = structlog.make_filtering_bound_logger("warning")
        logger: FilteringBoundLogger = structlog.wrap_logger(
            structlog.ReturnLogger(), processors=[ears], wrapper_class=wrapper, cache_logger_on_first_use=True
        ).bind()
        return logger

    async def drain(self, seconds: float) -> None:
        """End this life in order, as SIGTERM would: what runs has so many seconds. Returns when it is over."""
        if self.server is None or not self.started_or_over.is_set():
            self._scope.cancel()  # it does not serve yet: there is nothing to be done in order
            return
        if self._drain is None and not self.over.is_set():
            self._drain = Drain(trio.current_time(), seconds)
            self._around.record.note("server", self._plan.address, "drains", seconds)
            with self._around.freezer.inside(self):
                await trio.lowlevel.checkpoint()
                await self.server.drain(seconds)
        await self.over.wait()

    def crash(self, why: str) -> None:
        """End this life as SIGKILL would."""
        if self.crashed or self.over.is_set():
            return
        self.crashed = True
        self._around.record.crash(self.number, why)
        self._given.faults.die()
        self._machine.crash()
        self._scope.cancel()
        self.started_or_over.set()
        self.over.set()
        self._around.freezer.thaw(self)


def _config_at(config: Config, address: str, certificates: Contexts | None) -> Config:
    """The configuration of the node at an address: its own listeners, the world's files, all else as it is drawn."""
    if certificates is not None:
        config = _with_files(config, certificates)
    if address == SERVER_ADDRESS:
        return config
    listeners = tuple(
        evolve(each, address=each.address.replace(SERVER_ADDRESS, address, 1)) for each in config.listeners
    )
    tls = evolve(config.tls, listen_addr=config.tls.listen_addr.replace(SERVER_ADDRESS, address, 1))
    return evolve(config, listen_addr=f"{address}:25", listeners=listeners, tls=tls)


def _with_files(config: Config, certificates: Contexts) -> Config:
    tls = evolve(config.tls, cert_file=certificates.file(CERT_FILE), key_file=certificates.file(CERT_FILE))
    routes = tuple(
        evolve(route, tls_ca_file=certificates.file(route.tls_ca_file)) if route.tls_ca_file else route
        for route in config.routes
    )
    return evolve(config, tls=tls, routes=routes)
