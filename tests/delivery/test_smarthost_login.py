"""Logins to smarthosts: by which mechanism, over which channel, what a refusal comes to."""

import base64
import binascii
from collections.abc import Callable

import attrs
import pytest
import structlog
import structlog.testing
import trio
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.sections import RouteTls
from elemta.delivery.credentials import (
    MAX_SCRAM_ROUNDS,
    Exchange,
    ExchangeFailed,
    Login,
    Plain,
    PlainLogin,
    Scram,
    exchange_for,
    fits,
)
from elemta.delivery.hops import Hop
from elemta.delivery.session import ClientSecurity
from elemta.delivery.smarthost import FixedHops
from elemta.mail.outcome import Outcome
from elemta.net.base import Endpoint
from tests.delivery.jobs import attempt
from tests.delivery.scripted import EVERYTHING
from tests.delivery.secure_hosts import (
    AUTH,
    LOGIN,
    PASSWORD,
    STARTTLS,
    UNKNOWN,
    USER,
    SecureHost,
    secure_world,
    security,
)

NONE, MAY, REQUIRE, VERIFY = RouteTls
OK = "Delivered 250 2.0.0"
UNVERIFIED = attrs.evolve(LOGIN, unverified=True)
WRONG = Login(USER, "not this one")


def brief(outcome: Outcome) -> str:
    return f"{type(outcome).__name__} {outcome.reply.code} {outcome.reply.enhanced}".strip()


def verbs(host: SecureHost) -> str:
    return " ".join(line.split(" ")[0] for line in host.commands)


def secrets_in(octets: bytes, password: str = PASSWORD) -> bool:
    """Whether the password, or what base64 makes of it at any offset, is among octets."""
    plain = password.encode()
    forms = [base64.b64encode(b"\0" * lead + plain)[lead * 2 : -4] for lead in range(3)]
    words = [word for word in octets.split() if len(word) > 3]
    decoded = []
    for word in words:
        try:
            decoded.append(binascii.a2b_base64(word))
        except ValueError:
            continue
    return any(plain in each for each in (octets, *decoded)) or any(form in octets for form in forms)


async def deliver(
    host: SecureHost, *, asks: ClientSecurity, address: str = "192.0.2.1"
) -> tuple[Outcome, list[dict[str, object]]]:
    """The outcome of one mail, and what was logged."""
    with structlog.testing.capture_logs() as logged:
        async with trio.open_nursery() as nursery:
            here = secure_world(nursery, host, asks=asks)
            here.transport.log = structlog.get_logger()
            here.transport.finder = FixedHops(Hop("mx1.example.net", Endpoint(address, 587)))
            here.network.hosts = {Endpoint(address, 587): host}
            content = b"Subject: hello\r\n\r\nworld\r\n"
            (outcome,) = await here.transport.deliver(attempt("one@example.net", content=content).job)
            nursery.cancel_scope.cancel()
    return outcome, [dict(event) for event in logged]


def host_with(*mechanisms: str, **keys: object) -> SecureHost:
    """A host that offers mechanisms over TLS alone."""
    offer = (*EVERYTHING, f"AUTH {' '.join(mechanisms)}") if mechanisms else EVERYTHING
    return attrs.evolve(SecureHost(secure_extensions=offer), **keys)  # type: ignore[arg-type]  # keys of the host


# ---- mechanisms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (("PLAIN",), "PLAIN"),
        (("LOGIN",), "LOGIN"),
        (("SCRAM-SHA-256",), "SCRAM-SHA-256"),
        (("LOGIN", "PLAIN"), "PLAIN"),
        (("LOGIN", "PLAIN", "SCRAM-SHA-256"), "SCRAM-SHA-256"),
        (("CRAM-MD5", "GSSAPI", "login"), "LOGIN"),
        (("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1", "PLAIN"), "PLAIN"),
    ],
)
async def test_the_strongest_mechanism_is_taken(offered: tuple[str, ...], taken: str) -> None:
    host = host_with(*offered)
    outcome, _ = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == OK
    assert host.logins == [(taken, USER)]
    assert host.commands.index("<TLS>") < verbs(host).split(" ").index("AUTH") < verbs(host).split(" ").index("MAIL")


async def test_one_login_serves_many_mails() -> None:
    host = host_with("PLAIN")
    async with trio.open_nursery() as nursery:
        here = secure_world(nursery, host, asks=security(VERIFY, login=LOGIN))
        for _ in range(3):
            await here.transport.deliver(attempt("one@example.net", content=b"\r\n").job)
        nursery.cancel_scope.cancel()
    assert len(host.mails) == 3
    assert len(host.logins) == 1


