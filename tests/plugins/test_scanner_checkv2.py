"""What rspamd is told, what it answers."""

import contextlib
import json

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.net.base import Endpoint
from elemta.plugins.mail import SessionFacts
from elemta.plugins.scanners.checkv2 import (
    MAX_FIELD_OCTETS,
    MAX_RECIPIENT_OCTETS,
    Action,
    RspamdAnswer,
    parse_answer,
    question,
)
from elemta.plugins.scanners.failure import ScannerFailed
from tests.plugins.scanning import ScannedMail, a_mail


def test_the_question() -> None:
    assert question(a_mail(), "out.example.org", server="mail.example.com", password="hunter2") == [
        (b"From", b"<a@example.org>"),
        (b"IP", b"198.51.100.7"),
        (b"Hostname", b"out.example.org"),
        (b"Helo", b"client.example"),
        (b"User", b"alice"),
        (b"Queue-Id", b"0123456789abcdefghijkl"),
        (b"MTA-Name", b"mail.example.com"),
        (b"Password", b"hunter2"),
        (b"Rcpt", b"<b@example.com>"),
        (b"Rcpt", b"<c@example.com>"),
    ]


class Bounce(ScannedMail):
    sender = None
    recipients = ()

    def __init__(self, helo: str = "") -> None:
        super().__init__()
        self.session = SessionFacts("s", Endpoint("/run/socket"), Endpoint("/run/socket"), "unix", helo=helo)


def test_what_is_not_known_is_not_told() -> None:
    mail = Bounce()
    assert dict(question(mail, "", server="m", password=None)) == {  # type: ignore[arg-type]  # as much of it as is read
        b"From": b"<>",
        b"Queue-Id": b"0123456789abcdefghijkl",
        b"MTA-Name": b"m",
    }


def test_no_field_can_be_smuggled_in() -> None:
    mail = Bounce(helo="client\r\nUser: root\r\n\r\n" + "x" * 5000)
    fields = dict(question(mail, "", server="m", password=None))  # type: ignore[arg-type]  # as much of it as is read
    assert fields[b"Helo"].startswith(b"client User: root x")
    assert len(fields[b"Helo"]) == MAX_FIELD_OCTETS


def test_a_field_that_is_cut_does_not_end_with_a_space() -> None:
    mail = a_mail()
    mail.session = evolve(mail.session, user="x" * (MAX_FIELD_OCTETS - 1) + " y")
    assert (b"User", b"x" * (MAX_FIELD_OCTETS - 1)) in question(mail, "", server="mail.example.com", password=None)


def test_recipients_are_told_while_there_is_room() -> None:
    mail = a_mail()
    mail.recipients = [Recipient(Address("x" * 60, f"{number}.example.com")) for number in range(2000)]
    told = [value for name, value in question(mail, "", server="m", password=None) if name == b"Rcpt"]
    assert 300 < len(told) < 2000
    assert sum(map(len, told)) <= MAX_RECIPIENT_OCTETS


def test_an_answer() -> None:
    says = {
        "action": "rewrite subject",
        "score": 8.5,
        "required_score": 15.0,
        "symbols": {"GTUBE": {"name": "GTUBE", "score": 0.0}, "R_SPF_FAIL": {}},
        "subject": "*** SPAM *** hello",
        "messages": {"smtp_message": "Try again\r\nlater"},
        "time_real": 0.1,
    }
    assert parse_answer(json.dumps(says).encode()) == RspamdAnswer(
        Action.REWRITE_SUBJECT,
        8.5,
        symbols=("GTUBE", "R_SPF_FAIL"),
        subject="*** SPAM *** hello",
        message="Try again later",
    )


def test_what_else_is_there_may_be_anything() -> None:
    says = b'{"action": "ours", "score": 1, "symbols": [], "subject": 4, "messages": "", "thresholds": null}'
    assert parse_answer(says) == RspamdAnswer(None, 1.0)


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no object"),
        (b"{}", "without action and score"),
        (b'{"action": "reject"}', "without action and score"),
        (b'{"action": 1, "score": 1}', "without action and score"),
        (b'{"action": "reject", "score": NaN}', "without action and score"),
        (b'{"action": "reject", "score": 1%b}' % (b"0" * 400), "without action and score"),
        (b'{"action": "reject", "score": 1e400}', "without action and score"),
        (b'{"action": "reject", "score": -Infinity}', "without action and score"),
        (b'{"action": "reject", "score": true}', "without action and score"),
        (b'{"error": "\\u001binvalid command"}', "it says: invalid command"),
    ],
)
def test_what_is_no_answer(octets: bytes, says: str) -> None:
    with pytest.raises(ScannerFailed) as failure:
        parse_answer(octets)
    assert says in str(failure.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = ("action", "score", "symbols", "subject", "messages", "error")


@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES))
def test_hostile_answers_are_failures_or_answers(says: dict[str, object]) -> None:
    with contextlib.suppress(ScannerFailed):
        parse_answer(json.dumps(says).encode())
