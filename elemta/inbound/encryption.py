"""TLS in a session: whether it may begin, what its peer may do by its certificate.

What is not here: handshakes (`tls.server`), or what the machine forgets when TLS begins (`smtp.server`). RFC 3207,
RFC 8314 §3.3 for TLS from the first octet. Failure raised: `HandshakeFailed`, with the connection closed.
"""

from elemta.inbound.options import InboundOptions, ListenerOptions
from elemta.mail.reply import Reply
from elemta.net.base import Stream
from elemta.tls.server import HandshakeRefused, ServerTls
from elemta.tls.stream import TlsFacts, TlsStream

GO_AHEAD = Reply(220, "2.0.0", "ready to start TLS")
#: RFC 3207 §4.
NOT_NOW = Reply(454, "4.7.0", "TLS is not available to you now, try again later")


def answer(tls: ServerTls | None, host: str) -> Reply:
    """The reply to STARTTLS."""
    try:
        if tls is not None:
            tls.admit(host)
            return GO_AHEAD
    except HandshakeRefused:
        pass
    return NOT_NOW


async def encrypt_at_once(tls: ServerTls | None, stream: Stream) -> TlsStream:
    """Shake hands before the greeting. Raises `HandshakeFailed`."""
    if tls is None:
        stream.abort()
        raise HandshakeRefused("this server has no TLS")
    try:
        tls.admit(stream.peer.host)
    except HandshakeRefused:
        stream.abort()
        raise
    return await tls.upgrade(stream)


def may_relay(options: InboundOptions, listener: ListenerOptions, facts: TlsFacts) -> bool:
    """Whether a client that has shown this certificate may relay; OpenSSL has verified it (`tls.client_ca_file`)."""
    return listener.relay and facts.peer_fingerprint in options.relay_certificates
