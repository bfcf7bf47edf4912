"""One mail on its way in, as plugins see it.

What is not here: calling plugins (`plugins.chain`), or what the server makes of the changes (`inbound.plugged`). What a
plugin is given cannot be written to but for `notes`; changes come with a verdict and are applied here, so that the next
plugin sees them. Failure raised: `ValueError` for a change that cannot be made: the plugin's failure.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from attrs import field, frozen

from elemta.mail.address import Address
from elemta.mail.envelope import Priority, Recipient
from elemta.mail.headers import MAX_HEADER_OCTETS
from elemta.net.base import Endpoint
from elemta.plugins.api import Content
from elemta.plugins.content import ComposedContent, NoContent, Reader
from elemta.plugins.costs import Ledger, SessionLedger
from elemta.plugins.fields import HeaderFields
from elemta.plugins.tasks import TaskKeeper, TasksOfMail
from elemta.plugins.verdicts import (
    COSTS_KEY,
    MAX_BODY_OCTETS,
    ROUTE_KEY,
    AddHeader,
    AddRecipient,
    Annotate,
    Change,
    RemoveHeader,
    RemoveRecipient,
    ReplaceBody,
    ReplaceHeader,
    SetPriority,
    SetRoute,
    SetSender,
)
from elemta.runtime.budget import ByteBudget

#: Annotations that plugins may give one mail.
MAX_ANNOTATIONS: Final = 50
#: Recipients that one mail may have with those that plugins added.
MAX_RECIPIENTS: Final = 2000

_NOTHING: Final = NoContent()
_NO_FIELDS: Final = HeaderFields()


@frozen
class SessionFacts:
    """A session as plugins see it; a new one when something of it has changed, with the same notes and ledger."""

    id: str
    client: Endpoint
    local: Endpoint
    listener: str
    helo: str = ""
    tls: str = ""
    cipher: str = ""
    user: str = ""
    mechanism: str = ""
    may_relay: bool = False
    notes: MutableMapping[object, Any] = field(factory=dict, repr=False)
    ledger: SessionLedger = field(factory=SessionLedger, repr=False)

    @property
    def score(self) -> float:
        """What plugins gave it so far."""
        return self.ledger.score

    @property
    def refusals(self) -> int:
        """How often the client was refused for good so far."""
        return self.ledger.refusals


class MailInHand:
    """One mail. The server's side of it; plugins know it as `plugins.api.Mail`."""

    # What nearly every mail leaves as it is stands here once: setting two dozen names took as long as all the rest.
    #: Has room for the bodies that plugins give; None for no bound but the mail's own.
    budget: ByteBudget | None = None
    #: Whether a body that a plugin gave had no room in memory: the server's trouble, not the plugin's.
    is_too_large_now = False
    _tasks: TasksOfMail | None = None
    _is_over = False
    _charged = _taken = 0
    _block = b""
    _headers: HeaderFields | None = _NO_FIELDS
    _content: Content | None = _NOTHING
    _read: Reader | None = None
    _body: bytes | None = None
    _body_at = _size = 0
    _is_changed = False
    _is_readdressed = False
    _priority: Priority | None = None
    _route = ""
    _annotations: Mapping[str, str] = MappingProxyType({})
    _notes: MutableMapping[object, Any] | None = None
    _by_address: dict[Address, tuple[Recipient, ...]] | None = None

    def __init__(
        self,
        queue_id: str,
        session: SessionFacts,
        sender: Address | None,
        *,
        declared_size: int | None = None,
        routes: Collection[str] = (),
        keeper: TaskKeeper | None = None,
    ) -> None:
        """`routes` are the names that `SetRoute` may give, `keeper` owns the tasks that end with the mail."""
        self._id = queue_id
        self._session = session
        self._sender = sender
        self._declared_size = declared_size
        self._routes = routes
        self._keeper = keeper
        self._recipients: list[Recipient] = []
        self.ledger = Ledger(session.ledger)

    # ---- what plugins see ----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its queue id."""
        return self._id

    @property
    def session(self) -> SessionFacts:
        """Who brings it."""
        return self._session

    @property
    def sender(self) -> Address | None:
        """The reverse-path."""
        return self._sender

    @property
    def recipients(self) -> Sequence[Recipient]:
        """The forward-paths so far."""
        if self._by_address is None:
            return tuple(self._recipients)
        return tuple([one for several in self._by_address.values() for one in several])

    @property
    def declared_size(self) -> int | None:
        """What MAIL said with SIZE=."""
        return self._declared_size

    @property
    def headers(self) -> HeaderFields:
        """The header, changes included."""
        if self._headers is None:
            self._headers = HeaderFields.parse(self._block)
        return self._headers

    @property
    def content(self) -> Content:
        """The whole mail, changes included."""
        if self._content is None:
            self._content = self._composed()
        return self._content

    @property
    def priority(self) -> Priority | None:
        """What a plugin said."""
        return self._priority

    @property
    def route(self) -> str:
        """The name of the route that a plugin chose; empty otherwise."""
        return self._route

    @property
    def score(self) -> float:
        """What plugins gave it and its session."""
        return self.ledger.score

    @property
    def annotations(self) -> MutableMapping[str, str]:
        """A copy."""
        return dict(self._annotations)

    @property
    def notes(self) -> MutableMapping[object, Any]:
        """The plugins' own."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    def start_soon(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run a task beside the session, ended with the mail. Raises `RuntimeError` for one too many."""
        if self._keeper is None:
            raise RuntimeError("this mail can have no tasks")
        if self._is_over:
            raise RuntimeError("the mail is queued or refused already; host.start_soon starts what outlives it")
        if self._tasks is None:
            self._tasks = TasksOfMail(self._keeper)
        self._tasks.start(self.ledger.asked, function, *arguments)

    # ---- what the server tells -----------------------------------------------------------------------

    def add_recipient(self, recipient: Recipient) -> None:
        """The client named one that was taken."""
        if self._by_address is None:
            self._recipients.append(recipient)
        else:
            known = self._by_address.get(recipient.address, ())
            self._by_address[recipient.address] = (*known, recipient)

    def header_came(self, block: bytes) -> None:
        """The header is there: octets before the empty line. It is taken apart when somebody asks."""
        self._block = block
        self._headers = None

    def content_came(self, read: Reader, *, header_octets: int, size: int) -> None:
        """All of it is there; `read` reads what the client sent, our trace field before it."""
        self._read = read
        self._size = size
        # Without an empty line the whole mail is header, and there is no body to find.
        self._body_at = min(header_octets + 2, size)
        self._content = None

    def _composed(self) -> Content:
        assert self._read is not None
        header = self.headers.render() if self._is_changed else self._block
        return ComposedContent(header, body_at=self._body_at, size=self._size, read=self._read, other=self._body)

    @property
    def is_changed(self) -> bool:
        """Whether the octets are not what the client sent."""
        return self._is_changed

    @property
    def is_readdressed(self) -> bool:
        """Whether the envelope is not what the client said."""
        return self._is_readdressed

    def end_tasks(self) -> None:
        """The mail is queued or refused: its tasks end, and there are no new ones."""
        self._is_over = True
        if self._tasks is not None:
            self._tasks.close()

    def release(self) -> None:
        """Let go of content and tasks: the mail is queued or refused, and a plugin may still hold it."""
        self.end_tasks()
        self._read = self._body = None
        self._content = _NOTHING
        if self._charged:
            assert self.budget is not None
            self.budget.give_back(self._charged)
            self._charged = 0

    # ---- changes -------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> None:
        """Make a plugin's changes: all of them, or none and `ValueError`."""
        before = self._snapshot()
        try:
            for change in changes:
                self._change(change)
            if self._is_changed and len(self.headers.render()) > MAX_HEADER_OCTETS:
                raise ValueError(f"the header would have more than {MAX_HEADER_OCTETS} octets")
        except BaseException:
            self._restore(before)
            raise
        if self._is_changed and self._read is not None:
            self._content = None

    def _snapshot(self) -> tuple[Any, ...]:
        return (
            self._headers,
            self._body,
            self._is_changed,
            self._sender,
            self._is_readdressed,
            self._taken,
            None if self._by_address is None else self._by_address.copy(),
            self._priority,
            self._route,
            self._annotations,
        )

    def _restore(self, before: tuple[Any, ...]) -> None:
        self._headers, self._body, self._is_changed, self._sender = before[:4]
        self._is_readdressed, self._taken = before[4:6]
        self._by_address, self._priority, self._route, self._annotations = before[6:]

    def _change(self, change: Change) -> None:
        match change:
            case AddHeader() | ReplaceHeader() | RemoveHeader():
                if self._headers is _NO_FIELDS:
                    raise ValueError("there is no header yet: it can be changed from on_data_headers on")
                self._headers = _edited(self.headers, change)
                self._is_changed = True
            case ReplaceBody(octets):
                self._replace_body(octets)
            case SetSender(address):
                self._sender, self._is_readdressed = address, True
            case AddRecipient(recipient):
                self._add(recipient)
            case RemoveRecipient(address):
                self._is_readdressed = True
                self._addressed().pop(address, None)
            case SetPriority(priority):
                self._priority = Priority(priority)
            case SetRoute(name):
                if name not in self._routes:
                    raise ValueError(f"there is no route named {name!r} in the configuration")
                self._route = name
            case Annotate(key, value):
                self._annotate(key, value)
            case _:
                raise ValueError(f"{change!r} is no change")

    def _replace_body(self, octets: bytes) -> None:
        if self._read is None:
            raise ValueError("there is no body yet: it can be replaced at on_data_complete alone")
        self._taken += len(octets)
        if self._taken > MAX_BODY_OCTETS:
            raise ValueError(f"bodies of more than {MAX_BODY_OCTETS} octets in all")
        if self.budget is not None and not self.budget.take(len(octets)):
            self.is_too_large_now = True
            return
        self._charged += len(octets)
        self._body = octets
        self._is_changed = True

    def _add(self, recipient: Recipient) -> None:
        if not isinstance(recipient, Recipient) or not recipient.address.domain:
            raise ValueError(f"{recipient!r} is no recipient with a domain")
        known = self._addressed()
        if len(known) >= MAX_RECIPIENTS:
            raise ValueError(f"the mail has {len(known)} recipients already, no more may be added")
        self._is_readdressed = True
        known.setdefault(recipient.address, (recipient,))

    def _addressed(self) -> dict[Address, tuple[Recipient, ...]]:
        """The recipients by address, in their order, once a plugin changes them: a client may name one twice."""
        if self._by_address is None:
            self._by_address = {}
            for recipient in self._recipients:
                known = self._by_address.get(recipient.address, ())
                self._by_address[recipient.address] = (*known, recipient)
        return self._by_address

    def _annotate(self, key: str, value: str) -> None:
        if key not in self._annotations and len(self._annotations) >= MAX_ANNOTATIONS:
            raise ValueError(f"the mail has {MAX_ANNOTATIONS} annotations already")
        self._annotations = {**self._annotations, key: value}


def _edited(headers: HeaderFields, change: AddHeader | ReplaceHeader | RemoveHeader) -> HeaderFields:
    match change:
        case AddHeader(name, value, at):
            return headers.added(name, value, at)
        case ReplaceHeader(name, value, occurrence):
            return headers.replaced(name, value, occurrence)
        case RemoveHeader(name, occurrence):
            return headers.removed(name, occurrence)


def frozen_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """A mail's annotations for a plugin at delivery: without the server's own."""
    return {key: value for key, value in annotations.items() if key not in (COSTS_KEY, ROUTE_KEY)}
