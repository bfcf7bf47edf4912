"""One end of a virtual connection, in clear at first, encrypted from a handshake on.

What is not here: the wire below (`simulation.pipe`), what is said over it. The peers of the server speak TLS by
`trio.SSLStream`, not by the product's own stream: what is rehearsed must not be its own partner.
What a peer knows of its connection it knows by octets on the wire, so a channel says how many of them some text takes.
Failures raised: Trio's resource errors, those of a failed handshake among them.
"""

import ssl
from typing import Protocol

import trio

from elemta.simulation.personality import Shown
from elemta.simulation.pipe import VirtualStream

#: Octets of text in one record at most, RFC 8446 §5.1.
_RECORD_OCTETS = 16 * 1024
#: Octets by which a record is longer than its text. TLS 1.3: header 5, type 1, tag 16 (RFC 8446 §5.2). TLS 1.2 with
#: AES-GCM: header 5, nonce 8, tag 16 (RFC 5288 §3).
_RECORD_GROWTH_OCTETS = {"TLSv1.3": 22, "TLSv1.2": 29}


class Contexts(Protocol):
    """Where peers have their certificates from; `old` is TLS 1.2 at most."""

    def server(self, shown: Shown, *, old: bool) -> ssl.SSLContext:
        """The context of a host that shows this certificate."""
        ...

    def client(self, *, old: bool) -> ssl.SSLContext:
        """The context of a client, which takes any certificate."""
        ...

    def file(self, name: str) -> str:
        """Where a file that the server's configuration names really lies."""
        ...


class Channel:
    """Octets to and from the peer. `wire` is the connection itself."""

    def __init__(self, wire: VirtualStream) -> None:
        self.wire = wire
        self._stream: trio.abc.Stream = wire
        self._growth = 0

    @property
    def is_encrypted(self) -> bool:
        """True after a handshake."""
        return self._growth > 0

    def wire_octets(self, text_octets: int) -> int:
        """How many octets the wire carries for a text that is sent at once.

        The whole of them must have arrived for the last of the text to be read: a cut record opens to nothing.
        """
        return text_octets + self._growth * -(-text_octets // _RECORD_OCTETS)

    async def encrypt(self, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        """Shake hands: with a `server_name` as the client, else as the server. Raises `trio.BrokenResourceError`."""
        stream = trio.SSLStream(self.wire, context, server_hostname=server_name, server_side=server_name is None)
        await stream.do_handshake()
        self._stream = stream
        self._growth = _RECORD_GROWTH_OCTETS[stream.version()]

    async def send_all(self, text: bytes) -> None:
        """Send everything."""
        await self._stream.send_all(text)

    async def receive_some(self, max_octets: int) -> bytes:
        """At most so many octets, empty at the peer's end."""
        return bytes(await self._stream.receive_some(max_octets))

    async def aclose(self) -> None:
        """Close in an orderly way."""
        await self._stream.aclose()

    def abort(self) -> None:
        """Close at once: what was sent still arrives, then the reset."""
        self.wire.abort()
