"""Every policy before every kind of host: what is said, what comes of it."""

import ssl

import attrs
import pytest
import trio
import trio.testing

from elemta.config.sections import RouteTls, TimeoutsSection
from elemta.delivery.clienttls import ClientTls
from elemta.delivery.hops import Hop
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.session import HANDSHAKE_SECONDS, ClientSecurity
from elemta.delivery.smarthost import FixedHops
from elemta.delivery.tlspolicy import TlsPolicy
from elemta.mail.outcome import Outcome
from elemta.net.base import Endpoint
from elemta.runtime.threads import InlineThreads
from tests.delivery.jobs import Attempt, attempt
from tests.delivery.scripted import EVERYTHING, Host, hops
from tests.delivery.secure_hosts import EXPIRED, STARTTLS, UNKNOWN, WRONG_NAME, SecureHost, secure_world, security

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
NONE, MAY, REQUIRE, VERIFY = RouteTls
OK = "Delivered 250 2.0.0"


def brief(outcome: Outcome) -> str:
    return f"{type(outcome).__name__} {outcome.reply.code} {outcome.reply.enhanced}".strip()


def verbs(host: Host) -> str:
    return " ".join(line.split(" ")[0] for line in host.commands)


async def deliver(*hosts: Host | None, asks: ClientSecurity, given: Attempt | None = None) -> Outcome:
    """The outcome of one mail for one recipient."""
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, *hosts, asks=asks)
        (outcome,) = await here.transport.deliver((given or attempt("one@example.net", content=CONTENT)).job)
        nursery.cancel_scope.cancel()
    return outcome


def requiring() -> Attempt:
    """A mail that came with REQUIRETLS."""
    given = attempt("one@example.net", content=CONTENT)
    envelope = attrs.evolve(given.job.envelope, require_tls=True)
    return attrs.evolve(given, job=attrs.evolve(given.job, envelope=envelope))


# ---- the table -----------------------------------------------------------------------------------

IN_CLEAR = "EHLO MAIL RCPT DATA"
OVER_TLS = "EHLO STARTTLS <TLS> EHLO MAIL RCPT DATA"
SHUN = "EHLO QUIT"


@pytest.mark.parametrize(
    ("demand", "host", "expected", "said"),
    [
        (NONE, SecureHost(), OK, IN_CLEAR),
        (MAY, SecureHost(), OK, OVER_TLS),
        (REQUIRE, SecureHost(), OK, OVER_TLS),
        (VERIFY, SecureHost(), OK, OVER_TLS),
        # No offer: a downgrade looks the same.
        (MAY, SecureHost(extensions=EVERYTHING), OK, IN_CLEAR),
        (REQUIRE, SecureHost(extensions=EVERYTHING), "Deferred 451 4.7.4", SHUN),
        (VERIFY, SecureHost(extensions=EVERYTHING), "Deferred 451 4.7.4", SHUN),
        (REQUIRE, SecureHost(replies={"EHLO": ["502 what?"]}), "Deferred 451 4.7.4", "EHLO HELO QUIT"),
        # An offer that is not kept.
        *[
            (MAY, SecureHost(replies={"STARTTLS": [reply]}), OK, f"EHLO STARTTLS {IN_CLEAR}")
            for reply in ("454 4.7.0 later", "502 5.5.1 what?", "501 5.5.4 no")
        ],
        (REQUIRE, SecureHost(replies={"STARTTLS": ["454 4.7.0 later"]}), "Deferred 451 4.7.4", "EHLO STARTTLS QUIT"),
        (VERIFY, SecureHost(replies={"STARTTLS": ["502 5.5.1 what?"]}), "Deferred 451 4.7.4", "EHLO STARTTLS QUIT"),
        (MAY, SecureHost(replies={"STARTTLS": ["421 4.3.2 bye"]}), "Deferred 421 4.3.2", "EHLO STARTTLS"),
        (MAY, SecureHost(replies={"STARTTLS": ["close"]}), "Deferred 451 4.4.2", "EHLO STARTTLS"),
        # A handshake that fails.
        (REQUIRE, SecureHost(garbage=b"220 no, really\r\n" * 9), "Deferred 451 4.7.5", "EHLO STARTTLS"),
        (VERIFY, SecureHost(garbage=b"\x15\x03\x01\x00\x02\x02\x28"), "Deferred 451 4.7.5", "EHLO STARTTLS"),
        # Certificates.
        *[(MAY, SecureHost(tls=tls), OK, OVER_TLS) for tls in (WRONG_NAME, EXPIRED, UNKNOWN)],
        *[(REQUIRE, SecureHost(tls=tls), OK, OVER_TLS) for tls in (WRONG_NAME, EXPIRED, UNKNOWN)],
        *[
            (VERIFY, SecureHost(tls=tls), "Deferred 451 4.7.5", "EHLO STARTTLS <TLS>")
            for tls in (WRONG_NAME, EXPIRED, UNKNOWN)
        ],
    ],
)
async def test_each_policy_meets_each_host(demand: RouteTls, host: SecureHost, expected: str, said: str) -> None:
    assert brief(await deliver(host, asks=security(demand))) == expected
    assert verbs(host) == said


