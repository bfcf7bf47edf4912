"""Scripted clients that hand mail to the server.

What is not here: the server. A client tells the record exactly what it knows of each mail: answered 250, refused, cut
off before the final dot, or unknown. What was not accepted is tried again under a new tag, so that a mail answered 4yz
is never mixed up with its next try. Failures raised: none.
"""

import random
import ssl

import trio
from attrs import evolve, frozen

from elemta.net.base import Endpoint
from elemta.simulation.channel import Channel, Contexts
from elemta.simulation.lines import Lines
from elemta.simulation.network import VirtualHost
from elemta.simulation.personality import Handshake
from elemta.simulation.pipe import VirtualStream
from elemta.simulation.record import TAG_FIELD, Answer, Record, Shaken, Submitted

#: Seconds that a client waits for any reply, RFC 5321 §4.5.3.2.6.
_PATIENCE_SECONDS = 600.0
#: Seconds before what was not accepted is tried again: at least, at most.
_AGAIN_SECONDS = (5.0, 90.0)
#: Octets read at a time, of what nobody looks at.
_READ_OCTETS = 65536


@frozen
class MailScript:
    """A mail to send. After `vanishes_after` octets of its dialogue the connection breaks; its body has `octets`.

    `mt_priority` is what MAIL says of it, -9 to 9 (RFC 6710 §4.1), `require_tls` that it says REQUIRETLS (RFC 8689 §2).
    """

    tag: str
    sender: str
    recipients: tuple[str, ...]
    octets: int = 200
    vanishes_after: int | None = None
    mt_priority: int | None = None
    require_tls: bool = False

    @property
    def mail_command(self) -> str:
        """MAIL with its parameters."""
        said = "" if self.mt_priority is None else f" MT-PRIORITY={self.mt_priority}"
        return f"MAIL FROM:<{self.sender}>{said}{' REQUIRETLS' if self.require_tls else ''}"

    @property
    def content(self) -> bytes:
        """The mail, with lines that begin with dots."""
        head = b"From: <%s>\r\nSubject: simulated\r\n" % self.sender.encode()
        line = b".%s.%s\r\n" % (self.tag.encode(), b"x" * 60)
        return head + TAG_FIELD + self.tag.encode() + b"\r\n\r\n" + line * max(1, self.octets // len(line))

    @property
    def stuffed(self) -> bytes:
        """The content as it is sent, final dot included: RFC 5321 §4.5.2."""
        return self.content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


@frozen
class TlsScript:
    """A client that speaks TLS: by STARTTLS, or `implicit`; an `old` one knows TLS 1.2 at most.

    `first` is what it does in its first handshake: `Handshake.INJECTED` is a mail in clear behind STARTTLS. The
    connection of that breaks after `ends_after` octets from the handshake's beginning on.
    """

    implicit: bool = False
    old: bool = False
    first: Handshake = Handshake.WORKS
    ends_after: int | None = None


@frozen
class ClientScript:
    """A client at `address` that starts at `at` and sends its mails over one connection, again up to `tries` times.

    `port` is the listener that it takes, `tls` how it is to encrypt what it says.
    """

    address: str
    at: float
    mails: tuple[MailScript, ...]
    pipelining: bool = False
    tries: int = 4
    port: int = 25
    tls: TlsScript | None = None


class _Vanished(Exception):
    """The script's connection broke where the script said."""


class Client:
    """Plays one script."""

    def __init__(
        self,
        script: ClientScript,
        host: VirtualHost,
        *,
        record: Record,
        chance: random.Random,
        contexts: Contexts | None = None,
    ) -> None:
        self._script = script
        self._contexts = contexts
        self._tls = script.tls
        self._host = host
        self._record = record
        self._chance = chance

    async def run(self, *servers: str) -> None:
        """Hand the mails over to the servers at these addresses, another one each time, or give up."""
        order = list(servers)
        if len(order) > 1:
            self._chance.shuffle(order)
        await trio.sleep_until(self._script.at)
        mails = list(self._script.mails)
        for number in range(1, self._script.tries + 1):
            left = await self._try(order[number % len(order)], mails)
            mails = [evolve(mail, tag=f"{mail.tag.partition('.')[0]}.{number}", vanishes_after=None) for mail in left]
            if not mails:
                return
            await trio.sleep(self._chance.uniform(*_AGAIN_SECONDS))

    async def _try(self, server: str, mails: list[MailScript]) -> list[MailScript]:
        """One connection; the mails that were not accepted."""
        accepted: list[MailScript] = []
        try:
            with trio.move_on_after(_PATIENCE_SECONDS * 2):
                connected = trio.current_time()
                stream = await self._host.connect(Endpoint(server, self._script.port))
                try:
                    assert isinstance(stream, VirtualStream)
                    dialogue = _Dialogue(stream, self._record, connected, pipelining=self._script.pipelining)
                    await self._open(dialogue)
                    for mail in mails:
                        accepted += [mail] if await dialogue.send(mail) else []
                    await dialogue.quit()
                finally:
                    stream.abort()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, _Vanished):
            pass
        return [mail for mail in mails if mail not in accepted]

    async def _open(self, dialogue: "_Dialogue") -> None:
        """Everything before the first mail."""
        tls = self._tls
        if tls is None:
            await dialogue.greet()
            return
        assert self._contexts is not None, "a client with TLS in a world without certificates"
        self._tls = evolve(tls, first=Handshake.WORKS, ends_after=None)  # the next time it knows better
        handshake = _ClientHandshake(dialogue, tls, self._contexts.client(old=tls.old))
        if tls.implicit:
            await handshake.run()
            await dialogue.greet()
        else:
            await dialogue.greet()
            await handshake.ask(self._script.mails[0])
            await handshake.run()
            await dialogue.greet_again()


