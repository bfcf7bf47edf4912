"""What the tests of TLS share: streams in memory with addresses, authorities, contexts, a pair of ends that agree."""

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing
import trustme

from elemta.net.base import Endpoint, Stream
from elemta.net.sockets import SystemNetwork
from elemta.tls.stream import TlsStream, accept_tls, connect_tls

T = TypeVar("T")

SERVER = Endpoint("192.0.2.25", 25)
CLIENT = Endpoint("192.0.2.99", 40_000)
NAME = "mx.example.com"


class PipeStream(Stream):
    """One end of a pair of memory streams, with addresses; it gives `piece` octets at once."""

    def __init__(self, inner: trio.StapledStream[Any, Any], local: Endpoint, peer: Endpoint) -> None:
        self.inner = inner
        self.local = local
        self.peer = peer
        self.piece: int | None = None
        self.sends = 0
        self.octets = 0
        self.aborted = self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends += 1
        self.octets += len(data)
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.inner.receive_some(self.piece or max_bytes))

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        self.closed = True
        await self.inner.aclose()

    def abort(self) -> None:
        self.aborted = True
        self.inner.send_stream.close()
        self.inner.receive_stream.close()


def pipe() -> tuple[PipeStream, PipeStream]:
    """The client's and the server's end."""
    ours, theirs = trio.testing.memory_stream_pair()
    return PipeStream(ours, CLIENT, SERVER), PipeStream(theirs, SERVER, CLIENT)


def narrow_pipe() -> tuple[PipeStream, PipeStream]:
    """As `pipe`, but a send waits until all of it was received."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    return PipeStream(ours, CLIENT, SERVER), PipeStream(theirs, SERVER, CLIENT)


async def sockets() -> tuple[Stream, Stream]:
    """The client's and the server's end of a connection of the system."""
    network = SystemNetwork()
    (listener,) = await network.listen("127.0.0.1:0", 1)
    client, server = await both(lambda: network.connect(listener.local), listener.accept)
    listener.close()
    return client, server


async def both(one: Callable[[], Awaitable[T]], other: Callable[[], Awaitable[T]]) -> tuple[T, T]:
    """What both return, run at once."""
    results: dict[int, T] = {}

    async def run(number: int, function: Callable[[], Awaitable[T]]) -> None:
        results[number] = await function()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, 0, one)
        nursery.start_soon(run, 1, other)
    return results[0], results[1]


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or (NAME,))).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


class Contexts:
    """A server's and a client's context that trust each other; made once, for keys cost time."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.server = server_context(self.authority)
        self.client = client_context(self.authority)

    async def agree(self, client: Stream, server: Stream) -> tuple[TlsStream, TlsStream]:
        """Shake hands over these two ends."""
        return await both(
            lambda: connect_tls(client, self.client, server_name=NAME),
            lambda: accept_tls(server, self.server),
        )