@pytest.mark.parametrize("offered", [(), ("CRAM-MD5", "GSSAPI")])
async def test_a_host_without_a_mechanism_that_we_speak_waits(offered: tuple[str, ...]) -> None:
    host = host_with(*offered)
    outcome, logged = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == "Deferred 451 4.7.4"
    assert outcome.reply.text == f"the host offers no AUTH that we speak: {' '.join(offered) or 'nothing'}"
    assert [event["event"] for event in logged] == ["delivery.login_refused"]
    assert verbs(host).endswith("EHLO QUIT")


async def test_what_was_offered_in_clear_is_not_offered() -> None:
    host = SecureHost(extensions=(*STARTTLS, AUTH))
    outcome, _ = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == "Deferred 451 4.7.4"
    assert "AUTH" not in verbs(host)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
async def test_a_wrong_password_of_ours_bounces_nothing(mechanism: str) -> None:
    host = host_with(mechanism)
    outcome, logged = await deliver(host, asks=security(VERIFY, login=WRONG))
    assert brief(outcome) == "Deferred 535 5.7.8"
    (event,) = logged
    assert (event["event"], event["log_level"]) == ("delivery.login_refused", "error")
    assert (event["host"], event["username"], event["reply"]) == ("mx1.example.net", USER, "535 5.7.8 no")
    assert "password of the route" in str(event["mend"])
    assert WRONG.password not in repr(event)
    assert "MAIL" not in verbs(host)
    assert verbs(host).endswith("QUIT")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("454 4.7.0 try later", "Deferred 454 4.7.0"),
        ("534 5.7.9 too weak", "Deferred 534 5.7.9"),
        ("500 5.5.6 too long", "Deferred 500 5.5.6"),
        ("421 4.3.2 bye", "Deferred 421 4.3.2"),
        ("close", "Deferred 451 4.4.2"),
        ("334 what?", "Deferred 451 4.5.0"),
        ("334 " + "QQ==", "Deferred 451 4.7.8"),
        ("354 what?", "Deferred 451 4.5.0"),
    ],
)
async def test_whatever_the_host_says_to_a_login_the_mail_waits(reply: str, expected: str) -> None:
    host = host_with("PLAIN", replies={"AUTH": [reply, "501 5.5.2 cancelled"]})
    outcome, _ = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == expected
    assert "MAIL" not in verbs(host)


@pytest.mark.parametrize("octets", [PASSWORD.encode(), f"\0{USER}\0{PASSWORD}".encode()])
@pytest.mark.parametrize("form", [bytes, base64.b64encode])
async def test_a_host_that_repeats_the_password_does_not_bring_it_into_the_log(
    octets: bytes, form: Callable[[bytes], bytes]
) -> None:
    said = form(octets).decode().replace("\0", " ")
    host = host_with("PLAIN", replies={"AUTH": [f"535 5.7.8 who is {said}, please?"]})
    outcome, logged = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == "Deferred 535 5.7.8"
    assert "please?" in outcome.reply.text
    assert not secrets_in(f"{outcome!r} {logged!r}".encode())


@pytest.mark.parametrize("answer", ["501 5.5.2 cancelled", "close", "421 4.3.2 bye", "334 QQ==", "354 what?"])
async def test_an_exchange_that_is_cancelled_ends_whatever_the_host_says(answer: str) -> None:
    host = host_with("PLAIN", replies={"AUTH": ["334 QQ=="], "*": [answer]})
    outcome, _ = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == ("Deferred 451 4.5.0" if answer.startswith("354") else "Deferred 451 4.7.8")
    assert "MAIL" not in verbs(host)


@pytest.mark.parametrize("keys", [{"honest": False}, {"shows": False}])
async def test_a_host_that_does_not_know_the_password_itself_is_refused(keys: dict[str, bool]) -> None:
    host = host_with("SCRAM-SHA-256", **keys)
    outcome, _ = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == "Deferred 451 4.7.8"
    assert "MAIL" not in verbs(host)


async def test_a_host_that_asks_for_hours_of_hashing_is_refused() -> None:
    host = host_with("SCRAM-SHA-256", rounds=MAX_SCRAM_ROUNDS + 1)
    outcome, _ = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == "Deferred 451 4.7.8"
    assert "rounds of hashing" in outcome.reply.text


# ---- channels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize(
    ("demand", "host", "expected"),
    [
        (NONE, SecureHost(), "Deferred 451 4.7.11"),
        (MAY, SecureHost(), "Deferred 451 4.7.11"),
        (MAY, SecureHost(extensions=EVERYTHING), "Deferred 451 4.7.11"),
        (MAY, SecureHost(replies={"STARTTLS": ["454 4.7.0 later"]}), "Deferred 451 4.7.11"),
        (REQUIRE, SecureHost(), "Deferred 451 4.7.11"),
        (VERIFY, SecureHost(tls=UNKNOWN), "Deferred 451 4.7.5"),
        (VERIFY, SecureHost(extensions=EVERYTHING), "Deferred 451 4.7.4"),
    ],
)
async def test_the_password_never_goes_over_an_unverified_channel(
    demand: RouteTls, host: SecureHost, expected: str, mechanism: str
) -> None:
    offers = f"AUTH {mechanism}"
    host = attrs.evolve(
        host,
        extensions=(*host.extensions, offers),
        secure_extensions=(*EVERYTHING, offers),
        heard=[],
        commands=[],
        mails=[],
        streams=[],
        scopes=[],
        names=[],
        logins=[],
    )
    outcome, _ = await deliver(host, asks=security(demand, login=LOGIN))
    assert brief(outcome) == expected
    assert "AUTH" not in verbs(host)
    assert host.logins == []
    for octets in host.heard:
        assert b"AUTH" not in octets
        assert not secrets_in(bytes(octets))


