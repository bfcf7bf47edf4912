"""The resolver against a real DNS server that misbehaves in every way it can."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from elemta.resolver.base import MailExchanger, NameNotFound, ResolutionFailed
from elemta.resolver.dns import MAX_POINTERS, MAX_RECORDS, MAX_TEXT_OCTETS, QUESTION_SECONDS, DnsResolver
from elemta.resolver.files import Nameserver
from elemta.runtime.threads import WorkerThreads
from tests.resolver.dnsserver import DnsServer, Fault

#: Long enough for loopback on a slow machine; silent servers cost this much of real time.
TRY_SECONDS = 0.25
SHORT_SECONDS = 0.6


def resolver_of(*nameservers: Nameserver, seconds: float = QUESTION_SECONDS) -> DnsResolver:
    return DnsResolver(
        WorkerThreads(),
        nameservers=nameservers,
        hosts_path="/nonexistent/hosts",
        question_seconds=seconds,
        try_seconds=TRY_SECONDS,
    )


@asynccontextmanager
async def running(*servers: DnsServer) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for server in servers:
            await nursery.start(server.serve)
        yield
        nursery.cancel_scope.cancel()


async def test_mail_exchangers_come_by_preference_in_lower_case() -> None:
    server = DnsServer()
    server.add("example.com", "MX", "20 B.example.com.", "10 a.example.com.", "30 c.example.net.")
    async with running(server):
        found = await resolver_of(server.nameserver).mail_exchangers("example.com")
    assert found == [
        MailExchanger(10, "a.example.com"),
        MailExchanger(20, "b.example.com"),
        MailExchanger(30, "c.example.net"),
    ]


async def test_the_null_mx_is_an_empty_host() -> None:
    server = DnsServer()
    server.add("example.com", "MX", "0 .")
    async with running(server):
        assert await resolver_of(server.nameserver).mail_exchangers("example.com") == [MailExchanger(0, "")]


async def test_addresses_of_both_kinds() -> None:
    server = DnsServer()
    server.add("mx.example.com", "A", "192.0.2.1", "192.0.2.2")
    server.add("mx.example.com", "AAAA", "2001:db8::1")
    async with running(server):
        found = await resolver_of(server.nameserver).addresses("mx.example.com")
    assert found[0] == "2001:db8::1"
    assert set(found[1:]) == {"192.0.2.1", "192.0.2.2"}


async def test_a_records_alone_are_asked_of_dns_alone(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.9 2.0.0.127.list.example\n")
    server = DnsServer()
    server.add("2.0.0.127.list.example", "A", "127.0.0.2", "127.0.0.4")
    server.add("six.list.example", "AAAA", "2001:db8::1")
    async with running(server):
        resolver = DnsResolver(WorkerThreads(), nameservers=[server.nameserver], hosts_path=str(hosts))
        assert sorted(await resolver.ipv4_addresses("2.0.0.127.list.example")) == ["127.0.0.2", "127.0.0.4"]
        assert await resolver.ipv4_addresses("six.list.example") == []
        with pytest.raises(NameNotFound):
            await resolver.ipv4_addresses("3.0.0.127.list.example")
    assert {kind for _, kind, _ in server.asked} == {"A"}


async def test_a_name_without_such_records_gives_an_empty_list() -> None:
    server = DnsServer()
    server.add("example.com", "TXT", "hello")
    async with running(server):
        resolver = resolver_of(server.nameserver)
        assert await resolver.mail_exchangers("example.com") == []
        assert await resolver.addresses("example.com") == []


async def test_a_name_that_does_not_exist() -> None:
    server = DnsServer()
    async with running(server):
        resolver = resolver_of(server.nameserver)
        with pytest.raises(NameNotFound, match=r"missing\.example does not exist"):
            await resolver.mail_exchangers("missing.example")
        with pytest.raises(NameNotFound):
            await resolver.addresses("missing.example")


async def test_names_are_absolute() -> None:
    server = DnsServer()
    async with running(server):
        with pytest.raises(NameNotFound):
            await resolver_of(server.nameserver).mail_exchangers("mailhost")
    assert set(server.asked) == {("mailhost", "MX", "udp")}


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.REFUSED, Fault.FORMERR, Fault.YXDOMAIN, Fault.CUT])
async def test_what_may_be_better_next_time(fault: Fault) -> None:
    server = DnsServer()
    server.add("example.com", "MX", "10 mx.example.com.")
    server.spoil("example.com", fault)
    async with running(server):
        resolver = resolver_of(server.nameserver)
        with pytest.raises(ResolutionFailed, match=r"example\.com \(MX\)"):
            await resolver.mail_exchangers("example.com")
        with pytest.raises(ResolutionFailed):
            await resolver.addresses("example.com")


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.GARBAGE, Fault.STRANGER])
async def test_no_answer_in_time(fault: Fault) -> None:
    server = DnsServer()
    server.spoil("example.com", fault)
    async with running(server):
        resolver = resolver_of(server.nameserver, seconds=SHORT_SECONDS)
        with pytest.raises(ResolutionFailed, match="within"):
            await resolver.mail_exchangers("example.com")
    assert server.asked["example.com", "MX", "udp"] > 1  # asked again, within the time


async def test_the_deadline_is_of_trios_clock_alone(autojump_clock: trio.testing.MockClock) -> None:
    """A machine whose wall clock steps must not wait for ever; here the wall clock stands still."""
    autojump_clock.autojump_threshold = 0.02  # real seconds: loopback answers sooner
    server = DnsServer()
    server.spoil("example.com", Fault.SILENT)
    async with running(server):
        started = trio.current_time()
        with pytest.raises(ResolutionFailed):
            await resolver_of(server.nameserver, seconds=20.0).mail_exchangers("example.com")
        assert trio.current_time() - started == pytest.approx(20.0)


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.REFUSED, Fault.SILENT, Fault.GARBAGE])
async def test_another_name_server_is_asked(fault: Fault) -> None:
    bad, good = DnsServer(), DnsServer()
    bad.spoil("example.com", fault)
    good.add("example.com", "MX", "10 mx.example.com.")
    async with running(bad, good):
        found = await resolver_of(bad.nameserver, good.nameserver).mail_exchangers("example.com")
    assert found == [MailExchanger(10, "mx.example.com")]
    assert bad.asked["example.com", "MX", "udp"] == 1


async def test_nobody_listens() -> None:
    server = DnsServer()
    async with running(server):
        pass
    with pytest.raises(ResolutionFailed):
        await resolver_of(server.nameserver, seconds=SHORT_SECONDS).mail_exchangers("example.com")


async def test_one_kind_of_address_is_enough() -> None:
    server = DnsServer()
    server.add("four.example.com", "A", "192.0.2.1")
    server.spoil("four.example.com", Fault.SERVFAIL, "AAAA")
    server.add("six.example.com", "AAAA", "2001:db8::1")
    server.spoil("six.example.com", Fault.REFUSED, "A")
    async with running(server):
        resolver = resolver_of(server.nameserver)
        assert await resolver.addresses("four.example.com") == ["192.0.2.1"]
        assert await resolver.addresses("six.example.com") == ["2001:db8::1"]


async def test_not_knowing_goes_before_having_none() -> None:
    server = DnsServer()
    server.add("example.com", "TXT", "no address")
    server.spoil("example.com", Fault.SERVFAIL, "A")
    server.spoil("missing.example.com", Fault.SERVFAIL, "AAAA")
    async with running(server):
        resolver = resolver_of(server.nameserver)
        for name in ("example.com", "missing.example.com"):
            with pytest.raises(ResolutionFailed):
                await resolver.addresses(name)


async def test_aliases_are_followed() -> None:
    server = DnsServer()
    server.add("www.example.com", "CNAME", "a.example.net.")
    server.add("a.example.net", "CNAME", "b.example.net.")
    server.add("b.example.net", "MX", "10 mx.example.net.")
    server.add("b.example.net", "A", "192.0.2.1")
    async with running(server):
        resolver = resolver_of(server.nameserver)
        assert await resolver.mail_exchangers("www.example.com") == [MailExchanger(10, "mx.example.net")]
        assert await resolver.addresses("www.example.com") == ["192.0.2.1"]


async def test_aliases_that_the_server_left_to_us() -> None:
    server = DnsServer()
    for number in range(5):
        server.add(f"{number}.example.com", "CNAME", f"{number + 1}.example.com.")
        server.spoil(f"{number}.example.com", Fault.UNFOLLOWED)
    server.add("5.example.com", "MX", "10 mx.example.net.")
    async with running(server):
        found = await resolver_of(server.nameserver).mail_exchangers("0.example.com")
    assert found == [MailExchanger(10, "mx.example.net")]


async def test_an_alias_of_nothing_does_not_exist() -> None:
    server = DnsServer()
    server.add("example.com", "CNAME", "gone.example.net.")
    async with running(server):
        with pytest.raises(NameNotFound):
            await resolver_of(server.nameserver).mail_exchangers("example.com")


@pytest.mark.parametrize("followed", [True, False])
async def test_aliases_in_a_circle(followed: bool) -> None:
    server = DnsServer()
    for here, there in (("a", "b"), ("b", "c"), ("c", "a")):
        server.add(f"{here}.example", "CNAME", f"{there}.example.")
        if not followed:
            server.spoil(f"{here}.example", Fault.UNFOLLOWED)
    async with running(server):
        resolver = resolver_of(server.nameserver)
        with pytest.raises(ResolutionFailed):
            await resolver.mail_exchangers("a.example")
        with pytest.raises(ResolutionFailed):
            await resolver.addresses("a.example")
    assert server.asked.total() < 60


async def test_five_hundred_exchangers_come_by_tcp_and_are_cut() -> None:
    server = DnsServer()
    server.add("example.com", "MX", *(f"{number} mx{number}.example.com." for number in reversed(range(500))))
    async with running(server):
        found = await resolver_of(server.nameserver).mail_exchangers("example.com")
    assert found == [MailExchanger(number, f"mx{number}.example.com") for number in range(MAX_RECORDS)]
    assert server.asked == {("example.com", "MX", "udp"): 1, ("example.com", "MX", "tcp"): 1}


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost.", "a.localhost"])
async def test_localhost_is_never_asked_of_dns(name: str) -> None:
    server = DnsServer()
    async with running(server):
        resolver = resolver_of(server.nameserver)
        assert await resolver.addresses(name) == ["127.0.0.1", "::1"]
        assert await resolver.mail_exchangers(name) == []
    assert not server.asked


@pytest.mark.parametrize(
    "name", ["", "a..b", "a" * 64 + ".example", "a." * 200 + "example", "bü.example", r"a\.b", "example.invalid"]
)
async def test_names_that_cannot_exist_are_never_asked(name: str) -> None:
    server = DnsServer()
    async with running(server):
        resolver = resolver_of(server.nameserver)
        for ask in (resolver.mail_exchangers, resolver.addresses):
            with pytest.raises(NameNotFound) as caught:
                await ask(name)
            assert str(caught.value).isascii()
            assert len(str(caught.value)) < 200
    assert not server.asked


async def test_the_hosts_file_goes_before_dns_for_addresses_alone(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.7 Relay.internal relay # the smarthost\nfd00::7 relay.internal\n")
    server = DnsServer()
    server.add("relay.internal", "A", "192.0.2.1")
    server.add("relay.internal", "MX", "10 mx.example.com.")
    async with running(server):
        resolver = DnsResolver(WorkerThreads(), nameservers=[server.nameserver], hosts_path=str(hosts))
        assert await resolver.addresses("relay.internal") == ["10.0.0.7", "fd00::7"]
        assert await resolver.addresses("RELAY") == ["10.0.0.7"]
        assert await resolver.mail_exchangers("relay.internal") == [MailExchanger(10, "mx.example.com")]
    assert server.asked == {("relay.internal", "MX", "udp"): 1}


async def test_the_name_servers_of_resolv_conf_are_asked(tmp_path: Path) -> None:
    """Port 53 cannot be had without privileges, so the answer is that there is none: but it was asked for there."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("search example.org\nnameserver 127.0.0.253\n")
    resolver = DnsResolver(WorkerThreads(), resolv_conf_path=str(resolv_conf), question_seconds=0.1)
    with pytest.raises(ResolutionFailed):
        await resolver.mail_exchangers("example.com")
    assert [str(each) for each in resolver._asker.nameservers] == ["Do53:127.0.0.253@53"]


