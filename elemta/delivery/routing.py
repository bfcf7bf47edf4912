"""Which way out a mail takes, decided by the domain of its recipient.

What is not here: the transports themselves, or which recipients exist (`delivery.local`). Pure: no input, no output.
`check_routes` finds what no server should start with; `RoutingTable` is built from a configuration that passed it, and
raises `ValueError` for a pattern or priority that could not have.
"""

import re
from string import Formatter

from attrs import evolve, frozen

from elemta.config.addresses import parse_domain
from elemta.config.sections import Config, RouteSection, TransportName
from elemta.mail.address import Address
from elemta.mail.envelope import Priority

#: RFC 5321 §4.5.4.2 and IANA's registry: where a mail server listens.
SMTP_PORT = 25
MAX_PORT = 65535
#: Domains whose route is remembered, so that a lookup costs one dictionary access; about 100 octets each.
CACHED_DOMAINS = 10_000

#: RFC 5321 §4.1.3; whether the address inside is one was the grammar's to decide.
_LITERAL = re.compile(r"\[[a-z0-9:.-]+\]\Z")

#: A local domain ends here: the mail is handed to something that keeps it.
_FINAL = frozenset({TransportName.LMTP, TransportName.MAILDIR, TransportName.INBOX})
#: The fields of a route that mean something to each transport.
_MEANT = {
    TransportName.MX: frozenset({"port", "allow_private"}),
    TransportName.SMTP: frozenset({"host", "port"}),
    TransportName.LMTP: frozenset({"host", "port", "path"}),
    TransportName.MAILDIR: frozenset({"path"}),
    TransportName.DISCARD: frozenset(),
    TransportName.INBOX: frozenset(),
}


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

    def destination(self, domain: str) -> str:
        """The key of the next hop: what shares bounds, connections and attempts."""
        name = self.transport.value
        if self.transport is TransportName.MX:
            return f"{name}:{domain}"
        if self.path:
            return f"{name}:{self.path}"
        if self.host:
            return f"{name}:{self.host}:{self.port}"
        return name

    @property
    def way(self) -> "Route":
        """The route without its priority: what one transport serves."""
        return self if self.priority is None else evolve(self, priority=None)


#: Where mail goes that no route speaks of: to the hosts that its domain names.
BY_MX = Route(TransportName.MX, port=SMTP_PORT)
#: Where all mail goes in dev mode.
TO_INBOX = Route(TransportName.INBOX)


def parse_priority(name: str) -> Priority:
    """A priority by its name in the configuration. Raises `ValueError`."""
    try:
        return Priority[name.upper()]
    except KeyError:
        raise ValueError(f"{name!r} is no priority: low, normal, high or critical") from None


