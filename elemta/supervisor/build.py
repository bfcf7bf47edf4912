"""Builds a server on the parts of a world.

What is not here: running it (`supervisor.server`). The real process and the simulated world both build here, so that
what is rehearsed is what runs.
"""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING

from attrs import field, frozen

from elemta.auth.authenticator import Authenticator
from elemta.config.listeners import effective_listeners
from elemta.config.sections import Config, ListenerSection, TransportName
from elemta.config.tls_checks import plain_fingerprint
from elemta.delivery.clienttls import ClientTls
from elemta.delivery.inbox import InboxStore
from elemta.delivery.local import LocalRecipients, RecipientList
from elemta.delivery.maildir import Maildirs
from elemta.delivery.mx import Ourselves
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.router import Router
from elemta.delivery.routing import Route, RoutingTable, parse_priority
from elemta.delivery.session import ClientOptions
from elemta.inbound.options import InboundOptions, ListenerOptions
from elemta.inbound.plugged import Plugins
from elemta.inbound.service import Bound, InboundService
from elemta.inbound.transaction import Services
from elemta.net.base import Network
from elemta.observe.watch import Watch
from elemta.queue.options import LOOK_SECONDS, WAITING_MAILS, QueueOptions
from elemta.queue.schedule import RetryPolicy
from elemta.queue.service import QueueService
from elemta.resolver.base import Resolver
from elemta.runtime.budget import ByteBudget
from elemta.runtime.world import Runtime
from elemta.storage.base import QueueStore, SharedStore
from elemta.supervisor.memory import memory_keeper
from elemta.supervisor.server import Parts, Server, Settings
from elemta.supervisor.transports import Workbench, make_transport
from elemta.tls.server import ServerTls

if TYPE_CHECKING:
    from elemta.datasource.pool import PooledDatabase

#: Connections that may wait in the kernel for their accept; more than the burst of a thousand clients.
LISTEN_BACKLOG = 1024

#: What other nodes of a shared queue leave to everybody is seen within this time.
SHARED_LOOK_SECONDS = 2.0
#: Mails of each priority that wait in a node of a shared queue: some seconds of its work, so that no node sits on what
#: others could deliver.
SHARED_WAITING_MAILS = 1000


@frozen
class World:
    """Everything outside the server: time, chance and threads, the network, DNS."""

    runtime: Runtime
    network: Network
    resolver: Resolver


@frozen
class Stores:
    """Where mail is kept. `shared` is the queue's store once more where other nodes use it too, each under a name of
    its own: `node`, the hostname when empty."""

    queue: QueueStore
    inbox: InboxStore
    shared: SharedStore | None = None
    node: str = ""
    #: The database of a shared queue, for what else is kept there.
    database: "PooledDatabase | None" = None


@frozen
class Security:
    """What a server has beside its parts: TLS with clients, logins, plugins; None where they are not enabled."""

    tls: ServerTls | None = None
    login: Authenticator | None = None
    plugins: Plugins | None = None


@frozen(eq=False)
class Site:
    """What a server stands on from its start to its end, whatever its configuration says meanwhile."""

    world: World
    stores: Stores
    bound: Sequence[Bound]
    watch: Watch
    pool: ConnectionPool = field(factory=ConnectionPool)


async def bind(config: Config, network: Network) -> list[Bound]:
    """Bind every listener of a configuration; nobody is served yet. Raises `OSError`, and then nothing is bound.

    The error's `filename` is the address that could not be bound.
    """
    bound: list[Bound] = []
    for section in effective_listeners(config):
        try:
            listeners = await network.listen(section.address, LISTEN_BACKLOG)
        except OSError as error:
            error.filename = section.address
            for one in bound:
                for listener in one.listeners:
                    listener.close()
            raise
        bound.append(Bound(_listener_options(section), listeners))
    return bound


