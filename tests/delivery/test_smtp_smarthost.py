"""The hosts that the configuration names."""

import pytest
from attrs import define

from elemta.delivery.hops import Hop
from elemta.delivery.smarthost import smarthost
from elemta.mail.outcome import Deferred
from elemta.net.base import Endpoint
from elemta.resolver.base import MailExchanger, NameNotFound, ResolutionFailed


@define
class Names:
    """A resolver with one answer to everything."""

    answer: list[str] | Exception

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        raise AssertionError("a smarthost has no MX")

    async def addresses(self, host: str) -> list[str]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def ipv4_addresses(self, name: str) -> list[str]:
        raise AssertionError("a delivery asks for no A alone")

    async def pointers(self, address: str) -> list[str]:
        raise AssertionError("a delivery asks for no PTR")

    async def texts(self, name: str) -> list[str]:
        raise AssertionError("a delivery asks for no TXT")


@pytest.mark.parametrize(
    ("host", "port", "endpoint"),
    [
        ("192.0.2.1", None, Endpoint("192.0.2.1", 25)),
        ("192.0.2.1", 0, Endpoint("192.0.2.1", 25)),
        ("192.0.2.1", 2600, Endpoint("192.0.2.1", 2600)),
        ("::1", 2600, Endpoint("::1", 2600)),
        ("[2001:DB8::1]", 2600, Endpoint("2001:db8::1", 2600)),
    ],
)
async def test_an_address_needs_no_resolver(host: str, port: int | None, endpoint: Endpoint) -> None:
    finder = smarthost(host, port, Names(AssertionError("asked")))
    assert await finder.hops("example.net") == (Hop(host, endpoint),)


async def test_a_name_has_all_its_addresses_in_order() -> None:
    finder = smarthost("relay.example.org", 587, Names(["192.0.2.2", "192.0.2.1"]))
    found = await finder.hops("example.net")
    assert found == [Hop("relay.example.org", Endpoint(f"192.0.2.{number}", 587)) for number in (2, 1)]


@pytest.mark.parametrize(
    ("answer", "enhanced"),
    [(ResolutionFailed("SERVFAIL"), "4.4.3"), (NameNotFound("relay.example.org"), "4.4.4"), ([], "4.4.4")],
)
async def test_a_missing_smarthost_never_bounces(answer: list[str] | Exception, enhanced: str) -> None:
    found = await smarthost("relay.example.org", 25, Names(answer)).hops("example.net")
    assert isinstance(found, Deferred)
    assert found.reply.enhanced == enhanced
    assert "relay.example.org" in found.reply.text
