"""The client's half of SMTP as a machine without I/O.

What is not here: sockets, deadlines, which host is tried (`delivery`); the commands' texts (`smtp.client_commands`).
The driver's contract: drain `next_event`; on `CLIENT_NEEDS_DATA` send `data_to_send`, then give what comes to
`receive_data`. RFC 5321 is the dialogue, RFC 2920 its pipelining, RFC 2033 LMTP, RFC 3207 STARTTLS, RFC 4954 AUTH.
Failures raised: `RemoteProtocolError` when the host breaks the protocol, after which the session is over;
`LocalProtocolError` for a driver that asks for what the state does not allow: our defect.
"""

import binascii
import enum
from collections import deque
from collections.abc import Callable
from typing import Final

from elemta.mail.outcome import NO_PEER, Deferred, Delivered, Failed, Outcome, Peer
from elemta.mail.reply import Reply
from elemta.smtp.client_commands import (
    Capabilities,
    Transaction,
    mail_command,
    parse_capabilities,
    rcpt_command,
    uses_smtputf8,
)
from elemta.smtp.client_events import (
    CLIENT_NEEDS_DATA,
    AuthChallenge,
    AuthEnded,
    Awaited,
    ClientEvent,
    ClientNeed,
    ContentWanted,
    Ended,
    Ready,
    Settled,
    TlsGranted,
    TlsRefused,
)
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.replies import RemoteProtocolError, ReplyReader, abridged

#: "Service not available, closing transmission channel": may answer any command, RFC 5321 §3.8, §4.2.1.
_CLOSING_CODE: Final = 421

#: Enhanced codes of a 552 to RCPT that do not mean "too many recipients": RFC 3463 §3.3, a mailbox without room.
_TOO_MANY_RECIPIENTS: Final = frozenset({"", "5.5.3"})


class ClientState(enum.Enum):
    """Where the session stands."""

    #: The greeting or the answer to EHLO, LHLO or HELO is awaited.
    OPENING = "opening"
    #: A transaction may begin.
    READY = "ready"
    #: MAIL, RCPT and DATA are under way.
    ENVELOPE = "envelope"
    #: The host waits for content.
    CONTENT = "content"
    #: The final dot may have gone: only a reply says what became of the mail.
    FINAL = "final"
    #: STARTTLS is under way.
    TLS_ASKED = "tls asked"
    #: The handshake is under way, and nothing of SMTP may come.
    TLS_HANDSHAKE = "tls handshake"
    #: AUTH is under way.
    AUTH = "auth"
    #: QUIT is under way.
    QUITTING = "quitting"
    CLOSED = "closed"


#: States in which QUIT would be taken for something else, or for nothing.
_NO_QUIT: Final = frozenset({ClientState.TLS_HANDSHAKE, ClientState.CONTENT, ClientState.CLOSED})


