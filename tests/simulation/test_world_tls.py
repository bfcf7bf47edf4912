"""TLS in worlds by hand: hosts, routes, clients; RFC 3207, RFC 8314, RFC 8689."""

from bisect import bisect_left

import pytest
from attrs import evolve

from elemta.config.sections import Config, RouteSection, RouteTls, TransportName
from elemta.config.tls import TlsSection
from elemta.mail.outcome import AttemptResult
from elemta.simulation.clients import ClientScript, MailScript, TlsScript
from elemta.simulation.personality import SMTPS_PORT, Handshake, Personality, Shown
from elemta.simulation.record import Answer, Passage, Record
from elemta.simulation.scenario import CA_FILE, CERT_FILE, SENDER_ADDRESS, SENDER_DOMAIN, SERVER_ADDRESS, Scenario
from elemta.testing.plugin import SimulatedWorld
from tests.simulation.scenes import HOST, config, mail, scene

WORKS = Handshake.WORKS
#: Seconds by which what happens at a deadline may be late: some journeys.
SOON = 0.5


def route(tls: RouteTls | None, domain: str = "one.test", **settings: object) -> RouteSection:
    fields = {"transport": TransportName.MX, "tls": tls, "tls_ca_file": CA_FILE, **settings}
    return RouteSection(domain, **fields)  # type: ignore[arg-type]  # fields by name


def to_host(*starttls: Handshake | None, tls: RouteTls | None = None, **nature: object) -> Scenario:
    """A world with a mail for a host that does this about STARTTLS, by a route that asks for `tls`."""
    host = Personality(starttls=starttls or (WORKS,), **nature)  # type: ignore[arg-type]  # fields by name
    return scene(mail("a"), host=host, config=config(routes=(route(tls),), max_retries=3))


def encrypted_config(**settings: object) -> Config:
    address = f"{SERVER_ADDRESS}:{SMTPS_PORT}"
    tls = TlsSection(enabled=True, listen_addr=address, cert_file=CERT_FILE, key_file=CERT_FILE)
    return config(tls=tls, **settings)


def from_client(tls: TlsScript, *mails: MailScript, seed: int = 7) -> Scenario:
    """A world with a client that speaks TLS with the server."""
    port = SMTPS_PORT if tls.implicit else 25
    client = ClientScript("203.0.113.9", 1.0, mails or (mail("a"),), port=port, tls=tls)
    return scene(host=Personality(), config=encrypted_config(), clients=(client,), seed=seed)


def only_mail(record: Record) -> Passage:
    (passage,) = [each for each in record.passages.values() if not each.is_report]
    return passage


def results(record: Record) -> list[AttemptResult]:
    return [attempt.result for attempt in only_mail(record).attempts]


# ---- to hosts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_a_host_that_offers_starttls_hears_nothing_in_clear(old: bool, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(to_host(WORKS, old_tls=old))
    assert [heard.encrypted for heard in record.heard] == [True]
    assert results(record) == [AttemptResult.DELIVERED]


