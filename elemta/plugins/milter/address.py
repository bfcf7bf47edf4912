"""Where a milter listens, in every form that Sendmail, libmilter or Postfix write.

What is not here: connecting (`milter.link`). Failure raised: `ValueError` with the sentence for who wrote it.
"""

from attrs import frozen

from elemta.config.addresses import UNIX_PATH_OCTETS, parse_host


@frozen
class MilterAddress:
    """A unix socket's `path`, or a `host` (a name, or an IP address without brackets) with its port."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """The one form that all of them can be written in; `parse_milter_address` reads it."""
        if self.path:
            return f"unix:{self.path}"
        return f"inet6:{self.port}@{self.host}" if ":" in self.host else f"inet:{self.port}@{self.host}"


def parse_milter_address(text: str) -> MilterAddress:
    """Read `unix:/path` (or `local:/path`), `inet:port@host` (or `inet6:…`), `host:port`, `[v6]:port`, or Postfix's
    `inet:host:port`. Raises `ValueError`."""
    kind, found, rest = text.partition(":")
    if found and kind in ("unix", "local"):
        return MilterAddress(path=_path(rest))
    if found and kind in ("inet", "inet6"):
        port, at, host = rest.partition("@")
        if at:
            return MilterAddress(host=parse_host(host), port=_port(port))
        if rest.isdecimal():
            raise ValueError(f"the host is missing: {kind}:{rest}@127.0.0.1")
        text = rest
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("it has neither a path nor a port: unix:/path, inet:port@host or host:port")
    if ":" in host and not host.startswith("["):
        raise ValueError(f"an IPv6 address needs brackets: [{host}]:{port}")
    return MilterAddress(host=parse_host(host), port=_port(port))


def _path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError('the path of a unix socket begins with "/"')
    if len(path.encode()) > UNIX_PATH_OCTETS:
        raise ValueError(f"the path of a unix socket has at most {UNIX_PATH_OCTETS} octets")
    return path


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or not 1 <= int(text) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)