class _Dialogue:
    """One connection of a client."""

    def __init__(self, stream: VirtualStream, record: Record, connected: float, *, pipelining: bool) -> None:
        """It began to connect at `connected`."""
        self.wire = stream
        self._connected = self._greeted = connected
        self.channel = Channel(stream)
        self.record = record
        #: Whether the last EHLO was answered 250, and the words of that answer.
        self.is_welcome = False
        self.offers = ""
        self._lines = Lines(self.channel)
        self._pipelining = pipelining

    async def greet(self) -> None:
        """Greeting and EHLO."""
        code, _ = await self._lines.reply()
        if code != 220:
            raise _Vanished
        self._greeted = trio.current_time()
        await self.greet_again()

    async def greet_again(self) -> None:
        """EHLO alone."""
        code, self.offers = await self.ask("EHLO client.test")
        self.is_welcome = code == 250
        if self.channel.is_encrypted and code != 421:
            self._judge_offers(code)

    def _judge_offers(self, code: int) -> None:
        """Under TLS there is REQUIRETLS to offer (RFC 8689 §3), and STARTTLS no more. An answer to something that was
        said before TLS offers nothing."""
        if "REQUIRETLS" not in self.offers or "STARTTLS" in self.offers:
            self.record.slip(self.wire.local.host, "heard as answer to EHLO under TLS:", code, self.offers)

    def begin_tls(self) -> None:
        """Nothing that was said before counts."""
        if self._lines.buffered:
            self.record.slip(self.wire.local.host, "heard more behind STARTTLS:", self._lines.buffered)
        self._lines = Lines(self.channel)

    async def quit(self) -> None:
        """The polite end."""
        await self.ask("QUIT")
        await self.channel.aclose()

    async def ask(self, command: str) -> tuple[int, str]:
        """A command and its reply."""
        await self.channel.send_all(f"{command}\r\n".encode())
        return await self._lines.reply()

    async def send(self, mail: MailScript) -> bool:
        """One transaction. True when it was answered 250; every other end is recorded as what it was."""
        if mail.vanishes_after is not None:
            self.wire.out.reset_after = self.wire.out.sent + mail.vanishes_after
        self.record.sent[mail.tag] = mail.content
        state = _Progress()
        answer, reply = Answer.UNKNOWN, ""
        try:
            with trio.move_on_after(_PATIENCE_SECONDS):
                answer, reply = await self._transact(mail, state)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Vanished from None
        finally:
            if answer is Answer.UNKNOWN and not state.dotted(self.wire):
                answer = Answer.INCOMPLETE
            submitted = Submitted(
                trio.current_time(),
                mail.tag,
                mail.sender,
                tuple(state.taken),
                answer,
                reply,
                server=self.wire.peer.host,
                connected=self._connected,
                greeted=self._greeted,
            )
            self.record.submit(submitted)
        if answer in {Answer.UNKNOWN, Answer.INCOMPLETE} or reply.startswith("421"):
            raise _Vanished
        return answer is Answer.ACCEPTED

    async def _transact(self, mail: MailScript, state: "_Progress") -> tuple[Answer, str]:
        commands = [mail.mail_command, *(f"RCPT TO:<{recipient}>" for recipient in mail.recipients)]
        replies = await self._command(commands)
        state.taken = [
            recipient
            for recipient, (code, _) in zip(mail.recipients, replies[1:], strict=False)
            if code == 250 and replies[0][0] == 250
        ]
        if not state.taken:
            code, text = replies[-1]
            if code != 421:
                await self.ask("RSET")
            return Answer.REFUSED, f"{code} {text}"
        code, text = await self.ask("DATA")
        if code != 354:
            return Answer.REFUSED, f"{code} {text}"
        stuffed = mail.stuffed
        state.ends_at = self.wire.out.sent + self.channel.wire_octets(len(stuffed))
        await self.channel.send_all(stuffed)
        code, text = await self._lines.reply()
        return (Answer.ACCEPTED if code == 250 else Answer.REFUSED), f"{code} {text}"

    async def _command(self, commands: list[str]) -> list[tuple[int, str]]:
        """The commands in one send, or one by one; stops at a reply that closes the connection."""
        if self._pipelining:
            await self.channel.send_all("".join(f"{command}\r\n" for command in commands).encode())
        replies: list[tuple[int, str]] = []
        for command in commands:
            replies.append(await self._lines.reply() if self._pipelining else await self.ask(command))
            if replies[-1][0] == 421:
                break
        return replies


