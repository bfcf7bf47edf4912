"""A server's door for one client: the real inbound service, a queue that keeps what it is given.

What is not here: what is said through it, or the plugins behind it (`testing.plugins`).
"""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Final

import trio

from elemta.config.sections import LimitsSection, TimeoutsSection
from elemta.inbound.options import InboundOptions, ListenerOptions
from elemta.inbound.plugged import Plugins
from elemta.inbound.service import Bound, InboundService
from elemta.inbound.transaction import Services
from elemta.mail.address import Address
from elemta.net.base import Endpoint, Stream
from elemta.observe.metrics import Metrics
from elemta.plugins.chain import Chain
from elemta.plugins.host import Facilities
from elemta.queue.submission import Submission
from elemta.runtime.budget import ByteBudget
from elemta.runtime.ids import SeededIds
from elemta.runtime.world import Runtime
from elemta.simulation.clock import chance_of
from elemta.simulation.network import VirtualNetwork
from elemta.storage.base import ContentMissing, ContentWriter
from elemta.storage.records import ContentRef

HOSTNAME: Final = "mx.example.com"
#: The server's address, RFC 5737 §3.
SERVER: Final = "192.0.2.25"
#: Octets of content that all sessions may hold in memory.
BUDGET_OCTETS: Final = 64 * 1024 * 1024
#: Seconds that the session may take to end when its client is gone: virtual ones.
_END_SECONDS: Final = 3600.0
#: RFC 5321 §4.1.1.4.
_CONTENT_END: Final = b"\r\n.\r\n"

_OPTIONS: Final = InboundOptions(
    hostname=HOSTNAME,
    max_size=BUDGET_OCTETS,
    dev_mode=False,
    local_domains=frozenset({"example.com"}),
    home_domain="example.com",
    relays=(ip_network("127.0.0.1"),),
    limits=LimitsSection(),
    timeouts=TimeoutsSection(),
)


class KeptMails:
    """A queue that keeps everything. A `inbound.base.Queue`, and the recipients of example.com: everybody."""

    def __init__(self) -> None:
        self.submitted: list[Submission] = []
        self._staged: dict[str, bytes] = {}

    async def submit(self, submission: Submission, *, timeout: float) -> None:  # noqa: ASYNC109  # the Protocol's
        """Keep it."""
        await trio.lowlevel.checkpoint()
        self.submitted.append(submission)

    async def stage(self) -> ContentWriter:
        """Begin to keep large content."""
        await trio.lowlevel.checkpoint()
        return _Staged(self._staged)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """At most `limit` octets of it. Raises `ContentMissing`."""
        await trio.lowlevel.checkpoint()
        if ref.id not in self._staged:
            raise ContentMissing(ref.id)
        return self._staged[ref.id][offset : offset + limit]

    async def exists(self, address: Address) -> bool:
        """Everybody has a mailbox."""
        await trio.lowlevel.checkpoint()
        return True


class _Staged:
    def __init__(self, staged: dict[str, bytes]) -> None:
        self._staged = staged
        self._id = f"staged-{id(self)}"
        self._pieces: list[bytes] = []

    async def write(self, pieces: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        self._pieces += pieces

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        await self.write(pieces)
        self._staged[self._id] = b"".join(self._pieces)
        return self._id

    async def abandon(self) -> None:
        await trio.lowlevel.checkpoint()
        self._staged.pop(self._id, None)


async def talk(
    facilities: Facilities, chain: Chain, queue: KeptMails, *, said: Sequence[bytes], client: str
) -> list[str]:
    """One client's whole connection: each of `said` is sent when the reply to the one before has come."""
    network = VirtualNetwork(chance_of(0, "door"))
    listeners = await network.host(SERVER).listen(f"{SERVER}:25", 1)
    clock = facilities.clock
    services = Services(
        queue=queue,
        recipients=queue,
        budget=ByteBudget(BUDGET_OCTETS),
        runtime=Runtime(clock, facilities.threads, SeededIds(clock, chance_of(0, "ids")), chance_of(0, "chance")),
        options=_OPTIONS,
        metrics=Metrics(),
        log=facilities.log,
        plugins=Plugins(chain, facilities.keeper, frozenset(facilities.routes)),
    )
    service = InboundService(services, [Bound(ListenerOptions(name="smtp", address=f"{SERVER}:25"), listeners)])
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        stream = await network.host(client).connect(Endpoint(SERVER, 25))
        async with stream:
            replies = await _say(stream, said)
        await service.drain(_END_SECONDS)  # what plugins do at its end belongs to it
    return replies


async def _say(stream: Stream, said: Sequence[bytes]) -> list[str]:
    replies = Replies(stream)
    heard = [await replies.next()]
    for lines in said:
        is_content = heard[-1].startswith("354")
        if lines.endswith(_CONTENT_END) and not is_content:
            continue  # DATA was refused: nobody waits for content
        try:
            await stream.send_all(lines)
        except trio.BrokenResourceError:
            heard.append("")
        for _ in range(1 if is_content else lines.count(b"\r\n")):
            if not heard[-1]:
                return heard
            heard.append(await replies.next())
    return heard


class Replies:
    """Reads replies."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""

    async def next(self) -> str:
        """The next reply, its lines joined by newlines; empty at the end of the connection."""
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            while b"\r\n" not in self._buffer:
                data = await self._receive()
                if not data:
                    return ""
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            lines.append(line.decode("utf-8", "replace"))
        return "\n".join(lines)

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some())
        except trio.BrokenResourceError:
            return b""