async def test_names_of_an_address() -> None:
    server = DnsServer()
    server.add("1.2.0.192.in-addr.arpa", "PTR", "MX.example.com.", "b.example.com.")
    six = "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"
    server.add(six, "PTR", "six.example.com.")
    many = [f"{number}.example.com." for number in range(MAX_POINTERS + 5)]
    server.add("3.2.0.192.in-addr.arpa", "PTR", *many)
    async with running(server):
        resolver = resolver_of(server.nameserver)
        assert sorted(await resolver.pointers("192.0.2.1")) == ["b.example.com", "mx.example.com"]  # a set, RFC 2181 §5
        assert await resolver.pointers("2001:db8::1") == ["six.example.com"]
        assert len(await resolver.pointers("192.0.2.3")) == MAX_POINTERS
        with pytest.raises(NameNotFound):
            await resolver.pointers("192.0.2.9")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.255.0.1"])
async def test_loopback_addresses_are_never_asked_about(address: str) -> None:
    server = DnsServer()
    async with running(server):
        assert await resolver_of(server.nameserver).pointers(address) == ["localhost"]
    assert not server.asked


async def test_no_address_has_no_name() -> None:
    server = DnsServer()
    async with running(server):
        with pytest.raises(NameNotFound, match="no IP address"):
            await resolver_of(server.nameserver).pointers("mx.example.com\r\n")
    assert not server.asked


async def test_the_strings_of_a_text_are_joined() -> None:
    server = DnsServer()
    server.add("example.com", "TXT", '"v=spf1 " "-all"', '"caf\\195\\169 \\255"')
    server.add("a.example.com", "A", "192.0.2.1")
    async with running(server):
        resolver = resolver_of(server.nameserver)
        assert sorted(await resolver.texts("example.com")) == ["café \ufffd", "v=spf1 -all"]  # a set, RFC 2181 §5
        assert await resolver.texts("a.example.com") == []


async def test_endless_texts_are_a_broken_answer() -> None:
    server = DnsServer()
    long = '"' + "x" * 250 + '"'
    strings = MAX_TEXT_OCTETS // 250 // 4
    server.add("fits.example", "TXT", *(" ".join([f'"{number}"', *[long] * (strings - 1)]) for number in range(4)))
    server.add("long.example", "TXT", *(" ".join([f'"{number}"', *[long] * strings]) for number in range(5)))
    async with running(server):
        resolver = resolver_of(server.nameserver)
        assert len(await resolver.texts("fits.example")) == 4
        with pytest.raises(ResolutionFailed, match="more than"):
            await resolver.texts("long.example")
