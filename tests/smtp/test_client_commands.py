"""Commands as they are written for what a host offers, and the objections where it offers too little."""

from typing import Any

import attrs
import pytest
from hypothesis import given, strategies

from elemta.mail.address import Address
from elemta.mail.envelope import BodyType, Envelope, Notify, Recipient, Ret
from elemta.mail.reply import Reply
from elemta.smtp.client_checks import objection, recipient_objection
from elemta.smtp.client_commands import (
    Capabilities,
    Transaction,
    mail_command,
    parse_capabilities,
    rcpt_command,
    xtext,
)
from elemta.smtp.grammar import decode_xtext

EVERYTHING = Capabilities(
    pipelining=True,
    size=True,
    eight_bit_mime=True,
    smtputf8=True,
    dsn=True,
    mt_priority=True,
    require_tls=True,
)
PLAIN = Address("a", "example.org")
UNICODE = Address("ö", "example.org")
ENVELOPE = Envelope(PLAIN, (Recipient(Address("b", "example.net")),))


def transaction(envelope: Envelope = ENVELOPE, *, size: int = 10, eight_bit: bool = False) -> Transaction:
    return Transaction(envelope, size, eight_bit)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), Capabilities()),
        (("PIPELINING", "DSN"), Capabilities(pipelining=True, dsn=True)),
        (("pipelining", "8bitMime", "SmtpUtf8"), Capabilities(pipelining=True, eight_bit_mime=True, smtputf8=True)),
        (("SIZE",), Capabilities(size=True)),
        (("SIZE 0",), Capabilities(size=True)),
        (("SIZE 35882577",), Capabilities(size=True, size_limit=35882577)),
        (("SIZE many",), Capabilities(size=True)),
        (("SIZE " + "9" * 21,), Capabilities(size=True)),
        (("SIZE ١٢",), Capabilities(size=True)),
        (("SIZE -1",), Capabilities(size=True)),
        (("AUTH PLAIN login", "AUTH=CRAM-MD5"), Capabilities(auth=frozenset({"PLAIN", "LOGIN", "CRAM-MD5"}))),
        (("CHUNKING", "ENHANCEDSTATUSCODES"), Capabilities(chunking=True, enhanced_status_codes=True)),
        (("STARTTLS", "REQUIRETLS"), Capabilities(starttls=True, require_tls=True)),
        (("MT-PRIORITY MIXER",), Capabilities(mt_priority=True)),
        (("", "   ", "X-NEW one two", "XCLIENT NAME"), Capabilities()),
    ],
)
def test_capabilities(lines: tuple[str, ...], expected: Capabilities) -> None:
    assert parse_capabilities(Reply(250, "", ("PIPELINING.example greets you", *lines))) == expected


@pytest.mark.parametrize(
    ("change", "command"),
    [
        ({}, "MAIL FROM:<a@example.org> SIZE=10"),
        ({"reverse_path": None}, "MAIL FROM:<> SIZE=10"),
        ({"reverse_path": Address("a b", "example.org")}, 'MAIL FROM:<"a b"@example.org> SIZE=10'),
        ({"reverse_path": UNICODE}, "MAIL FROM:<ö@example.org> SIZE=10 SMTPUTF8"),
        ({"recipients": (Recipient(UNICODE),)}, "MAIL FROM:<a@example.org> SIZE=10 SMTPUTF8"),
        ({"smtputf8": True}, "MAIL FROM:<a@example.org> SIZE=10 SMTPUTF8"),
        ({"body": BodyType.EIGHT_BIT_MIME}, "MAIL FROM:<a@example.org> SIZE=10 BODY=8BITMIME"),
        ({"ret": Ret.FULL, "envid": "a+b"}, "MAIL FROM:<a@example.org> SIZE=10 RET=FULL ENVID=a+2Bb"),
        ({"mt_priority": 0}, "MAIL FROM:<a@example.org> SIZE=10 MT-PRIORITY=0"),
        ({"require_tls": True}, "MAIL FROM:<a@example.org> SIZE=10 REQUIRETLS"),
    ],
)
def test_mail(change: dict[str, Any], command: str) -> None:
    envelope = attrs.evolve(ENVELOPE, **change)
    assert mail_command(transaction(envelope), EVERYTHING) == command
    assert mail_command(transaction(envelope), Capabilities()) == command.split(" SIZE=")[0]


