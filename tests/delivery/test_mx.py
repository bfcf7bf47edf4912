"""The hosts of a domain: order, bounds, what is never tried, which failure is final."""

import random
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

import pytest
import trio
from attrs import field, frozen

from elemta.delivery.hops import Hop
from elemta.delivery.mx import (
    MAX_ADDRESSES_PER_EXCHANGER,
    MAX_EXCHANGERS,
    MxFinder,
    Ourselves,
    is_private,
)
from elemta.mail.outcome import Deferred, Failed
from elemta.net.base import Endpoint
from elemta.resolver.base import MailExchanger, NameNotFound, ResolutionFailed, Resolver
from elemta.resolver.dns import DnsResolver
from elemta.runtime.threads import WorkerThreads
from tests.resolver.dnsserver import DnsServer, Fault

T = TypeVar("T")

SERVFAIL = ResolutionFailed("DNS gave no usable answer: SERVFAIL")


@frozen
class Zone(Resolver):
    """Answers from two dictionaries; what is in neither does not exist, exceptions are raised."""

    exchangers: Mapping[str, list[MailExchanger] | Exception] = field(factory=dict)
    hosts: Mapping[str, list[str] | Exception] = field(factory=dict)
    asked: Counter[str] = field(factory=Counter)

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        await trio.lowlevel.checkpoint()
        if domain in self.exchangers:
            return list(_or_raise(self.exchangers[domain]))
        if domain in self.hosts:
            return []
        raise NameNotFound(f"the domain {domain} does not exist")

    async def addresses(self, host: str) -> list[str]:
        self.asked[host] += 1
        await trio.lowlevel.checkpoint()
        if host in self.hosts:
            return list(_or_raise(self.hosts[host]))
        if host in self.exchangers:
            return []
        raise NameNotFound(f"the domain {host} does not exist")

    async def ipv4_addresses(self, name: str) -> list[str]:
        raise AssertionError("a delivery asks for no A alone")

    async def pointers(self, address: str) -> list[str]:
        raise AssertionError("a delivery asks for no PTR")

    async def texts(self, name: str) -> list[str]:
        raise AssertionError("a delivery asks for no TXT")


def _or_raise(found: list[T] | Exception) -> list[T]:
    if isinstance(found, Exception):
        raise found
    return found


def mx(*hosts: str) -> list[MailExchanger]:
    """Exchangers written `10 host`."""
    return [MailExchanger(int(preference), host) for preference, _, host in (each.partition(" ") for each in hosts)]


NOBODY = Ourselves()


async def find(
    zone: Zone, *, seed: int = 1, ourselves: Ourselves = NOBODY, allow_private: bool = False
) -> list[str] | Deferred | Failed:
    """The hops for example.com as `host address`, or why there are none."""
    finder = MxFinder(zone, random.Random(seed), ourselves=ourselves, allow_private=allow_private)
    found = await finder.hops("example.com")
    if isinstance(found, Deferred | Failed):
        return found
    assert {hop.endpoint.port for hop in found} == {25}
    return [f"{hop.host} {hop.endpoint.host}" for hop in found]


def codes(found: object) -> tuple[str, int, str]:
    assert isinstance(found, Deferred | Failed)
    assert len(found.reply.render()) <= 512
    return type(found).__name__, found.reply.code, found.reply.enhanced


async def test_preferences_are_kept_and_equal_ones_shuffled() -> None:
    hosts = {f"{name}.example": [f"198.51.100.{number}"] for number, name in enumerate("abcde")}
    zone = Zone(
        {"example.com": mx("20 d.example", "10 a.example", "10 b.example", "10 c.example", "30 e.example")}, hosts
    )
    orders = set()
    for seed in range(30):
        found = await find(zone, seed=seed)
        assert isinstance(found, list)
        assert {line[0] for line in found[:3]} == set("abc")
        assert [line[0] for line in found[3:]] == ["d", "e"]
        orders.add(tuple(found))
    assert len(orders) == 6  # every order of three
    assert await find(zone, seed=7) == await find(zone, seed=7)


async def test_every_address_is_a_hop_and_the_families_take_turns() -> None:
    four = ["198.51.100.1", "198.51.100.2", "198.51.100.3"]
    six = ["2001:db8::1", "2001:db8::2"]
    zone = Zone({"example.com": mx("10 a.example", "20 b.example")}, {"a.example": six + four, "b.example": four[:1]})
    assert await find(zone) == [
        "a.example 2001:db8::1",
        "a.example 198.51.100.1",
        "a.example 2001:db8::2",
        "a.example 198.51.100.2",
        "b.example 198.51.100.1",
    ]
    assert MAX_ADDRESSES_PER_EXCHANGER == 4


