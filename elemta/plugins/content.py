"""A mail's octets as plugins read them, changes included, without copying a large mail.

What is not here: where the octets lie (`inbound` hands a `Reader`), or writing the changed mail down again.
Failures raised: what the reader raises.
"""

from collections.abc import Awaitable, Callable
from typing import Self

#: Octets of one piece of `chunks`.
CHUNK_OCTETS = 64 * 1024

#: Reads at most `limit` octets of the original content from `offset`.
Reader = Callable[[int, int], Awaitable[bytes]]


class ComposedContent:
    """A header of its own, an empty line, and a body: the original's from an offset on, or another one."""

    __slots__ = ("_body_at", "_body_octets", "_head", "_other", "_read", "header_octets")

    def __init__(self, header: bytes, *, body_at: int, size: int, read: Reader, other: bytes | None = None) -> None:
        """`body_at` and `size` are the original's: where its body begins, and its octets in all."""
        self.header_octets = len(header)
        self._head = header + b"\r\n"
        self._body_at = body_at
        self._body_octets = max(0, size - body_at)
        self._read = read
        self._other = other

    @property
    def size(self) -> int:
        """Octets in all."""
        body = self._body_octets if self._other is None else len(self._other)
        return len(self._head) + body

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`; empty at the end."""
        head = self._head
        if offset < len(head):
            return head[offset : offset + limit]
        within = offset - len(head)
        if self._other is not None:
            return self._other[within : within + limit]
        if within >= self._body_octets:
            return b""
        return await self._read(self._body_at + within, limit)

    def chunks(self, offset: int = 0) -> "Chunks":
        """All octets from `offset`, piece by piece."""
        return Chunks(self.read, offset)


class NoContent:
    """Before there is any."""

    size = 0
    header_octets = 0

    async def read(self, offset: int, limit: int) -> bytes:
        """Nothing."""
        return b""

    def chunks(self, offset: int = 0) -> "Chunks":
        """Nothing."""
        return Chunks(self.read, offset)


class Chunks:
    """An iterator of pieces; no generator, so that whoever stops in the middle leaves nothing open."""

    __slots__ = ("_offset", "_read")

    def __init__(self, read: Reader, offset: int) -> None:
        self._read = read
        self._offset = offset

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._read(self._offset, CHUNK_OCTETS)
        if not piece:
            raise StopAsyncIteration
        self._offset += len(piece)
        return piece
