"""The road of one mail from the sendmail program to the server, in blocking calls.

The client machine is that of the deliveries, and needs no event loop: importing one would take longer than all the
rest of the program. What is not here: the mail (`cli.sendmail_letter`), what an outcome means to the caller
(`cli.sendmail_program`). Failure raised: `Trouble` with `SysExit.TEMPFAIL` where there is no server.
"""

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from io import FileIO
from typing import Final

from attrs import evolve

from elemta.cli.sendmail_letter import Letter
from elemta.cli.sendmail_trouble import SysExit, Trouble
from elemta.cli.transcript import Transcript
from elemta.mail.outcome import Deferred, Failed, Outcome
from elemta.mail.reply import Reply
from elemta.smtp.client import ClientMachine, ClientState
from elemta.smtp.client_checks import objection, recipient_objection
from elemta.smtp.client_commands import Transaction
from elemta.smtp.client_events import CLIENT_NEEDS_DATA, Awaited, ClientEvent, ContentWanted, Ended, Ready, Settled
from elemta.smtp.replies import RemoteProtocolError
from elemta.smtp.stuffing import DotStuffer

#: Seconds for a connection on this machine.
CONNECT_SECONDS: Final = 30.0
#: Seconds for a reply, RFC 5321 §4.5.3.2.1 to §4.5.3.2.5.
REPLY_SECONDS: Final = 300.0
#: Seconds for the reply to the final dot, RFC 5321 §4.5.3.2.6.
FINAL_SECONDS: Final = 600.0
#: Seconds for a goodbye that changes nothing.
QUIT_SECONDS: Final = 2.0
#: Recipients of one transaction: as many as every server must take, RFC 5321 §4.5.3.1.8.
RECIPIENTS_AT_ONCE: Final = 100
#: Octets read, or sent, at a time.
PIECE_OCTETS: Final = 64 * 1024

_BROKEN: Final = Reply(451, "4.4.2", "the connection was lost")


def submit(letter: Letter, address: str, *, hostname: str, transcript: Transcript | None) -> list[Outcome]:
    """Give the mail to the server: an outcome for each recipient. Raises `Trouble`."""
    with connected(address) as sock:
        dialogue = _Dialogue(sock, ClientMachine(hostname), transcript)
        event = dialogue.next_event()
        if not isinstance(event, Ready):
            raise Trouble(SysExit.TEMPFAIL, f"{address} does not serve us: {_reason(event)}")
        recipients = letter.envelope.recipients
        outcomes: list[Outcome] = []
        for start in range(0, len(recipients), RECIPIENTS_AT_ONCE):
            part = evolve(letter.envelope, recipients=recipients[start : start + RECIPIENTS_AT_ONCE])
            outcomes += dialogue.send(evolve(letter, envelope=part))
        dialogue.quit()
        return outcomes


@contextlib.contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    """A connection to `host:port` or `unix:/path`. Raises `Trouble`."""
    try:
        sock = _connect_unix(address.removeprefix("unix:")) if address.startswith("unix:") else _connect_tcp(address)
    except (OSError, ValueError) as error:
        raise Trouble(SysExit.TEMPFAIL, f"no server answers at {address}: {error}") from None
    with sock:
        yield sock


