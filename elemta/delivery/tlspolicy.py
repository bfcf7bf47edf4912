"""What TLS a connection to a host must have before a mail, or a password, goes over it.

What is not here: handshakes and certificates (`delivery.clienttls`), the order of the steps (`delivery.opening`).
Opportunistic TLS is RFC 7435: without a demand, TLS with any certificate is better than none, and none is better than
no mail. RFC 3207 §4 is STARTTLS, RFC 8689 §4.2.1 what a mail with REQUIRETLS asks for. Pure: no input, no output.
Failures raised: none; a refusal is a reply, as if the host itself had refused.
"""

import enum
from typing import Final

from attrs import evolve, frozen

from elemta.config.sections import RouteSection, RouteTls
from elemta.mail.envelope import Envelope
from elemta.mail.reply import Reply
from elemta.smtp.client_commands import Capabilities


class Opening(enum.Enum):
    """How a connection begins."""

    #: In clear, and it stays so.
    CLEAR = "clear"
    #: In clear, with STARTTLS as soon as it is offered.
    STARTTLS = "starttls"
    #: With the handshake: RFC 8314 §3.3.
    IMPLICIT = "implicit"


class Step(enum.Enum):
    """What comes next."""

    #: Go on with what there is.
    PROCEED = "proceed"
    #: Say STARTTLS.
    UPGRADE = "upgrade"
    #: Hang up, and begin once more in clear, with the same host.
    RECONNECT = "reconnect in clear"


@frozen
class Refusal:
    """The mail does not go this way now; with `is_final`, never."""

    reply: Reply
    is_final: bool = False


@frozen(cache_hash=True)
class TlsPolicy:
    """What a route asks of its hosts. `for_sender` is set for a mail that came with REQUIRETLS."""

    demand: RouteTls = RouteTls.NONE
    implicit: bool = False
    for_sender: bool = False

    @property
    def verifies(self) -> bool:
        """True where the handshake fails unless the certificate is good: it holds the name, its issuer is trusted."""
        return self.demand is RouteTls.VERIFY

    @property
    def insists(self) -> bool:
        """True where nothing goes in clear."""
        return self.demand in (RouteTls.REQUIRE, RouteTls.VERIFY)

    @property
    def opening(self) -> Opening:
        """How a connection begins."""
        if self.demand is RouteTls.NONE:
            return Opening.CLEAR
        return Opening.IMPLICIT if self.implicit else Opening.STARTTLS


#: Never TLS.
IN_CLEAR: Final = TlsPolicy()


def policy_of(section: RouteSection) -> TlsPolicy:
    """The policy of a route. Where it says nothing, a password asks for a verified certificate."""
    demand = section.tls
    if demand is None:
        demand = RouteTls.MAY if section.password is None else RouteTls.VERIFY
    return TlsPolicy(demand, section.implicit_tls)


def policy_for(policy: TlsPolicy, envelope: Envelope) -> TlsPolicy:
    """The policy for one mail. RFC 8689 §4.2.1: with REQUIRETLS a host's certificate must be good.

    A route with `none` stays in clear: its hosts cannot take such a mail, and `requiretls_refusal` says so.
    """
    if not envelope.require_tls or policy.demand is RouteTls.NONE:
        return policy
    return evolve(policy, demand=RouteTls.VERIFY, for_sender=True)


def after_hello(policy: TlsPolicy, *, offered: bool) -> Step | Refusal:
    """What follows from the answer to the first EHLO. `offered` is True when it holds STARTTLS.

    An offer that vanished since the last mail is the same as none: whoever can take it away can do so from the first
    mail on, so only `require` and `verify` protect against it.
    """
    if policy.opening is not Opening.STARTTLS:
        return Step.PROCEED
    if offered:
        return Step.UPGRADE
    if policy.for_sender:
        return Refusal(_NO_STARTTLS_FOR_SENDER, is_final=True)
    return Refusal(_NO_STARTTLS) if policy.insists else Step.PROCEED


def after_refusal(policy: TlsPolicy, reply: Reply) -> Step | Refusal:
    """What follows from an answer other than 220 to STARTTLS. RFC 3207 §4: 454 is temporary, 5yz are about us."""
    if not policy.insists:
        return Step.RECONNECT
    if policy.for_sender:
        return _for_sender(f"the host refused STARTTLS: {reply}", is_final=reply.is_permanent)
    return Refusal(Reply(451, "4.7.4", f"TLS is required, but the host refused STARTTLS: {reply}"))


def after_failure(policy: TlsPolicy, says: str, *, certificate: bool) -> Step | Refusal:
    """What follows from a handshake that failed; `says` is why, `certificate` whether we did not believe the host's.

    Never anything over the same connection. A port of implicit TLS speaks nothing else, so there is no second try.
    """
    if not policy.insists and policy.opening is Opening.STARTTLS:
        return Step.RECONNECT
    if policy.for_sender:
        return _for_sender(says, is_final=certificate)
    needed = "a verified TLS connection" if policy.verifies else "TLS"
    return Refusal(Reply(451, "4.7.5", f"{needed} is required, but {says}"))


def requiretls_refusal(envelope: Envelope, offered: Capabilities, *, verified: bool) -> Refusal | None:
    """Why a mail with REQUIRETLS cannot go over this session; None for every other mail.

    RFC 8689 §4.2.1. `verified` is True when the host's certificate was checked; what it offers in clear counts for
    nothing.
    """
    if not envelope.require_tls or (verified and offered.require_tls):
        return None
    return Refusal(_NO_REQUIRETLS if verified else _NO_STARTTLS_FOR_SENDER, is_final=True)


def login_refusal(*, encrypted: bool, verified: bool, local: bool, unverified: bool) -> Refusal | None:
    """Why the password must not be sent over this session. `unverified` is the route's say.

    What stays on this machine (`local`: loopback, a unix socket) nobody else hears.
    """
    if unverified or local or (encrypted and verified):
        return None
    what = "the host's certificate was not verified" if encrypted else "the connection is not encrypted"
    says = f"the password is not sent: {what}; see tls and auth_unverified of the route"
    return Refusal(Reply(451, "4.7.11", says))  # X.7.11, RFC 5248: this way of logging in requires encryption


def _for_sender(says: str, *, is_final: bool) -> Refusal:
    # RFC 8689 §4.2.1: without a protected session the status is X.7.10, RFC 5248 §2.4's registry has it.
    code = 550 if is_final else 451
    status = f"{code // 100}.7.10"
    return Refusal(Reply(code, status, f"the mail requires TLS to its recipient, but {says}"), is_final)


#: X.7.4, X.7.5 of RFC 3463 §3.8: a security feature is not supported, cryptography failed. So does Postfix.
_NO_STARTTLS: Final = Reply(451, "4.7.4", "TLS is required, but the host offers no STARTTLS")
_NO_STARTTLS_FOR_SENDER: Final = Reply(
    550, "5.7.30", "the mail requires TLS to its recipient (REQUIRETLS), and the next host is not reached by TLS"
)
_NO_REQUIRETLS: Final = Reply(
    550, "5.7.30", "the mail requires TLS to its recipient, and the next host has no REQUIRETLS"
)
