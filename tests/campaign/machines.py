"""What must hold of both protocol machines whatever octets come: one input, drawn by a fuzzer, is one session.

What is not here: where inputs come from (`tests.campaign.fuzz_smtp` draws them, `tests/smtp/test_machines.py` has some
for good). The first `HEADER_OCTETS` octets choose the options, the cuts and what the driver does; the rest is what the
other side says. Octets of 0 choose the plainest session, so that a dialogue behind sixteen of them is a good seed.
Failures raised: `AssertionError`, or whatever a machine raises that it does not promise.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Final

from attrs import Factory, define

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.outcome import Deferred, Delivered, Failed
from elemta.mail.reply import Reply
from elemta.smtp.client import ClientMachine, ClientState
from elemta.smtp.client_commands import Transaction
from elemta.smtp.client_events import (
    CLIENT_NEEDS_DATA,
    AuthChallenge,
    AuthEnded,
    ClientEvent,
    ContentWanted,
    Ended,
    Ready,
    Settled,
    TlsGranted,
    TlsRefused,
)
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.events import (
    NEED_DATA,
    Answerable,
    AuthResponse,
    AuthStart,
    Closing,
    Content,
    ContentEnd,
    ContentRefused,
    DataStart,
    Event,
    Reset,
    StartTls,
)
from elemta.smtp.options import ServerOptions
from elemta.smtp.replies import RemoteProtocolError
from elemta.smtp.server import ServerConnection

HEADER_OCTETS: Final = 16
#: RFC 5321 §4.5.3.1.6, without the CRLF.
MAX_TEXT_OCTETS: Final = 998

_YES: Final = Reply(250, "2.0.0", "Yes")
_GREETING: Final = Reply(220, "", "fuzzed.example ESMTP")
#: What a driver may say instead of what fits, some of it wrong: the machine must refuse that, and stay as it was.
_OTHERS: Final = (
    Reply(450, "4.2.0", "Later"),
    Reply(550, "5.1.1", ("No", "never")),
    Reply(421, "4.3.2", "Bye"),
    Reply(354, "", "Go on"),
    Reply(334, "", "bW9yZQ=="),
    Reply(235, "2.7.0", "Known"),
    Reply(250, "2.0.0", "Yes"),
    Reply(250, "2.0.0", "broken\r\n250 line"),
)
_REPLIES: Final = re.compile(rb"(?:[2-5][0-9]{2}[ -][^\r\n\0]*\r\n)*")

SERVER_OPTIONS: Final = (
    ServerOptions("fuzzed.example", forbid_early_talk=False),
    ServerOptions("fuzzed.example", forbid_early_talk=False, bare_newlines_normalize=True),
    ServerOptions("fuzzed.example", forbid_early_talk=False, auth_mechanisms=("PLAIN", "LOGIN"), auth_without_tls=True),
    ServerOptions("fuzzed.example", forbid_early_talk=False, max_size=100, max_recipients=2, max_errors=2),
    ServerOptions("fuzzed.example", forbid_early_talk=False, dev_mode=True, max_idle_commands=2, max_transactions=2),
    ServerOptions("fuzzed.example"),
    ServerOptions("fuzzed.example", starttls=True, auth_mechanisms=("PLAIN",), require_tls_offered=True),
    ServerOptions("fuzzed.example", starttls=True, auth_mechanisms=("LOGIN",), auth_required=True, max_size=100),
)


def pieces(octets: bytes, lengths: bytes) -> Iterator[bytes]:
    """The octets cut at the lengths in turn, modulo 64; 0 is 64 octets."""
    start = 0
    for length in cycle(lengths):
        if start >= len(octets):
            return
        end = start + (length % 64 or 64)
        yield octets[start:end]
        start = end


# ---- the server's half ---------------------------------------------------------------------------


@define
class ServerRun:
    """One session of the server machine, with a driver that answers what `choices` say."""

    machine: ServerConnection
    choices: bytes
    #: What happened, contents that were refused or never ended left out.
    history: list[object] = Factory(list)
    sent: bytes = b""
    _asked: int = 0
    _content: list[bytes] = Factory(list)

    def drain(self) -> bool:
        """Take events until octets are needed; False once the session is closed."""
        while (event := self.machine.next_event()) is not NEED_DATA:
            assert not isinstance(event, type(NEED_DATA))
            if isinstance(event, Content):
                _check_newlines(event.data)
                self._content.append(event.data)
                continue
            self._note(event)
            if isinstance(event, Answerable):
                self._answer(event)
            if isinstance(event, Closing):
                break
        said = self.machine.data_to_send()
        assert _REPLIES.fullmatch(said), said
        self.sent += said
        return event is NEED_DATA

    def _note(self, event: Event) -> None:
        self.history.append(event)
        if isinstance(event, ContentEnd):
            content = b"".join(self._content)
            _check_content(content, event)
            self.history.append(content)
        if isinstance(event, ContentEnd | ContentRefused | Reset | Closing):
            self._content.clear()

    def _answer(self, event: Answerable) -> None:
        choice = self.choices[self._asked % len(self.choices)]
        self._asked += 1
        tries = [_fitting(event)]
        if choice >= 128:
            tries.insert(0, _OTHERS[choice % len(_OTHERS)])
        for reply in tries:
            try:
                if isinstance(event, AuthStart | AuthResponse) and reply.code == 235:
                    self.machine.set_authenticated("user")
                self.machine.reply(reply)
            except LocalProtocolError:
                assert reply is not tries[-1], f"{reply} fits {event}"
                continue
            if isinstance(event, StartTls) and reply.code == 220:
                self.machine.tls_started()
            return


def _fitting(event: Answerable) -> Reply:
    match event:
        case DataStart(chunked=False):
            return Reply(354, "", "Go on")
        case StartTls():
            return Reply(220, "2.0.0", "Go on")
        case AuthStart() | AuthResponse():
            return Reply(421, "4.7.0", "Bye")  # fits whoever was named before, cancelled or not
    return _YES


def _check_newlines(octets: bytes) -> None:
    alone = octets.replace(b"\r\n", b"")
    assert b"\r" not in alone, "a bare CR in content"
    assert b"\n" not in alone, "a bare LF in content"


def _check_content(content: bytes, end: ContentEnd) -> None:
    assert len(content) == end.size
    assert content.isascii() != end.eight_bit
    assert b"\0" not in content
    assert all(len(line) <= MAX_TEXT_OCTETS for line in content.split(b"\r\n"))


def run_server(options: ServerOptions, choices: bytes, received: Sequence[bytes], *, early: bytes = b"") -> ServerRun:
    """One session from its greeting to the end of the stream. `early` comes before the greeting."""
    machine = ServerConnection(options)
    run = ServerRun(machine, choices)
    if early:
        machine.receive_data(early)
    machine.greet(_GREETING)
    open_still = run.drain()
    for piece in (*received, b""):
        machine.receive_data(piece)
        if open_still:
            open_still = run.drain()
        else:
            assert isinstance(machine.next_event(), Closing), "an event after the end"
            assert machine.data_to_send() == b"", "octets after the end"
    last = machine.next_event()
    assert isinstance(last, Closing)
    assert machine.next_event() is last
    assert sum(isinstance(event, Closing) for event in run.history) == 1
    return run


def check_server(drawn: bytes) -> None:
    """Give one input to the server machine: whole and, where nothing hangs on the moment, cut into pieces."""
    header, octets = drawn[:HEADER_OCTETS].ljust(HEADER_OCTETS, b"\0"), drawn[HEADER_OCTETS:]
    options = SERVER_OPTIONS[header[0] % len(SERVER_OPTIONS)]
    choices = header[5:]
    cut = list(pieces(octets, header[1:5]))
    if options.forbid_early_talk or options.starttls:
        # Here it matters what has come at the time of a command: RFC 2920 §3.1, RFC 3207 §4.2.
        run_server(options, choices, cut, early=octets[:1] if header[0] >= 240 else b"")
        return
    in_pieces = run_server(options, choices, cut)
    whole = run_server(options, choices, [octets] if octets else [])
    assert whole.history == in_pieces.history
    assert whole.sent == in_pieces.sent


# ---- the client's half ---------------------------------------------------------------------------

MAX_MAILS: Final = 3


@define
class ClientRun:
    """One session of the client machine, with a driver that does what `choices` say."""

    machine: ClientMachine
    choices: bytes
    recipients: int
    history: list[object] = Factory(list)
    sent: bytes = b""
    _chosen: int = 0
    _mails: int = 0

    def choose(self) -> int:
        """The next of the driver's decisions."""
        self._chosen += 1
        return self.choices[self._chosen % len(self.choices)]

    def drain(self) -> bool:
        """Take events until octets are needed; False once the session is over."""
        try:
            while (event := self.machine.next_event()) is not CLIENT_NEEDS_DATA:
                assert not isinstance(event, type(CLIENT_NEEDS_DATA))
                self.history.append(event)
                if isinstance(event, Ended):
                    return False
                self._go_on(event)
        except RemoteProtocolError as error:
            self.history.append(str(error))
            return False
        said = self.machine.data_to_send()
        _check_newlines(said)
        assert not said or said.endswith(b"\r\n")
        self.sent += said
        return True

    def _go_on(self, event: ClientEvent) -> None:
        machine = self.machine
        match event:
            case ContentWanted():
                machine.end_content()
            case TlsGranted():
                machine.tls_started()
            case AuthChallenge():
                machine.auth_response(b"answer" if self.choose() < 128 else None)
            case Settled(outcomes):
                assert len(outcomes) == self.recipients
                self._begin()
            case Ready() | TlsRefused() | AuthEnded():
                self._prepare(event)

    def _prepare(self, event: ClientEvent) -> None:
        """TLS once where it is offered, AUTH once, then the mails."""
        machine = self.machine
        if isinstance(event, Ready) and machine.offered.starttls and not machine.secure:
            machine.starttls()
        elif machine.offered.auth and not isinstance(event, AuthEnded):
            machine.auth(min(machine.offered.auth), b"" if self.choose() < 128 else None)
        else:
            self._begin()

    def _begin(self) -> None:
        if self._mails == MAX_MAILS:
            self.machine.quit()
            return
        self._mails += 1
        local = "päivi" if self.choose() >= 192 else "r"
        recipients = tuple(Recipient(Address(f"{local}{n}", "example.net")) for n in range(self.recipients))
        envelope = Envelope(Address("s", "example.org"), recipients)
        self.machine.begin(Transaction(envelope, 10, eight_bit=False))


