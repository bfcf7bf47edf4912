"""One SMTP session: moves bytes, asks for decisions, keeps the deadline.

What is not here: parsing (`smtp.server`), the transaction (`inbound.transaction`), admission (`inbound.service`).
One cancel scope a session, its deadline moved: a scope an operation costs half the throughput.
"""

import enum
from contextlib import suppress

import trio
from attrs import evolve

from elemta.inbound import policy
from elemta.inbound.debug import DebugContext
from elemta.inbound.options import ListenerOptions
from elemta.inbound.transaction import Services, Transaction
from elemta.mail.address import Address
from elemta.mail.reply import Reply
from elemta.mail.trace import protocol_name
from elemta.net.base import Stream
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

#: Seconds that a last reply may take before the connection is cut.
FAREWELL_SECONDS = 5.0
#: Seconds before a slow client's average rate counts: the first round trips may be slow on their own.
RATE_GRACE_SECONDS = 30.0
#: Seconds by which a client's deadline may come early: far less than any deadline that RFC 5321 §4.5.3.2 knows.
DEADLINE_SLACK_SECONDS = 0.5
#: Seconds beyond the store's own deadline before the session gives up waiting for it.
COMMIT_MARGIN_SECONDS = 10.0

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


class Session:
    """Drives one connection until it ends."""

    __slots__ = (
        "_content_octets",
        "_content_started",
        "_debug",
        "_draining",
        "_ends_at",
        "_listener",
        "_scope",
        "_sending",
        "_services",
        "_smtp",
        "_transaction",
        "_trusted",
        "_waiting",
        "cause",
        "helo",
        "mails",
        "refusals",
        "refused",
        "started",
        "stream",
    )

    def __init__(
        self, stream: Stream, services: Services, listener: ListenerOptions, *, smtp_options: ServerOptions
    ) -> None:
        options = services.options
        self.stream = stream
        self._services = services
        self._listener = listener
        self._smtp = ServerConnection(smtp_options)
        self._trusted = options.dev_mode or (listener.relay and options.may_relay(stream.peer.host))
        self._transaction: Transaction | None = None
        self._debug: DebugContext | None = None
        self._scope = trio.CancelScope()
        self._waiting = _Waiting.ANSWER
        self._draining = False
        self._sending = False
        self.started = trio.current_time()
        self._ends_at = self.started + options.timeouts.session_timeout
        self._content_started = 0.0
        self._content_octets = 0
        self.helo = ""
        self.mails = 0
        self.refusals = 0
        #: The last reply that refused something, for the one log line of the session.
        self.refused: Reply | None = None
        self.cause = ""

    async def run(self) -> None:
        """Drive the session to its end. Nothing of the connection's own is raised; a defect of ours passes."""
        try:
            with self._scope:
                await self._converse()
            if self._scope.cancelled_caught:
                self.cause = "shutdown" if self._draining else "timeout"
                await self._say_last(SHUTTING_DOWN if self._draining else TIMED_OUT)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.cause = "connection lost"
        except Exception:
            self.cause = "defect"
            raise
        finally:
            with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                if self.cause == "defect":
                    await self._say_last(OUR_FAULT)
                await self._end_transaction()
                await self.stream.aclose()
            self.stream.abort()

    def drain(self) -> None:
        """Shut down soon: at once when between mails, after the running transaction otherwise."""
        self._draining = True
        if self._waiting is _Waiting.COMMAND and not self._smtp.in_transaction:
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
        smtp.greet(Reply(220, "", f"{self._services.options.hostname} ESMTP Elemta"))
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
        self._move_deadline()
        if self._waiting is not _Waiting.CONTENT:
            self._waiting = _Waiting.COMMAND
        await self._send()
        data = bytes(await self.stream.receive_some())
        if self._waiting is not _Waiting.CONTENT:
            self._waiting = _Waiting.ANSWER
        self._smtp.receive_data(data)

    def _move_deadline(self) -> None:
        """Give the client its time. A deadline that is nearly right stays: moving it costs more than a command."""
        due = self._deadline(trio.current_time())
        if not 0 <= due - self._scope.deadline <= DEADLINE_SLACK_SECONDS:
            self._scope.deadline = due

    def _deadline(self, now: float) -> float:
        timeouts = self._services.options.timeouts
        if self._waiting is not _Waiting.CONTENT:
            return min(now + timeouts.command_timeout, self._ends_at)
        rate = self._services.options.limits.min_data_rate
        if not rate:  # the operator asks for no least rate
            return now + timeouts.data_timeout
        average = self._content_started + RATE_GRACE_SECONDS + self._content_octets / rate
        return min(now + timeouts.data_timeout, average)

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
                self._begin_transaction(event)
                smtp.reply(policy.SENDER_OK)
            case DataStart(chunked):
                self._begin_content()
                smtp.reply(CHUNK_OK if chunked else GO_AHEAD)
            case Hello(domain):
                self.helo = domain
                await self._end_transaction()
                smtp.reply(HELLO_OK)
            case ContentRefused(reply):
                self._finish(reply)
                await self._end_transaction()
            case Refused(_, reply):
                self._count_refusal(reply)
            case Debug(arguments):
                if self._debug is None:
                    self._debug = DebugContext(self._services.runtime.clock)
                smtp.reply(self._debug.answer(arguments, self._facts()))
            case StartTls() | AuthStart() | AuthResponse():
                smtp.reply(NOT_OFFERED)
            case _:
                await self._end_transaction()

    def _begin_transaction(self, event: MailFrom) -> None:
        protocol = protocol_name(extended=self._smtp.extended, utf8=event.smtputf8)
        origin = Origin(client=str(self.stream.peer), helo=self.helo, listener=self._listener.name, protocol=protocol)
        self._transaction = Transaction(self._services, event, origin, self.stream.peer.host)

    async def _recipient(self, event: RcptTo) -> Reply:
        options = self._services.options
        recipient = event.recipient
        address = policy.complete_address(options, recipient.address)
        ruling = policy.rule_recipient(options, address, may_relay=self._trusted)
        if ruling is policy.Ruling.LOOK_UP:
            reply = await self._look_up(address)
        else:
            reply = policy.RECIPIENT_OK if ruling is policy.Ruling.ACCEPT else policy.RELAY_DENIED
        if reply.code != 250:
            self._count_refusal(reply)
        elif self._transaction is not None:
            self._transaction.recipients.append(evolve(recipient, address=address))
        return reply

    async def _look_up(self, address: Address) -> Reply:
        try:
            exists = await self._services.recipients.exists(address)
        except OSError:
            return policy.LOOKUP_FAILED
        return policy.RECIPIENT_OK if exists else policy.NO_SUCH_USER

    def _begin_content(self) -> None:
        assert self._transaction is not None
        self._waiting = _Waiting.CONTENT
        self._content_started = trio.current_time()
        self._content_octets = 0
        self._transaction.begin_content()

    async def _content(self, data: bytes) -> None:
        self._content_octets += len(data)
        transaction = self._transaction
        if transaction is not None and not transaction.content.add_in_memory(data):
            self._wait_for_store()
            await transaction.add(data)

    def _wait_for_store(self) -> None:
        """Keep the client's deadline from ending a wait that is the store's, which has a deadline of its own."""
        seconds = self._services.options.timeouts.commit_timeout + COMMIT_MARGIN_SECONDS
        self._scope.deadline = max(self._scope.deadline, trio.current_time() + seconds)

    async def _content_end(self, event: ContentEnd) -> None:
        transaction = self._transaction
        assert transaction is not None
        self._waiting = _Waiting.ANSWER
        self._wait_for_store()
        reply = await transaction.submit(event, self._listener, trusted=self._trusted)
        self._finish(reply)
        if reply.code == 250:
            self._transaction = None
        else:
            await self._end_transaction()
        self._smtp.reply(reply)

    def _finish(self, reply: Reply) -> None:
        """Note how a mail ended: a line for each one taken; refused ones are counted, or an attack fills the log."""
        transaction = self._transaction
        if transaction is None:
            return
        if reply.code != 250:
            self._count_refusal(reply)
            return
        self.mails += 1
        self._services.log.info(
            "mail.accepted",
            queue_id=transaction.id,
            client=transaction.client,
            sender=transaction.sender,
            recipients=len(transaction.recipients),
            size=transaction.content.size,
        )

    def _count_refusal(self, reply: Reply) -> None:
        self.refusals += 1
        self.refused = reply
        self._services.metrics.messages_refused.labels(code=str(reply.code)).inc()

    async def _end_transaction(self) -> None:
        self._waiting = _Waiting.ANSWER
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.abandon()

    def _facts(self) -> dict[str, str]:
        """What XDEBUG shows of this session."""
        transaction = self._transaction
        return {
            "Client IP": str(self.stream.peer),
            "Hostname": self.helo,
            "State": self._smtp.state.value,
            "Mail From": transaction.sender if transaction else "",
            "Rcpt To": ", ".join(str(one.address) for one in transaction.recipients) if transaction else "",
        }
