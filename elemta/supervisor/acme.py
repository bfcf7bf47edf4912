"""Certificates by ACME, built from a configuration.

What is not here: ordering (`tls.acme`), serving TLS (`tls.server`). The modules of `tls.acme` are slow to import:
import this one late, where `tls.lets_encrypt` is on.
Failure raised: `CannotStart` for a port or a folder that is not to be had.
"""

from collections.abc import Awaitable, Callable

import trio
from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.config.sections import Config
from elemta.config.tls import DnsUpdateSection
from elemta.net.base import Network
from elemta.observe.watch import Watch
from elemta.resolver.base import Resolver
from elemta.runtime.world import Runtime
from elemta.supervisor.build import World
from elemta.supervisor.failures import CannotStart, cannot_listen
from elemta.tls.acme.base import Binding
from elemta.tls.acme.cabinet import Cabinet
from elemta.tls.acme.directories import LETS_ENCRYPT, LETS_ENCRYPT_STAGING
from elemta.tls.acme.dns01 import Dns01, UpdateServer
from elemta.tls.acme.http01 import Http01, Responder, SharedAnswers
from elemta.tls.acme.issue import Issuer, Terms
from elemta.tls.acme.keys import Pair, PrivateKey
from elemta.tls.acme.library import LibraryAuthority
from elemta.tls.acme.metrics import AcmeMetrics
from elemta.tls.acme.order import Solver
from elemta.tls.acme.service import CertificateKeeper, KeeperOptions, KeeperWatch

#: Has the certificate files read again, with the cause for the log; False when they do not serve.
Reload = Callable[[str], Awaitable[bool]]


@frozen
class Office:
    """What orders certificates: the folder, the attempts, the answers to http-01 where that is asked for."""

    cabinet: Cabinet
    issuer: Issuer
    solver: Solver
    responder: Responder | None


def directory_of(config: Config) -> str:
    """The authority that is asked."""
    section = config.tls.lets_encrypt
    return section.directory_url or (LETS_ENCRYPT_STAGING if section.staging else LETS_ENCRYPT)


def names_of(config: Config) -> tuple[str, ...]:
    """The names of the certificate; its file is called by the first."""
    section = config.tls.lets_encrypt
    return tuple(dict.fromkeys((section.domain or config.hostname, *section.domains)))


def terms_of(config: Config) -> Terms:
    """What is ordered, of whom."""
    section = config.tls.lets_encrypt
    binding = None
    if section.eab_key_id is not None and section.eab_hmac_key is not None:
        binding = Binding(section.eab_key_id, section.eab_hmac_key)
    return Terms(
        directory_url=directory_of(config),
        names=names_of(config),
        email=section.email or "",
        agrees=section.accept_terms,
        binding=binding,
        profile=section.profile or "",
        key_type=section.key_type,
        timeout=config.tls.renewal.renewal_timeout,
    )


def open_office(
    config: Config, terms: Terms, *, runtime: Runtime, resolver: Resolver, log: FilteringBoundLogger
) -> Office:
    """Everything that an order needs, nothing bound yet. Raises `CannotStart` for a folder that cannot be used."""
    section = config.tls.lets_encrypt
    cabinet = Cabinet(section.cache_dir)
    try:
        cabinet.open()
    except OSError as error:
        raise CannotStart(
            f"{cabinet.folder} cannot be used for certificates: {error.strerror or error}. "
            "Give it to this user, or name another folder in tls.lets_encrypt.cache_dir."
        ) from error
    threads = runtime.threads

    def authority(key: PrivateKey) -> LibraryAuthority:
        return LibraryAuthority(terms.directory_url, key, threads=threads, ca_file=section.ca_file)

    solver: Solver
    responder = None
    if section.challenge == "dns-01":
        solver = Dns01(_update_server(section.dns), resolver, log=log)
    else:
        solver = Http01(cabinet, threads)
        responder = Responder(SharedAnswers(cabinet, threads))
    issuer = Issuer(terms, cabinet, solver, make_authority=authority, threads=threads)
    return Office(cabinet, issuer, solver, responder)


def _update_server(section: DnsUpdateSection) -> UpdateServer:
    return UpdateServer(
        host=section.server or "",
        port=section.port,
        zone=section.zone or "",
        key_name=section.key_name or "",
        key_secret=section.key_secret or "",
        key_algorithm=section.key_algorithm,
        propagation=section.propagation,
    )


class AcmeService:
    """Keeps the certificate of a server, in the one process that orders. `bind`, then `run`."""

    def __init__(self, config: Config, world: World, *, watch: Watch, reload: Reload) -> None:
        self._address = config.tls.lets_encrypt.http_addr
        self._reload = reload
        terms = terms_of(config)
        self._office = open_office(config, terms, runtime=world.runtime, resolver=world.resolver, log=watch.log)
        renewal = config.tls.renewal
        self._keeper = CertificateKeeper(
            self._office.issuer,
            runtime=world.runtime,
            options=KeeperOptions(renewal.auto_renew, renewal.renewal_days, renewal.check_interval),
            watch=KeeperWatch(watch.log, AcmeMetrics(watch.metrics.registry)),
            on_new=self._on_new,
        )

    async def bind(self, network: Network) -> None:
        """Bind the port of http-01, so that one that cannot be had is known at the start. Raises `CannotStart`."""
        if self._office.responder is None:
            return
        try:
            await self._office.responder.listen(network, self._address)
        except OSError as error:
            raise cannot_listen(error, key="tls.lets_encrypt.http_addr") from error

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer challenges, keep the certificate, until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._office.responder is not None:
                nursery.start_soon(self._office.responder.run)
            nursery.start_soon(self._keeper.run)
            task_status.started()

    async def _on_new(self, pair: Pair) -> None:
        await self._reload("renewed")
