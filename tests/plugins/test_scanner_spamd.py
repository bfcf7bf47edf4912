"""spamd's answers, however they are cut."""

import contextlib
import sys
from itertools import pairwise
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.plugins.scanners.failure import ScannerFailed
from elemta.plugins.scanners.spamd import MAX_ANSWER_OCTETS, SpamdAnswer, SpamdReader, request

SPAM = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 17\r\nSpam: True ; 1000.0 / 5.0\r\n\r\nGTUBE,NO_RECEIVED"
IS_SPAM = SpamdAnswer(True, 1000.0, 5.0, ("GTUBE", "NO_RECEIVED"))


def read(octets: bytes, *cuts: int) -> SpamdAnswer:
    """What a reader makes of octets cut at these places, then of the end of the connection."""
    reader = SpamdReader()
    places = sorted({0, *(cut % len(octets) for cut in cuts if octets), len(octets)})
    pieces = [octets[start:end] for start, end in pairwise(places)]
    for piece in [*pieces, b""]:
        answer = reader.receive(piece)
        if answer is not None:
            return answer
    raise AssertionError("no answer, though the connection ended")


def test_the_question() -> None:
    assert request(1234) == b"SYMBOLS SPAMC/1.5\r\nContent-length: 1234\r\n\r\n"


@given(st.lists(st.integers(0, 200), max_size=8))
def test_an_answer_in_pieces(cuts: list[int]) -> None:
    assert read(SPAM, *cuts) == IS_SPAM


def test_an_answer_is_whole_before_the_connection_ends() -> None:
    assert SpamdReader().receive(SPAM) == IS_SPAM


def test_without_a_length_only_the_end_of_the_connection_ends_it() -> None:
    reader = SpamdReader()
    assert reader.receive(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 7 / 5\r\n\r\nA,") is None
    assert reader.receive(b"B") is None
    assert reader.receive(b"") == SpamdAnswer(True, 7.0, 5.0, ("A", "B"))


@pytest.mark.parametrize(
    ("octets", "answer"),
    [
        (
            b"SPAMD/1.1 0 EX_OK\r\nContent-length: 2\r\nSpam: False ; -2.3 / 5.0\r\n\r\n\r\n",
            SpamdAnswer(False, -2.3, 5.0),
        ),
        # Without a length the end of the connection ends it.
        (b"SPAMD/1.5 0 EX_OK\r\nspam: Yes ; 7 / 6.5\r\n\r\nA B\r\n", SpamdAnswer(True, 7.0, 6.5, ("A", "B"))),
        (b"SPAMD/1.1 0\r\nX: y\r\nSpam:False;0.0/5.0\r\nContent-length: 0\r\n\r\n", SpamdAnswer(False, 0.0, 5.0)),
    ],
)
def test_answers(octets: bytes, answer: SpamdAnswer) -> None:
    assert read(octets) == answer


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (b"", "ended before the answer"),
        (b"SPAMD/1.1 0 EX_OK\r\n", "ended before the answer"),
        (SPAM[:-1], "ended inside the answer"),
        (b"SPAMD/1.0 76 Bad header line: x\r\n", "it says: 76 Bad header line: x"),
        (b"SPAMD/1.1 74 EX_IOERR\r\n\r\n", "it says: 74 EX_IOERR"),
        (b"SPAMD/1.1 79 \x1b[31m\r\n", "it says: 79  [31m"),
        (b"220 mail.example.com ESMTP\r\n", "cannot be read: '220 mail"),
        (b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\n\r\n", "without a score"),
        (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; nan / 5.0\r\n\r\n", "without a score"),
        (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; %b / 5.0\r\n\r\n" % (b"9" * 400), "beyond all bounds"),
        (SPAM.replace(b": 17", b": -1"), "length cannot be read: '-1'"),
        (SPAM.replace(b": 17", b": " + b"9" * 5000), "length cannot be read"),
        (b"x" * (MAX_ANSWER_OCTETS + 1), "more than"),
        (SPAM.replace(b": 17", b": 99999999") + b"A," * MAX_ANSWER_OCTETS, "more than"),
    ],
)
def test_what_is_no_answer(octets: bytes, says: str) -> None:
    with pytest.raises(ScannerFailed, match=r"^[^\x00-\x1f]*$") as failure:
        read(octets, *range(0, len(octets), 1000))
    assert says in str(failure.value)


def test_a_head_is_taken_apart_once() -> None:
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    reader, octets = SpamdReader(), 1000
    reader.receive(SPAM.replace(b"Content-length: 17", b"A: b\r\n" * 1000 + b"Content-length: %d" % octets))
    sys.setprofile(count)
    try:
        for _ in range(octets // 2):
            assert reader.receive(b"A") is None
    finally:
        sys.setprofile(None)
    assert calls < 10 * octets, "no more for a long head"


def test_an_error_need_not_wait_for_the_end() -> None:
    with pytest.raises(ScannerFailed, match="76 Bad header"):
        SpamdReader().receive(b"SPAMD/1.0 76 Bad header line\r\n")


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_hostile_octets_are_a_failure_or_an_answer(pieces: list[bytes]) -> None:
    reader = SpamdReader()
    with contextlib.suppress(ScannerFailed):
        for piece in [b"SPAMD/1.1 0 EX_OK\r\nSpam: ", *pieces, b""]:
            reader.receive(piece)
