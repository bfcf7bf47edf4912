"""Lines over a virtual connection, for scripted clients, for scripted hosts.

What is not here: what the lines say. It is a small reader of its own, not the product's: what is rehearsed must not be
judged by its own parser. Failures raised: Trio's resource errors.
"""

from typing import Protocol

import trio

#: Octets read at a time.
_READ_OCTETS = 65536


class Source(Protocol):
    """Where the octets come from."""

    async def receive_some(self, max_octets: int, /) -> bytes:
        """At most so many octets, empty at the peer's end."""
        ...


class Lines:
    """Reads lines that end in CRLF."""

    def __init__(self, stream: Source) -> None:
        self.stream = stream
        self._buffer = b""

    @property
    def buffered(self) -> bytes:
        """What came behind the last line that was read."""
        return self._buffer

    async def line(self) -> bytes | None:
        """The next line without its end; None when the peer has ended."""
        while b"\r\n" not in self._buffer:
            if not await self._more():
                return None
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def content(self) -> bytes | None:
        """A mail's content up to the final dot, dot-stuffing undone (RFC 5321 §4.5.2); None when the peer ended."""
        searched = 0
        data = b"\r\n" + self._buffer
        while (at := data.find(b"\r\n.\r\n", searched)) < 0:
            searched = max(0, len(data) - 4)
            self._buffer = b""
            if not await self._more():
                return None
            data += self._buffer
        self._buffer = data[at + 5 :]
        return data[: at + 2].replace(b"\r\n.", b"\r\n")[2:]

    async def reply(self) -> tuple[int, str]:
        """A whole SMTP reply: its code, the texts of its lines. Raises `trio.BrokenResourceError` when none comes."""
        texts: list[str] = []
        while True:
            line = await self.line()
            if line is None:
                raise trio.BrokenResourceError("the peer ended instead of answering")
            texts.append(line[4:].decode("ascii", "replace"))
            if line[3:4] != b"-":
                return int(line[:3]), " ".join(texts)

    async def _more(self) -> bool:
        piece = await self.stream.receive_some(_READ_OCTETS)
        self._buffer += piece
        return bool(piece)
