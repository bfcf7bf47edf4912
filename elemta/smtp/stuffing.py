"""Dot-stuffing of outgoing content, in bulk.

What is not here: unstuffing of what comes in (the server machine). RFC 5321 §4.5.2 doubles a dot at the start of a
line, §4.1.1.4 ends the content with CRLF.CRLF. Failures raised: `BareNewline`, because what would read as a line end
to some hosts and as text to others lets a mail smuggle another one (RFC 5321 §2.3.8).
"""


class BareNewline(Exception):
    """The content holds a CR without LF or an LF without CR: it must not be sent."""


class DotStuffer:
    """Pieces of content in, pieces for the wire out. Where the content is cut changes nothing.

    One octet is held back at most: a CR at the end of a piece whose LF may come with the next.
    """

    __slots__ = ("_at_line_start", "_held")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """The piece with its dots doubled. Raises `BareNewline`."""
        if self._held:
            piece, self._held = self._held + piece, b""
        if piece.endswith(b"\r"):
            piece, self._held = piece[:-1], b"\r"
        if not piece:
            return b""
        ends = piece.count(b"\r\n")
        # Counting three times is a tenth of what one regular expression for a bare CR or LF costs.
        if piece.count(b"\n") != ends or piece.count(b"\r") != ends:
            raise BareNewline("the content holds a bare CR or LF")
        stuffed = piece.replace(b"\r\n.", b"\r\n..") if ends else piece
        if self._at_line_start and piece.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = piece.endswith(b"\r\n")
        return stuffed

    def end(self) -> bytes:
        """What ends the content on the wire: a line end where the last line has none, then the dot.

        Raises `BareNewline` when the content ends with CR.
        """
        if self._held:
            raise BareNewline("the content ends with a bare CR")
        return b".\r\n" if self._at_line_start else b"\r\n.\r\n"
