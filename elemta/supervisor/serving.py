"""A server in this process: event loop, signals, web side, control socket, readiness.

What is not here: the server itself (`supervisor.server`), the lock or other processes (`supervisor.process`,
`supervisor.workers`).
Signals: SIGTERM or SIGINT drains within `timeouts.shutdown_timeout`, a second one stops now; SIGHUP has the
configuration and the certificates read again, or drains where it means that the terminal is gone; SIGUSR2 writes the
tree of tasks to the log. A worker obeys its parent instead, and drains when that is gone; a signal, which terminals and
service managers send to all processes at once, drains it however often it comes, and SIGHUP is the parent's to pass on.
Failures raised: `CannotStart`, with one sentence that says what to do.
"""

import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from elemta.auth.authenticator import Authenticator
from elemta.config.checks import SHARED_STORAGE
from elemta.config.sections import Config
from elemta.inbound.service import Bound
from elemta.net.activation import ActivatedNetwork
from elemta.net.base import Endpoint
from elemta.net.shared import InheritedNetwork
from elemta.net.sockets import SystemNetwork
from elemta.observe.metrics import Metrics
from elemta.observe.watch import Watch
from elemta.resolver.cache import CachingResolver
from elemta.resolver.dns import DnsResolver
from elemta.runtime.garbage import settle
from elemta.runtime.world import Runtime, system_runtime
from elemta.supervisor.banner import dev_banner
from elemta.supervisor.build import Security, Site, Stores, World, bind, build_server
from elemta.supervisor.failures import CONFIG, CannotStart, cannot_listen, reason_of
from elemta.supervisor.health import ServerHealth
from elemta.supervisor.inherited import LINE_OCTETS, Inherited, Order, Report
from elemta.supervisor.last_resort import MARGIN_SECONDS, end_within
from elemta.supervisor.node import node_name
from elemta.supervisor.notify import keep_alive
from elemta.supervisor.ready import Starter
from elemta.supervisor.reload import ConfigSource, Reloader
from elemta.supervisor.server import Server
from elemta.supervisor.siblings import SocketSiblings, socket_path
from elemta.supervisor.stores import UnusableDsn, make_plugin_state, stores_of
from elemta.supervisor.tls import load_server_tls
from elemta.tls.server import ServerTls
from elemta.web.base import CONTROL_NAME, Identity
from elemta.web.control import Control
from elemta.web.sockets import Bound as WebBound

if TYPE_CHECKING:
    from elemta.supervisor.acme import AcmeService

#: Seconds that the web side may take to end after the mail side: its own bounds, and a margin.
WEB_STOP_SECONDS = 6.0

#: What a server listens to.
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})


def serve_here(
    source: ConfigSource,
    log: FilteringBoundLogger,
    *,
    starter: Starter | None = None,
    inherited: Inherited | None = None,
) -> None:
    """Run a server in this process until it is told to stop; with `inherited` as a worker, which its parent speaks for.

    Raises `CannotStart`.
    """
    # It would end the process; so it waits until there is somebody to take it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        trio.run(_Serving(source, log, starter or Starter(), inherited).run)
    except BaseExceptionGroup as group:
        raise reason_of(group) from group


