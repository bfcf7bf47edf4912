"""Routes: which pattern wins, what shares a destination, what no server starts with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.sections import Config, RouteSection, TransportName
from elemta.delivery.routing import BY_MX, CACHED_DOMAINS, RoutingTable, canonical_domain, check_routes
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


# ---- check_routes ----


def problems(*routes: RouteSection, local: tuple[str, ...] = (), recipients: tuple[str, ...] = ()) -> dict[str, str]:
    config = Config(hostname="mx.example.net", routes=routes, local_domains=local, local_recipients=recipients)
    return dict(check_routes(config))


GOOD_TEMPLATE = "/var/mail/{domain}/{local}"


@pytest.mark.parametrize(
    "section",
    [
        RouteSection("*", MX),
        RouteSection("*", MX, port=2525, allow_private=True, priority="low"),
        RouteSection("*.example.com", SMTP, host="127.0.0.1", port=2600),
        RouteSection("example.com", LMTP, host="127.0.0.1", port=24),
        RouteSection("example.com", LMTP, path="/run/dovecot/lmtp"),
        RouteSection("[192.0.2.1]", DISCARD, priority="Critical"),
        RouteSection("example.com", MAILDIR, path=GOOD_TEMPLATE),
        RouteSection("example.com", INBOX),
    ],
)
def test_good_routes(section: RouteSection) -> None:
    assert problems(section) == {}


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        (RouteSection("*", SMTP), "routes[0].host", "missing"),
        (RouteSection("*", LMTP), "routes[0]", "unix socket"),
        (RouteSection("*", LMTP, host="::1"), "routes[0].port", "missing"),
        (RouteSection("*", LMTP, host="::1", port=25), "routes[0].port", "RFC 2033"),
        (RouteSection("*", LMTP, host="::1", port=24, path="/x"), "routes[0]", "not both"),
        (RouteSection("*", SMTP, host="::1", port=0), "routes[0].port", "0 is no port"),
        (RouteSection("*", SMTP, host="::1", port=65536), "routes[0].port", "65536"),
        (RouteSection("*", SMTP, host="::1", path="/x"), "routes[0].path", "means nothing"),
        (RouteSection("*", MX, host="a.example"), "routes[0].host", "means nothing"),
        (RouteSection("*", DISCARD, port=25), "routes[0].port", "means nothing"),
        (RouteSection("*", SMTP, host="::1", allow_private=True), "routes[0].allow_private", "means nothing"),
        (RouteSection("*", MX, priority="urgent"), "routes[0].priority", "critical"),
        (RouteSection("a b", MX), "routes[0].domain", "'a b'"),
        (RouteSection("*example.com", MX), "routes[0].domain", "example.com"),
        (RouteSection("*.*", MX), "routes[0].domain", "'*'"),
        (RouteSection("", MX), "routes[0].domain", "''"),
        (RouteSection("*", MAILDIR), "routes[0].path", "missing"),
        (RouteSection("*", MAILDIR, path="/var/mail/{domain}"), "routes[0].path", "lacks {local}"),
        (RouteSection("*", MAILDIR, path="/var/mail/{user}/{local}"), "routes[0].path", "something else"),
        (RouteSection("*", MAILDIR, path="/var/mail/{local!r}"), "routes[0].path", "something else"),
        (RouteSection("*", MAILDIR, path="/var/mail/{local:>9}"), "routes[0].path", "something else"),
        (RouteSection("*", MAILDIR, path="/var/mail/{}"), "routes[0].path", "something else"),
        (RouteSection("*", MAILDIR, path="/var/mail/{local"), "routes[0].path", "no template"),
        (RouteSection("*", MAILDIR, path="/var/mail/../{local}"), "routes[0].path", "leads out"),
    ],
)
def test_bad_routes(section: RouteSection, key: str, words: str) -> None:
    found = problems(section)
    assert list(found) == [key]
    assert words in found[key]


def test_a_route_that_no_mail_can_reach() -> None:
    assert list(problems(RouteSection("*", MX), RouteSection("example.com", DISCARD))) == ["routes[1].domain"]
    again = problems(RouteSection("example.com", MX), RouteSection("EXAMPLE.com", DISCARD))
    assert list(again) == ["routes[1].domain"]


LOCAL = ("example.com",)
BOB = ("bob@example.com",)


@pytest.mark.parametrize(
    ("routes", "recipients", "key"),
    [
        ([], BOB, "local_domains[0]"),
        ([RouteSection("*", SMTP, host="::1")], BOB, "local_domains[0]"),
        ([RouteSection("*", MX)], BOB, "local_domains[0]"),
        ([RouteSection("example.com", DISCARD)], BOB, "local_domains[0]"),
        ([RouteSection("*.example.com", INBOX)], BOB, "local_domains[0]"),
        ([RouteSection("example.com", LMTP, path="/x")], (), "local_domains[0]"),
        ([RouteSection("example.com", INBOX)], (), "local_domains[0]"),
        ([RouteSection("example.com", INBOX)], ("bob@example.org", *BOB), "local_recipients[0]"),
        ([RouteSection("example.com", INBOX)], ("bob", *BOB), "local_recipients[0]"),
        ([RouteSection("example.com", INBOX)], ("@example.com", *BOB), "local_recipients[0]"),
        ([RouteSection("example.com", INBOX)], ("bob@exa mple", *BOB), "local_recipients[0]"),
    ],
)
def test_local_domains_need_a_way_and_recipients(
    routes: list[RouteSection], recipients: tuple[str, ...], key: str
) -> None:
    assert list(problems(*routes, local=LOCAL, recipients=recipients)) == [key]


@pytest.mark.parametrize(
    ("route", "recipients"),
    [
        (RouteSection("example.com", LMTP, path="/x"), BOB),
        (RouteSection("example.com", INBOX), ("Bob@EXAMPLE.com",)),
        (RouteSection("example.com", MAILDIR, path=GOOD_TEMPLATE), ()),
        (RouteSection("*", MAILDIR, path=GOOD_TEMPLATE), BOB),
    ],
)
def test_local_domains_that_have_both(route: RouteSection, recipients: tuple[str, ...]) -> None:
    assert problems(route, local=LOCAL, recipients=recipients) == {}


def test_a_local_domain_must_be_one() -> None:
    assert list(problems(RouteSection("*", INBOX), local=("no domain",))) == ["local_domains[0]"]


def test_dev_mode_needs_no_local_routes_but_no_nonsense_either() -> None:
    assert check_routes(Config(hostname="x", local_domains=LOCAL, dev_mode=True)) == []
    nonsense = Config(hostname="x", routes=(RouteSection("*", SMTP),), dev_mode=True)
    assert [key for key, _ in check_routes(nonsense)] == ["routes[0].host"]


def test_every_problem_is_found_at_once() -> None:
    found = problems(RouteSection("a b", MX, host="x", port=-1, priority="!"), RouteSection("c", SMTP), local=("d e",))
    assert set(found) == {
        "routes[0].domain",
        "routes[0].host",
        "routes[0].port",
        "routes[0].priority",
        "routes[1].host",
        "local_domains[0]",
    }
