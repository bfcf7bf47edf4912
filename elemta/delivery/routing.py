"""Which way out a mail takes, decided by the domain of its recipient.

What is not here: the transports themselves, which recipients exist (`delivery.local`), or whether the routes make sense
(`config.routes` checks them before anything is built). Pure: no input, no output.
Failures raised: `ValueError` for a domain or priority that no checked configuration holds.
"""

import re

from attrs import evolve, frozen

from elemta.config.addresses import parse_domain
from elemta.config.sections import Config, RouteSection, RouteTls, TransportName
from elemta.delivery.credentials import Login
from elemta.delivery.tlspolicy import IN_CLEAR, TlsPolicy, policy_of
from elemta.mail.address import Address
from elemta.mail.envelope import Priority

#: RFC 5321 §4.5.4.2 and IANA's registry: where a mail server listens.
SMTP_PORT = 25
#: Domains whose route is remembered, so that a lookup costs one dictionary access; about 100 octets each.
CACHED_DOMAINS = 10_000

#: RFC 8314 §7.3: where a server takes mail of its users over TLS from the first octet.
IMPLICIT_TLS_PORT = 465

#: RFC 5321 §4.1.3; whether the address inside is one was the grammar's to decide.
_LITERAL = re.compile(r"\[[a-z0-9:.-]+\]\Z")


def canonical_domain(text: str) -> str:
    """A domain in the form of `Address.domain`: lower-case A-labels, or an address literal.

    Raises `ValueError` when it is none. RFC 5890 §2.3.2.1, RFC 5321 §4.1.3.
    """
    lowered = text.lower()
    return lowered if _LITERAL.match(lowered) else parse_domain(text)


@frozen(cache_hash=True)
class Route:
    """One way out. Two sections that lead the same way are equal but for their priority."""

    transport: TransportName
    host: str = ""
    #: 0 where the transport has none.
    port: int = 0
    path: str = ""
    allow_private: bool = False
    priority: Priority | None = None
    tls: TlsPolicy = IN_CLEAR
    tls_name: str = ""
    ca_file: str = ""
    login: Login | None = None

    def destination(self, domain: str) -> str:
        """The key of the next hop: what shares bounds, connections and attempts.

        Who logs in, or how the host is known, is part of it: recipients of one key go in one transaction.
        """
        name = self.transport.value
        if self.transport is TransportName.MX:
            return f"{name}:{domain}"
        if self.path:
            return f"{name}:{self.path}"
        if self.host:
            user = "" if self.login is None else f"{self.login.username}@"
            return f"{name}:{user}{self.host}:{self.port}{self._asked_tls}"
        return name

    @property
    def _asked_tls(self) -> str:
        """What is asked of the host beyond the usual, for its key."""
        usual = RouteTls.MAY if self.login is None else RouteTls.VERIFY
        words = [] if self.tls.demand is usual else [self.tls.demand.value]
        words += ["implicit"] if self.tls.implicit else []
        words += [self.tls_name] if self.tls_name else []
        return "".join(f"/{word}" for word in words)

    @property
    def way(self) -> "Route":
        """The route without its priority: what one transport serves."""
        return self if self.priority is None else evolve(self, priority=None)


#: Where mail goes that no route speaks of: to the hosts that its domain names.
BY_MX = Route(TransportName.MX, port=SMTP_PORT, tls=TlsPolicy(RouteTls.MAY))
#: Where all mail goes in dev mode.
TO_INBOX = Route(TransportName.INBOX)


def parse_priority(name: str) -> Priority:
    """A priority by its name in the configuration. Raises `ValueError`."""
    try:
        return Priority[name.upper()]
    except KeyError:
        raise ValueError(f"{name!r} is no priority: low, normal, high or critical") from None


#: The transports that connect to hosts, and so may speak TLS.
_CONNECTS = frozenset({TransportName.MX, TransportName.SMTP, TransportName.LMTP})