def test_eight_bit_content_is_announced_whatever_the_sender_said() -> None:
    assert mail_command(transaction(eight_bit=True), EVERYTHING).endswith(" BODY=8BITMIME")


@pytest.mark.parametrize(
    ("notify", "original", "unicode", "parameters"),
    [
        (None, None, False, ""),
        (Notify.NEVER, None, False, " NOTIFY=NEVER"),
        (Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, None, False, " NOTIFY=SUCCESS,FAILURE,DELAY"),
        (None, "rfc822;b@example.net", False, " ORCPT=rfc822;b@example.net"),
        (None, "rfc822;b+c d=e@example.net", False, " ORCPT=rfc822;b+2Bc+20d+3De@example.net"),
        (None, "utf-8;ö+b@example.net", True, r" ORCPT=utf-8;ö\x{2B}b@example.net"),
        (None, "utf-8;ö\\b@example.net", False, r" ORCPT=utf-8;\x{F6}\x{5C}b@example.net"),
        (None, r"utf-8;\x{F6}@example.net", True, r" ORCPT=utf-8;\x{F6}@example.net"),
    ],
)
def test_rcpt(notify: Notify | None, original: str | None, unicode: bool, parameters: str) -> None:
    recipient = Recipient(Address("b", "example.net"), notify, original)
    assert rcpt_command(recipient, EVERYTHING, unicode=unicode) == f"RCPT TO:<b@example.net>{parameters}"
    assert rcpt_command(recipient, Capabilities(), unicode=unicode) == "RCPT TO:<b@example.net>"


@given(strategies.text(alphabet=strategies.characters(max_codepoint=126), max_size=40))
def test_xtext_comes_back_the_same(value: str) -> None:
    encoded = xtext(value)
    assert encoded.isprintable()
    assert not set(encoded) & set(" =")
    if value.isprintable():
        assert decode_xtext(encoded) == value


@pytest.mark.parametrize(
    ("change", "offered", "unicode_header", "expected"),
    [
        ({}, Capabilities(), False, None),
        ({"size": 1000}, Capabilities(size=True, size_limit=1000), False, None),
        ({"size": 1001}, Capabilities(size=True, size_limit=1000), False, (552, "5.3.4")),
        ({"eight_bit": True}, Capabilities(), False, (554, "5.6.3")),
        ({"eight_bit": True}, Capabilities(eight_bit_mime=True), False, None),
        ({"envelope": attrs.evolve(ENVELOPE, reverse_path=UNICODE)}, Capabilities(), False, (553, "5.6.7")),
        ({"envelope": attrs.evolve(ENVELOPE, reverse_path=UNICODE)}, EVERYTHING, False, None),
        ({}, Capabilities(), True, (550, "5.6.7")),
        ({}, EVERYTHING, True, None),
    ],
)
def test_objections(
    change: dict[str, Any], offered: Capabilities, unicode_header: bool, expected: tuple[int, str] | None
) -> None:
    reply = objection(attrs.evolve(transaction(), **change), offered, unicode_header=unicode_header)
    assert (reply and (reply.code, reply.enhanced)) == expected


def test_objections_to_one_recipient() -> None:
    assert recipient_objection(PLAIN, Capabilities()) is None
    assert recipient_objection(UNICODE, EVERYTHING) is None
    refusal = recipient_objection(UNICODE, Capabilities())
    assert refusal is not None
    assert (refusal.code, refusal.enhanced) == (553, "5.6.7")
