"""One mail transaction, from MAIL to the reply after the content.

What is not here: the dialogue (`inbound.session`), or what the queue does with the mail.
RFC 5321 §3.3 is the procedure. Every reply after the content is decided here: 250 only once the mail is durable.
"""

from typing import Any

from attrs import evolve, frozen
from structlog.typing import FilteringBoundLogger

from elemta.auth.authenticator import Authenticator
from elemta.inbound.base import Queue, Recipients
from elemta.inbound.gather import Gathering
from elemta.inbound.options import InboundOptions, ListenerOptions
from elemta.inbound.plugged import PluggedMail, Plugins
from elemta.inbound.rewrite import ContentReader, Octets, Rewriting
from elemta.mail.envelope import Envelope, Priority, Recipient
from elemta.mail.headers import HeaderFault, count_field, header_block, header_end, header_fault
from elemta.mail.reply import Reply
from elemta.mail.trace import Arrival, received
from elemta.observe.metrics import Metrics
from elemta.plugins.api import ContentAway, Stage
from elemta.plugins.mail import MailInHand
from elemta.plugins.verdicts import NO_REASON, Discard, Quarantine
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
    #: None without any.
    plugins: Plugins | None = None


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
        #: What plugins see of it; None without plugins.
        self.plugged: PluggedMail | None = None
        #: What they changed of it, until it is in the queue.
        self._rewriting: Rewriting | None = None

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

    def add_recipient(self, recipient: Recipient) -> None:
        """The client named one that was taken."""
        self.recipients.append(recipient)
        if self.plugged is not None:
            self.plugged.in_hand.add_recipient(recipient)

    @property
    def facts(self) -> dict[str, Any]:
        """What the log line of a mail that was taken says."""
        facts: dict[str, Any] = {
            "queue_id": self.id,
            "client": self.client,
            "sender": self.sender,
            "recipients": len(self.recipients),
            "size": self.content.size,
        }
        if self.user:
            facts["user"] = self.user
        return facts if self.plugged is None else {**facts, **self.plugged.facts}

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
        try:
            return await self._submit(end, listener, trusted)
        except StoreFull as error:
            return self._refuse(FULL, error)
        except (StoreUnavailable, SubmissionTimeout) as error:
            return self._refuse(UNAVAILABLE, error)

    async def _submit(self, end: ContentEnd, listener: ListenerOptions, trusted: bool) -> Reply:
        """As `submit`. Raises `StoreUnavailable`, `SubmissionTimeout`."""
        services = self._services
        staged, octets = await self.content.whole()
        head = self.content.head
        if octets is None and header_end(head) < 0:
            return Reply(552, "5.3.4", HeaderFault.TOO_LARGE.value)
        header = header_block(head)
        refusal = self._header_refusal(header)
        if refusal is not None:
            return refusal
        ref = ContentRef(staged or self.id, self.content.size, end.eight_bit, len(header), self.content.digest)
        mail = Octets(ref, octets)
        if self.plugged is not None:
            judged = await self._judged(self.plugged, mail, header)
            if isinstance(judged, Reply):
                return judged
            mail = judged
        await services.queue.submit(
            self._submission(mail, self._priority(listener, trusted)), timeout=services.options.timeouts.commit_timeout
        )
        self.content.release()
        services.metrics.messages_received.inc()
        services.metrics.message_size.observe(mail.ref.size)
        return self._taken()

    def _taken(self) -> Reply:
        return Reply(250, "2.0.0", f"ok, queued as {self.id}")

    async def _judged(self, plugged: PluggedMail, mail: Octets, header: bytes) -> Octets | Reply:
        """The content as plugins left it, or what the client hears when the mail does not come into the queue.

        Raises `StoreUnavailable`.
        """
        in_hand = plugged.in_hand
        in_hand.header_came(header)
        refusal = await plugged.refusal(Stage.DATA_HEADERS)
        if refusal is not None:
            return refusal
        reader = ContentReader(self._services.queue, mail)
        in_hand.content_came(reader.read, header_octets=mail.ref.header_octets, size=mail.ref.size)
        refusal = await plugged.refusal(Stage.DATA_COMPLETE)
        if reader.failure is not None:
            raise reader.failure
        if refusal is not None:
            return refusal
        if isinstance(plugged.fate, Discard) or not in_hand.recipients:
            return await self._thrown_away(plugged)
        if in_hand.is_changed:
            mail = await self._rewritten(mail, in_hand, reader)
            await self.content.abandon_staged()  # what a plugin changed replaces it, in memory as well
        return mail

    async def _rewritten(self, mail: Octets, in_hand: MailInHand, reader: ContentReader) -> Octets:
        self._rewriting = Rewriting(self._services.queue)
        try:
            return await self._rewriting.write(mail, in_hand)
        except ContentAway as error:
            raise reader.failure or StoreUnavailable(str(error)) from error

    def _submission(self, mail: Octets, priority: Priority) -> Submission:
        plugged = self.plugged
        if plugged is None:
            return Submission(self.id, self._envelope(), mail.ref, mail.content, priority, self._origin)
        in_hand, held, envelope = plugged.in_hand, plugged.fate, self._envelope()
        if in_hand.is_readdressed:
            envelope = evolve(envelope, reverse_path=in_hand.sender, recipients=tuple(in_hand.recipients))
        return Submission(
            id=self.id,
            envelope=envelope,
            ref=mail.ref,
            content=mail.content,
            priority=priority if in_hand.priority is None else in_hand.priority,
            origin=self._origin,
            held=(held.reason or NO_REASON) if isinstance(held, Quarantine) else "",
            route=in_hand.route,
            annotations=plugged.annotations,
        )

    async def _thrown_away(self, plugged: PluggedMail) -> Reply:
        """Answer 250 for a mail that a plugin discards."""
        if not isinstance(plugged.fate, Discard):
            plugged.fate = Discard("no recipient is left")
        await self.content.abandon()
        return self._taken()

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
        if self.plugged is not None:
            self.plugged.abandon()
        await self.content.abandon()
        if self._rewriting is not None:
            await self._rewriting.abandon()