class ClientMachine:
    """One session with one host. With `lmtp` it says LHLO, and takes a reply a recipient after the dot (RFC 2033).

    `hostname` is what EHLO says, `peer` goes into the outcomes.
    """

    def __init__(self, hostname: str, *, lmtp: bool = False, peer: Peer = NO_PEER, secure: bool = False) -> None:
        self.state = ClientState.OPENING
        self.offered = Capabilities()
        #: Replies taken so far: when it grows, the deadline of the next one begins.
        self.replies = 0
        #: True from `tls_started` on, or from the beginning where TLS came first.
        self.secure = secure
        self._hostname = hostname
        self._lmtp = lmtp
        self._peer = peer
        self._reader = ReplyReader()
        self._eof = False
        self._ended: Ended | None = None
        self._out = b""
        self._awaited = deque([Awaited.GREETING])
        #: Commands of a transaction that wait for the reply to the one before: a host without PIPELINING.
        self._waiting: deque[tuple[Awaited, str]] = deque()
        self._needs_reset = False
        self._mail_reply: Reply | None = None
        self._outcomes: list[Outcome | None] = []
        #: Indexes of the recipients that the host took, and how many RCPT and final replies came.
        self._accepted: list[int] = []
        self._rcpt_replies = 0
        self._final_replies = 0
        self._dot_sent = False

    @property
    def awaited(self) -> Awaited:
        """The reply that comes next."""
        return self._awaited[0] if self._awaited else Awaited.NOTHING

    def data_to_send(self) -> bytes:
        """What is to be sent before waiting; empty if nothing is."""
        out, self._out = self._out, b""
        return out

    def receive_data(self, data: bytes) -> None:
        """Take what came; empty for the end of the stream."""
        if self._eof:
            raise LocalProtocolError("data after the end of the stream")
        if data:
            self._reader.feed(data)
        else:
            self._eof = True

    def next_event(self) -> ClientEvent | ClientNeed:
        """The next event. Raises `RemoteProtocolError`, after which the session is over."""
        if self._ended is not None:
            return self._ended
        try:
            while True:
                reply = self._reader.next_reply()
                if reply is None:
                    return self._end(None) if self._eof else CLIENT_NEEDS_DATA
                event = self._take(reply)
                if event is not None:
                    return event
        except RemoteProtocolError:
            self._end(None)
            raise

    def begin(self, transaction: Transaction) -> None:
        """Start a transaction. It ends with `Settled`, or with the session."""
        self._require(ClientState.READY)
        offered = self.offered
        envelope = transaction.envelope
        unicode = uses_smtputf8(envelope, offered)
        self.state = ClientState.ENVELOPE
        self._mail_reply = None
        self._outcomes = [None] * len(envelope.recipients)
        self._accepted = []
        self._rcpt_replies = self._final_replies = 0
        self._dot_sent = False
        commands = [(Awaited.RSET, "RSET")] if self._needs_reset else []
        commands.append((Awaited.MAIL, mail_command(transaction, offered)))
        commands += [(Awaited.RCPT, rcpt_command(each, offered, unicode=unicode)) for each in envelope.recipients]
        commands.append((Awaited.DATA, "DATA"))
        if offered.pipelining:
            self._send(*commands)
        else:
            self._waiting.extend(commands)
            self._send(self._waiting.popleft())

    def end_content(self) -> None:
        """The final dot goes out now: from here on only a reply tells what became of the mail."""
        self._require(ClientState.CONTENT)
        self.state = ClientState.FINAL
        self._dot_sent = True
        self._awaited.extend([Awaited.FINAL] * (len(self._accepted) if self._lmtp else 1))

    def conclude(self, reason: Reply) -> tuple[Outcome | None, ...]:
        """What a session lost for `reason` means for the recipients of the transaction under way.

        None is for those that another host may be asked for: this one took no recipient. After the final dot, those
        without a reply may have their mail. There are none at all when no transaction is under way.
        """
        self._end(None)
        rest: Outcome | None = None
        if self._dot_sent:
            rest = Deferred(reason, self._peer, uncertain=True)
        elif self._accepted:
            rest = self._judged(reason)
        elif self._mail_reply is not None and self._mail_reply.is_permanent:
            rest = self._judged(self._mail_reply)
        return tuple(rest if outcome is None else outcome for outcome in self._outcomes)

    def quit(self) -> None:
        """Say goodbye; the answer is `Ended`. Allowed whenever no reply is awaited."""
        if self._awaited or self.state in _NO_QUIT:
            raise LocalProtocolError(f"QUIT while {self.state.value}")
        self.state = ClientState.QUITTING
        self._send((Awaited.QUIT, "QUIT"))

    # ---- verbs for STARTTLS and AUTH

    def starttls(self) -> None:
        """Ask for TLS, RFC 3207; the answer is `TlsGranted`, `TlsRefused` or `Ended`."""
        self._require(ClientState.READY)
        if self.secure or not self.offered.starttls:
            raise LocalProtocolError("STARTTLS where it is not offered")
        self.state = ClientState.TLS_ASKED
        self._send((Awaited.STARTTLS, "STARTTLS"))

    def tls_started(self, peer: Peer | None = None) -> None:
        """The handshake is done: everything learnt before it is forgotten (RFC 3207 §4.2), EHLO is said again.

        `peer` goes into the outcomes from now on.
        """
        self._require(ClientState.TLS_HANDSHAKE)
        self._peer = peer or self._peer
        self._reader.clear()
        self.offered = Capabilities()
        self.secure = True
        self._needs_reset = False
        self._say_hello()

    def auth(self, mechanism: str, initial: bytes | None) -> None:
        """Begin an AUTH exchange, RFC 4954 §4; `initial` is the initial response, None to wait to be asked."""
        self._require(ClientState.READY)
        if mechanism not in self.offered.auth:
            raise LocalProtocolError(f"AUTH {mechanism} where it is not offered")
        self.state = ClientState.AUTH
        argument = "" if initial is None else f" {_base64(initial) or '='}"
        self._send((Awaited.AUTH, f"AUTH {mechanism}{argument}"))

    def auth_response(self, response: bytes | None) -> None:
        """Answer a challenge; None cancels the exchange, RFC 4954 §4."""
        if self.state is not ClientState.AUTH or self._awaited:
            raise LocalProtocolError(f"an AUTH response while {self.state.value}")
        self._send((Awaited.AUTH, "*" if response is None else _base64(response)))

    # ---- sending

    def _require(self, state: ClientState) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"asked for {state.value}, but the session is {self.state.value}")

    def _send(self, *commands: tuple[Awaited, str]) -> None:
        wire = "".join([f"{line}\r\n" for _, line in commands]).encode("utf-8")
        if wire.count(b"\n") != len(commands) or wire.count(b"\r") != len(commands):
            raise LocalProtocolError(f"a line break within a command: {wire!r}")
        self._out += wire
        self._awaited.extend([awaited for awaited, _ in commands])

    def _say_hello(self) -> None:
        self.state = ClientState.OPENING
        self._send((Awaited.HELLO, f"{'LHLO' if self._lmtp else 'EHLO'} {self._hostname}"))

    # ---- taking replies

    def _end(self, reply: Reply | None) -> Ended:
        if self._ended is None:
            self._ended = Ended(reply, self.awaited)
        self.state = ClientState.CLOSED
        return self._ended

    def _take(self, reply: Reply) -> ClientEvent | None:
        self.replies += 1
        if reply.code == _CLOSING_CODE:
            if self.awaited is Awaited.FINAL:
                self._settle_final(reply)
            return self._end(abridged(reply))
        if self.state is ClientState.CONTENT and reply.code >= 400:
            # It wants no more of the content (too large, say) and hangs up: a verdict, for the dot never went.
            self._settle_accepted(self._judged(reply))
            return self._end(abridged(reply))
        if not self._awaited or self._out:
            raise RemoteProtocolError(f"a reply to nothing: {reply}")
        return _HANDLERS[self._awaited.popleft()](self, reply)

    def _take_greeting(self, reply: Reply) -> ClientEvent | None:
        if reply.code >= 300:
            # RFC 5321 §3.1: 554 says that there is no service here. The caller closes; nothing was begun.
            return self._refused(reply, Awaited.GREETING)
        self._say_hello()
        return None

    def _take_hello(self, reply: Reply) -> ClientEvent | None:
        if reply.code < 300:
            self.offered = parse_capabilities(reply)
        elif reply.is_permanent and not self._lmtp:
            self._send((Awaited.HELO, f"HELO {self._hostname}"))
            return None
        else:
            return self._refused(reply, Awaited.HELLO)
        self.state = ClientState.READY
        return Ready()

    def _take_helo(self, reply: Reply) -> ClientEvent | None:
        if reply.code >= 300:
            return self._refused(reply, Awaited.HELO)
        self.state = ClientState.READY
        return Ready()

    def _refused(self, reply: Reply, awaited: Awaited) -> Ended:
        self._awaited.appendleft(awaited)
        return self._end(abridged(reply))

    def _take_rset(self, reply: Reply) -> ClientEvent | None:
        if reply.code >= 300:
            raise RemoteProtocolError(f"RSET was refused: {reply}")
        self._needs_reset = False
        return self._send_next()

    def _take_mail(self, reply: Reply) -> ClientEvent | None:
        _refuse_3yz(reply, "MAIL")
        if reply.code < 300:
            self._needs_reset = True
            return self._send_next()
        self._mail_reply = abridged(reply)
        if self.offered.pipelining:
            return None
        return self._settle()

    def _take_rcpt(self, reply: Reply) -> ClientEvent | None:
        _refuse_3yz(reply, "RCPT")
        index = self._rcpt_replies
        self._rcpt_replies += 1
        if self._mail_reply is not None:
            return None
        if reply.code < 300:
            self._accepted.append(index)
        elif reply.code == 552 and self._accepted and reply.enhanced in _TOO_MANY_RECIPIENTS:
            # RFC 5321 §4.5.3.1.10: a 552 that means "too many recipients" is what 452 should have said.
            self._outcomes[index] = Deferred(abridged(reply), self._peer)
        else:
            self._outcomes[index] = self._judged(reply)
        return self._send_next()

    def _send_next(self) -> ClientEvent | None:
        """Without PIPELINING, the command after the one just answered; nobody left to receive the mail ends it."""
        if not self._waiting:
            return None
        if self._waiting[0][0] is Awaited.DATA and not self._accepted:
            return self._settle()
        self._send(self._waiting.popleft())
        return None

    def _take_data(self, reply: Reply) -> ClientEvent | None:
        if reply.code < 300:
            raise RemoteProtocolError(f"DATA was answered with {reply}")
        if reply.code >= 400:
            if self._accepted:
                self._settle_accepted(self._judged(reply))
            return self._settle()
        if self._reader.has_input:
            raise RemoteProtocolError("the host talks before it has the content")
        if self._accepted:
            self.state = ClientState.CONTENT
            return ContentWanted()
        if self._mail_reply is not None:
            # It refused MAIL and wants the content all the same: whatever this host is doing, end it here.
            return self._refused(self._mail_reply, Awaited.DATA)
        # RFC 2920 §3.1: nobody is to receive it, so a dot alone ends it.
        self._out += b".\r\n"
        self._awaited.append(Awaited.EMPTY)
        return None

    def _take_empty(self, _reply: Reply) -> ClientEvent | None:
        return self._settle()

    def _take_final(self, reply: Reply) -> ClientEvent | None:
        _refuse_3yz(reply, "the final dot")
        self._settle_final(reply)
        return None if self._awaited else self._settle()

    def _settle_final(self, reply: Reply) -> None:
        outcome = self._judged(reply)
        self._needs_reset = reply.code >= 400
        if self._lmtp:
            self._outcomes[self._accepted[self._final_replies]] = outcome
        else:
            self._settle_accepted(outcome)
        self._final_replies += 1

    def _settle_accepted(self, outcome: Outcome) -> None:
        for index in self._accepted:
            self._outcomes[index] = outcome

    def _judged(self, reply: Reply) -> Outcome:
        """By the first digit, RFC 5321 §4.2.1: codes that nobody knows included."""
        kept = abridged(reply)
        if reply.code < 300:
            return Delivered(kept, self._peer, relayed_dsn=self.offered.dsn, final=self._lmtp)
        return Deferred(kept, self._peer) if reply.code < 500 else Failed(kept, self._peer)

    def _settle(self) -> Settled:
        self._waiting.clear()
        self.state = ClientState.READY
        outcomes, self._outcomes = self._outcomes, []
        refused = self._mail_reply
        if refused is not None:
            outcome = self._judged(refused)
            return Settled((outcome,) * len(outcomes), refused if refused.is_transient else None)
        return Settled(tuple(outcome for outcome in outcomes if outcome is not None))

    def _take_starttls(self, reply: Reply) -> ClientEvent | None:
        if reply.code >= 300:
            self.state = ClientState.READY
            return TlsRefused(abridged(reply))
        if self._reader.has_input:
            raise RemoteProtocolError("the host talks in clear after it agreed to TLS")
        self.state = ClientState.TLS_HANDSHAKE
        return TlsGranted()

    def _take_auth(self, reply: Reply) -> ClientEvent | None:
        if reply.code == 334:
            try:
                return AuthChallenge(binascii.a2b_base64(reply.text.encode("ascii"), strict_mode=True))
            except ValueError as error:
                raise RemoteProtocolError(f"a challenge that is no base64: {reply.text!r}") from error
        _refuse_3yz(reply, "AUTH")
        self.state = ClientState.READY
        return AuthEnded(abridged(reply))

    def _take_quit(self, reply: Reply) -> ClientEvent | None:
        self._awaited.appendleft(Awaited.QUIT)
        return self._end(abridged(reply))


def _refuse_3yz(reply: Reply, command: str) -> None:
    if 300 <= reply.code < 400:
        raise RemoteProtocolError(f"{command} was answered with {reply}")


def _base64(octets: bytes) -> str:
    return binascii.b2a_base64(octets, newline=False).decode("ascii")


_HANDLERS: Final[dict[Awaited, Callable[[ClientMachine, Reply], ClientEvent | None]]] = {
    Awaited.GREETING: ClientMachine._take_greeting,
    Awaited.HELLO: ClientMachine._take_hello,
    Awaited.HELO: ClientMachine._take_helo,
    Awaited.STARTTLS: ClientMachine._take_starttls,
    Awaited.AUTH: ClientMachine._take_auth,
    Awaited.RSET: ClientMachine._take_rset,
    Awaited.MAIL: ClientMachine._take_mail,
    Awaited.RCPT: ClientMachine._take_rcpt,
    Awaited.DATA: ClientMachine._take_data,
    Awaited.FINAL: ClientMachine._take_final,
    Awaited.EMPTY: ClientMachine._take_empty,
    Awaited.QUIT: ClientMachine._take_quit,
}
