"""Certificate files as a server has them, with the server's side of TLS on them, for tests."""

import datetime
import random
import ssl
from pathlib import Path
from typing import Any

import structlog
import trio
import trustme
from prometheus_client import CollectorRegistry
from structlog.testing import LogCapture

from elemta.runtime.ids import SeededIds
from elemta.runtime.threads import InlineThreads
from elemta.runtime.world import Runtime
from elemta.tls.metrics import TlsMetrics
from elemta.tls.served import CertificateFiles
from elemta.tls.server import ServerTls, ServerTlsOptions

#: When the virtual clock begins: certificates of tests are made for some days around it.
BEGIN = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)


class Wall:
    """A wall clock on Trio's."""

    def wall(self) -> float:
        return BEGIN.timestamp() + trio.current_time()


class Office:
    """An authority with a folder; `write` issues a certificate into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()

    def write(self, name: str, *names: str, days: float = 3000.0) -> CertificateFiles:
        """Issue a certificate for `names` into files called `name`; it replaces what was there."""
        issued = self.authority.issue_cert(*names, not_after=BEGIN + datetime.timedelta(days=days))
        files = self.files(name)
        key = Path(files.key_file)
        issued.private_key_pem.write_to_path(str(key.with_suffix(".new")))
        key.with_suffix(".new").chmod(0o600)
        key.with_suffix(".new").rename(key)
        cert = Path(files.cert_file)
        issued.cert_chain_pems[0].write_to_path(str(cert.with_suffix(".new")))
        cert.with_suffix(".new").rename(cert)
        return files

    def files(self, name: str, *, awaited: bool = False) -> CertificateFiles:
        """Where that certificate lies."""
        return CertificateFiles(str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key"), awaited)

    def spoil(self, name: str) -> CertificateFiles:
        """Write something else in the certificate's place."""
        files = self.files(name)
        Path(files.cert_file).write_text("no certificate")
        return files

    def lose_key(self, name: str) -> None:
        """Remove the key."""
        Path(self.files(name).key_file).unlink()

    def open_key(self, name: str) -> None:
        """Let everybody read the key."""
        Path(self.files(name).key_file).chmod(0o644)

    def trusting(self) -> ssl.SSLContext:
        """A client's context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context


class Desk:
    """A `ServerTls` whose log and metrics can be read."""

    def __init__(self, *files: CertificateFiles, **options: Any) -> None:
        self.capture = LogCapture()
        self.registry = CollectorRegistry()
        wall = Wall()
        self.tls = ServerTls(
            ServerTlsOptions(files=files, **options),
            runtime=Runtime(wall, InlineThreads(), SeededIds(wall, random.Random(1)), random.Random(2)),
            log=structlog.wrap_logger(None, processors=[self.capture]),
            metrics=TlsMetrics(self.registry),
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self.capture.entries if entry["event"] == name]

    def metric(self, sample: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(sample, labels)
