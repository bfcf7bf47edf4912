"""The certificate that dev mode uses where the configured one is missing.

What is not here: how it is made (`tls.selfsigned`), or what a missing one means outside dev mode (`config.checks`
refuses to start). Failure raised: `OSError` for a queue folder that cannot be written.
"""

from pathlib import Path

from structlog.typing import FilteringBoundLogger

from elemta.config.checks import missing_tls_files
from elemta.config.sections import Config
from elemta.runtime.clock import Clock

#: The folder in `queue_dir`.
TLS_FOLDER = "tls"


def provide_certificate(config: Config, clock: Clock, log: FilteringBoundLogger) -> None:
    """Have a self-signed certificate ready when dev mode needs one, with a warning in the log. Raises `OSError`."""
    if not (config.dev_mode and config.tls.enabled) or config.tls.lets_encrypt.enabled:
        return
    missing = missing_tls_files(config.tls, lambda name: Path(name).is_file())
    if not missing:
        return
    # Late: few servers need it, and `cryptography` takes long to import.
    from elemta.tls.selfsigned import self_signed

    found = self_signed(Path(config.queue_dir, TLS_FOLDER).absolute(), config.hostname, now=clock.wall())
    log.warning(
        "tls.self_signed",
        missing={f"tls.{key}": getattr(config.tls, key) for key in missing},
        cert_file=str(found.cert_file),
        key_file=str(found.key_file),
        until=found.until.isoformat(),
        made=found.made,
        starttls="not offered by this version yet",
    )
