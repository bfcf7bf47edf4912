"""The octets of a mail, found before the final dot of DATA or in the chunks of BDAT.

What is not here: commands (`smtp.commands`), replies (`smtp.refusals` words them), outgoing dots (`smtp.stuffing`).
Everything works on whole pieces with `count`, `find`, `replace`, never on single lines or octets: a piece of 64 KiB
takes as many Python calls as one of 64 octets, but for one `rfind` in each 998 octets.
RFC 5321 §2.3.8 knows one line end, CRLF; §4.1.1.4 one end of data, CRLF.CRLF; §4.5.2 unstuffs dots. What departs from
this is remembered as a `Fault` while the mail is read to its end.
"""

import enum
import re
from typing import Final

#: RFC 5321 §4.5.3.1.6: 1000 octets of text line, its CRLF among them, a stuffed dot not.
MAX_TEXT_OCTETS: Final = 998
_MAX_TEXT_LINE_OCTETS: Final = MAX_TEXT_OCTETS + 2

#: A mail over its limit is read to its end, RFC 1870 §6.3, but not for ever: so many times the limit beyond it, and
#: 100 MiB at least, is more than any honest client sends that does not know SIZE.
MAX_SURPLUS_FACTOR: Final = 10
LEAST_SURPLUS_OCTETS: Final = 100 * 1024 * 1024


class Fault(enum.IntEnum):
    """Why a mail cannot be taken. The highest one is told, so that it does not matter which came first."""

    NONE = 0
    LONG_LINE = 1
    NUL = 2
    TOO_LARGE = 3
    BARE_NEWLINE = 4


# Under Python 3.11 a member looked up through its class costs 100 ns, through its module 15.
_NUL: Final = Fault.NUL
_LONG_LINE: Final = Fault.LONG_LINE
_BARE_NEWLINE: Final = Fault.BARE_NEWLINE
_NO_FAULT: Final = Fault.NONE


class ContentCheck:
    """What is known of the mail so far. `max_size` is octets; 0 is no limit."""

    __slots__ = ("_line_octets", "_max_size", "_normalize", "eight_bit", "fault", "size")

    def __init__(self, max_size: int, *, normalize: bool) -> None:
        self._max_size = max_size
        self._normalize = normalize
        #: Octets of the line that the last piece left open.
        self._line_octets = 0
        self.size = 0
        self.eight_bit = False
        self.fault = _NO_FAULT

    @property
    def is_endless(self) -> bool:
        """True once so much came beyond `max_size` that the end is not waited for."""
        surplus = max(MAX_SURPLUS_FACTOR * self._max_size, LEAST_SURPLUS_OCTETS)
        return 0 < self._max_size < self.size - surplus

    def newlines(self, piece: bytes) -> bytes:
        """The piece with CRLF line ends only, or empty where that cannot be. It must not end within a CRLF."""
        # Without its pairs no CR or LF may be left. A replacement of the same length is written in place, and looking
        # for an octet that is not there is nearly free: together half of what counting CRLF, CR and LF takes.
        alone = piece.replace(b"\r\n", b"  ")
        if b"\n" not in alone and b"\r" not in alone:
            return piece
        if self._normalize:
            return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        self.fault = Fault.BARE_NEWLINE
        return b""

    def measure(self, piece: bytes) -> bytes:
        """The piece, or nothing once the mail is lost."""
        self.size += len(piece)
        if 0 < self._max_size < self.size:
            self.fault = max(self.fault, Fault.TOO_LARGE)
        # Unlike a fault that is less than what is known, a greater one is still looked for.
        if self.fault < _NUL and b"\0" in piece:
            self.fault = _NUL
        if self.fault < _LONG_LINE and self._has_long_line(piece):
            self.fault = _LONG_LINE
        if self.fault is not _NO_FAULT:
            return b""
        if not self.eight_bit:
            self.eight_bit = not piece.isascii()
        return piece

    def _has_long_line(self, piece: bytes) -> bool:
        # In steps of a line's length: the last LF within each ends a line, and what is between is short enough.
        start = -self._line_octets
        length = len(piece)
        while length - start > MAX_TEXT_OCTETS:
            end = piece.rfind(b"\n", max(start, 0), start + _MAX_TEXT_LINE_OCTETS)
            if end < 0:
                return True
            start = end + 1
        end = piece.rfind(b"\n", max(start, 0))
        self._line_octets = length - start if end < 0 else length - end - 1
        return False


