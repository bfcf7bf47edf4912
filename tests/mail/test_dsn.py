"""Delivery reports, as mail programs parse them and as no relay may refuse them."""

from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from elemta.mail.address import Address
from elemta.mail.dsn import (
    FOLD_AT_OCTETS,
    MAX_LINE_OCTETS,
    Action,
    BoundaryFound,
    Dsn,
    RecipientReport,
    RenderedDsn,
    clip,
    host_name,
    render,
    status_for,
    wrap,
)
from elemta.mail.outcome import NO_PEER, Peer
from elemta.mail.reply import Reply

BOUNDARY = "=_boundary"
HEADER = b"From: alice@example.com\r\nSubject: Hello\r\nMessage-ID: <1@example.com>\r\n"
BOB = RecipientReport(
    address=Address("bob", "example.org"),
    action=Action.FAILED,
    status="5.1.1",
    reply=Reply(550, "5.1.1", ("No such user", "here")),
    peer=Peer("mx.example.org", "192.0.2.7"),
    original="rfc822;robert@example.net",
    last_attempt_at=1_700_000_060.0,
)
JÜRGEN = evolve(BOB, address=Address("jürgen", "xn--bcher-kva.example"), original=None)
DSN = Dsn(
    to=Address("alice", "example.com"),
    subject="Your mail could not be delivered",
    text="What happened.\n\nTo whom.\n",
    hostname="mail.example.com",
    id="R" * 22,
    mail_id="M" * 22,
    at=1_700_000_061.0,
    arrived_at=1_700_000_000.0,
    recipients=(BOB,),
    envid="QQ314159",
    original=HEADER,
)


def parsed(rendered: RenderedDsn) -> EmailMessage:
    mail = BytesParser(policy=policy.default).parsebytes(rendered.content)
    assert not mail.defects
    return mail


def parts(dsn: Dsn) -> list[EmailMessage]:
    found = [part for part in parsed(render(dsn, BOUNDARY)).iter_parts() if isinstance(part, EmailMessage)]
    assert not any(part.defects for part in found)
    return found


def kinds(dsn: Dsn) -> list[tuple[str, str]]:
    return [(part.get_content_type(), part["Content-Transfer-Encoding"]) for part in parts(dsn)]


def assert_passes_every_relay(rendered: RenderedDsn) -> None:
    wire = rendered.content
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    assert max(map(len, wire.split(b"\r\n"))) <= MAX_LINE_OCTETS
    assert b"\0" not in wire
    assert wire.endswith(b"--\r\n")
    assert rendered.eight_bit or wire.isascii()
    assert rendered.utf8 or wire[: rendered.header_octets].isascii()
    assert wire[rendered.header_octets :].startswith(b"\r\n")


def test_a_report_to_the_octet() -> None:
    rendered = render(DSN, BOUNDARY)
    assert (rendered.eight_bit, rendered.utf8) == (False, False)
    assert rendered.content.decode("ascii").split("\r\n") == [
        "From: Mail Delivery System <MAILER-DAEMON@mail.example.com>",
        "To: <alice@example.com>",
        "Subject: Your mail could not be delivered",
        "Date: Tue, 14 Nov 2023 22:14:21 +0000",
        "Message-ID: <RRRRRRRRRRRRRRRRRRRRRR@mail.example.com>",
        "In-Reply-To: <1@example.com>",
        "References: <1@example.com>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        '\tboundary="=_boundary"',
        "",
        "This is a report in MIME format, RFC 3464.",
        "",
        "--=_boundary",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
        "",
        "What happened.",
        "",
        "To whom.",
        "",
        "--=_boundary",
        "Content-Type: message/delivery-status",
        "Content-Transfer-Encoding: 7bit",
        "",
        "Original-Envelope-Id: QQ314159",
        "Reporting-MTA: dns; mail.example.com",
        "Arrival-Date: Tue, 14 Nov 2023 22:13:20 +0000",
        "X-Elemta-Queue-Id: MMMMMMMMMMMMMMMMMMMMMM",
        "",
        "Original-Recipient: rfc822; robert@example.net",
        "Final-Recipient: rfc822; bob@example.org",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; mx.example.org",
        "Diagnostic-Code: smtp; 550 5.1.1 No such user here",
        "Last-Attempt-Date: Tue, 14 Nov 2023 22:14:20 +0000",
        "",
        "--=_boundary",
        "Content-Type: text/rfc822-headers",
        "Content-Transfer-Encoding: 7bit",
        "",
        "From: alice@example.com",
        "Subject: Hello",
        "Message-ID: <1@example.com>",
        "",
        "--=_boundary--",
        "",
    ]


