"""PLAIN, LOGIN: whole dialogues, with every refusal."""

import pytest

from elemta.auth.base import MAX_NAME_OCTETS
from elemta.auth.sasl.base import Challenge, CheckPassword, Circumstances, Exchange, Fault, OutOfTurn, Refused
from elemta.auth.sasl.mechanisms import begin
from elemta.auth.sasl.preparation import MAX_PASSWORD_OCTETS


def plain() -> Exchange:
    return begin("PLAIN", Circumstances())


def login() -> Exchange:
    return begin("LOGIN", Circumstances())


# ---- PLAIN ---------------------------------------------------------------------------------------


def test_plain_with_an_initial_response() -> None:
    """RFC 4616 §4, the first example."""
    assert plain().step(b"\0tim\0tanstaaftanstaaf") == CheckPassword("tim", b"tanstaaftanstaaf")


def test_plain_without_one() -> None:
    exchange = plain()
    assert exchange.step(None) == Challenge(b"")
    assert exchange.step(b"\0tim\0tanstaaftanstaaf") == CheckPassword("tim", b"tanstaaftanstaaf")


def test_plain_acting_as_another() -> None:
    """RFC 4616 §4, the second example: Kurt is not Ursel."""
    outcome = plain().step(b"Ursel\0Kurt\0xipj3plmq")
    assert outcome == Refused("acting as another user", Fault.CREDENTIALS)


@pytest.mark.parametrize("authzid", [b"Tim@Example.org", b"tim@example.org"])
def test_plain_acting_as_oneself(authzid: bytes) -> None:
    outcome = plain().step(authzid + b"\0tim@EXAMPLE.org\0secret")
    assert outcome == CheckPassword("tim@example.org", b"secret", "tim@example.org")


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"tim", id="no NUL"),
        pytest.param(b"tim\0secret", id="one NUL"),
        pytest.param(b"\0tim\0sec\0ret", id="NUL in the password"),
        pytest.param(b"\0tim\0secret\0", id="NUL at the end"),
        pytest.param(b"\0\0secret", id="no name"),
        pytest.param(b"\0tim\0", id="no password"),
        pytest.param(b"\0ti\r\nm\0secret", id="CRLF in the name"),
        pytest.param(b"\0ti\nm\0secret", id="LF in the name"),
        pytest.param(b"\0tim\0sec\rret", id="CR in the password"),
        pytest.param(b"\0tim\x1b[2J\0secret", id="escape sequence in the name"),
        pytest.param(b"ti\x07m\0tim\0secret", id="control character in the authzid"),
        pytest.param(b"\0t\xefm\0secret", id="name in Latin-1"),
        pytest.param(b"\0tim\0secr\xe9t", id="password in Latin-1"),
        pytest.param(b"\0" + b"t" * (MAX_NAME_OCTETS + 1) + b"\0secret", id="long name"),
        pytest.param(b"\0tim\0" + b"s" * (MAX_PASSWORD_OCTETS + 1), id="long password"),
    ],
)
def test_plain_malformed(message: bytes) -> None:
    outcome = plain().step(message)
    assert isinstance(outcome, Refused)
    assert outcome.fault is Fault.MALFORMED
    assert "secret" not in outcome.reason


def test_the_longest_name_and_password() -> None:
    name, password = b"t" * MAX_NAME_OCTETS, b"s" * MAX_PASSWORD_OCTETS
    assert plain().step(b"\0" + name + b"\0" + password) == CheckPassword(name.decode(), password)


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(plain().step(b"\0tim\0hunter2"))


# ---- LOGIN ---------------------------------------------------------------------------------------


def test_login_asks_for_both() -> None:
    exchange = login()
    assert exchange.step(None) == Challenge(b"Username:")
    assert exchange.step(b"Tim") == Challenge(b"Password:")
    assert exchange.step(b"tanstaaf") == CheckPassword("tim", b"tanstaaf")


def test_login_with_the_name_as_initial_response() -> None:
    exchange = login()
    assert exchange.step(b"tim") == Challenge(b"Password:")
    assert exchange.step("tanst\u00e4\u00e4f".encode()) == CheckPassword("tim", "tanst\u00e4\u00e4f".encode())


@pytest.mark.parametrize("name", [b"", b"ti\0m", b"ti\r\nm", b"\xff", b"t" * (MAX_NAME_OCTETS + 1)])
def test_login_with_a_bad_name_never_asks_for_the_password(name: bytes) -> None:
    exchange = login()
    exchange.step(None)
    assert isinstance(exchange.step(name), Refused)
    with pytest.raises(OutOfTurn):
        exchange.step(b"secret")


@pytest.mark.parametrize("password", [b"", b"a\0b", b"a\nb", b"\xff", b"s" * (MAX_PASSWORD_OCTETS + 1)])
def test_login_with_a_bad_password(password: bytes) -> None:
    exchange = login()
    exchange.step(b"tim")
    outcome = exchange.step(password)
    assert isinstance(outcome, Refused)
    assert outcome.fault is Fault.MALFORMED


# ---- the driver's mistakes -----------------------------------------------------------------------


def test_an_exchange_that_is_over_takes_nothing_more() -> None:
    exchange = plain()
    exchange.step(b"\0tim\0secret")
    for response in (b"x", None):
        with pytest.raises(OutOfTurn):
            exchange.step(response)
    with pytest.raises(OutOfTurn):
        exchange.deny()


def test_only_the_first_response_may_be_missing() -> None:
    exchange = login()
    exchange.step(b"tim")
    with pytest.raises(OutOfTurn):
        exchange.step(None)
    exchange = plain()
    exchange.step(None)
    with pytest.raises(OutOfTurn):
        exchange.step(None)


def test_what_other_mechanisms_have_is_refused() -> None:
    with pytest.raises(OutOfTurn):
        login().known(None)
    with pytest.raises(KeyError):
        begin("CRAM-MD5", Circumstances())
