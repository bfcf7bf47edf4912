"""The written forms of addresses in a configuration.

What is not here: sockets (`net`), mail addresses in commands (`smtp.grammar`), or who may do what.
Failure raised: `ValueError` with the sentence that tells a person what was expected.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from attrs import frozen

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Octets of a unix socket's path without its final NUL; unix(7), `sun_path`.
UNIX_PATH_OCTETS = 107

#: Characters of a domain in its written form without the final dot; RFC 1035 §2.3.4 allows 255 octets on the wire.
_DOMAIN_CHARACTERS = 253

# RFC 5321 §4.1.2: Domain = sub-domain *("." sub-domain), sub-domain = Let-dig [Ldh-str]; RFC 1035 §2.3.4: 63 octets.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]*):(?P<port>[0-9]{1,5})")


#: Schemes of a database's address, each with the server that speaks it.
DATABASE_SCHEMES = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


@frozen
class ListenAddress:
    """Where to listen. `host` is empty for every address of the machine; `path` is set for a unix socket alone."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can connect. A name is judged as a name: `localhost` alone is loopback."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen_address(text: str) -> ListenAddress:
    """Read `host:port`, `:port`, `[v6]:port` or `unix:/path`. Raises `ValueError`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError('the path of a unix socket begins with "/"')
        if len(path.encode()) > UNIX_PATH_OCTETS:
            raise ValueError(f"the path of a unix socket has at most {UNIX_PATH_OCTETS} octets")
        return ListenAddress(path=path)
    match = _LISTEN.fullmatch(text)
    if match is None:
        raise ValueError(_listen_advice(text))
    port = int(match["port"])
    if port > 65535:
        raise ValueError("a port is a number from 0 to 65535")
    host = match["host"]
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif host and not _is_ipv4(host):
        host = parse_domain(host)
    return ListenAddress(host=host, port=port)


def _listen_advice(text: str) -> str:
    if text.isdecimal():
        return f'write ":{text}" for this port on every address'
    bare, _, port = text.rpartition(":")
    if bare.count(":") > 1 and port.isdecimal():
        return f'write an IPv6 address in brackets: "[{bare}]:{port}"'
    return "a port must follow the host"


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def parse_network(text: str) -> Network:
    """Read an address or a network in CIDR form (RFC 4632 §3.1). An IPv4-mapped one (RFC 4291 §2.5.5.2) becomes IPv4.

    Raises `ValueError`.
    """
    address, _, length = text.partition("/")
    if "%" in text or (length and not length.isdecimal()):
        raise ValueError("a network ends in the length of its prefix, as in 192.0.2.0/24")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("this is no IP address or network") from None
    if network.network_address != ipaddress.ip_address(address):
        raise ValueError(f'bits are set beyond the prefix; write "{network}" for the network or "{address}"')
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def parse_domain(text: str) -> str:
    """Read a domain name into the form for comparisons: lower case, A-labels (RFC 5890 §2.3.2.1).

    Raises `ValueError`.
    """
    name = text.lower()
    if not name.isascii():
        import idna  # late: few need it, and its tables take as long to import as the rest of this package

        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"this is no domain name: {error}") from None
    if name.endswith("."):
        raise ValueError("write a domain name without its final dot")
    if len(name) > _DOMAIN_CHARACTERS:
        raise ValueError(f"a domain name has at most {_DOMAIN_CHARACTERS} characters")
    if not _DOMAIN.fullmatch(name):
        raise ValueError("a domain name is letters, digits and hyphens between dots")
    return name


def parse_host(text: str) -> str:
    """Read the host of a next hop: a domain name, or an IP address without brackets. Raises `ValueError`."""
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return parse_domain(text)


def parse_mailbox(text: str) -> str:
    """Read `local@domain`, the local part's case kept. Raises `ValueError`."""
    local, at, domain = text.rpartition("@")
    if not at or not local:
        raise ValueError("an address has a local part, an @ and a domain")
    # RFC 5321 §4.5.3.1.1: a local part has at most 64 octets.
    if len(local.encode()) > 64 or any(char in " <>" or not char.isprintable() for char in local):
        raise ValueError("a local part has at most 64 octets, no blanks and no angle brackets")
    return f"{local}@{parse_domain(domain)}"


def parse_database(text: str) -> str:
    """Look at `scheme://user@host:port/database`, and return it as it is. Raises `ValueError`, without any of the text.

    Its options are read by who connects (`datasource`).
    """
    scheme, found, _ = text.partition("://")
    if not found or scheme not in DATABASE_SCHEMES:
        raise ValueError("it begins with postgresql:// or mysql://")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("its host or port cannot be read; in a password, write @ as %40, : as %3A, / as %2F") from None
    if not parts.path.strip("/"):
        raise ValueError("it ends in the name of a database")
    return text