def test_mail_programs_see_a_report() -> None:
    mail = parsed(render(evolve(DSN, recipients=(BOB, BOB)), BOUNDARY))
    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == "delivery-status"
    text, status, original = mail.iter_parts()
    assert isinstance(text, EmailMessage)
    assert text.get_content() == "What happened.\r\n\r\nTo whom.\r\n"
    assert [group["Action"] for group in status.iter_parts()] == [None, "failed", "failed"]
    assert original.get_content_type() == "text/rfc822-headers"


def test_what_is_not_known_is_left_out() -> None:
    bare = evolve(BOB, original=None, peer=NO_PEER, last_attempt_at=None)
    content = render(evolve(DSN, envid=None, original=b"", recipients=(bare,)), BOUNDARY).content
    for absent in (
        b"Envelope-Id",
        b"Original-Recipient",
        b"Remote-MTA",
        b"Last-Attempt",
        b"Will-Retry",
        b"In-Reply-To",
    ):
        assert absent not in content
    assert b"\r\nDiagnostic-Code: x-elemta; 550 5.1.1 No such user here\r\n" in content
    assert kinds(evolve(DSN, original=b"")) == [("text/plain", "7bit"), ("message/delivery-status", "7bit")]


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        (Peer("mx.example.org", "192.0.2.7"), b"Remote-MTA: dns; mx.example.org\r\n"),
        (Peer("", "192.0.2.7"), b"Remote-MTA: dns; [192.0.2.7]\r\n"),
        (Peer("", "2001:db8::1"), b"Remote-MTA: dns; [IPv6:2001:db8::1]\r\n"),
    ],
)
def test_the_host_that_spoke_is_named(peer: Peer, shown: bytes) -> None:
    assert shown in render(evolve(DSN, recipients=(evolve(BOB, peer=peer),)), BOUNDARY).content


def test_retries_are_promised_only_while_there_are_some() -> None:
    until = 1_700_172_800.0
    delayed = evolve(BOB, action=Action.DELAYED, will_retry_until=until)
    promise = b"Will-Retry-Until: Thu, 16 Nov 2023 22:13:20 +0000\r\n"
    assert promise in render(evolve(DSN, recipients=(delayed,)), BOUNDARY).content
    failed = evolve(BOB, will_retry_until=until)
    assert promise not in render(evolve(DSN, recipients=(failed,)), BOUNDARY).content


@pytest.mark.parametrize(
    ("action", "reply", "status"),
    [
        (Action.FAILED, Reply(550, "5.1.1"), "5.1.1"),
        (Action.FAILED, Reply(451, "4.4.1"), "4.4.1"),
        (Action.FAILED, Reply(550), "5.0.0"),
        (Action.FAILED, Reply(450), "4.0.0"),
        (Action.FAILED, Reply(250, "2.0.0"), "5.0.0"),
        (Action.FAILED, Reply(550, "5.1"), "5.0.0"),
        (Action.FAILED, Reply(550, "5.1.1\r\nX: y"), "5.0.0"),
        (Action.DELAYED, Reply(450, "4.2.1"), "4.2.1"),
        (Action.DELAYED, Reply(550, "5.2.1"), "4.0.0"),
        (Action.DELIVERED, Reply(250, "2.1.5"), "2.1.5"),
        (Action.RELAYED, Reply(250), "2.0.0"),
        (Action.EXPANDED, Reply(421, "4.0.0"), "2.0.0"),
    ],
)
def test_the_status_fits_the_action(action: Action, reply: Reply, status: str) -> None:
    assert status_for(action, reply) == status


def test_addresses_outside_ascii_make_a_report_for_smtputf8() -> None:
    header = "From: jürgen@example.org\r\nSubject: Grüße\r\n".encode()
    dsn = evolve(DSN, text="Für Jürgen.\n", original=header, utf8_mail=True, recipients=(JÜRGEN,))
    rendered = render(dsn, BOUNDARY)
    assert (rendered.eight_bit, rendered.utf8) == (True, True)
    mail = parsed(rendered)
    assert mail.get_param("report-type") == "global-delivery-status"
    assert mail["Content-Transfer-Encoding"] == "8bit"
    assert kinds(dsn) == [
        ("text/plain", "8bit"),
        ("message/global-delivery-status", "8bit"),
        ("message/global-headers", "8bit"),
    ]
    assert "\r\nFinal-Recipient: utf-8; jürgen@xn--bcher-kva.example\r\n".encode() in rendered.content
    assert header in rendered.content


