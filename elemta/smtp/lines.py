"""The buffer that turns the bytes of a client into command lines.

What is not here: what a line means (`smtp.commands`), or what bytes mean inside a mail (`smtp.content`).
Only CRLF ends a line (RFC 5321 §2.3.8). A line over the limit is dropped while it streams, so the buffer holds at most
one line within the limit, beside the bytes of the last call that were not asked for yet.
"""

import enum
from typing import Final

#: RFC 5321 §4.5.3.1.4 gives a command line 512 octets with its CRLF, to which extensions add for MAIL: RFC 1870 §3 26,
#: RFC 6152 §2 17, RFC 6531 §3.1 10, RFC 4954 §3 500, RFC 6710 §3 15, RFC 8689 §3 11, RFC 3461 §4.3 and §4.4 9 and 107;
#: for RCPT: RFC 3461 §4.1 29, §4.2 507. The larger sum is 1207; the next power of two leaves room for spaces.
MAX_COMMAND_OCTETS: Final = 2048
#: RFC 4954 §4: of a line in an AUTH exchange with its CRLF. The AUTH command itself should keep to the limit of other
#: commands, but clients with long tokens do not.
MAX_AUTH_OCTETS: Final = 12_288
#: After so much of one line, nobody believes in its end any more.
MAX_DISCARDED_OCTETS: Final = 1024 * 1024
_CR: Final = 13


class LineFault(enum.Enum):
    """What is wrong with a line."""

    TOO_LONG = "too long"
    ENDLESS = "endless"
    BARE_NEWLINE = "bare newline"


class LineBuffer:
    """Bytes in, lines out.

    `limit` is octets of a line with its CRLF. With `normalize` a bare LF ends a line, too.
    """

    __slots__ = ("_data", "_discarded", "_normalize", "_scanned", "_start")

    def __init__(self, *, normalize: bool = False) -> None:
        self._normalize = normalize
        self._data = b""
        self._start = 0
        #: Octets from `_start` that are known to hold no LF.
        self._scanned = 0
        #: Octets of the current line that were dropped already; 0 while it is within the limit.
        self._discarded = 0

    def __bool__(self) -> bool:
        return self._start < len(self._data)

    def push(self, data: bytes) -> None:
        """Take what was received."""
        if self._start < len(self._data):
            data = self._data[self._start :] + data
        self._data = data
        self._start = 0

    def take_line(self, limit: int) -> bytes | LineFault | None:
        """The next line without its CRLF, what is wrong with it, or None while it is not whole.

        A fault is told once for each line, as soon as it shows.
        """
        if self._discarded and not self._discard():
            return LineFault.ENDLESS if self._discarded > MAX_DISCARDED_OCTETS else None
        data, start = self._data, self._start
        end = data.find(b"\n", start + self._scanned)
        if end < 0:
            self._scanned = len(data) - start
            return self._overflow(limit) if self._scanned >= limit else None
        if end - start >= limit:
            return self._overflow(limit)
        self._start = end + 1
        self._scanned = 0
        if end == start or data[end - 1] != _CR:
            return data[start:end] if self._normalize else LineFault.BARE_NEWLINE
        return data[start : end - 1]

    def peek(self, octets: int) -> bytes:
        """The first octets, as far as they are there; they stay."""
        return self._data[self._start : self._start + octets]

    def _overflow(self, limit: int) -> LineFault:
        self._start += limit
        self._scanned = 0
        self._discarded = limit
        return LineFault.TOO_LONG

    def _discard(self) -> bool:
        """Drop more of a line that is too long. True when its end was found."""
        end = self._data.find(b"\n", self._start)
        self._discarded += (len(self._data) if end < 0 else end) - self._start
        if end < 0:
            self._clear()
            return False
        self._start = end
        if self._discarded > MAX_DISCARDED_OCTETS:
            return False
        self._start += 1
        self._discarded = 0
        return True

    def _clear(self) -> None:
        self._data = b""
        self._start = self._scanned = 0

    def take_all(self) -> bytes:
        """Everything that is there."""
        data = self._data[self._start :] if self._start else self._data
        self._clear()
        return data

    def take(self, octets: int) -> bytes:
        """As much as is there, `octets` at most."""
        data = self._data[self._start : self._start + octets]
        self._start += len(data)
        self._scanned = 0
        return data

    def clear(self) -> None:
        """Forget everything, a line that is being dropped included."""
        self._clear()
        self._discarded = 0
