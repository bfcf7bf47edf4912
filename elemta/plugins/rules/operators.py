"""How a fact is compared: each operator with the kinds it fits, what it takes, the test it makes of that.

Tests are made once, when rules are read; a set or a table answers for a long list, so that its length costs nothing.
What is not here: the facts (`rules.facts`), trees of conditions (`rules.conditions`). Failure raised: `Unfit`, when an
operand cannot be what the operator takes.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final
from unicodedata import normalize

from attrs import field, frozen

from elemta.config.addresses import parse_network
from elemta.config.kinds import Unfit
from elemta.config.problems import did_you_mean
from elemta.plugins.rules.facts import WEEKDAYS, IpAddress, Kind
from elemta.plugins.rules.pattern_text import Node, parse_glob, parse_pattern
from elemta.plugins.rules.patterns import check_size, make_patterns
from elemta.smtp.grammar import AddressError, AddressFault, parse_address, parse_domain

#: Entries of a list that is looked up, 100 octets each in memory, whether written in a rule or in a file.
MAX_ENTRIES: Final = 200_000
#: Entries of a list that is gone through one by one for every mail.
MAX_SEARCHED: Final = 500
#: Patterns of one condition; each costs up to a few milliseconds for a text made for it.
MAX_PATTERNS: Final = 20
#: Characters of an operand that is a text: the longest line of a mail, RFC 5322 §2.1.1.
MAX_OPERAND_CHARACTERS: Final = 998

#: Takes what the fact reads.
Test = Callable[[Any], bool]


class Takes(enum.Enum):
    """The form of an operand."""

    ONE = "one value"
    PAIR = "a list of two"
    #: A list, or a file of such entries.
    LIST = 'a list, or {"file": …}'
    #: One value, a list, or a file.
    ANY = 'one value, a list, or {"file": …}'


@frozen
class Operator:
    """One way to compare. `entry` reads a value of its operand, `make` gives the test of all of them."""

    name: str
    takes: Takes
    entry: Callable[[object], object] = field(eq=False, repr=False)
    make: Callable[[Sequence[Any], bool], Test] = field(eq=False, repr=False)
    most: int = 1
    #: Whether it can tell capitals from small letters; `make` is told.
    has_case: bool = False
    #: Whether the test takes texts in small letters, unless it tells capitals from them.
    is_folding: bool = False


# ---- entries -------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_OPERAND_CHARACTERS:
        raise Unfit(f"a text of at most {MAX_OPERAND_CHARACTERS} printable characters")
    return normalize("NFC", value)


def _some_text(value: object) -> str:
    text = _text(value)
    if not text:
        raise Unfit("a text that is not empty", 'An empty one is part of every text; see "exists".')
    return text


def _form(expected: str, reader: Callable[[str], object]) -> Callable[[object], str]:
    def entry(value: object) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise Unfit(expected)
        try:
            return str(reader(normalize("NFC", value)))
        except ValueError as error:
            says = str(error)
            raise Unfit(expected, f"{says[:1].upper()}{says[1:]}.") from None

    return entry


def _mailbox(text: str) -> str:
    """A sender may be empty, the null reverse-path; RFC 5321 §4.1.1.3 knows a postmaster without a domain."""
    if text.lower() in ("", "postmaster"):
        return text
    if "@" not in text:
        raise ValueError('an address has an @; for a domain there are "sender_domain" and "recipient_domain"')
    return str(_read_mail(parse_address, text))


_FAULTS: Final = {
    AddressFault.SYNTAX: "a local part with a blank is written in quotes, and nothing in angle brackets",
    AddressFault.TOO_LONG: "it is longer than any can be",
    AddressFault.DOMAIN: "a domain name is letters, digits and hyphens between dots, without a final dot",
}


def _read_mail(reader: Callable[[str], object], text: str) -> object:
    """An address or domain in the form that mails have it. Raises `ValueError` with a sentence."""
    try:
        return reader(text)
    except AddressError as error:
        raise ValueError(_FAULTS[error.fault]) from None


_address = _form('a mail address such as "user@example.com", or "" for the null sender', _mailbox)
_domain = _form('a domain such as "example.com", or ""', lambda text: text and _read_mail(parse_domain, text))
_some_domain = _form('a domain such as "example.com"', lambda text: _read_mail(parse_domain, text))
_network = _form('an IP address or a network such as "192.0.2.0/24"', parse_network)


def _checked_glob(text: str) -> str:
    check_size(parse_glob(text))
    return text


def _checked_pattern(text: str) -> str:
    check_size(parse_pattern(text))
    return text


_glob = _form('a text with "*" and "?"', _checked_glob)
_regular = _form("a pattern", _checked_pattern)


def _in_ascii(entry: Callable[[object], str], domain_of: Callable[[str], str]) -> Callable[[object], str]:
    """`entry`, but what `domain_of` takes out of a text must be ASCII, as the domains of mails are."""

    def of_domain(value: object) -> str:
        text = entry(value)
        if not domain_of(text).isascii():
            raise Unfit('the ASCII form of a domain, as in "xn--bcher-kva.example"')
        return text

    return of_domain


def _nothing(_: str) -> str:
    return ""


def _whole(text: str) -> str:
    return text


def _behind_at(text: str) -> str:
    return text.rpartition("@")[2] if "@" in text else ""


def _end(text: str) -> str:
    return text.rpartition("@")[2]


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 2**53:
        raise Unfit("a number")
    return value


_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) ?(?:([kmg])(i?)b?|b)", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3}


def _octets(value: object) -> float:
    if not isinstance(value, str):
        return _number(value)
    match = _SIZE.fullmatch(value)
    if match is None:
        raise Unfit('a number of octets, or a text such as "10 MB" (millions) or "10 MiB" (1048576 each)')
    unit: int = (1024 if match[3] else 1000) ** _POWERS[(match[2] or "").lower()]
    return round(float(match[1]) * unit)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Unfit("true or false")
    return value


_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


def _moment(value: object) -> str:
    if not isinstance(value, str) or not _CLOCK.fullmatch(value):
        raise Unfit('a time of day from "00:00" to "23:59", UTC')
    return value


_LONG_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS: Final = {**dict(zip(_LONG_WEEKDAYS, WEEKDAYS, strict=True)), **{day: day for day in WEEKDAYS}}


def _weekday(value: object) -> str:
    day = _DAYS.get(value.lower()) if isinstance(value, str) else None
    if day is None:
        advice = did_you_mean(value.lower(), _DAYS).strip() if isinstance(value, str) else ""
        raise Unfit("one of " + ", ".join(f'"{day}"' for day in WEEKDAYS), advice)
    return day


# ---- tests ---------------------------------------------------------------------------------------


def _folded(texts: Sequence[str], case: bool) -> tuple[str, ...]:
    return tuple(texts) if case else tuple(map(str.casefold, texts))


def _make_one_of(entries: Sequence[str], case: bool) -> Test:
    wanted = frozenset(_folded(entries, case))
    return lambda values: not wanted.isdisjoint(values)


def _make_contains(entries: Sequence[str], case: bool) -> Test:
    wanted = _folded(entries, case)
    return lambda values: any(word in value for value in values for word in wanted)


def _make_starts_with(entries: Sequence[str], case: bool) -> Test:
    wanted = _folded(entries, case)
    return lambda values: any(value.startswith(wanted) for value in values)


def _make_ends_with(entries: Sequence[str], case: bool) -> Test:
    wanted = _folded(entries, case)
    return lambda values: any(value.endswith(wanted) for value in values)


def _make_glob(entries: Sequence[str], case: bool) -> Test:
    return _make_found([parse_glob(text) for text in entries], case)


def _make_matches(entries: Sequence[str], case: bool) -> Test:
    return _make_found([parse_pattern(text) for text in entries], case)


def _make_found(nodes: Sequence[Node], case: bool) -> Test:
    patterns = make_patterns(nodes, case=case)
    # Cut, since a pattern costs by the character; the facts that a stranger writes are hardly ever longer.
    return lambda values: any(one.found_in(value[:MAX_OPERAND_CHARACTERS]) for value in values for one in patterns)


def _make_within(entries: Sequence[str], _: bool) -> Test:
    wanted = frozenset(entries)

    def is_within(domain: str) -> bool:
        while domain:
            if domain in wanted:
                return True
            domain = domain.partition(".")[2]
        return False

    return lambda values: any(map(is_within, values))


def _make_in_networks(entries: Sequence[str], _: bool) -> Test:
    """One look for each length of prefix that occurs, however many networks there are."""
    networks: dict[tuple[int, int], set[int]] = {}
    for text in entries:
        network: IPv4Network | IPv6Network = ip_network(text)
        spare = network.max_prefixlen - network.prefixlen
        networks.setdefault((network.version, spare), set()).add(int(network.network_address) >> spare)

    def test(address: IpAddress | None) -> bool:
        if address is None:
            return False
        version, number = address.version, int(address)
        return any(of == version and number >> spare in known for (of, spare), known in networks.items())

    return test


def _make_exists(entries: Sequence[Any], _: bool) -> Test:
    wanted: bool = entries[0]
    return lambda values: any(values) is wanted


def _make_comparison(compare: Callable[[float, float], bool]) -> Callable[[Sequence[Any], bool], Test]:
    def make(entries: Sequence[float], _: bool) -> Test:
        bound = entries[0]
        return lambda value: compare(value, bound)

    return make


def _make_between(entries: Sequence[str], _: bool) -> Test:
    first, last = (int(text[:2]) * 60 + int(text[3:]) for text in entries)
    if first <= last:
        return lambda minute: first <= minute < last
    return lambda minute: minute >= first or minute < last


# ---- the catalogue -------------------------------------------------------------------------------

_EQUAL = _make_comparison(lambda value, bound: value == bound)
_ORDER = (
    ("greater", _make_comparison(lambda value, bound: value > bound)),
    ("less", _make_comparison(lambda value, bound: value < bound)),
    ("at_least", _make_comparison(lambda value, bound: value >= bound)),
    ("at_most", _make_comparison(lambda value, bound: value <= bound)),
)


def _for_texts(
    entry: Callable[[object], object],
    domain_in: Callable[[str], str],
    domain_at_end: Callable[[str], str],
    *,
    has_case: bool = True,
) -> tuple[Operator, ...]:
    """`domain_in` tells what of a text that is looked for can only be of a domain, `domain_at_end` if it is the end."""
    part, end = _in_ascii(_some_text, domain_in), _in_ascii(_some_text, domain_at_end)
    glob, regular = _in_ascii(_glob, domain_in), _in_ascii(_regular, domain_in)
    return (
        Operator("equals", Takes.ONE, entry, _make_one_of, has_case=has_case, is_folding=True),
        Operator("one_of", Takes.LIST, entry, _make_one_of, MAX_ENTRIES, has_case, is_folding=True),
        Operator("contains", Takes.ANY, part, _make_contains, MAX_SEARCHED, has_case, is_folding=True),
        Operator("starts_with", Takes.ANY, part, _make_starts_with, MAX_SEARCHED, has_case, is_folding=True),
        Operator("ends_with", Takes.ANY, end, _make_ends_with, MAX_SEARCHED, has_case, is_folding=True),
        Operator("glob", Takes.ANY, glob, _make_glob, MAX_PATTERNS, has_case),
        Operator("matches", Takes.ANY, regular, _make_matches, MAX_PATTERNS, has_case),
        Operator("exists", Takes.ONE, _flag, _make_exists),
    )


def _for_numbers(entry: Callable[[object], object]) -> tuple[Operator, ...]:
    return (
        Operator("equals", Takes.ONE, entry, _EQUAL),
        *(Operator(name, Takes.ONE, entry, make) for name, make in _ORDER),
    )


_OPERATORS: Final[Mapping[Kind, tuple[Operator, ...]]] = {
    Kind.TEXT: _for_texts(_text, _nothing, _nothing),
    Kind.ADDRESS: _for_texts(_address, _behind_at, _end),
    Kind.DOMAIN: (
        *_for_texts(_domain, _whole, _whole, has_case=False),
        Operator("within", Takes.ANY, _some_domain, _make_within, MAX_ENTRIES),
    ),
    Kind.NUMBER: _for_numbers(_number),
    Kind.OCTETS: _for_numbers(_octets),
    Kind.FLAG: (Operator("equals", Takes.ONE, _flag, _EQUAL),),
    Kind.CLIENT: (Operator("in_networks", Takes.ANY, _network, _make_in_networks, MAX_ENTRIES),),
    Kind.TIME: (Operator("between", Takes.PAIR, _moment, _make_between, 2),),
    Kind.WEEKDAY: (
        Operator("equals", Takes.ONE, _weekday, _make_one_of),
        Operator("one_of", Takes.LIST, _weekday, _make_one_of, 7),
    ),
}
#: By kind, then by name.
OPERATORS: Final[Mapping[Kind, Mapping[str, Operator]]] = {
    kind: {operator.name: operator for operator in operators} for kind, operators in _OPERATORS.items()
}


def operator_of(kind: Kind, value: object) -> str:
    """The operator that a bare value stands for; empty when it stands for none."""
    if kind is Kind.CLIENT:
        return "in_networks"
    if kind is Kind.TIME:
        return ""
    is_list = isinstance(value, list) and "one_of" in OPERATORS[kind]
    return "one_of" if is_list else "equals"
