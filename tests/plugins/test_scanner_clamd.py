"""clamd's question, its answers, however they are cut."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.plugins.scanners.clamd import MAX_ANSWER_OCTETS, ClamdAnswer, ClamdReader, piece
from elemta.plugins.scanners.failure import ScannerFailed


def read(*pieces: bytes) -> ClamdAnswer:
    reader = ClamdReader()
    for octets in [*pieces, b""]:
        answer = reader.receive(octets)
        if answer is not None:
            return answer
    raise AssertionError("no answer, though the connection ended")


def test_a_piece_says_how_long_it_is() -> None:
    assert piece(b"ab" * 200) == b"\0\0\x01\x90" + b"ab" * 200


@given(st.lists(st.integers(0, 40), max_size=5))
def test_an_answer_in_pieces(cuts: list[int]) -> None:
    octets = b"stream: Eicar-Test-Signature FOUND\0"
    places = sorted({0, *(cut % len(octets) for cut in cuts), len(octets)})
    pieces = [octets[start:end] for start, end in pairwise(places)]
    assert read(*pieces) == ClamdAnswer("Eicar-Test-Signature")


@pytest.mark.parametrize(
    ("octets", "answer"),
    [
        (b"stream: OK\0", ClamdAnswer()),
        (b"stream: Win.Test.EICAR_HDB-1 FOUND\0", ClamdAnswer("Win.Test.EICAR_HDB-1")),
        (b"stream: A B(44d8:68) FOUND\0rest", ClamdAnswer("A B(44d8:68)")),
        (b"stream: \x1b[31m\xff FOUND\0", ClamdAnswer("[31m�")),
        (b"stream:  FOUND\0", ClamdAnswer("a virus without a name")),
        # A signature of this name is no clean mail.
        (b"stream: OK FOUND\0", ClamdAnswer("OK")),
    ],
)
def test_answers(octets: bytes, answer: ClamdAnswer) -> None:
    assert read(octets) == answer


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (b"", "ended before the answer"),
        (b"stream: OK", "ended before the answer"),
        (b"INSTREAM size limit exceeded. ERROR\0", "it says: INSTREAM size limit exceeded.; raise its StreamMaxLength"),
        (b"COMMAND READ TIMED OUT ERROR\0", "it says: COMMAND READ TIMED OUT"),
        (b"UNKNOWN COMMAND\0", "cannot be read: 'UNKNOWN COMMAND'"),
        (b"HTTP/1.1 400 Bad Request FOUND\0", "cannot be read"),
        (b"stream: OK\0stream: Eicar FOUND\0", "more than it was asked for"),
        (b"x" * (MAX_ANSWER_OCTETS + 1), "more than"),
    ],
)
def test_what_is_no_answer(octets: bytes, says: str) -> None:
    with pytest.raises(ScannerFailed) as failure:
        read(octets)
    assert says in str(failure.value)


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_hostile_octets_are_a_failure_or_an_answer(pieces: list[bytes]) -> None:
    reader = ClamdReader()
    with contextlib.suppress(ScannerFailed):
        for octets in [b"stream: ", *pieces, b""]:
            reader.receive(octets)
