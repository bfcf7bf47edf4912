"""One simulated world, from its first connection to its last mail.

What is not here: what the world is made of (`simulation.scenario`), or whether what happened was right
(`testing.invariants`). The server in it is the real one, `supervisor.server.Server`, built as the real process builds
it, on virtual parts.

A crash ends a life of the server as SIGKILL would: from that instant its store does nothing, its connections are cut,
its log is not read. Its tasks are then cancelled, but whatever they still try has no effect. What was durable stays:
the memory store's object, or the SQLite files. The next life is built from nothing else.
Failures raised: `Stuck` from the watchdog; a defect that ends the server's run passes.
"""

import random
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

import structlog
import trio
from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.config.sections import TransportName
from elemta.observe.metrics import Metrics
from elemta.queue.service import QueueService
from elemta.runtime.ids import SeededIds
from elemta.runtime.threads import InlineThreads
from elemta.runtime.world import Runtime
from elemta.simulation.clients import Client
from elemta.simulation.clock import VirtualClock, chance_of, run_virtual
from elemta.simulation.hosts import RemoteHost
from elemta.simulation.network import VirtualHost, VirtualNetwork
from elemta.simulation.operators import Operator
from elemta.simulation.record import Record
from elemta.simulation.resolver import ScriptedResolver
from elemta.simulation.scenario import SERVER_ADDRESS, ClockStep, Drain, Scenario
from elemta.simulation.store import FaultyStore
from elemta.simulation.watchdog import watching
from elemta.storage.base import QueueStore, StoreUnavailable
from elemta.storage.inbox import MemoryInbox
from elemta.storage.memory import MemoryStore
from elemta.storage.sqlite import SqliteStore
from elemta.supervisor.build import Stores, Watch, World, bind, build_server
from elemta.supervisor.server import Server

#: Virtual seconds for the drain at the end: nothing is left to do.
_DRAIN_SECONDS = 60.0
#: Virtual seconds after the last trouble before the end: the spool's longest pause, and some slow commits.
_CALM_SECONDS = 30.0
#: Virtual seconds before a server that could not start is started again, as a service manager does.
_RESTART_SECONDS = 5.0


class Keeper(Protocol):
    """Gives each life of a server its store, on what the lives before it made durable."""

    def __call__(self, runtime: Runtime) -> QueueStore:
        """A store that is not open yet."""
        ...


def memory_keeper() -> Keeper:
    """One `MemoryStore` for all lives."""
    kept: list[MemoryStore] = []

    def keep(runtime: Runtime) -> QueueStore:
        if not kept:
            kept.append(MemoryStore(runtime.clock, ids=runtime.ids))
        return kept[0]

    return keep


def sqlite_keeper(directory: str) -> Keeper:
    """A new `SqliteStore` for each life, on the same files."""
    return lambda runtime: SqliteStore(directory, runtime.threads, runtime.clock, ids=runtime.ids)


def simulate(scenario: Scenario, keeper: Keeper) -> Record:
    """Run a world to its end; what happened."""
    record = Record()
    run_virtual(_World(scenario, keeper, record).run, seed=scenario.seed)
    return record


