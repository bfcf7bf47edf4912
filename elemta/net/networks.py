"""The network that an IP address counts for, where many of one customer's addresses are to count as one.

What is not here: counting (`inbound.admission`, `auth.limits`).
"""

from ipaddress import ip_address, ip_network

#: One customer's usual share of the address space: a /24 of IPv4, a /64 of IPv6 (RFC 6177 §2 gives sites more).
IPV4_NETWORK_BITS = 24
IPV6_NETWORK_BITS = 64


def network_of(host: str) -> str:
    """The network that an IP address counts for; the host itself when it is no IP address (a unix peer)."""
    if ":" in host:
        return str(ip_network((host, IPV6_NETWORK_BITS), strict=False))
    return host if host.startswith("/") else host.rpartition(".")[0]


def is_local(host: str) -> bool:
    """Whether an end of a connection never leaves this machine: a loopback address, or a unix socket's path."""
    if not host or host.startswith("/"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback if mapped is None else bool(mapped.is_loopback)