class _Serving:
    def __init__(
        self, source: ConfigSource, log: FilteringBoundLogger, starter: Starter, inherited: Inherited | None
    ) -> None:
        self._source = source
        #: As it was at the start.
        self._config = source.config
        self._log = log
        self._starter = starter
        self._inherited = inherited
        self._metrics = Metrics()
        self._runtime: Runtime = system_runtime()
        self._web_stop = trio.Event()
        self._served = trio.Event()
        self._draining = False
        self._terminal = Terminal()
        self._tls: ServerTls | None = None
        self._login: Authenticator | None = None
        self._reloader: Reloader | None = None
        self._ready = trio.Event()
        #: Causes of reloads. One waits at most: it reads whatever has changed until it begins.
        self._to_reload, self._reloads = trio.open_memory_channel[str](1)
        self._reloading = trio.CancelScope()
        #: Orders to reload that the parent gave.
        self._ordered_reloads = 0
        self._control_path = Path(self._config.queue_dir, CONTROL_NAME).absolute()

    async def run(self) -> None:
        config, inherited = self._config, self._inherited
        network: SystemNetwork = ActivatedNetwork(self._starter.sockets)
        if inherited is not None:
            network = InheritedNetwork(inherited.shared.listeners, inherited.share)
        try:
            bound = await bind(config, network)
        except OSError as error:
            raise cannot_listen(error) from error
        async with AsyncExitStack() as stack:
            try:
                stores = await stack.enter_async_context(stores_of(config, self._runtime, node=self._node()))
            except UnusableDsn as error:
                raise CannotStart(f"{error}.", CONFIG) from error
            await self._open_login(stack)
            world = World(self._runtime, network, CachingResolver(DnsResolver(self._runtime.threads)))
            async with trio.open_nursery() as nursery:
                site = Site(world, stores, bound, Watch(self._log, self._metrics))
                await self._run_on(site, nursery)
                nursery.cancel_scope.cancel()

    async def _open_login(self, stack: AsyncExitStack) -> None:
        """Have what clients log in at run as long as the server. Raises `CannotStart`."""
        if not self._config.auth.enabled:
            return
        # Late: who has no users does not pay for them.
        from elemta.auth.base import UsersUnusable
        from elemta.supervisor.users import login_of

        login = login_of(self._config, self._runtime, Watch(self._log, self._metrics))
        try:
            self._login = await stack.enter_async_context(login)
        except UsersUnusable as error:
            raise CannotStart(f"{error}.", CONFIG) from error

    def _node(self) -> str:
        """The name of this process in a queue that it shares with others."""
        config = self._config
        if config.storage.type not in SHARED_STORAGE:
            return ""
        number = 0 if self._inherited is None else self._inherited.number
        try:
            return node_name(Path(config.queue_dir), config.hostname, worker=number)
        except OSError as error:
            raise CannotStart(f"this node's name cannot be kept in {config.queue_dir}: {error}.") from error

    async def _run_on(self, site: Site, houses: trio.Nursery) -> None:
        """Serve until the end; plugins live in `houses`."""
        self._tls = await load_server_tls(self._config, self._runtime, site.watch)
        acme = await self._certificates(site.world, site.watch)
        make_state = partial(make_plugin_state, self._config, self._runtime, site.stores.database)
        reloader = self._reloader = Reloader(self._source, site, houses, make_state=make_state)
        security = Security(tls=self._tls, login=self._login, plugins=await reloader.first_plugins())
        server = build_server(self._config, site, security)
        with trio.open_signal_receiver(*SIGNALS) as signals:
            # A parent holds them back while it forks, so that none is lost before there is somebody to take it.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed_signals, signals, site.bound, server, nursery)
                if self._inherited is not None:
                    nursery.start_soon(self._heed_parent, self._inherited, site.bound, server, nursery)
                nursery.start_soon(self._reload_when_told, server, reloader)
                nursery.start_soon(keep_alive, self._starter.notifier)
                if self._tls is not None:
                    nursery.start_soon(self._tls.run)
                if acme is not None:
                    nursery.start_soon(acme.run)
                await self._live(server, site.stores)
                nursery.cancel_scope.cancel()

    async def _certificates(self, world: World, watch: Watch) -> "AcmeService | None":
        """What orders certificates by ACME, with its port: the first of several workers, whose files all others read.

        Raises `CannotStart`.
        """
        first = self._inherited is None or self._inherited.number == 1
        if self._tls is None or not self._config.tls.lets_encrypt.enabled or not first:
            return None
        # Late: its libraries take longer to import than a server to start.
        from elemta.supervisor.acme import AcmeService

        acme = AcmeService(self._config, world, watch=watch, reload=self._tls.reload)
        sockets = self._starter.sockets if self._inherited is None else self._inherited.shared.handed
        await acme.bind(ActivatedNetwork(sockets))
        return acme

    async def _live(self, server: Server, stores: Stores) -> None:
        """Serve mail, with the web side around it: whoever watches a drain sees it to its end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve, server)
            if not server.stopped:
                await self._start_web(server, stores, nursery)
            await self._served.wait()
            self._web_stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + WEB_STOP_SECONDS

    async def _serve(self, server: Server, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await server.run(task_status=task_status)
        finally:
            self._served.set()

    # ---- orders ------------------------------------------------------------------------------

    async def _heed_signals(
        self, signals: AsyncIterator[int], bound: Sequence[Bound], server: Server, nursery: trio.Nursery
    ) -> None:
        async for number in signals:
            if number == signal.SIGUSR2:
                order = Order.TASKS
            elif number == signal.SIGHUP and not self._terminal.is_gone:
                if self._inherited is not None:
                    continue
                order = Order.RELOAD
            elif self._draining and self._inherited is None:
                order = Order.STOP
            else:
                order = Order.DRAIN
            if order is Order.DRAIN and self._inherited is not None:
                # It may be this worker alone that ends: new clients are for the others, not to be told 421.
                _close(bound)
            self._obey(order, signal.Signals(number).name, server, nursery)

    async def _heed_parent(
        self, inherited: Inherited, bound: Sequence[Bound], server: Server, nursery: trio.Nursery
    ) -> None:
        """Obey the parent; when it is gone, leave its sockets to the next one at once, and drain."""
        line = trio.socket.from_stdlib_socket(inherited.line)
        heard = b""
        while piece := await _receive(line):
            *orders, heard = (heard + piece).split(b"\n")
            for order in orders:
                self._obey(Order(order), "parent", server, nursery)
        _close(bound)
        self._web_stop.set()
        self._obey(Order.DRAIN, "parent gone", server, nursery)

    def _obey(self, order: Order, cause: str, server: Server, nursery: trio.Nursery) -> None:
        if order is Order.TASKS:
            self._log.info("server.tasks", tree=task_tree())
        elif order is Order.RELOAD:
            self._ordered_reloads += 1
            with contextlib.suppress(trio.WouldBlock):
                self._to_reload.send_nowait(cause)
        elif order is Order.STOP:
            self._log.warning("server.stopping", signal=cause)
            self._starter.tell_stopping(0.0)
            self._end_within(0.0)
            server.stop()
        elif not self._draining:
            self._draining = True
            self._log.info("server.draining", signal=cause)
            seconds = self._source.config.timeouts.shutdown_timeout
            self._starter.tell_stopping(seconds)
            self._reloading.cancel()
            self._end_within(seconds)
            nursery.start_soon(self._drain, server)

    async def _reload_when_told(self, server: Server, reloader: Reloader) -> None:
        """Reload as often as it is asked for, one after the other, from when the server is ready until it drains."""
        with self._reloading:
            await self._ready.wait()
            async for cause in self._reloads:
                self._log.info("server.reloading", signal=cause)
                self._starter.tell_reloading()
                ordered = self._ordered_reloads
                if self._tls is not None:
                    await self._tls.reload(cause)
                failure = await reloader.reload(server)
                if not self._draining:
                    self._starter.tell_reloaded()
                self._report(Report(failure, reloads=ordered))

    def _end_within(self, seconds: float) -> None:
        """Plugins are anybody's code: where there are any, the end does not depend on them."""
        if self._reloader is not None and self._reloader.has_plugins:
            end_within(seconds + MARGIN_SECONDS, self._log)

    async def _drain(self, server: Server) -> None:
        in_order = await server.drain(self._source.config.timeouts.shutdown_timeout)
        self._log.info("server.drained", in_order=in_order)

    # ---- the web side ------------------------------------------------------------------------

    async def _start_web(self, server: Server, stores: Stores, nursery: trio.Nursery) -> None:
        """Open the control socket and the web side, then tell whoever waits."""
        # Late: Hypercorn and Starlette take as long to import as everything else.
        from elemta.web.app import control_app, public_app, sibling_app
        from elemta.web.serve import serve

        config, inherited = self._config, self._inherited
        control = self._control(server, stores)
        shared = None if inherited is None else inherited.shared

        async def start(app: ASGIApp, at: str | WebBound, key: str = "queue_dir") -> Endpoint:
            try:
                serving = partial(serve, app, bind=at, shutdown=self._web_stop, log=self._log)
                found: Endpoint = await nursery.start(serving)
            except OSError as error:
                error.filename = str(at).removeprefix("unix:")
                raise cannot_listen(error, key=key) from error
            return found

        await start(control_app(control), f"unix:{self._control_path}" if shared is None else shared.control.lent())
        if inherited is not None:
            path = socket_path(self._control_path.parent, inherited.number)
            await start(sibling_app(control), f"unix:{path}")
        web: Endpoint | None = None
        if config.web.enabled:
            app = public_app(control, hosts=[config.hostname])
            at = config.web.listen_addr if shared is None else shared.lent_web()
            web = await start(app, at, "web.listen_addr")
        settle()
        self._say_ready(server, web)

    def _control(self, server: Server, stores: Stores) -> Control:
        config, inherited = self._config, self._inherited
        siblings, processes = None, 1
        if inherited is not None:
            processes = inherited.processes
            siblings = SocketSiblings(self._control_path.parent, number=inherited.number, processes=processes)
        started_at = self._runtime.clock.wall()
        return Control(
            queue=server.parts.queue,
            store=stores.queue,
            shared=stores.shared,
            inbox=stores.inbox,
            health=ServerHealth(server, config.queue_dir, self._login),
            metrics=self._metrics,
            log=self._log,
            identity=Identity(config.hostname, started_at, dev_mode=config.dev_mode, processes=processes),
            clock=self._runtime.clock,
            siblings=siblings,
        )

    def _say_ready(self, server: Server, web: Endpoint | None) -> None:
        self._ready.set()
        if self._inherited is None:
            say_ready(self._config, self._log, endpoints=server.endpoints, web=web, starter=self._starter)
        else:
            self._log.info("worker.ready")
            self._report(Report())

    def _report(self, report: Report) -> None:
        if self._inherited is not None:
            with contextlib.suppress(OSError):
                self._inherited.line.send(report.line())


