"""The transport that gives mails to other hosts by SMTP or LMTP.

What is not here: where the hosts come from (`delivery.hops`), one connection (`delivery.opening`, `delivery.session`),
their reuse (`delivery.pool`). Hosts are tried in order until one of them decides about every recipient: RFC 5321 §5.1.
Failures raised: `AttemptStopped`; whatever a host does is an outcome.
"""

from collections.abc import Sequence
from typing import Final

import attrs
from structlog.typing import FilteringBoundLogger

from elemta.delivery.base import AttemptStopped, Content, Job
from elemta.delivery.conversion import header_is_ascii, to_seven_bit
from elemta.delivery.hops import Hop, HopFinder
from elemta.delivery.opening import LoginRefused, open_session
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.session import ClientOptions, Session, SessionFailed, Watch, pool_key
from elemta.delivery.tlspolicy import policy_for, requiretls_refusal
from elemta.mail.envelope import Envelope
from elemta.mail.outcome import Deferred, Failed, Outcome, Peer
from elemta.mail.reply import Reply
from elemta.net.base import Network
from elemta.smtp.client_checks import objection, recipient_objection
from elemta.smtp.client_commands import Capabilities, Transaction
from elemta.smtp.client_events import Awaited

#: Addresses tried in one attempt. RFC 5321 §5.1 asks for two at least, Postfix tries 5 (`smtp_mx_address_limit`);
#: twice as many here, because half of them may be IPv6 where the network has none.
MAX_HOPS: Final = 10

#: Recipients of one transaction: as many as every host must take, RFC 5321 §4.5.3.1.8.
MAX_RECIPIENTS: Final = 100

#: For recipients that a defect of ours kept from being tried.
_UNTRIED: Final = Deferred(Reply(451, "4.3.0", "the delivery was not tried"))


class SmtpTransport:
    """Delivers over connections that are reused. One instance serves any number of tasks."""

    def __init__(
        self,
        finder: HopFinder,
        network: Network,
        *,
        pool: ConnectionPool,
        options: ClientOptions,
        log: FilteringBoundLogger,
    ) -> None:
        self.finder = finder
        self.network = network
        self.pool = pool
        self.options = options
        self.log = log

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """One outcome a recipient. Raises `AttemptStopped` when the gate closed before anything was delivered."""
        recipients = job.envelope.recipients
        found = await self.finder.hops(recipients[0].address.domain)
        if isinstance(found, Deferred | Failed):
            return [found] * len(recipients)
        attempt = _Attempt(self, job, hops=found[:MAX_HOPS])
        await attempt.deliver_to(range(min(MAX_RECIPIENTS, len(recipients))))
        if len(recipients) > MAX_RECIPIENTS:
            await self._deliver_rest(attempt, len(recipients))
        return attempt.outcomes

    async def _deliver_rest(self, attempt: "_Attempt", count: int) -> None:
        """The transactions after the first. A defect of ours ends them, but hides no delivery that was made."""
        try:
            for start in range(MAX_RECIPIENTS, count, MAX_RECIPIENTS):
                await attempt.deliver_to(range(start, min(start + MAX_RECIPIENTS, count)))
        except AttemptStopped:
            raise
        except Exception as error:
            self.log.error("delivery.defect", error=str(error), exc_info=error)