class _World:
    def __init__(self, scenario: Scenario, keeper: Keeper, record: Record) -> None:
        self.scenario = scenario
        self.keeper = keeper
        self.record = record
        self.clock = VirtualClock()
        self.network = VirtualNetwork(self.chance("network"), latency=scenario.latency)
        self.inbox = MemoryInbox()
        self.life: _Life | None = None
        self.ending = False

    def chance(self, *purpose: object) -> random.Random:
        return chance_of(self.scenario.seed, *purpose)

    async def run(self) -> None:
        scenario, record = self.scenario, self.record
        with trio.CancelScope(deadline=scenario.deadline) as limit:
            with watching(lambda: len(record.events), limit.cancel):
                async with trio.open_nursery() as nursery:
                    for host in self._hosts():
                        await nursery.start(host.run, self.network)
                    await nursery.start(self._keep_serving)
                    nursery.start_soon(self._crash_on_time)
                    nursery.start_soon(self._drain_on_time)
                    for step in scenario.steps:
                        nursery.start_soon(self._step_clock, step)
                    await self._send_everything()
                    await record.wait_until_empty()
                    # A commit may have landed though its server does not know it yet.
                    await trio.sleep_until(max(scenario.store.ends_at, trio.current_time()) + _CALM_SECONDS)
                    await record.wait_until_empty()
                    self.ending = True
                    if self.life is not None:
                        await self.life.drain(_DRAIN_SECONDS)
                    nursery.cancel_scope.cancel()
        record.overdue = limit.cancelled_caught
        record.ended_at = trio.current_time()
        await self._read_attempts()

    def _hosts(self) -> list[RemoteHost]:
        smarthost = any(route.transport is TransportName.SMTP for route in self.scenario.config.routes)

        def destination(domain: str) -> str:
            return "relay" if smarthost else domain

        return [
            RemoteHost(
                address, personality, record=self.record, chance=self.chance("host", address), destination=destination
            )
            for address, personality in self.scenario.hosts.items()
        ]

    async def _send_everything(self) -> None:
        """Mails from clients, orders from the operator."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Operator(self._queue, self.clock, self.record).run, self.scenario.orders)
            for script in self.scenario.clients:
                machine = self.network.host(script.address)
                client = Client(script, machine, record=self.record, chance=self.chance("client", script.address))
                nursery.start_soon(client.run, SERVER_ADDRESS)

    def _queue(self) -> QueueService | None:
        """The queue of the life that serves now."""
        life = self.life
        return None if life is None or life.over.is_set() or life.server is None else life.server.parts.queue

    async def _step_clock(self, step: ClockStep) -> None:
        await trio.sleep_until(step.at)
        self.clock.step(step.seconds)

    # ---- the server's lives ----------------------------------------------------------------------

    async def _keep_serving(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as lives:
            while not self.ending:
                self.record.lives += 1
                life = self.life = _Life(self, self.record.lives)
                lives.start_soon(life.run)
                await life.started_or_over.wait()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await life.over.wait()
                await trio.sleep(self.scenario.downtime if life.crashed or life.drained else _RESTART_SECONDS)

    async def _crash_on_time(self) -> None:
        for at in self.scenario.crashes:
            await trio.sleep_until(at)
            if self.life is not None and not self.life.over.is_set():
                self.life.crash(f"at {at}")

    async def _drain_on_time(self) -> None:
        for drain in self.scenario.drains:
            await trio.sleep_until(drain.at)
            if self.life is not None and not self.life.over.is_set():
                await self.life.drain(drain.seconds)

    # ---- afterwards ------------------------------------------------------------------------------

    async def _read_attempts(self) -> None:
        store = self.keeper(self.runtime("afterwards"))
        await store.open()
        for passage in self.record.passages.values():
            passage.attempts = tuple(await store.attempts(passage.mail.id))
        await store.close()

    def runtime(self, *purpose: object) -> Runtime:
        """Chance and ids of one life."""
        ids = SeededIds(self.clock, self.chance("ids", *purpose))
        return Runtime(clock=self.clock, threads=InlineThreads(), ids=ids, chance=self.chance("runtime", *purpose))


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


class _Life:
    """One life of the server's machine."""

    def __init__(self, world: _World, number: int) -> None:
        self._world = world
        self._machine: VirtualHost = world.network.host(SERVER_ADDRESS)
        self._runtime = world.runtime("life", number)
        chance = world.chance("store", number)
        inner = world.keeper(self._runtime)
        self._store = FaultyStore(inner, world.scenario.store, record=world.record, clock=world.clock, chance=chance)
        self._store.crash = self.crash
        self._scope = trio.CancelScope()
        self.server: Server | None = None
        self.started_or_over = trio.Event()
        self.over = trio.Event()
        self.crashed = False
        self.drained = False
        self._drain: Drain | None = None

    async def run(self) -> None:
        """Serve until drained or crashed, or until the store could not be opened."""
        try:
            with self._scope:
                await self._serve()
                self.drained = True
                assert self._drain is not None
                self._world.record.drained(self._drain.at, self._drain.seconds)
        except* StoreUnavailable as group:
            # The process would end with a message; its service manager starts it again.
            self._world.record.note("server", "could not run", len(group.exceptions))
        finally:
            self._machine.crash()
            self.started_or_over.set()
            self.over.set()

    async def _serve(self) -> None:
        world = self._world
        config = world.scenario.config
        bound = await bind(config, self._machine)
        resolver = ScriptedResolver(world.scenario.names, self._runtime.chance)
        outside = World(self._runtime, self._machine, resolver)
        watch = Watch(self._logger(), Metrics())
        self.server = build_server(config, outside, Stores(self._store, world.inbox), bound=bound, watch=watch)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.run)
            world.record.note("server", "serves")
            self.started_or_over.set()

    def _logger(self) -> FilteringBoundLogger:
        ears = _Ears(self._world.record, lambda: not self.crashed)
        wrapper = structlog.make_filtering_bound_logger("warning")
        logger: FilteringBoundLogger = structlog.wrap_logger(
            structlog.ReturnLogger(), processors=[ears], wrapper_class=wrapper, cache_logger_on_first_use=True
        ).bind()
        return logger

    async def drain(self, seconds: float) -> None:
        """End this life in order, as SIGTERM would: what runs has so many seconds. Returns when it is over."""
        if self.server is None:
            return
        if self._drain is None and not self.over.is_set():
            self._drain = Drain(trio.current_time(), seconds)
            self._world.record.note("server", "drains", seconds)
            await self.server.drain(seconds)
        await self.over.wait()

    def crash(self, why: str) -> None:
        """End this life as SIGKILL would."""
        if self.crashed or self.over.is_set():
            return
        self.crashed = True
        self._world.record.crash(why)
        self._store.die()
        self._machine.crash()
        self._scope.cancel()
        self.started_or_over.set()
        self.over.set()
