"""The server's side of one SMTP session, without I/O.

Bytes in by `receive_data`, events out by `next_event`, decisions in by `reply`, bytes out by `data_to_send`. The driver
drains all events, then sends once, so that the replies to a pipelined group leave together (RFC 2920 §3.1).

What is not here: what the session knows (`smtp.session`), what each verb does (`smtp.session_verbs`, `smtp.mail_verbs`,
`smtp.content_verbs`, `smtp.security_verbs`), what may come when (`smtp.states`), policy (`inbound`).
Failures raised: `LocalProtocolError`, for what our own driver does wrong. Whatever a client sends raises nothing.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import evolve

from elemta.mail.reply import Reply
from elemta.smtp import commands, content_verbs, mail_verbs, refusals, security_verbs, session_verbs
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.events import AuthResponse, AuthStart, Event, Need
from elemta.smtp.lines import MAX_AUTH_OCTETS, MAX_COMMAND_OCTETS, LineFault
from elemta.smtp.options import ServerOptions
from elemta.smtp.parameters import CommandRefused
from elemta.smtp.session import Reader, Session, Verb
from elemta.smtp.states import DEAF, OUT_OF_ORDER, State

_ANY_TIME: Final[Mapping[State, Reply]] = MappingProxyType({})
_VERBS: Final = {**session_verbs.VERBS, **mail_verbs.VERBS, **content_verbs.VERBS, **security_verbs.VERBS}
#: Verb → what it does, with where it is refused. BDAT looks for itself, since a refused chunk is still consumed.
_COMMANDS: Final[Mapping[bytes, tuple[Verb, Mapping[State, Reply]]]] = {
    name: (verb, _ANY_TIME if name == b"BDAT" else OUT_OF_ORDER.get(name, _ANY_TIME)) for name, verb in _VERBS.items()
}


class ServerConnection:
    """One session. See the module for the order of calls."""

    __slots__ = ("_session",)

    def __init__(self, options: ServerOptions) -> None:
        self._session = Session(options)

    # ---- facts -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._session.state

    @property
    def in_transaction(self) -> bool:
        """True from an accepted MAIL to its end."""
        return self._session.in_transaction

    @property
    def hello_domain(self) -> str:
        """What the client called itself; empty until it did, since the start or since TLS began."""
        return self._session.hello_domain

    @property
    def extended(self) -> bool:
        """True after EHLO, False after HELO: ESMTP or SMTP in the Received field, RFC 3848 §2."""
        return self._session.extended

    @property
    def tls_active(self) -> bool:
        """True since `tls_started`."""
        return self._session.tls_active

    @property
    def authenticated_user(self) -> str | None:
        """Whom `set_authenticated` named."""
        return self._session.authenticated_user

    # ---- the four verbs of a driver --------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take what came from the client; `b""` is the end. Never raises."""
        session = self._session
        if not data:
            session.eof = True
        elif session.state not in DEAF:
            session.lines.push(data)
        elif session.state is State.GREETING:
            session.early = True

    def next_event(self) -> Event | Need:
        """What happened next, or `NEED_DATA`. Raises `LocalProtocolError` while an event waits for its reply."""
        session = self._session
        if session.answer is not None:
            raise LocalProtocolError(f"{session.asked} waits for its reply")
        if session.queued is not None:
            (event, answer), session.queued = session.queued, None
            return session.ask(event, answer)
        while True:
            found = _READERS[session.state](session)
            if found is not None:
                return found

    def reply(self, reply: Reply) -> None:
        """Answer the event that waits. Raises `LocalProtocolError` if none does, or if the reply does not fit.

        421 closes the session (RFC 5321 §3.8), to whatever it is the answer.
        """
        session = self._session
        answer = session.answer
        if answer is None:
            raise LocalProtocolError(f"nothing waits for {reply}")
        if reply.code == 421:
            session.close_with(reply, "answered 421")
            return
        answer(session, reply)
        session.answer = None

    def data_to_send(self) -> bytes:
        """All that is to be sent now; empty when there is nothing."""
        out = self._session.out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    # ---- the rest --------------------------------------------------------------------------------

    def greet(self, reply: Reply) -> None:
        """Send the greeting: 220; 554 to refuse the session (RFC 5321 §3.1); 421 to close at once.

        Raises `LocalProtocolError` the second time, or for another code.
        """
        session = self._session
        if session.state is not State.GREETING:
            raise LocalProtocolError("greeted already")
        if reply.code not in (220, 421, 554):
            raise LocalProtocolError(f"no greeting: {reply}")
        if session.early and reply.code != 421:
            session.close_with(refusals.TALKED_BEFORE_GREETING, "talked before the greeting")
        elif reply.code == 421:
            session.close_with(reply, "greeted with 421")
        else:
            session.send(reply)
            session.state = State.START if reply.code == 220 else State.UNWELCOME

    def close_with(self, reply: Reply, cause: str) -> None:
        """Say `reply` as the last thing, whatever waits. Does nothing once the session is closed."""
        if self._session.state is not State.CLOSED:
            self._session.close_with(reply, cause)

    def tls_started(self) -> None:
        """The handshake is done, or TLS was there from the start: forget all the client said, RFC 3207 §4.2.

        Raises `LocalProtocolError` unless 220 was the reply to `StartTls`, or nobody was greeted yet.
        """
        session = self._session
        if session.state is State.HANDSHAKE:
            session.state = State.START
        elif session.state is not State.GREETING or session.tls_active:
            raise LocalProtocolError("no handshake was due")
        session.lines.clear()
        session.tls_active = True
        session.hello_domain = ""
        session.extended = False
        session.authenticated_user = None

    def offer_auth(self, mechanisms: tuple[str, ...], *, without_tls: bool) -> None:
        """What AUTH is offered from now on, in place of the options': channel binding depends on TLS, and the clear is
        for connections that never leave this machine."""
        session = self._session
        options = session.options
        if (options.auth_mechanisms, options.auth_without_tls) != (mechanisms, without_tls):
            session.options = evolve(options, auth_mechanisms=mechanisms, auth_without_tls=without_tls)

    def set_authenticated(self, user: str) -> None:
        """The exchange has shown who it is; call it before the 235. Raises `LocalProtocolError` out of an exchange."""
        session = self._session
        if session.answer is None or not isinstance(session.asked, AuthStart | AuthResponse):
            raise LocalProtocolError("nobody authenticates")
        session.authenticated_user = user


