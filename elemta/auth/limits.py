"""How often somebody may be wrong, before it is not even looked at any more.

Failures are counted for the client's address, for its network, for the user's name: a person with one machine, one
with a network of them, one with a botnet. A window of failures lasts `lockout` seconds from its first; who reaches the
maximum within it is locked out for `lockout` seconds from then. Failures of who is locked out are not looked at, so
they count for nothing, and no lock-out lasts for ever.

That a name belongs to nobody changes nothing here: what is counted says nothing about who exists. A network from which
a user logged in is that user's own for a while. There neither counts nor holds what strangers do to the name, so that
nobody can lock a user out from afar.

What is not here: waiting, replies (`auth.authenticator`), sharing over nodes (`auth.failure_book`). Times are seconds
on whatever clock the caller counts with.
"""

import enum
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from attrs import define, evolve, field, frozen

from elemta.net.networks import network_of

#: Addresses, networks and users, each, of whom failures are remembered: with half a kilobyte an entry some 15 MB in
#: all. Whoever has enough addresses to fill one is no longer held by counting addresses.
MAX_TALLIES = 10_000
#: Entries looked at for one that may go, when a table is full.
MAX_LOOKS = 16
#: Seconds for which a network is a user's own after a login from there: longer than most holidays.
KNOWN_SECONDS = 30 * 86_400.0
#: Networks that are one user's own at a time: home, work, a telephone's few.
MAX_KNOWN_NETWORKS = 8
#: Users whose own networks are remembered.
MAX_KNOWN_USERS = 10_000

#: Seconds by which the reply to an address's first failure is delayed; each further one doubles it.
FIRST_DELAY_SECONDS = 0.25
#: Seconds of delay at most: clients such as telephones give up after 15 and more.
MAX_DELAY_SECONDS = 4.0

#: Seconds between two notes that somebody still logs in from a network: a day.
NOTE_SECONDS = 86_400.0

#: Characters of a user's name that are told apart here; a longer one is nobody's.
MAX_KEY_CHARACTERS = 320


@frozen
class FailureLimits:
    """How many failures are too many, and for how long."""

    per_address: int
    per_network: int
    per_user: int
    lockout_seconds: float


class Kind(enum.Enum):
    """What failures are counted for."""

    ADDRESS = "address"
    NETWORK = "network"
    USER = "user"


@frozen
class Who:
    """Who tries: from where, and as whom. `user` is empty as long as the client has not said."""

    address: str
    network: str
    user: str = ""

    @classmethod
    def of(cls, address: str, user: str = "") -> "Who":
        """Somebody at an IP address, or a unix socket. The case of ASCII letters makes no other user."""
        return cls(address or "unix", network_of(address) or "unix", user[:MAX_KEY_CHARACTERS].lower())

    @property
    def keys(self) -> Iterator[tuple[Kind, str]]:
        """What is counted for them."""
        yield Kind.ADDRESS, self.address
        yield Kind.NETWORK, self.network
        if self.user:
            yield Kind.USER, self.user


@frozen
class Standing:
    """How somebody stands. `locked` names what they are locked out for; `failures` are those of their address.

    `is_new` is True for the one failure that locked them out.
    """

    locked: Kind | None = None
    failures: int = 0
    is_new: bool = False

    @property
    def delay_seconds(self) -> float:
        """By how much the reply to the last failure is delayed."""
        if self.failures < 1:
            return 0.0
        doublings = min(self.failures - 1, 32)
        return min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0**doublings)


@define
class _Tally:
    failures: int = 0
    until: float = 0.0
    locked: bool = False


@define
class _Table:
    """Tallies of one kind, the one that changed last at the end."""

    most: int
    window: float
    tallies: OrderedDict[str, _Tally] = field(factory=OrderedDict)

    def standing(self, key: str, now: float) -> tuple[int, bool]:
        """Failures, and whether they are too many."""
        tally = self.tallies.get(key)
        if tally is None:
            return 0, False
        if now >= tally.until:
            del self.tallies[key]
            return 0, False
        return tally.failures, tally.locked

    def count(self, key: str, now: float) -> bool:
        """One failure more; whether it is the one that is too many."""
        tally = self.tallies.get(key)
        if tally is not None and now >= tally.until:
            del self.tallies[key]
            tally = None
        if tally is None:
            self._make_room(now)
            tally = self.tallies[key] = _Tally(until=now + self.window)
        tally.failures += 1
        if tally.failures >= self.most and not tally.locked:
            tally.locked, tally.until = True, now + self.window
        self.tallies.move_to_end(key)
        return tally.failures == self.most

    def _make_room(self, now: float) -> None:
        """Forget one of the oldest, if there is a choice one that is not locked out."""
        if len(self.tallies) >= MAX_TALLIES:
            oldest = list(islice(self.tallies.items(), MAX_LOOKS))
            free = (key for key, tally in oldest if now >= tally.until or not tally.locked)
            del self.tallies[next(free, oldest[0][0])]


class Failures:
    """Counts failures of one process. Every table is bounded."""

    def __init__(self, limits: FailureLimits) -> None:
        window = limits.lockout_seconds
        self._tables = {
            Kind.ADDRESS: _Table(limits.per_address, window),
            Kind.NETWORK: _Table(limits.per_network, window),
            Kind.USER: _Table(limits.per_user, window),
        }
        self._known: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()

    def standing(self, who: Who, now: float) -> Standing:
        """How somebody stands now."""
        locked, failures = None, 0
        for kind, key in self._counted(who, now):
            count, too_many = self._tables[kind].standing(key, now)
            if kind is Kind.ADDRESS:
                failures = count
            if too_many and locked is None:
                locked = kind
        return Standing(locked, failures)

    def failed(self, who: Who, now: float) -> Standing:
        """Count a failure; how they stand then."""
        crossed = [self._tables[kind].count(key, now) for kind, key in self._counted(who, now)]
        return evolve(self.standing(who, now), is_new=any(crossed))

    def succeeded(self, who: Who, now: float) -> bool:
        """Remember whose network it is; whether that is news since `NOTE_SECONDS`.

        No failure is forgiven for it: else one user's right password would buy guesses at others'.
        """
        networks = self._known.setdefault(who.user, OrderedDict())
        before = networks.get(who.network, -KNOWN_SECONDS)
        networks[who.network] = now
        networks.move_to_end(who.network)
        if len(networks) > MAX_KNOWN_NETWORKS:
            networks.popitem(last=False)
        self._known.move_to_end(who.user)
        if len(self._known) > MAX_KNOWN_USERS:
            self._known.popitem(last=False)
        return now - before > NOTE_SECONDS

    def is_own_network(self, who: Who, now: float) -> bool:
        """Whether the user logged in from there within `KNOWN_SECONDS`."""
        networks = self._known.get(who.user)
        return networks is not None and now - networks.get(who.network, -KNOWN_SECONDS) < KNOWN_SECONDS

    def _counted(self, who: Who, now: float) -> list[tuple[Kind, str]]:
        own = self.is_own_network(who, now)
        return [(kind, key) for kind, key in who.keys if not (own and kind is Kind.USER)]

    @property
    def remembered(self) -> int:
        """Entries of all tables."""
        return sum(len(table.tallies) for table in self._tables.values()) + len(self._known)
