"""Which buckets a client, a mail, a recipient draw from.

What is not here: drawing (`counters`). Failures raised: none.

A user who logged in is counted by name and not by address: an office has one address for all of its people, and a
stolen password is used from many. Everybody else is counted by address, by network.
"""

import enum
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from attrs import frozen

from elemta.config.protection import RateLimiterSection
from elemta.net.networks import network_of
from elemta.plugins.protection.buckets import Rate

MINUTE_SECONDS: Final = 60
HOUR_SECONDS: Final = 3600
#: Octets of a key: `KeyValue` has room for 200.
MAX_KEY_OCTETS: Final = 150


class Measure(enum.Enum):
    """What is counted; the value is the word for people."""

    CONNECTIONS = "connections"
    MESSAGES = "mails"
    RECIPIENTS = "recipients"
    OCTETS = "octets"


class Kind(enum.Enum):
    """Whose it is; the value says it to the client."""

    ADDRESS = "from your address"
    NETWORK = "from your network"
    USER = "from this user"
    SENDER = "from this sender"
    DOMAIN = "to this domain"


@frozen
class Party:
    """Whom something is counted for; empty where nobody is."""

    address: str = ""
    user: str = ""
    sender: str = ""
    domain: str = ""

    def subject(self, kind: Kind) -> str:
        """Its name under one kind; empty for nobody."""
        match kind:
            case Kind.ADDRESS:
                return "" if self.user else self.address
            case Kind.NETWORK:
                return "" if self.user else network_of(self.address)
            case Kind.USER:
                return self.user.lower()
            case Kind.SENDER:
                return self.sender.lower()
            case Kind.DOMAIN:
                return self.domain


@frozen
class Charge:
    """What is to be drawn from the buckets of one subject. `key` names it in the store."""

    kind: Kind
    key: str
    rates: Sequence[Rate]
    cost: int = 1


Limits = Mapping[tuple[Measure, Kind], tuple[Rate, ...]]


def limits_of(section: RateLimiterSection) -> Limits:
    """The rates of every measure and kind that has any."""
    network, domain = section.per_network, section.per_recipient_domain
    found = {
        (Measure.CONNECTIONS, Kind.ADDRESS): _rates(
            _rate(section.connection_rate_per_minute, MINUTE_SECONDS, section.connection_burst_size)
        ),
        (Measure.MESSAGES, Kind.ADDRESS): _rates(
            _rate(section.max_messages_per_minute, MINUTE_SECONDS), _rate(section.max_messages_per_hour, HOUR_SECONDS)
        ),
        (Measure.RECIPIENTS, Kind.ADDRESS): _rates(_rate(section.max_recipients_per_hour, HOUR_SECONDS)),
        (Measure.OCTETS, Kind.ADDRESS): _rates(
            _rate(section.max_data_per_hour, HOUR_SECONDS, section.volume_burst_size)
        ),
        (Measure.CONNECTIONS, Kind.NETWORK): _rates(_rate(network.connections_per_minute, MINUTE_SECONDS)),
        (Measure.RECIPIENTS, Kind.DOMAIN): _rates(
            _rate(domain.recipients_per_minute, MINUTE_SECONDS), _rate(domain.recipients_per_hour, HOUR_SECONDS)
        ),
    }
    origins = ((Kind.NETWORK, network), (Kind.USER, section.per_user), (Kind.SENDER, section.per_sender))
    for kind, rates in origins:
        found[Measure.MESSAGES, kind] = _rates(
            _rate(rates.messages_per_minute, MINUTE_SECONDS), _rate(rates.messages_per_hour, HOUR_SECONDS)
        )
        found[Measure.RECIPIENTS, kind] = _rates(_rate(rates.recipients_per_hour, HOUR_SECONDS))
        found[Measure.OCTETS, kind] = _rates(_rate(rates.octets_per_hour, HOUR_SECONDS))
    return {key: rates for key, rates in found.items() if rates}


def _rates(*rates: Rate | None) -> tuple[Rate, ...]:
    return tuple(rate for rate in rates if rate is not None)


def _rate(count: int | None, seconds: int, burst: int | None = None) -> Rate | None:
    """All may come at once, unless a burst says otherwise. None for no limit."""
    return None if count is None else Rate(count, seconds, count if burst is None else min(burst, count))


def charges_of(limits: Limits, measure: Measure, *, party: Party, cost: int = 1) -> list[Charge]:
    """What one event costs, in the order of `Kind`: the narrowest first, so that one who is refused is refused
    by one look."""
    found = []
    for kind in Kind:
        rates, subject = limits.get((measure, kind)), party.subject(kind)
        if rates and subject:
            key = bounded_key(f"{measure.name.lower()}:{kind.name.lower()}:{subject}")
            found.append(Charge(kind, key, rates, cost))
    return found


def bounded_key(key: str) -> str:
    """The key, or its digest where it is longer than a key may be."""
    octets = key.encode("utf-8", "surrogatepass")
    if len(octets) <= MAX_KEY_OCTETS and key.isprintable():
        return key
    return f"#{blake2b(octets, digest_size=16).hexdigest()}"
