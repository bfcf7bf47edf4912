"""What the tests of the inbound side share: a queue that remembers, or fails on order; clients over memory streams."""

import random
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import structlog
import trio
import trio.testing
from attrs import evolve
from structlog.testing import LogCapture

from elemta.config.sections import LimitsSection, TimeoutsSection
from elemta.inbound.options import InboundOptions, ListenerOptions
from elemta.inbound.plugged import Plugins
from elemta.inbound.service import Bound, InboundService
from elemta.inbound.transaction import Services
from elemta.mail.address import Address
from elemta.net.base import Endpoint, Stream
from elemta.observe.metrics import Metrics
from elemta.queue.submission import Submission
from elemta.runtime.budget import ByteBudget
from elemta.runtime.ids import SeededIds
from elemta.runtime.threads import InlineThreads
from elemta.runtime.world import Runtime
from elemta.storage.base import ContentWriter, StoreUnavailable
from elemta.storage.records import ContentRef


class VirtualWall:
    """A wall clock on Trio's."""

    def wall(self) -> float:
        return 1_700_000_000.0 + trio.current_time()


class MemoryStream(Stream):
    """One end of a pair of memory streams, with addresses."""

    def __init__(self, inner: trio.StapledStream[Any, Any], local: Endpoint, peer: Endpoint) -> None:
        self._inner = inner
        self.local = local
        self.peer = peer

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._inner.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def abort(self) -> None:
        self._inner.send_stream.close()
        self._inner.receive_stream.close()


class Unclosing(MemoryStream):
    """Closing it in order takes for ever, as a TLS stream's may whose peer reads nothing."""

    async def aclose(self) -> None:
        await trio.sleep_forever()


class MemoryListener:
    """Gives connections that a test makes."""

    def __init__(self) -> None:
        self.local = Endpoint("192.0.2.25", 25)
        self._send, self._receive = trio.open_memory_channel[Stream](1000)

    async def accept(self) -> Stream:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError from None

    def close(self) -> None:
        self._send.close()

    def connect(self, host: str, kind: type[MemoryStream] = MemoryStream) -> "Client":
        ours, theirs = trio.testing.memory_stream_pair()
        peer = Endpoint(host, 40_000)
        self._send.send_nowait(kind(theirs, self.local, peer))
        return Client(ours)


class Client:
    """Talks SMTP line by line."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self.stream = stream
        self._buffer = b""

    async def reply(self) -> str:
        """The next reply, its lines joined by newlines; empty at the end of the connection."""
        lines = []
        while True:
            while b"\r\n" not in self._buffer:
                data = await self.stream.receive_some()
                if not data:
                    return ""
                self._buffer += bytes(data)
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            lines.append(line.decode())
            if line[3:4] != b"-":
                return "\n".join(lines)

    async def say(self, line: str) -> str:
        """Send a line; the reply."""
        await self.stream.send_all(line.encode() + b"\r\n")
        return await self.reply()

    async def begin(self, recipient: str = "r@example.net") -> str:
        """Up to RCPT; its reply."""
        await self.reply()
        await self.say("EHLO client.example")
        await self.say("MAIL FROM:<s@example.org>")
        return await self.say(f"RCPT TO:<{recipient}>")

    async def send(self, content: bytes) -> str:
        """DATA with this content; the reply after the final dot."""
        await self.say("DATA")
        await self.stream.send_all(content + b".\r\n")
        return await self.reply()


class Staged:
    """Keeps pieces, as a store's writer does."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.finished = self.abandoned = False

    async def write(self, pieces: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        self.pieces += pieces

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        await self.write(pieces)
        self.finished = True
        return "staged"  # one at a time, or what is read is the last one's

    async def abandon(self) -> None:
        await trio.lowlevel.checkpoint()
        self.abandoned = True


class Queue:
    """Remembers what was submitted; `failure` is raised instead, `seconds` pass before either."""

    def __init__(self) -> None:
        self.submitted: list[Submission] = []
        self.failure: Exception | None = None
        self.seconds = 0.0
        self.staged: list[Staged] = []
        self.stage_failure: StoreUnavailable | None = None

    async def submit(self, submission: Submission, *, timeout: float) -> None:  # noqa: ASYNC109  # the Protocol's
        await trio.sleep(min(self.seconds, timeout))
        if self.failure is not None:
            raise self.failure
        self.submitted.append(submission)

    async def stage(self) -> ContentWriter:
        if self.stage_failure is not None:
            raise self.stage_failure
        await trio.lowlevel.checkpoint()
        self.staged.append(Staged())
        return self.staged[-1]

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        finished = [one for one in self.staged if one.finished]
        return b"".join(finished[0].pieces)[offset : offset + limit]


class Mailboxes:
    """Knows `alice`; nobody can say whether `broken` exists."""

    async def exists(self, address: Address) -> bool:
        await trio.lowlevel.checkpoint()
        if address.local == "broken":
            raise OSError("the disk is away")
        return address.local == "alice"


OPTIONS = InboundOptions(
    hostname="mx.example.com",
    max_size=1_000_000,
    dev_mode=False,
    local_domains=frozenset({"example.com"}),
    home_domain="example.com",
    relays=(ip_network("127.0.0.0/8"),),
    limits=LimitsSection(),
    timeouts=TimeoutsSection(),
)


class World:
    """An inbound service on one memory listener."""

    def __init__(self, *, plugins: Plugins | None = None, **changes: Any) -> None:
        self.queue = Queue()
        self.budget = ByteBudget(1_000_000)
        self.capture = LogCapture()
        self.listener = MemoryListener()
        wall = VirtualWall()
        self.services = Services(
            queue=self.queue,
            recipients=Mailboxes(),
            budget=self.budget,
            runtime=Runtime(wall, InlineThreads(), SeededIds(wall, random.Random(1)), random.Random(2)),
            options=evolve(OPTIONS, **changes),
            metrics=Metrics(),
            log=structlog.wrap_logger(None, processors=[self.capture]),
            plugins=plugins,
        )
        listener_options = ListenerOptions(name="smtp", address="memory")
        self.service = InboundService(self.services, [Bound(listener_options, [self.listener])])

    def connect(self, host: str = "127.0.0.1") -> Client:
        return self.listener.connect(host)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self.capture.entries if entry["event"] == name]
