"""Scripted remote servers that speak SMTP or LMTP.

What is not here: their characters (`simulation.personality`), their TLS (`simulation.host_tls`).
The server is a small one of its own, not the product's.
It tells the record of every mail that it kept, with how far its client must read to know of it.
Failures raised: none; a broken connection ends its session.
"""

import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf

import trio
from attrs import field, frozen

from elemta.net.base import Listener
from elemta.simulation.channel import Channel, Contexts
from elemta.simulation.host_tls import HostTls, TlsOfConnection
from elemta.simulation.lines import Lines
from elemta.simulation.network import VirtualNetwork
from elemta.simulation.personality import (
    LATER_TIMES,
    LMTP_PORT,
    RESET_WITHIN_OCTETS,
    SMTPS_PORT,
    STALL_SECONDS,
    Manner,
    Personality,
    Shown,
    manner_of,
)
from elemta.simulation.pipe import VirtualStream
from elemta.simulation.record import Heard, Kept, Record, reported, tag_of

#: RFC 5321 §4.5.4.2.
_SMTP_PORT = 25
#: Connections that may wait for their accept.
_BACKLOG = 100
#: Seconds a client may idle, RFC 5321 §4.5.3.2.7.
_IDLE_SECONDS = 300.0


class RemoteHost:
    """One host at `address`. `destination` names what the server's bounds count for a recipient's domain."""

    def __init__(
        self,
        address: str,
        personality: Personality,
        *,
        record: Record,
        chance: random.Random,
        destination: Callable[[str], str] = str,
        contexts: Contexts | None = None,
    ) -> None:
        self.address = address
        self.personality = personality
        self.record = record
        self.chance = chance
        self.destination = destination
        self.tls = HostTls(address, personality, record=record, contexts=contexts)
        #: How often each pair of sender and recipient was tried.
        self.tries: dict[tuple[str, str], int] = {}
        self.resets_left = personality.resets
        self.stalls_left = personality.stalls
        self.drops_left = personality.drops
        self.final_defers_left = personality.final_defers
        self._minute: deque[float] = deque()

    async def run(self, network: VirtualNetwork, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; off and silent as the personality says."""
        async with trio.open_nursery() as nursery:
            for start, end in self.personality.silent:
                nursery.start_soon(self._be_silent, network, start, end)
            started = task_status
            for start, end in (*self.personality.off, (inf, inf)):
                await self._serve_until(network, start, started)
                started = trio.TASK_STATUS_IGNORED
                await trio.sleep_until(end)

    async def _be_silent(self, network: VirtualNetwork, start: float, end: float) -> None:
        await trio.sleep_until(start)
        network.partition(self.address)
        await trio.sleep_until(end)
        network.heal(self.address)

    async def _serve_until(self, network: VirtualNetwork, end: float, task_status: trio.TaskStatus[None]) -> None:
        machine = network.host(self.address)
        port = LMTP_PORT if self.personality.lmtp else _SMTP_PORT
        (listener,) = await machine.listen(f"{self.address}:{port}", _BACKLOG)
        try:
            with trio.CancelScope(deadline=end):
                async with trio.open_nursery() as sessions:
                    if self.personality.implicit_tls:
                        (other,) = await machine.listen(f"{self.address}:{SMTPS_PORT}", _BACKLOG)
                        sessions.start_soon(self._accept, other, sessions, True)
                    task_status.started()
                    await self._accept(listener, sessions, False)
        finally:
            machine.crash()

    async def _accept(self, listener: Listener, sessions: trio.Nursery, implicit: bool) -> None:
        while True:
            stream = await listener.accept()
            assert isinstance(stream, VirtualStream)
            sessions.start_soon(self._serve, stream, implicit)

    async def _serve(self, stream: VirtualStream, implicit: bool) -> None:
        if self.resets_left:
            self.resets_left -= 1
            wire = self.chance.choice((stream.into, stream.out))
            wire.reset_after = self.chance.randrange(RESET_WITHIN_OCTETS)
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await _Session(self, stream).run(implicit=implicit)
        finally:
            self.record.end_transaction(stream)
            stream.abort()

    def over_rate(self) -> bool:
        """True when one more mail is too many for this minute; otherwise it is counted."""
        limit = self.personality.mails_per_minute
        now = trio.current_time()
        while self._minute and self._minute[0] <= now - 60:
            self._minute.popleft()
        if limit and len(self._minute) >= limit:
            return True
        self._minute.append(now)
        return False

    def recipient_reply(self, sender: str, recipient: str) -> str:
        """What is said of a recipient."""
        tries = self.tries[sender, recipient] = self.tries.get((sender, recipient), 0) + 1
        manner = manner_of(recipient)
        if manner is Manner.REFUSED:
            return "550 5.1.1 no such user"
        if manner is Manner.NEVER or (manner is Manner.LATER and tries <= LATER_TIMES):
            return "450 4.2.1 not now"
        if tries <= self.personality.greylists:
            return "450 4.7.1 greylisted"
        return "250 2.1.5 ok"


@frozen
class _Transaction:
    sender: str
    recipients: list[str] = field(factory=list)
    #: MAIL asked for REQUIRETLS.
    requiretls: bool = False


class _Session:
    """One connection to a host."""

    def __init__(self, host: RemoteHost, stream: VirtualStream) -> None:
        self._host = host
        self._nature = host.personality
        self._wire = stream
        self._channel = Channel(stream)
        self._lines = Lines(self._channel)
        self._tls = TlsOfConnection(host.tls, self._channel)
        self._transaction: _Transaction | None = None
        self._mails = 0
        #: The hello that offers extensions.
        self._hello = "LHLO" if self._nature.lmtp else "" if self._nature.helo_only else "EHLO"

    async def run(self, *, implicit: bool) -> None:
        nature = self._nature
        if implicit and not await self._tls.shake_hands():
            return
        if nature.refuses:
            await self._say("554 5.7.1 no mail from you")
            return
        if trio.current_time() < nature.busy_until:
            await self._say("421 4.3.2 too busy")
            return
        await self._say(f"220 {self._host.address} simulated")
        going = True
        while going:
            line = None
            with trio.move_on_after(_IDLE_SECONDS):
                line = await self._lines.line()
            if line is None:
                await self._channel.aclose()
                return
            going = await self._obey(line.decode("utf-8", "replace"))

    async def _say(self, *lines: str) -> None:
        if self._nature.slow:
            await trio.sleep(self._host.chance.uniform(0, self._nature.slow))
        await self._channel.send_all("".join(f"{line}\r\n" for line in lines).encode())

    async def _obey(self, line: str) -> bool:
        """Answer a command; False when the connection is to end."""
        verb = line.partition(" ")[0].partition(":")[0].upper()
        self._tls.watch(verb)
        match verb:
            case "LHLO" | "EHLO" if verb == self._hello:
                pipelining = ["PIPELINING"] if self._nature.pipelining else []
                await self._say(
                    *(f"250-{word}" for word in ("simulated", *pipelining, *self._tls.offers())), "250 8BITMIME"
                )
            case "STARTTLS" if self._tls.is_offered:
                return await self._start_tls()
            case "HELO" if not self._nature.lmtp:
                await self._say("250 simulated")
            case "MAIL":
                return await self._mail(line)
            case "RCPT":
                await self._rcpt(line)
            case "DATA":
                return await self._data()
            case "RSET" | "NOOP":
                self._end()
                await self._say("250 2.0.0 ok")
            case "QUIT":
                await self._say("221 2.0.0 bye")
                await self._channel.aclose()
                return False
            case _:
                await self._say("500 5.5.1 unknown")
        return True

    def _end(self) -> None:
        self._transaction = None
        self._host.record.end_transaction(self._wire)

    async def _start_tls(self) -> bool:
        """Answer STARTTLS; False when the connection is to end."""
        if self._lines.buffered:
            self._host.record.slip(self._host.address, "heard more behind STARTTLS:", self._lines.buffered)
        await self._say(*self._tls.replies())
        if not self._tls.goes_ahead:
            return True
        self._end()
        self._lines = Lines(self._channel)
        return await self._tls.shake_hands()

    async def _mail(self, line: str) -> bool:
        limit = self._nature.mails_per_connection
        if (limit and self._mails >= limit) or self._host.over_rate():
            await self._say("421 4.7.0 too many mails")
            await self._channel.aclose()
            return False
        self._transaction = _Transaction(_path(line), requiretls=line.upper().endswith(" REQUIRETLS"))
        await self._say("250 2.1.0 ok")
        return True

    async def _rcpt(self, line: str) -> None:
        transaction = self._transaction
        if transaction is None:
            await self._say("503 5.5.1 MAIL first")
            return
        recipient = _path(line)
        self._hear(transaction, recipient)
        reply = self._host.recipient_reply(transaction.sender, recipient)
        if reply.startswith("250"):
            transaction.recipients.append(recipient)
            destination = self._host.destination(recipient.rpartition("@")[2])
            self._host.record.begin_transaction(self._wire, destination)
        await self._say(reply)

    def _hear(self, transaction: _Transaction, recipient: str) -> None:
        nature, encrypted = self._nature, self._channel.is_encrypted
        self._host.record.heard.append(
            Heard(
                at=trio.current_time(),
                host=self._host.address,
                server=self._wire.peer.host,
                sender=transaction.sender,
                recipient=recipient,
                encrypted=encrypted,
                certified=encrypted and nature.shown is Shown.GOOD,
                requiretls=encrypted and nature.requiretls,
                asked=transaction.requiretls,
                lmtp=nature.lmtp,
            )
        )

    async def _data(self) -> bool:
        """Take the content and answer the final dot."""
        transaction, host = self._transaction, self._host
        if transaction is None or not transaction.recipients:
            await self._say("503 5.5.1 no recipients")
            return True
        await self._say("354 go on")
        content = await self._lines.content()
        if content is None:
            return False
        self._mails += 1
        if host.drops_left:
            host.drops_left -= 1
            host.record.note("host", host.address, "drops", tag_of(content))
            if self._nature.keeps_dropped:
                self._keep(transaction, content, upto=None)
            return False
        if host.stalls_left:
            host.stalls_left -= 1
            self._keep(transaction, content, upto=None)
            await trio.sleep(STALL_SECONDS)
            return False
        replies = self._judge(transaction, content)
        self._end()
        await self._say(*replies)
        return True

    def _judge(self, transaction: _Transaction, content: bytes) -> list[str]:
        """Keep the content, or not; the final replies. One speaks for all recipients, or with LMTP for one each."""
        one_each = [_Transaction(transaction.sender, [recipient]) for recipient in transaction.recipients]
        parts = one_each if self._nature.lmtp else [transaction]
        refusals = [self._refusal() for _ in parts]
        replies = [refusal or "250 2.0.0 kept" for refusal in refusals]
        text = 0
        whole = self._channel.wire_octets(sum(len(reply) + 2 for reply in replies))
        for part, refusal, reply in zip(parts, refusals, replies, strict=True):
            text += len(reply) + 2
            if refusal is None:
                # All replies are one record: who has not all of it can read none of them.
                upto = whole if self._channel.is_encrypted else text
                self._keep(part, content, upto=self._wire.out.sent + upto)
        return replies

    def _refusal(self) -> str | None:
        if self._nature.final_refuses:
            return "554 5.6.0 not this"
        if self._host.final_defers_left:
            self._host.final_defers_left -= 1
            return "451 4.3.0 not now"
        return None

    def _keep(self, transaction: _Transaction, content: bytes, *, upto: int | None) -> None:
        about = () if transaction.sender else reported(content)
        for recipient in transaction.recipients:
            self._host.record.keep(
                Kept(
                    at=trio.current_time(),
                    host=self._host.address,
                    server=self._wire.peer.host,
                    tag=self._host.record.tag_of(content),
                    sender=transaction.sender,
                    recipient=recipient,
                    content=content,
                    about=about,
                    wire=None if upto is None else self._wire.out,
                    upto=upto or 0,
                )
            )


def _path(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]
