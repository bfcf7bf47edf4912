"""TLS in a session: whether it may begin, what its peer may do by its certificate.

What is not here: handshakes (`tls.server`), or what the machine forgets when TLS begins (`smtp.server`). RFC 3207,
RFC 8314 §3.3 for TLS from the first octet. Failures raised: none.
"""

from elemta.inbound.options import InboundOptions, ListenerOptions
from elemta.mail.reply import Reply
from elemta.tls.server import HandshakeRefused, ServerTls
from elemta.tls.stream import TlsFacts

GO_AHEAD = Reply(220, "2.0.0", "ready to start TLS")
#: RFC 3207 §4.
NOT_NOW = Reply(454, "4.7.0", "TLS is not available to you now, try again later")


def may_begin(tls: ServerTls | None, host: str) -> bool:
    """Whether a client at this address may shake hands now; it counts when it may."""
    if tls is None:
        return False
    try:
        tls.admit(host)
    except HandshakeRefused:
        return False
    return True


def answer(tls: ServerTls | None, host: str) -> Reply:
    """The reply to STARTTLS."""
    return GO_AHEAD if may_begin(tls, host) else NOT_NOW


def may_relay(options: InboundOptions, listener: ListenerOptions, facts: TlsFacts) -> bool:
    """Whether a client that has shown this certificate may relay; OpenSSL has verified it (`tls.client_ca_file`)."""
    return listener.relay and facts.peer_fingerprint in options.relay_certificates
