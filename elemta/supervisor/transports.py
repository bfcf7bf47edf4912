"""One transport for each way out that the routes name.

What is not here: which mail takes which (`delivery.router`), how any of them delivers.
"""

from attrs import evolve, frozen
from structlog.typing import FilteringBoundLogger

from elemta.config.sections import TransportName
from elemta.delivery.base import Transport
from elemta.delivery.clienttls import ClientTls
from elemta.delivery.discard import DiscardTransport
from elemta.delivery.hops import HopFinder
from elemta.delivery.inbox import InboxStore, InboxTransport
from elemta.delivery.lmtp import lmtp_transport, tcp_hops, unix_hops
from elemta.delivery.local import RecipientList
from elemta.delivery.maildir import MaildirTransport
from elemta.delivery.mx import MxFinder, Ourselves
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.routing import Route
from elemta.delivery.session import ClientOptions, ClientSecurity
from elemta.delivery.smarthost import smarthost
from elemta.delivery.smtp import SmtpTransport
from elemta.net.base import Network
from elemta.resolver.base import Resolver
from elemta.runtime.world import Runtime


@frozen
class Workbench:
    """What transports are made with."""

    runtime: Runtime
    network: Network
    resolver: Resolver
    inbox: InboxStore
    listed: RecipientList
    pool: ConnectionPool
    client: ClientOptions
    tls: ClientTls
    ourselves: Ourselves
    log: FilteringBoundLogger


def make_transport(route: Route, bench: Workbench) -> Transport:
    """The transport of one route."""
    finder: HopFinder
    match route.transport:
        case TransportName.MX:
            finder = MxFinder(
                bench.resolver,
                bench.runtime.chance,
                ourselves=bench.ourselves,
                port=route.port,
                allow_private=route.allow_private,
            )
            return _smtp(route, bench, finder)
        case TransportName.SMTP:
            return _smtp(route, bench, smarthost(route.host, route.port, bench.resolver))
        case TransportName.LMTP:
            finder = unix_hops(route.path) if route.path else tcp_hops(route.host, route.port or None, bench.resolver)
            return lmtp_transport(finder, bench.network, pool=bench.pool, options=_options(route, bench), log=bench.log)
        case TransportName.MAILDIR:
            return MaildirTransport(
                route.path,
                bench.listed.holds,
                hostname=bench.client.hostname,
                clock=bench.runtime.clock,
                threads=bench.runtime.threads,
                log=bench.log,
            )
        case TransportName.INBOX:
            return InboxTransport(bench.inbox, bench.runtime.clock, log=bench.log)
        case TransportName.DISCARD:
            return DiscardTransport()


def _smtp(route: Route, bench: Workbench, finder: HopFinder) -> SmtpTransport:
    return SmtpTransport(finder, bench.network, pool=bench.pool, options=_options(route, bench), log=bench.log)


def _options(route: Route, bench: Workbench) -> ClientOptions:
    security = ClientSecurity(route.tls, bench.tls, route.tls_name, route.ca_file, route.login)
    # A connection stands for what it was made with: authorities are read once for all those of one `ClientTls`.
    return evolve(bench.client, route=(route, bench.tls), security=security)