class _Attempt:
    """One job on its way through the hosts."""

    def __init__(self, transport: SmtpTransport, job: Job, *, hops: Sequence[Hop]) -> None:
        self.outcomes: list[Outcome] = [_UNTRIED] * len(job.envelope.recipients)
        self._transport = transport
        self._job = job
        self._hops = hops
        self._options = _options_for(job.envelope, transport.options)
        #: Indexes of the recipients without an outcome, in this transaction.
        self._pending: list[int] = []
        #: What the hosts said or did that decided nothing.
        self._failures: list[Outcome] = []
        self._no_host_left = False
        self._gate_opened = False

    async def deliver_to(self, indexes: Sequence[int]) -> None:
        """Settle these recipients."""
        self._pending = list(indexes)
        if not self._no_host_left:  # hosts that failed for the first recipients are not asked for the next
            self._failures = []
            for hop in await self._over_kept_connection():
                await self._try(hop, None)
                if not self._pending:
                    return
        if self._pending:
            self._no_host_left = True
            self._settle([_verdict(self._failures)] * len(self._pending))

    async def _over_kept_connection(self) -> Sequence[Hop]:
        """Try an idle connection to any of the hosts, the preferred first. The hosts still to be tried."""
        for hop in self._hops:
            session = self._kept_session(hop)
            if session is None:
                continue
            if not await self._try(hop, session):
                self._transport.log.debug("delivery.stale_connection", host=hop.host, address=str(hop.endpoint))
                return self._hops
            return [other for other in self._hops if other is not hop] if self._pending else ()
        return self._hops

    def _kept_session(self, hop: Hop) -> Session | None:
        """An idle session; one whose certificate was checked for a mail with REQUIRETLS serves the others as well."""
        pool = self._transport.pool
        route, lmtp, verifies, _ = key = pool_key(hop, self._options)
        session = pool.take(key)
        return pool.take((route, lmtp, True, hop)) if session is None and not verifies else session

    async def _try(self, hop: Hop, session: Session | None) -> bool:
        """Try one host, over `session` or a fresh connection.

        False when a kept session failed before a recipient was taken: hosts close idle connections, some of them with
        words that look like an answer. It says nothing about the host, a fresh connection will.
        """
        kept = session is not None
        failure: SessionFailed | None = None
        awaited = Awaited.MAIL if kept else Awaited.NOTHING
        watch = Watch(awaited, self._options.patience[awaited])
        try:
            with watch.scope:
                if session is None:
                    session = await self._open(hop, watch)
                await self._transact(session, watch)
        except SessionFailed as error:
            failure = error
        except BaseException:
            if session is not None:
                session.abort()
            raise
        timed_out = watch.scope.cancelled_caught
        if timed_out:
            failure = SessionFailed(watch.reply)
        if failure is None:
            assert session is not None
            await self._transport.pool.give(session)
            return True
        if session is not None:
            self._settle(session.machine.conclude(failure.reply))
            session.abort()
        if self._pending and kept and not timed_out:
            return False
        peer = Peer(hop.host, str(hop.endpoint)) if session is None else session.peer
        is_final = failure.is_final
        if is_final is None:
            is_final = failure.reply.is_permanent and watch.awaited is not Awaited.GREETING
        self._failures.append((Failed if is_final else Deferred)(failure.reply, peer))
        return True

    async def _open(self, hop: Hop, watch: Watch) -> Session:
        """A fresh connection; what the operator should know of it is logged. Raises `SessionFailed`."""
        log = self._transport.log
        about = {"queue_id": self._job.id, "host": hop.host, "address": str(hop.endpoint)}
        try:
            session = await open_session(hop, self._transport.network, options=self._options, watch=watch)
        except LoginRefused as error:
            login = self._options.security.login
            assert login is not None
            mend = "see username and password of the route; its mail waits in the queue"
            log.error("delivery.login_refused", **about, username=login.username, reply=str(error.reply), mend=mend)
            raise
        if session.missed_tls:
            log.info("delivery.tls_missed", **about, reason=session.missed_tls)
        return session

    async def _transact(self, session: Session, watch: Watch) -> None:
        offered = session.machine.offered
        content = self._job.content
        if content.eight_bit and not offered.eight_bit_mime:
            content = await to_seven_bit(content)
        if not offered.smtputf8:
            self._refuse_unicode_recipients(session)
            if not self._pending:
                return
        if not self._options.lmtp:  # what LMTP hands over has arrived: REQUIRETLS ends there, RFC 8689 §4.4
            tls_refusal = requiretls_refusal(self._job.envelope, offered, verified=session.verified)
            if tls_refusal is not None:  # RFC 8689 §4.2.1: the next host may do better
                self._failures.append(Failed(tls_refusal.reply, session.peer))
                return
        transaction = Transaction(self._envelope(), content.size, content.eight_bit)
        refusal = objection(transaction, offered, unicode_header=await self._needs_unicode(content, offered))
        if refusal is not None:
            self._settle([Failed(refusal, session.peer)] * len(self._pending))
            return
        settled = await session.transact(transaction, content, gate=self._open_gate, watch=watch)
        if settled.refused_mail is not None:
            # RFC 5321 §5.1: what this host cannot do now, the next one may.
            self._failures.append(settled.outcomes[0])
        else:
            self._settle(settled.outcomes)

    def _envelope(self) -> Envelope:
        """The envelope with the recipients of this transaction."""
        envelope = self._job.envelope
        if len(self._pending) == len(envelope.recipients):
            return envelope
        return attrs.evolve(envelope, recipients=tuple(envelope.recipients[index] for index in self._pending))

    def _refuse_unicode_recipients(self, session: Session) -> None:
        recipients = self._job.envelope.recipients
        refusals = [recipient_objection(recipients[index].address, session.machine.offered) for index in self._pending]
        self._settle([None if refusal is None else Failed(refusal, session.peer) for refusal in refusals])

    async def _needs_unicode(self, content: Content, offered: Capabilities) -> bool:
        """True for a mail that was declared SMTPUTF8, and whose header really is not ASCII."""
        if offered.smtputf8 or not self._job.envelope.smtputf8 or not content.eight_bit:
            return False
        return not await header_is_ascii(content)

    async def _open_gate(self) -> bool:
        """Asked once an attempt: once it opened, recipients may have their mail."""
        if not self._gate_opened:
            self._gate_opened = await self._job.gate()
        return self._gate_opened

    def _settle(self, outcomes: Sequence[Outcome | None]) -> None:
        """Take outcomes for the pending recipients; those with None stay pending, all do if there are none at all."""
        if not outcomes:
            return
        left: list[int] = []
        for index, outcome in zip(self._pending, outcomes, strict=True):
            if outcome is None:
                left.append(index)
            else:
                self.outcomes[index] = outcome
        self._pending = left


def _options_for(envelope: Envelope, options: ClientOptions) -> ClientOptions:
    """The route's options, stricter for a mail with REQUIRETLS."""
    if not envelope.require_tls or options.lmtp:
        return options
    policy = policy_for(options.security.policy, envelope)
    return attrs.evolve(options, security=attrs.evolve(options.security, policy=policy))


def _verdict(failures: Sequence[Outcome]) -> Outcome:
    """What it means when every host was tried: the last word of those that may change their mind, else the last word.

    A host that greets with 5yz gives no service now (RFC 5321 §3.1), and says nothing about the mail: it is passed over
    (RFC 5321 §5.1), and the mail waits if all hosts do so, as with Postfix (`smtp_skip_5xx_greeting`). A smarthost that
    was set up wrongly for an hour would otherwise bounce all mail of that hour. A 5yz to HELO is about us, and final.
    """
    hopeful = [failure for failure in failures if isinstance(failure, Deferred)]
    return [_UNTRIED, *failures, *hopeful][-1]
