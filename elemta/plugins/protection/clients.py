"""Who a client is to the plugins of protection.

What is not here: what its names are (`reverse`). Failures raised: `ValueError` for networks that are none.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from elemta.plugins.api import Session

Address = IPv4Address | IPv6Address


def address_of(host: str) -> Address | None:
    """The IP address, an IPv4-mapped one (RFC 4291 §2.5.5.2) as IPv4; None for a unix socket's path."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class Networks:
    """A set of addresses and networks; a look costs one probe for each length of prefix that occurs."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: dict[tuple[int, int], set[int]] = {}
        for network in map(ip_network, networks):
            shift = network.max_prefixlen - network.prefixlen
            prefixes = self._networks.setdefault((network.version, shift), set())
            prefixes.add(int(network.network_address) >> shift)

    def __contains__(self, host: str) -> bool:
        address = address_of(host) if self._networks else None
        return address is not None and self.has(address)

    def has(self, address: Address) -> bool:
        """Whether the address is one of them, or in one of them."""
        version, number = address.version, int(address)
        return any(version == of and number >> shift in prefixes for (of, shift), prefixes in self._networks.items())


#: Addresses that no list and no reverse zone of the public DNS can say anything about: loopback and this host
#: (RFC 1122 §3.2.1.3), private (RFC 1918 §3, RFC 4193 §3.1), shared by a provider's customers (RFC 6598 §7),
#: link-local (RFC 3927 §2.1, RFC 4291 §2.5.6). Documentation's networks are not among them: tests are to see all.
UNLISTED: Final = Networks(
    (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
        "::/128", "::1/128", "fc00::/7", "fe80::/10",
    )
)  # fmt: skip


def is_trusted(session: Session) -> bool:
    """Whether the client has shown that it belongs to us: by a login, or as one that may relay."""
    return bool(session.user) or session.may_relay


def is_below(name: str, domains: Iterable[str]) -> bool:
    """Whether a name is one of the domains or below one."""
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)
