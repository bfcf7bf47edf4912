"""Scripted mail hosts over memory streams.

What is not here: assertions, real sockets. A host is honest where its script does not say otherwise, and keeps what it
was sent.
"""

import math
from collections.abc import Mapping

import structlog
import trio
import trio.testing
from attrs import define, field
from structlog.typing import FilteringBoundLogger

from elemta.config.sections import TimeoutsSection
from elemta.delivery.hops import Hop
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.session import ClientOptions, ClientSecurity
from elemta.delivery.smarthost import FixedHops
from elemta.delivery.smtp import SmtpTransport
from elemta.net.base import Endpoint, Listener, Stream

EVERYTHING = ("PIPELINING", "SIZE 1000000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "MT-PRIORITY")
DEFAULTS = {
    "MAIL": "250 2.1.0 sender taken",
    "RCPT": "250 2.1.5 recipient taken",
    "DATA": "354 go ahead",
    ".": "250 2.0.0 queued",
    "RSET": "250 2.0.0 forgotten",
    "QUIT": "221 2.0.0 bye",
}


class MemoryStream(Stream):
    """Our end of a pair of memory streams. It takes `window` octets, then blocks."""

    def __init__(
        self,
        inner: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream],
        window: float = math.inf,
    ) -> None:
        self.inner = inner
        self.window = window
        self.local = self.peer = Endpoint("192.0.2.1", 25)
        self.aborted = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.window -= len(data)
        if self.window < 0:
            await trio.sleep_forever()
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()

    def abort(self) -> None:
        self.aborted = True
        self.inner.send_stream.close()
        self.inner.receive_stream.close()