#: The first line that begins with a dot. As a literal expression this takes half the time of `bytes.find`.
_search_dot = re.compile(rb"\r\n\.").search


class DataDecoder:
    """Content between 354 and CRLF.CRLF, RFC 5321 §4.1.1.4.

    A tail that may be the start of CRLF.CRLF is held back: four octets at most.
    """

    __slots__ = ("_after_newline", "_fresh", "_held", "check", "rest")

    def __init__(self, check: ContentCheck) -> None:
        self.check = check
        #: What came after the end; None until the end was seen.
        self.rest: bytes | None = None
        # The CRLF that ended DATA may be the one that begins CRLF.CRLF. It is no content.
        self._held = b"\r\n"
        self._fresh = True
        #: Normalised only: the last piece ended with what was made a CRLF, so a dot may follow.
        self._after_newline = False

    def feed(self, data: bytes) -> bytes:
        """More octets in, content out. After the end, `rest` holds what is left of them."""
        buffer = self._held + data
        dot = _search_dot(buffer)
        end = -1 if dot is None else buffer.find(b"\r\n.\r\n", dot.start())
        if end >= 0:
            piece, self.rest = buffer[: end + 2], buffer[end + 5 :]
        else:
            cut = len(buffer) - _possible_end(buffer)
            piece, self._held = buffer[:cut], buffer[cut:]
        check = self.check
        if not piece:
            return b""
        if check.fault is _BARE_NEWLINE:
            check.size += len(piece)
            return b""
        clean = check.newlines(piece)
        # Nothing to unstuff where no line begins with a dot, or only the last one does.
        if (dot is not None and dot.start() != end) or clean is not piece or self._after_newline:
            clean = self._unstuffed(clean)
        if self._fresh:
            clean = clean[2:]
            self._fresh = False
        return check.measure(clean)

    def _unstuffed(self, piece: bytes) -> bytes:
        content = piece.replace(b"\r\n.", b"\r\n")
        if self._after_newline and content.startswith(b"."):
            content = content[1:]
        self._after_newline = piece.endswith(b"\n")
        return content


def _possible_end(buffer: bytes) -> int:
    """Octets at the end of `buffer` that may be the first of CRLF.CRLF."""
    if buffer.endswith(b"\r\n"):
        return 2
    if buffer.endswith(b"\r"):
        return 4 if buffer.endswith(b"\r\n.\r") else 1
    return 3 if buffer.endswith(b"\r\n.") else 0


class ChunkDecoder:
    """Content of one mail in chunks, RFC 3030 §2: no dots, no end but the announced one. A CR is held back."""

    __slots__ = ("_held", "check", "left")

    def __init__(self, check: ContentCheck) -> None:
        self.check = check
        #: Octets of the current chunk that did not come yet.
        self.left = 0
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Octets of the current chunk in, `left` at most; content out."""
        self.left -= len(data)
        if self.check.fault is _BARE_NEWLINE:
            self.check.size += len(data)
            return b""
        if self._held:
            data, self._held = self._held + data, b""
        if data.endswith(b"\r"):
            data, self._held = data[:-1], b"\r"
        return self.check.measure(self.check.newlines(data))

    def finish(self) -> bytes:
        """After the last chunk: what was held back."""
        held, self._held = self._held, b""
        return self.check.measure(self.check.newlines(held)) if held else b""
