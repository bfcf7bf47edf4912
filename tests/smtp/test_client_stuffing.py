"""Dot-stuffing: the same wherever the content is cut, and back to the content by the rule of RFC 5321 §4.5.2."""

import itertools

import pytest
from hypothesis import given, strategies

from elemta.smtp.stuffing import BareNewline, DotStuffer


def stuff(*pieces: bytes) -> bytes:
    stuffer = DotStuffer()
    return b"".join([stuffer.feed(piece) for piece in pieces]) + stuffer.end()


def received(wire: bytes) -> tuple[bytes, bytes]:
    """What a receiver makes of the wire by the letter, line by line: the content, and what comes behind it."""
    lines: list[bytes] = []
    rest = wire
    while True:
        line, end, rest = rest.partition(b"\r\n")
        assert end, "no final dot"
        if line == b".":
            return b"".join(lines), rest
        lines.append(line.removeprefix(b".") + b"\r\n")


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b".\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"\r\n.\r\n", b"\r\n..\r\n.\r\n"),
        (b"..\r\n.a\r\n", b"...\r\n..a\r\n.\r\n"),
        (b"\r\n\r\n.\r\n.\r\n", b"\r\n\r\n..\r\n..\r\n.\r\n"),
    ],
)
def test_by_the_letter(content: bytes, wire: bytes) -> None:
    assert stuff(content) == wire
    for cut in range(len(content) + 1):
        assert stuff(content[:cut], content[cut:]) == wire
    assert stuff(*(content[index : index + 1] for index in range(len(content)))) == wire


contents = strategies.lists(strategies.sampled_from([b".", b"\r\n", b"a", b"\x80", b"\x00", b" "]), max_size=40)


@given(contents, strategies.lists(strategies.integers(min_value=0, max_value=60), max_size=5))
def test_a_receiver_gets_what_was_sent(tokens: list[bytes], cuts: list[int]) -> None:
    content = b"".join(tokens)
    places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    pieces = [content[start:end] for start, end in itertools.pairwise(places)]
    wire = stuff(*pieces)
    assert wire == stuff(content)
    ended = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
    assert received(wire) == (ended, b"")


@given(strategies.lists(strategies.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n"]), max_size=12))
def test_a_bare_cr_or_lf_is_never_sent(tokens: list[bytes]) -> None:
    content = b"".join(tokens)
    is_bare = bool(content.replace(b"\r\n", b"").translate(None, b".a"))
    for pieces in ([content], [content[index : index + 1] for index in range(len(content))]):
        try:
            wire = stuff(*pieces)
        except BareNewline:
            assert is_bare
        else:
            assert not is_bare
            assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
