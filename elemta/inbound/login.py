"""AUTH in a session: what is offered, the replies of an exchange, what a user may send as.

What is not here: the exchange itself (`auth.attempt`), its syntax on the wire (`smtp.security_verbs`), its deadline
(`inbound.session`). RFC 4954. A refusal for a sender that is another's is Postfix's 553 5.7.1.
Failures raised: none but defects.
"""

import base64

from elemta.auth.attempt import Attempt
from elemta.auth.authenticator import Authenticator
from elemta.auth.sasl.base import Challenge
from elemta.auth.verdicts import CANCELLED, GUESSES, LOCKED_OUT, WELCOME, Cause, ClientFacts, Denied, Granted
from elemta.inbound.plugged import PluggedSession
from elemta.mail.address import Address
from elemta.mail.reply import Reply
from elemta.net.base import Stream
from elemta.net.networks import is_local
from elemta.plugins.api import Stage
from elemta.smtp.events import AuthResponse, AuthStart
from elemta.smtp.server import ServerConnection
from elemta.tls.stream import TlsFacts

#: Seconds beyond the authenticator's own deadline before the session gives up waiting for it.
LOGIN_MARGIN_SECONDS = 5.0

NOT_YOUR_ADDRESS = Reply(553, "5.7.1", "sender address not owned by the user who logged in")


class Login:
    """AUTH of one session, on a listener that has it."""

    __slots__ = (
        "_attempt",
        "_authenticator",
        "_facts",
        "_granted",
        "_mechanism",
        "_plugged",
        "_smtp",
        "claimed",
        "failures",
    )

    def __init__(
        self,
        authenticator: Authenticator,
        smtp: ServerConnection,
        plugged: PluggedSession | None = None,
    ) -> None:
        """`plugged` asks plugins about a user whose password is right."""
        self._authenticator = authenticator
        self._smtp = smtp
        self._plugged = plugged
        self._facts = ClientFacts("")
        self._attempt: Attempt | None = None
        self._mechanism = ""
        self._granted: Granted | None = None
        #: Attempts that failed, and whom the last one claimed to be: for the one log line of the session.
        self.failures = 0
        self.claimed = ""

    @property
    def wait_seconds(self) -> float:
        """How long `answer` may take at most."""
        plugins = 0.0 if self._plugged is None else self._plugged.seconds(Stage.AUTH)
        return self._authenticator.wait_seconds + LOGIN_MARGIN_SECONDS + plugins

    def offer(self, stream: Stream, tls: TlsFacts | None) -> None:
        """Offer what fits the connection as it is now; before the reply to EHLO."""
        local = is_local(stream.peer.host) and is_local(stream.local.host)
        binding = b"" if tls is None else tls.binding
        self._facts = ClientFacts(stream.peer.host, encrypted=tls is not None, local=local, binding=binding)
        # In the clear the machine needs them too: it tells clients that they are offered under TLS.
        mechanisms = self._authenticator.mechanisms(self._facts) or self._authenticator.options.mechanisms
        self._smtp.offer_auth(mechanisms, without_tls=local)

    async def answer(self, event: AuthStart | AuthResponse) -> Reply | None:
        """Answer the machine's event; the reply if it was a refusal."""
        if isinstance(event, AuthStart):
            self._mechanism = event.mechanism
            self._attempt = self._authenticator.begin(event.mechanism, self._facts)
            self._authenticator.metrics.auth_attempts.labels(mechanism=event.mechanism).inc()
            response = event.initial
        else:
            response = event.response
        attempt = self._attempt
        assert attempt is not None
        if response is None and isinstance(event, AuthResponse):
            return self._deny(attempt, Denied(CANCELLED, Cause.CANCELLED))
        answer = await attempt.answer(response)
        match answer:
            case Challenge(data):
                self._smtp.reply(Reply(334, "", base64.b64encode(data).decode()))
                return None
            case Granted():
                return await self._grant(answer)
            case Denied():
                return self._deny(attempt, answer)

    async def _grant(self, granted: Granted) -> Reply | None:
        self._attempt = None
        refusal = None if self._plugged is None else await self._plugged.login_refusal(granted.user, self._mechanism)
        if refusal is not None:
            self._smtp.reply(refusal)
            return refusal
        self._granted = granted
        self._authenticator.metrics.auth_successes.labels(mechanism=self._mechanism).inc()
        self._smtp.set_authenticated(granted.user)
        self._smtp.reply(WELCOME)
        return None

    def _deny(self, attempt: Attempt, denied: Denied) -> Reply:
        self._attempt = None
        self._authenticator.metrics.auth_failures.labels(cause=denied.cause.value).inc()
        self._smtp.reply(denied.reply)
        if denied.cause in GUESSES:
            self.failures += 1
            self.claimed = attempt.claimed
            if self.failures >= self._authenticator.options.failures:
                self._smtp.close_with(LOCKED_OUT, "too many failed logins")
        return denied.reply

    def refusal_of(self, reverse_path: Address | None) -> Reply | None:
        """Why the user may not send as this; None for who may, and for who has not logged in."""
        granted = self._granted
        if granted is None or self._smtp.authenticated_user is None or granted.permit.allows(reverse_path):
            return None
        return NOT_YOUR_ADDRESS