def _route(section: RouteSection) -> Route:
    takes_port = section.transport in (TransportName.MX, TransportName.SMTP)
    return Route(
        transport=section.transport,
        host=(section.host or "").lower(),
        port=section.port or (SMTP_PORT if takes_port else 0),
        path=section.path or "",
        allow_private=section.allow_private,
        priority=None if section.priority is None else parse_priority(section.priority),
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
        self._any = (len(config.routes), BY_MX)
        self._cache: dict[str, Route] = {}
        if config.dev_mode:
            self._any = (-1, TO_INBOX)
        else:
            self._compile(config.routes)

    def _compile(self, sections: tuple[RouteSection, ...]) -> None:
        for index, section in enumerate(sections):
            entry = (index, _route(section))
            if section.domain == "*":
                self._any = min(self._any, entry, key=_index)
            elif section.domain.startswith("*."):
                self._below.setdefault(canonical_domain(section.domain[2:]), entry)
            else:
                self._exact.setdefault(canonical_domain(section.domain), entry)

    @property
    def ways(self) -> frozenset[Route]:
        """Every way out that a mail may take: each needs a transport."""
        entries = (*self._exact.values(), *self._below.values(), self._any)
        return frozenset(route.way for _, route in entries)

    def route(self, domain: str) -> Route:
        """The route of a domain in the form of `Address.domain`; empty for the bare `postmaster`."""
        found = self._cache.get(domain)
        if found is None:
            found = self._find(domain or self.home_domain)
            if len(self._cache) >= CACHED_DOMAINS:
                self._cache.clear()
            self._cache[domain] = found
        return found

    def _find(self, domain: str) -> Route:
        best = min(self._any, self._exact.get(domain, self._any), key=_index)
        _, _, parent = domain.partition(".")
        while parent and self._below:
            best = min(best, self._below.get(parent, best), key=_index)
            _, _, parent = parent.partition(".")
        return best[1]

    def destination(self, address: Address) -> str:
        """The key of the next hop for a recipient."""
        domain = address.domain
        return self.route(domain).destination(domain or self.home_domain)

    def is_local(self, domain: str) -> bool:
        """Whether mail for this domain ends here. The bare `postmaster` (no domain) always does."""
        return not domain or domain in self.local_domains


def _index(entry: tuple[int, Route]) -> int:
    return entry[0]


# ---- what no server should start with ---------------------------------------------------------------------------


def check_routes(config: Config) -> list[tuple[str, str]]:
    """Everything wrong with the routes and local domains: (key path, what was found and what is expected) each."""
    problems = [problem for index, route in enumerate(config.routes) for problem in _section_problems(index, route)]
    problems += _unreachable(config.routes)
    domains = [_domain_problem(f"local_domains[{i}]", domain) for i, domain in enumerate(config.local_domains)]
    problems += [problem for problem in domains if problem is not None]
    if problems or config.dev_mode:
        return problems
    return _local_problems(config)


def _domain_problem(key: str, text: str) -> tuple[str, str] | None:
    try:
        canonical_domain(text)
    except ValueError as error:
        return (key, f"{text!r}: {error}; write a name like example.com, or an address literal like [192.0.2.1].")
    return None


def _section_problems(index: int, section: RouteSection) -> list[tuple[str, str]]:
    key = f"routes[{index}]"
    found: list[tuple[str, str] | None] = []
    if section.domain != "*":
        found.append(_domain_problem(f"{key}.domain", section.domain.removeprefix("*.")))
    if section.port is not None and not 1 <= section.port <= MAX_PORT:
        found.append((f"{key}.port", f"{section.port} is no port; expected 1 to {MAX_PORT}."))
    if section.priority is not None:
        try:
            parse_priority(section.priority)
        except ValueError as error:
            found.append((f"{key}.priority", f"{error}."))
    name = section.transport.value
    given = {field for field in ("host", "port", "path", "allow_private") if getattr(section, field)}
    found += [
        (f"{key}.{field}", f"{field} means nothing to the transport {name}; remove it.")
        for field in sorted(given - _MEANT[section.transport])
    ]
    found += _missing(key, section)
    return [problem for problem in found if problem is not None]


def _missing(key: str, section: RouteSection) -> list[tuple[str, str]]:
    if section.transport is TransportName.SMTP and not section.host:
        return [(f"{key}.host", "missing; the transport smtp needs the smarthost's name or address.")]
    if section.transport is TransportName.MAILDIR:
        return _template_problems(f"{key}.path", section.path or "")
    if section.transport is TransportName.LMTP:
        return _lmtp_problems(key, section)
    return []


def _lmtp_problems(key: str, section: RouteSection) -> list[tuple[str, str]]:
    if not section.host and not section.path:
        return [(key, "the transport lmtp needs host and port, or the path of a unix socket.")]
    if section.path and (section.host or section.port):
        return [(key, "the transport lmtp takes host and port, or path, not both.")]
    if section.host and not section.port:
        return [(f"{key}.port", "missing; LMTP has no port of its own (RFC 2033 §5), 24 is often taken.")]
    if section.port == SMTP_PORT:
        return [(f"{key}.port", f"LMTP must not be spoken on port {SMTP_PORT}, RFC 2033 §5.")]
    return []


def _template_problems(key: str, template: str) -> list[tuple[str, str]]:
    if not template:
        return [(key, "missing; the transport maildir needs a folder like /var/mail/{domain}/{local}.")]
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        return [(key, f"{template!r} is no template: {error}.")]
    names = [name for _, name, _, _ in parts if name is not None]
    if any(spec or conversion for _, _, spec, conversion in parts) or not set(names) <= {"local", "domain"}:
        return [(key, f"{template!r} holds something else in braces than {{local}} and {{domain}}.")]
    if "local" not in names:
        return [(key, f"{template!r} lacks {{local}}: all users would share one folder.")]
    if "\0" in template or any(part == ".." for part in template.split("/")):
        return [(key, f"{template!r} leads out of its folder.")]
    return []


def _unreachable(sections: tuple[RouteSection, ...]) -> list[tuple[str, str]]:
    seen: dict[str, int] = {}
    problems = []
    for index, section in enumerate(sections):
        pattern = section.domain.lower()
        earlier = seen.get("*", seen.get(pattern))
        if earlier is not None:
            text = (
                f"never reached: the first match wins, and routes[{earlier}] ({sections[earlier].domain}) is before it."
            )
            problems.append((f"routes[{index}].domain", text))
        seen.setdefault(pattern, index)
    return problems


def _local_problems(config: Config) -> list[tuple[str, str]]:
    table = RoutingTable(config)
    problems = []
    listed = set()
    for index, text in enumerate(config.local_recipients):
        local, at, domain = text.rpartition("@")
        try:
            canonical = canonical_domain(domain)
        except ValueError:
            canonical = ""
        if not local or not at or canonical not in table.local_domains:
            problem = f"{text!r} is no address in local_domains."
            problems.append((f"local_recipients[{index}]", problem))
        listed.add(canonical)
    for index, text in enumerate(config.local_domains):
        domain = canonical_domain(text)
        transport = table.route(domain).transport
        if transport not in _FINAL:
            problem = f"{text} has no route to lmtp, maildir or inbox: its mail would go by {transport.value}."
            problems.append((f"local_domains[{index}]", problem))
        elif transport is not TransportName.MAILDIR and domain not in listed:
            problem = f"nobody exists in {text}: list its addresses in local_recipients, or give it a maildir route."
            problems.append((f"local_domains[{index}]", problem))
    return problems
