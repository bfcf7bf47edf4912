"""One SMTP session: moves bytes, asks for decisions, keeps the deadline.

What is not here: parsing (`smtp.server`), the transaction (`inbound.transaction`), admission (`inbound.service`).
One cancel scope a session (a scope an operation costs half the throughput), and a deadline that is a plain number: one
task of the service looks after all of them.
"""

import enum
from contextlib import suppress
from math import inf

import trio

from elemta.config.tls import TlsMode
from elemta.inbound import encryption, policy, recipients
from elemta.inbound.debug import DebugContext, facts_of
from elemta.inbound.login import Login
from elemta.inbound.options import ListenerOptions
from elemta.inbound.plugged import PluggedSession
from elemta.inbound.transaction import Services, Transaction
from elemta.mail.reply import Reply
from elemta.mail.trace import protocol_name
from elemta.net.base import RECEIVE_OCTETS, Stream
from elemta.plugins.api import Stage
from elemta.runtime.watch import DeadlineWatch
from elemta.smtp.events import (
    NEED_DATA,
    AuthResponse,
    AuthStart,
    Closing,
    Content,
    ContentEnd,
    ContentRefused,
    DataStart,
    Debug,
    Event,
    Hello,
    MailFrom,
    RcptTo,
    Refused,
    StartTls,
)
from elemta.smtp.options import ServerOptions
from elemta.smtp.server import ServerConnection
from elemta.storage.records import Origin
from elemta.tls.stream import HandshakeFailed, TlsFacts

#: Seconds that a last reply may take before the connection is cut.
FAREWELL_SECONDS = 5.0
#: Seconds before a slow client's average rate counts: the first round trips may be slow on their own.
RATE_GRACE_SECONDS = 30.0
#: Octets received at once of a mail that is large already: measured, 7 % more mails of 1 MiB than with half of it, and
#: as many as with twice as much. A buffer of this size for every command would cost more than the command.
LARGE_RECEIVE_OCTETS = 2 * RECEIVE_OCTETS
#: Seconds beyond the store's own deadline, or the plugins', before the session gives up waiting for them.
MARGIN_SECONDS = 10.0

SHUTTING_DOWN = Reply(421, "4.3.2", "the server is shutting down, try again later")
TIMED_OUT = Reply(421, "4.4.2", "timed out waiting for you")
OUR_FAULT = Reply(421, "4.3.0", "the server failed, try again later")
HELLO_OK = Reply(250)
GO_AHEAD = Reply(354, "", "end with a dot on a line of its own")
CHUNK_OK = Reply(250, "2.0.0", "go on")
NOT_OFFERED = Reply(502, "5.5.1", "not offered here")


class _Waiting(enum.Enum):
    """What the session waits for: decides which deadline holds, and whether a drain may end it at once."""

    COMMAND = "command"
    CONTENT = "content"
    ANSWER = "answer"


# Under Python 3.11 a member looked up through its class costs 100 ns, through its module 15.
_COMMAND, _CONTENT, _ANSWER = _Waiting.COMMAND, _Waiting.CONTENT, _Waiting.ANSWER


