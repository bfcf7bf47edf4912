"""The inbound service: listeners, a task a connection, admission, drain.

What is not here: what a session says (`inbound.session`), or who starts and stops the service (`supervisor`).
Two nurseries: one for accepting, one for the sessions. A drain leaves the accepting one alone, so that new clients
hear 421 instead of silence, and gives the sessions a deadline. Exceptions of a session end here, once, logged.
"""

import errno
from collections.abc import Sequence
from contextlib import suppress
from math import inf

import trio
from attrs import evolve, frozen

from elemta.config.sections import BareNewlines
from elemta.config.tls import TlsMode
from elemta.inbound.admission import Admission
from elemta.inbound.encryption import NOT_NOW, may_begin
from elemta.inbound.options import ListenerOptions
from elemta.inbound.plugged import Plugins
from elemta.inbound.proxied import ProxyDoor
from elemta.inbound.session import SHUTTING_DOWN, Session
from elemta.inbound.transaction import Services
from elemta.mail.reply import Reply
from elemta.net.base import Endpoint, Listener, Stream
from elemta.runtime.watch import DeadlineWatch
from elemta.smtp.options import ServerOptions

#: Seconds to wait after an accept that failed for want of descriptors or memory; what Trio's own servers wait.
ACCEPT_PAUSE_SECONDS = 0.1
#: Seconds between two log lines about failing accepts.
ACCEPT_LOG_SECONDS = 10.0
#: Seconds that telling a refused client why may take.
REFUSAL_SECONDS = 2.0
#: Refusals being told at once; beyond, a connection is closed without a word.
MAX_REFUSALS = 100
#: Clients that a listener refuses between two rests, and seconds of a rest. Each one refused at once comes again at
#: once; so it is 800 a second at most, and the others wait in the kernel. In bursts, since a burst delays whoever is
#: served meanwhile once, however many are in it: docs/reliability.md has what remains of a flood of handshakes.
REFUSALS_BETWEEN_RESTS = 8
REFUSAL_REST_SECONDS = 0.010
#: Seconds that sessions which are cut have for their last reply.
CUT_SECONDS = 0.9

#: Seconds between two looks at the deadlines of all sessions: so late a session may be ended, of minutes it was given.
DEADLINE_REST_SECONDS = 0.25

#: Accept errors that say that the system has run out of something; every other one is about one connection.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


@frozen
class Bound:
    """Listeners that are bound already, with what holds for them."""

    options: ListenerOptions
    listeners: Sequence[Listener]


