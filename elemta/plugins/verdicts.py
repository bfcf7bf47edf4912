"""What a plugin may answer.

What is not here: who is asked when (`plugins.api`), how a change reaches the mail (`plugins.mail`).
Everything is checked as it is made, so that a plugin's mistake is raised inside the plugin: `ValueError`.
"""

import re
from collections.abc import Iterable
from itertools import islice
from math import isfinite

from attrs import field, frozen

from elemta.mail.address import Address
from elemta.mail.envelope import Priority, Recipient
from elemta.mail.headers import printable
from elemta.mail.reply import Reply
from elemta.smtp.grammar import AddressError, parse_address

#: Octets of one line of a mail without its CRLF, RFC 5322 §2.1.1.
MAX_LINE_OCTETS = 998
#: Characters of a field's name: RFC 5322 §2.2, and room for the colon and a value on its line.
MAX_NAME_CHARACTERS = 76
#: Characters of a verdict's text: one reply line of 512 octets, RFC 5321 §4.5.3.1.5, without code and status.
MAX_TEXT_CHARACTERS = 450
#: Characters of an annotation's name and value: it is kept in the database with the mail.
MAX_KEY_CHARACTERS = 64
MAX_VALUE_CHARACTERS = 1000
#: Changes of one verdict: as many recipients as a mail may have, and some fields. Nobody is served while they are made.
MAX_CHANGES = 2500
#: Octets of all bodies that plugins give one mail, one after the other: a body is held in memory.
MAX_BODY_OCTETS = 32 * 1024 * 1024

#: Why a mail is held where the plugin that holds it gives no reason: whoever is held has one.
NO_REASON = "a filter gave no reason"
#: Annotations that are the server's own: what plugins cost, the name of the route that one chose.
COSTS_KEY, ROUTE_KEY = "plugins", "route"

#: RFC 5322 §3.6.8: any printable US-ASCII character but the colon.
_NAME = re.compile(r"[!-9;-~]+\Z")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
#: A CRLF that is no fold, a bare CR or LF, NUL: none may stand in a field's value.
_BROKEN = re.compile(rb"\r\n(?![ \t])|\r(?!\n)|(?<!\r)\n|\0")
#: A line that is too long, from its first octet on: at the beginning, and behind another line. Tried at every octet it
#: would take two seconds for each megabyte of long lines, and nobody is served meanwhile.
_LONG_FIRST = re.compile(rb"[^\r\n]{%d}" % (MAX_LINE_OCTETS + 1))
_LONG_LATER = re.compile(rb"\n[^\r\n]{%d}" % (MAX_LINE_OCTETS + 1))
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")
#: RFC 3461 §4.2: a type, which is an atom of RFC 5322 §3.2.3, and an address.
_ORIGINAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+;.+\Z")


def _text(text: str) -> str:
    """The text of a reply on one line of US-ASCII, RFC 5321 §4.2: what came from elsewhere is made printable and short.

    RFC 6531 §3.7.4.2 lets other characters stand in replies to some commands only; a question mark stands for them.
    """
    return printable(str(text)).encode("ascii", "replace").decode()[:MAX_TEXT_CHARACTERS]


def _reason(reason: str) -> str:
    """The reason for a fate, on one line."""
    return printable(str(reason))[:MAX_TEXT_CHARACTERS]


def _field_name(name: str) -> str:
    if not _NAME.match(name) or len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"{name!r} is no name of a header field")
    return name


def _field_value(value: str | bytes) -> bytes:
    octets = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
    if _BROKEN.search(octets):
        raise ValueError(f"the value {value[:60]!r} has a line break that is no fold (CRLF and a space), or a NUL")
    if _has_long_line(octets) or len(octets.partition(b"\r\n")[0]) > MAX_LINE_OCTETS - MAX_NAME_CHARACTERS - 2:
        raise ValueError(f"the value {value[:60]!r} has a line of more than {MAX_LINE_OCTETS} octets: fold it")
    return octets


def _has_long_line(octets: bytes) -> bool:
    return _LONG_FIRST.match(octets) is not None or _LONG_LATER.search(octets) is not None


def _an_address(address: object) -> Address:
    if not isinstance(address, Address):
        raise ValueError(f"{address!r:.80} is no Address")
    return address


def _address(given: object) -> Address:
    """An address as a client could have said it: it goes into commands to other servers, and into reports."""
    address = _an_address(given)
    try:
        is_sound = parse_address(str(address)) == address
    except AddressError as error:
        raise ValueError(f"{address!r:.80} is no address: {error}") from None
    if not is_sound:
        raise ValueError(f"{address!r:.80} is not written as addresses are: make it with parse_address")
    return address


def _sender(address: object) -> Address | None:
    return None if address is None else _address(address)


def _recipient(recipient: object) -> Recipient:
    if not isinstance(recipient, Recipient):
        raise ValueError(f"{recipient!r:.80} is no Recipient")
    _address(recipient.address)
    original = recipient.original
    if original is not None and (not _ORIGINAL.match(original) or printable(original) != original):
        raise ValueError(f"{original!r:.80} is no original recipient: a type, a semicolon, an address")
    return recipient


def _body(octets: bytes) -> bytes:
    octets = memoryview(octets).tobytes()  # what is checked is what stays, whoever holds the rest
    if not octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n"):
        raise ValueError("a body has a bare CR or LF: every line ends with CRLF")
    if _has_long_line(octets):
        raise ValueError(f"a body has a line of more than {MAX_LINE_OCTETS} octets")
    return octets