async def test_the_implicit_mx_is_the_domain_itself() -> None:
    assert await find(Zone(hosts={"example.com": ["198.51.100.1"]})) == ["example.com 198.51.100.1"]


async def test_five_hundred_exchangers_cost_few_questions() -> None:
    names = [f"mx{number}.example" for number in range(500)]
    zone = Zone(
        {"example.com": mx(*(f"{n} {name}" for n, name in enumerate(names)))},
        {name: ["198.51.100.1"] for name in names},
    )
    found = await find(zone)
    assert isinstance(found, list)
    assert [line.split()[0] for line in found] == names[:MAX_EXCHANGERS]
    assert zone.asked.total() == MAX_EXCHANGERS


UP = {"a.example": ["198.51.100.1"], "b.example": ["198.51.100.2"]}


@pytest.mark.parametrize(
    ("zone", "codes_expected"),
    [
        # no such domain
        (Zone(), ("Failed", 550, "5.1.2")),
        # DNS does not know now
        (Zone({"example.com": SERVFAIL}), ("Deferred", 451, "4.4.3")),
        # the null MX, RFC 7505 §4.2
        (Zone({"example.com": mx("0 ")}), ("Failed", 556, "5.1.10")),
        (Zone({"example.com": mx("0 ")}, {"example.com": ["198.51.100.1"]}), ("Failed", 556, "5.1.10")),
        # the domain exists, with nothing in it
        (Zone({"example.com": []}), ("Failed", 550, "5.4.4")),
        # the implicit MX, not known now
        (Zone(hosts={"example.com": SERVFAIL}), ("Deferred", 451, "4.4.3")),
        # exchangers that do not exist, or have no address
        (Zone({"example.com": mx("10 gone.example")}), ("Failed", 550, "5.4.4")),
        (Zone({"example.com": mx("10 a.example")}, {"a.example": []}), ("Failed", 550, "5.4.4")),
        # one gone, one unknown now: it may still be right
        (
            Zone({"example.com": mx("10 gone.example", "20 a.example")}, {"a.example": SERVFAIL}),
            ("Deferred", 451, "4.4.3"),
        ),
        # private addresses
        (Zone({"example.com": mx("10 a.example")}, {"a.example": ["127.0.0.1"]}), ("Failed", 550, "5.4.4")),
        (Zone({"example.com": mx("10 a.example")}, {"a.example": ["10.1.2.3", "fe80::1"]}), ("Failed", 550, "5.4.4")),
        (Zone({"example.com": mx("10 localhost")}, {"localhost": ["127.0.0.1", "::1"]}), ("Failed", 550, "5.4.4")),
        (Zone(hosts={"example.com": ["192.168.1.1"]}), ("Failed", 550, "5.4.4")),
    ],
)
async def test_why_there_is_no_host(zone: Zone, codes_expected: tuple[str, int, str]) -> None:
    assert codes(await find(zone)) == codes_expected


@pytest.mark.parametrize(
    ("exchangers", "hosts", "hops"),
    [
        # a null MX beside others says nothing
        (mx("0 ", "10 a.example"), UP, ["a.example 198.51.100.1"]),
        # some of them fail: the others do
        (mx("10 gone.example", "20 a.example"), UP, ["a.example 198.51.100.1"]),
        (mx("10 b.example", "20 a.example"), UP | {"b.example": SERVFAIL}, ["a.example 198.51.100.1"]),
        # private addresses are left out, public ones stay
        (mx("10 a.example", "20 b.example"), UP | {"a.example": ["10.0.0.1"]}, ["b.example 198.51.100.2"]),
        (mx("10 a.example"), {"a.example": ["::1", "198.51.100.9"]}, ["a.example 198.51.100.9"]),
    ],
)
async def test_what_is_left_is_tried(
    exchangers: list[MailExchanger], hosts: dict[str, list[str] | Exception], hops: list[str]
) -> None:
    assert await find(Zone({"example.com": exchangers}, hosts)) == hops


async def test_private_targets_are_for_routes_that_allow_them() -> None:
    zone = Zone({"example.com": mx("10 a.example")}, {"a.example": ["127.0.0.1"]})
    assert await find(zone, allow_private=True) == ["a.example 127.0.0.1"]


