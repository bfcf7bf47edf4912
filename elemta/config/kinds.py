"""What a value of the configuration may be beyond its Python type.

A kind stands in the annotation of a field (`Annotated[int, Whole(...)]`). It is the one source of three things: the
check of a value, the words for what was expected, the JSON Schema. What is not here: walking sections
(`config.structure`).
Failure raised: `Unfit`.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Protocol, runtime_checkable

from attrs import field, frozen

from elemta.config.addresses import (
    parse_database,
    parse_domain,
    parse_host,
    parse_listen_address,
    parse_mailbox,
    parse_network,
)


class Unfit(ValueError):
    """A value cannot be what its key asks for. `expected` completes "expected …"; `advice` is a further sentence."""

    def __init__(self, expected: str, advice: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.advice = advice


@runtime_checkable
class Kind(Protocol):
    """A check with words and a schema."""

    @property
    def expected(self) -> str:
        """Completes the sentence "expected …"."""
        ...

    def parse(self, value: object) -> object:
        """The value as the section holds it. Raises `Unfit`."""
        ...

    def schema(self) -> dict[str, object]:
        """The JSON Schema (2020-12) of what `parse` takes."""
        ...


@frozen
class About:
    """What a key is for: one or two sentences for the manual and the schema."""

    text: str


@frozen
class Secret:
    """Marks a key whose value is never shown, and may come from a file through the key `…_file`."""


@frozen
class Flag:
    """true or false."""

    expected: str = "true or false"

    def parse(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise Unfit(self.expected)
        return value

    def schema(self) -> dict[str, object]:
        return {"type": "boolean"}


@frozen
class Whole:
    """A whole number of `unit`, bounds included."""

    unit: str
    least: int = 0
    most: int = 2**53  # what every reader of JSON keeps exactly, RFC 8259 §6

    @property
    def expected(self) -> str:
        if self.most == Whole("").most:
            return f"a whole number of {self.unit}, at least {self.least}"
        return f"a whole number of {self.unit} from {self.least} to {self.most}"

    def parse(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise Unfit(self.expected)
        return value

    def schema(self) -> dict[str, object]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@frozen
class PortNumber:
    """A TCP port to connect to."""

    expected: str = "a port: a whole number from 1 to 65535"

    def parse(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
            raise Unfit(self.expected)
        return value

    def schema(self) -> dict[str, object]:
        return {"type": "integer", "minimum": 1, "maximum": 65535}


@frozen
class Amount:
    """A number of `unit`, whole or not, from `least` up."""

    unit: str
    least: float
    most: float

    @property
    def expected(self) -> str:
        return f"a number of {self.unit} from {self.least:g} to {self.most:g}"

    def parse(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Unfit(self.expected)
        if not self.least <= value <= self.most:
            raise Unfit(self.expected)
        return value

    def schema(self) -> dict[str, object]:
        return {"type": "number", "minimum": self.least, "maximum": self.most}


#: A century: longer means a slip of the pen, and sums with the present time still fit every store.
MOST_SECONDS = 100 * 366 * 24 * 3600

_SECONDS_OF_UNIT = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION_PATTERN = r"([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+"
_DURATION = re.compile(_DURATION_PATTERN)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


@frozen
class Duration:
    """Seconds as a number, or a text such as "30m" or "1h30m" as the original wrote some of them."""

    #: Whether zero is allowed.
    zero: bool = False

    @property
    def expected(self) -> str:
        bound = "0 or more" if self.zero else "more than 0"
        return f'a duration of {bound}: a number of seconds, or a text such as "90s", "30m", "24h"'

    def parse(self, value: object) -> float:
        seconds: float
        if isinstance(value, str) and _DURATION.fullmatch(value):
            parts = _DURATION_PART.findall(value)
            seconds = math.fsum(float(number) * _SECONDS_OF_UNIT[unit] for number, unit in parts)
            seconds = int(seconds) if seconds.is_integer() else seconds
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value
        else:
            raise Unfit(self.expected)
        if not 0 <= seconds <= MOST_SECONDS or (seconds == 0 and not self.zero):
            raise Unfit(self.expected)
        return seconds

    def schema(self) -> dict[str, object]:
        bound = "minimum" if self.zero else "exclusiveMinimum"
        return {
            "anyOf": [
                {"type": "number", bound: 0, "maximum": MOST_SECONDS},
                {"type": "string", "pattern": f"^{_DURATION_PATTERN}$"},
            ]
        }


@frozen
class Text:
    """A text without control characters."""

    #: Whether it may be empty.
    empty: bool = False

    @property
    def expected(self) -> str:
        return "a text" if self.empty else "a text that is not empty"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not (value or self.empty):
            raise Unfit(self.expected)
        if not value.isprintable():
            raise Unfit(f"{self.expected} and holds no control characters")
        return value

    def schema(self) -> dict[str, object]:
        return {"type": "string", "minLength": 0 if self.empty else 1}


@frozen
class Choice:
    """One of a few words; `synonyms` are read as the word they stand for."""

    words: tuple[str, ...]
    synonyms: Mapping[str, str] = field(factory=dict, hash=False)

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(f'"{word}"' for word in self.words)

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise Unfit(self.expected)
        word = self.synonyms.get(value, value)
        if word not in self.words:
            raise Unfit(self.expected)
        return word

    def schema(self) -> dict[str, object]:
        return {"enum": [*self.words, *self.synonyms]}


@frozen
class Form:
    """A text of a form that has a reader: an address, a network, a domain."""

    expected: str
    #: Gives the text in its normal form, or raises `ValueError` with advice.
    reader: Callable[[str], object]

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise Unfit(self.expected)
        try:
            return str(self.reader(value))
        except ValueError as error:
            raise Unfit(self.expected, _sentence(str(error))) from None

    def schema(self) -> dict[str, object]:
        return {"type": "string", "minLength": 1}


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _relay(text: str) -> str:
    network = parse_network(text)
    # A host keeps its short form, as the original wrote it.
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _pattern(text: str) -> str:
    if text == "*":
        return text
    if text.startswith("*."):
        return f"*.{parse_domain(text[2:])}"
    return parse_domain(text)


#: Words of `mail.envelope.Priority`.
PRIORITIES = ("low", "normal", "high", "critical")

Bool = Annotated[bool, Flag()]
Seconds = Annotated[float, Duration()]
Hours = Annotated[float, Amount("hours", 0, 100 * 366 * 24)]
Octets = Annotated[int, Whole("octets", 1)]
Port = Annotated[int, PortNumber()]
Words = Annotated[str, Text()]
Label = Annotated[str, Text(empty=True)]
Priority = Annotated[str, Choice(PRIORITIES)]
ListenAddr = Annotated[
    str, Form('an address to listen at: "host:port", ":port", "[v6]:port" or "unix:/path"', parse_listen_address)
]
Relay = Annotated[str, Form('an IP address or a network such as "192.0.2.0/24"', _relay)]
Domain = Annotated[str, Form('a domain name such as "example.com"', parse_domain)]
DomainPattern = Annotated[str, Form('a pattern of domains: "*", "example.com" or "*.example.com"', _pattern)]
Host = Annotated[str, Form("a host name or an IP address", parse_host)]
DatabaseName = Annotated[str, Form('a database on a server such as "postgresql://user@host/database"', parse_database)]
Mailbox = Annotated[str, Form('a mail address such as "user@example.com"', parse_mailbox)]