@pytest.mark.parametrize("garbage", [b"220 no, really\r\n" * 9, b"\x15\x03\x01\x00\x02\x02\x28"])
async def test_after_a_failed_handshake_the_mail_goes_in_clear_over_another_connection(garbage: bytes) -> None:
    host = SecureHost(garbage=garbage)
    outcome = await deliver(host, asks=security(MAY))
    assert brief(outcome) == OK
    assert outcome.peer.tls == ""
    assert host.sessions == 2
    first, second = (bytes(each) for each in host.heard)
    assert b"MAIL" not in first
    assert b"STARTTLS" not in second
    assert b"MAIL FROM" in second
    assert host.streams[0].aborted


@pytest.mark.parametrize(
    ("demand", "tls", "verified"),
    [(MAY, UNKNOWN, False), (REQUIRE, EXPIRED, False), (VERIFY, None, True)],
)
async def test_nothing_of_the_mail_is_in_clear_and_the_outcome_tells(
    demand: RouteTls, tls: ssl.SSLContext | None, verified: bool
) -> None:
    host = SecureHost() if tls is None else SecureHost(tls=tls)
    outcome = await deliver(host, asks=security(demand))
    assert brief(outcome) == OK
    assert outcome.peer.tls.startswith("TLSv1.3 TLS_")
    assert outcome.peer.tls.endswith(" verified") == verified
    assert b"sender@example.org" not in host.heard[0]
    assert host.mails[0].content == CONTENT


@pytest.mark.parametrize(
    ("demand", "says"),
    [
        (REQUIRE, "TLS is required, but the host offers no STARTTLS"),
        (VERIFY, "TLS is required, but the host offers no STARTTLS"),
    ],
)
async def test_a_deferral_says_why(demand: RouteTls, says: str) -> None:
    outcome = await deliver(SecureHost(extensions=EVERYTHING), asks=security(demand))
    assert outcome.reply.text == says


async def test_a_bad_certificate_is_named() -> None:
    outcome = await deliver(SecureHost(tls=EXPIRED), asks=security(VERIFY))
    assert "a verified TLS connection is required" in outcome.reply.text
    assert "expired" in outcome.reply.text
    assert outcome.peer.host == "mx1.example.net"


async def test_the_next_host_gets_what_the_first_cannot_take_safely() -> None:
    outcome = await deliver(SecureHost(tls=EXPIRED), SecureHost(), asks=security(VERIFY))
    assert brief(outcome) == OK
    assert outcome.peer.host == "mx2.example.net"


# ---- what was said before TLS --------------------------------------------------------------------


async def test_what_the_host_offered_before_tls_is_forgotten() -> None:
    host = SecureHost(extensions=(*STARTTLS, "DSN"), secure_extensions=("SIZE 10",))
    assert brief(await deliver(host, asks=security(MAY))) == "Failed 552 5.3.4"
    assert verbs(host) == "EHLO STARTTLS <TLS> EHLO"
    host = SecureHost(extensions=("STARTTLS", "SIZE 10"), secure_extensions=EVERYTHING)
    assert brief(await deliver(host, asks=security(MAY))) == OK
    assert "SIZE=" in next(line for line in host.commands if line.startswith("MAIL"))