def _annotation(value: object) -> str:
    return printable(str(value))[:MAX_VALUE_CHARACTERS]


# ---- changes -------------------------------------------------------------------------------------


@frozen
class AddHeader:
    """Add a field: at the top (`at` 0), before the field of that number, or behind all (`at` None).

    The value may be folded (CRLF, then a space or tab). `ValueError` for what would not be one field.
    """

    name: str = field(converter=_field_name)
    value: bytes = field(converter=_field_value)
    at: int | None = 0


@frozen
class ReplaceHeader:
    """Give the field `name` another value: the first of that name, or the one of `occurrence` (from 1).

    Where there is none it is added behind all.
    """

    name: str = field(converter=_field_name)
    value: bytes = field(converter=_field_value)
    occurrence: int = 1


@frozen
class RemoveHeader:
    """Take the fields `name` away: all of them, or the one of `occurrence` (from 1)."""

    name: str = field(converter=_field_name)
    occurrence: int | None = None


@frozen
class ReplaceBody:
    """Another body: what follows the empty line behind the header. Lines end with CRLF; `ValueError` otherwise."""

    octets: bytes = field(converter=_body, repr=False)


@frozen
class SetSender:
    """Another reverse-path; None for the null reverse-path."""

    address: Address | None = field(converter=_sender)


@frozen
class AddRecipient:
    """One recipient more. Nobody asks whether the client might have sent to it: the plugin did."""

    recipient: Recipient = field(converter=_recipient)


@frozen
class RemoveRecipient:
    """One recipient less. A mail without any is discarded."""

    address: Address = field(converter=_an_address)


@frozen
class SetPriority:
    """The priority in the queue, before all that routes and listeners say."""

    priority: Priority


@frozen
class SetRoute:
    """Send all recipients by the route of this `name` in the configuration, whatever their domains.

    An unknown name is the plugin's failure.
    """

    name: str


@frozen
class Annotate:
    """A word about the mail, kept with it and shown by `elemta queue show`."""

    key: str = field()
    value: str = field(converter=_annotation)

    @key.validator
    def _check_key(self, _: object, key: str) -> None:
        if not _KEY.match(key) or len(key) > MAX_KEY_CHARACTERS:
            raise ValueError(f"{key!r} is no key: letters, digits, '.', '_' and '-', at most {MAX_KEY_CHARACTERS}")
        if key in (COSTS_KEY, ROUTE_KEY):
            raise ValueError(f"the annotation {key!r} is the server's own")


Change = (
    AddHeader
    | ReplaceHeader
    | RemoveHeader
    | ReplaceBody
    | SetSender
    | AddRecipient
    | RemoveRecipient
    | SetPriority
    | SetRoute
    | Annotate
)


def _changes(changes: Iterable[Change]) -> tuple[Change, ...]:
    made = tuple(islice(changes, MAX_CHANGES + 1))
    if len(made) > MAX_CHANGES:
        raise ValueError(f"a verdict has more than {MAX_CHANGES} changes")
    return made


def _score(score: float) -> float:
    number = float(score)
    if not isfinite(number):
        raise ValueError(f"{score!r} is no score")
    return number


# ---- verdicts ------------------------------------------------------------------------------------


@frozen
class Continue:
    """Go on, with these changes if any. `score` is added to the mail's (or the session's) own: more is worse."""

    changes: tuple[Change, ...] = field(default=(), converter=_changes)
    score: float = field(default=0.0, converter=_score)


CONTINUE = Continue()


@frozen
class Reject:
    """Refuse for good. At `on_connect` the client hears 554 (RFC 5321 §3.1), and nothing more."""

    text: str = field(default="refused by policy", converter=_text)
    code: int = 550
    enhanced: str = "5.7.1"
    score: float = field(default=0.0, converter=_score)

    def __attrs_post_init__(self) -> None:
        _check_reply(self.code, self.enhanced, 5)

    @property
    def reply(self) -> Reply:
        """What the client hears."""
        return Reply(self.code, self.enhanced, self.text)


@frozen
class Defer:
    """Refuse; the client may come again. A `code` of 421 ends the session as well, and at `on_connect` any."""

    text: str = field(default="not now, try again later", converter=_text)
    code: int = 451
    enhanced: str = "4.7.1"
    score: float = field(default=0.0, converter=_score)

    def __attrs_post_init__(self) -> None:
        _check_reply(self.code, self.enhanced, 4)

    @property
    def reply(self) -> Reply:
        """What the client hears."""
        return Reply(self.code, self.enhanced, self.text)


@frozen
class Discard:
    """Answer 250 and throw the mail away; the reason is for the log."""

    reason: str = field(converter=_reason)
    score: float = field(default=0.0, converter=_score)


@frozen
class Quarantine:
    """Take the mail, with these changes if any, and hold it in the queue until an operator decides."""

    reason: str = field(converter=_reason)
    changes: tuple[Change, ...] = field(default=(), converter=_changes)
    score: float = field(default=0.0, converter=_score)


Verdict = Continue | Reject | Defer | Discard | Quarantine


def _check_reply(code: int, enhanced: str, kind: int) -> None:
    if code // 100 != kind:
        raise ValueError(f"{code} is not between {kind}00 and {kind}99")
    if not _ENHANCED.match(enhanced) or enhanced[0] != str(kind):
        raise ValueError(f"{enhanced!r} is no enhanced status code of a {kind}yz reply (RFC 3463 §2)")
