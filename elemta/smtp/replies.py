"""The parser of replies from remote hosts.

What is not here: what a reply means (`smtp.client`), or our own replies (`mail.reply` renders them). The grammar is
RFC 5321 §4.2, enhanced status codes are RFC 2034 §4. Whatever a remote host says is bounded in length and count, and
made printable before anything else sees it. Failures raised: `RemoteProtocolError`.
"""

import re
from typing import Final

from elemta.mail.reply import Reply

#: Octets of one line without its line end. RFC 5321 §4.5.3.1.5 allows 512 with the CRLF; hosts that explain
#: themselves send more, and Postfix reads 2,048 (`line_length_limit`).
MAX_LINE_OCTETS: Final = 2048

#: Lines of one reply. The longest that exist are answers to EHLO, with some forty extensions registered at IANA.
MAX_REPLY_LINES: Final = 100

#: Characters kept of one line: as many as RFC 5321 §4.5.3.1.5 lets a host say.
MAX_LINE_CHARACTERS: Final = 512

#: Characters kept of a reply that goes to the history and to reports, all lines together. A reply is kept for each
#: recipient, so that a host could otherwise fill our store with them.
MAX_KEPT_CHARACTERS: Final = 1024

#: One-line replies remembered by a connection: hosts say the same to each MAIL, RCPT and DATA.
MAX_REMEMBERED: Final = 8

# RFC 5321 §4.2:  Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF
#                 Reply-code = %x32-35 %x30-35 %x30-39
# The second digit may be any here: a client acts on the first digit of codes it does not know (§4.3.2).
# RFC 2034 §4:    the text starts with an enhanced code whose class is the first digit of the reply's code.
_LINE: Final = re.compile(rb"([2-5])([0-9]{2})(?:([ -])(?:(\1\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z))?(.*))?", re.DOTALL)


class RemoteProtocolError(Exception):
    """The remote host broke the protocol: what it says from here on means nothing. The text is printable."""


def printable(octets: bytes) -> str:
    """What a remote host said, fit for a log line, a header, a terminal; at most `MAX_LINE_CHARACTERS`."""
    text = octets[:MAX_LINE_OCTETS].decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escaped(char) for char in text)
    return text if len(text) <= MAX_LINE_CHARACTERS else f"{text[: MAX_LINE_CHARACTERS - 1]}…"


def _escaped(char: str) -> str:
    return " " if char == "\t" else char.encode("unicode_escape").decode("ascii")


def abridged(reply: Reply) -> Reply:
    """The reply with `MAX_KEPT_CHARACTERS` of text at most: the first lines, the last of them cut."""
    lines = reply.lines
    if len(lines) == 1 or sum(map(len, lines)) <= MAX_KEPT_CHARACTERS:
        return reply
    kept: list[str] = []
    left = MAX_KEPT_CHARACTERS - 1
    while left >= 0:
        line = lines[len(kept)]
        kept.append(line if len(line) <= left else f"{line[:left]}…")
        left -= len(line)
    return Reply(reply.code, reply.enhanced, tuple(kept))


class ReplyReader:
    """Octets in, whole replies out. How the octets were split changes nothing."""

    __slots__ = ("_buffer", "_code", "_enhanced", "_lines", "_remembered", "_searched")

    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0
        self._code = 0
        self._enhanced = ""
        self._lines: list[str] = []
        self._remembered: dict[bytes, Reply] = {}

    @property
    def has_input(self) -> bool:
        """True when octets, or lines of a reply not yet whole, are waiting."""
        return bool(self._buffer or self._lines)

    def feed(self, data: bytes) -> None:
        """Take what came. The caller drains `next_reply` before it receives more, which bounds the buffer."""
        self._buffer = self._buffer + data if self._buffer else data

    def clear(self) -> None:
        """Forget everything that came: RFC 3207 §4.2."""
        self._buffer = b""
        self._searched = 0
        self._lines = []

    def next_reply(self) -> Reply | None:
        """The next whole reply, None while it is not there. Raises `RemoteProtocolError`."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if (len(self._buffer) if end < 0 else end) > MAX_LINE_OCTETS + 1:
                raise RemoteProtocolError(f"a reply line is longer than {MAX_LINE_OCTETS} octets")
            if end < 0:
                self._searched = len(self._buffer)
                return None
            # A bare LF ends a line as well: in a reply nothing can be smuggled by it, and some hosts send it.
            line = self._buffer[:end].removesuffix(b"\r")
            self._buffer = self._buffer[end + 1 :]
            self._searched = 0
            if not self._lines and (known := self._remembered.get(line)) is not None:
                return known
            reply = self._take(line)
            if reply is not None:
                return reply

    def _take(self, line: bytes) -> Reply | None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError(f"this is no reply line: {printable(line[:80])!r}")
        first, rest, separator, enhanced, text = match.groups()
        code = int(first + rest)
        words = printable(text) if text else ""
        status = enhanced.decode("ascii") if enhanced else ""
        if not self._lines:
            self._code, self._enhanced = code, status
            if separator != b"-":
                return self._remember(line, Reply(code, status, words))
        elif code != self._code:
            # RFC 5321 §4.2.1 wants the same code on each line: which of them counts is anybody's guess.
            raise RemoteProtocolError(f"the lines of one reply say {self._code} as well as {code}")
        elif not self._enhanced:
            self._enhanced = status
        elif status and status != self._enhanced:
            words = f"{status} {words}"
        self._lines.append(words)
        if separator == b"-":
            if len(self._lines) >= MAX_REPLY_LINES:
                raise RemoteProtocolError(f"a reply has more than {MAX_REPLY_LINES} lines")
            return None
        lines = tuple(self._lines)
        self._lines = []
        return Reply(self._code, self._enhanced, lines)

    def _remember(self, line: bytes, reply: Reply) -> Reply:
        if len(self._remembered) < MAX_REMEMBERED and len(line) <= MAX_LINE_CHARACTERS:
            self._remembered[line] = reply
        return reply
