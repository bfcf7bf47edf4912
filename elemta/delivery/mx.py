"""The hosts that a domain names for its mail.

What is not here: the questions themselves (`resolver`), hosts that the configuration names (`delivery.smarthost`), or
trying them (`delivery.smtp`).
The rules are RFC 5321 §5.1, RFC 7505 for domains that take no mail, RFC 3463 §3.5 for the codes.
Failures raised: none; why there is no host is an outcome.
"""

import ipaddress
import random
from collections.abc import Sequence
from itertools import chain, zip_longest

import trio
from attrs import frozen

from elemta.delivery.hops import Hop
from elemta.delivery.routing import SMTP_PORT
from elemta.mail.outcome import Deferred, Failed
from elemta.mail.reply import Reply
from elemta.net.base import Endpoint
from elemta.resolver.base import MailExchanger, NameNotFound, ResolutionFailed, Resolver

#: Exchangers whose addresses are looked up, the most preferred first. RFC 5321 §5.1 lets a client limit the addresses
#: it tries; a domain with five hundred MX records must not cost five hundred questions.
MAX_EXCHANGERS = 10
#: Addresses taken of one exchanger, so that the next one is tried as well.
MAX_ADDRESSES_PER_EXCHANGER = 4

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Where no mail for strangers is ever delivered: RFC 6890 §2.2.2 and §2.2.3 with what they cite, but for the networks
#: of examples, which lead nowhere. Explicit, because Python's own list changes between releases.
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/128", "::1/128", "64:ff9b:1::/48", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)
#: IPv6 addresses that carry an IPv4 address in their last 32 bits: RFC 4291 §2.5.5, RFC 6052 §2.1.
_CARRIERS = tuple(ipaddress.IPv6Network(text) for text in ("::/96", "::ffff:0:0/96", "64:ff9b::/96"))


