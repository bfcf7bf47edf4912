"""A stream that speaks TLS over another one.

OpenSSL works on memory here, and this module moves the octets: `trio.SSLStream` does the same with locks around every
operation, which costs more than the encryption of a reply. What is not here: which context (`tls.contexts`), how many
handshakes and how fast (`tls.server`), deadlines (the caller's). RFC 8446, RFC 5246 for TLS 1.2.
Failures raised: `HandshakeFailed` by both functions, Trio's resource errors by the stream.
"""

import hashlib
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from attrs import field, frozen

from elemta.net.base import RECEIVE_OCTETS, Stream
from elemta.runtime.threads import Threads
from elemta.tls.hello import MAX_HELLO_OCTETS, asked_name

#: Octets of one record, RFC 8446 §5.1; OpenSSL encrypts no more at a time for us.
RECORD_OCTETS: Final = 16 * 1024
#: Octets that are encrypted before they are sent: what memory one send of a large mail takes.
FLIGHT_OCTETS: Final = 8 * RECORD_OCTETS
#: Seconds that the last word of TLS may take to be sent, before the connection is closed without it.
CLOSE_SECONDS: Final = 2.0

#: What stands for chance in a HelloRetryRequest, RFC 8446 §4.1.3: the hello is answered once more then.
_RETRY_RANDOM: Final = hashlib.sha256(b"HelloRetryRequest").digest()
#: Octets of record, message and version before it, and itself.
_RETRY_WITHIN_OCTETS: Final = 5 + 4 + 2 + 32


class HandshakeFailed(Exception):
    """There is no TLS with this peer; the connection is closed. The text says why, for the log."""


class CertificateRefused(HandshakeFailed):
    """We did not believe the peer's certificate."""


class BoundContext(ssl.SSLContext):
    """A context that knows what channel binding its certificate gives."""

    #: The `tls-server-end-point` of the context's own certificate, RFC 5929 §4.
    binding: bytes = b""


@frozen
class TlsFacts:
    """What both sides agreed on.

    `version` as in "TLSv1.3", `cipher` in OpenSSL's words, `server_name` what the client asked for (SNI) or empty,
    `peer_certificate` in DER or empty. `binding` is the `tls-server-end-point` of our own certificate (RFC 5929 §4),
    empty on the client's side.
    """

    version: str
    cipher: str
    server_name: str = ""
    resumed: bool = False
    peer_certificate: bytes = field(default=b"", repr=False)
    binding: bytes = field(default=b"", repr=False)

    @property
    def peer_fingerprint(self) -> str:
        """SHA-256 of the peer's certificate in lower-case hexadecimal; empty when it showed none."""
        return hashlib.sha256(self.peer_certificate).hexdigest() if self.peer_certificate else ""


#: Chooses a context by the name that the client asks for; empty when it asks for none.
Chooser = Callable[[str], ssl.SSLContext]


async def accept_tls(
    stream: Stream,
    context: ssl.SSLContext | Chooser,
    *,
    threads: Threads | None = None,
    limiter: trio.CapacityLimiter | None = None,
) -> "TlsStream":
    """Shake hands as the server, over a stream on which nothing of TLS was read yet.

    With `threads` the step that signs and agrees on keys runs in one, `limiter` being its bound: a flood of handshakes
    then leaves the event loop to everybody else. Raises `HandshakeFailed`; the caller sets the deadline.
    """
    shaking = _Handshake(stream)
    try:
        name = await shaking.hear_hello()
        chosen = context if isinstance(context, ssl.SSLContext) else context(name)
        shaking.begin(chosen, server_side=True)
        await shaking.run(threads, limiter)
    except BaseException:
        stream.abort()  # does nothing after a close in order
        raise
    binding = chosen.binding if isinstance(chosen, BoundContext) else b""
    return shaking.finished(name, binding)


async def connect_tls(
    stream: Stream,
    context: ssl.SSLContext,
    *,
    server_name: str | None,
    threads: Threads | None = None,
    limiter: trio.CapacityLimiter | None = None,
) -> "TlsStream":
    """Shake hands as the client; `server_name` is what we ask for and, if `context` checks it, what must be certified.

    Raises `HandshakeFailed`, or `CertificateRefused` of that kind; the caller sets the deadline.
    """
    shaking = _Handshake(stream)
    try:
        shaking.begin(context, server_side=False, server_name=server_name)
        await shaking.run(threads, limiter)
    except BaseException:
        stream.abort()
        raise
    return shaking.finished(server_name or "", b"")


