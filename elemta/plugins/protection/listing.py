"""What lists of addresses in DNS say.

RFC 5782: an address is listed in a zone where the address, turned round, has an A record there; a TXT record may say
why. What is not here: asking (`dnslists`). Failures raised: `ValueError` for patterns that are none.
"""

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final

from attrs import field, frozen

from elemta.plugins.protection.clients import Address

#: RFC 5782 §2.1: lists answer from here.
_ANSWERS: Final = IPv4Network("127.0.0.0/8")
#: By which large lists say that they do not answer this resolver: too many questions, a public resolver, no account.
_BLOCKED: Final = IPv4Network("127.255.255.0/24")
#: By which some resolvers lead all that does not exist to themselves; no list answers so, RFC 5782 §2.1 has 127.0.0.2.
_HIJACKED: Final = IPv4Address("127.0.0.1")
#: RFC 5782 §5: what no list may list, by version; one that does lists everybody, as zones do that were given up.
NEVER_LISTED: Final[Mapping[int, Address]] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::ffff:127.0.0.1")}
#: One octet of a pattern: a number, a range, or any.
_OCTET = r"(?:\d{1,3}(?:-\d{1,3})?|\*)"
_PATTERN = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII)


def parse_pattern(text: str) -> str:
    """Look at a pattern of answers such as `127.0.*.2-3`, and return it as it is. Raises `ValueError`."""
    if not _PATTERN.fullmatch(text):
        raise ValueError('each of the four octets is a number, a range such as "2-11", or "*"')
    if any(low > high or high > 255 for low, high in _ranges(text)):
        raise ValueError("an octet is from 0 to 255, and a range begins with the smaller one")
    return text


def _ranges(pattern: str) -> tuple[tuple[int, int], ...]:
    bounds = ((0, 255) if octet == "*" else octet.partition("-")[::2] for octet in pattern.split("."))
    return tuple((int(low), int(high or low)) for low, high in bounds)


@frozen
class Answer:
    """What one answer of a zone is worth: `octets` are the first and last values of each."""

    octets: Sequence[tuple[int, int]] = field(converter=_ranges)
    score: float

    def fits(self, address: IPv4Address) -> bool:
        """Whether this is it."""
        return all(low <= octet <= high for octet, (low, high) in zip(address.packed, self.octets, strict=True))


@frozen
class Zone:
    """One list. `score` is what any answer is worth, where `answers` are empty; a welcome list has a score below 0."""

    name: str
    score: float
    answers: tuple[Answer, ...] = ()


class Trouble(enum.Enum):
    """Why a list says nothing about clients; the value tells the operator."""

    BLOCKED = "the list does not answer this resolver: use one of your own, or ask the list for an account"
    FOREIGN = "the answer is no list's: the zone is gone, or the resolver invents answers"
    LISTS_ALL = "the list has everybody on it: the zone was given up"
    SILENT = "the list gave no answer: look whether it is still there, and whether the system's name server works"


@frozen
class Reading:
    """What the A records that a zone answered mean: a score of 0 for none that counts."""

    score: float
    trouble: Trouble | None = None


def question(address: Address, zone: str) -> str:
    """The name to ask for: octets turned round (RFC 5782 §2.1), of IPv6 the nibbles (RFC 5782 §2.4)."""
    turned = address.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
    return f"{turned}.{zone}"


def control_question(address: Address, zone: str) -> str:
    """The name that must not be there if the zone's answers about such addresses are to mean anything."""
    return question(NEVER_LISTED[address.version], zone)


def read(zone: Zone, answers: Iterable[str]) -> Reading:
    """What the answers mean; where several count, the one that says most."""
    scores, trouble = [0.0], None
    for text in answers:
        found = IPv4Address(text)
        if found not in _ANSWERS or found == _HIJACKED:
            trouble = Trouble.FOREIGN
        elif found in _BLOCKED:
            trouble = Trouble.BLOCKED
        else:
            scores.append(_worth(zone, found))
    return Reading(0.0, trouble) if trouble else Reading(max(scores, key=abs))


def _worth(zone: Zone, found: IPv4Address) -> float:
    if not zone.answers:
        return zone.score
    return next((answer.score for answer in zone.answers if answer.fits(found)), 0.0)


@frozen
class Listing:
    """One zone's word about a client."""

    zone: str
    score: float
    reason: str = ""


def total(listings: Iterable[Listing]) -> float:
    """The score of a client."""
    return sum(listing.score for listing in listings)


def refusal(host: str, listings: Iterable[Listing]) -> str:
    """What the client is told: the list that says most against it, with its reason."""
    worst = max(listings, key=lambda listing: listing.score)
    text = f"{host} is listed by {worst.zone}"
    return f"{text}: {worst.reason}" if worst.reason else text


def summary(listings: Iterable[Listing]) -> str:
    """All lists for people who look at a mail."""
    return ", ".join(f"{listing.zone} {listing.score:+g}" for listing in listings)