async def test_nothing_is_offered_where_ehlo_is_refused_over_tls() -> None:
    host = SecureHost(extensions=STARTTLS, replies={"EHLO": ["250-mx.example\r\n250-SIZE 9\r\n250 STARTTLS", "502 no"]})
    assert brief(await deliver(host, asks=security(MAY))) == OK
    assert "MAIL FROM:<sender@example.org>" in host.commands
    assert verbs(host) == "EHLO STARTTLS <TLS> EHLO HELO MAIL RCPT DATA"


async def test_starttls_is_not_said_again_over_tls() -> None:
    host = SecureHost(secure_extensions=STARTTLS)
    assert brief(await deliver(host, asks=security(MAY))) == OK
    assert verbs(host) == OVER_TLS


@pytest.mark.parametrize("demand", [MAY, REQUIRE, VERIFY])
@pytest.mark.parametrize("injected", [b"\r\n250 evil\r\n250-SIZE 1", b"\r\n250-mx.example\r\n250 AUTH PLAIN", b"\r\n2"])
async def test_replies_injected_behind_the_220_are_an_attack(demand: RouteTls, injected: bytes) -> None:
    host = SecureHost(injected=injected)
    outcome = await deliver(host, asks=security(demand))
    assert brief(outcome) == "Deferred 451 4.5.0"
    assert "talks in clear after it agreed to TLS" in outcome.reply.text
    assert host.sessions == 1, "whoever can inject can listen: nothing goes in clear in its place"
    assert b"MAIL" not in host.heard[0]
    assert host.streams[0].aborted


# ---- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("demand", [MAY, REQUIRE, VERIFY])
async def test_a_host_silent_after_220_is_left_in_time(
    demand: RouteTls, autojump_clock: trio.testing.MockClock
) -> None:
    silent, fine = SecureHost(stalls=True), SecureHost()
    began = trio.current_time()
    outcome = await deliver(silent, asks=security(demand))
    assert brief(outcome) == "Deferred 451 4.4.2"
    assert outcome.reply.text == "timed out in the TLS handshake"
    assert trio.current_time() - began == pytest.approx(HANDSHAKE_SECONDS, abs=1.0)
    assert silent.streams[0].aborted
    assert brief(await deliver(SecureHost(stalls=True), fine, asks=security(demand))) == OK


async def test_other_destinations_do_not_wait_for_a_silent_one(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        stuck = secure_world(nursery, SecureHost(stalls=True), asks=security(MAY))
        for _ in range(50):
            nursery.start_soon(stuck.transport.deliver, attempt("one@example.net", content=CONTENT).job)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        here = secure_world(nursery, SecureHost(), asks=security(MAY))
        (outcome,) = await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        assert brief(outcome) == OK
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()


async def test_a_cancelled_handshake_leaves_nothing_open(autojump_clock: trio.testing.MockClock) -> None:
    for host in (SecureHost(stalls=True), SecureHost(implicit=True, garbage=b"x")):
        with trio.move_on_after(5.0):
            await deliver(host, asks=security(REQUIRE, implicit=host.implicit))
        assert host.streams[0].aborted


# ---- implicit TLS --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand", "host", "expected"),
    [
        (MAY, SecureHost(implicit=True, tls=UNKNOWN), OK),
        (REQUIRE, SecureHost(implicit=True, tls=UNKNOWN), OK),
        (VERIFY, SecureHost(implicit=True), OK),
        (VERIFY, SecureHost(implicit=True, tls=WRONG_NAME), "Deferred 451 4.7.5"),
        (MAY, SecureHost(), "Deferred 451 4.7.5"),  # it greets in clear
    ],
)
async def test_tls_from_the_first_octet(demand: RouteTls, host: SecureHost, expected: str) -> None:
    outcome = await deliver(host, asks=security(demand, implicit=True))
    assert brief(outcome) == expected
    assert "STARTTLS" not in verbs(host)
    assert host.sessions == 1
    assert b"EHLO" not in host.heard[0]
    if expected == OK:
        assert verbs(host) == "<TLS> EHLO MAIL RCPT DATA"
        assert outcome.peer.tls


