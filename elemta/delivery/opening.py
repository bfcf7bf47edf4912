"""The road of a connection to its first mail: TLS, EHLO, AUTH.

What is not here: what each step means (`delivery.tlspolicy` decides), mails (`delivery.session`). RFC 3207 is STARTTLS,
RFC 8314 §3.3 implicit TLS, RFC 4954 AUTH. Failures raised: `SessionFailed`, `LoginRefused` of that kind; nothing is
left open then, nor when it is cancelled.
"""

from attrs import evolve

from elemta.delivery.credentials import Exchange, ExchangeFailed, Login, exchange_for, fits
from elemta.delivery.hops import Hop
from elemta.delivery.session import ClientOptions, Session, SessionFailed, Watch, failure_of
from elemta.delivery.tlspolicy import (
    IN_CLEAR,
    Opening,
    Refusal,
    Step,
    after_failure,
    after_hello,
    after_refusal,
    login_refusal,
)
from elemta.mail.reply import Reply
from elemta.net.base import Network, Stream
from elemta.net.networks import is_local
from elemta.smtp.client_events import AuthChallenge, AuthEnded, Awaited, TlsGranted, TlsRefused
from elemta.tls.stream import CertificateRefused, HandshakeFailed, TlsStream


class LoginRefused(SessionFailed):
    """The host does not let us in: it is our name or password that is wrong, not the mail."""


class _Declined(SessionFailed):
    """We do not go on with a host that is ready to: it is told QUIT."""


class _OnlyInClear(Exception):
    """There is no TLS with this host, and the policy takes it in clear: over a connection of its own."""


async def open_session(hop: Hop, network: Network, *, options: ClientOptions, watch: Watch) -> Session:
    """Connect, and do all that comes before the first mail."""
    if hop.endpoint.is_unix:  # nobody else hears what is said there
        options = _in_clear(options)
    try:
        return await _Road(hop, options, watch).open(network)
    except _OnlyInClear as failure:
        session = await _Road(hop, _in_clear(options), watch).open(network)
        session.missed_tls = str(failure)
        return session


def _in_clear(options: ClientOptions) -> ClientOptions:
    return evolve(options, security=evolve(options.security, policy=IN_CLEAR))


