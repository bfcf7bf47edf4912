"""The way to a local mail store by LMTP.

What is not here: the conversation, which is SMTP's with other words (`delivery.smtp`; RFC 2033: LHLO, a reply a
recipient after the final dot). Failures raised: `ValueError` for the port that LMTP must not use.
"""

from typing import Final

import attrs
from structlog.typing import FilteringBoundLogger

from elemta.delivery.hops import Hop, HopFinder
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.routing import SMTP_PORT
from elemta.delivery.session import ClientOptions
from elemta.delivery.smarthost import FixedHops, smarthost
from elemta.delivery.smtp import SmtpTransport
from elemta.net.base import Endpoint, Network
from elemta.resolver.base import Resolver

#: The port Dovecot's manual gives to LMTP over TCP; IANA assigns none.
LMTP_PORT: Final = 24


def unix_hops(path: str) -> FixedHops:
    """The finder for an LMTP server at a unix socket."""
    return FixedHops(Hop(f"unix:{path}", Endpoint(path)))


def tcp_hops(host: str, port: int | None, resolver: Resolver) -> HopFinder:
    """The finder for an LMTP server by TCP; port 24 when None or 0. Raises `ValueError` for port 25."""
    if port == SMTP_PORT:
        raise ValueError("LMTP must not use port 25 (RFC 2033 §5)")
    return smarthost(host, port or LMTP_PORT, resolver)


def lmtp_transport(
    finder: HopFinder, network: Network, *, pool: ConnectionPool, options: ClientOptions, log: FilteringBoundLogger
) -> SmtpTransport:
    """The transport over LMTP, whatever `options` say of it."""
    return SmtpTransport(finder, network, pool=pool, options=attrs.evolve(options, lmtp=True), log=log)
