"""The sockets that the web side listens at.

What is not here: what is served there (`web.serve`), or the sockets of SMTP (`net`). These are plain sockets, because
Hypercorn wants to have them whole.
Failures raised: `OSError` as the system does, `ValueError` for an address of no known form.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import trio

from elemta.net.base import Endpoint
from elemta.net.sockets import split_address

#: Connections that wait to be accepted: people and programs of one machine.
BACKLOG = 64
#: Octets of a unix socket's path without its final NUL; unix(7), `sun_path`.
UNIX_PATH_OCTETS = 107
#: Milliseconds after which a peer that takes nothing is given up; tcp(7), TCP_USER_TIMEOUT. Accepted sockets have it
#: from their listener.
USER_TIMEOUT_MILLISECONDS = 30_000

#: An address as sockets take it: host, port, for IPv6 two more.
_Place = tuple[str | int | bytes, ...]


class Bound:
    """Sockets that listen at one address. `local` has the real port where 0 was asked for.

    `inode` is that of a unix socket's path, None for TCP.
    """

    def __init__(self, sockets: Iterable[socket.socket], local: Endpoint, *, inode: int | None = None) -> None:
        self.sockets = tuple(sockets)
        self.local = local
        self._inode = inode
        self._names = {_name(sock) for sock in self.sockets}
        self._closed = False

    def close(self) -> None:
        """Stop listening; a unix socket's path goes too, unless it is somebody else's by now."""
        if self._closed:
            return
        self._closed = True
        if self._inode is not None:
            path = Path(self.local.host)
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == self._inode:
                    path.unlink()
        for sock in self.sockets:
            sock.close()

    def lent(self) -> "Bound":
        """The same sockets for a forked process, which closes them alone: the path is the owner's to remove."""
        return Bound(self.sockets, self.local)

    def cut_off(self) -> int:
        """End every connection that was accepted here, whatever it waits for; how many there were.

        Hypercorn shields its sends without a deadline, so that a client that reads nothing could keep a server from
        ending. Nothing public leads to its connections but the list of our descriptors.
        """
        return sum(_shut(descriptor, self._names) for descriptor in _descriptors())


async def listen(bind: str) -> Bound:
    """Listen at `host:port`, `:port`, `[v6]:port` or `unix:/path`. Raises `OSError`, `ValueError`."""
    if bind.startswith("unix:"):
        await trio.lowlevel.checkpoint()
        return listen_unix(Path(bind.removeprefix("unix:")))
    host, port = split_address(bind)
    rows = await trio.socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    return _listen_tcp([(row[0], (str(row[4][0]), *row[4][1:])) for row in rows])


def listen_blocking(bind: str) -> Bound:
    """The same before there is an event loop: it blocks while a name is looked up. Raises `OSError`, `ValueError`."""
    if bind.startswith("unix:"):
        return listen_unix(Path(bind.removeprefix("unix:")))
    host, port = split_address(bind)
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    rows = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    return _listen_tcp([(row[0], (str(row[4][0]), *row[4][1:])) for row in rows])


def _listen_tcp(places: list[tuple[int, _Place]]) -> Bound:
    """Listen at each address of a name, on one port; a family that the machine lacks is left out."""
    found: list[socket.socket] = []
    failure: OSError | None = None
    for family, place in dict.fromkeys(places):
        port = found[0].getsockname()[1] if found else place[1]
        try:
            found.append(_bound(family, (place[0], port, *place[2:])))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                for sock in found:
                    sock.close()
                raise
            failure = error
    if not found:
        raise failure or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    host, port = found[0].getsockname()[:2]
    return Bound(found, Endpoint(host, port))


def _bound(family: int, place: _Place) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MILLISECONDS)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def listen_unix(path: Path) -> Bound:
    """Listen at a path that this user alone may connect to.

    Nobody can connect before `listen`, and by then the mode is 0600; the path is taken by a rename, so that it is never
    missing or half made. A path that somebody listens at, or that is no socket, is left alone. Raises `OSError`.
    """
    path = path.absolute()
    fresh = path.with_name(f"{path.name}.new")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_address(fresh) as address:
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            sock.bind(address)
        fresh.chmod(0o600)
        sock.listen(BACKLOG)
        _check_free(path)
        inode = fresh.lstat().st_ino
        fresh.rename(path)
    except BaseException:
        sock.close()
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    return Bound([sock], Endpoint(str(path)), inode=inode)


def _check_free(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "this is no socket; move it away", str(path))
    with short_address(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))


@contextlib.contextmanager
def short_address(path: Path) -> Iterator[str]:
    """The path in a form that a socket address has room for, good inside the block.

    A long one goes through the folder's descriptor (proc(5), /proc/self/fd). Raises `OSError` with what to do where
    that does not help.
    """
    if len(os.fsencode(path)) <= UNIX_PATH_OCTETS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        address = f"/proc/self/fd/{folder}/{path.name}"
        if len(os.fsencode(address)) > UNIX_PATH_OCTETS or not os.path.isdir(f"/proc/self/fd/{folder}"):
            advice = f"a socket's path has at most {UNIX_PATH_OCTETS} octets here; give queue_dir a shorter one"
            raise OSError(errno.ENAMETOOLONG, advice, str(path))
        yield address
    finally:
        os.close(folder)


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return []


def _shut(descriptor: int, here: set[object]) -> bool:
    """End the connection behind a descriptor if it was accepted at one of `here`."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            if _name(sock) not in here or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return False
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True


def _name(sock: socket.socket) -> object:
    """What an accepted socket shares with its listener: the path, or the port."""
    name = sock.getsockname()
    return name[1] if sock.family in (socket.AF_INET, socket.AF_INET6) else name
