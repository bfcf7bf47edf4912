"""What a rule may ask about: each fact with its kind, the stages at which it is known, how it is read.

Reading has no side effects, and nothing of it raises, whatever the mail. What is not here: comparing
(`rules.operators`).
"""

import enum
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final
from unicodedata import normalize

from attrs import define, field, frozen

from elemta.mail.address import Address
from elemta.mail.headers import MAX_READABLE_CHARACTERS, readable
from elemta.plugins.api import Change, Delivery, Mail, Session, Stage

#: Fields of one name that are looked at: RFC 5321 §6.3 lets a mail pass a hundred hops, each of which adds one.
MAX_FIELDS: Final = 100
#: Characters of all fields of one name that are looked at: ten of the longest, RFC 5322 §2.1.1. A pattern takes up to 3
#: µs for each, and nobody else is served meanwhile.
MAX_CHARACTERS: Final = 10 * MAX_READABLE_CHARACTERS
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

IpAddress = IPv4Address | IPv6Address


class Kind(enum.Enum):
    """What may be asked of a fact; the value says it to people."""

    TEXT = "a text"
    ADDRESS = "a mail address"
    DOMAIN = "a domain"
    NUMBER = "a number"
    OCTETS = "a size"
    FLAG = "true or false"
    CLIENT = "an IP address"
    TIME = "a time of day"
    WEEKDAY = "a day of the week"


@define(slots=True)
class Situation:
    """Everything that is known when rules are asked: of a session, of its mail, or of a delivery."""

    #: UTC in seconds since 1970.
    now: float
    session: Session | None = None
    mail: Mail | None = None
    #: The one that is asked about at `rcpt_to`.
    recipient: Address | None = None
    delivery: Delivery | None = None
    #: What rules added to the score so far.
    added_score: float = 0.0
    #: What rules asked for so far: the mail does not have it yet.
    changes: list[Change] = field(factory=list)
    _known: dict[tuple[str, str, bool], Any] = field(factory=dict)

    def ask(self, fact: "Fact", argument: str = "", *, is_folded: bool = False) -> Any:
        """What a fact is; `is_folded` asks for its texts in small letters. Read once, however many rules ask.

        Accents of texts are composed (NFC), as those of rules are.
        """
        if not fact.is_steady:
            return fact.read(self, argument)
        key = (fact.name, argument, is_folded)
        if key not in self._known:
            known = self.ask(fact, argument) if is_folded else fact.read(self, argument)
            if isinstance(known, tuple):
                known = tuple(text.casefold() if is_folded else normalize("NFC", text) for text in known)
            self._known[key] = known
        return self._known[key]


#: All values of a fact for texts, one for the others; the second argument is the name behind the colon.
Reader = Callable[[Situation, str], object]


@frozen
class Fact:
    """One thing to ask about."""

    name: str
    kind: Kind
    stages: frozenset[Stage]
    read: Reader = field(eq=False, repr=False)
    about: str = field(eq=False, repr=False)
    #: What stands behind the colon, as in `header:Subject`; empty when nothing does.
    argument: str = ""
    #: Whether it stays while the rules of a stage are asked.
    is_steady: bool = True

    @property
    def is_of_field(self) -> bool:
        """Whether what stands behind the colon is the name of a header field."""
        return self.argument == "Name"

    def spelled(self, argument: str) -> str:
        """What stands behind the colon, in the one form that is looked for."""
        return argument.lower() if self.is_of_field else argument


_IN = (Stage.MAIL_FROM, Stage.RCPT_TO, Stage.DATA_HEADERS, Stage.DATA_COMPLETE)
_DATA = frozenset({Stage.DATA_HEADERS, Stage.DATA_COMPLETE})
_ENVELOPE = frozenset({*_IN, Stage.PRE_DELIVERY})
_RECIPIENTS = _ENVELOPE - {Stage.MAIL_FROM}
_SESSION = frozenset({Stage.CONNECT, Stage.HELO, Stage.AUTH, *_IN})
_HELO = _SESSION - {Stage.CONNECT}
_LOGIN = _HELO - {Stage.HELO}
#: Where rules can be asked: everywhere but where an answer no longer matters.
STAGES: Final = _SESSION | {Stage.PRE_DELIVERY}


def _of_session(name: str) -> Reader:
    return lambda situation, _: getattr(situation.session, name)


def _text_of_session(name: str) -> Reader:
    return lambda situation, _: (getattr(situation.session, name),)