class _Road:
    """One try at one host."""

    def __init__(self, hop: Hop, options: ClientOptions, watch: Watch) -> None:
        self._hop = hop
        self._options = options
        self._security = options.security
        self._watch = watch

    async def open(self, network: Network) -> Session:
        watch = self._watch
        watch.allow(Awaited.NOTHING, self._options.patience[Awaited.NOTHING])
        try:
            stream = await network.connect(self._hop.endpoint)
        except OSError as error:
            raise SessionFailed(Reply(451, "4.4.1", f"cannot connect: {error.strerror or error}")) from error
        policy = self._security.policy
        if policy.opening is Opening.IMPLICIT:
            stream = await self._shake_hands(stream)
        session = Session(self._hop, stream, self._options)
        try:
            await session.greet(watch)
            step = after_hello(policy, offered=session.machine.offered.starttls)
            if isinstance(step, Refusal):
                raise _declined(step)
            if step is Step.UPGRADE:
                await self._start_tls(session)
            if self._security.login is not None:
                await self._log_in(session, self._security.login)
        except (_Declined, LoginRefused):
            await session.quit()  # noqa: ASYNC120  # an attempt that is cancelled has no failure to tell
            raise
        except BaseException:
            session.abort()
            raise
        return session

    # ---- TLS

    async def _start_tls(self, session: Session) -> None:
        """Ask, shake hands, say EHLO again."""
        session.machine.starttls()
        event = await session.next_event(self._watch)
        if isinstance(event, TlsRefused):
            step = after_refusal(self._security.policy, event.reply)
            if isinstance(step, Refusal):
                raise _declined(step)
            raise _OnlyInClear(f"the host refused STARTTLS: {event.reply}")
        if not isinstance(event, TlsGranted):
            raise failure_of(event)
        session.secure(await self._shake_hands(session.stream), verified=self._security.policy.verifies)
        await session.greet(self._watch)

    async def _shake_hands(self, stream: Stream) -> TlsStream:
        security = self._security
        assert security.tls is not None, "a policy with TLS, but nobody to shake hands"
        self._watch.allow(Awaited.HANDSHAKE, self._options.patience[Awaited.HANDSHAKE])
        name = security.tls_name or self._hop.host
        try:
            return await security.tls.connect(stream, security.trust, server_name=name)
        except HandshakeFailed as error:
            says = f"the TLS handshake failed: {error}"
            step = after_failure(security.policy, says, certificate=isinstance(error, CertificateRefused))
            if isinstance(step, Refusal):
                raise SessionFailed(step.reply, is_final=step.is_final) from error
            raise _OnlyInClear(says) from error
        except OSError as error:
            says = f"certificates cannot be checked: {security.ca_file or 'the system trust'}: {error}"
            raise SessionFailed(Reply(451, "4.3.5", says), is_final=False) from error

    # ---- AUTH

    async def _log_in(self, session: Session, login: Login) -> None:
        endpoint = self._hop.endpoint
        refusal = login_refusal(
            encrypted=session.machine.secure,
            verified=session.verified,
            local=is_local(endpoint.host),
            unverified=login.unverified,
        )
        if refusal is not None:
            raise LoginRefused(refusal.reply, is_final=False)
        offered = session.machine.offered.auth
        exchange = exchange_for(login, offered)
        if exchange is None:
            names = " ".join(sorted(offered)) or "nothing"
            raise LoginRefused(Reply(451, "4.7.4", f"the host offers no AUTH that we speak: {names}"), is_final=False)
        try:
            reply = await self._exchange(session, exchange)
            if reply.is_positive:
                exchange.finish()
        except ExchangeFailed as error:
            says = f"AUTH {exchange.mechanism} failed: {error}"
            raise LoginRefused(Reply(451, "4.7.8", says), is_final=False) from error
        if not reply.is_positive:
            raise LoginRefused(login.hidden_in(reply), is_final=False)

    async def _exchange(self, session: Session, exchange: Exchange) -> Reply:
        """The host's last word. Raises `ExchangeFailed`, the session being ready for other commands then."""
        machine = session.machine
        late = await self._step(exchange, None)
        if late is None or fits(exchange.mechanism, late):
            machine.auth(exchange.mechanism, late)
            late = None
        else:
            machine.auth(exchange.mechanism, None)
        while True:
            event = await session.next_event(self._watch)
            if isinstance(event, AuthEnded):
                return event.reply
            if not isinstance(event, AuthChallenge):
                raise failure_of(event)
            try:
                answer = late if late is not None else await self._step(exchange, event.data)
            except ExchangeFailed:
                machine.auth_response(None)
                ended = await session.next_event(self._watch)  # noqa: ASYNC120  # as above
                if not isinstance(ended, AuthEnded):
                    session.abort()  # it goes on, though RFC 4954 §4 has it end: nothing more is to be said here
                raise
            machine.auth_response(answer)
            late = None

    async def _step(self, exchange: Exchange, challenge: bytes | None) -> bytes | None:
        """The initial response, or the answer to a challenge. Raises `ExchangeFailed`."""
        if not exchange.is_slow:
            return _answer(exchange, challenge)
        assert self._security.tls is not None, "a login, but nobody to run its hashing"
        return await self._security.tls.run(_answer, exchange, challenge)


def _answer(exchange: Exchange, challenge: bytes | None) -> bytes | None:
    return exchange.initial() if challenge is None else exchange.respond(challenge)


def _declined(refusal: Refusal) -> _Declined:
    return _Declined(refusal.reply, is_final=refusal.is_final)
