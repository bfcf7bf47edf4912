"""TLS with clients, built from a configuration.

What is not here: serving it (`tls.server`), a self-signed certificate (`supervisor.certificate`), ordering one
(`supervisor.acme`). Failure raised: `CannotStart` for certificates that cannot be used.
"""

from elemta.config.sections import Config
from elemta.observe.watch import Watch
from elemta.runtime.world import Runtime
from elemta.supervisor.certificate import self_signed_files
from elemta.supervisor.failures import CONFIG, CannotStart
from elemta.tls.contexts import ContextOptions, TlsUnusable
from elemta.tls.metrics import TlsMetrics
from elemta.tls.served import CertificateFiles
from elemta.tls.server import ServerTls, ServerTlsOptions


def certificate_files(config: Config) -> tuple[CertificateFiles, ...]:
    """Where the certificates of a configuration lie, the default one first."""
    tls = config.tls
    found = [] if (made := self_signed_files(config)) is None else [made]
    if not found and tls.cert_file is not None and tls.key_file is not None:
        found.append(CertificateFiles(tls.cert_file, tls.key_file))
    if tls.lets_encrypt.enabled:
        found.append(ordered_files(config))
    return (*found, *(CertificateFiles(one.cert_file, one.key_file) for one in tls.certificates))


def ordered_files(config: Config) -> CertificateFiles:
    """Where the certificate lies, or will, that is ordered by ACME: one file holds it with its key."""
    from elemta.tls.acme.cabinet import certificate_path

    section = config.tls.lets_encrypt
    path = str(certificate_path(section.cache_dir, section.domain or config.hostname))
    return CertificateFiles(path, path, awaited=True)


def context_options(config: Config) -> ContextOptions:
    """What holds for every context."""
    tls = config.tls
    return ContextOptions(tls.min_version, tls.max_version, tls.ciphers, tls.client_auth, tls.client_ca_file)


def make_server_tls(config: Config, runtime: Runtime, watch: Watch) -> ServerTls | None:
    """TLS for the listeners of a configuration, not loaded; None when it is not enabled."""
    if not config.tls.enabled:
        return None
    options = ServerTlsOptions(
        files=certificate_files(config),
        context=context_options(config),
        handshake_timeout=config.tls.handshake_timeout,
        handshakes_per_address=config.tls.handshakes_per_address,
    )
    return ServerTls(options, runtime=runtime, log=watch.log, metrics=TlsMetrics(watch.metrics.registry))


async def load_server_tls(config: Config, runtime: Runtime, watch: Watch) -> ServerTls | None:
    """As `make_server_tls`, with its certificates. Raises `CannotStart`."""
    tls = make_server_tls(config, runtime, watch)
    if tls is not None:
        try:
            await tls.load()
        except TlsUnusable as error:
            raise CannotStart(f"TLS cannot be served: {error}", CONFIG) from error
    return tls