def run_client(header: bytes, received: Sequence[bytes]) -> ClientRun:
    """One session from the connection to the end of the stream."""
    recipients = 1 + header[0] // 2 % 3
    run = ClientRun(ClientMachine("client.example", lmtp=bool(header[0] & 1)), header[5:], recipients)
    machine = run.machine
    open_still = run.drain()
    for piece in (*received, b""):
        if not open_still:
            break
        machine.receive_data(piece)
        open_still = run.drain()
    assert not open_still, "the end of the stream ends the session"
    assert machine.state is ClientState.CLOSED
    last = machine.next_event()
    assert isinstance(last, Ended)
    assert machine.next_event() is last
    concluded = machine.conclude(Reply(451, "4.4.2", "Lost"))
    assert len(concluded) in (0, recipients)
    assert all(outcome is None or isinstance(outcome, Delivered | Deferred | Failed) for outcome in concluded)
    run.history.append(concluded)
    for text in _said([*run.history, *concluded]):
        assert text.isprintable(), text
    return run


def _said(noted: Sequence[object]) -> Iterator[str]:
    """What the host said, as it goes to logs, histories, reports."""
    for each in noted:
        match each:
            case str():
                yield each
            case Ended(reply=Reply() as reply) | TlsRefused(reply) | AuthEnded(reply):
                yield reply.text
            case Settled(outcomes):
                yield from _said(outcomes)
            case Delivered(reply=reply) | Deferred(reply=reply) | Failed(reply=reply):
                yield reply.text


def check_client(drawn: bytes) -> None:
    """Give one input to the client machine: as it is cut; or line by line, and cut within its lines, alike."""
    header, octets = drawn[:HEADER_OCTETS].ljust(HEADER_OCTETS, b"\0"), drawn[HEADER_OCTETS:]
    if header[0] >= 128:
        # What has come already when we ask matters: RFC 2920, RFC 3207 §4.2. Nothing may break all the same.
        run_client(header, list(pieces(octets, header[1:5])))
        return
    lines = re.findall(rb"[^\n]*\n|[^\n]+", octets)
    by_line = run_client(header, lines)
    cut = run_client(header, [piece for line in lines for piece in pieces(line, header[1:5])])
    assert by_line.history == cut.history
    assert by_line.sent == cut.sent
