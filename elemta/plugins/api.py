"""The interface for plugins: what a plugin is, what it is asked, what it gets.

    from elemta.plugins.api import CONTINUE, Mail, Plugin, Reject, Verdict

    class NoInvoices(Plugin):
        async def on_data_headers(self, mail: Mail) -> Verdict:
            return Reject("no invoices here") if "invoice" in mail.headers.text("Subject") else CONTINUE

Stable: what stands here changes only with a major version. What is not here: how a plugin is found (`plugins.loader`),
called and contained (`plugins.chain`), verdicts and changes themselves (`plugins.verdicts`, given here as well).
Times are seconds; `Host.clock` gives UTC, deadlines are on Trio's clock.
"""

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import Any, ClassVar, Protocol

from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Priority, Recipient
from elemta.mail.outcome import Outcome
from elemta.net.base import Endpoint, Network
from elemta.plugins.verdicts import (
    CONTINUE,
    AddHeader,
    AddRecipient,
    Annotate,
    Change,
    Continue,
    Defer,
    Discard,
    Quarantine,
    Reject,
    RemoveHeader,
    RemoveRecipient,
    ReplaceBody,
    ReplaceHeader,
    SetPriority,
    SetRoute,
    SetSender,
    Verdict,
)
from elemta.resolver.base import Resolver
from elemta.runtime.clock import Clock
from elemta.runtime.threads import Threads

__all__ = [
    "CONTINUE",
    "AddHeader",
    "AddRecipient",
    "Annotate",
    "Change",
    "Content",
    "Continue",
    "Defer",
    "Delivery",
    "Discard",
    "Headers",
    "Host",
    "KeyValue",
    "Mail",
    "OnError",
    "Plugin",
    "PluginFailed",
    "Quarantine",
    "Reject",
    "RemoveHeader",
    "RemoveRecipient",
    "ReplaceBody",
    "ReplaceHeader",
    "Session",
    "SetPriority",
    "SetRoute",
    "SetSender",
    "SharedAway",
    "Stage",
    "Verdict",
]

#: Seconds that a call may take, unless the plugin or the configuration says otherwise. RFC 5321 §4.5.3.2.6 lets a
#: client wait ten minutes for the last reply; ten plugins may be asked before it.
DEADLINE_SECONDS = 30.0


class Stage(enum.Enum):
    """When a plugin is asked; the value is the method's name behind `on_`."""

    #: Members are their own only equals; the hash of an `Enum` is a call of Python.
    __hash__ = object.__hash__

    #: A client has connected; before the greeting.
    CONNECT = "connect"
    #: HELO or EHLO; again after STARTTLS.
    HELO = "helo"
    #: A user's name and password are right; before the client is told so.
    AUTH = "auth"
    #: MAIL.
    MAIL_FROM = "mail_from"
    #: RCPT, for a recipient that is local or may be relayed to.
    RCPT_TO = "rcpt_to"
    #: The header of the mail is there, its body not yet.
    DATA_HEADERS = "data_headers"
    #: The whole mail is there; it is not in the queue yet.
    DATA_COMPLETE = "data_complete"
    #: The mail is durable, the client has its 250 or will have it in a moment. Nothing can be refused any more.
    QUEUED = "queued"
    #: Before each attempt to deliver.
    PRE_DELIVERY = "pre_delivery"
    #: After each attempt. Nothing can be changed any more.
    POST_DELIVERY = "post_delivery"
    #: The client is gone, or will be.
    DISCONNECT = "disconnect"


class OnError(enum.Enum):
    """What becomes of a mail whose plugin failed: raised, took too long, answered nonsense."""

    #: As if the plugin were not there.
    ACCEPT = "accept"
    #: 451; an attempt to deliver is put off.
    DEFER = "defer"
    #: 550; an attempt to deliver fails for good.
    REJECT = "reject"


# ---- what a plugin is told -----------------------------------------------------------------------


