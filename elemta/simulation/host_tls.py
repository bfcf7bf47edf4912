"""The TLS of scripted remote servers.

What is not here: what else they say (`simulation.hosts`), how TLS is spoken (`simulation.channel`). Whatever the server
says that TLS forbids goes to the record. RFC 3207 is STARTTLS, RFC 8314 §3.3 implicit TLS, RFC 8689 REQUIRETLS.
Failures raised: Trio's resource errors.
"""

from elemta.simulation.channel import Channel, Contexts
from elemta.simulation.personality import INJECTED_WORDS, Handshake, Personality
from elemta.simulation.record import Record

#: Octets read at a time, of what nobody looks at.
_READ_OCTETS = 65536
_HELLOS = frozenset({"EHLO", "HELO", "LHLO"})


class HostTls:
    """What a host does about TLS, from its first connection to its last."""

    def __init__(self, address: str, nature: Personality, *, record: Record, contexts: Contexts | None) -> None:
        self.address = address
        self.nature = nature
        self.record = record
        self._contexts = contexts
        self._asked = 0

    def next_handshake(self) -> Handshake | None:
        """What becomes of TLS in one connection more; None when it is not offered."""
        plan = self.nature.starttls
        self._asked += 1
        return plan[min(self._asked, len(plan)) - 1]

    async def encrypt(self, channel: Channel) -> None:
        """Shake hands, showing the host's certificate. Raises `trio.BrokenResourceError`."""
        assert self._contexts is not None, "a host with TLS in a world without certificates"
        await channel.encrypt(self._contexts.server(self.nature.shown, old=self.nature.old_tls))
        self.record.note("host", self.address, "speaks TLS with", channel.wire.peer.host)


class TlsOfConnection:
    """The same in one connection."""

    def __init__(self, host: HostTls, channel: Channel) -> None:
        self._host = host
        self._channel = channel
        self._handshake: Handshake | None = None
        #: Whether the client was told what is offered in clear, whether it said hello since the last handshake.
        self._told = False
        self._greeted = False
        self._was_asked = False

    @property
    def is_offered(self) -> bool:
        """True while STARTTLS may be said."""
        return self._handshake is not None and not self._channel.is_encrypted

    @property
    def goes_ahead(self) -> bool:
        """True when STARTTLS is answered 220."""
        return self._handshake is not Handshake.REFUSED

    def offers(self) -> list[str]:
        """What the answer to EHLO says of it."""
        if self._channel.is_encrypted:
            return ["REQUIRETLS"] if self._host.nature.requiretls else []
        if not self._told:
            self._told = True
            self._handshake = self._host.next_handshake()
        return ["STARTTLS"] if self.is_offered else []

    def replies(self) -> list[str]:
        """The answer to STARTTLS."""
        self._was_asked = True
        if not self.goes_ahead:
            return ["454 4.7.0 not now"]
        more = [f"250 {INJECTED_WORDS}"] * 2 + [f"550 5.7.1 {INJECTED_WORDS}"]
        return ["220 2.0.0 go ahead", *(more if self._handshake is Handshake.INJECTED else [])]

    async def shake_hands(self) -> bool:
        """The handshake, or what comes instead; False when the connection is to end."""
        match self._handshake if self._was_asked else self._host.next_handshake():
            case Handshake.STALLS:
                await self._wait_for_the_end()
            case Handshake.GARBAGE:
                await self._channel.receive_some(_READ_OCTETS)
                await self._channel.send_all(b"500 5.5.1 what is this\r\n")
                await self._wait_for_the_end()
            case Handshake.CLOSES:
                await self._channel.receive_some(_READ_OCTETS)
            case _:
                await self._host.encrypt(self._channel)
                self._greeted = False
                return True
        await self._channel.aclose()
        return False

    async def _wait_for_the_end(self) -> None:
        while await self._channel.receive_some(_READ_OCTETS):
            pass

    def watch(self, verb: str) -> None:
        """See whether a command may be said now."""
        address, record, encrypted = self._host.address, self._host.record, self._channel.is_encrypted
        if self._was_asked and not encrypted and verb != "QUIT":
            record.slip(address, "heard", verb, "in clear after STARTTLS")
        elif verb in _HELLOS:
            self._greeted = True
        elif encrypted and not self._greeted and verb != "QUIT":
            record.slip(address, "heard", verb, "under TLS before any EHLO")
        elif encrypted and verb == "STARTTLS":
            record.slip(address, "heard STARTTLS under TLS")