# ---- names ---------------------------------------------------------------------------------------


async def test_the_host_is_asked_for_by_its_name() -> None:
    host = SecureHost()
    assert brief(await deliver(host, asks=security(VERIFY))) == OK
    assert host.names == ["mx1.example.net"]


async def test_another_name_may_be_certified() -> None:
    host = SecureHost(tls=WRONG_NAME)
    assert brief(await deliver(host, asks=security(VERIFY, name="other.example.net"))) == OK
    assert host.names == ["other.example.net"]
    assert brief(await deliver(SecureHost(), asks=security(VERIFY, name="other.example.net"))) == "Deferred 451 4.7.5"


@pytest.mark.parametrize(("name", "expected"), [("192.0.2.1", OK), ("[192.0.2.9]", "Deferred 451 4.7.5")])
async def test_an_address_is_certified_but_not_asked_for(name: str, expected: str) -> None:
    host = SecureHost()
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, host, asks=security(VERIFY))
        here.transport.finder = FixedHops(Hop(name, Endpoint("192.0.2.1", 25)))
        (outcome,) = await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        nursery.cancel_scope.cancel()
    assert brief(outcome) == expected
    assert host.names in ([None], [])


async def test_a_unix_socket_stays_in_clear() -> None:
    host = SecureHost()
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, host, asks=security(MAY))
        here.transport.finder = FixedHops(Hop("unix:/run/lmtp", Endpoint("/run/lmtp")))
        here.network.hosts = {Endpoint("/run/lmtp"): host}
        (outcome,) = await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        nursery.cancel_scope.cancel()
    assert brief(outcome) == OK
    assert verbs(host) == IN_CLEAR


async def test_authorities_that_cannot_be_read_defer(tmp_path: object) -> None:
    asks = ClientSecurity(TlsPolicy(VERIFY), ClientTls(InlineThreads()), "", f"{tmp_path}/gone.pem")
    host = SecureHost()
    outcome = await deliver(host, asks=asks)
    assert brief(outcome) == "Deferred 451 4.3.5"
    assert "gone.pem" in outcome.reply.text
    assert host.streams[0].aborted


# ---- reuse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("demand", [MAY, REQUIRE, VERIFY])
async def test_a_connection_with_tls_is_used_again(demand: RouteTls) -> None:
    host = SecureHost()
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, host, asks=security(demand))
        for _ in range(3):
            await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        nursery.cancel_scope.cancel()
    assert host.sessions == 1
    assert len(host.mails) == 3


async def test_a_checked_certificate_serves_all_and_an_unchecked_one_no_mail_with_requiretls() -> None:
    offers = (*EVERYTHING, "REQUIRETLS")
    host = SecureHost(secure_extensions=offers)
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, host, asks=security(MAY))
        await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        assert host.sessions == 1
        (outcome,) = await here.transport.deliver(requiring().job)
        assert brief(outcome) == OK
        assert host.sessions == 2
        await here.pool.close_all()
        nursery.cancel_scope.cancel()
    host = SecureHost(secure_extensions=offers)
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, host, asks=security(MAY))
        for given in (requiring(), attempt("one@example.net", content=CONTENT)):
            await here.transport.deliver(given.job)
        assert host.sessions == 1
        nursery.cancel_scope.cancel()


async def test_the_connection_in_clear_is_kept_for_the_next_mail() -> None:
    host = SecureHost(replies={"STARTTLS": ["454 4.7.0 later"]})
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, host, asks=security(MAY), pool=ConnectionPool())
        for _ in range(3):
            await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        nursery.cancel_scope.cancel()
    assert host.sessions == 2
    assert verbs(host).count("STARTTLS") == 1