class Session(Protocol):
    """One client's connection, as far as it has come. Read-only, but for `notes`."""

    @property
    def id(self) -> str:
        """A name for the log, of this session alone."""
        ...

    @property
    def client(self) -> Endpoint:
        """The client's address and port; behind a trusted proxy those that the proxy tells."""
        ...

    @property
    def local(self) -> Endpoint:
        """Our own end."""
        ...

    @property
    def listener(self) -> str:
        """The listener's name in the configuration."""
        ...

    @property
    def helo(self) -> str:
        """What the client calls itself; empty before HELO, and again after STARTTLS."""
        ...

    @property
    def tls(self) -> str:
        """The version of TLS, as `TLSv1.3`; empty in the clear."""
        ...

    @property
    def cipher(self) -> str:
        """The cipher suite; empty in the clear."""
        ...

    @property
    def user(self) -> str:
        """Who logged in; empty for nobody."""
        ...

    @property
    def mechanism(self) -> str:
        """By which SASL mechanism, as `PLAIN`; empty for nobody."""
        ...

    @property
    def may_relay(self) -> bool:
        """Whether the client may send to every domain: by its address, its certificate or its login."""
        ...

    @property
    def score(self) -> float:
        """What plugins gave it so far; every mail of the session begins with it."""
        ...

    @property
    def refusals(self) -> int:
        """How often the client was refused for good (5yz) so far, whoever refused it."""
        ...

    @property
    def notes(self) -> MutableMapping[object, Any]:
        """A place for a plugin's own state, while the session lasts: `session.notes[self] = …`."""
        ...


class Headers(Protocol):
    """The fields of a mail's header, in order, as they stand after earlier changes; names in any case of letters."""

    def text(self, name: str) -> str:
        """The first field's value for people: decoded (RFC 2047), on one line; empty when there is none."""
        ...

    def raw(self, name: str) -> Sequence[bytes]:
        """The values of every field of the name as they stand in the mail, folds included, stripped."""
        ...

    @property
    def fields(self) -> Sequence[tuple[str, bytes]]:
        """All fields: name, and value as it stands in the mail, behind the colon, without the last CRLF."""
        ...


