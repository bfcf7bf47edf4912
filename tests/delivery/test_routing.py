"""Routes: which pattern wins, what shares a destination."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.sections import Config, RouteSection, RouteTls, TransportName
from elemta.delivery.routing import BY_MX, CACHED_DOMAINS, RoutingTable, canonical_domain, parse_priority
from elemta.delivery.tlspolicy import IN_CLEAR
from elemta.mail.address import Address
from elemta.mail.envelope import Priority

MX, SMTP, LMTP = TransportName.MX, TransportName.SMTP, TransportName.LMTP
MAILDIR, DISCARD, INBOX = TransportName.MAILDIR, TransportName.DISCARD, TransportName.INBOX


def table(*routes: RouteSection, local: tuple[str, ...] = (), dev_mode: bool = False) -> RoutingTable:
    return RoutingTable(Config(hostname="mx.example.net", routes=routes, local_domains=local, dev_mode=dev_mode))


def numbered(*patterns: str) -> RoutingTable:
    """A table whose routes carry their position as a port, from 1."""
    return table(*(RouteSection(p, SMTP, host="relay.example.net", port=i) for i, p in enumerate(patterns, 1)))


@pytest.mark.parametrize(
    ("patterns", "domain", "port"),
    [
        (["*"], "example.com", 1),
        (["example.com", "*"], "example.com", 1),
        (["example.com", "*"], "example.org", 2),
        (["*", "example.com"], "example.com", 1),
        (["*.example.com", "*"], "a.example.com", 1),
        (["*.example.com", "*"], "b.a.example.com", 1),
        (["*.example.com", "*"], "example.com", 2),
        (["*.example.com", "*"], "badexample.com", 2),
        (["*.com", "*.example.com", "*"], "a.example.com", 1),
        (["*.example.com", "*.com", "*"], "a.example.com", 1),
        (["*.example.com", "a.example.com", "*"], "a.example.com", 1),
        (["a.example.com", "*.example.com", "*"], "a.example.com", 1),
        (["a.example.com", "a.example.com", "*"], "a.example.com", 1),
        (["EXAMPLE.com", "*"], "example.com", 1),
        (["bücher.example", "*"], "xn--bcher-kva.example", 1),
        (["*.bücher.example", "*"], "a.xn--bcher-kva.example", 1),
        (["[192.0.2.1]", "*"], "[192.0.2.1]", 1),
        (["[192.0.2.1]", "*"], "[192.0.2.2]", 2),
        (["[IPv6:2001:db8::1]", "*"], "[ipv6:2001:db8::1]", 1),
    ],
)
def test_the_first_match_wins(patterns: list[str], domain: str, port: int) -> None:
    routes = numbered(*patterns)
    assert routes.route(domain).port == port
    assert routes.route(domain).port == port  # from the cache


LABELS = st.sampled_from(["a", "b", "c"])
DOMAINS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(st.just("*"), DOMAINS, DOMAINS.map("*.{}".format))


def matches(pattern: str, domain: str) -> bool:
    """The rule of the documentation, without any cleverness."""
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return domain.endswith(pattern[1:])
    return domain == pattern


@given(st.lists(PATTERNS, max_size=8), st.lists(DOMAINS, min_size=1, max_size=5))
def test_a_compiled_table_finds_what_trying_one_after_another_finds(patterns: list[str], domains: list[str]) -> None:
    routes = numbered(*patterns)
    for domain in domains:
        tried = next((i for i, pattern in enumerate(patterns, 1) if matches(pattern, domain)), None)
        route = routes.route(domain)
        assert (None if route == BY_MX else route.port) == tried


def test_without_routes_everything_goes_by_mx() -> None:
    routes = table()
    assert routes.route("example.com") == BY_MX
    assert routes.destination(Address("a", "example.com")) == "mx:example.com"
    assert routes.ways == {BY_MX}


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (RouteSection("*", MX), "mx:example.com"),
        (RouteSection("*", SMTP, host="Relay.example.net"), "smtp:relay.example.net:25"),
        (RouteSection("*", SMTP, host="127.0.0.1", port=2600), "smtp:127.0.0.1:2600"),
        (RouteSection("*", LMTP, path="/run/lmtp"), "lmtp:/run/lmtp"),
        (RouteSection("*", LMTP, host="::1", port=24), "lmtp:::1:24"),
        (RouteSection("*", MAILDIR, path="/var/mail/{domain}/{local}"), "maildir:/var/mail/{domain}/{local}"),
        (RouteSection("*", DISCARD), "discard"),
        (RouteSection("*", INBOX), "inbox"),
    ],
)
def test_destination_keys(section: RouteSection, key: str) -> None:
    assert table(section).destination(Address("a", "example.com")) == key


LOGIN: dict[str, Any] = {"username": "jo", "password": "secret"}


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"tls": RouteTls.MAY}, "smtp:relay.example.net:25"),
        ({"tls": RouteTls.VERIFY}, "smtp:relay.example.net:25/verify"),
        ({"implicit_tls": True}, "smtp:relay.example.net:465/implicit"),
        ({"implicit_tls": True, "port": 2465}, "smtp:relay.example.net:2465/implicit"),
        ({"tls_name": "a.example"}, "smtp:relay.example.net:25/a.example"),
        (LOGIN, "smtp:jo@relay.example.net:25"),
        ({**LOGIN, "tls": RouteTls.VERIFY}, "smtp:jo@relay.example.net:25"),
        ({**LOGIN, "tls": RouteTls.REQUIRE}, "smtp:jo@relay.example.net:25/require"),
    ],
)
def test_what_is_asked_of_a_host_is_in_its_key(keys: dict[str, Any], key: str) -> None:
    """Recipients of one key go in one transaction: they must not differ in who logs in, or how."""
    routes = table(RouteSection("*", SMTP, host="relay.example.net", **keys))
    assert routes.destination(Address("a", "example.com")) == key
    assert "secret" not in repr(routes.ways)


def test_routes_with_other_passwords_share_no_transport() -> None:
    first = RouteSection("example.com", SMTP, host="relay.example.net", **LOGIN)
    second = RouteSection("*", SMTP, host="relay.example.net", username="jo", password="another")
    assert len(table(first, second).ways) == 2


@pytest.mark.parametrize("transport", [MAILDIR, DISCARD, INBOX])
def test_what_connects_to_nobody_has_no_tls(transport: TransportName) -> None:
    (route,) = table(RouteSection("*", transport, path="/m" if transport is MAILDIR else None)).ways
    assert route.tls == IN_CLEAR


def test_in_dev_mode_everything_lands_in_the_inbox() -> None:
    routes = table(RouteSection("*", SMTP, host="relay.example.net"), local=("example.com",), dev_mode=True)
    for domain in ("example.com", "example.org", "[192.0.2.1]", ""):
        assert routes.destination(Address("a", domain)) == "inbox"
    assert {route.transport for route in routes.ways} == {INBOX}


def test_the_bare_postmaster_belongs_to_the_first_local_domain() -> None:
    maildir = RouteSection("example.com", MAILDIR, path="/var/mail/{local}")
    routes = table(maildir, local=("Example.COM", "example.org"))
    assert routes.destination(Address("postmaster", "")) == "maildir:/var/mail/{local}"
    assert table().destination(Address("postmaster", "")) == "mx:mx.example.net"


def test_local_domains() -> None:
    routes = table(local=("Example.com", "bücher.example"))
    assert [routes.is_local(d) for d in ("example.com", "xn--bcher-kva.example", "", "sub.example.com")] == [
        True,
        True,
        True,
        False,
    ]


def test_routes_that_lead_the_same_way_share_a_transport() -> None:
    first = RouteSection("example.com", SMTP, host="relay.example.net", priority="high")
    second = RouteSection("*", SMTP, host="relay.example.net")
    routes = table(first, second)
    assert routes.route("example.com").priority is Priority.HIGH
    assert routes.route("example.org").priority is None
    assert len(routes.ways) == 1


def test_the_cache_is_bounded() -> None:
    routes = table(RouteSection("*", MX))
    for number in range(CACHED_DOMAINS + 5):
        routes.route(f"d{number}.example")
    assert len(routes._cache) == 5


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "-a.example", "a b", "a/b", "[", "[]", "[a b]", "a" * 64 + ".example"]
)
def test_what_is_no_domain(text: str) -> None:
    with pytest.raises(ValueError):
        canonical_domain(text)


def test_priorities() -> None:
    assert [parse_priority(name) for name in ("low", "normal", "High", "critical")] == list(Priority)
    with pytest.raises(ValueError, match="urgent"):
        table(RouteSection("*", MX, priority="urgent"))