def _default_port(section: RouteSection) -> int:
    if section.transport not in (TransportName.MX, TransportName.SMTP):
        return 0
    return IMPLICIT_TLS_PORT if section.implicit_tls else SMTP_PORT


def _login(section: RouteSection) -> Login | None:
    if section.username is None or section.password is None:
        return None
    return Login(section.username, section.password, unverified=section.auth_unverified)


def _route(section: RouteSection) -> Route:
    return Route(
        transport=section.transport,
        host=(section.host or "").lower(),
        port=section.port or _default_port(section),
        path=section.path or "",
        allow_private=section.allow_private,
        priority=None if section.priority is None else parse_priority(section.priority),
        tls=policy_of(section) if section.transport in _CONNECTS else IN_CLEAR,
        tls_name=section.tls_name or "",
        ca_file=section.tls_ca_file or "",
        login=_login(section),
    )


class RoutingTable:
    """The routes of one configuration, compiled: the first whose pattern matches wins.

    A look-up costs one dictionary access for a domain seen before, and one for each label of its name otherwise,
    however many routes there are.
    """

    def __init__(self, config: Config) -> None:
        self.local_domains = frozenset(canonical_domain(domain) for domain in config.local_domains)
        #: The domain that a bare `postmaster` belongs to, RFC 5321 §4.1.1.3.
        self.home_domain = (
            canonical_domain(config.local_domains[0]) if config.local_domains else config.hostname.lower()
        )
        self._exact: dict[str, tuple[int, Route]] = {}
        self._below: dict[str, tuple[int, Route]] = {}
        self._named: dict[str, Route] = {}
        self._any = (len(config.routes), BY_MX)
        self._cache: dict[str, Route] = {}
        if config.dev_mode:
            self._any = (-1, TO_INBOX)
            self._named = {section.name: TO_INBOX for section in config.routes if section.name}
        else:
            self._compile(config.routes)

    def _compile(self, sections: tuple[RouteSection, ...]) -> None:
        for index, section in enumerate(sections):
            entry = (index, _route(section))
            if section.name:
                self._named[section.name] = entry[1]
            if section.domain == "*":
                self._any = min(self._any, entry, key=_index)
            elif section.domain.startswith("*."):
                self._below.setdefault(canonical_domain(section.domain[2:]), entry)
            else:
                self._exact.setdefault(canonical_domain(section.domain), entry)

    @property
    def routes(self) -> frozenset[Route]:
        """Every route that a mail may take."""
        by_domain = (route for _, route in (*self._exact.values(), *self._below.values(), self._any))
        return frozenset((*by_domain, *self._named.values()))

    @property
    def ways(self) -> frozenset[Route]:
        """Every way out, whatever the priority: each needs one transport."""
        return frozenset(route.way for route in self.routes)

    def route(self, domain: str) -> Route:
        """The route of a domain in the form of `Address.domain`; empty for the bare `postmaster`."""
        found = self._cache.get(domain)
        if found is None:
            found = self._find(domain or self.home_domain)
            if len(self._cache) >= CACHED_DOMAINS:
                self._cache.clear()
            self._cache[domain] = found
        return found

    def named(self, name: str) -> Route | None:
        """The route of a name; None when the configuration has none such."""
        return self._named.get(name)

    def _find(self, domain: str) -> Route:
        best = min(self._any, self._exact.get(domain, self._any), key=_index)
        _, _, parent = domain.partition(".")
        while parent and self._below:
            best = min(best, self._below.get(parent, best), key=_index)
            _, _, parent = parent.partition(".")
        return best[1]

    def destination(self, address: Address, name: str = "") -> str:
        """The key of the next hop for a recipient, by the route of the name where there is one."""
        domain = address.domain
        route = self._named.get(name) or self.route(domain)
        return route.destination(domain or self.home_domain)

    def is_local(self, domain: str) -> bool:
        """Whether mail for this domain ends here. The bare `postmaster` (no domain) always does."""
        return not domain or domain in self.local_domains


def _index(entry: tuple[int, Route]) -> int:
    return entry[0]
