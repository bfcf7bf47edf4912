"""A driver of the server machine with a simple policy, for the tests.

It does what a real one does: drains all events, answers each, takes what is to be sent. What it answers is yes, but for
what its `Policy` says.
"""

from collections.abc import Callable, Iterable, Iterator

from attrs import field, mutable

from elemta.mail.reply import Reply
from elemta.smtp.events import (
    NEED_DATA,
    AuthResponse,
    AuthStart,
    Closing,
    Content,
    ContentEnd,
    ContentRefused,
    DataStart,
    Debug,
    Event,
    Hello,
    MailFrom,
    RcptTo,
    Refused,
    Reset,
    StartTls,
)
from elemta.smtp.options import ServerOptions
from elemta.smtp.server import ServerConnection
from elemta.smtp.states import State

MAX_BYTEWISE_OCTETS = 50_000
GREETING = Reply(220, "", "mx.example.com ESMTP")
GO_AHEAD = Reply(354, "", "go ahead")
SENDER_OK = Reply(250, "2.1.0", "sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "recipient ok")
CHUNKS_OK = Reply(250, "2.0.0", "go on")
QUEUED = Reply(250, "2.6.0", "queued")
WRONG_PASSWORD = Reply(535, "5.7.8", "wrong user or password")
AUTHENTICATED = Reply(235, "2.7.0", "authenticated")


@mutable
class Policy:
    """What is not answered yes. Addresses as `str(Address)`; the null reverse-path is empty."""

    greeting: Reply = GREETING
    mail: dict[str, Reply] = field(factory=dict)
    rcpt: dict[str, Reply] = field(factory=dict)
    data: Reply | None = None
    end: Reply | None = None
    starttls: Reply = Reply(220, "2.0.0", "ready to start TLS")
    #: Replies to the steps of AUTH, in order; then `WRONG_PASSWORD`.
    auth: list[Reply] = field(factory=list)


class Driver:
    """One session under a policy.

    `events` holds all of them, contents joined; `sent` all octets that were sent.
    """

    def __init__(self, options: ServerOptions, policy: Policy | None = None, *, greet: bool = True) -> None:
        self.connection = ServerConnection(options)
        self.policy = Policy() if policy is None else policy
        self._auth = iter(self.policy.auth)
        self.events: list[Event] = []
        self.sent = b""
        if greet:
            self.connection.greet(self.policy.greeting)
            self.drain()

    @property
    def closing(self) -> Closing | None:
        """The end of the session, once it came."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Closing) else None

    def feed(self, data: bytes) -> bytes:
        """Give the machine what a client sent. Returns what it answers."""
        self.connection.receive_data(data)
        return self.drain()

    def feed_all(self, pieces: Iterable[bytes]) -> bytes:
        """Like `feed`, piece after piece."""
        return b"".join([self.feed(piece) for piece in pieces])

    def drain(self) -> bytes:
        """Answer all events. Returns what is to be sent."""
        while self.closing is None:
            event = self.connection.next_event()
            if event is NEED_DATA:
                break
            assert not isinstance(event, type(NEED_DATA))
            self._note(event)
            self._answer(event)
            if self.connection.state is State.HANDSHAKE:
                break
        data = self.connection.data_to_send()
        self.sent += data
        return data

    def _note(self, event: Event) -> None:
        last = self.events[-1] if self.events else None
        if isinstance(event, Content) and isinstance(last, Content):
            self.events[-1] = Content(last.data + event.data)
            return
        if isinstance(event, ContentRefused) and isinstance(last, Content):
            self.events.pop()  # how much came before the refusal depends on how it was cut, and is thrown away
        self.events.append(event)

    def _answer(self, event: Event) -> None:
        reply = self._decide(event)
        if reply is not None:
            self.connection.reply(reply)

    def _decide(self, event: Event) -> Reply | None:
        policy = self.policy
        match event:
            case Hello() | Debug():
                return Reply(250, "", "debugged")
            case MailFrom(path):
                return policy.mail.get("" if path is None else str(path), SENDER_OK)
            case RcptTo(recipient):
                return policy.rcpt.get(str(recipient.address), RECIPIENT_OK)
            case DataStart(chunked):
                return policy.data or (CHUNKS_OK if chunked else GO_AHEAD)
            case ContentEnd():
                return policy.end or QUEUED
            case StartTls():
                return policy.starttls
            case AuthStart() | AuthResponse():
                return self._authenticate(event)
            case _:
                return None

    def _authenticate(self, event: AuthStart | AuthResponse) -> Reply:
        if event == AuthResponse(None):
            return Reply(501, "5.7.0", "cancelled")
        reply = next(self._auth, WRONG_PASSWORD)
        if reply.code == 235:
            self.connection.set_authenticated("user@example.com")
        return reply


def sent_by(pieces: Iterable[bytes], options: ServerOptions, policy: Policy | None = None) -> tuple[list[Event], bytes]:
    """The events and the output of a session in which a client sends these pieces."""
    driver = Driver(options, policy)
    driver.feed_all(pieces)
    return driver.events, driver.sent


def bytewise(data: bytes) -> Iterator[bytes]:
    """Octet by octet; what is too long for that, in pieces that fit no other boundary."""
    step = 1 if len(data) <= MAX_BYTEWISE_OCTETS else 997
    return (data[at : at + step] for at in range(0, len(data), step))


def linewise(data: bytes) -> Iterator[bytes]:
    """Line by line, each with its LF."""
    lines = data.split(b"\n")
    return (
        line + b"\n" * (index < len(lines) - 1) for index, line in enumerate(lines) if index < len(lines) - 1 or line
    )


# ---- events as text ------------------------------------------------------------------------------


def describe(event: Event) -> str:
    """One line for one event, as the dialogues write it."""
    describer = _DESCRIBERS.get(type(event))
    return describer(event) if describer is not None else repr(event)


def _mail(event: MailFrom) -> str:
    said = {
        "size": event.size,
        "body": None if event.body.value == "7BIT" else event.body.value,
        "smtputf8": event.smtputf8 or None,
        "ret": event.ret and event.ret.value,
        "envid": event.envid,
        "requiretls": event.require_tls or None,
        "mt-priority": event.mt_priority,
    }
    path = "" if event.reverse_path is None else str(event.reverse_path)
    return " ".join([f"mail <{path}>", *(f"{key}={value}" for key, value in said.items() if value is not None)])


def _rcpt(event: RcptTo) -> str:
    recipient = event.recipient
    text = f"rcpt <{recipient.address}>"
    if recipient.notify is not None:
        text += f" notify={'|'.join(flag.name or '' for flag in recipient.notify) or 'NEVER'}"
    return text if recipient.original is None else f"{text} orcpt={recipient.original}"


def _short(reply: Reply | None) -> str:
    return "" if reply is None else f"{reply.code} {reply.enhanced}".rstrip()


_DESCRIBERS: dict[type, Callable[..., str]] = {
    Hello: lambda event: f"{'ehlo' if event.extended else 'helo'} {event.domain}",
    MailFrom: _mail,
    RcptTo: _rcpt,
    DataStart: lambda event: "chunks" if event.chunked else "data",
    Content: lambda event: f"content {event.data!r}"[:200],
    ContentEnd: lambda event: f"end size={event.size}" + " eight-bit" * event.eight_bit,
    ContentRefused: lambda event: f"content refused {_short(event.reply)}",
    Reset: lambda event: "reset",
    StartTls: lambda event: "starttls",
    AuthStart: lambda event: f"auth {event.mechanism} {event.initial!r}",
    AuthResponse: lambda event: f"response {event.response!r}",
    Debug: lambda event: " ".join(("debug", *event.arguments)),
    Refused: lambda event: f"refused {event.verb or '-'} {_short(event.reply)}",
    Closing: lambda event: f"closing {event.cause}",
}
