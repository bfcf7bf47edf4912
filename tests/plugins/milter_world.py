"""A milter that follows a script, with the server's side that a plugin needs around it.

What is not here: assertions. The packets are taken apart by this file's own hands, not by the product's.
"""

import enum
import math
import random
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import structlog
import trio
from attrs import define, field
from structlog.typing import FilteringBoundLogger

from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.net.base import Endpoint, Listener, Network, Stream
from elemta.plugins.mail import MailInHand, SessionFacts
from elemta.plugins.milter.plugin import Milter, MilterSettings
from elemta.resolver.base import Resolver
from elemta.runtime.clock import Clock, SystemClock
from elemta.runtime.threads import InlineThreads, Threads
from elemta.simulation.network import VirtualNetwork
from elemta.simulation.resolver import Name, ScriptedResolver

ALL_ACTIONS = 0x1FF
JO = Address("jo", "example.org")
MAX = Address("max", "example.com")
EVA = Address("eva", "example.com")
RECEIVED = b"Received: from client by mail.example.com with ESMTP id %s\r\n"
MAIL = b"From: jo@example.org\r\nTo: max@example.com\r\nSubject: a\r\n folded one\r\n\r\nhello\r\n.dot\r\n"


def packet(kind: str, data: bytes = b"") -> bytes:
    """A packet from a milter."""
    return struct.pack(">I", len(data) + 1) + kind.encode() + data


def inserted(at: int, name: bytes, value: bytes) -> bytes:
    return packet("i", struct.pack(">I", at) + name + b"\0" + value + b"\0")


def changed(number: int, name: bytes, value: bytes) -> bytes:
    return packet("m", struct.pack(">I", number) + name + b"\0" + value + b"\0")


def negotiation(*, version: int = 6, actions: int = ALL_ACTIONS, steps: int = 0, macros: bytes = b"") -> bytes:
    return packet("O", struct.pack(">III", version, actions, steps) + macros)


class Deed(enum.Enum):
    """What a milter does instead of answering."""

    HANG = "hang"
    CLOSE = "close"
    RESET = "reset"


Answer = bytes | Deed | float  # a number of seconds: wait so long