OURSELVES = Ourselves(frozenset({"us.example"}), frozenset({"198.51.100.7"}))
THREE = mx("10 a.example", "20 us.example", "20 b.example", "30 c.example")


async def test_our_own_name_ends_the_list() -> None:
    hosts = {**UP, "c.example": ["198.51.100.3"], "us.example": ["198.51.100.9"]}
    by_name = Ourselves(frozenset({"us.example"}))
    assert await find(Zone({"example.com": THREE}, hosts), ourselves=by_name) == ["a.example 198.51.100.1"]
    assert codes(await find(Zone({"example.com": THREE[1:]}, hosts), ourselves=by_name)) == ("Failed", 554, "5.4.6")


async def test_our_own_address_under_another_name_ends_the_list() -> None:
    hosts = {**UP, "c.example": ["198.51.100.3"], "alias.example": ["198.51.100.7"]}
    exchangers = mx("10 a.example", "20 alias.example", "20 b.example", "30 c.example")
    assert await find(Zone({"example.com": exchangers}, hosts), ourselves=OURSELVES) == ["a.example 198.51.100.1"]
    assert codes(await find(Zone({"example.com": exchangers[1:]}, hosts), ourselves=OURSELVES)) == (
        "Failed",
        554,
        "5.4.6",
    )


async def test_a_private_address_is_ours_only_where_private_ones_are_not_allowed() -> None:
    zone = Zone({"example.com": mx("10 a.example")}, {"a.example": ["127.0.0.1"]})
    listening = Ourselves(addresses=frozenset({"127.0.0.1", "0.0.0.0"}))
    assert await find(zone, ourselves=listening, allow_private=True) == ["a.example 127.0.0.1"]
    assert codes(await find(zone, ourselves=listening)) == ("Failed", 554, "5.4.6")


async def test_we_are_nobodys_implicit_mx() -> None:
    zone = Zone(hosts={"example.com": ["198.51.100.7"]})
    assert codes(await find(zone, ourselves=OURSELVES)) == ("Failed", 554, "5.4.6")
    by_name = Ourselves(frozenset({"example.com"}))
    assert codes(await find(zone, ourselves=by_name)) == ("Failed", 554, "5.4.6")


@pytest.mark.parametrize(
    ("domain", "address"),
    [
        ("[198.51.100.1]", "198.51.100.1"),
        ("[ipv6:2001:db8::1]", "2001:db8::1"),
        ("[IPv6:2001:DB8:0::1]", "2001:db8::1"),
    ],
)
async def test_address_literals(domain: str, address: str) -> None:
    assert await MxFinder(Zone(), random.Random(1)).hops(domain) == [Hop(address, Endpoint(address, 25))]


@pytest.mark.parametrize(
    ("domain", "enhanced"),
    [
        ("[127.0.0.1]", "5.4.4"),
        ("[ipv6:::1]", "5.4.4"),
        ("[ipv6:::ffff:10.0.0.1]", "5.4.4"),
        ("[x-tag:stuff]", "5.1.2"),
        ("[]", "5.1.2"),
    ],
)
async def test_address_literals_that_are_refused(domain: str, enhanced: str) -> None:
    assert codes(await MxFinder(Zone(), random.Random(1)).hops(domain)) == ("Failed", 550, enhanced)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *((text, True) for text in ("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.9.9.9", "169.254.1.1", "172.16.0.1")),
        *((text, True) for text in ("172.31.255.255", "192.168.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255")),
        *((text, True) for text in ("::", "::1", "fc00::1", "fd00::1", "fe80::1", "fec0::1", "ff02::1")),
        *((text, True) for text in ("::ffff:127.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1")),
        *((text, True) for text in ("", "localhost", "127.1", "2130706433", "fe80::1%lo")),
        *((text, False) for text in ("8.8.8.8", "172.32.0.1", "100.128.0.1", "198.51.100.1", "192.0.2.1")),
        *(
            (text, False)
            for text in ("2001:db8::1", "2a00::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1")
        ),
    ],
)
def test_private_addresses(address: str, private: bool) -> None:
    assert is_private(address) is private


# ---- over a real DNS server: what each of its faults does to mail ----


