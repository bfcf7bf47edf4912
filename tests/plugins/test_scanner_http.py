"""One question over HTTP with its answer, octet by octet."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.plugins.scanners.failure import ScannerFailed
from elemta.plugins.scanners.http import MAX_ANSWER_OCTETS, HttpExchange

FIELDS = [(b"Host", b"localhost")]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
COUNTED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"


def asked() -> HttpExchange:
    exchange = HttpExchange("/checkv2", FIELDS, 4)
    sent = exchange.head() + exchange.piece(b"ma") + exchange.piece(b"il") + exchange.end()
    assert sent == b"POST /checkv2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nmail"
    return exchange


def heard(pieces: list[bytes]) -> bytes | None:
    exchange = asked()
    for piece in pieces:
        answer = exchange.receive(piece)
        if answer is not None:
            return answer
    return exchange.receive(b"")


@pytest.mark.parametrize("answer", [CHUNKED, COUNTED, b"HTTP/1.0 200 OK\r\n\r\nabcde"])
@given(cuts=st.lists(st.integers(1, 80)))
def test_where_an_answer_is_cut_changes_nothing(answer: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in set(cuts) if cut < len(answer)), len(answer)]
    assert heard([answer[start:end] for start, end in pairwise(places)]) == b"abcde"


def test_an_answer_is_whole_before_the_connection_ends() -> None:
    assert asked().receive(COUNTED) == b"abcde"


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (b"", "no whole answer"),
        (COUNTED[:-1], "no whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nabc", "no whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc", "no whole answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n", "no whole answer"),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", "it answers 301"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n\x1bno\r\n", "it answers 500 no"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000, "no whole answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * MAX_ANSWER_OCTETS, "an answer of more than"),
    ],
)
def test_what_is_no_answer(octets: bytes, says: str) -> None:
    with pytest.raises(ScannerFailed, match=says):
        heard([octets])


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n"])
def test_not_even_what_is_no_answer_yet_has_no_end(piece: bytes) -> None:
    with pytest.raises(ScannerFailed, match="an answer of more than"):
        heard([piece] * (MAX_ANSWER_OCTETS // len(piece) + 1))


@given(pieces=st.lists(st.sampled_from([CHUNKED[:17], CHUNKED, COUNTED, b"\r\n", b"0"]) | st.binary(max_size=20)))
def test_hostile_octets_are_a_failure_or_an_answer(pieces: list[bytes]) -> None:
    try:
        answer = heard([piece for piece in pieces if piece])
    except ScannerFailed:
        return
    assert isinstance(answer, bytes)
