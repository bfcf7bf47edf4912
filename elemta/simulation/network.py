"""The virtual network: hosts by address, who listens where.

What is not here: the streams themselves (`simulation.pipe`), or what hosts say (`simulation.hosts`).
A `VirtualHost` is one machine's way into the network, a `net.Network` of its own. When its machine crashes, every
connection is cut and every listener is gone; the next life of the machine is a new `VirtualHost` at the same address.
Failures raised: `OSError` as the system does, `ValueError` for an address of no known form.
"""

import errno
import os
import random
from collections.abc import Sequence

import trio

from elemta.net.base import Endpoint, Listener, Stream
from elemta.net.sockets import split_address
from elemta.simulation.pipe import NEAR, Latency, VirtualStream, connection

#: The first port given to the near end of a connection: RFC 6335 §6, dynamic ports.
FIRST_FREE_PORT = 49152
FREE_PORTS = 16384
#: Seconds until a system gives up on a host that never answers: Linux's default of six tries.
CONNECT_SECONDS = 127.0
#: Addresses of a listener that takes what comes to any address of its machine.
WILDCARDS = frozenset({"", "0.0.0.0", "::"})


class VirtualListener:
    """A listening end; at most `backlog` connections wait for their accept."""

    def __init__(self, local: Endpoint, backlog: int) -> None:
        self._local = local
        self._arrive, self._accept = trio.open_memory_channel[VirtualStream](backlog)
        self.closed = False

    @property
    def local(self) -> Endpoint:
        """Where it listens."""
        return self._local

    async def accept(self) -> Stream:
        """The next connection."""
        try:
            return await self._accept.receive()
        except (trio.EndOfChannel, trio.BrokenResourceError):
            raise trio.ClosedResourceError("this listener was closed") from None

    async def arrive(self, stream: VirtualStream) -> None:
        """A connection for this listener; waits while the backlog is full. Raises `ConnectionRefusedError`."""
        try:
            await self._arrive.send(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _os_error(errno.ECONNREFUSED) from None

    def close(self) -> None:
        """Stop listening; what waits for its accept is reset."""
        self.closed = True
        while True:
            try:
                self._accept.receive_nowait().abort()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
        self._arrive.close()
        self._accept.close()


class VirtualNetwork:
    """Every machine of the world. `latency` is that of each journey."""

    def __init__(self, chance: random.Random, *, latency: Latency = NEAR) -> None:
        self._chance = chance
        self._latency = latency
        self._listeners: dict[Endpoint, VirtualListener] = {}
        self._streams: dict[VirtualStream, None] = {}
        #: Machines that nothing reaches and nothing leaves.
        self._silent: set[str] = set()
        self._changed = trio.lowlevel.ParkingLot()
        self._next_port = FIRST_FREE_PORT

    def host(self, address: str) -> "VirtualHost":
        """A new life of the machine at `address`."""
        return VirtualHost(self, address)

    def partition(self, address: str) -> None:
        """Cut a machine off: what is on its way waits, connecting takes until the system gives up."""
        self._silent.add(address)
        self._mark_silent()

    def heal(self, address: str) -> None:
        """Join a machine to the others again."""
        self._silent.discard(address)
        self._mark_silent()

    def _mark_silent(self) -> None:
        self._changed.unpark_all()
        for stream in self._streams:
            stream.into.silent = stream.local.host in self._silent or stream.peer.host in self._silent
            stream.into.wake()

    # ---- for machines ----------------------------------------------------------------------------

    def bind(self, local: Endpoint, backlog: int) -> VirtualListener:
        """Listen. Raises `OSError` when somebody does so already."""
        other = self._listeners.get(local)
        if other is not None and not other.closed:
            raise _os_error(errno.EADDRINUSE)
        listener = self._listeners[local] = VirtualListener(local, backlog)
        self._changed.unpark_all()
        return listener

    def free_port(self) -> int:
        """A port that the world has not used for a while."""
        port = self._next_port
        self._next_port = FIRST_FREE_PORT + (port + 1 - FIRST_FREE_PORT) % FREE_PORTS
        return port

    async def join(self, near: Endpoint, far: Endpoint) -> VirtualStream:
        """Connect two machines; one journey there and one back. Raises `OSError`."""
        with trio.move_on_after(CONNECT_SECONDS):
            while self._silent.intersection((near.host, far.host)) or not self._exists(far):
                await self._changed.park()
            await trio.sleep(self._chance.uniform(self._latency.least, self._latency.most) * 2)
            listener = self._listeners.get(far)
            if listener is None or listener.closed:
                raise _os_error(errno.ECONNREFUSED)
            ours, theirs = connection(near, far, latency=self._latency, chance=self._chance)
            await listener.arrive(theirs)
            self._streams = {stream: None for stream in self._streams if not stream.is_closed}
            self._streams.update({ours: None, theirs: None})
            return ours
        raise _os_error(errno.ETIMEDOUT)

    def _exists(self, far: Endpoint) -> bool:
        return far.is_unix or any(end.host == far.host for end in self._listeners)

    def cut(self, streams: Sequence[VirtualStream]) -> None:
        """Abort these ends: their machine is gone."""
        for stream in streams:
            stream.abort()


class VirtualHost:
    """One life of one machine: a `net.Network` with an address of its own."""

    def __init__(self, network: VirtualNetwork, address: str) -> None:
        self.address = address
        self._network = network
        self._listeners: list[VirtualListener] = []
        self._streams: list[VirtualStream] = []
        self._crashed = False

    async def listen(self, address: str, backlog: int) -> Sequence[Listener]:
        """Listen at `address`; see `net.Network`. Nothing waits, and there is one listener even for `:port`."""
        await trio.lowlevel.checkpoint()
        if self._crashed:
            raise _os_error(errno.ENETDOWN)
        if address.startswith("unix:"):
            local = Endpoint(address.removeprefix("unix:"))
        else:
            host, port = split_address(address)
            if host not in WILDCARDS and host != self.address:
                raise _os_error(errno.EADDRNOTAVAIL)
            local = Endpoint(self.address, port or self._network.free_port())
        listener = self._network.bind(local, backlog)
        self._listeners.append(listener)
        return [_Accepting(listener, self._streams)]

    async def connect(self, endpoint: Endpoint) -> Stream:
        """Connect to `endpoint`; see `net.Network`."""
        if self._crashed:
            await trio.lowlevel.checkpoint()
            raise _os_error(errno.ENETDOWN)
        near = Endpoint("") if endpoint.is_unix else Endpoint(self.address, self._network.free_port())
        stream = await self._network.join(near, endpoint)
        if self._crashed:
            stream.abort()
            raise _os_error(errno.ENETDOWN)
        self._streams[:] = [other for other in self._streams if not other.is_closed]
        self._streams.append(stream)
        return stream

    def crash(self) -> None:
        """The machine is gone: what it sent is on its way, then everybody finds the connection reset."""
        self._crashed = True
        for listener in self._listeners:
            listener.close()
        self._network.cut(self._streams)
        self._streams.clear()


class _Accepting:
    """A listener that tells its machine of each connection, so that a crash finds them all."""

    def __init__(self, listener: VirtualListener, streams: list[VirtualStream]) -> None:
        self._listener = listener
        self._streams = streams

    @property
    def local(self) -> Endpoint:
        return self._listener.local

    async def accept(self) -> Stream:
        stream = await self._listener.accept()
        assert isinstance(stream, VirtualStream)
        self._streams[:] = [other for other in self._streams if not other.is_closed]
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        self._listener.close()


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