# ---- what is read in each state ------------------------------------------------------------------


def _read_command(session: Session) -> Event | Need | None:
    lines = session.lines
    limit = MAX_COMMAND_OCTETS
    if session.options.auth_mechanisms and lines.peek(5).upper() == b"AUTH ":
        limit = MAX_AUTH_OCTETS
    line = lines.take_line(limit)
    if line is None:
        return session.starved()
    if not isinstance(line, bytes):
        return _without_line(session, line)
    verb, _, argument = line.partition(b" ")
    known = _COMMANDS.get(verb) or _COMMANDS.get(verb.upper())
    if known is None:
        return _unknown(session, line)
    obey, out_of_order = known
    refusal = out_of_order.get(session.state)
    if refusal is not None:
        return session.refuse(line, refusal)
    try:
        return obey(session, argument)
    except CommandRefused as refused:
        return session.refuse(line, refused.reply)


def _without_line(session: Session, fault: LineFault) -> Event:
    if fault is LineFault.BARE_NEWLINE:
        return session.close_with(refusals.BARE_NEWLINE, "bare newline")
    if fault is LineFault.ENDLESS:
        return session.close_with(refusals.ENDLESS_LINE, "endless line")
    return session.refuse(b"", refusals.LINE_TOO_LONG)


def _unknown(session: Session, line: bytes) -> Event:
    verb = line.partition(b" ")[0].upper()
    if verb in commands.HTTP_VERBS:
        return session.close_with(refusals.NO_HTTP, "http")
    if verb in commands.UNIMPLEMENTED_VERBS:
        return session.refuse(line, refusals.NOT_IMPLEMENTED)
    return session.refuse(line, refusals.UNKNOWN_COMMAND if verb else refusals.UNREADABLE_COMMAND)


def _read_unwelcome(session: Session) -> Event | Need:
    line = session.lines.take_line(MAX_COMMAND_OCTETS)
    if line is None:
        return session.starved()
    if not isinstance(line, bytes):
        return _without_line(session, line)
    if line.strip(b" ").upper() == b"QUIT":
        return session.close_with(refusals.GOODBYE, "quit")
    return session.refuse(line, refusals.NO_SERVICE)


def _read_before_greeting(session: Session) -> Event | Need:
    return session.starved()


def _read_closed(session: Session) -> Event | None:
    return session.closing


_READERS: Final[Mapping[State, Reader]] = {
    **dict.fromkeys((State.START, State.READY, State.MAIL, State.RCPT, State.CHUNKS), _read_command),
    **content_verbs.READERS,
    **security_verbs.READERS,
    State.GREETING: _read_before_greeting,
    State.UNWELCOME: _read_unwelcome,
    State.CLOSED: _read_closed,
}