def say_ready(
    config: Config,
    log: FilteringBoundLogger,
    *,
    endpoints: Sequence[tuple[str, Endpoint]],
    web: Endpoint | None,
    starter: Starter,
) -> None:
    """Tell the log, whoever started the server, and a developer where it listens."""
    listeners = [str(end) for _, end in endpoints]
    log.info("server.ready", listeners=listeners, web=None if web is None else str(web), hostname=config.hostname)
    control = str(Path(config.queue_dir, CONTROL_NAME).absolute())
    starter.tell_ready(endpoints, web, control)
    if config.dev_mode:
        sys.stderr.write(dev_banner(endpoints[0][1], web, control))
        sys.stderr.flush()


class Terminal:
    """The terminal that a server was started at, if it was: when it goes, the system says so by SIGHUP too."""

    def __init__(self) -> None:
        self._was_there = sys.stderr.isatty()

    @property
    def is_gone(self) -> bool:
        """Whether there was one, and it hung up."""
        return self._was_there and not sys.stderr.isatty()


def _close(bound: Sequence[Bound]) -> None:
    for one in bound:
        for listener in one.listeners:
            listener.close()


async def _receive(line: trio.socket.SocketType) -> bytes:
    """What the parent says next, empty when it is gone."""
    try:
        return await line.recv(LINE_OCTETS)
    except ConnectionError:
        return b""


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