# ---- REQUIRETLS ----------------------------------------------------------------------------------

REQUIRETLS = (*EVERYTHING, "REQUIRETLS")


@pytest.mark.parametrize("demand", [MAY, REQUIRE, VERIFY])
async def test_requiretls_is_passed_on(demand: RouteTls) -> None:
    host = SecureHost(secure_extensions=REQUIRETLS)
    outcome = await deliver(host, asks=security(demand), given=requiring())
    assert brief(outcome) == OK
    assert outcome.peer.tls.endswith(" verified")
    assert next(line for line in host.commands if line.startswith("MAIL")).endswith(" REQUIRETLS")


async def test_other_mail_does_not_say_requiretls() -> None:
    host = SecureHost(secure_extensions=REQUIRETLS)
    assert brief(await deliver(host, asks=security(VERIFY))) == OK
    assert not any("REQUIRETLS" in line for line in host.commands)


@pytest.mark.parametrize(
    ("demand", "host", "expected"),
    [
        (MAY, SecureHost(), "Failed 550 5.7.30"),
        (VERIFY, SecureHost(), "Failed 550 5.7.30"),
        (NONE, SecureHost(extensions=(*STARTTLS, "REQUIRETLS")), "Failed 550 5.7.30"),
        (MAY, SecureHost(extensions=REQUIRETLS), "Failed 550 5.7.30"),
        (MAY, SecureHost(secure_extensions=REQUIRETLS, tls=UNKNOWN), "Failed 550 5.7.10"),
        (MAY, SecureHost(secure_extensions=REQUIRETLS, tls=WRONG_NAME), "Failed 550 5.7.10"),
        (MAY, SecureHost(replies={"STARTTLS": ["502 5.5.1 what?"]}), "Failed 550 5.7.10"),
        (MAY, SecureHost(replies={"STARTTLS": ["454 4.7.0 later"]}), "Deferred 451 4.7.10"),
        (MAY, SecureHost(garbage=b"220 no, really\r\n"), "Deferred 451 4.7.10"),
        (MAY, None, "Deferred 451 4.4.1"),
    ],
)
async def test_a_hop_that_cannot_keep_requiretls_gets_nothing(
    demand: RouteTls, host: SecureHost | None, expected: str
) -> None:
    assert brief(await deliver(host, asks=security(demand), given=requiring())) == expected
    if host is not None:
        assert not host.mails
        assert not any(line.startswith("MAIL") for line in host.commands)


async def test_requiretls_finds_the_host_that_can() -> None:
    hosts = (SecureHost(extensions=EVERYTHING), SecureHost(secure_extensions=REQUIRETLS))
    outcome = await deliver(*hosts, asks=security(MAY), given=requiring())
    assert brief(outcome) == OK
    assert outcome.peer.host == "mx2.example.net"
    assert brief(await deliver(SecureHost(), None, asks=security(MAY), given=requiring())) == "Deferred 451 4.4.1"


async def test_requiretls_ends_where_the_mail_arrives() -> None:
    host = Host(lmtp=True)
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, host, asks=security(MAY))
        (outcome,) = await here.transport.deliver(requiring().job)
        nursery.cancel_scope.cancel()
    assert brief(outcome) == OK


async def test_lmtp_speaks_tls_as_well() -> None:
    host = SecureHost(lmtp=True)
    assert brief(await deliver(host, asks=security(VERIFY))) == OK
    assert verbs(host) == "LHLO STARTTLS <TLS> LHLO MAIL RCPT DATA"


async def test_the_handshake_has_its_own_time_whatever_the_replies_have(autojump_clock: trio.testing.MockClock) -> None:
    host = SecureHost(delay=20.0)
    async with trio.open_nursery() as nursery:
        timeouts = TimeoutsSection(greeting_timeout=25.0, connect_timeout=1.0)
        here = secure_world(nursery, host, asks=security(MAY), timeouts=timeouts)
        (outcome,) = await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        nursery.cancel_scope.cancel()
    assert brief(outcome) == OK
    assert hops(1)[0].endpoint == here.network.tried[0]
