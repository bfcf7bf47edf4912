"""What one session of the server machine knows, with the few moves that every command is made of.

What is not here: the driver's view of it (`smtp.server`), what each verb does (`smtp.session_verbs`, `smtp.mail_verbs`,
`smtp.content_verbs`, `smtp.security_verbs`). Nobody outside of this room sees a `Session`.
Failures raised: `LocalProtocolError` for a reply that cannot be put on the wire.
"""

from collections.abc import Callable
from typing import Final

from elemta.mail.reply import Reply
from elemta.smtp import refusals
from elemta.smtp.commands import printable_verb
from elemta.smtp.content import ChunkDecoder, ContentCheck, DataDecoder
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.events import NEED_DATA, Closing, Event, Need, Refused, Reset
from elemta.smtp.lines import LineBuffer
from elemta.smtp.options import ServerOptions
from elemta.smtp.states import IN_TRANSACTION, READY, START, State

#: Commands that a pipelining client sent before it could know that MAIL, its recipients or a chunk were refused
#: (RFC 2920 §3.1): so many of them are no errors.
MAX_EXCUSED_COMMANDS: Final = 10_000


class Session:
    """The state of one session."""

    __slots__ = (
        "answer",
        "asked",
        "authenticated_user",
        "chunks",
        "closing",
        "data",
        "early",
        "eof",
        "errors",
        "excused",
        "extended",
        "hello_domain",
        "idle",
        "last_chunk",
        "lines",
        "options",
        "out",
        "queued",
        "recipients",
        "refused_recipients",
        "skipping",
        "smtputf8",
        "state",
        "surplus",
        "tls_active",
        "transactions",
    )

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.state = State.GREETING
        self.lines = LineBuffer(normalize=options.bare_newlines_normalize)
        self.out: list[bytes] = []
        #: Something came before the greeting; the client will send no more.
        self.early = self.eof = False
        #: The event that waits for a reply, with what takes that reply; the pair that follows a `Reset`.
        self.asked: Event | None = None
        self.answer: Answer | None = None
        self.queued: tuple[Event, Answer] | None = None
        self.closing: Closing | None = None
        self.errors = self.idle = self.excused = self.transactions = 0
        #: Of this transaction: accepted, refused by the driver, over the limit.
        self.recipients = self.refused_recipients = self.surplus = 0
        self.smtputf8 = False
        self.data: DataDecoder | None = None
        self.chunks: ChunkDecoder | None = None
        self.last_chunk = False
        self.skipping: Skipping | None = None
        self.hello_domain = ""
        self.extended = False
        self.tls_active = False
        self.authenticated_user: str | None = None

    @property
    def in_transaction(self) -> bool:
        """True from an accepted MAIL to its end."""
        return self.state in IN_TRANSACTION

    @property
    def auth_offered(self) -> bool:
        """Never in the clear, unless the driver says that the connection does not leave this machine."""
        return bool(self.options.auth_mechanisms) and (self.tls_active or self.options.auth_without_tls)

    @property
    def require_tls_offered(self) -> bool:
        """RFC 8689 §3: only where TLS is active."""
        return self.options.require_tls_offered and self.tls_active

    @property
    def talks_too_early(self) -> bool:
        """True when more is here already, behind a command that RFC 2920 §3.1 makes the last of its group."""
        return bool(self.lines) and self.options.forbid_early_talk

    def check(self) -> ContentCheck:
        """A fresh check for the content of a mail."""
        return ContentCheck(self.options.max_size, normalize=self.options.bare_newlines_normalize)

    # ---- out -------------------------------------------------------------------------------------

    def send(self, reply: Reply) -> None:
        """Put a reply behind those that wait. Raises `LocalProtocolError`."""
        try:
            self.out.append(reply.render())
        except ValueError as error:
            raise LocalProtocolError(str(error)) from error

    def ask(self, event: Event, answer: "Answer") -> Event:
        """Yield an event that waits for the reply which `answer` takes."""
        self.asked = event
        self.answer = answer
        return event

    def ask_afresh(self, event: Event, answer: "Answer") -> Event:
        """Like `ask`, outside of any transaction: if one was open, its end is told first."""
        if not self.in_transaction:
            return self.ask(event, answer)
        self.end_transaction()
        self.queued = event, answer
        return Reset()

    def refuse(self, line: bytes, reply: Reply) -> Event:
        """Answer a bad command ourselves. After too many of them 421 is the answer instead."""
        if self.excused and (reply is refusals.MAIL_FIRST or reply is refusals.NO_RECIPIENTS):
            self.excused -= 1
        elif reply is not refusals.TOO_MANY_RECIPIENTS:
            self.errors += 1
            if self.errors > self.options.max_errors:
                return self.close_with(refusals.TOO_MANY_ERRORS, "too many errors")
        self.send(reply)
        return Refused(printable_verb(line), reply)

    def count_error(self) -> None:
        """A refusal of the driver counts like one of ours; its reply is sent already."""
        self.errors += 1
        if self.errors > self.options.max_errors:
            self.close_with(refusals.TOO_MANY_ERRORS, "too many errors")

    def count_idle(self) -> Event | None:
        """Count a command that moves no mail; too many of them close the session."""
        self.idle += 1
        if self.idle > self.options.max_idle_commands:
            return self.close_with(refusals.TOO_MANY_IDLE_COMMANDS, "too many idle commands")
        return None

    # ---- ends ------------------------------------------------------------------------------------

    def starved(self) -> Event | Need:
        """There are no bytes to go on with."""
        return self.close(None, "eof") if self.eof else NEED_DATA

    def close_with(self, reply: Reply, cause: str) -> Event:
        """Say `reply` as the last thing."""
        self.send(reply)
        return self.close(reply, cause)

    def close(self, reply: Reply | None, cause: str) -> Event:
        """Forget everything but what is to be sent."""
        self.end_transaction()
        self.state = State.CLOSED
        self.lines.clear()
        self.answer = self.queued = None
        self.closing = Closing(reply, cause)
        return self.closing

    def end_transaction(self) -> None:
        """Back to where MAIL may come."""
        if self.state is not START:
            self.state = READY
        self.recipients = self.refused_recipients = self.surplus = 0
        self.smtputf8 = False
        self.data = self.chunks = self.skipping = None


class Skipping:
    """A chunk nobody wants: `left` octets to drop, then `reply`.

    `told` is True where the reply is the driver's own, so that no event is needed. `state` is where the session was.
    """

    __slots__ = ("left", "reply", "state", "told")

    def __init__(self, left: int, reply: Reply, *, state: State, told: bool) -> None:
        self.left = left
        self.reply = reply
        self.state = state
        self.told = told


#: Takes the driver's reply. Raises `LocalProtocolError`, before anything changes, if the reply does not fit.
Answer = Callable[[Session, Reply], None]
#: Reads the next thing in one state: an event, `NEED_DATA`, or None to be called again.
Reader = Callable[[Session], Event | Need | None]
#: Obeys one command, given what follows the verb and a space. Raises `CommandRefused`.
Verb = Callable[[Session, bytes], Event | None]


def accepts(reply: Reply) -> bool:
    """True for 2yz, False for 4yz or 5yz. Raises `LocalProtocolError` for any other, which would leave the client
    waiting."""
    if 200 <= reply.code < 300:
        return True
    if 400 <= reply.code < 600:
        return False
    raise LocalProtocolError(f"neither yes nor no: {reply}")