def _listener_options(section: ListenerSection) -> ListenerOptions:
    return ListenerOptions(
        name=section.name,
        address=section.address,
        relay=section.relay,
        priority=None if section.priority is None else parse_priority(section.priority),
        bare_newlines=section.bare_newlines,
        tls=section.tls,
        auth=section.auth,
        auth_required=section.auth_required,
        proxies=tuple(ip_network(text) for text in section.proxy_protocol),
    )


def build_server(config: Config, site: Site, security: Security = Security()) -> Server:
    """A server on this site, not started."""
    world, watch = site.world, site.watch
    settings = make_settings(config, site, security.plugins)
    queue = QueueService(
        site.stores.queue,
        settings.delivery,
        runtime=world.runtime,
        options=settings.queue,
        watch=watch,
        plugins=settings.chain,
    )
    services = Services(
        queue=queue,
        recipients=settings.recipients,
        budget=ByteBudget(config.limits.message_memory),
        runtime=world.runtime,
        options=settings.inbound,
        metrics=watch.metrics,
        log=watch.log,
        tls=security.tls,
        login=security.login,
        plugins=settings.plugins,
    )
    inbound = InboundService(services, site.bound)
    stores, memory = site.stores, memory_keeper(world.runtime.threads)
    return Server(Parts(stores.queue, stores.inbox, queue, inbound, site.pool, memory), services)


def make_settings(config: Config, site: Site, plugins: Plugins | None) -> Settings:
    """What a server on this site has of its configuration; made anew when that is read again."""
    world, watch = site.world, site.watch
    table = RoutingTable(config)
    listed = RecipientList(config)
    bench = Workbench(
        runtime=world.runtime,
        network=world.network,
        resolver=world.resolver,
        inbox=site.stores.inbox,
        listed=listed,
        pool=site.pool,
        client=ClientOptions(config.hostname, config.timeouts, handshake_timeout=config.tls.handshake_timeout),
        tls=ClientTls(world.runtime.threads),
        ourselves=_ourselves(config, site.bound),
        log=watch.log,
    )
    return Settings(
        delivery=Router(table, {way: make_transport(way, bench) for way in table.ways}, log=watch.log),
        queue=_queue_options(config, site.stores),
        recipients=LocalRecipients(table, listed, mailboxes=_mailboxes(table, world.runtime)),
        inbound=_inbound_options(config, table),
        plugins=plugins,
    )


def _mailboxes(table: RoutingTable, runtime: Runtime) -> dict[Route, Maildirs]:
    maildirs = [way for way in table.ways if way.transport is TransportName.MAILDIR]
    return {way: Maildirs(way.path, threads=runtime.threads) for way in maildirs}


def _ourselves(config: Config, bound: Sequence[Bound]) -> Ourselves:
    hosts = {listener.local.host for one in bound for listener in one.listeners}
    return Ourselves(names=frozenset({config.hostname.lower()}), addresses=frozenset(hosts))


def _queue_options(config: Config, stores: Stores) -> QueueOptions:
    alone = stores.shared is None
    return QueueOptions(
        node=stores.node or config.hostname,
        hostname=config.hostname,
        retry=RetryPolicy(config.retry_schedule, config.max_retries),
        max_queue_time=config.max_queue_time,
        max_workers=config.max_workers,
        keep_delivered=config.keep_delivered_messages,
        message_retention_hours=config.message_retention_hours,
        failed_retention_hours=config.failed_queue_retention_hours,
        ageing=config.priority_ageing,
        lease=None if alone else config.storage.lease,
        look_seconds=LOOK_SECONDS if alone else SHARED_LOOK_SECONDS,
        waiting_mails=WAITING_MAILS if alone else SHARED_WAITING_MAILS,
    )


def _inbound_options(config: Config, table: RoutingTable) -> InboundOptions:
    return InboundOptions(
        hostname=config.hostname,
        max_size=config.max_size,
        dev_mode=config.dev_mode,
        local_domains=table.local_domains,
        home_domain=table.home_domain,
        relays=tuple(ip_network(text) for text in config.allowed_relays),
        limits=config.limits,
        timeouts=config.timeouts,
        relay_certificates=frozenset(plain_fingerprint(text) for text in config.tls.relay_certificates),
    )