class _Handshake:
    """Two memory buffers with OpenSSL between them, until both sides agree."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._answered = False

    async def hear_hello(self) -> str:
        """Wait for the ClientHello; the name in it."""
        heard = b""
        while True:
            heard += await self._receive(MAX_HELLO_OCTETS)
            name = asked_name(heard)
            if name is not None:
                self._incoming.write(heard)
                return name

    def begin(self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None) -> None:
        """Have OpenSSL ready."""
        try:
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
            )
        except ValueError as error:  # a name that cannot stand in a hello
            raise HandshakeFailed(f"{server_name!r} cannot be asked for: {error}") from error

    async def run(self, threads: Threads | None, limiter: trio.CapacityLimiter | None) -> None:
        """Go on until both sides agree. Raises `HandshakeFailed`."""
        assert self._tls is not None
        while True:
            try:
                # Costly is the first step that answers the other side: it signs or verifies, and agrees on keys.
                if threads is None or self._answered or not self._incoming.pending:
                    self._tls.do_handshake()
                else:
                    self._answered = True
                    await threads.run(limiter, self._tls.do_handshake)
                await self._send()
                return
            except ssl.SSLWantReadError:
                await self._send()
            except ssl.SSLCertVerificationError as error:
                await self._say_alert()  # noqa: ASYNC120  # who is cancelled does not ask why there is no TLS
                raise CertificateRefused(_certificate_text(error)) from error
            except (ssl.SSLError, ValueError) as error:
                await self._say_alert()  # noqa: ASYNC120  # as above
                raise HandshakeFailed(tls_text(error)) from error
            self._incoming.write(await self._receive(RECEIVE_OCTETS))

    async def _receive(self, limit: int) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(limit))
        except trio.BrokenResourceError as error:
            raise HandshakeFailed("the connection broke in the handshake") from error
        if not data:
            raise HandshakeFailed("the peer closed the connection in the handshake")
        return data

    async def _send(self) -> None:
        try:
            if self._outgoing.pending:
                flight = self._outgoing.read()
                self._answered = self._answered and _RETRY_RANDOM not in flight[:_RETRY_WITHIN_OCTETS]
                await self._stream.send_all(flight)
        except trio.BrokenResourceError as error:
            raise HandshakeFailed("the connection broke in the handshake") from error

    async def _say_alert(self) -> None:
        """Tell the peer why, as far as the connection takes it, then close in order, or it would not be read."""
        with suppress(HandshakeFailed), trio.move_on_after(CLOSE_SECONDS):
            await self._send()
            await self._stream.aclose()

    def finished(self, server_name: str, binding: bytes) -> "TlsStream":
        """The stream to go on with."""
        tls = self._tls
        assert tls is not None
        cipher = tls.cipher()
        facts = TlsFacts(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            server_name=server_name,
            resumed=bool(tls.session_reused),
            peer_certificate=tls.getpeercert(binary_form=True) or b"",
            binding=binding,
        )
        return TlsStream(self._stream, tls, (self._incoming, self._outgoing), facts=facts)


class TlsStream(Stream):
    """Octets over TLS. One task may send while another receives; no two may do the same.

    After a cancelled send the stream is good for nothing but to be closed, as any other one.
    """

    def __init__(
        self, inner: Stream, tls: ssl.SSLObject, buffers: tuple[ssl.MemoryBIO, ssl.MemoryBIO], *, facts: TlsFacts
    ) -> None:
        self.local = inner.local
        self.peer = inner.peer
        self.facts = facts
        self._inner = inner
        self._tls = tls
        self._incoming, self._outgoing = buffers
        self._sending = False
        self._sent = trio.lowlevel.ParkingLot()
        #: A send was cut: what follows would make no sense to the peer.
        self._torn = False
        self._closed = False
        self._ended = False
        #: Whether there may be more to decrypt without receiving: the first octets may have come with the handshake.
        self._more = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At most `RECEIVE_OCTETS` octets (or `max_bytes`), empty at the peer's end.

        A connection that ends without TLS's own end (RFC 8446 §6.1) counts as ended too: many mail programs close so,
        and SMTP tells a whole mail from a cut one by itself, by its final dot or the size of its chunk.
        """
        self._check()
        limit = RECEIVE_OCTETS if max_bytes is None else max_bytes
        if self._more:
            data = self._decrypt(limit)
            if data is not None:
                await trio.lowlevel.checkpoint()
                return data
        while not self._ended:
            # Reading may make something to say: a warning, the answer to a KeyUpdate. Who sends now sends it too.
            if self._outgoing.pending and not self._sending:
                await self._flush()
            heard = await self._inner.receive_some(RECEIVE_OCTETS)
            if not heard:
                self._ended = True
                break
            self._incoming.write(heard)
            data = self._decrypt(limit)
            if data is not None:
                return data
        await trio.lowlevel.checkpoint()
        return b""

    def _decrypt(self, limit: int) -> bytes | None:
        """What can be decrypted now, up to `limit`; empty at the end, None when more must be received.

        Raises `trio.BrokenResourceError`.
        """
        tls, pieces, left = self._tls, [], limit
        try:
            while left and not self._ended:
                piece = tls.read(left)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
                left -= len(piece)
                if not self._incoming.pending and not tls.pending():
                    self._more = False
                    break
            else:
                self._more = True
        except ssl.SSLWantReadError:
            self._more = False
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._torn = True
            raise trio.BrokenResourceError(f"TLS failed: {tls_text(error)}") from error
        if len(pieces) == 1:
            return pieces[0]
        return b"".join(pieces) if pieces or self._ended else None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send everything."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check()
        size = len(data)
        if size <= RECORD_OCTETS:
            if size:
                self._encrypt(data)
                await self._send()
            return
        with memoryview(data) as view:
            for start in range(0, size, FLIGHT_OCTETS):
                end = min(start + FLIGHT_OCTETS, size)
                for at in range(start, end, RECORD_OCTETS):
                    self._encrypt(view[at : min(at + RECORD_OCTETS, end)])
                await self._send()

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt one record. Raises `trio.BrokenResourceError`."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:  # WantRead too: contexts forbid renegotiation, so nothing else needs to be read
            self._torn = True
            raise trio.BrokenResourceError(f"TLS failed: {tls_text(error)}") from error

    async def _send(self) -> None:
        """Send what was encrypted, after whatever a receiving task sends just now."""
        while self._sending:
            await self._sent.park()
        self._check()
        await self._flush()

    async def _flush(self) -> None:
        self._sending = True
        whole = False
        try:
            while self._outgoing.pending:
                await self._inner.send_all(self._outgoing.read())
            whole = True
        finally:
            self._sending = False
            self._torn = self._torn or not whole
            self._sent.unpark_all()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._torn:
            raise trio.BrokenResourceError("TLS broke off earlier")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the connection takes octets again."""
        self._check()
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent; a peer that speaks TLS 1.2 may end the connection for it."""
        await trio.lowlevel.checkpoint()
        self._check()
        self._say_goodbye()
        await self._send()

    def _say_goodbye(self) -> None:
        """Have close_notify ready to be sent, RFC 8446 §6.1. Safe to repeat: OpenSSL makes it once."""
        with suppress(ssl.SSLError):  # WantRead: the peer's own has not come, and is not waited for
            self._tls.unwrap()

    async def aclose(self) -> None:
        """Say the end of TLS, within `CLOSE_SECONDS`, then close; the peer's own end is not waited for."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        try:
            if not self._sending:
                with trio.move_on_after(CLOSE_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._send_last()
        finally:
            self._closed = True
            await self._inner.aclose()

    async def _send_last(self) -> None:
        """The end of TLS, or after a failure the alert that says which."""
        if not self._torn:
            self._say_goodbye()
        last = self._outgoing.read()
        self._closed = True
        if last:
            await self._inner.send_all(last)

    def abort(self) -> None:
        """Close at once, without the end of TLS and with a reset."""
        self._closed = True
        self._inner.abort()


def tls_text(error: Exception) -> str:
    """OpenSSL's reason in words, without the place in its source."""
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else str(error)


def _certificate_text(error: ssl.SSLCertVerificationError) -> str:
    return f"the certificate is not trusted: {error.verify_message}"
