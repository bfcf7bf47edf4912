"""The process around a server: lock, signals, web side, control socket, readiness.

What is not here: the server itself (`supervisor.server`), or the command line's words (`cli.run`).
Signals: SIGTERM or SIGINT drains within `timeouts.shutdown_timeout`, a second one stops now; SIGUSR2 writes the tree of
tasks to the log. Failures raised: `CannotStart`, with one sentence that says what to do.
"""

import errno
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import trio
from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.config.sections import Config
from elemta.net.base import Endpoint
from elemta.net.sockets import SystemNetwork
from elemta.observe.log import make_logger
from elemta.observe.metrics import Metrics
from elemta.resolver.cache import CachingResolver
from elemta.resolver.dns import DnsResolver
from elemta.runtime.clock import SystemClock
from elemta.runtime.world import Runtime, system_runtime
from elemta.storage.base import StoreUnavailable
from elemta.supervisor.banner import dev_banner
from elemta.supervisor.build import Stores, Watch, World, bind, build_server
from elemta.supervisor.certificate import provide_certificate
from elemta.supervisor.health import ServerHealth
from elemta.supervisor.lock import QueueBusy, QueueLock, QueueUnusable
from elemta.supervisor.ready import announce
from elemta.supervisor.server import Server
from elemta.supervisor.stores import make_inbox_store, make_store
from elemta.web.base import CONTROL_NAME

#: Seconds that the web side may take to end after the mail side: its own bounds, and a margin.
WEB_STOP_SECONDS = 6.0

#: Exit statuses, see `cli.output`: the operation failed, try again later, not permitted.
FAILED = 1
TEMPORARY = 75
NOT_PERMITTED = 77


