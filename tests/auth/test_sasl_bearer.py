"""OAUTHBEARER, XOAUTH2: whole dialogues, the examples of RFC 7628 and Google, every refusal."""

import base64
import json

import pytest

from elemta.auth.sasl.base import Challenge, CheckToken, Circumstances, Exchange, Fault, OutOfTurn, Refused
from elemta.auth.sasl.bearer import MAX_TOKEN_OCTETS
from elemta.auth.sasl.mechanisms import begin

TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
#: RFC 7628 §4.1.
RFC_7628_IMAP = base64.b64decode(
    "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyI"
    "HZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
)
#: RFC 7628 §4.2.
RFC_7628_SMTP = RFC_7628_IMAP.replace(b"port=143", b"port=587")
#: Google's documentation of XOAUTH2.
GOOGLE = base64.b64decode(
    "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ=="
)


def oauthbearer() -> Exchange:
    return begin("OAUTHBEARER", Circumstances(scope="example_scope"))


def xoauth2() -> Exchange:
    return begin("XOAUTH2", Circumstances(scope="https://mail.example.com/"))


# ---- OAUTHBEARER ---------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [RFC_7628_IMAP, RFC_7628_SMTP])
def test_the_examples_of_the_rfc(message: bytes) -> None:
    assert oauthbearer().step(message) == CheckToken(None, TOKEN, "user@example.com")


def test_without_an_initial_response() -> None:
    exchange = oauthbearer()
    assert exchange.step(None) == Challenge(b"")
    assert exchange.step(b"n,,\1auth=Bearer abc\1\1") == CheckToken(None, "abc", "")


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (b"n,,\1auth=bEARER  a.b-c_d~e+f/g=\1\1", CheckToken(None, "a.b-c_d~e+f/g=", "")),
        (b"y,,\1auth=Bearer abc\1\1", CheckToken(None, "abc", "")),
        (b"n,a=User=2Cor=3DSo,\1auth=Bearer abc\1\1", CheckToken(None, "abc", "user,or=so")),
        (b"n,,\1host=a\1unknown=b=c\1auth=Bearer abc\1\1", CheckToken(None, "abc", "")),
    ],
)
def test_the_forms_of_a_message(message: bytes, outcome: CheckToken) -> None:
    assert oauthbearer().step(message) == outcome


def test_a_token_that_is_not_good() -> None:
    """RFC 7628 §3.2.2, §3.2.3: the error, the client's ^A, the refusal."""
    exchange = oauthbearer()
    exchange.step(RFC_7628_SMTP)
    challenge = exchange.deny()
    assert json.loads(challenge.data) == {"status": "invalid_token", "scope": "example_scope"}
    assert exchange.step(b"\1") == Refused("the token is not good", Fault.CREDENTIALS)
    with pytest.raises(OutOfTurn):
        exchange.deny()


def test_whatever_acknowledges_the_error_is_refused() -> None:
    exchange = oauthbearer()
    exchange.step(RFC_7628_SMTP)
    exchange.deny()
    assert exchange.step(RFC_7628_SMTP) == Refused("the token is not good", Fault.CREDENTIALS)


@pytest.mark.parametrize("message", [b"n,a=user@example.com,\1host=server.example.com\1auth=\1\1", b"n,,\1\1"])
def test_a_client_without_a_token_hears_what_it_needs(message: bytes) -> None:
    """RFC 7628 §4.3."""
    exchange = oauthbearer()
    challenge = exchange.step(message)
    assert isinstance(challenge, Challenge)
    assert json.loads(challenge.data) == {"status": "invalid_token", "scope": "example_scope"}
    assert exchange.step(b"\1") == Refused("the token is not good", Fault.CREDENTIALS)