@pytest.mark.parametrize("trouble", [Handshake.REFUSED, Handshake.GARBAGE, Handshake.CLOSES])
def test_where_tls_fails_the_mail_goes_in_clear_at_once(trouble: Handshake, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(to_host(trouble))
    assert [heard.encrypted for heard in record.heard] == [False]
    assert results(record) == [AttemptResult.DELIVERED]
    assert record.kept[0].at < 1.0 + SOON


def test_where_somebody_puts_words_before_tls_the_mail_waits(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(to_host(Handshake.INJECTED, Handshake.INJECTED, WORKS))
    assert [heard.encrypted for heard in record.heard] == [True]
    assert results(record) == [AttemptResult.DEFERRED, AttemptResult.DEFERRED, AttemptResult.DELIVERED]


def test_a_host_may_offer_it_once_and_never_again(simulated_world: SimulatedWorld) -> None:
    world = evolve(to_host(WORKS, None), clients=tuple(
        ClientScript(f"203.0.113.{number}", at, (mail(f"m{number}", f"ok-m{number}@one.test"),))
        for number, at in enumerate((1.0, 100.0, 200.0), 1)
    ))  # fmt: skip
    record = simulated_world(world)
    assert [heard.encrypted for heard in record.heard] == [True, False, False]


def test_a_stalled_handshake_is_given_up_while_others_get_their_mail(simulated_world: SimulatedWorld) -> None:
    world = to_host(Handshake.STALLS, WORKS)
    mails = (mail("a", "ok-a@one.test", f"ok-b@{SENDER_DOMAIN}"),)
    record = simulated_world(evolve(world, clients=(ClientScript("203.0.113.9", 1.0, mails),)))
    assert [kept.host for kept in record.kept] == [SENDER_ADDRESS, HOST]
    other, late = record.kept
    assert other.at < 1.0 + SOON
    (first, _) = [attempt for passage in record.passages.values() for attempt in passage.attempts
                  if attempt.recipient == "ok-a@one.test"]  # fmt: skip
    assert first.duration == pytest.approx(world.config.tls.handshake_timeout, abs=SOON)
    assert late.at > first.duration


@pytest.mark.parametrize("demand", [RouteTls.REQUIRE, RouteTls.VERIFY])
@pytest.mark.parametrize("trouble", [None, *(each for each in Handshake if each is not WORKS)])
def test_a_route_that_requires_tls_never_goes_in_clear(
    trouble: Handshake | None, demand: RouteTls, simulated_world: SimulatedWorld
) -> None:
    record = simulated_world(to_host(trouble, tls=demand))
    assert not record.heard[:-1], "nothing but the report"
    (report,) = record.kept
    assert (report.host, report.about) == (SENDER_ADDRESS, ("ok-a@one.test",))
    record = simulated_world(to_host(trouble, WORKS, tls=demand))
    assert results(record) == [AttemptResult.DEFERRED, AttemptResult.DELIVERED]


@pytest.mark.parametrize("shown", list(Shown))
@pytest.mark.parametrize("demand", [RouteTls.MAY, RouteTls.REQUIRE, RouteTls.VERIFY])
def test_verify_alone_looks_at_the_certificate(demand: RouteTls, shown: Shown, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(to_host(WORKS, tls=demand, shown=shown))
    arrives = demand is not RouteTls.VERIFY or shown is Shown.GOOD
    assert any(kept.host == HOST for kept in record.kept) == arrives


@pytest.mark.parametrize("trouble", [WORKS, Handshake.GARBAGE, Handshake.CLOSES, Handshake.STALLS])
def test_a_port_of_implicit_tls_speaks_nothing_else(trouble: Handshake, simulated_world: SimulatedWorld) -> None:
    there = route(None, transport=TransportName.SMTP, host="mx.one.test", port=SMTPS_PORT, implicit_tls=True)
    host = Personality(starttls=(trouble, WORKS), implicit_tls=True)
    record = simulated_world(scene(mail("a"), host=host, config=config(routes=(there,))))
    assert [heard.encrypted for heard in record.heard] == [True]
    assert len(results(record)) == (1 if trouble is WORKS else 2)


@pytest.mark.parametrize("seed", range(24))
def test_a_connection_may_break_anywhere_in_tls(seed: int, simulated_world: SimulatedWorld) -> None:
    starttls = Personality(starttls=(WORKS,), old_tls=seed % 3 == 0, resets=2, lmtp=False)
    record = simulated_world(scene(mail("a", octets=2000), mail("b"), host=starttls, seed=seed))
    assert {kept.tag for kept in record.kept} == {"a", "b"}


# ---- mail that requires TLS ----------------------------------------------------------------------


def requiring(host: Personality, *, tls: RouteTls | None = None) -> Scenario:
    senders = Personality(starttls=(WORKS,), requiretls=True)
    client = ClientScript("203.0.113.9", 1.0, (mail("a", require_tls=True),), tls=TlsScript())
    settings = encrypted_config(routes=(route(tls), route(None, SENDER_DOMAIN)), max_retries=3)
    return scene(clients=(client,), config=settings, hosts={SENDER_ADDRESS: senders, HOST: host})


def test_it_goes_to_a_host_that_promises_the_same(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(requiring(Personality(starttls=(WORKS,), requiretls=True)))
    (kept,) = record.kept
    assert kept.host == HOST
    assert record.heard[0].asked


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param(Personality(starttls=(WORKS,)), b"5.7.30", id="no REQUIRETLS"),
        pytest.param(Personality(starttls=(None,), requiretls=True), b"5.7.30", id="no STARTTLS"),
        pytest.param(Personality(starttls=(WORKS,), requiretls=True, shown=Shown.OTHER_NAME), b"5.7.10", id="name"),
        pytest.param(
            Personality(starttls=(WORKS,), requiretls=True, shown=Shown.OTHER_AUTHORITY), b"5.7.10", id="authority"
        ),
    ],
)
def test_it_comes_back_where_nobody_promises_it(
    host: Personality, status: bytes, simulated_world: SimulatedWorld
) -> None:
    record = simulated_world(requiring(host))
    assert results(record) == [AttemptResult.FAILED]
    (report,) = record.kept
    assert report.host == SENDER_ADDRESS
    assert b"Status: " + status in report.content
    assert [heard.asked for heard in record.heard if heard.host == SENDER_ADDRESS] == [True]


def test_a_route_in_clear_takes_none(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(requiring(Personality(starttls=(WORKS,), requiretls=True), tls=RouteTls.NONE))
    (report,) = record.kept
    assert b"Status: 5.7.30" in report.content


# ---- from clients --------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_client_speaks_tls_with_the_server(implicit: bool, old: bool, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(from_client(TlsScript(implicit, old), mail("a", octets=100_000)), "sqlite")
    assert [shaken.worked for shaken in record.shaken] == [True]
    (kept,) = record.kept
    assert f"version={'TLSv1.2' if old else 'TLSv1.3'}".encode() in kept.content or b"with ESMTPS" in kept.content


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("first", [Handshake.STALLS, Handshake.GARBAGE, Handshake.CLOSES, Handshake.INJECTED])
def test_a_client_that_fails_may_come_again(first: Handshake, implicit: bool, simulated_world: SimulatedWorld) -> None:
    world = from_client(TlsScript(implicit, first=first))
    record = simulated_world(world)
    assert len(record.kept) == 1
    shaken = record.shaken[0]
    assert shaken.worked == (first is Handshake.INJECTED)
    if first is Handshake.STALLS:
        assert shaken.ended - shaken.began == pytest.approx(world.config.tls.handshake_timeout, abs=SOON)
    else:
        assert shaken.ended - shaken.began < SOON


def test_what_stands_behind_starttls_is_thrown_away(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(from_client(TlsScript(first=Handshake.INJECTED)))
    assert [one.answer for one in record.submitted] == [Answer.INJECTED, Answer.ACCEPTED]
    assert [passage.tag for passage in record.passages.values()] == ["a.1"]


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("octets", range(0, 720, 90))
def test_a_client_may_be_cut_in_its_handshake(octets: int, implicit: bool, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(from_client(TlsScript(implicit, ends_after=octets)))
    assert len(record.kept) == 1


@pytest.mark.parametrize("old", [False, True])
def test_a_mail_is_whole_once_its_last_record_is(old: bool, simulated_world: SimulatedWorld) -> None:
    """Cut within its last record a mail is nobody's; from the octet on that ends the record, the server has it."""

    def answer(octets: int) -> Answer:
        world = from_client(TlsScript(old=old), mail("a", vanishes_after=octets))
        return simulated_world(world).submitted[0].answer

    whole = bisect_left(range(2000), True, key=lambda octets: answer(octets) is not Answer.INCOMPLETE)
    assert [answer(whole + more) for more in (-2, -1, 0, 1)] == [Answer.INCOMPLETE] * 2 + [Answer.ACCEPTED] * 2
