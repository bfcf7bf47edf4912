"""The whole table: what each policy does in each case."""

from typing import Any

import attrs
import pytest

from elemta.config.sections import RouteSection, RouteTls, TransportName
from elemta.delivery.tlspolicy import (
    IN_CLEAR,
    Opening,
    Refusal,
    Step,
    TlsPolicy,
    after_failure,
    after_hello,
    after_refusal,
    login_refusal,
    policy_for,
    policy_of,
    requiretls_refusal,
)
from elemta.mail.envelope import Envelope
from elemta.mail.reply import Reply
from elemta.smtp.client_commands import Capabilities

NONE, MAY, REQUIRE, VERIFY = (TlsPolicy(demand) for demand in RouteTls)
MAY_AT_ONCE, REQUIRE_AT_ONCE, VERIFY_AT_ONCE = (attrs.evolve(each, implicit=True) for each in (MAY, REQUIRE, VERIFY))
SENDER = TlsPolicy(RouteTls.VERIFY, for_sender=True)
SENDER_AT_ONCE = attrs.evolve(SENDER, implicit=True)

LATER = Reply(454, "4.7.0", "TLS not available")
NEVER = Reply(502, "5.5.1", "not implemented")

PLAIN = Envelope(None, ())
REQUIRES = Envelope(None, (), require_tls=True)


def brief(verdict: Step | Refusal | None) -> str:
    """A step by its name, a refusal by its status and whether it is final."""
    if isinstance(verdict, Refusal):
        word = "failed" if verdict.is_final else "deferred"
        assert verdict.reply.code // 100 == int(verdict.reply.enhanced[0])
        assert verdict.is_final == verdict.reply.is_permanent
        return f"{word} {verdict.reply.enhanced}"
    return "fine" if verdict is None else verdict.value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, MAY),
        ({"password": "secret"}, VERIFY),
        ({"tls": RouteTls.NONE}, NONE),
        ({"tls": RouteTls.MAY, "password": "secret"}, MAY),
        ({"tls": RouteTls.REQUIRE}, REQUIRE),
        ({"tls": RouteTls.VERIFY}, VERIFY),
        ({"implicit_tls": True}, MAY_AT_ONCE),
        ({"implicit_tls": True, "password": "secret"}, VERIFY_AT_ONCE),
    ],
)
def test_the_policy_of_a_route(written: dict[str, Any], expected: TlsPolicy) -> None:
    route = attrs.evolve(RouteSection("*", TransportName.SMTP), **written)
    assert policy_of(route) == expected


@pytest.mark.parametrize(
    ("policy", "opening", "insists", "verifies"),
    [
        (NONE, Opening.CLEAR, False, False),
        (attrs.evolve(NONE, implicit=True), Opening.CLEAR, False, False),
        (MAY, Opening.STARTTLS, False, False),
        (REQUIRE, Opening.STARTTLS, True, False),
        (VERIFY, Opening.STARTTLS, True, True),
        (MAY_AT_ONCE, Opening.IMPLICIT, False, False),
        (REQUIRE_AT_ONCE, Opening.IMPLICIT, True, False),
        (VERIFY_AT_ONCE, Opening.IMPLICIT, True, True),
        (SENDER, Opening.STARTTLS, True, True),
        (IN_CLEAR, Opening.CLEAR, False, False),
    ],
)
def test_how_a_connection_begins(policy: TlsPolicy, opening: Opening, insists: bool, verifies: bool) -> None:
    assert (policy.opening, policy.insists, policy.verifies) == (opening, insists, verifies)