@pytest.mark.parametrize(
    ("demand", "login", "address"),
    [
        (NONE, UNVERIFIED, "192.0.2.1"),
        (MAY, UNVERIFIED, "192.0.2.1"),
        (REQUIRE, UNVERIFIED, "192.0.2.1"),
        (NONE, LOGIN, "127.0.0.1"),
        (NONE, LOGIN, "::1"),
        (MAY, LOGIN, "127.0.0.2"),
    ],
)
async def test_the_password_goes_where_the_route_says_or_nobody_listens(
    demand: RouteTls, login: Login, address: str
) -> None:
    host = SecureHost(extensions=(*STARTTLS, "AUTH PLAIN"), secure_extensions=(*EVERYTHING, "AUTH PLAIN"))
    outcome, _ = await deliver(host, asks=security(demand, login=login), address=address)
    assert brief(outcome) == OK
    assert host.logins == [("PLAIN", USER)]
    assert secrets_in(bytes(host.heard[0])) == (demand is NONE), "the test's own eyes see a password in clear"


@pytest.mark.parametrize("last_word", ["close", "421 4.7.0 bye"])
async def test_a_host_that_hangs_up_when_we_break_off_is_no_defect_of_ours(last_word: str) -> None:
    host = host_with("SCRAM-SHA-256", rounds=MAX_SCRAM_ROUNDS + 1, replies={"AUTH": [last_word]})
    outcome, logged = await deliver(host, asks=security(VERIFY, login=LOGIN))
    assert brief(outcome) == "Deferred 451 4.7.8"
    assert host.commands[-1] == "*"
    assert [event["event"] for event in logged] == ["delivery.login_refused"]


# ---- the mechanisms alone ------------------------------------------------------------------------


def test_plain_is_rfc_4616s_example() -> None:
    assert Plain(Login("tim", "tanstaaftanstaaf")).initial() == b"\0tim\0tanstaaftanstaaf"


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_secret_is_in_a_repr(username: str, password: str) -> None:
    login = Login(username, f"s3cr3t{password}")
    assert "s3cr3t" not in repr(login)
    assert "s3cr3t" not in repr(exchange_for(login, frozenset({"PLAIN"})))


@pytest.mark.parametrize("octets", [0, 1, 300, 367, 368, 2000])
def test_an_initial_response_that_makes_the_line_too_long_waits(octets: int) -> None:
    line = f"AUTH PLAIN {base64.b64encode(b'x' * octets).decode()}\r\n"
    assert fits("PLAIN", b"x" * octets) == (len(line) <= 512)


async def test_a_long_password_is_sent_when_it_is_asked_for() -> None:
    long = Login(USER, "x" * 700)
    host = host_with("PLAIN")
    outcome, _ = await deliver(host, asks=security(VERIFY, login=long))
    assert brief(outcome) == "Deferred 535 5.7.8"  # it is another password, but came whole
    answer = host.commands[host.commands.index("AUTH PLAIN") + 1]
    assert base64.b64decode(answer) == f"\0{USER}\0{'x' * 700}".encode()


@pytest.mark.parametrize("make", [Plain, PlainLogin, Scram])
def test_an_exchange_ends(make: type[Plain] | type[PlainLogin] | type[Scram]) -> None:
    exchange: Exchange = make(LOGIN)
    exchange.initial()
    answers = 0
    while answers < 4:
        try:
            exchange.respond(b"x")
        except ExchangeFailed:
            break
        answers += 1
    assert answers < 3


@given(st.binary(max_size=200))
def test_scram_survives_whatever_a_host_says(challenge: bytes) -> None:
    exchange = Scram(LOGIN)
    exchange.initial()
    with pytest.raises(ExchangeFailed) as caught:
        exchange.respond(challenge)
    assert str(caught.value).isprintable()
    assert PASSWORD not in str(caught.value)
    with pytest.raises(ExchangeFailed):
        exchange.finish()


def test_scram_refuses_characters_without_showing_them() -> None:
    with pytest.raises(ExchangeFailed) as caught:
        Scram(Login("relay", "hunter\x07two")).initial()
    assert "hunter" not in str(caught.value)
    assert caught.value.__cause__ is None
