"""The narrow interface to the network.

What is not here: sockets (`net.sockets`), the virtual network (`simulation.network`), any protocol.
A `Stream` is a Trio stream, so TLS can wrap it; our own implementations do without a cancel scope an operation.
Failures raised: `trio.BrokenResourceError`, `trio.ClosedResourceError` from streams, `OSError` from connect and listen.
"""

from collections.abc import Sequence
from typing import Protocol

import trio
from attrs import frozen

#: Octets asked for in one receive: receiving costs the same whatever the buffer, measured up to here.
RECEIVE_OCTETS = 65536


@frozen
class Endpoint:
    """One end of a connection. `host` is an IP address or a unix path, `port` is 0 for unix sockets."""

    host: str
    port: int = 0

    @property
    def is_unix(self) -> bool:
        """True for a unix socket, which has no network address."""
        return self.port == 0

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Stream(trio.abc.HalfCloseableStream):
    """A byte stream that knows its ends. `local` and `peer` are fixed when it is made."""

    local: Endpoint
    peer: Endpoint

    def abort(self) -> None:
        """Close at once, without waiting and without an orderly end; never raises."""
        raise AssertionError("each stream has its own abort")


class Listener(Protocol):
    """A bound, listening socket."""

    @property
    def local(self) -> Endpoint:
        """Where it listens, with the real port where 0 was asked for."""
        ...

    async def accept(self) -> Stream:
        """The next connection. Raises `OSError` for an accept that failed, `trio.ClosedResourceError` when closed."""
        ...

    def close(self) -> None:
        """Stop listening; a waiting `accept` ends with `trio.ClosedResourceError`."""
        ...


class Network(Protocol):
    """Where listeners and connections come from: the system, or the virtual world."""

    async def listen(self, address: str, backlog: int) -> Sequence[Listener]:
        """Listen at `host:port`, `:port` (every IPv4 and IPv6 address), `[v6]:port` or `unix:/path`.

        Raises `OSError` as the system does, `ValueError` for an address of no such form.
        """
        ...

    async def connect(self, endpoint: Endpoint) -> Stream:
        """Connect to an IP address and port, or a unix path. The caller sets the deadline. Raises `OSError`."""
        ...