class Session:
    """Drives one connection until it ends."""

    __slots__ = (
        "_content_octets",
        "_content_started",
        "_deadlines",
        "_debug",
        "_draining",
        "_ends_at",
        "_listener",
        "_login",
        "_origin",
        "_scope",
        "_sending",
        "_smtp",
        "_transaction",
        "_trusted",
        "_waiting",
        "cause",
        "client",
        "due",
        "helo",
        "mails",
        "plugged",
        "refusals",
        "refused",
        "services",
        "started",
        "stream",
        "tls",
    )

    def __init__(
        self,
        stream: Stream,
        services: Services,
        listener: ListenerOptions,
        *,
        smtp_options: ServerOptions,
        deadlines: DeadlineWatch,
    ) -> None:
        """`deadlines` watches `due`, and calls `expire` when it has come."""
        options = services.options
        self.stream = stream
        self.services = services
        self._listener = listener
        self._smtp = ServerConnection(smtp_options)
        plugins = services.plugins
        self.plugged = None if plugins is None else PluggedSession(plugins, services.runtime.ids.new_id(), self)
        login = services.login if listener.auth else None
        self._login = None if login is None else Login(login, self._smtp, self.plugged)
        self._trusted = options.dev_mode or (listener.relay and options.may_relay(stream.peer.host))
        self._transaction: Transaction | None = None
        self._debug: DebugContext | None = None
        self._scope = trio.CancelScope()
        self._waiting = _ANSWER
        self._draining = self._sending = False
        self.started = trio.current_time()
        self._ends_at = self.started + options.timeouts.session_timeout
        self._deadlines = deadlines
        #: When the client's patience with us, or ours with the client, ends: on Trio's clock.
        self.due = inf
        #: The client's address and port.
        self.client = str(stream.peer)
        self._origin: Origin | None = None
        self._content_started = 0.0
        self._content_octets = 0
        self.helo = ""
        self.mails = self.refusals = 0
        #: The last reply that refused something, for the one log line of the session.
        self.refused: Reply | None = None
        self.cause = ""
        #: What is known of the encryption; None in the clear.
        self.tls: TlsFacts | None = None

    async def run(self) -> None:
        """Drive the session to its end. Nothing of the connection's own is raised; a defect of ours passes."""
        in_order = False
        try:
            with self._scope:
                await self._converse()
                self.due = trio.current_time() + FAREWELL_SECONDS
                self._deadlines.note(self.due)
                await self.stream.aclose()
                in_order = self._transaction is None
            if self._scope.cancelled_caught and not self.cause:  # else the last word was said
                self.cause = "shutdown" if self._draining else "timeout"
                await self._say_last(SHUTTING_DOWN if self._draining else TIMED_OUT)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.cause = "connection lost"
        except HandshakeFailed as error:  # it is closed already; going on in the clear would be what an attacker wants
            self.cause = f"no TLS: {error}"
        except Exception:
            self.cause = "defect"
            raise
        finally:
            if not in_order:  # nearly every session ends in order, and a scope costs 10 µs
                with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                    await self._break_off()
            self.stream.abort()
            if self.plugged is not None:
                await self.plugged.end()  # noqa: ASYNC102  # what waits in it has a shield, and seconds

    async def _break_off(self) -> None:
        if self.cause == "defect":
            await self._say_last(OUR_FAULT)
        await self._end_transaction()
        await self.stream.aclose()

    def drain(self) -> None:
        """Shut down soon: at once when between mails, after the running transaction otherwise."""
        self._draining = True
        if self._waiting is _COMMAND and not self._smtp.in_transaction:
            self._scope.cancel()

    def expire(self) -> None:
        """`due` has come."""
        self.due = inf
        self._scope.cancel()

    def cut(self) -> None:
        """Shut down now, whatever is going on."""
        self._draining = True
        self._scope.cancel()

    async def _say_last(self, reply: Reply) -> None:
        """Say why it ends, unless a send was cut in the middle: nobody knows how much of that went."""
        if self._sending:
            return
        self._smtp.close_with(reply, self.cause)
        with (
            trio.move_on_after(FAREWELL_SECONDS, shield=True),
            suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await self.stream.send_all(self._smtp.data_to_send())

    async def _converse(self) -> None:
        smtp = self._smtp
        if self._listener.tls is TlsMode.IMPLICIT:  # the service has asked whether it may begin
            await self._shake_hands()
        refusal = await self._refusal(Stage.CONNECT)
        smtp.greet(refusal or Reply(220, "", f"{self.services.options.hostname} ESMTP Elemta"))
        while True:
            event = smtp.next_event()
            if event is NEED_DATA:
                await self._exchange()
            elif type(event) is Closing:
                self.cause = self.cause or event.cause
                await self._send()
                return
            else:
                await self._handle(event)

    async def _send(self) -> None:
        pending = self._smtp.data_to_send()
        if pending:
            self._sending = True
            await self.stream.send_all(pending)
            self._sending = False

    async def _exchange(self) -> None:
        """Send what is pending, then wait for bytes under the deadline that fits."""
        if self._draining and not self._smtp.in_transaction:
            self._smtp.close_with(SHUTTING_DOWN, "shutdown")
            return
        self._give_time()
        if self._waiting is not _CONTENT:
            self._waiting = _COMMAND
        await self._send()
        large = self._waiting is _CONTENT and self._content_octets > RECEIVE_OCTETS
        data = bytes(await self.stream.receive_some(LARGE_RECEIVE_OCTETS if large else RECEIVE_OCTETS))
        if self._waiting is not _CONTENT:
            self._waiting = _ANSWER
        self._smtp.receive_data(data)

    def _give_time(self) -> None:
        """Move the deadline to what the client may take for what comes next, RFC 5321 §4.5.3.2."""
        options = self.services.options
        now = trio.current_time()
        if self._waiting is not _CONTENT:
            due = min(now + options.timeouts.command_timeout, self._ends_at)
        else:
            due = now + options.timeouts.data_timeout
            rate = options.limits.min_data_rate
            if rate:  # otherwise the operator asks for no least rate
                due = min(due, self._content_started + RATE_GRACE_SECONDS + self._content_octets / rate)
        self.due = due
        self._deadlines.note(due)

    async def _handle(self, event: Event) -> None:
        kind = type(event)
        if kind is Content:
            await self._content(event.data)  # type: ignore[union-attr]  # narrowed by kind, isinstance costs more
        elif kind is RcptTo:
            self._smtp.reply(await self._recipient(event))  # type: ignore[arg-type]  # as above
        elif kind is ContentEnd:
            await self._content_end(event)  # type: ignore[arg-type]  # as above
        else:
            await self._handle_rest(event)

    async def _handle_rest(self, event: Event) -> None:
        smtp = self._smtp
        match event:
            case MailFrom():
                await self._sender(event)
            case DataStart(chunked):
                self._begin_content()
                smtp.reply(CHUNK_OK if chunked else GO_AHEAD)
            case Hello(domain):
                self.helo = domain
                await self._end_transaction()
                if self._login is not None:
                    self._login.offer(self.stream, self.tls)
                smtp.reply(await self._refusal(Stage.HELO) or HELLO_OK)
            case ContentRefused(reply):
                self._finish(reply)
                await self._end_transaction()
            case Refused(_, reply):
                self._count_refusal(reply)
            case Debug(arguments):
                if self._debug is None:
                    self._debug = DebugContext(self.services.runtime.clock)
                smtp.reply(self._debug.answer(arguments, facts_of(self, smtp.state, self._transaction)))
            case StartTls():
                await self._start_tls()
            case AuthStart() | AuthResponse():
                await self._log_in(event)
            case _:
                await self._end_transaction()

    async def _refusal(self, stage: Stage) -> Reply | None:
        """Why plugins let the client not go on; None when they do."""
        if self.plugged is None:
            return None
        self._wait_for_plugins(stage)
        refusal = await self.plugged.refusal(stage)
        if refusal is not None:
            self._count_refusal(refusal)
        return refusal

    async def _start_tls(self) -> None:
        await self._end_transaction()
        reply = encryption.answer(self.services.tls, self.stream.peer.host)
        self._smtp.reply(reply)
        if reply is not encryption.GO_AHEAD:
            self._count_refusal(reply)
        else:
            await self._send()
            await self._shake_hands()

    async def _shake_hands(self) -> None:
        """Go on over TLS, with nothing that was said before, RFC 3207 §4.2. Raises `HandshakeFailed`."""
        tls = self.services.tls
        assert tls is not None
        self.due = inf  # the handshake has a deadline of its own
        self.stream = stream = await tls.upgrade(self.stream)
        self.tls = stream.facts
        self.helo = ""
        self._smtp.tls_started()
        self._trusted = self._trusted or encryption.may_relay(self.services.options, self._listener, stream.facts)

    async def _log_in(self, event: AuthStart | AuthResponse) -> None:
        login = self._login
        if login is None:
            self._smtp.reply(NOT_OFFERED)
            return
        self._wait_at_most(login.wait_seconds)
        refusal = await login.answer(event)
        if refusal is not None:
            self._count_refusal(refusal)

    async def _sender(self, event: MailFrom) -> None:
        refusal = None if self._login is None else self._login.refusal_of(event.reverse_path)
        if refusal is None:
            transaction = self._begin_transaction(event)
            if transaction.plugged is not None:
                self._wait_for_plugins(Stage.MAIL_FROM)
                refusal = await transaction.plugged.refusal(Stage.MAIL_FROM)
        if refusal is None:
            self._smtp.reply(policy.SENDER_OK)
        else:
            await self._end_transaction()
            self._count_refusal(refusal)
            self._smtp.reply(refusal)

    @property
    def user(self) -> str:
        """Who logged in; empty for nobody."""
        return self._smtp.authenticated_user or ""

    @property
    def may_relay(self) -> bool:
        """Whether the client may send to every domain."""
        return self._trusted or self._smtp.authenticated_user is not None

    @property
    def listener(self) -> str:
        """The listener's name."""
        return self._listener.name or self._listener.address

    def _begin_transaction(self, event: MailFrom) -> Transaction:
        smtp = self._smtp
        user = self.user
        protocol = protocol_name(
            extended=smtp.extended, tls=self.tls is not None, authenticated=bool(user), utf8=event.smtputf8
        )
        origin = self._origin
        if origin is None or (origin.protocol, origin.helo, origin.user) != (protocol, self.helo, user):
            origin = self._origin = Origin(self.client, self.helo, self._listener.name, user, protocol)
        host = self.stream.peer.host
        transaction = self._transaction = Transaction(self.services, event, origin, host, tls=self.tls)
        if self.plugged is not None:
            transaction.plugged = self.plugged.mail(transaction.id, event, budget=self.services.budget)
        return transaction

    async def _recipient(self, event: RcptTo) -> Reply:
        transaction = self._transaction
        assert transaction is not None
        self._wait_for_plugins(Stage.RCPT_TO)
        reply = await recipients.answer(self.services, transaction, event.recipient, may_relay=self.may_relay)
        if reply.code != 250:
            self._count_refusal(reply)
        return reply

    def _begin_content(self) -> None:
        assert self._transaction is not None
        self._waiting = _CONTENT
        self._content_started = trio.current_time()
        self._content_octets = 0
        self._transaction.begin_content()

    async def _content(self, data: bytes) -> None:
        self._content_octets += len(data)
        transaction = self._transaction
        if transaction is not None and not transaction.content.add_in_memory(data):
            self._wait_for_store()
            await transaction.add(data)

    def _wait_for_store(self, *stages: Stage) -> None:
        """Keep the client's deadline from ending a wait that is the store's, or the plugins' at these stages: they have
        deadlines of their own. What plugins change the store has to take once more."""
        seconds = self.services.options.timeouts.commit_timeout + MARGIN_SECONDS
        if stages and self.plugged is not None:
            seconds += seconds + self.plugged.seconds(*stages)
        self._wait_at_most(seconds)

    def _wait_for_plugins(self, stage: Stage) -> None:
        """As `_wait_for_store`; where no hook of the stage waits, nobody does."""
        if self.plugged is not None and (seconds := self.plugged.seconds(stage)):
            self._wait_at_most(seconds + MARGIN_SECONDS)

    def _wait_at_most(self, seconds: float) -> None:
        self.due = max(self.due, trio.current_time() + seconds)

    async def _content_end(self, event: ContentEnd) -> None:
        transaction = self._transaction
        assert transaction is not None
        self._waiting = _ANSWER
        self._wait_for_store(Stage.DATA_HEADERS, Stage.DATA_COMPLETE)
        reply = await transaction.submit(event, self._listener, trusted=self.may_relay)
        self._finish(reply)
        if reply.code == 250:
            self._transaction = None
        else:
            await self._end_transaction()
        self._smtp.reply(reply)
        if transaction.plugged is not None and reply.code == 250:
            self._wait_for_plugins(Stage.QUEUED)
            await transaction.plugged.queued(self._send)

    def _finish(self, reply: Reply) -> None:
        """Note how a mail ended: a line for each one taken; refused ones are counted, or an attack fills the log."""
        transaction = self._transaction
        if transaction is None:
            return
        if reply.code != 250:
            self._count_refusal(reply)
            return
        self.mails += 1
        self.services.log.info("mail.accepted", **transaction.facts)

    def login_facts(self) -> dict[str, str | int]:
        """What the log says of who logged in, or tried to."""
        facts: dict[str, str | int] = {}
        if self._smtp.authenticated_user is not None:
            facts["user"] = self._smtp.authenticated_user
        if self._login is not None and self._login.failures:
            facts |= {"failed_logins": self._login.failures, "claimed": self._login.claimed}
        return facts

    def _count_refusal(self, reply: Reply) -> None:
        self.refusals += 1
        self.refused = reply
        if self.plugged is not None and reply.is_permanent:
            self.plugged.ledger.refusals += 1
        self.services.metrics.messages_refused.labels(code=str(reply.code)).inc()

    async def _end_transaction(self) -> None:
        self._waiting = _ANSWER
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.abandon()