def is_private(address: str) -> bool:
    """True for loopback, private, link-local, unspecified, multicast addresses: not a mail server on the internet.

    What is no address at all counts as private. So does an IPv6 address that stands for a private IPv4 address.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    return _is_private(parsed)


def _is_private(address: _Address) -> bool:
    if any(address in network for network in _PRIVATE if network.version == address.version):
        return True
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in carrier for carrier in _CARRIERS):
            return _is_private(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address.sixtofour is not None:  # RFC 3056 §2
            return _is_private(address.sixtofour)
    return False


@frozen
class Ourselves:
    """The names and addresses by which this server is known: mail for others never goes to them, RFC 5321 §5.1."""

    names: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()


@frozen
class _Candidate:
    """One exchanger with what DNS said of its addresses."""

    exchanger: MailExchanger
    addresses: Sequence[str] = ()
    failure: ResolutionFailed | None = None


class MxFinder:
    """Finds the hosts that a domain names for its mail. `chance` shuffles equal preferences; it is no secret."""

    def __init__(
        self,
        resolver: Resolver,
        chance: random.Random,
        *,
        ourselves: Ourselves = Ourselves(),
        port: int = SMTP_PORT,
        allow_private: bool = False,
    ) -> None:
        self._resolver = resolver
        self._chance = chance
        self._own_names = ourselves.names
        # A private address says nothing where private targets are allowed: another server may have it, or another port
        # of this machine. Should it be us after all, the count of `Received` ends the loop.
        self._own_addresses = frozenset(
            each for each in ourselves.addresses if not (allow_private and is_private(each))
        )
        self._port = port
        self._allow_private = allow_private

    async def hops(self, domain: str) -> Sequence[Hop] | Deferred | Failed:
        """The hosts by preference, each address a hop; or why there is none. `domain` is in `Address.domain`'s form."""
        if domain.startswith("["):
            return self._literal(domain)
        try:
            exchangers = await self._resolver.mail_exchangers(domain)
        except NameNotFound as failure:
            return Failed(Reply(550, "5.1.2", str(failure)))
        except ResolutionFailed as failure:
            return Deferred(Reply(451, "4.4.3", str(failure)))
        named = [exchanger for exchanger in exchangers if exchanger.host]
        if exchangers and not named:
            # RFC 7505 §3 has the null MX alone; beside others it says nothing.
            return Failed(Reply(556, "5.1.10", f"the domain {domain} takes no mail (null MX)"))
        return await self._hops_of(domain, named or [MailExchanger(0, domain)])

    async def _hops_of(self, domain: str, exchangers: Sequence[MailExchanger]) -> Sequence[Hop] | Deferred | Failed:
        ordered = self._preferred(exchangers)
        candidates = await self._look_up(ordered[:MAX_EXCHANGERS])
        kept = self._before_ourselves(candidates)
        hops = [hop for candidate in kept for hop in self._hops_to(candidate)]
        if hops:
            return hops
        loops = len(ordered) < len(exchangers) or len(kept) < len(candidates)
        return _no_hop(domain, candidates, loops=loops)

    def _preferred(self, exchangers: Sequence[MailExchanger]) -> list[MailExchanger]:
        """By preference, equal ones shuffled; without our own name and everything not preferred to it. RFC 5321 §5.1"""
        ours = [each.preference for each in exchangers if each.host in self._own_names]
        ordered = [each for each in exchangers if not ours or each.preference < min(ours)]
        self._chance.shuffle(ordered)
        return sorted(ordered, key=lambda each: each.preference)

    def _before_ourselves(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """As `_preferred`, for our own addresses under names that we do not know."""
        known = self._own_addresses
        ours = [each.exchanger.preference for each in candidates if not known.isdisjoint(each.addresses)]
        return [each for each in candidates if not ours or each.exchanger.preference < min(ours)]

    async def _look_up(self, exchangers: Sequence[MailExchanger]) -> list[_Candidate]:
        found = [_Candidate(exchanger) for exchanger in exchangers]

        async def look_up(index: int, exchanger: MailExchanger) -> None:
            try:
                addresses = await self._resolver.addresses(exchanger.host)
                found[index] = _Candidate(exchanger, addresses=_alternating(addresses))
            except NameNotFound:
                pass  # an exchanger without addresses, as good as one whose name has none
            except ResolutionFailed as failure:
                found[index] = _Candidate(exchanger, failure=failure)

        async with trio.open_nursery() as nursery:
            for index, exchanger in enumerate(exchangers):
                nursery.start_soon(look_up, index, exchanger)
        return found

    def _hops_to(self, candidate: _Candidate) -> list[Hop]:
        usable = [each for each in candidate.addresses if self._allow_private or not is_private(each)]
        host = candidate.exchanger.host
        return [Hop(host, Endpoint(each, self._port)) for each in usable[:MAX_ADDRESSES_PER_EXCHANGER]]

    def _literal(self, domain: str) -> Sequence[Hop] | Failed:
        """The host of an address literal, RFC 5321 §4.1.3: the address itself."""
        text = domain.removeprefix("[").removesuffix("]").lower().removeprefix("ipv6:")
        try:
            address = str(ipaddress.ip_address(text))
        except ValueError:
            return Failed(Reply(550, "5.1.2", f"the domain {domain} is no address that mail can be sent to"))
        if not self._allow_private and is_private(address):
            return Failed(Reply(550, "5.4.4", f"the address {domain} is not public"))
        return [Hop(address, Endpoint(address, self._port))]


def _no_hop(domain: str, candidates: Sequence[_Candidate], *, loops: bool) -> Deferred | Failed:
    """Why no exchanger can be tried. What is not known yet goes first: it may be better next time.

    The rest is an error to be reported, RFC 5321 §5.1; RFC 3463 §3.5 gives "only an SOA" as the example of X.4.4.
    """
    for candidate in candidates:
        if candidate.failure is not None:
            return Deferred(Reply(451, "4.4.3", str(candidate.failure)))
    if loops:
        return Failed(Reply(554, "5.4.6", f"mail for {domain} would loop back to this host"))
    if any(candidate.addresses for candidate in candidates):
        return Failed(Reply(550, "5.4.4", f"no mail host of {domain} has a public address"))
    return Failed(Reply(550, "5.4.4", f"no mail host of {domain} has an address"))


def _alternating(addresses: Sequence[str]) -> list[str]:
    """The two families in turn, so that a network without one of them gets to the other within few tries."""
    six = [address for address in addresses if ":" in address]
    four = [address for address in addresses if ":" not in address]
    pairs = zip_longest(six, four) if addresses and addresses[0] in six[:1] else zip_longest(four, six)
    return [address for address in chain.from_iterable(pairs) if address is not None]
