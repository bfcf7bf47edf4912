"""What an inbound service needs to know.

What is not here: where the values come from (`config`), or the sockets.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from attrs import frozen

from elemta.config.sections import BareNewlines, LimitsSection, TimeoutsSection
from elemta.config.tls import TlsMode
from elemta.mail.envelope import Priority

IpNetwork = IPv4Network | IPv6Network


@lru_cache(maxsize=1000)  # clients come again
def _address(host: str) -> IPv4Address | IPv6Address:
    return ip_address(host)


def _holds(networks: tuple[IpNetwork, ...], host: str) -> bool:
    if not networks:
        return False
    address = _address("127.0.0.1" if host.startswith("/") or not host else host)
    return any(address in network for network in networks)


@frozen
class InboundOptions:
    """Facts that every session shares. `local_domains` are lower-case A-labels."""

    hostname: str
    max_size: int
    dev_mode: bool
    local_domains: frozenset[str]
    #: The domain of a bare `postmaster`.
    home_domain: str
    relays: tuple[IpNetwork, ...]
    limits: LimitsSection
    timeouts: TimeoutsSection
    #: SHA-256 in lower-case hexadecimal of certificates whose holders may relay.
    relay_certificates: frozenset[str] = frozenset()

    def may_relay(self, host: str) -> bool:
        """Whether a client at this IP address may relay. A unix peer counts as 127.0.0.1: it is on this machine."""
        return _holds(self.relays, host)


@frozen
class ListenerOptions:
    """What differs from listener to listener."""

    name: str
    address: str
    relay: bool = True
    priority: Priority | None = None
    bare_newlines: BareNewlines = BareNewlines.REFUSE
    tls: TlsMode = TlsMode.NONE
    auth: bool = False
    auth_required: bool = False
    #: Who must tell whose connection it passes on; without any, clients connect by themselves.
    proxies: tuple[IpNetwork, ...] = ()

    def believes(self, host: str) -> bool:
        """Whether a peer at this IP address is a trusted proxy. A unix peer counts as 127.0.0.1."""
        return _holds(self.proxies, host)