@pytest.mark.parametrize(
    "dsn",
    [
        evolve(DSN, to=Address("jürgen", "example.org")),
        evolve(DSN, recipients=(BOB, JÜRGEN)),
        evolve(DSN, recipients=(evolve(BOB, original="utf-8;jürgen@example.org"),)),
        evolve(DSN, utf8_mail=True, original="Subject: Grüße\r\n".encode()),
    ],
    ids=["sender", "recipient", "original", "header"],
)
def test_only_what_ascii_cannot_name_asks_for_smtputf8(dsn: Dsn) -> None:
    rendered = render(dsn, BOUNDARY)
    assert (rendered.utf8, rendered.eight_bit) == (True, True)
    assert kinds(dsn)[1] == ("message/global-delivery-status", "8bit")
    assert_passes_every_relay(rendered)


def test_a_mail_with_smtputf8_that_did_not_need_it_asks_for_nothing() -> None:
    rendered = render(evolve(DSN, utf8_mail=True), BOUNDARY)
    assert (rendered.utf8, rendered.eight_bit) == (False, False)


def test_words_outside_ascii_pass_every_relay() -> None:
    said = evolve(BOB, reply=Reply(550, "5.1.1", "Empfänger unbekannt \N{PILE OF POO}"))
    dsn = evolve(DSN, text="Empfänger unbekannt.\n", recipients=(said,), original="X: \xe9\r\n".encode("latin-1"))
    rendered = render(dsn, BOUNDARY)
    assert (rendered.utf8, rendered.eight_bit) == (False, False)
    text, status, original = parts(dsn)
    assert text.get_content() == "Empfänger unbekannt.\r\n"
    assert "Diagnostic-Code: smtp; 550 5.1.1 Empf\\x{E4}nger unbekannt \\x{1F4A9}" in status.as_string()
    assert (original.get_content_type(), original["Content-Transfer-Encoding"]) == (
        "text/rfc822-headers",
        "quoted-printable",
    )
    assert original.get_payload(decode=True) == b"X: \xe9\r\n"


WHOLE = HEADER + b"\r\nText.\r\n"


@pytest.mark.parametrize(
    ("original", "utf8_mail", "kind"),
    [
        (WHOLE, False, ("message/rfc822", "7bit")),
        (b"\r\nno header\r\n", False, ("message/rfc822", "7bit")),
        (HEADER + b"\r\n" + b"x" * 998 + b"\r\n", False, ("message/rfc822", "7bit")),
        (HEADER + b"\r\n" + b"x" * 999 + b"\r\n", False, ("text/rfc822-headers", "7bit")),
        (WHOLE + b"bare\rCR\r\n", False, ("text/rfc822-headers", "7bit")),
        (WHOLE + b"bare\nLF\r\n", False, ("text/rfc822-headers", "7bit")),
        (WHOLE + b"\0\r\n", False, ("text/rfc822-headers", "7bit")),
        (WHOLE + b"ends in CR\r", False, ("text/rfc822-headers", "7bit")),
        (HEADER, False, ("text/rfc822-headers", "7bit")),
        (WHOLE + "Grüße\r\n".encode(), False, ("message/rfc822", "8bit")),
        (WHOLE + "Grüße\r\n".encode(), True, ("message/rfc822", "8bit")),
        ("Subject: Grüße\r\n\r\nText.\r\n".encode(), True, ("message/global", "8bit")),
        ("Subject: Grüße\r\n\r\nText.\r\n".encode(), False, ("message/rfc822", "8bit")),
    ],
)
def test_a_whole_mail_is_returned_if_smtp_can_carry_it(original: bytes, utf8_mail: bool, kind: tuple[str, str]) -> None:
    dsn = evolve(DSN, original=original, whole=True, utf8_mail=utf8_mail)
    rendered = render(dsn, BOUNDARY)
    assert_passes_every_relay(rendered)
    assert kinds(dsn)[2] == kind
    if kind[0].startswith("message/"):
        assert b"\r\n\r\n" + original + b"\r\n--=_boundary--\r\n" in rendered.content
    assert rendered.eight_bit == (kind[1] == "8bit")


def test_a_broken_header_is_mended_before_it_is_returned() -> None:
    header = b"A: one\nB: two\rC: three\r\n\0D: four\r\nE: " + b"x" * 2000 + b"\r\n"
    rendered = render(evolve(DSN, original=header), BOUNDARY)
    assert_passes_every_relay(rendered)
    assert b"\r\n\r\nA: one B: two C: three\r\n?D: four\r\nE: " + b"x" * 995 + b"\r\n\r\n--" in rendered.content