def _own(replies: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {verb: list(texts) for verb, texts in replies.items()}


class HungUp(Exception):
    """The script says that the host hangs up here."""


@define
class Received:
    """One mail as the host got it: the commands that led to it, and the octets before the final dot, still stuffed."""

    commands: list[str]
    content: bytes


@define(eq=False)
class Host:
    """A host by its script.

    `replies` gives for a verb (`connect`, `EHLO`, `MAIL`, `.`, …) what is said to it in turn, the last one for ever;
    the text `close` hangs up instead of a reply, `hang` never replies. A 421 hangs up behind itself.
    """

    extensions: tuple[str, ...] = EVERYTHING
    greeting: str = "220 mx.example ESMTP"
    replies: Mapping[str, list[str]] = field(factory=dict, converter=_own)
    lmtp: bool = False
    #: Octets read, and octets said, before the connection breaks.
    reads: float = math.inf
    says: float = math.inf
    #: Octets that are taken from the client, read or not.
    window: float = math.inf
    #: Octets said in one go.
    chunk: int = 65536
    #: Seconds before each reply.
    delay: float = 0.0
    mails: list[Received] = field(factory=list)
    commands: list[str] = field(factory=list)
    sessions: int = 0
    #: The final dots that came whole.
    dots: int = 0
    streams: list[MemoryStream] = field(factory=list)
    scopes: list[trio.CancelScope] = field(factory=list)

    def hang_up(self) -> None:
        """Close all connections, as a host does that waited too long."""
        for scope in self.scopes:
            scope.cancel()

    def converse(self, stream: trio.abc.HalfCloseableStream) -> "Conversation":
        """Who talks on one connection; hosts with more to say have one of their own."""
        return Conversation(self, stream)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.sessions += 1
        conversation = self.converse(stream)
        try:
            with trio.CancelScope() as scope:
                self.scopes.append(scope)
                await conversation.run()
        except (HungUp, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(conversation.stream)


class Conversation:
    """One connection to a host."""

    def __init__(self, host: Host, stream: trio.abc.HalfCloseableStream) -> None:
        self.host = host
        self.stream: trio.abc.Stream = stream
        self.buffer = b""
        self.read = 0
        self.said = 0
        self.recipients = 0
        self.has_sender = False
        self.transaction: list[str] = []

    async def run(self) -> None:
        await self.answer("connect", self.host.greeting)
        while True:
            line = (await self.until(b"\r\n")).decode()
            self.host.commands.append(line)
            await self.obey(line, line.split(" ", 1)[0])

    async def obey(self, line: str, verb: str) -> None:
        if verb in ("EHLO", "LHLO"):
            lines = ["mx.example", *self.host.extensions]
            await self.answer(verb, "\r\n".join(f"250{'- '[each is lines[-1]]}{each}" for each in lines))
            return
        if verb in ("MAIL", "RSET"):
            self.transaction, self.recipients, self.has_sender = [], 0, False
        self.transaction.append(line)
        early = (verb == "RCPT" and not self.has_sender) or (verb == "DATA" and not self.recipients)
        code = await self.answer(verb, "503 5.5.1 not yet" if early else DEFAULTS.get(verb, "250 fine"))
        if verb == "MAIL":
            self.has_sender = code.startswith("2")
        if verb == "RCPT" and code.startswith("2"):
            self.recipients += 1
        if code.startswith("221"):
            raise HungUp
        if verb == "DATA" and code.startswith("3"):
            await self.take_content()

    async def take_content(self) -> None:
        self.buffer = b"\r\n" + self.buffer  # the dot may come first
        content = (await self.until(b"\r\n.\r\n") + b"\r\n")[2:]
        self.host.dots += 1
        self.host.mails.append(Received(list(self.transaction), content))
        for _ in range(self.recipients if self.host.lmtp else 1):
            await self.answer(".", DEFAULTS["."])

    async def answer(self, verb: str, default: str) -> str:
        script = self.host.replies.get(verb)
        reply = default if not script else script.pop(0) if len(script) > 1 else script[0]
        if self.host.delay:
            await trio.sleep(self.host.delay)
        if reply == "hang":
            await trio.sleep_forever()
        if reply == "close":
            raise HungUp
        await self.say(f"{reply}\r\n".encode("utf-8", "surrogateescape"))
        if reply.startswith("421"):
            raise HungUp
        return reply

    async def say(self, data: bytes) -> None:
        for start in range(0, len(data), self.host.chunk):
            piece = data[start : start + self.host.chunk]
            left = self.host.says - self.said
            self.said += len(piece)
            await self.stream.send_all(piece if left >= len(piece) else piece[: int(left)])
            if self.said >= self.host.says:
                raise HungUp

    async def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            left = self.host.reads - self.read
            data = await self.stream.receive_some(None if left == math.inf else int(left)) if left else b""
            if not data:
                raise HungUp
            self.read += len(data)
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(mark)
        return found


@define(eq=False)
class ScriptedNetwork:
    """Connections to scripted hosts. An endpoint without one refuses; one that is silent lets the caller wait."""

    nursery: trio.Nursery
    hosts: dict[Endpoint, Host] = field(factory=dict)
    silent: set[Endpoint] = field(factory=set)
    tried: list[Endpoint] = field(factory=list)

    async def connect(self, endpoint: Endpoint) -> Stream:
        self.tried.append(endpoint)
        await trio.lowlevel.checkpoint()
        if endpoint in self.silent:
            await trio.sleep_forever()
        host = self.hosts.get(endpoint)
        if host is None:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(host.serve, theirs)
        stream = MemoryStream(ours, host.window)
        host.streams.append(stream)
        return stream

    async def listen(self, address: str, backlog: int) -> list[Listener]:
        raise OSError(f"nobody listens at {address} here")


def silent_log() -> FilteringBoundLogger:
    """A logger that drops everything but errors, which fail the test by being raised."""
    return structlog.get_logger(wrapper_class=structlog.make_filtering_bound_logger("critical"))  # type: ignore[no-any-return]  # structlog's factory is untyped


def hops(count: int) -> list[Hop]:
    """The first so many hosts of example.net."""
    return [Hop(f"mx{number}.example.net", Endpoint(f"192.0.2.{number}", 25)) for number in range(1, count + 1)]


@define(eq=False)
class World:
    """A transport to `hosts`, tried in their order. A host of None refuses connections."""

    transport: SmtpTransport
    network: ScriptedNetwork
    pool: ConnectionPool


def world(
    nursery: trio.Nursery,
    *hosts: Host | None,
    timeouts: TimeoutsSection | None = None,
    pool: ConnectionPool | None = None,
    security: ClientSecurity | None = None,
) -> World:
    places = hops(len(hosts))
    network = ScriptedNetwork(
        nursery, {hop.endpoint: host for hop, host in zip(places, hosts, strict=True) if host is not None}
    )
    lmtp = any(host is not None and host.lmtp for host in hosts)
    kept = ConnectionPool() if pool is None else pool
    options = ClientOptions(
        "client.example.org", timeouts or TimeoutsSection(), lmtp=lmtp, security=security or ClientSecurity()
    )
    transport = SmtpTransport(FixedHops(*places), network, pool=kept, options=options, log=silent_log())
    return World(transport, network, kept)
