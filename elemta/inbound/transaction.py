"""One mail transaction, from MAIL to the reply after the content.

What is not here: the dialogue (`inbound.session`), or what the queue does with the mail.
RFC 5321 §3.3 is the procedure. Every reply after the content is decided here: 250 only once the mail is durable.
"""

from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.auth.authenticator import Authenticator
from elemta.inbound.base import Queue, Recipients
from elemta.inbound.gather import Gathering
from elemta.inbound.options import InboundOptions, ListenerOptions
from elemta.mail.envelope import Envelope, Priority, Recipient
from elemta.mail.headers import HeaderFault, count_field, header_block, header_end, header_fault
from elemta.mail.reply import Reply
from elemta.mail.trace import Arrival, received
from elemta.observe.metrics import Metrics
from elemta.queue.priority import combine
from elemta.queue.submission import Submission, SubmissionTimeout
from elemta.runtime.budget import ByteBudget
from elemta.runtime.world import Runtime
from elemta.smtp.events import ContentEnd, MailFrom
from elemta.storage.base import StoreFull, StoreUnavailable
from elemta.storage.records import ContentRef, Origin
from elemta.tls.server import ServerTls
from elemta.tls.stream import TlsFacts

FULL = Reply(452, "4.3.1", "the queue is full, try again later")
UNAVAILABLE = Reply(451, "4.3.0", "the mail could not be stored now, try again later")
LOOPING = Reply(554, "5.4.6", "too many Received fields: this mail is going round in a loop")


@frozen
class Services:
    """What every session of an inbound service shares."""

    queue: Queue
    recipients: Recipients
    budget: ByteBudget
    runtime: Runtime
    options: InboundOptions
    metrics: Metrics
    log: FilteringBoundLogger
    #: None where no listener speaks TLS.
    tls: ServerTls | None = None
    #: None where no listener has AUTH.
    login: Authenticator | None = None


class Transaction:
    """One mail on its way in. `close` must be awaited (or `submit` have returned) before it is dropped."""

    def __init__(
        self, services: Services, start: MailFrom, origin: Origin, host: str, *, tls: TlsFacts | None = None
    ) -> None:
        self._services = services
        self._host = host
        self._tls = tls
        self._start = start
        self._origin = origin
        self.id = services.runtime.ids.new_id()
        self.recipients: list[Recipient] = []
        self.content = Gathering(services.queue, services.budget)
        #: What went wrong while storing, for the log; the client only learns that it was our side.
        self.error = ""
        self._failure: Reply | None = None

    @property
    def sender(self) -> str:
        """The reverse-path for the log; empty for the null reverse-path."""
        return "" if self._start.reverse_path is None else str(self._start.reverse_path)

    @property
    def user(self) -> str:
        """Who logged in to send it; empty for who did not."""
        return self._origin.user

    @property
    def client(self) -> str:
        """The client's address and port."""
        return self._origin.client

    def begin_content(self) -> None:
        """Put our trace field before the content, RFC 5321 §4.4."""
        recipients, tls = self.recipients, self._tls
        arrival = Arrival(
            helo=self._origin.helo,
            client="" if self._host.startswith("/") else self._host,
            hostname=self._services.options.hostname,
            protocol=self._origin.protocol,
            id=self.id,
            at=self._services.runtime.clock.wall(),
            recipient=recipients[0].address if len(recipients) == 1 else None,
            tls="" if tls is None else tls.version,
            cipher="" if tls is None else tls.cipher,
        )
        self.content.add_in_memory(received(arrival))

    async def add(self, data: bytes) -> None:
        """Take content. A store that fails here is answered after the end: the client must be read to its end."""
        if self._failure is not None:
            return
        try:
            await self.content.add(data)
        except StoreFull as error:
            self._failure = self._refuse(FULL, error)
        except StoreUnavailable as error:
            self._failure = self._refuse(UNAVAILABLE, error)

    def _refuse(self, reply: Reply, error: Exception) -> Reply:
        self.error = str(error)
        return reply

    async def submit(self, end: ContentEnd, listener: ListenerOptions, *, trusted: bool) -> Reply:
        """Hand the whole mail to the queue; the reply for the client. Never raises but for cancellation."""
        if self._failure is not None:
            return self._failure
        options = self._services.options
        try:
            staged, octets = await self.content.whole()
            head = self.content.head
            if octets is None and header_end(head) < 0:
                return Reply(552, "5.3.4", HeaderFault.TOO_LARGE.value)
            header = header_block(head)
            refusal = self._header_refusal(header)
            if refusal is not None:
                return refusal
            submission = Submission(
                id=self.id,
                envelope=self._envelope(),
                ref=ContentRef(staged or self.id, self.content.size, end.eight_bit, len(header), self.content.digest),
                content=octets,
                priority=self._priority(listener, trusted),
                origin=self._origin,
            )
            await self._services.queue.submit(submission, timeout=options.timeouts.commit_timeout)
        except StoreFull as error:
            return self._refuse(FULL, error)
        except (StoreUnavailable, SubmissionTimeout) as error:
            return self._refuse(UNAVAILABLE, error)
        self.content.release()
        self._services.metrics.messages_received.inc()
        self._services.metrics.message_size.observe(self.content.size)
        return Reply(250, "2.0.0", f"ok, queued as {self.id}")

    def _header_refusal(self, header: bytes) -> Reply | None:
        """Why the header cannot be taken."""
        fault = header_fault(header)
        if fault is not None:
            return Reply(552, "5.3.4", fault.value)
        if count_field(header, "received") > self._services.options.limits.max_received:
            return LOOPING
        return None

    def _envelope(self) -> Envelope:
        start = self._start
        return Envelope(
            reverse_path=start.reverse_path,
            recipients=tuple(self.recipients),
            body=start.body,
            smtputf8=start.smtputf8,
            ret=start.ret,
            envid=start.envid,
            require_tls=start.require_tls,
            mt_priority=start.mt_priority,
        )

    def _priority(self, listener: ListenerOptions, trusted: bool) -> Priority:
        """MT-PRIORITY counts only from clients that may relay: anybody else could jump the queue. The route may add
        its word later."""
        return combine(self._start.mt_priority if trusted else None, listener=listener.priority)

    async def abandon(self) -> None:
        """Forget the mail: nothing of it was acknowledged."""
        await self.content.abandon()
