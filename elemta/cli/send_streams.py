"""Connections that tell a transcript what goes over them.

What is not here: how the lines look (`cli.transcript`), what is said (`delivery.session`). Below TLS nothing is told:
the stream above it is the one that speaks SMTP. Failures raised: those of the streams within.
"""

from collections.abc import Sequence

from cryptography import x509

from elemta.cli.transcript import Transcript
from elemta.delivery.clienttls import ClientTls, Trust
from elemta.net.base import Endpoint, Listener, Network, Stream
from elemta.net.sockets import SystemNetwork
from elemta.runtime.threads import Threads
from elemta.tls.certificates import dns_names
from elemta.tls.stream import TlsStream


class HeardStream(Stream):
    """A stream that is listened to."""

    def __init__(self, inner: Stream, transcript: Transcript) -> None:
        self.local = inner.local
        self.peer = inner.peer
        self.inner = inner
        self._transcript = transcript

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Tell it, then send it: what was cut off on the way was said all the same."""
        self._transcript.sent(bytes(data))
        await self.inner.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What came, told."""
        data = bytes(await self.inner.receive_some(max_bytes))
        self._transcript.heard(data)
        return data

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream within."""
        await self.inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream within."""
        await self.inner.send_eof()

    async def aclose(self) -> None:
        """As the stream within."""
        await self.inner.aclose()

    def abort(self) -> None:
        """As the stream within."""
        self.inner.abort()


class HeardTlsStream(HeardStream, TlsStream):
    """The same, of a stream over TLS; the parts of TLS itself stay within."""

    def __init__(self, inner: TlsStream, transcript: Transcript) -> None:
        super().__init__(inner, transcript)
        self.facts = inner.facts


class HeardNetwork:
    """The system's network, with connections that are listened to."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._system: Network = SystemNetwork()

    async def listen(self, address: str, backlog: int) -> Sequence[Listener]:
        """As the system's. Raises `OSError`."""
        return await self._system.listen(address, backlog)

    async def connect(self, endpoint: Endpoint) -> Stream:
        """Connect. Raises `OSError`."""
        try:
            stream = await self._system.connect(endpoint)
        except OSError as error:
            self._transcript.connected(f"no connection to {endpoint}: {error.strerror or error}")
            raise
        self._transcript.connected(f"connected to {endpoint}")
        return HeardStream(stream, self._transcript)


class HeardTls(ClientTls):
    """Handshakes whose streams are listened to."""

    def __init__(self, threads: Threads, transcript: Transcript) -> None:
        super().__init__(threads)
        self._transcript = transcript

    async def connect(self, stream: Stream, trust: Trust, *, server_name: str) -> TlsStream:
        """Shake hands. Raises as `ClientTls.connect`."""
        plain = stream.inner if isinstance(stream, HeardStream) else stream
        try:
            encrypted = await super().connect(plain, trust, server_name=server_name)
        except Exception as error:
            self._transcript.note(f"no TLS: {error}")
            raise
        facts = encrypted.facts
        checked = f"verified for {server_name}" if trust.verify else "not verified"
        self._transcript.note(f"{facts.version} with {facts.cipher}; the certificate was {checked}")
        if facts.peer_certificate:
            self._transcript.note(_about(facts.peer_certificate))
        return HeardTlsStream(encrypted, self._transcript)


def _about(der: bytes) -> str:
    certificate = x509.load_der_x509_certificate(der)
    names = ", ".join(dns_names(certificate)) or certificate.subject.rfc4514_string()
    issuer = certificate.issuer.rfc4514_string()
    return f"it is for {names}, by {issuer}, until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