@pytest.mark.parametrize(
    ("fault", "kinds", "expected"),
    [
        (Fault.SERVFAIL, (), ("Deferred", 451, "4.4.3")),
        (Fault.SERVFAIL, ("MX",), ("Deferred", 451, "4.4.3")),  # never "no MX", although the domain has an address
        (Fault.SERVFAIL, ("A", "AAAA"), ("Deferred", 451, "4.4.3")),
        (Fault.REFUSED, (), ("Deferred", 451, "4.4.3")),
        (Fault.SILENT, ("MX",), ("Deferred", 451, "4.4.3")),
        (Fault.GARBAGE, ("MX",), ("Deferred", 451, "4.4.3")),
        (Fault.STRANGER, ("MX",), ("Deferred", 451, "4.4.3")),
        (Fault.CUT, ("MX",), ("Deferred", 451, "4.4.3")),
    ],
)
async def test_faults_of_dns_defer(fault: Fault, kinds: tuple[str, ...], expected: tuple[str, int, str]) -> None:
    server = DnsServer()
    server.add("example.com", "A", "198.51.100.1")
    server.spoil("example.com", fault, *kinds)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        resolver = DnsResolver(
            WorkerThreads(),
            nameservers=[server.nameserver],
            hosts_path="/nonexistent",
            question_seconds=0.4,
            try_seconds=0.15,
        )
        finder = MxFinder(resolver, random.Random(1))
        assert codes(await finder.hops("example.com")) == expected
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([], ("Failed", 550, "5.1.2"), id="no such domain"),
        pytest.param([("example.com", "MX", "0 .")], ("Failed", 556, "5.1.10"), id="null MX"),
        pytest.param(
            [("example.com", "CNAME", "b.example."), ("b.example", "CNAME", "example.com.")],
            ("Deferred", 451, "4.4.3"),
            id="aliases in a circle",
        ),
        pytest.param(
            [
                ("example.com", "MX", "10 a.example."),
                ("a.example", "CNAME", "b.example."),
                ("b.example", "CNAME", "a.example."),
            ],
            ("Deferred", 451, "4.4.3"),
            id="exchanger whose aliases go in a circle",
        ),
        pytest.param(
            [("example.com", "MX", "10 a.example."), ("a.example", "A", "127.0.0.1"), ("a.example", "AAAA", "::1")],
            ("Failed", 550, "5.4.4"),
            id="loopback exchanger",
        ),
    ],
)
async def test_why_there_is_no_host_over_dns(
    records: list[tuple[str, str, str]], expected: tuple[str, int, str]
) -> None:
    server = DnsServer()
    for record in records:
        server.add(*record)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        resolver = DnsResolver(WorkerThreads(), nameservers=[server.nameserver], hosts_path="/nonexistent")
        assert codes(await MxFinder(resolver, random.Random(1)).hops("example.com")) == expected
        nursery.cancel_scope.cancel()


async def test_five_hundred_exchangers_come_truncated_and_are_bounded() -> None:
    """The answer does not fit into UDP: the rest is fetched by TCP, and the most preferred are looked up."""
    server = DnsServer()
    server.add("example.com", "MX", *(f"{number} mx{number}.example." for number in reversed(range(500))))
    for number in range(500):
        server.add(f"mx{number}.example", "A", f"198.51.100.{number % 250 + 1}")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        resolver = DnsResolver(WorkerThreads(), nameservers=[server.nameserver], hosts_path="/nonexistent")
        found = await MxFinder(resolver, random.Random(1)).hops("example.com")
        nursery.cancel_scope.cancel()
    assert isinstance(found, list)
    assert [hop.host for hop in found] == [f"mx{number}.example" for number in range(MAX_EXCHANGERS)]
    assert server.asked["example.com", "MX", "tcp"] == 1
    assert server.asked.total() == 2 + 2 * MAX_EXCHANGERS


async def test_aliases_and_exchangers_over_dns() -> None:
    server = DnsServer()
    server.add("example.com", "CNAME", "real.example.")
    server.add("real.example", "MX", "20 b.example.", "10 a.example.")
    server.add("a.example", "AAAA", "2001:db8::1")
    server.add("b.example", "CNAME", "c.example.")
    server.add("c.example", "A", "198.51.100.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        resolver = DnsResolver(WorkerThreads(), nameservers=[server.nameserver], hosts_path="/nonexistent")
        found = await MxFinder(resolver, random.Random(1)).hops("example.com")
        nursery.cancel_scope.cancel()
    assert found == [
        Hop("a.example", Endpoint("2001:db8::1", 25)),
        Hop("b.example", Endpoint("198.51.100.1", 25)),
    ]
