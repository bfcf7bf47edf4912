"""Listening sockets that one process binds for several others to accept at.

What is not here: the processes (`supervisor.workers`). The sockets are bound before there is any event loop, by a
process that never accepts; each process forked from it finds them under their addresses in `InheritedNetwork`.
All are woken for a connection; the least busy one (`net.balance`) has the first chance to take it, then whoever comes.
While any of them has a socket open, clients wait in the kernel's queue instead of being refused.
Failures raised: `OSError` as the system does, `ValueError` for an address of no known form.
"""

import contextlib
import os
import socket
from collections.abc import Iterable

import trio
from attrs import frozen

from elemta.net.balance import Share
from elemta.net.base import Endpoint, Stream
from elemta.net.sockets import (
    SocketListener,
    SocketStream,
    SystemNetwork,
    bound_socket,
    split_address,
    unix_socket,
    wildcards,
)

#: Seconds for which a process leaves a connection to a less busy one. An idle one needs a tenth of it to wake up; one
#: that hangs delays each of the others' connections by it.
PRECEDENCE_SECONDS = 0.002


@frozen(eq=False)
class SharedSockets:
    """The sockets that listen at one configured address; two for `:port`."""

    address: str
    sockets: tuple[socket.socket, ...]

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where they listen, with the port the system gave."""
        return [SocketListener(sock).local for sock in self.sockets]

    def close(self) -> None:
        """Stop listening in this process; the others go on."""
        for sock in self.sockets:
            sock.close()

    def unlink(self) -> None:
        """Remove a unix socket's path: for the process that bound it, when nobody accepts any more."""
        if self.address.startswith("unix:"):
            with contextlib.suppress(OSError):
                os.unlink(self.address.removeprefix("unix:"))


def listen_shared(address: str, backlog: int) -> SharedSockets:
    """Listen at `host:port`, `:port`, `[v6]:port` or `unix:/path`; blocks while a name is looked up."""
    if address.startswith("unix:"):
        return SharedSockets(address, (unix_socket(address.removeprefix("unix:"), backlog),))
    host, port = split_address(address)
    found: list[socket.socket] = []
    try:
        for family, place in _places(host, port):
            chosen = found[0].getsockname()[1] if found else port
            found.append(bound_socket(family, (place[0], chosen), backlog))
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return SharedSockets(address, tuple(found))


def _places(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    if not host:
        return wildcards(port)
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((row[0], (str(row[4][0]), port)) for row in rows))


class _CountedStream(SocketStream):
    """A connection that its process's share counts until it is closed."""

    def __init__(self, sock: socket.socket, ends: tuple[Endpoint, Endpoint], share: Share) -> None:
        super().__init__(sock, *ends)
        self._share = share
        share.change(+1)

    def _close(self) -> None:
        if self._sock.fileno() != -1:
            self._share.change(-1)
        super()._close()


class SharedListener(SocketListener):
    """A listening socket at which other processes accept too."""

    def __init__(self, sock: socket.socket, share: Share) -> None:
        super().__init__(sock)
        self._share = share

    async def accept(self) -> Stream:
        """The next connection that no other process takes. Raises as `SocketListener.accept`."""
        self._share.enter()
        while True:
            if self._sock.fileno() == -1:
                raise trio.ClosedResourceError("this listener was closed")
            # Always through the event loop: a burst is shared instead of taken whole before anybody else wakes up.
            await trio.lowlevel.wait_readable(self._sock)
            if self._share.is_ahead:
                await trio.sleep(PRECEDENCE_SECONDS)
            try:
                sock, ends = self._take()
            except BlockingIOError:
                continue
            return _CountedStream(sock, ends, self._share)

    def close(self) -> None:
        """Stop listening in this process."""
        self._share.leave()
        super().close()


class InheritedNetwork(SystemNetwork):
    """The system's network in a process whose listeners another one has bound."""

    def __init__(self, shared: Iterable[SharedSockets], share: Share) -> None:
        #: Not by address: two listeners may have asked for any port of the same host.
        self._shared = list(shared)
        self._share = share

    async def listen(self, address: str, backlog: int) -> list[SocketListener]:
        """The listeners of an address that was bound; any other one is bound now. Raises `OSError`, `ValueError`."""
        one = next((one for one in self._shared if one.address == address), None)
        if one is None:
            return await super().listen(address, backlog)
        self._shared.remove(one)
        return [SharedListener(sock, self._share) for sock in one.sockets]
