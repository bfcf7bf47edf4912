"""The system's sockets under the narrow interface.

What is not here: TLS (`tls`), deadlines (the caller has one scope a session), the virtual network.
Non-blocking sockets are driven with Trio's readiness calls alone: measured, `trio.SocketStream` costs half the
connections a second of this. Failures raised: `OSError` from listen and connect, Trio's resource errors from streams.
"""

import contextlib
import errno
import os
import socket
import stat

import trio

from elemta.net.base import RECEIVE_OCTETS, Endpoint, Stream

#: Octets handed to the kernel in one send: larger buffers only copy more when the kernel takes a part.
SEND_OCTETS = 1024 * 1024


class SocketStream(Stream):
    """A connected TCP or unix socket. One task may send while another receives; no two may do the same."""

    def __init__(self, sock: socket.socket, local: Endpoint, peer: Endpoint) -> None:
        self._sock = sock
        self.local = local
        self.peer = peer

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At most `RECEIVE_OCTETS` octets (or `max_bytes`), empty at the peer's end."""
        limit = RECEIVE_OCTETS if max_bytes is None else max_bytes
        sock = self._sock
        try:
            data = sock.recv(limit)
        except BlockingIOError:
            pass
        except OSError as error:
            raise _broken(sock, error) from error
        else:
            await trio.lowlevel.checkpoint()
            return data
        while True:
            try:
                await trio.lowlevel.wait_readable(sock)
                return sock.recv(limit)
            except BlockingIOError:
                continue
            except (OSError, ValueError) as error:
                raise _broken(sock, error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything. Not atomic: after a cancelled send nobody knows how much went, so close."""
        await trio.lowlevel.checkpoint_if_cancelled()
        sock = self._sock
        try:
            sent = sock.send(data if len(data) <= SEND_OCTETS else memoryview(data)[:SEND_OCTETS])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _broken(sock, error) from error
        if sent < len(data):
            with memoryview(data) as view:
                await self._send_rest(view, sent)

    async def _send_rest(self, view: memoryview, sent: int) -> None:
        sock = self._sock
        while sent < len(view):
            try:
                await trio.lowlevel.wait_writable(sock)
                sent += sock.send(view[sent : sent + SEND_OCTETS])
            except BlockingIOError:
                continue
            except (OSError, ValueError) as error:
                raise _broken(sock, error) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes octets again."""
        try:
            await trio.lowlevel.wait_writable(self._sock)
        except (OSError, ValueError) as error:
            raise _broken(self._sock, error) from error

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        await trio.lowlevel.checkpoint()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _broken(self._sock, error) from error

    async def aclose(self) -> None:
        """Close in order; the kernel still sends what it took."""
        self._close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close with a reset, so that a peer never takes a cut transmission for a whole one."""
        if self._sock.fileno() != -1:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._close()

    def _close(self) -> None:
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def _broken(sock: socket.socket, error: Exception) -> Exception:
    if sock.fileno() == -1 or isinstance(error, ValueError):
        return trio.ClosedResourceError("this stream was closed")
    return trio.BrokenResourceError(f"connection broken: {error}")


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        # Replies and the next command are small segments: Nagle would hold each until the delayed acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class SocketListener:
    """A listening socket."""

    def __init__(self, sock: socket.socket, *, unlink: str = "") -> None:
        self._sock = sock
        self._unlink = unlink
        self._local = _endpoint(sock.family, sock.getsockname())
        self._wildcard = self._local.host in ("0.0.0.0", "::")

    @property
    def local(self) -> Endpoint:
        """Where it listens, with the port the system gave."""
        return self._local

    async def accept(self) -> Stream:
        """The next connection. Raises `OSError` (EMFILE, ECONNABORTED …) or `trio.ClosedResourceError`."""
        while True:
            if self._sock.fileno() == -1:
                raise trio.ClosedResourceError("this listener was closed")
            try:
                sock, ends = self._take()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            return SocketStream(sock, *ends)

    def _take(self) -> tuple[socket.socket, tuple[Endpoint, Endpoint]]:
        """A connection that waits, with its local end and its peer."""
        sock, address = self._sock.accept()
        try:
            _tune(sock)
            local = _endpoint(sock.family, sock.getsockname()) if self._wildcard else self._local
            return sock, (local, _endpoint(sock.family, address))
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Stop listening, and remove a unix socket's path."""
        if self._sock.fileno() == -1:
            return
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        if self._unlink:
            with contextlib.suppress(OSError):
                os.unlink(self._unlink)


def _endpoint(family: int, address: object) -> Endpoint:
    if family == socket.AF_UNIX:
        return Endpoint(address if isinstance(address, str) else "")
    assert isinstance(address, tuple)
    host: str = address[0]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return Endpoint(host.partition("%")[0], address[1])


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `:port`, `[v6]:port` as host and port; raises `ValueError` saying what is wrong with others."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port, :port, [v6]:port or unix:/path")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r}: an IPv6 address needs brackets, as in [::1]:25")
    return host, int(port)


class SystemNetwork:
    """The system's network."""

    async def listen(self, address: str, backlog: int) -> list[SocketListener]:
        """Listen at `address`; two listeners for `:port`. Raises `OSError`, `ValueError`."""
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            return [SocketListener(unix_socket(path, backlog), unlink=path)]
        host, port = split_address(address)
        found: list[SocketListener] = []
        try:
            for family, sockaddr in await _listen_addresses(host, port):
                if port == 0 and found:
                    sockaddr = (sockaddr[0], found[0].local.port)
                found.append(SocketListener(bound_socket(family, sockaddr, backlog)))
        except BaseException:
            for listener in found:
                listener.close()
            raise
        return found

    async def connect(self, endpoint: Endpoint) -> Stream:
        """Connect to an IP address and port or a unix path. Raises `OSError`."""
        family = _family(endpoint)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            _tune(sock)
            target = endpoint.host if endpoint.is_unix else (endpoint.host, endpoint.port)
            await _connect(sock, target)
            local = _endpoint(family, sock.getsockname())
        except BaseException:
            sock.close()
            raise
        return SocketStream(sock, local, endpoint)


async def _connect(sock: socket.socket, target: str | tuple[str, int]) -> None:
    await trio.lowlevel.checkpoint_if_cancelled()
    with contextlib.suppress(BlockingIOError):
        sock.connect(target)
        return
    await trio.lowlevel.wait_writable(sock)
    failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failure:
        raise OSError(failure, os.strerror(failure))


def _family(endpoint: Endpoint) -> socket.AddressFamily:
    if endpoint.is_unix:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET


async def _listen_addresses(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    if not host:
        return wildcards(port)
    rows = await trio.socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    return list(dict.fromkeys((row[0], (str(row[4][0]), port)) for row in rows))


def wildcards(port: int) -> list[tuple[int, tuple[str, int]]]:
    """The family and the address for every IPv4 address, and for every IPv6 address where there are any."""
    found: list[tuple[int, tuple[str, int]]] = [(socket.AF_INET, ("0.0.0.0", port))]
    if _has_ipv6():
        found.append((socket.AF_INET6, ("::", port)))
    return found


def _has_ipv6() -> bool:
    """Whether this system can bind an IPv6 socket at all: containers often cannot."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def bound_socket(family: int, sockaddr: tuple[str, int], backlog: int) -> socket.socket:
    """A socket that listens at an address, non-blocking. Raises `OSError`."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(sockaddr)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def unix_socket(path: str, backlog: int) -> socket.socket:
    """A socket that listens at a path, non-blocking. Raises `OSError`.

    A path that nobody listens at any more is taken over, anything else is left alone.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            sock.bind(path)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_stale(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False