@pytest.mark.parametrize(
    ("policy", "with_offer", "without"),
    [
        (NONE, "proceed", "proceed"),
        (MAY, "upgrade", "proceed"),
        (REQUIRE, "upgrade", "deferred 4.7.4"),
        (VERIFY, "upgrade", "deferred 4.7.4"),
        (SENDER, "upgrade", "failed 5.7.30"),
        (MAY_AT_ONCE, "proceed", "proceed"),
        (REQUIRE_AT_ONCE, "proceed", "proceed"),
        (VERIFY_AT_ONCE, "proceed", "proceed"),
        (SENDER_AT_ONCE, "proceed", "proceed"),
    ],
)
def test_after_the_first_hello(policy: TlsPolicy, with_offer: str, without: str) -> None:
    assert brief(after_hello(policy, offered=True)) == with_offer
    assert brief(after_hello(policy, offered=False)) == without


@pytest.mark.parametrize(
    ("policy", "later", "never", "failed", "bad_certificate"),
    [
        (MAY, *["reconnect in clear"] * 4),
        (REQUIRE, "deferred 4.7.4", "deferred 4.7.4", "deferred 4.7.5", "deferred 4.7.5"),
        (VERIFY, "deferred 4.7.4", "deferred 4.7.4", "deferred 4.7.5", "deferred 4.7.5"),
        (SENDER, "deferred 4.7.10", "failed 5.7.10", "deferred 4.7.10", "failed 5.7.10"),
    ],
)
def test_when_starttls_comes_to_nothing(
    policy: TlsPolicy, later: str, never: str, failed: str, bad_certificate: str
) -> None:
    assert brief(after_refusal(policy, LATER)) == later
    assert brief(after_refusal(policy, NEVER)) == never
    assert brief(after_failure(policy, "the TLS handshake failed: x", certificate=False)) == failed
    assert brief(after_failure(policy, "the TLS handshake failed: x", certificate=True)) == bad_certificate


@pytest.mark.parametrize("policy", [MAY_AT_ONCE, REQUIRE_AT_ONCE, VERIFY_AT_ONCE])
def test_a_port_of_implicit_tls_has_no_second_try(policy: TlsPolicy) -> None:
    assert brief(after_failure(policy, "the TLS handshake failed: x", certificate=False)) == "deferred 4.7.5"


def test_refusals_say_why() -> None:
    refusal = after_refusal(REQUIRE, LATER)
    assert isinstance(refusal, Refusal)
    assert refusal.reply.text == "TLS is required, but the host refused STARTTLS: 454 4.7.0 TLS not available"
    refusal = after_failure(VERIFY, "the TLS handshake failed: expired", certificate=True)
    assert isinstance(refusal, Refusal)
    assert refusal.reply.text == "a verified TLS connection is required, but the TLS handshake failed: expired"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(NONE, NONE), (MAY, SENDER), (REQUIRE, SENDER), (VERIFY, SENDER), (MAY_AT_ONCE, SENDER_AT_ONCE)],
)
def test_a_mail_with_requiretls_raises_the_policy(policy: TlsPolicy, expected: TlsPolicy) -> None:
    assert policy_for(policy, PLAIN) is policy
    assert policy_for(policy, REQUIRES) == expected


@pytest.mark.parametrize(
    ("envelope", "offered", "verified", "expected"),
    [
        (PLAIN, False, False, "fine"),
        (REQUIRES, True, True, "fine"),
        (REQUIRES, False, True, "failed 5.7.30"),
        (REQUIRES, True, False, "failed 5.7.30"),
        (REQUIRES, False, False, "failed 5.7.30"),
    ],
)
def test_requiretls_is_kept(envelope: Envelope, offered: bool, verified: bool, expected: str) -> None:
    refusal = requiretls_refusal(envelope, Capabilities(require_tls=offered), verified=verified)
    assert brief(refusal) == expected


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("unverified", [False, True])
@pytest.mark.parametrize(("encrypted", "verified"), [(False, False), (True, False), (True, True)])
def test_a_password_goes_to_whom_we_know(local: bool, unverified: bool, encrypted: bool, verified: bool) -> None:
    refusal = login_refusal(encrypted=encrypted, verified=verified, local=local, unverified=unverified)
    assert brief(refusal) == ("fine" if local or unverified or verified else "deferred 4.7.11")
    if refusal is not None:
        assert ("not encrypted" in refusal.reply.text) == (not encrypted)