def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_SECONDS)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
    # The last piece of a mail is a small one: it must not wait for the acknowledgement of the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class _Dialogue:
    """The machine on a connection."""

    def __init__(self, sock: socket.socket, machine: ClientMachine, transcript: Transcript | None) -> None:
        self._sock = sock
        self._machine = machine
        self._transcript = transcript

    def next_event(self) -> ClientEvent:
        """Send what is to be sent, wait for what comes of it. A lost connection is `Ended`, too."""
        machine = self._machine
        try:
            while (event := machine.next_event()) is CLIENT_NEEDS_DATA:
                self._sock.settimeout(FINAL_SECONDS if machine.awaited is Awaited.FINAL else REPLY_SECONDS)
                out = machine.data_to_send()
                if out:
                    self._send(out)
                data = self._sock.recv(PIECE_OCTETS)
                if self._transcript is not None:
                    self._transcript.heard(data)
                machine.receive_data(data)
        except (OSError, RemoteProtocolError) as error:
            return Ended(Reply(451, "4.4.2", f"the connection was lost: {error}"), machine.awaited)
        return event

    def _send(self, octets: bytes) -> None:
        if self._transcript is not None:
            self._transcript.sent(octets)
        self._sock.sendall(octets)

    def send(self, letter: Letter) -> list[Outcome]:
        """One transaction: an outcome for each recipient."""
        offered = self._machine.offered
        recipients = letter.envelope.recipients
        transaction = Transaction(letter.envelope, len(letter.content), letter.eight_bit)
        refused = objection(transaction, offered, unicode_header=letter.unicode_header)
        if refused is not None:
            return [Failed(refused)] * len(recipients)
        unfit = [recipient_objection(recipient.address, offered) for recipient in recipients]
        fit = tuple(recipient for recipient, why in zip(recipients, unfit, strict=True) if why is None)
        settled = iter(self._transact(evolve(transaction, envelope=evolve(letter.envelope, recipients=fit)), letter))
        return [next(settled) if why is None else Failed(why) for why in unfit]

    def _transact(self, transaction: Transaction, letter: Letter) -> list[Outcome]:
        count = len(transaction.envelope.recipients)
        if not count:
            return []
        machine = self._machine
        if machine.state is ClientState.CLOSED:
            return [Deferred(_BROKEN)] * count
        machine.begin(transaction)
        event = self.next_event()
        if isinstance(event, ContentWanted):
            self._send_content(letter.content)
            event = self.next_event()
        if isinstance(event, Settled):
            return list(event.outcomes)
        reason = event.reply if isinstance(event, Ended) and event.reply is not None else _BROKEN
        return [outcome or Deferred(reason) for outcome in machine.conclude(reason)]

    def _send_content(self, content: bytes) -> None:
        stuffer = DotStuffer()
        self._sock.settimeout(REPLY_SECONDS)
        with contextlib.suppress(OSError):  # what the server said before it closed is still to be read
            for start in range(0, len(content), PIECE_OCTETS):
                piece = stuffer.feed(content[start : start + PIECE_OCTETS])
                if start + PIECE_OCTETS >= len(content):
                    self._machine.end_content()
                    piece += stuffer.end()
                self._send(piece)

    def quit(self) -> None:
        """Say goodbye; who has hung up hears nothing any more."""
        if self._machine.state is ClientState.CLOSED:
            return
        self._sock.settimeout(QUIT_SECONDS)
        self._machine.quit()
        self.next_event()


def _reason(event: ClientEvent) -> str:
    assert isinstance(event, Ended), event
    return str(event.reply) if event.reply is not None else "it closed the connection"


def speak(address: str, source: int, sink: int) -> None:
    """Let the caller speak SMTP with the server, over two descriptors, until the server ends it. Raises `Trouble`."""
    with connected(address) as sock, os.fdopen(sink, "wb", buffering=0, closefd=False) as out:
        try:
            _pump(sock, source, out)
        except OSError as error:
            raise Trouble(SysExit.TEMPFAIL, f"the dialogue with {address} broke off: {error}") from None


def _pump(sock: socket.socket, source: int, out: FileIO) -> None:
    sock.settimeout(REPLY_SECONDS)
    ears = [sock.fileno(), source]
    while True:
        ready, _, _ = select.select(ears, [], [])
        if source in ready:
            data = os.read(source, PIECE_OCTETS)
            if data:
                sock.sendall(data)
            else:
                ears.remove(source)
                sock.shutdown(socket.SHUT_WR)
        if sock.fileno() in ready:
            data = sock.recv(PIECE_OCTETS)
            if not data:
                return
            while data:
                data = data[out.write(data) :]
