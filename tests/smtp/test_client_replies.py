"""Replies of remote hosts: whole ones out of any octets, or a protocol error, within bounds."""

import re

import pytest
from hypothesis import given, strategies

from elemta.mail.reply import Reply
from elemta.smtp.replies import (
    MAX_KEPT_CHARACTERS,
    MAX_LINE_CHARACTERS,
    MAX_LINE_OCTETS,
    MAX_REMEMBERED,
    MAX_REPLY_LINES,
    RemoteProtocolError,
    ReplyReader,
    abridged,
    printable,
)


def read(*pieces: bytes) -> list[Reply | str]:
    """All replies in the pieces; the text of a protocol error ends the list."""
    reader = ReplyReader()
    found: list[Reply | str] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (reply := reader.next_reply()) is not None:
                found.append(reply)
    except RemoteProtocolError as error:
        found.append(str(error))
    return found


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 OK\r\n", Reply(250, "", "OK")),
        (b"250\r\n", Reply(250, "", "")),
        (b"250 \r\n", Reply(250, "", "")),
        (b"250 OK\n", Reply(250, "", "OK")),
        (b"250 2.1.0 OK\r\n", Reply(250, "2.1.0", "OK")),
        (b"250 2.1.0\r\n", Reply(250, "2.1.0", "")),
        (b"250 4.1.0 odd\r\n", Reply(250, "", "4.1.0 odd")),  # RFC 2034 §4: the class is the first digit
        (b"550 5.1.1x odd\r\n", Reply(550, "", "5.1.1x odd")),
        (b"550 5.7.509 long\r\n", Reply(550, "5.7.509", "long")),
        (b"550 5.7.5099 too long\r\n", Reply(550, "", "5.7.5099 too long")),
        (b"599 unknown\r\n", Reply(599, "", "unknown")),
        (b"250-a\r\n250-\r\n250 c\r\n", Reply(250, "", ("a", "", "c"))),
        (b"250-a\r\n250\r\n", Reply(250, "", ("a", ""))),
        (b"550-5.1.1 no\r\n550 5.1.1 user\r\n", Reply(550, "5.1.1", ("no", "user"))),
        (b"550-no\r\n550 5.1.1 user\r\n", Reply(550, "5.1.1", ("no", "user"))),
        (b"550-5.1.1 no\r\n550 5.7.1 way\r\n", Reply(550, "5.1.1", ("no", "5.7.1 way"))),
        ("250 grüß\r\n".encode(), Reply(250, "", "grüß")),
        (b"250 \xff\x00\x1b[0m\x7f\xc2\x85\r\n", Reply(250, "", r"\xff\x00\x1b[0m\x7f\x85")),
        (b"250 a\tb\rc\r\n", Reply(250, "", r"a b\rc")),
        ("250 \u202e\u2028\r\n".encode(), Reply(250, "", r"\u202e\u2028")),
    ],
)
def test_one_reply(octets: bytes, reply: Reply) -> None:
    assert read(octets) == [reply]


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"25\r\n",
        b"250OK\r\n",
        b"2500 OK\r\n",
        b"150 no class\r\n",
        b"650 no class\r\n",
        b" 250 OK\r\n",
        b"hello\r\n",
        b"250-a\r\n550 b\r\n",
        b"250-a\r\nb\r\n",
        b"\xb2\xb5\xb0 OK\r\n",  # digits of other alphabets are none
        b"2" * (MAX_LINE_OCTETS + 2),
        b"250 " + b"x" * MAX_LINE_OCTETS + b"\r\n",
        b"250-more\r\n" * (MAX_REPLY_LINES + 1),
    ],
)
def test_what_is_no_reply(octets: bytes) -> None:
    (error,) = read(octets)
    assert isinstance(error, str)
    assert error.isprintable()


def test_the_longest_that_are_taken() -> None:
    line = b"250 " + b"x" * (MAX_LINE_OCTETS - 4)
    (reply,) = read(line + b"\r\n")
    assert isinstance(reply, Reply)
    assert len(reply.text) == MAX_LINE_CHARACTERS
    assert reply.text.endswith("x…")
    (reply,) = read(b"250-more\r\n" * (MAX_REPLY_LINES - 1) + b"250 enough\r\n")
    assert isinstance(reply, Reply)
    assert len(reply.lines) == MAX_REPLY_LINES


def test_the_same_reply_is_the_same_however_often_it_comes() -> None:
    """More than are remembered, in an order that meets memory and none."""
    texts = [b"250 %d\r\n" % number for number in range(MAX_REMEMBERED * 2)]
    reader = ReplyReader()
    for text in (*texts, *reversed(texts), *texts):
        reader.feed(text)
        assert reader.next_reply() == Reply(250, "", text[4:-2].decode())
    reader.feed(b"250-250 0\r\n250 0\r\n")  # a line that is remembered, as the last of several
    assert reader.next_reply() == Reply(250, "", ("250 0", "0"))


def test_clear_forgets_lines_and_octets() -> None:
    reader = ReplyReader()
    reader.feed(b"250-one\r\n550 t")
    assert reader.next_reply() is None
    assert reader.has_input
    reader.clear()
    assert not reader.has_input
    reader.feed(b"220 new\r\n")
    assert reader.next_reply() == Reply(220, "", "new")


pieces_of_replies = strategies.lists(
    strategies.one_of(
        strategies.sampled_from([b"250 ok\r\n", b"250-ok\r\n", b"550 5.1.1 no\r\n", b"421 bye\n", b"2", b"\r", b"\n"]),
        strategies.binary(max_size=12),
        strategies.just(b"x" * 1500),
    ),
    max_size=12,
)


@given(pieces_of_replies)
def test_where_the_octets_are_cut_changes_nothing(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = read(whole)
    assert read(*pieces) == expected
    assert read(*(whole[index : index + 1] for index in range(len(whole)))) == expected


@given(strategies.binary(max_size=6000))
def test_whatever_was_said_is_printable_and_bounded(octets: bytes) -> None:
    text = printable(octets)
    assert text.isprintable()
    assert len(text) <= MAX_LINE_CHARACTERS
    assert printable(b"250 plain text") == "250 plain text"


def test_a_long_reply_keeps_its_beginning() -> None:
    kept = abridged(Reply(550, "5.1.1", ("a" * 500, "b" * 500, "c" * 500, "d")))
    assert kept == Reply(550, "5.1.1", ("a" * 500, "b" * 500, "c" * 23 + "…"))


@given(strategies.lists(strategies.integers(0, 600).map(lambda count: "ab" * (count // 2)), min_size=1, max_size=20))
def test_what_is_kept_is_bounded(lines: list[str]) -> None:
    reply = Reply(550, "5.1.1", tuple(line[:MAX_LINE_CHARACTERS] for line in lines))
    kept = abridged(reply)
    assert sum(map(len, kept.lines)) <= MAX_KEPT_CHARACTERS
    assert (kept.code, kept.enhanced) == (550, "5.1.1")
    assert kept == reply or re.fullmatch("[ab]*…", kept.lines[-1])
    assert list(kept.lines[:-1]) == list(reply.lines[: len(kept.lines) - 1])
