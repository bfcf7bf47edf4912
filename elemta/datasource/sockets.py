"""What a connection to a database server asks of its socket.

What is not here: how the connection is made.
"""

import socket
from typing import Protocol

#: Seconds without traffic until the first probe, between probes, and probes until the connection counts as broken.
KEEPALIVE_IDLE_SECONDS = 15
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_PROBES = 3

#: Milliseconds that what was sent may stay unacknowledged, RFC 5482: a network that swallows packets is noticed sooner
#: than by the kernel's fifteen minutes.
UNACKNOWLEDGED_MILLISECONDS = 15_000


class SocketOptions(Protocol):
    """A socket as far as its options go: what asyncio lets its callers see."""

    @property
    def family(self) -> int: ...

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def watch_peer(sock: SocketOptions | None) -> None:
    """Have the kernel notice a peer that is gone; nothing for unix sockets."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MILLISECONDS),
    ):
        if hasattr(socket, name):  # not every system has each
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
