"""A virtual network with one scanner in it, for tests of the plugins that ask scanners.

What is not here: assertions, real scanners (`tests.peers`).
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import trio

from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.net.base import Endpoint, Network, Stream
from elemta.plugins.api import Annotate, Continue, Quarantine, Verdict
from elemta.plugins.content import Chunks
from elemta.plugins.fields import HeaderFields
from elemta.plugins.mail import SessionFacts
from elemta.resolver.base import Resolver
from elemta.runtime.threads import InlineThreads
from elemta.simulation.network import VirtualNetwork
from elemta.simulation.resolver import Name, ScriptedResolver

NAME = "scanner.example"
PORT = 7000
ADDRESS = f"{NAME}:{PORT}"
#: Nobody listens at the first address of the name.
_DEAD, _ALIVE, _OURS = "192.0.2.98", "192.0.2.99", "192.0.2.25"

#: What DNS says of the client that brings the mails.
CLIENT, CLIENT_NAME = "198.51.100.7", "out.example.org"
NAMES = {
    "7.100.51.198.in-addr.arpa": Name(pointers=("liar.example.org", CLIENT_NAME)),
    "liar.example.org": Name(addresses=("198.51.100.8",)),
    CLIENT_NAME: Name(addresses=(CLIENT,)),
}

HEADER = b"From: a@example.org\r\nSubject: hello\r\n"
CONTENT = HEADER + b"\r\nbody\r\n"

Talk = Callable[[Stream], Awaitable[None]]


class ScannerHost:
    """As much of a host as scanners use."""

    hostname = "mail.example.com"

    def __init__(self, network: Network, resolver: Resolver) -> None:
        self.network = network
        self.resolver = resolver
        self.threads = InlineThreads()
        self.clock = FixedClock()


class FixedClock:
    """It is noon."""

    def wall(self) -> float:
        return 1_795_608_000.0


class Octets:
    """The content of a mail; `taken` are the octets that were asked for so far, `largest` the most at once."""

    header_octets = len(HEADER)

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.size = len(octets)
        self.taken = 0
        self.largest = 0

    async def read(self, offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = self.octets[offset : offset + limit]
        self.taken += len(piece)
        self.largest = max(self.largest, len(piece))
        return piece

    def chunks(self, offset: int = 0) -> Chunks:
        return Chunks(self.read, offset)


class ScannedMail:
    """As much of a mail as scanners read."""

    id = "0123456789abcdefghijkl"
    sender: Address | None = Address("a", "example.org")
    recipients: tuple[Recipient, ...] = (Recipient(Address("b", "example.com")), Recipient(Address("c", "example.com")))

    def __init__(self, content: bytes = CONTENT, header: bytes = HEADER) -> None:
        self.content = Octets(content)
        self.headers = HeaderFields.parse(header)
        self.session = SessionFacts(
            "s1",
            Endpoint(CLIENT, 4711),
            Endpoint("192.0.2.25", 25),
            "smtp",
            helo="client.example",
            user="alice",
        )


def a_mail(content: bytes = CONTENT, header: bytes = HEADER) -> Any:
    return ScannedMail(content, header)


@asynccontextmanager
async def scanner(talk: Talk | None, *, path: str = "", dead_is_silent: bool = False) -> AsyncIterator[Any]:
    """A host in whose network one scanner talks so with whoever connects; without `talk`, nobody listens. The first
    address of its name refuses connections, or says nothing at all."""
    network = VirtualNetwork(Random(0))
    resolver = ScriptedResolver({**NAMES, NAME: Name(addresses=(_DEAD, _ALIVE)), "empty.example": Name()}, Random(0))
    async with trio.open_nursery() as nursery:
        if not dead_is_silent:
            await network.host(_DEAD).listen(f"{_DEAD}:1", 1)  # the machine is there
        place = f"unix:{path}" if path else f"{_ALIVE}:{PORT}"
        (listener,) = await network.host(_ALIVE).listen(place if talk else f"{_ALIVE}:1", 1)

        async def serve(talk: Talk, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            while True:
                nursery.start_soon(answer, talk, await listener.accept())

        async def answer(talk: Talk, stream: Stream) -> None:
            try:
                await talk(stream)
            except trio.BrokenResourceError:
                pass  # who asked does not wait any more
            finally:
                await trio.aclose_forcefully(stream)

        if talk is not None:
            await nursery.start(serve, talk)
        yield ScannerHost(network.host(_OURS), resolver)
        nursery.cancel_scope.cancel()


async def received(stream: Stream, ends: Callable[[bytes], bool]) -> bytes:
    """What the scanner hears until it is enough."""
    said = b""
    while not ends(said):
        piece = await stream.receive_some()
        assert piece, "the question ended early"
        said += piece
    return said


async def hang(stream: Stream) -> None:
    """Take everything, and say nothing."""
    while await stream.receive_some():
        pass
    await trio.sleep_forever()


def told(verdict: Verdict) -> dict[str, str]:
    """The annotations of a verdict."""
    assert isinstance(verdict, Continue | Quarantine)
    return {change.key: change.value for change in verdict.changes if isinstance(change, Annotate)}
