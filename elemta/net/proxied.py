"""A connection that a proxy passes on, under the addresses that the proxy told.

What is not here: the header's form (`net.proxy`), or whether this peer is believed (`inbound.proxied`).
Failures raised: `BadProxyHeader`, `ProxyLeft`, Trio's resource errors.
"""

import trio

from elemta.net.base import Stream
from elemta.net.proxy import MAX_HEADER_OCTETS, BadProxyHeader, ProxiedEnds, ends_behind, parse_header


class ProxyLeft(Exception):
    """The connection ended before its first octet: somebody looked whether the port is open."""


async def receive_header(stream: Stream) -> "ProxiedStream":
    """Wait for the header; the connection behind it. The caller sets the deadline, and closes after a failure."""
    heard = bytearray()
    while True:
        data = await stream.receive_some(MAX_HEADER_OCTETS - len(heard))
        if not data:
            raise BadProxyHeader("the connection ended within the header") if heard else ProxyLeft
        heard += data
        header = parse_header(heard)
        if header is not None:
            ends = ends_behind(header, peer=stream.peer, local=stream.local)
            return ProxiedStream(stream, ends, bytes(heard[header.octets :]))


class ProxiedStream(Stream):
    """The client's octets; `rest` are those that came with the header."""

    def __init__(self, inner: Stream, ends: ProxiedEnds, rest: bytes) -> None:
        self.peer = ends.source
        self.local = ends.destination
        self._inner = inner
        self._rest = rest

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """At most `RECEIVE_OCTETS` octets (or `max_bytes`), empty at the peer's end."""
        rest = self._rest
        if not rest:
            return await self._inner.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        limit = len(rest) if max_bytes is None else max_bytes
        self._rest = rest[limit:]
        return rest[:limit]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until more can be sent."""
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        await self._inner.send_eof()

    async def aclose(self) -> None:
        """Close in order."""
        self._rest = b""
        await self._inner.aclose()

    def abort(self) -> None:
        """Close at once."""
        self._rest = b""
        self._inner.abort()
