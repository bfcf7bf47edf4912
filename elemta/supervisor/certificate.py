"""The certificate that dev mode uses where the configured one is missing.

What is not here: how it is made (`tls.selfsigned`), or what a missing one means outside dev mode (`config.tls_checks`
refuses to start). Failure raised: `OSError` for a queue folder that cannot be written.
"""

from pathlib import Path

from structlog.typing import FilteringBoundLogger

from elemta.config.sections import Config
from elemta.config.tls_checks import missing_tls_files
from elemta.runtime.clock import Clock
from elemta.tls.served import CertificateFiles

#: The folder in `queue_dir`.
TLS_FOLDER = "tls"


def self_signed_files(config: Config) -> CertificateFiles | None:
    """Where the self-signed certificate lies, or will; None when this configuration needs none."""
    if not (config.dev_mode and config.tls.enabled) or config.tls.lets_encrypt.enabled:
        return None
    if not _missing(config):
        return None
    # Late: few servers need it, and `cryptography` takes long to import.
    from elemta.tls.selfsigned import CERT_NAME, KEY_NAME

    folder = _folder(config)
    return CertificateFiles(str(folder / CERT_NAME), str(folder / KEY_NAME))


def provide_certificate(config: Config, clock: Clock, log: FilteringBoundLogger) -> None:
    """Have a self-signed certificate ready when dev mode needs one, with a warning in the log. Raises `OSError`."""
    if self_signed_files(config) is None:
        return
    from elemta.tls.selfsigned import self_signed

    found = self_signed(_folder(config), config.hostname, now=clock.wall())
    log.warning(
        "tls.self_signed",
        missing={f"tls.{key}": getattr(config.tls, key) for key in _missing(config)},
        cert_file=str(found.cert_file),
        key_file=str(found.key_file),
        until=found.until.isoformat(),
        made=found.made,
    )


def _folder(config: Config) -> Path:
    return Path(config.queue_dir, TLS_FOLDER).absolute()


def _missing(config: Config) -> tuple[str, ...]:
    return missing_tls_files(config.tls, lambda name: Path(name).is_file())