class CannotStart(Exception):
    """The server cannot start; the text is for people."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


@frozen
class ProcessOptions:
    """What the command line adds to the configuration."""

    #: A descriptor that gets one JSON line once every listener accepts.
    ready_fd: int | None = None


def run_process(config: Config, options: ProcessOptions) -> None:
    """Run the server until it is told to stop. Raises `CannotStart`."""
    log = make_logger(config.logging.level, config.logging.format)
    with ExitStack() as stack:
        try:
            stack.enter_context(QueueLock(Path(config.queue_dir)))
        except QueueBusy as error:
            raise CannotStart(str(error), TEMPORARY) from error
        except QueueUnusable as error:
            raise CannotStart(str(error), NOT_PERMITTED) from error
        try:
            provide_certificate(config, SystemClock(), log)
        except OSError as error:
            raise CannotStart(f"no certificate can be made in {config.queue_dir}: {error}.") from error
        try:
            trio.run(_Process(config, options, log).run)
        except BaseExceptionGroup as group:
            raise _reason(group) from group


class _Process:
    def __init__(self, config: Config, options: ProcessOptions, log: FilteringBoundLogger) -> None:
        self._config = config
        self._options = options
        self._log = log
        self._metrics = Metrics()
        self._runtime: Runtime = system_runtime()
        self._web_stop = trio.Event()
        self._served = trio.Event()
        self._control_path = os.path.abspath(os.path.join(config.queue_dir, CONTROL_NAME))

    async def run(self) -> None:
        config = self._config
        network = SystemNetwork()
        try:
            bound = await bind(config, network)
        except OSError as error:
            raise _cannot_listen(error) from error
        world = World(self._runtime, network, CachingResolver(DnsResolver(self._runtime.threads)))
        stores = Stores(make_store(config, self._runtime), make_inbox_store(config, self._runtime))
        watch = Watch(self._log, self._metrics)
        server = build_server(config, world, stores, bound=bound, watch=watch)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR2) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals, server)
                await self._live(server, stores)
                nursery.cancel_scope.cancel()

    async def _live(self, server: Server, stores: Stores) -> None:
        """Serve mail, with the web side around it: whoever watches a drain sees it to its end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve, server)
            await self._start_web(server, stores, nursery)
            await self._served.wait()
            self._web_stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + WEB_STOP_SECONDS

    async def _serve(self, server: Server, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await server.run(task_status=task_status)
        finally:
            self._served.set()

    async def _obey(self, signals: AsyncIterator[int], server: Server) -> None:
        """Drain at the first signal to end, stop at the second."""
        async with trio.open_nursery() as nursery:
            draining = False
            async for number in signals:
                if number == signal.SIGUSR2:
                    self._log.info("server.tasks", tree=task_tree())
                elif draining:
                    self._log.warning("server.stopping", signal=signal.Signals(number).name)
                    server.stop()
                else:
                    draining = True
                    self._log.info("server.draining", signal=signal.Signals(number).name)
                    nursery.start_soon(self._drain, server)

    async def _drain(self, server: Server) -> None:
        in_order = await server.drain(self._config.timeouts.shutdown_timeout)
        self._log.info("server.drained", in_order=in_order)

    async def _start_web(self, server: Server, stores: Stores, nursery: trio.Nursery) -> None:
        """Open the control socket and the web side, then tell whoever waits."""
        # Late: Hypercorn and Starlette take as long to import as everything else.
        from elemta.web.app import control_app, public_app
        from elemta.web.base import Identity
        from elemta.web.control import Control
        from elemta.web.serve import serve

        config = self._config
        health = ServerHealth(server, config.queue_dir)
        control = Control(
            queue=server.parts.queue,
            inbox=stores.inbox,
            health=health,
            metrics=self._metrics,
            log=self._log,
            identity=Identity(config.hostname, self._runtime.clock.wall(), dev_mode=config.dev_mode),
            clock=self._runtime.clock,
        )
        await nursery.start(
            partial(
                serve, control_app(control), bind=f"unix:{self._control_path}", shutdown=self._web_stop, log=self._log
            )
        )
        web: Endpoint | None = None
        if config.web.enabled:
            app = public_app(health, server.parts.queue, metrics=self._metrics, hosts=[config.hostname], log=self._log)
            try:
                web = await nursery.start(
                    partial(serve, app, bind=config.web.listen_addr, shutdown=self._web_stop, log=self._log)
                )
            except OSError as error:
                error.filename = config.web.listen_addr
                raise _cannot_listen(error, key="web.listen_addr") from error
        self._say_ready(server, web, self._control_path)

    def _say_ready(self, server: Server, web: Endpoint | None, control: str) -> None:
        endpoints = server.endpoints
        self._log.info(
            "server.ready",
            listeners=[str(end) for _, end in endpoints],
            web=None if web is None else str(web),
            hostname=self._config.hostname,
        )
        if self._options.ready_fd is not None:
            announce(self._options.ready_fd, endpoints, web, control)
        if self._config.dev_mode:
            sys.stderr.write(dev_banner(endpoints[0][1], web, control))
            sys.stderr.flush()


def _reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person needs to hear of the failures that ended the server: the first that says what to do."""
    for failure in _leaves(group):
        if isinstance(failure, CannotStart):
            return failure
        if isinstance(failure, StoreUnavailable):
            return CannotStart(str(failure), TEMPORARY)
    return group


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for failure in group.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            yield from _leaves(failure)
        else:
            yield failure


def _cannot_listen(error: OSError, key: str = "listen_addr") -> CannotStart:
    """One sentence with the remedy for an address that cannot be bound."""
    address = error.filename or "the address"
    if error.errno == errno.EADDRINUSE:
        return CannotStart(
            f"{address} is in use by another program (see it with: ss -ltnp). Stop that one, or choose another {key}."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return CannotStart(
            f"{address} may not be bound by this user (uid {os.geteuid()}). A port under 1024 needs "
            "CAP_NET_BIND_SERVICE: give it with AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or "
            f"choose a port from 1024 up in {key}.",
            NOT_PERMITTED,
        )
    return CannotStart(f"{address} cannot be bound: {error.strerror or error}. Check {key}.")


def task_tree() -> list[str]:
    """The tasks that run now, a line each, children indented under their parents."""
    rows: list[str] = []

    def walk(task: trio.lowlevel.Task, depth: int) -> None:
        rows.append("  " * depth + task.name)
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                walk(child, depth + 1)

    root = trio.lowlevel.current_root_task()
    if root is not None:
        walk(root, 0)
    return rows