@define
class ScriptedMilter:
    """Answers each command (by its letter) as `script` says, with "continue" where it says nothing.

    A list of lists is gone through, one for each time that the command comes. With `piece` it sends so many octets at
    a time. `heard` is all it was sent: letter and data.
    """

    script: Mapping[str, Sequence[Answer] | Sequence[Sequence[Answer]]] = field(factory=dict)
    negotiation: Sequence[Answer] = (negotiation(),)
    silent: str = ""
    piece: int = 0
    heard: list[tuple[str, bytes]] = field(factory=list)
    connections: int = 0
    #: How many of them have ended.
    gone: int = 0

    def said(self, letters: str) -> list[bytes]:
        """The data of all commands with one of these letters."""
        return [data for letter, data in self.heard if letter in letters]

    @property
    def letters(self) -> str:
        """The commands, macros left out."""
        return "".join(letter for letter, _ in self.heard if letter != "D")

    def macros(self, command: str) -> dict[str, str]:
        """The macros of the last time that they came before a command."""
        data = [data for data in self.said("D") if data[:1] == command.encode()][-1]
        words = data[1:].decode().split("\0")[:-1]
        return dict(zip(words[::2], words[1::2], strict=True))

    async def serve(self, listener: Listener) -> None:
        """Take connections until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(self._talk, await listener.accept())
        finally:
            listener.close()

    async def _talk(self, stream: Stream) -> None:
        self.connections += 1
        buffer = b""
        try:
            while True:
                while len(buffer) < 4 or len(buffer) < 4 + struct.unpack(">I", buffer[:4])[0]:
                    received = await stream.receive_some()
                    if not received:
                        return
                    buffer += received
                (octets,) = struct.unpack(">I", buffer[:4])
                letter, data, buffer = chr(buffer[4]), buffer[5 : 4 + octets], buffer[4 + octets :]
                self.heard.append((letter, data))
                if letter not in "DAQK" + self.silent:
                    await self._answer(stream, letter)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.gone += 1
            stream.abort()

    async def _answer(self, stream: Stream, letter: str) -> None:
        for answer in self.negotiation if letter == "O" else self._answers(letter):
            if answer is Deed.HANG:
                await trio.sleep_forever()
            elif answer is Deed.CLOSE:
                await stream.aclose()
            elif answer is Deed.RESET:
                stream.abort()
            elif isinstance(answer, bytes):
                step = self.piece or len(answer)
                for start in range(0, len(answer), step):
                    await stream.send_all(answer[start : start + step])
            elif isinstance(answer, float):
                await trio.sleep(answer)

    def _answers(self, letter: str) -> Sequence[Answer]:
        script = self.script.get(letter, (packet("c"),))
        if script and isinstance(script[0], list):
            times = len(self.said(letter))
            return script[times - 1] if times <= len(script) else (packet("c"),)  # type: ignore[return-value]  # a list
        return script  # type: ignore[return-value]  # no list of lists


NAMES = {
    "milter.example.com": Name(addresses=("192.0.2.99", "192.0.2.1")),  # nobody has the first
    "8.100.51.198.in-addr.arpa": Name(pointers=("no.example.org", "yes.example.org")),
    "yes.example.org": Name(addresses=("198.51.100.8",)),
    "9.100.51.198.in-addr.arpa": Name(pointers=("forged.example.org",)),
    "forged.example.org": Name(addresses=("192.0.2.77",)),
    "10.100.51.198.in-addr.arpa": Name(failing_until=math.inf),
    "nowhere.example.com": Name(),
}


@define
class World:
    """The server's side, as far as the plugin asks for it; fits `plugins.api.Host`."""

    network: Network
    hostname: str = "mail.example.com"
    routes: Collection[str] = ()
    log: FilteringBoundLogger = field(factory=structlog.get_logger)
    clock: Clock = field(factory=SystemClock)
    resolver: Resolver = field(factory=lambda: ScriptedResolver(NAMES, random.Random(0)))
    threads: Threads = field(factory=InlineThreads)
    shared: Any = None

    def start_soon(self, function: object, *arguments: object) -> None:
        raise AssertionError("the milter plugin starts no tasks")


@define
class Machines:
    """A server and a milter's machine on one virtual network, with the names that DNS knows."""

    names: dict[str, Name] = field(factory=lambda: dict(NAMES))
    network: VirtualNetwork = field(factory=lambda: VirtualNetwork(random.Random(0)))

    async def plugin(
        self, nursery: trio.Nursery, milter: ScriptedMilter, *, address: str = "inet:8891@192.0.2.1", **settings: Any
    ) -> Milter:
        """A plugin, and the milter that it asks, which runs in the nursery."""
        where = "192.0.2.1:8891" if not address.startswith("unix:") else address
        (listener,) = await self.network.host("192.0.2.1").listen(where, 10)
        nursery.start_soon(milter.serve, listener)
        resolver = ScriptedResolver(self.names, random.Random(0))
        return Milter(World(self.network.host("192.0.2.2"), resolver=resolver), MilterSettings(address, **settings))


def session(**facts: Any) -> SessionFacts:
    """A client's session."""
    client, local = Endpoint("198.51.100.7", 4711), Endpoint("192.0.2.2", 25)
    return SessionFacts("s1", client, local, "mx", **{"helo": "client.example.org", **facts})


def mail(of: SessionFacts, *, queue_id: str = "0123456789abcdefghijkl", declared_size: int | None = None) -> MailInHand:
    """A mail of which MAIL was said."""
    return MailInHand(queue_id, of, JO, declared_size=declared_size)


def complete(one: MailInHand, content: bytes = MAIL) -> MailInHand:
    """Its content has come, behind our trace field."""
    whole = RECEIVED % one.id.encode() + content
    header = whole[: whole.index(b"\r\n\r\n") + 2]

    async def read(offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return whole[offset : offset + limit]

    one.header_came(header)
    one.content_came(read, header_octets=len(header), size=len(whole))
    return one


def recipient(address: Address = MAX) -> Recipient:
    return Recipient(address)
