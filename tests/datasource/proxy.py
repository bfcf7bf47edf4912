"""A TCP proxy in front of a database server: it cuts, stalls, refuses, and loses the answer to COMMIT.

What is not here: TLS (`tls_proxy`). `async with proxied(options) as proxy` gives `proxy.options` to connect with.
"""

import contextlib
import enum
from collections.abc import AsyncIterator

import attrs
import trio

from elemta.datasource.options import PORTS, DatabaseOptions

#: Octets read at once.
CHUNK_OCTETS = 65536


#: Octets before the statement, in both protocols: its length, and what kind of message it is.
HEADER_OCTETS = 5
COMMITS = (b"COMMIT", b"COMMIT\0")


class CommitFault(enum.Enum):
    """What happens to the next COMMIT that comes by."""

    #: The connection is cut before the server sees it.
    LOSE_REQUEST = "lose request"
    #: The server answers, then the connection is cut: the client hears nothing.
    LOSE_ANSWER = "lose answer"
    #: The server answers, and the client hears nothing, on a connection that stands.
    HOLD_ANSWER = "hold answer"


class Proxy:
    """What stands between; change its ways at any time."""

    def __init__(self, upstream: DatabaseOptions, port: int) -> None:
        self.upstream = upstream
        self.options = attrs.evolve(upstream, host="127.0.0.1", port=port)
        #: What to do at the next COMMIT; None again once it was done.
        self.commit_fault: CommitFault | None = None
        #: True while connections are accepted and closed at once: nobody speaks there.
        self.is_refusing = False
        #: How many connections came so far.
        self.connections = 0
        self._open_gate = trio.Event()
        self._open_gate.set()
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Close every connection in both directions."""
        for scope in self._scopes:
            scope.cancel()

    def stall(self) -> None:
        """Forward nothing more, and read nothing more: like a stopped server, or a network that swallows packets."""
        self._open_gate = trio.Event()

    def resume(self) -> None:
        """Forward again, what was held back first."""
        self._open_gate.set()

    async def handle(self, client: trio.SocketStream) -> None:
        """One connection, until either side ends it."""
        self.connections += 1
        async with client:
            if self.is_refusing:
                return
            host, port = self.upstream.host, self.upstream.port or PORTS[self.upstream.dialect]
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async with await trio.open_tcp_stream(host, port) as server:
                    await self._forward(client, server)

    async def _forward(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            way = Way(scope)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._requests, client, server, way)
                    await self._answers(client, server, way)
                    scope.cancel()
            finally:
                self._scopes.discard(scope)

    async def _answers(self, client: trio.SocketStream, server: trio.SocketStream, way: "Way") -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while piece := await server.receive_some(CHUNK_OCTETS):
                await self._open_gate.wait()
                if way.fault is CommitFault.LOSE_ANSWER:
                    return
                if way.fault is CommitFault.HOLD_ANSWER:
                    await trio.sleep_forever()
                await client.send_all(piece)

    async def _requests(self, client: trio.SocketStream, server: trio.SocketStream, way: "Way") -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while piece := await client.receive_some(CHUNK_OCTETS):
                await self._open_gate.wait()
                if piece[HEADER_OCTETS:] in COMMITS and self.commit_fault is not None:
                    way.fault, self.commit_fault = self.commit_fault, None
                    if way.fault is CommitFault.LOSE_REQUEST:
                        break
                await server.send_all(piece)
        way.scope.cancel()


@attrs.define(eq=False)
class Way:
    """One connection through the proxy."""

    scope: trio.CancelScope
    fault: CommitFault | None = None


@contextlib.asynccontextmanager
async def proxied(upstream: DatabaseOptions) -> AsyncIterator[Proxy]:
    """A proxy in front of a server, on a port of its own."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy = Proxy(upstream, listener.socket.getsockname()[1])
        await nursery.start(trio.serve_listeners, proxy.handle, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
