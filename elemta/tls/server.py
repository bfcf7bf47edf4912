"""TLS with the clients of a server: which certificate, how many handshakes, when the files are read again.

What is not here: sessions (`inbound`), who orders certificates (`tls.acme`), where options come from (`supervisor`).
A new set of certificates is whole before it replaces the old one: a broken file changes nothing but the log, and
sessions under way keep what they have. Log events: `tls.loaded`, `tls.reload_failed`,
`tls.warning`, `tls.refused`.
Failures raised: `TlsUnusable` by the first load, `HandshakeRefused`, `HandshakeFailed` by handshakes.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import trio
from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.net.base import Stream
from elemta.runtime.world import Runtime
from elemta.tls.contexts import ContextOptions, TlsUnusable
from elemta.tls.metrics import TlsMetrics
from elemta.tls.rate import HandshakeRate
from elemta.tls.served import CertificateFiles, Choice, Served, load_choice, stamp
from elemta.tls.stream import HandshakeFailed, TlsStream, accept_tls

#: Seconds between two looks at the files: soon enough for a person who waits, and nothing for the system.
WATCH_SECONDS: Final = 5.0
#: Handshakes under way at once: each holds some 100 KiB of OpenSSL's, and more would only wait for each other.
MAX_HANDSHAKES: Final = 1000
#: Threads that do the costly step. Measured, two processors, RSA keys, eight clients that do nothing but shake hands:
#: 1037 handshakes a second on the event loop, with 5.8 ms for the 95th percentile of a plain exchange; in one thread
#: 875 and 1.3 ms; in two 894 and 2.4 ms. Without the flood it is 0.1 ms (tests/bench/bench_tls.py).
HANDSHAKE_THREADS: Final = 1
#: Seconds between two log lines about refused handshakes.
REFUSAL_LOG_SECONDS: Final = 10.0


class HandshakeRefused(HandshakeFailed):
    """No handshake is begun now; the text says why, for the log."""


@frozen
class ServerTlsOptions:
    """What the configuration says. `handshake_timeout` in seconds, `handshakes_per_address` a second, lasting."""

    files: tuple[CertificateFiles, ...]
    context: ContextOptions = ContextOptions()
    handshake_timeout: float = 30.0
    handshakes_per_address: int = 20


class ServerTls:
    """The server's side of TLS, for all listeners. `load` comes first; `run` watches the files."""

    def __init__(
        self, options: ServerTlsOptions, *, runtime: Runtime, log: FilteringBoundLogger, metrics: TlsMetrics
    ) -> None:
        self._options = options
        self._files = options.files
        self._runtime = runtime
        self._log = log
        self._metrics = metrics
        self._choice = Choice()
        self._stamp: tuple[object, ...] = ()
        self._rate = HandshakeRate(options.handshakes_per_address)
        self._handshakes = 0
        self._refusals = 0
        self._next_refusal_log = 0.0
        self._costly = trio.CapacityLimiter(HANDSHAKE_THREADS)
        self._disk = trio.CapacityLimiter(1)
        self._loading = trio.Lock()

    # ---- certificates ------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is a certificate: without one STARTTLS is not offered."""
        return bool(self._choice.certificates)

    @property
    def certificates(self) -> Sequence[Served]:
        """Those that new sessions get, the default one first."""
        return self._choice.certificates

    async def load(self, cause: str = "start") -> None:
        """Read the files, and serve them from now on. Raises `TlsUnusable`, and then nothing has changed."""
        async with self._loading:
            self._stamp = await self._look()
            now = self._runtime.clock.wall()
            choice = await self._runtime.threads.run(
                self._disk, lambda: load_choice(self._files, self._options.context, now=now)
            )
            self._check_age(choice, now)
            self._choice = choice
        self._metrics.show(choice.certificates, self._runtime.clock.wall)
        for one in choice.certificates:
            until = datetime.fromtimestamp(one.until, UTC).isoformat()
            self._log.info("tls.loaded", names=list(one.names), until=until, fingerprint=one.fingerprint, cause=cause)
            for warning in one.warnings:
                self._log.warning("tls.warning", text=warning)

    def _check_age(self, choice: Choice, now: float) -> None:
        """Keep a good certificate from giving way to one that has expired. Raises `TlsUnusable`."""
        expired = next((one for one in choice.certificates if one.until <= now), None)
        if expired is not None and self.ready and all(one.until > now for one in self.certificates):
            raise TlsUnusable(f"the new certificate of {expired.name} has expired; {expired.warnings[0]}")

    async def reload(self, cause: str) -> bool:
        """Read the files again; False when they are broken, and the old certificates stay."""
        try:
            await self.load(cause)
        except TlsUnusable as error:
            self._log.error(
                "tls.reload_failed", error=str(error), cause=cause, kept=[one.name for one in self.certificates]
            )
            return False
        except Exception as error:
            # A defect of ours, which must not end a server that has a good certificate.
            self._log.error("tls.reload_failed", error=str(error), cause=cause, exc_info=error)
            return False
        return True

    async def replace(self, files: Sequence[CertificateFiles], cause: str) -> bool:
        """Serve these files from now on, as `reload` does; when they are broken the old ones stay."""
        before, self._files = (self._files, self._stamp), tuple(files)
        if await self.reload(cause):
            return True
        self._files, self._stamp = before
        return False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at the files now and then, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(WATCH_SECONDS)
            if await self._look() != self._stamp:
                await self.reload("file changed")

    async def _look(self) -> tuple[object, ...]:
        return await self._runtime.threads.run(self._disk, stamp, self._files, self._options.context)

    # ---- handshakes --------------------------------------------------------------------------

    def admit(self, host: str) -> None:
        """Count a handshake of this address. Raises `HandshakeRefused` when it may not be begun."""
        if not self.ready:
            raise self._refused("no certificate", host, "there is no certificate yet")
        if self._handshakes >= MAX_HANDSHAKES:
            raise self._refused("too many", host, "too many handshakes at once")
        if not self._rate.take(host, trio.current_time()):
            raise self._refused("rate", host, "too many handshakes from this address")

    def _refused(self, cause: str, host: str, text: str) -> HandshakeRefused:
        """Count it, and say so now and then: a line for each would be what a flood is after."""
        self._metrics.failures.labels(cause=cause).inc()
        self._refusals += 1
        now = trio.current_time()
        if now >= self._next_refusal_log:
            self._log.warning("tls.refused", cause=text, client=host, refused=self._refusals)
            self._next_refusal_log, self._refusals = now + REFUSAL_LOG_SECONDS, 0
        return HandshakeRefused(text)

    async def upgrade(self, stream: Stream) -> TlsStream:
        """Shake hands with an admitted client within its deadline. Raises `HandshakeFailed`; then it is closed."""
        self._handshakes += 1
        timeout = self._options.handshake_timeout
        try:
            with trio.move_on_after(timeout):
                encrypted = await accept_tls(
                    stream, self._choice.context_for, threads=self._runtime.threads, limiter=self._costly
                )
                self._metrics.connections.labels(version=encrypted.facts.version).inc()
                return encrypted
        except HandshakeFailed:
            self._metrics.failures.labels(cause="failed").inc()
            raise
        finally:
            self._handshakes -= 1
        self._metrics.failures.labels(cause="timeout").inc()
        raise HandshakeFailed(f"the handshake took more than {timeout:g} s")