def test_no_scope_no_word_of_it() -> None:
    exchange = begin("OAUTHBEARER", Circumstances())
    exchange.step(RFC_7628_SMTP)
    assert exchange.deny() == Challenge(b'{"status":"invalid_token"}')


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"auth=Bearer abc\1\1", id="no header"),
        pytest.param(b"n,,auth=Bearer abc\1\1", id="no ^A behind the header"),
        pytest.param(b"n,,\1auth=Bearer abc", id="no end"),
        pytest.param(b"n,,\1auth=Bearer abc\1", id="one ^A at the end"),
        pytest.param(b"n,,\1auth=Bearer abc\1\1\1", id="three"),
        pytest.param(b"n,,\1", id="header alone"),
        pytest.param(b"n,,\1auth=Bearer abc\1auth=Bearer def\1\1", id="two tokens"),
        pytest.param(b"n,,\1auth\1\1", id="no pair"),
        pytest.param(b"n,,\1auth=Basic abc\1\1", id="another scheme"),
        pytest.param(b"n,,\1auth=Bearer \1\1", id="no token behind the scheme"),
        pytest.param(b"n,,\1auth=Bearer a b\1\1", id="blank in the token"),
        pytest.param(b"n,,\1auth=Bearer a\r\nb\1\1", id="CRLF in the token"),
        pytest.param(b"n,,\1auth=Bearer " + b"a" * (MAX_TOKEN_OCTETS + 1) + b"\1\1", id="long token"),
        pytest.param(b"p=tls-server-end-point,,\1auth=Bearer abc\1\1", id="channel binding"),
        pytest.param(b"F,n,,\1auth=Bearer abc\1\1", id="non-standard flag"),
        pytest.param(b"n,user=someuser@example.com,\1auth=Bearer abc\1\1", id="not the authzid's key"),
        pytest.param(b"n,a=us\0er,\1auth=Bearer abc\1\1", id="NUL in the authzid"),
        pytest.param(b"n,a=us=er,\1auth=Bearer abc\1\1", id="bare = in the authzid"),
        pytest.param(b"n,a=,\1auth=Bearer abc\1\1", id="empty authzid"),
    ],
)
def test_oauthbearer_malformed(message: bytes) -> None:
    outcome = oauthbearer().step(message)
    assert isinstance(outcome, Refused)
    assert outcome.fault is Fault.MALFORMED


# ---- XOAUTH2 -------------------------------------------------------------------------------------


def test_the_example_of_google() -> None:
    exchange = xoauth2()
    assert exchange.step(None) == Challenge(b"")
    outcome = exchange.step(GOOGLE)
    assert outcome == CheckToken("someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")


@pytest.mark.parametrize("acknowledgement", [b"", b"\1"])
def test_xoauth2_with_a_token_that_is_not_good(acknowledgement: bytes) -> None:
    exchange = xoauth2()
    exchange.step(GOOGLE)
    error = json.loads(exchange.deny().data)
    assert error == {"status": "401", "schemes": "bearer", "scope": "https://mail.example.com/"}
    assert exchange.step(acknowledgement) == Refused("the token is not good", Fault.CREDENTIALS)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"user=alice\1\1", id="no token"),
        pytest.param(b"auth=Bearer abc\1\1", id="no user"),
        pytest.param(b"user=\1auth=Bearer abc\1\1", id="empty user"),
        pytest.param(b"user=a\0b\1auth=Bearer abc\1\1", id="NUL in the user"),
        pytest.param(b"user=a\r\nb\1auth=Bearer abc\1\1", id="CRLF in the user"),
        pytest.param(b"user=alice\1user=bob\1auth=Bearer abc\1\1", id="two users"),
        pytest.param(b"user=alice\1auth=\1\1", id="empty token"),
        pytest.param(b"user=alice\1auth=Bearer abc\1", id="one ^A at the end"),
    ],
)
def test_xoauth2_malformed(message: bytes) -> None:
    outcome = xoauth2().step(message)
    assert isinstance(outcome, Refused)
    assert outcome.fault is Fault.MALFORMED


def test_no_token_is_denied_before_it_was_shown() -> None:
    with pytest.raises(OutOfTurn):
        xoauth2().deny()


def test_a_token_is_not_shown() -> None:
    assert TOKEN not in repr(oauthbearer().step(RFC_7628_SMTP))
