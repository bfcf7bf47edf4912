"""A proxy that speaks TLS towards the client for a server that has none.

What is not here: faults (`proxy`). Both protocols ask for TLS in the clear before they speak it, each in its own way.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator

import attrs
import trio

from elemta.datasource.options import PORTS, DatabaseOptions, Dialect

#: Octets read at once.
CHUNK_OCTETS = 65536

#: PostgreSQL's SSLRequest: its length, and the number that stands for it.
SSL_REQUEST = bytes((0, 0, 0, 8)) + (80877103).to_bytes(4, "big")

#: MySQL: octets of a packet's header, the flag for TLS in the lower half of the capabilities, and where those lie
#: behind the server's version.
HEADER_OCTETS = 4
CLIENT_SSL = 0x0800
CAPABILITIES_BEHIND_VERSION = 4 + 8 + 1


class TlsProxy:
    """What stands between, with one certificate."""

    def __init__(self, upstream: DatabaseOptions, port: int, context: ssl.SSLContext) -> None:
        self.upstream = upstream
        self.options = attrs.evolve(upstream, host="127.0.0.1", port=port)
        #: What TLS each connection came to.
        self.versions: list[str] = []
        self._context = context

    async def handle(self, client: trio.SocketStream) -> None:
        """One connection, until either side ends it."""
        host, port = self.upstream.host, self.upstream.port or PORTS[self.upstream.dialect]
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with client, await trio.open_tcp_stream(host, port) as server:
                agree = self._as_postgresql if self.upstream.dialect is Dialect.POSTGRESQL else self._as_mysql
                secure = await agree(client, server)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(forward, secure, server)
                    await forward(server, secure)
                    nursery.cancel_scope.cancel()

    async def _encrypt(self, client: trio.SocketStream) -> "trio.SSLStream[trio.SocketStream]":
        secure = trio.SSLStream(client, self._context, server_side=True, https_compatible=True)
        await secure.do_handshake()
        self.versions.append(str(secure.version()))
        return secure

    async def _as_postgresql(
        self, client: trio.SocketStream, _server: trio.SocketStream
    ) -> "trio.SSLStream[trio.SocketStream]":
        assert await client.receive_some(CHUNK_OCTETS) == SSL_REQUEST
        await client.send_all(b"S")
        return await self._encrypt(client)

    async def _as_mysql(
        self, client: trio.SocketStream, server: trio.SocketStream
    ) -> "trio.SSLStream[trio.SocketStream]":
        """Offer TLS in the greeting; the client's request for it makes every number of the login one higher."""
        greeting = bytearray(await server.receive_some(CHUNK_OCTETS))
        flags = greeting.index(0, HEADER_OCTETS + 1) + 1 + CAPABILITIES_BEHIND_VERSION
        greeting[flags + 1] |= CLIENT_SSL >> 8
        await client.send_all(greeting)
        await client.receive_some(CHUNK_OCTETS)
        secure = await self._encrypt(client)
        login = bytearray(await secure.receive_some(CHUNK_OCTETS))
        login[3] -= 1
        login[HEADER_OCTETS + 1] &= ~(CLIENT_SSL >> 8)
        await server.send_all(login)
        answer = bytearray(await server.receive_some(CHUNK_OCTETS))
        answer[3] += 1
        await secure.send_all(answer)
        return secure


async def forward(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
    """Everything from one side to the other."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while piece := await source.receive_some(CHUNK_OCTETS):
            await target.send_all(piece)


@contextlib.asynccontextmanager
async def encrypted(upstream: DatabaseOptions, context: ssl.SSLContext) -> AsyncIterator[TlsProxy]:
    """A proxy in front of a server, on a port of its own."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy = TlsProxy(upstream, listener.socket.getsockname()[1], context)
        await nursery.start(trio.serve_listeners, proxy.handle, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
