"""Scripted clients that hand mail to the server.

What is not here: the server. A client tells the record exactly what it knows of each mail: answered 250, refused, cut
off before the final dot, or unknown. What was not accepted is tried again under a new tag, so that a mail answered 4yz
is never mixed up with its next try. Failures raised: none.
"""

import random

import trio
from attrs import evolve, frozen

from elemta.net.base import Endpoint, Stream
from elemta.simulation.lines import Lines
from elemta.simulation.network import VirtualHost
from elemta.simulation.pipe import VirtualStream
from elemta.simulation.record import TAG_FIELD, Answer, Record, Submitted

#: Seconds that a client waits for any reply, RFC 5321 §4.5.3.2.6.
_PATIENCE_SECONDS = 600.0
#: Seconds before what was not accepted is tried again: at least, at most.
_AGAIN_SECONDS = (5.0, 90.0)


@frozen
class MailScript:
    """A mail to send. After `vanishes_after` octets of its dialogue the connection breaks; its body has `octets`.

    `mt_priority` is what MAIL says of it, -9 to 9 (RFC 6710 §4.1).
    """

    tag: str
    sender: str
    recipients: tuple[str, ...]
    octets: int = 200
    vanishes_after: int | None = None
    mt_priority: int | None = None

    @property
    def mail_command(self) -> str:
        """MAIL with its parameters."""
        said = "" if self.mt_priority is None else f" MT-PRIORITY={self.mt_priority}"
        return f"MAIL FROM:<{self.sender}>{said}"

    @property
    def content(self) -> bytes:
        """The mail, with lines that begin with dots."""
        head = b"From: <%s>\r\nSubject: simulated\r\n" % self.sender.encode()
        line = b".%s.%s\r\n" % (self.tag.encode(), b"x" * 60)
        return head + TAG_FIELD + self.tag.encode() + b"\r\n\r\n" + line * max(1, self.octets // len(line))


@frozen
class ClientScript:
    """A client at `address` that starts at `at` and sends its mails over one connection, again up to `tries` times.

    `port` is the listener that it takes.
    """

    address: str
    at: float
    mails: tuple[MailScript, ...]
    pipelining: bool = False
    tries: int = 4
    port: int = 25


class _Vanished(Exception):
    """The script's connection broke where the script said."""


class Client:
    """Plays one script."""

    def __init__(self, script: ClientScript, host: VirtualHost, *, record: Record, chance: random.Random) -> None:
        self._script = script
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
                stream = await self._host.connect(Endpoint(server, self._script.port))
                try:
                    dialogue = _Dialogue(stream, self._record, pipelining=self._script.pipelining)
                    await dialogue.greet()
                    for mail in mails:
                        accepted += [mail] if await dialogue.send(mail) else []
                    await dialogue.quit()
                finally:
                    stream.abort()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, _Vanished):
            pass
        return [mail for mail in mails if mail not in accepted]


class _Dialogue:
    """One connection of a client."""

    def __init__(self, stream: Stream, record: Record, *, pipelining: bool) -> None:
        assert isinstance(stream, VirtualStream)
        self._stream = stream
        self._lines = Lines(stream)
        self._record = record
        self._pipelining = pipelining

    async def greet(self) -> None:
        """Greeting and EHLO."""
        code, _ = await self._lines.reply()
        if code != 220:
            raise _Vanished
        await self._ask("EHLO client.test")

    async def quit(self) -> None:
        """The polite end."""
        await self._ask("QUIT")
        await self._stream.aclose()

    async def _ask(self, command: str) -> tuple[int, str]:
        await self._stream.send_all(f"{command}\r\n".encode())
        return await self._lines.reply()

    async def send(self, mail: MailScript) -> bool:
        """One transaction. True when it was answered 250; every other end is recorded as what it was."""
        if mail.vanishes_after is not None:
            self._stream.out.reset_after = self._stream.out.sent + mail.vanishes_after
        self._record.sent[mail.tag] = mail.content
        state = _Progress()
        answer, reply = Answer.UNKNOWN, ""
        try:
            with trio.move_on_after(_PATIENCE_SECONDS):
                answer, reply = await self._transact(mail, state)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Vanished from None
        finally:
            if answer is Answer.UNKNOWN and not state.dotted(self._stream):
                answer = Answer.INCOMPLETE
            submitted = Submitted(trio.current_time(), mail.tag, mail.sender, tuple(state.taken), answer, reply)
            self._record.submit(submitted)
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
                await self._ask("RSET")
            return Answer.REFUSED, f"{code} {text}"
        code, text = await self._ask("DATA")
        if code != 354:
            return Answer.REFUSED, f"{code} {text}"
        stuffed = mail.content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        state.ends_at = self._stream.out.sent + len(stuffed)
        await self._stream.send_all(stuffed)
        code, text = await self._lines.reply()
        return (Answer.ACCEPTED if code == 250 else Answer.REFUSED), f"{code} {text}"

    async def _command(self, commands: list[str]) -> list[tuple[int, str]]:
        """The commands in one send, or one by one; stops at a reply that closes the connection."""
        if self._pipelining:
            await self._stream.send_all("".join(f"{command}\r\n" for command in commands).encode())
        replies: list[tuple[int, str]] = []
        for command in commands:
            replies.append(await self._lines.reply() if self._pipelining else await self._ask(command))
            if replies[-1][0] == 421:
                break
        return replies


class _Progress:
    """How far a transaction came."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        #: Octets sent on the connection once the final dot is out; None before the content.
        self.ends_at: int | None = None

    def dotted(self, stream: VirtualStream) -> bool:
        """True when the final dot left the client whole."""
        return self.ends_at is not None and stream.out.sent >= self.ends_at