class _Progress:
    """How far a transaction came."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        #: Octets sent on the connection once the final dot is out; None before the content.
        self.ends_at: int | None = None

    def dotted(self, wire: VirtualStream) -> bool:
        """True when the final dot left the client whole, in clear or in its record."""
        return self.ends_at is not None and wire.out.sent >= self.ends_at


class _ClientHandshake:
    """A client's way to TLS, with what it has in mind for it."""

    def __init__(self, dialogue: _Dialogue, script: TlsScript, context: ssl.SSLContext) -> None:
        self._dialogue = dialogue
        self._script = script
        self._context = context

    async def ask(self, mail: MailScript) -> None:
        """Say STARTTLS, with `mail` behind it where that is the script. Raises `_Vanished`."""
        dialogue = self._dialogue
        if not dialogue.is_welcome:
            raise _Vanished
        if "STARTTLS" not in dialogue.offers:
            dialogue.record.slip(dialogue.wire.local.host, "was offered no STARTTLS")
            raise _Vanished
        commands = ["STARTTLS"]
        if self._script.first is Handshake.INJECTED:
            commands += self._injection(evolve(mail, tag=f"{mail.tag}.injected"))
        code, _ = await dialogue.ask("\r\n".join(commands))
        if code != 220:
            raise _Vanished

    def _injection(self, mail: MailScript) -> list[str]:
        """A whole mail, which the server must not take for said under TLS."""
        record = self._dialogue.record
        record.sent[mail.tag] = mail.content
        record.submit(Submitted(trio.current_time(), mail.tag, mail.sender, mail.recipients, Answer.INJECTED))
        recipients = (f"RCPT TO:<{recipient}>" for recipient in mail.recipients)
        return ["EHLO client.test", mail.mail_command, *recipients, "DATA", f"{mail.stuffed.decode()}QUIT"]

    async def run(self) -> None:
        """Shake hands, or do what the script says instead. Raises `_Vanished`."""
        dialogue, script = self._dialogue, self._script
        began = trio.current_time()
        if script.ends_after is not None:
            dialogue.wire.out.reset_after = dialogue.wire.out.sent + script.ends_after
        try:
            await self._shake_hands()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Vanished from None
        finally:
            shaken = Shaken(
                began=began,
                ended=trio.current_time(),
                client=dialogue.wire.local.host,
                meant=script.first,
                cut=script.ends_after is not None,
                worked=dialogue.channel.is_encrypted,
            )
            dialogue.record.shake(shaken)

    async def _shake_hands(self) -> None:
        channel = self._dialogue.channel
        match self._script.first:
            case Handshake.STALLS:
                await _wait_for_the_end(channel)
            case Handshake.GARBAGE:
                await channel.send_all(b"EHLO what is this?\r\n")
                await _wait_for_the_end(channel)
            case Handshake.CLOSES:
                await channel.aclose()
            case _:
                self._dialogue.begin_tls()
                await channel.encrypt(self._context, server_name="mx.elemta.test")
                return
        raise _Vanished


async def _wait_for_the_end(channel: Channel) -> None:
    while await channel.receive_some(_READ_OCTETS):
        pass