class Content(Protocol):
    """A mail's octets: header, empty line, body; as they stand after earlier changes. Large ones lie on disk."""

    @property
    def size(self) -> int:
        """Octets in all."""
        ...

    @property
    def header_octets(self) -> int:
        """Octets of the header, with the CRLF of its last field, without the empty line."""
        ...

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`; empty at the end. Raises `ContentAway`, best let pass."""
        ...

    def chunks(self, offset: int = 0) -> AsyncIterator[bytes]:
        """All octets from `offset`, in pieces of at most 64 KiB: `async for piece in mail.content.chunks():`."""
        ...


class Mail(Protocol):
    """One mail on its way in, as far as it has come, earlier plugins' changes included. Read-only, but for `notes`."""

    @property
    def id(self) -> str:
        """Its queue id, which the client is told in the end."""
        ...

    @property
    def session(self) -> Session:
        """Who brings it."""
        ...

    @property
    def sender(self) -> Address | None:
        """The reverse-path; None for the null reverse-path."""
        ...

    @property
    def recipients(self) -> Sequence[Recipient]:
        """The forward-paths so far; at `on_rcpt_to` without the one that is asked about."""
        ...

    @property
    def declared_size(self) -> int | None:
        """What MAIL said with SIZE= (RFC 1870 §3); None when it said nothing."""
        ...

    @property
    def headers(self) -> Headers:
        """The header; empty before `on_data_headers`."""
        ...

    @property
    def content(self) -> Content:
        """The whole mail; empty before `on_data_complete`."""
        ...

    @property
    def priority(self) -> Priority | None:
        """The priority that a plugin gave it; None otherwise."""
        ...

    @property
    def score(self) -> float:
        """What plugins gave it and its session so far."""
        ...

    @property
    def annotations(self) -> MutableMapping[str, str]:
        """A copy of the words about it so far; see `Annotate`."""
        ...

    @property
    def notes(self) -> MutableMapping[object, Any]:
        """A place for a plugin's own state, while the mail comes in: `mail.notes[self] = …`."""
        ...

    def start_soon(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run a task beside the session; it is cancelled when the mail is queued or refused. Raises `RuntimeError`
        when the mail has too many."""
        ...


@frozen
class Delivery:
    """One attempt to deliver a queued mail, or a part of it that goes to one destination."""

    id: str
    #: With the recipients alone that are still to be tried.
    envelope: Envelope
    destination: str
    #: Attempts before this one.
    attempts: int
    annotations: MutableMapping[str, str]
    content: Content


# ---- what a plugin may use -----------------------------------------------------------------------


class PluginFailed(Exception):
    """What a plugin raises where it cannot do its part: its text explains, and is logged without a traceback."""


class SharedAway(PluginFailed):
    """The key-value store does not answer: it says why."""


class ContentAway(Exception):
    """The store does not give a mail's content just now: it says why. No plugin's failure: the mail is deferred."""


class KeyValue(Protocol):
    """Small state that outlives the session: shared by all nodes of a queue, kept over restarts where the queue is.

    Keys are a plugin's own: two plugins may use the same. A key has at most 200 octets of UTF-8, a value at most 4096
    octets (`ValueError`). What is past its time is not there. Every call may raise `SharedAway`.
    """

    async def get(self, key: str) -> bytes | None:
        """The value; None when there is none."""
        ...

    async def put(self, key: str, value: bytes, *, seconds: float) -> None:
        """Set the value, for so long."""
        ...

    async def swap(self, key: str, old: bytes | None, new: bytes, *, seconds: float) -> bool:
        """Set the value if it is still `old` (None: if there is none); False when it is not."""
        ...

    async def add(self, key: str, amount: int = 1, *, seconds: float) -> int:
        """Add to a counter and return it. One that is not there begins at 0 and lasts `seconds` from then; where the
        clock is set back, no longer than that from now."""
        ...

    async def delete(self, key: str) -> None:
        """Forget it."""
        ...


class Host(Protocol):
    """The server, as far as a plugin may use it. In tests and simulated worlds all of it is virtual."""

    @property
    def hostname(self) -> str:
        """The server's own name."""
        ...

    @property
    def routes(self) -> Collection[str]:
        """The names of routes that `SetRoute` may give."""
        ...

    @property
    def log(self) -> FilteringBoundLogger:
        """A log whose lines name the plugin."""
        ...

    @property
    def clock(self) -> Clock:
        """Wall time."""
        ...

    @property
    def network(self) -> Network:
        """Connections to other servers; a call's own deadline bounds them."""
        ...

    @property
    def resolver(self) -> Resolver:
        """DNS."""
        ...

    @property
    def threads(self) -> Threads:
        """For calls that block."""
        ...

    @property
    def shared(self) -> KeyValue:
        """State that is shared and kept."""
        ...

    def start_soon(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run a task while the server runs; it is cancelled when the server ends. What it raises is logged. Raises
        `RuntimeError` when the plugin has too many."""
        ...


class Plugin:
    """One plugin: derive from it, and override the hooks that are to be asked. Those that are not cost nothing.

    Each call has a deadline, and a failure becomes what `on_error` says. Several calls of one hook may be under way at
    once, for different sessions. Where `blocking` is true, every hook is a plain `def` and runs in a thread.
    """

    #: An attrs class of its section in the configuration; its instance is given to `__init__`.
    settings_class: ClassVar[type | None] = None
    #: Higher is asked first; the original's 100, 75, 50, 25, 0.
    priority: ClassVar[int] = 50
    #: Seconds for one call.
    deadline: ClassVar[float] = DEADLINE_SECONDS
    on_error: ClassVar[OnError] = OnError.ACCEPT
    #: Whether its hooks are plain functions that may block.
    blocking: ClassVar[bool] = False
    #: The stages to be asked at, where an instance knows that others of its hooks have nothing to do; None for all.
    stages: frozenset[Stage] | None = None
    #: One sentence for `elemta plugin list`.
    about: ClassVar[str] = ""

    def __init__(self, host: Host, settings: Any = None) -> None:
        self.host = host
        self.settings = settings

    async def start(self) -> None:
        """Called once, before the first client is served. What it raises keeps the server from starting."""

    async def stop(self) -> None:
        """Called once, behind the last call; a few seconds are left."""

    async def on_connect(self, session: Session) -> Verdict:
        return CONTINUE

    async def on_helo(self, session: Session) -> Verdict:
        return CONTINUE

    async def on_auth(self, session: Session) -> Verdict:
        return CONTINUE

    async def on_mail_from(self, mail: Mail) -> Verdict:
        return CONTINUE

    async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
        return CONTINUE

    async def on_data_headers(self, mail: Mail) -> Verdict:
        return CONTINUE

    async def on_data_complete(self, mail: Mail) -> Verdict:
        return CONTINUE

    async def on_queued(self, mail: Mail) -> None: ...

    async def on_pre_delivery(self, delivery: Delivery) -> Verdict:
        return CONTINUE

    async def on_post_delivery(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None: ...

    async def on_disconnect(self, session: Session) -> None: ...
