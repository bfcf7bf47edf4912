"""Header blocks, friendly and hostile."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.mail.headers import (
    MAX_HEADER_FIELDS,
    MAX_HEADER_OCTETS,
    MAX_READABLE_CHARACTERS,
    HeaderFault,
    HeaderSurvey,
    count_field,
    header_block,
    header_end,
    header_fault,
    printable,
    raw_field,
    readable,
    readable_field,
    survey,
)

HEADER = (
    b"Received: from a\r\n\tby b; date\r\n"
    b"RECEIVED: from b\r\n by c; date\r\n"
    b"X-Received: no\r\n"
    b"Subject: one\r\n two\r\n\tthree\r\n"
    b"From: a@example.com\r\n"
    b"date: now\r\n"
    b"Message-ID: <1@example.com>\r\n"
)
#: Promise: a hostile header costs at most this much CPU.
CPU_SECONDS = 1.0


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (b"", -1),
        (b"A: b", -1),
        (b"A: b\r\n", -1),
        (b"A: b\r\n\r", -1),
        (b"A: b\r\n\r\n", 6),
        (b"A: b\r\n\r\nbody\r\n\r\nmore", 6),
        (b"\r\nbody\r\n\r\n", 0),
        (b"A: b\n\nbody\r\n\r\n", 12),
    ],
)
def test_the_header_ends_before_the_first_empty_line(content: bytes, end: int) -> None:
    assert header_end(content) == end
    assert header_end(bytearray(content)) == end
    assert header_block(content) == (content if end < 0 else content[:end])


@given(st.lists(st.sampled_from([b"A", b"\r", b"\n", b"\r\n", b"\r\n\r\n"])).map(b"".join), st.data())
def test_the_end_is_found_piece_by_piece(content: bytes, data: st.DataObject) -> None:
    gathered = bytearray()
    found = -1
    while found < 0 and len(gathered) < len(content):
        size = data.draw(st.integers(1, len(content) - len(gathered)))
        start = len(gathered) - 3
        gathered += content[len(gathered) : len(gathered) + size]
        found = header_end(gathered, start)
    assert found == header_end(content)


def test_a_survey_sees_what_is_there() -> None:
    assert survey(HEADER) == HeaderSurvey(fields=7, received=2, has_from=True, has_date=True, has_message_id=True)
    assert survey(b"") == HeaderSurvey(fields=0, received=0, has_from=False, has_date=False, has_message_id=False)
    assert survey(b"X-From: a\r\nTo: From: b\r\n Date: folded\r\nUpdate: no") == HeaderSurvey(
        fields=3, received=0, has_from=False, has_date=False, has_message_id=False
    )
    assert survey(b"from : a\r\nDate\t: b\r\nMessage-Id: c\r\nReceived :\r\n") == HeaderSurvey(
        fields=4, received=1, has_from=True, has_date=True, has_message_id=True
    )


@pytest.mark.parametrize(
    ("name", "times"), [("Received", 2), ("received", 2), ("Subject", 1), ("Sub", 0), ("by c; date", 0), ("X", 0)]
)
def test_fields_are_counted(name: str, times: int) -> None:
    assert count_field(HEADER, name) == times


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Subject", b"one two\tthree"),
        ("received", b"from a\tby b; date"),
        ("Message-ID", b"<1@example.com>"),
        ("Bcc", None),
    ],
)
def test_the_first_value_is_unfolded(name: str, value: bytes | None) -> None:
    assert raw_field(HEADER, name) == value


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"Subject:", b""),
        (b"Subject: no line end", b"no line end"),
        (b"Subject: folded\r\n at the end", b"folded at the end"),
        (b"Subject :  white space  \r\n", b"white space"),
        (b"To: x\r\nsubject\t: later\r\nSubject: latest\r\n", b"later"),
        (b"Subject:\r\n\r\nbody", b""),
    ],
)
def test_values_at_the_edges(header: bytes, value: bytes) -> None:
    assert raw_field(header, "Subject") == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        ("Grüße".encode(), "Grüße"),
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe?= an alle", "Grüße an alle"),
        (b"=?UTF-8?B?R3LDvMOfZQ==?= =?iso-8859-1?q?_an_M=FCller?=", "Grüße an Müller"),
        (b"=?utf-8?q?split_=C3?= =?utf-8?q?=BC?=", "split ü"),
        (b"=?koi8-r?B?8NLJ18XU?=", "Привет"),
        ("日本 =?utf-8?q?=C3=BC?= Ω".encode(), "日本 ü Ω"),
        (b"=?utf-8?b?abcde?=", "=?utf-8?b?abcde?="),
        (b"=?utf-8?b?a?=", "=?utf-8?b?a?="),
        (b"=?utf-8?q?bad_=FF?=", "bad \ufffd"),
        (b"=?hex?q?616263?=", "616263"),
        (b"=?punycode?q?abc-?=", "abc-"),
        (b"=?unicode_escape?q?=5Cd?=", "\\d"),
        (b"=?iso-8859-99?q?a=E9?=", "a\ufffd"),
        (b"=?gb?q?a?=", "a"),
        (b"=?utf-8?q?one=0D=0ABcc:_two=00=1B[31m?=", "one Bcc: two [31m"),
        (b"=?utf-8?q?=E2=80=AEevil?=", "evil"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_values_are_made_readable(value: bytes, text: str) -> None:
    assert readable(value) == text
    assert readable_field(b"To: x\r\nSubject: " + value + b"\r\n", "subject") == text


def test_a_missing_field_reads_as_nothing() -> None:
    assert readable_field(b"To: x\r\n", "Subject") == ""


def test_a_readable_value_is_bounded() -> None:
    assert len(readable(b"x" * 10**6)) == MAX_READABLE_CHARACTERS
    assert len(readable(b"=?utf-8?q?" + b"=C3=BC" * 10**5 + b"?=")) <= MAX_READABLE_CHARACTERS


@pytest.mark.parametrize("end", [b"", b"?=", b"\x0b?=", b"?= =?a?q?x"])
def test_words_without_an_end_cost_no_more_than_others(end: bytes) -> None:
    started = time.thread_time()
    for _ in range(30):
        readable(b"=?a?q?x" * 1600 + end)
    assert time.thread_time() - started < CPU_SECONDS


@given(st.text())
def test_printable_text_is_one_line(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert all(char.isprintable() or char not in "\x00\x1b\x7f\x85\u202e\u2066\ud800" for char in shown)
    assert printable(shown) == shown
    shown.encode("utf-8")


@given(st.binary(), st.sampled_from(["Subject", "From", "x"]))
def test_no_octets_raise_anything(header: bytes, name: str) -> None:
    seen = survey(header)
    assert 0 <= seen.fields <= header.count(b"\r\n") + 1
    assert count_field(header, name) >= (raw_field(header, name) is not None)
    assert header_fault(header) is None
    readable_field(b"Subject: " + header, "Subject")


ENCODED_WORDS = st.builds(
    "=?{}?{}?{}?=".format,
    st.sampled_from(["utf-8", "iso-8859-1", "iso-2022-jp", "utf-7", "idna", "zip", "gb18030", "cp1252", "ü", ""]),
    st.sampled_from("qQbBx"),
    st.text("=AZaz09+/?_\\\x00", max_size=30),
)


@given(st.lists(ENCODED_WORDS | st.text(max_size=10), max_size=6))
def test_no_encoded_words_raise_anything(words: list[str]) -> None:
    shown = readable(" ".join(words).encode("utf-8", "replace"))
    assert printable(shown) == shown.strip()


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (b"", None),
        (b"A: b\r\n" * MAX_HEADER_FIELDS, None),
        (b"A: b\r\n" * (MAX_HEADER_FIELDS + 1), HeaderFault.TOO_MANY_FIELDS),
        (b"A: b\r\n" + b" folded\r\n" * 3000 + b"\ttoo\r\n", None),
        (b"A: " + b"b" * (MAX_HEADER_OCTETS - 3), None),
        (b"A: " + b"b" * (MAX_HEADER_OCTETS - 2), HeaderFault.TOO_LARGE),
    ],
)
def test_headers_have_bounds(header: bytes, fault: HeaderFault | None) -> None:
    assert header_fault(header) is fault


@pytest.mark.parametrize(
    "header",
    [
        b"A: b\r\n" * 10**6,
        b"Received: from x\r\n" * 10**6,
        b"Subject:" + b"\r\n " * 10**6,
        b"Subject: " + b"=?utf-8?q?x?= " * 10**5,
        b"Subject: " + b"=?" * 10**6,
        b"Subject: =?" + b"\xff?" * 10**6,
        b"\r\n " * 10**6,
        b" :" * 10**6,
    ],
    ids=["fields", "received", "folds", "words", "openings", "rubbish", "folds-alone", "colons"],
)
def test_a_million_of_anything_costs_little(header: bytes) -> None:
    # CPU of this thread, so that a busy machine does not count.
    started = time.thread_time()
    survey(header)
    header_fault(header)
    header_end(header)
    count_field(header, "Received")
    readable_field(header, "Subject")
    assert time.thread_time() - started < CPU_SECONDS


@pytest.mark.vector_files("mime/**/*.txt")
def test_published_mails_are_read(vector_file: Path) -> None:
    raw = vector_file.read_bytes()
    for content in (raw, b"\r\n".join(raw.splitlines())):
        header = header_block(content)
        seen = survey(header)
        assert seen.received == count_field(header, "Received")
        assert printable(readable_field(header, "Subject")) == readable_field(header, "Subject").strip()
        assert header_fault(header) is None
