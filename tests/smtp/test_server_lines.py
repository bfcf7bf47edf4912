"""The line buffer against a plain reading: one verdict for each line, however it is cut."""

import re
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from elemta.smtp.lines import MAX_DISCARDED_OCTETS, LineBuffer, LineFault

LIMIT = 12
DATA = st.lists(
    st.sampled_from([b"\r\n", b"\n", b"\r", b"a", b"bb", b"c" * 9, b"d" * 10, b"e" * 11, b"f" * 40]), max_size=30
)


def expected(data: bytes, *, normalize: bool) -> list[bytes | LineFault]:
    verdicts: list[bytes | LineFault] = []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
        if len(line) > LIMIT or (len(line) == LIMIT and not line.endswith(b"\n")):
            verdicts.append(LineFault.TOO_LONG)
        elif line.endswith(b"\r\n"):
            verdicts.append(line[:-2])
        elif line.endswith(b"\n"):
            verdicts.append(line[:-1] if normalize else LineFault.BARE_NEWLINE)
    return verdicts


def taken(buffer: LineBuffer) -> list[bytes | LineFault]:
    verdicts = []
    while (line := buffer.take_line(LIMIT)) is not None:
        verdicts.append(line)
    return verdicts


@given(tokens=DATA, places=st.lists(st.integers(0, 300), max_size=10), normalize=st.booleans())
@example(tokens=[b"e" * 11, b"\r\n"], places=[12], normalize=False)
@example(tokens=[b"a\r\nb\n"], places=[], normalize=True)
@example(tokens=[b"f" * 40, b"\r\n", b"\n", b"a\r\n"], places=[], normalize=False)
def test_lines(tokens: list[bytes], places: list[int], *, normalize: bool) -> None:
    data = b"".join(tokens)
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    buffer = LineBuffer(normalize=normalize)
    verdicts: list[bytes | LineFault] = []
    for start, end in pairwise(edges):
        buffer.push(data[start:end])
        verdicts += taken(buffer)
    assert verdicts == expected(data, normalize=normalize)


def test_an_endless_line_is_told_twice() -> None:
    for octets, verdicts in (
        (MAX_DISCARDED_OCTETS, [LineFault.TOO_LONG, b"next"]),
        (MAX_DISCARDED_OCTETS + 1, [LineFault.TOO_LONG, LineFault.ENDLESS]),
    ):
        buffer = LineBuffer()
        buffer.push(b"a" * octets + b"\nnext\r\n")
        assert [buffer.take_line(LIMIT), buffer.take_line(LIMIT)] == verdicts


def test_what_is_not_asked_for_stays() -> None:
    buffer = LineBuffer()
    buffer.push(b"one\r\ntwo")
    assert buffer.take_line(LIMIT) == b"one"
    assert buffer
    assert buffer.peek(2) == b"tw"
    buffer.push(b"\r\nthree\r\n")
    assert buffer.take(2) == b"tw"
    assert buffer.take_line(LIMIT) == b"o"
    assert buffer.take_all() == b"three\r\n"
    assert not buffer
    buffer.push(b"x" * LIMIT)
    assert buffer.take_line(LIMIT) is LineFault.TOO_LONG
    buffer.clear()
    buffer.push(b"heard\r\n")
    assert buffer.take_line(LIMIT) == b"heard"