def _client(situation: Situation, _: str) -> IpAddress | None:
    """The client's address; None on a unix socket. An IPv4 address in IPv6's clothes is IPv4."""
    assert situation.session is not None
    try:
        address = ip_address(situation.session.client.host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _sender_of(situation: Situation) -> Address | None:
    if situation.delivery is not None:
        return situation.delivery.envelope.reverse_path
    return None if situation.mail is None else situation.mail.sender


def _sender(situation: Situation, _: str) -> tuple[str, ...]:
    return ("" if (sender := _sender_of(situation)) is None else str(sender),)


def _sender_domain(situation: Situation, _: str) -> tuple[str, ...]:
    return ("" if (sender := _sender_of(situation)) is None else sender.domain,)


def _recipients_of(situation: Situation) -> tuple[Address, ...]:
    if situation.recipient is not None:
        return (situation.recipient,)
    if situation.delivery is not None:
        return tuple(each.address for each in situation.delivery.envelope.recipients)
    return () if situation.mail is None else tuple(each.address for each in situation.mail.recipients)


def _recipient(situation: Situation, _: str) -> tuple[str, ...]:
    return tuple(map(str, _recipients_of(situation)))


def _recipient_domain(situation: Situation, _: str) -> tuple[str, ...]:
    return tuple(address.domain for address in _recipients_of(situation))


def _recipients(situation: Situation, _: str) -> int:
    if situation.delivery is not None:
        return len(situation.delivery.envelope.recipients)
    # At RCPT the one that is asked about counts: "more than 10" refuses the eleventh.
    asked = situation.recipient is not None
    return asked + (0 if situation.mail is None else len(situation.mail.recipients))


def _size(situation: Situation, _: str) -> int:
    if situation.delivery is not None:
        return situation.delivery.content.size
    if situation.mail is None:
        return 0
    return situation.mail.content.size or situation.mail.declared_size or 0


def _header(situation: Situation, name: str) -> tuple[str, ...]:
    """Fields for people."""
    found: list[str] = []
    room = MAX_CHARACTERS
    for value in () if situation.mail is None else situation.mail.headers.raw(name)[:MAX_FIELDS]:
        if room <= 0:
            break
        found.append(readable(value.replace(b"\r\n", b""))[:room])
        room -= len(found[-1])
    return tuple(found)


def _score(situation: Situation, _: str) -> float:
    given = situation.session if situation.mail is None else situation.mail
    return situation.added_score + (0.0 if given is None else given.score)


def _annotation(situation: Situation, name: str) -> tuple[str, ...]:
    holder = situation.delivery if situation.mail is None else situation.mail
    value = None if holder is None else holder.annotations.get(name)
    return () if value is None else (value,)


def _time(situation: Situation, _: str) -> int:
    """Minutes since midnight, UTC."""
    return int(situation.now // 60) % (24 * 60)


def _weekday(situation: Situation, _: str) -> tuple[str, ...]:
    return (WEEKDAYS[datetime.fromtimestamp(situation.now, UTC).weekday()],)


def _of_delivery(name: str) -> Reader:
    return lambda situation, _: getattr(situation.delivery, name)


def _destination(situation: Situation, _: str) -> tuple[str, ...]:
    return () if situation.delivery is None else (situation.delivery.destination,)


_DELIVERY = frozenset({Stage.PRE_DELIVERY})
_CATALOGUE = (
    Fact("client", Kind.CLIENT, _SESSION, _client, "The client's address; none on a unix socket."),
    Fact("listener", Kind.TEXT, _SESSION, _text_of_session("listener"), "The listener's name in the configuration."),
    Fact("tls", Kind.FLAG, _SESSION, lambda at, _: bool(at.session and at.session.tls), "Whether TLS is spoken."),
    Fact("tls_version", Kind.TEXT, _SESSION, _text_of_session("tls"), "`TLSv1.3`; empty in the clear."),
    Fact("may_relay", Kind.FLAG, _SESSION, _of_session("may_relay"), "Whether the client may send to every domain."),
    Fact("helo", Kind.TEXT, _HELO, _text_of_session("helo"), "What the client calls itself."),
    Fact("user", Kind.TEXT, _LOGIN, _text_of_session("user"), "Who logged in; empty for nobody."),
    Fact("sender", Kind.ADDRESS, _ENVELOPE, _sender, "The reverse-path; empty for the null reverse-path."),
    Fact("sender_domain", Kind.DOMAIN, _ENVELOPE, _sender_domain, "The sender's domain."),
    Fact("recipient", Kind.ADDRESS, _RECIPIENTS, _recipient, "At `rcpt_to` the one asked about, later any of them."),
    Fact("recipient_domain", Kind.DOMAIN, _RECIPIENTS, _recipient_domain, "The domain of such a recipient."),
    Fact("recipients", Kind.NUMBER, _RECIPIENTS, _recipients, "How many; at `rcpt_to` with the one asked about."),
    Fact(
        "size", Kind.OCTETS, _ENVELOPE, _size,
        "Octets of the mail; before `data_complete` what the client declared, 0 when it said nothing.",
    ),
    Fact("header", Kind.TEXT, _DATA, _header, "Any field of the name, decoded, on one line.", "Name"),
    Fact(
        "header_count", Kind.NUMBER, _DATA,
        lambda at, name: 0 if at.mail is None else len(at.mail.headers.raw(name)),
        "How many fields have the name.", "Name",
    ),
    Fact(
        "score", Kind.NUMBER, _SESSION, _score, "What plugins and earlier rules gave; more is worse.",
        is_steady=False,
    ),
    Fact("annotation", Kind.TEXT, _ENVELOPE, _annotation, "What a plugin noted under the key.", "key"),
    Fact("destination", Kind.TEXT, _DELIVERY, _destination, "The next hop, as `elemta queue show` names it."),
    Fact("attempts", Kind.NUMBER, _DELIVERY, _of_delivery("attempts"), "Attempts before this one."),
    Fact("time", Kind.TIME, STAGES, _time, "The time of day, UTC."),
    Fact("weekday", Kind.WEEKDAY, STAGES, _weekday, "The day of the week, UTC."),
)  # fmt: skip
#: By name.
FACTS: Final[Mapping[str, Fact]] = {fact.name: fact for fact in _CATALOGUE}