class InboundService:
    """Serves SMTP on its listeners until told to stop."""

    def __init__(self, services: Services, bound: Sequence[Bound]) -> None:
        self._services = services
        self._bound = bound
        self._admission = Admission(services.options.limits)
        self._proxies = ProxyDoor(services.log, services.metrics)
        self._sessions: set[Session] = set()
        self._accepting = trio.CancelScope()
        self._serving: trio.Nursery | None = None
        self._draining = False
        self._refusing = 0
        self._leaving = trio.lowlevel.ParkingLot()
        #: What a listener offers, by the identity of its options.
        self._offers: dict[int, ServerOptions] = {}
        self._deadlines = DeadlineWatch(self._end_overdue, rest_seconds=DEADLINE_REST_SECONDS)
        self._next_accept_log = 0.0

    @property
    def endpoints(self) -> list[tuple[str, Endpoint]]:
        """The name and the bound address of every listener."""
        return [(one.options.name, listener.local) for one in self._bound for listener in one.listeners]

    @property
    def open_connections(self) -> int:
        """Sessions that are open now."""
        return self._admission.open

    def adopt(self, services: Services) -> None:
        """Serve the next clients with these. Whoever is there keeps what it began with."""
        self._services = services
        self._admission.limits = services.options.limits
        self._offers.clear()

    def uses(self, plugins: Plugins) -> bool:
        """Whether a session is open whose mail these plugins are asked about."""
        return any(session.services.plugins is plugins for session in self._sessions)

    @property
    def accepting(self) -> bool:
        """Whether new clients are served."""
        return self._serving is not None and not self._draining

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve until `drain` ends it; ready once every listener accepts."""
        try:
            async with trio.open_nursery() as sessions:
                self._serving = sessions
                sessions.start_soon(self._deadlines.run)
                await self._accept_all(sessions, task_status)
        finally:
            for one in self._bound:
                for listener in one.listeners:
                    listener.close()

    async def _accept_all(self, sessions: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        with self._accepting:
            async with trio.open_nursery() as accepting:
                for one in self._bound:
                    self._start(one, accepting, sessions)
                task_status.started()

    def _start(self, one: Bound, accepting: trio.Nursery, sessions: trio.Nursery) -> None:
        for listener in one.listeners:
            accepting.start_soon(self._accept, listener, one.options, sessions)

    def _offer(self, listener: ListenerOptions) -> ServerOptions:
        """What a session at this listener offers."""
        known = self._offers.get(id(listener))
        if known is None:
            known = self._offers[id(listener)] = self._make_offer(listener)
        tls = self._services.tls
        if known.starttls and (tls is None or not tls.ready):
            return evolve(known, starttls=False)  # the first certificate is being ordered
        return known

    def _make_offer(self, listener: ListenerOptions) -> ServerOptions:
        options = self._services.options
        limits = options.limits
        return ServerOptions(
            hostname=options.hostname,
            max_size=options.max_size,
            max_recipients=limits.max_recipients,
            max_errors=limits.max_errors,
            max_idle_commands=limits.max_idle_commands,
            max_transactions=limits.max_transactions,
            dev_mode=options.dev_mode,
            bare_newlines_normalize=listener.bare_newlines is BareNewlines.NORMALIZE,
            starttls=listener.tls is TlsMode.STARTTLS and self._services.tls is not None,
            require_tls_offered=True,
            auth_required=listener.auth_required,
        )

    async def drain(self, seconds: float) -> bool:
        """Refuse new clients with 421, let running transactions finish for at most `seconds`, then cut the rest.

        Every session that is cut hears 421 first. Returns True when none had to be cut. `run` returns afterwards.
        """
        self._draining = True
        for session in tuple(self._sessions):
            session.drain()
        finished = await self._wait_until_empty(seconds)
        for session in tuple(self._sessions):
            session.cut()
        await self._wait_until_empty(CUT_SECONDS)
        self._accepting.cancel()
        if self._serving is not None:
            self._serving.cancel_scope.cancel()
        return finished

    async def _wait_until_empty(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while self._sessions:
                await self._leaving.park()
        return not self._sessions

    async def _accept(self, listener: Listener, options: ListenerOptions, sessions: trio.Nursery) -> None:
        refused = 0
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._log_exhausted(options, error)
                    await trio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            except trio.ClosedResourceError:
                return
            if self._begin(stream, options, sessions):
                continue
            # A flood that is refused at once comes again at once: it would leave nobody else a turn, and then not much
            # of the processor. The rest of it waits in the kernel.
            refused += 1
            if refused % REFUSALS_BETWEEN_RESTS:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(REFUSAL_REST_SECONDS)

    def _begin(self, stream: Stream, options: ListenerOptions, sessions: trio.Nursery) -> bool:
        """Start to serve a client, or refuse it: then False."""
        if options.proxies:
            if not self._proxies.admit(stream, options):
                return False
            sessions.start_soon(self._serve_proxied, stream, options, sessions)
            return True
        reply = self._judge(stream.peer.host, options)
        if reply is None:
            sessions.start_soon(self._serve, stream, options)
            return True
        self._refuse(stream, reply, options, sessions)
        return False

    async def _serve_proxied(self, stream: Stream, options: ListenerOptions, sessions: trio.Nursery) -> None:
        """Serve the client behind a proxy. Whatever counts addresses counts the client's, so the header comes first."""
        proxied = await self._proxies.receive(stream, options)
        if proxied is None:
            return
        reply = self._judge(proxied.peer.host, options)
        if reply is None:
            await self._serve(proxied, options)
        else:
            self._refuse(proxied, reply, options, sessions)

    def _judge(self, host: str, options: ListenerOptions) -> Reply | None:
        """Why a client is not served now; None for one that is, and counts."""
        if self._draining:
            return SHUTTING_DOWN
        refusal = self._admission.admit(host)
        if refusal is None and options.tls is TlsMode.IMPLICIT and not may_begin(self._services.tls, host):
            # Before there is a session, or its line in the log: whoever refuses a flood must not pay for it.
            self._admission.leave(host)
            return NOT_NOW
        return refusal

    def _end_overdue(self, now: float) -> float:
        """End sessions whose time is up; see `DeadlineWatch`."""
        earliest = inf
        for session in self._sessions:
            if session.due <= now:
                session.expire()
            elif session.due < earliest:
                earliest = session.due
        return earliest

    def _log_exhausted(self, options: ListenerOptions, error: OSError) -> None:
        now = trio.current_time()
        if now >= self._next_accept_log:
            self._next_accept_log = now + ACCEPT_LOG_SECONDS
            self._services.log.error(
                "connections.refused_by_system",
                listener=options.address,
                error=str(error),
                remedy="raise the limit of open files (ulimit -n, LimitNOFILE=) or lower limits.max_connections",
            )

    def _refuse(self, stream: Stream, reply: Reply, options: ListenerOptions, sessions: trio.Nursery) -> None:
        self._services.metrics.connection_errors.labels(cause="refused").inc()
        # Where a handshake would have to come before it, a reply would be no more than noise.
        if options.tls is TlsMode.IMPLICIT or self._refusing >= MAX_REFUSALS:
            stream.abort()
            return
        self._refusing += 1
        sessions.start_soon(self._tell, stream, reply)

    async def _tell(self, stream: Stream, reply: Reply) -> None:
        try:
            with trio.move_on_after(REFUSAL_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_all(reply.render())
                await stream.aclose()
                return
            stream.abort()
        finally:
            self._refusing -= 1

    async def _serve(self, stream: Stream, listener: ListenerOptions) -> None:
        services = self._services
        offer = self._offer(listener)
        session = Session(stream, services, listener, smtp_options=offer, deadlines=self._deadlines)
        self._sessions.add(session)
        services.metrics.connections.inc()
        services.metrics.connections_active.inc()
        try:
            await session.run()
        except Exception:
            # The one place where a defect of ours in a session ends: the client hears 421, nobody else notices.
            services.log.exception("session.failed", client=session.client)
            services.metrics.connection_errors.labels(cause="defect").inc()
        finally:
            self._sessions.discard(session)
            self._leaving.unpark_all()
            self._admission.leave(stream.peer.host)
            services.metrics.connections_active.dec()
            self._log_session(session)

    def _log_session(self, session: Session) -> None:
        duration = trio.current_time() - session.started
        self._services.metrics.connection_duration.observe(duration)
        more = {} if session.refused is None else {"refusals": session.refusals, "last": str(session.refused)}
        if session.tls is not None:
            more["tls"] = session.tls.version
        if session.plugged is not None and (late := session.plugged.ledger.slow):
            more["slow_plugins"] = late
        self._services.log.info(
            "session.ended",
            client=session.client,
            helo=session.helo,
            mails=session.mails,
            cause=session.cause,
            seconds=round(duration, 3),
            **more,
            **session.login_facts(),
        )
