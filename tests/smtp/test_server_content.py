"""The decoders of DATA and BDAT against a plain reading of the RFC, however their input is cut."""

import re
from itertools import pairwise

import pytest
from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st

from elemta.smtp.content import ChunkDecoder, ContentCheck, DataDecoder, Fault

MAX_SIZE = 3000
TOKENS = (b"\r\n", b"\r", b"\n", b".", b"..", b"\r\n.\r\n", b"\0", b"\xe9", b"a", b"b" * 499, b"c" * 998, b"d" * 999)
OCTETS = st.lists(st.sampled_from(TOKENS), max_size=20).map(b"".join)
PLACES = st.lists(st.integers(0, 10_000), max_size=10)
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


@frozen
class Decoded:
    """What a decoder should say of a whole mail. `content` and `eight_bit` mean nothing once there is a fault."""

    content: bytes
    fault: Fault
    size: int
    eight_bit: bool


def judged(content: bytes, *, bare: bool) -> Decoded:
    """The faults of a mail, line by line, octet by octet."""
    fault = Fault.NONE
    if any(len(line) > 998 for line in content.split(b"\r\n")):
        fault = Fault.LONG_LINE
    if 0 in content:
        fault = Fault.NUL
    if len(content) > MAX_SIZE:
        fault = Fault.TOO_LARGE
    if bare:
        fault = Fault.BARE_NEWLINE
    return Decoded(content, fault, len(content), any(octet > 127 for octet in content))


def expected_of_data(data: bytes, *, normalize: bool) -> tuple[Decoded, bytes] | None:
    """What RFC 5321 §4.1.1.4 and §4.5.2 make of it, and what is left; None where it has no end."""
    end = (b"\r\n" + data).find(b"\r\n.\r\n")
    if end < 0:
        return None
    raw, rest = data[:end], data[end + 3 :]
    bare = BARE.search(raw) is not None
    lines = re.split(rb"\r\n|\r|\n", raw) if normalize else raw.split(b"\r\n")
    content = b"\r\n".join(line.removeprefix(b".") for line in lines)
    return judged(content, bare=bare and not normalize), rest


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


def decoded(check: ContentCheck, content: bytes) -> Decoded:
    return Decoded(content, check.fault, check.size, check.eight_bit)


def assert_same(got: Decoded, wanted: Decoded) -> None:
    assert got.fault is wanted.fault
    if wanted.fault is Fault.NONE:
        assert got == wanted


@given(data=OCTETS, places=PLACES, normalize=st.booleans())
@example(data=b".\r\nrest", places=[], normalize=False)
@example(data=b"a\n.\r\n.\r\n", places=[2, 3], normalize=True)
@example(data=b"a\n.b\r\n.\r\n", places=[2], normalize=True)
@example(data=b"c" * 998 + b"\r\n.\r\n", places=[998, 999, 1000], normalize=False)
@example(data=b"a\r\n.\r\r\n.\r\nx", places=[5], normalize=False)
def test_data(data: bytes, places: list[int], *, normalize: bool) -> None:
    data += b"\r\n.\r\nbehind"
    wanted = expected_of_data(data, normalize=normalize)
    assert wanted is not None
    decoder = DataDecoder(ContentCheck(MAX_SIZE, normalize=normalize))
    content, left = b"", b""
    for piece in pieces(data, places):
        if decoder.rest is None:
            content += decoder.feed(piece)
            left = decoder.rest or b""
        else:
            left += piece
    assert left == wanted[1]
    assert_same(decoded(decoder.check, content), wanted[0])


@given(data=OCTETS, normalize=st.booleans())
def test_nothing_but_crlf_dot_crlf_ends_data(data: bytes, *, normalize: bool) -> None:
    decoder = DataDecoder(ContentCheck(MAX_SIZE, normalize=normalize))
    decoder.feed(data)
    assert (decoder.rest is None) == (b"\r\n.\r\n" not in b"\r\n" + data)


def test_every_odd_end_is_none() -> None:
    newlines = (
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\n\r",
        b"\r\0\n",
        b"\0\r\n",
        b"\r\n\0",
        b"\x85",
        b"\xe2\x80\xa8",
        b"\v",
    )
    ended = {
        (before, after)
        for before in newlines
        for after in newlines
        for decoder in [DataDecoder(ContentCheck(0, normalize=True))]
        if decoder.feed(b"mail" + before + b"." + after + b"MAIL") is not None and decoder.rest is not None
    }
    # What ends with CRLF before the dot, and begins with CRLF behind it; nothing else.
    assert ended == {
        (before, after)
        for before in newlines
        for after in newlines
        if before.endswith(b"\r\n") and after.startswith(b"\r\n")
    }


@given(data=OCTETS, chunks=PLACES, places=PLACES, normalize=st.booleans())
@example(data=b"a\r\n", chunks=[2], places=[], normalize=False)
@example(data=b"a\r", chunks=[], places=[1], normalize=True)
def test_chunks(data: bytes, chunks: list[int], places: list[int], *, normalize: bool) -> None:
    content = re.sub(rb"\r\n|\r|\n", b"\r\n", data) if normalize else data
    wanted = judged(content, bare=BARE.search(data) is not None and not normalize)
    decoder = ChunkDecoder(ContentCheck(MAX_SIZE, normalize=normalize))
    got = b""
    for chunk in pieces(data, chunks):
        decoder.left = len(chunk)
        for piece in pieces(chunk, places):
            got += decoder.feed(piece)
        assert decoder.left == 0
    got += decoder.finish()
    assert_same(decoded(decoder.check, got), wanted)


@pytest.mark.parametrize("before", [b"", b"x\r\n", b"\r\n" * 700, b"a" * 998 + b"\r\n"])
@pytest.mark.parametrize("octets", [997, 998, 999, 1000, 1001])
def test_the_limit_of_a_line(before: bytes, octets: int) -> None:
    data = before + b"y" * octets + b"\r\nz\r\n.\r\n"
    for step in (1, 997, 1000, len(data)):
        decoder = DataDecoder(ContentCheck(0, normalize=False))
        for at in range(0, len(data), step):
            decoder.feed(data[at : at + step])
        assert decoder.check.fault is (Fault.LONG_LINE if octets > 998 else Fault.NONE)


@pytest.mark.parametrize("fault", [b"\0", b"\n", b"e" * 999, b"\r\nlong\r\n" * 400])
def test_a_lost_mail_is_not_kept(fault: bytes) -> None:
    decoder = DataDecoder(ContentCheck(MAX_SIZE, normalize=False))
    decoder.feed(fault + b"x")
    assert decoder.check.fault
    assert decoder.feed(b"more\r\n" * 1000) == b""


def test_no_limit() -> None:
    check = ContentCheck(0, normalize=False)
    ChunkDecoder(check).feed(b"x\r\n" * 100_000)
    assert check.fault is Fault.NONE
    assert check.size == 300_000
