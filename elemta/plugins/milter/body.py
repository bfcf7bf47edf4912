"""Another body for a mail, gathered while a filter sends it.

What is not here: the change that it becomes (`milter.changes`). Failures raised: `MilterProtocolError` for a body that
is too large for any mail, `NoRoom` for one too many at once.
"""

from elemta.plugins.milter.wire import MilterProtocolError
from elemta.plugins.verdicts import MAX_BODY_OCTETS
from elemta.runtime.budget import ByteBudget


class NoRoom(Exception):
    """The other bodies that filters give now leave no room for this one."""


class OtherBody:
    """Another body, gathered from its pieces with the line ends of mail: filters end lines with LF as well.

    A filter may take minutes for it, so that `room` bounds what is gathered for all mails; `release` gives it back.
    """

    __slots__ = ("_is_cut", "_octets", "_room")

    def __init__(self, room: ByteBudget) -> None:
        self._room = room
        self._octets: bytearray | None = None
        self._is_cut = False

    def add(self, octets: bytes) -> None:
        """The next piece. Raises `MilterProtocolError` for one too many, `NoRoom`; it is not held then."""
        piece = b"\r" + octets if self._is_cut else octets
        self._is_cut = piece.endswith(b"\r")  # its LF may come with the next piece
        if self._is_cut:
            piece = piece[:-1]
        piece = piece.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if self._octets is None:
            self._octets = bytearray()
        if len(self._octets) + len(piece) > MAX_BODY_OCTETS:
            raise MilterProtocolError(f"another body of more than {MAX_BODY_OCTETS} octets")
        if not self._room.take(len(piece)):
            raise NoRoom(f"other bodies of all mails have more than {self._room.limit} octets")
        self._octets += piece

    def whole(self) -> bytes | None:
        """All of it, with the end of its last line; None where there were no pieces."""
        octets = self._octets
        if octets is None:
            return None
        last = b"\r" if self._is_cut else b""  # a bare CR: no mail can bear it, whoever makes the change says so
        if last or (octets and not octets.endswith(b"\r\n")):
            last += b"\r\n"
        return bytes(octets + last)

    def release(self) -> None:
        """Let it go."""
        if self._octets is not None:
            self._room.give_back(len(self._octets))
            self._octets = None
