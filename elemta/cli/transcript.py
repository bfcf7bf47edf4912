"""The dialogue of a client with a server, line by line for a person.

What is not here: sockets (`cli.send_streams` hears what goes over them), colours (`cli.send_report`). Secrets are
replaced: what AUTH sends (RFC 4954 §4), and the server's challenges, from which a password can be guessed at home. The
content of a mail is counted, or shown where that is asked for. Failures raised: none; whatever comes is made printable.
"""

import enum
from collections.abc import Callable
from typing import Final

from attrs import frozen

from elemta.smtp.replies import printable

#: What stands in the place of a secret.
HIDDEN: Final = "<hidden>"
#: Octets of a line that has not ended: what is longer is shown in pieces.
_MOST_LINE_OCTETS: Final = 64 * 1024
#: "Go on": with AUTH (RFC 4954 §4), or with the content (RFC 5321 §4.2.3).
_AUTH_GOES_ON: Final = b"334"
_SEND_CONTENT: Final = b"354"


class Side(enum.Enum):
    """Who says a line."""

    CLIENT = ">"
    SERVER = "<"
    #: Nobody: it is about the connection.
    NOTE = "="


@frozen
class Line:
    """One line of a transcript, printable."""

    side: Side
    text: str

    def __str__(self) -> str:
        return f"{self.side.value} {self.text}"


class Transcript:
    """Octets in, lines out. How the octets were split changes nothing but where a content's count stands."""

    def __init__(self, show: Callable[[Line], None], *, content: bool = False) -> None:
        self._show = show
        self._show_content = content
        self._said = b""
        self._heard = b""
        self._in_auth = False
        self._in_content = False
        self._content_octets = 0

    def note(self, text: str) -> None:
        """Say something about the connection."""
        self._end_content()
        self._show(Line(Side.NOTE, text))

    def connected(self, text: str) -> None:
        """A new connection: whatever the last one left unsaid is forgotten."""
        self._said = self._heard = b""
        self._in_auth = self._in_content = False
        self.note(text)

    def sent(self, octets: bytes) -> None:
        """The client said this."""
        if self._in_content:
            self._content_octets += len(octets)
            if not self._show_content:
                return
        *lines, self._said = _lines(self._said + octets)
        for line in lines:
            self._show(Line(Side.CLIENT, printable(line) if self._in_content else self._command(line)))

    def heard(self, octets: bytes) -> None:
        """The server said this."""
        self._end_content()
        *lines, self._heard = _lines(self._heard + octets)
        for line in lines:
            self._take_reply(line)

    def _command(self, line: bytes) -> str:
        if self._in_auth:
            return "*" if line == b"*" else HIDDEN
        words = line.split(b" ", 2)
        if words[0].upper() == b"AUTH":
            self._in_auth = True
            if len(words) > 2:
                return f"{printable(b' '.join(words[:2]))} {HIDDEN}"
        return printable(line)

    def _take_reply(self, line: bytes) -> None:
        goes_on = line.startswith(_AUTH_GOES_ON)
        text = f"334 {HIDDEN}" if self._in_auth and goes_on and line[4:].strip() else printable(line)
        self._show(Line(Side.SERVER, text))
        if not goes_on:
            self._in_auth = False
        self._in_content = line.startswith(_SEND_CONTENT)

    def _end_content(self) -> None:
        if not self._in_content:
            return
        self._in_content = False
        if self._content_octets and not self._show_content:
            self._show(Line(Side.CLIENT, f"… {self._content_octets} octets, the final dot among them"))
        self._content_octets = 0


def _lines(octets: bytes) -> list[bytes]:
    """The lines without their ends, the unfinished one last."""
    lines = [line.removesuffix(b"\r") for line in octets.split(b"\n")]
    lines[-1] = octets.rpartition(b"\n")[2]
    if len(lines[-1]) > _MOST_LINE_OCTETS:
        lines.append(b"")
    return lines