@pytest.mark.parametrize(
    "message_id",
    [b"", b"no brackets", b"<two words@x>", b"<a@b> <c@d>", b"<" + b"x" * 300 + b">", b"<\xff@x>", b"<a\rb>"],
)
def test_only_a_sound_message_id_is_answered(message_id: bytes) -> None:
    rendered = render(evolve(DSN, original=b"Message-ID: " + message_id + b"\r\n"), BOUNDARY)
    assert b"In-Reply-To" not in rendered.content
    assert_passes_every_relay(rendered)


@pytest.mark.parametrize(
    "dsn",
    [
        evolve(DSN, text=f"--{BOUNDARY}\n"),
        evolve(DSN, original=f"X: {BOUNDARY}\r\n".encode()),
        evolve(DSN, original=WHOLE + f"\r\n--{BOUNDARY}--\r\n".encode(), whole=True),
        evolve(DSN, envid=BOUNDARY),
    ],
)
def test_a_boundary_inside_a_part_is_refused(dsn: Dsn) -> None:
    with pytest.raises(BoundaryFound):
        render(dsn, BOUNDARY)
    assert parsed(render(dsn, f"{BOUNDARY}_2")).get_boundary() == f"{BOUNDARY}_2"


TEXT = st.text(max_size=400)
HOSTILE = st.builds(
    RecipientReport,
    address=st.builds(Address, TEXT, TEXT),
    action=st.sampled_from(Action),
    status=st.just("5.0.0"),
    reply=st.builds(Reply, st.integers(200, 599), TEXT, st.lists(TEXT, min_size=1, max_size=3).map(tuple)),
    peer=st.builds(Peer, TEXT, TEXT),
    original=st.none() | TEXT,
    last_attempt_at=st.none() | st.floats(allow_nan=False),
    will_retry_until=st.none() | st.floats(allow_nan=False),
    uncertain=st.booleans(),
)
OCTETS = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b"\xff", b"\xc3\xbc", b"A: b", b" ", b"x" * 999, b"\r\n\r\n"])
    | st.binary(max_size=20),
    max_size=30,
).map(b"".join)


@given(
    st.builds(
        Dsn,
        to=st.builds(Address, TEXT, TEXT),
        subject=TEXT,
        text=st.lists(st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=200)).map("\n".join),
        hostname=TEXT,
        id=st.just("R" * 22),
        mail_id=TEXT,
        at=st.floats(allow_nan=False),
        arrived_at=st.floats(allow_nan=False),
        recipients=st.lists(HOSTILE, max_size=3).map(tuple),
        envid=st.none() | TEXT,
        original=OCTETS,
        whole=st.booleans(),
        utf8_mail=st.booleans(),
    )
)
def test_whatever_is_reported_passes_every_relay(dsn: Dsn) -> None:
    assert_passes_every_relay(render(dsn, "=_boundary_that_chance_will_not_meet"))


@given(TEXT, st.sampled_from(["", "    "]))
def test_wrapping_keeps_the_words(text: str, indent: str) -> None:
    lines = wrap(text, indent)
    assert " ".join(lines).split() == text.split()
    assert all(len(line.encode("utf-8", "replace")) < FOLD_AT_OCTETS or " " not in line.strip(" ") for line in lines)


@given(st.text(), st.integers(3, 50))
def test_clipping_keeps_its_bound(text: str, octets: int) -> None:
    assert len(clip(text, octets).encode()) <= octets


@pytest.mark.parametrize(
    ("text", "clipped"), [("short", "short"), ("123456789", "12345..."), ("üüüüü", "üü..."), ("a\r\nb", "a b")]
)
def test_clipping(text: str, clipped: str) -> None:
    assert clip(text, 8) == clipped


def test_host_names_are_ascii() -> None:
    assert host_name("bücher.example\r\n") == "b?cher.example"


@pytest.mark.vector_files("mime/**/*.txt")
def test_published_mails_are_reported(vector_file: Path) -> None:
    raw = vector_file.read_bytes()
    for original in (raw, b"\r\n".join(raw.splitlines()) + b"\r\n"):
        for whole in (True, False):
            dsn = evolve(DSN, original=original, whole=whole)
            assert_passes_every_relay(render(dsn, BOUNDARY))
            assert [part.get_content_type() for part in parsed(render(dsn, BOUNDARY)).iter_parts()][:2] == [
                "text/plain",
                "message/delivery-status",
            ]
