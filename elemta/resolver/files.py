"""The system's own resolver files: which name servers to ask, which hosts are named without asking.

What is not here: questions (`resolver.dns`). The files are resolv.conf(5), of which only `nameserver` counts, and
hosts(5). Reading happens in a thread, at most every `RECHECK_SECONDS`, and only when the file changed.
Failures raised: none; a file that cannot be read counts as empty, as the C library takes it.
"""

import ipaddress
import os
from collections.abc import Callable
from typing import Generic, TypeVar

import trio
from attrs import frozen

from elemta.runtime.threads import Threads

#: How old our view of a file may be, in seconds: the C library looks at every call, mail can wait a little.
RECHECK_SECONDS = 10.0
#: Octets of such a file that are read: block lists of a million hosts have no place in a mail server.
MAX_FILE_OCTETS = 4 * 1024 * 1024
#: resolv.conf(5), MAXNS: further name servers are ignored.
MAX_NAMESERVERS = 3
DNS_PORT = 53

T = TypeVar("T")
_Stamp = tuple[int, int, int]


@frozen
class Nameserver:
    """Where a recursive name server answers."""

    address: str
    port: int = DNS_PORT


#: resolv.conf(5): "If no nameserver entries are present, the default is to use the name server on the local machine."
LOCAL_NAMESERVER = Nameserver("127.0.0.1")


class WatchedFile(Generic[T]):
    """A file's content, parsed; read again when it changed."""

    def __init__(self, path: str, parse: Callable[[str], T], *, threads: Threads) -> None:
        self._path = path
        self._parse = parse
        self._threads = threads
        self._value = parse("")
        self._stamp: _Stamp | None = None
        self._fresh_until = float("-inf")
        self._reading = trio.Lock()

    async def value(self) -> T:
        """What the file says, at most `RECHECK_SECONDS` ago."""
        if trio.current_time() >= self._fresh_until:
            async with self._reading:
                if trio.current_time() >= self._fresh_until:
                    await self._threads.run(None, self._refresh)
                    self._fresh_until = trio.current_time() + RECHECK_SECONDS
        return self._value

    def _refresh(self) -> None:
        try:
            status = os.stat(self._path)
            stamp: _Stamp | None = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read(MAX_FILE_OCTETS)
        except OSError:
            stamp, text = None, ""
        self._value, self._stamp = self._parse(text), stamp


def parse_resolv_conf(text: str) -> tuple[Nameserver, ...]:
    """The name servers of a resolv.conf(5), in their order. Search lists do not apply to mail: names are absolute."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and _is_address(words[1]):
            found.append(Nameserver(words[1]))
    return tuple(found[:MAX_NAMESERVERS]) or (LOCAL_NAMESERVER,)


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Name, in lower case, to its addresses, as hosts(5) has them."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) >= 2 and _is_address(words[0]):
            for name in words[1:]:
                addresses = found.setdefault(name.lower().removesuffix("."), [])
                if words[0] not in addresses:
                    addresses.append(words[0])
    return {name: tuple(addresses) for name, addresses in found.items()}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
