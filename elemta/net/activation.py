"""Listening sockets that a service manager has bound for this process.

What is not here: words to the manager (`supervisor.notify`), or sockets that one of our processes binds for others
(`net.shared`). The protocol is that of sd_listen_fds(3). A socket belongs to the configured address that it is bound
to, so that one configuration serves with and without a manager; it stays the manager's: clients that come while
nobody serves wait in its queue, and the path of a unix socket is not ours to remove.
Failure raised: `BadHandover`, for descriptors that are no listening sockets.
"""

import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, MutableMapping, Sequence

from attrs import frozen

from elemta.net.base import Endpoint
from elemta.net.sockets import SocketListener, SystemNetwork, split_address

#: SD_LISTEN_FDS_START: the first descriptor that is handed over.
FIRST_DESCRIPTOR = 3
#: Descriptors that are believed: more than a process may have open by default on Linux is a broken number.
MOST_DESCRIPTORS = 1024

_WILDCARDS = frozenset({"0.0.0.0", "::"})


class BadHandover(ValueError):
    """What was handed over cannot be listened at; the text is for people."""


@frozen(eq=False)
class Handed:
    """One socket, under the name that its manager gives it (`FileDescriptorName=`)."""

    name: str
    sock: socket.socket
    endpoint: Endpoint


class HandedSockets:
    """What was handed over and nobody listens at yet."""

    def __init__(self, handed: Iterable[Handed] = ()) -> None:
        self._left = list(handed)

    @classmethod
    def of_environment(
        cls, environ: MutableMapping[str, str], pid: int, *, first: int = FIRST_DESCRIPTOR
    ) -> "HandedSockets":
        """The sockets that the environment gives the process `pid`, from the descriptor `first` on.

        No program that it starts gets them again. Raises `BadHandover`.
        """
        meant, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        if meant != str(pid):
            return cls()
        if not (count.isascii() and count.isdigit() and int(count) <= MOST_DESCRIPTORS):
            raise BadHandover(f"LISTEN_FDS is {count!r}, which is no number of sockets")
        names += [""] * int(count)
        return cls([_open(first + index, names[index] or "unknown") for index in range(int(count))])

    def take(self, address: str) -> list[socket.socket]:
        """The sockets bound to a configured address, which are the caller's now; none where nobody bound it."""
        taken = [handed for handed in self._left if is_bound_to(handed.endpoint, address)]
        self._left = [handed for handed in self._left if handed not in taken]
        return [handed.sock for handed in taken]

    def left_by(self, addresses: Sequence[str]) -> list[Handed]:
        """Those that none of these addresses would take: their clients would wait for ever."""
        return [one for one in self._left if not any(is_bound_to(one.endpoint, address) for address in addresses)]


def _open(descriptor: int, name: str) -> Handed:
    os.set_inheritable(descriptor, False)
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise BadHandover(f"descriptor {descriptor} ({name}) is no socket")
    sock = socket.socket(fileno=descriptor)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise BadHandover(
            f"descriptor {descriptor} ({name}) does not listen: its unit needs ListenStream= and Accept=no"
        )
    sock.setblocking(False)
    return Handed(name, sock, SocketListener(sock).local)


def is_bound_to(endpoint: Endpoint, address: str) -> bool:
    """Whether a socket at `endpoint` is what `address` asks for; `:port` asks for every address of a family or of both.

    Names are not looked up: an address with one is never met. Raises `ValueError` for an address of no known form.
    """
    if address.startswith("unix:"):
        return endpoint == Endpoint(address.removeprefix("unix:"))
    host, port = split_address(address)
    if endpoint.is_unix or port != endpoint.port:
        return False
    if not host:
        return endpoint.host in _WILDCARDS
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(endpoint.host)
    except ValueError:
        return False


class ActivatedNetwork(SystemNetwork):
    """The system's network, where some addresses have been bound already."""

    def __init__(self, handed: HandedSockets) -> None:
        self._handed = handed

    async def listen(self, address: str, backlog: int) -> list[SocketListener]:
        """The listeners of an address that was bound; any other one is bound now. Raises `OSError`, `ValueError`."""
        found = self._handed.take(address)
        return [SocketListener(sock) for sock in found] or await super().listen(address, backlog)
