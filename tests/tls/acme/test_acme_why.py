"""What `elemta cert why` finds, and CAA records as RFC 8659 reads them."""

import random
from collections.abc import Sequence

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock

from elemta.net.base import Endpoint
from elemta.resolver.base import MailExchanger, NameNotFound
from elemta.simulation.clock import VirtualClock
from elemta.simulation.network import VirtualNetwork
from elemta.tls.acme.base import Binding, Directory, Kind
from elemta.tls.acme.caa import CaaRecord, permits
from elemta.tls.acme.directories import LETS_ENCRYPT
from elemta.tls.acme.http01 import Responder
from elemta.tls.acme.issue import Terms
from elemta.tls.acme.keys import make_key
from elemta.tls.acme.order import ChallengeFailed, Task
from elemta.tls.acme.why import Finding, Scene, State, findings
from tests.tls.acme.scripted import AWAY, Billboard, ScriptedAuthority, Site

OURS = ("letsencrypt.org",)
NAME = "mail.invalid"


def records(*texts: str) -> list[CaaRecord]:
    rows = [text.split(" ", 2) for text in texts]
    return [CaaRecord(int(flags), tag, value) for flags, tag, value in rows]


@pytest.mark.parametrize(
    ("texts", "wildcard", "expected"),
    [
        ([], False, True),
        (["0 issue letsencrypt.org"], False, True),
        (["0 issue LetsEncrypt.org; validationmethods=http-01"], False, True),
        (["0 issue other.example", "0 issue letsencrypt.org"], False, True),
        (["0 issue other.example"], False, False),
        (["0 issue ;"], False, False),
        (["0 issue "], False, False),
        (["0 iodef mailto:x@example.com"], False, True),
        (["0 issuewild other.example"], False, True),
        (["0 issuewild other.example"], True, False),
        (["0 issue other.example", "0 issuewild letsencrypt.org"], True, True),
        (["0 issue letsencrypt.org"], True, True),
        (["128 unheard x", "0 issue letsencrypt.org"], False, False),
        (["0 unheard x", "0 issue letsencrypt.org"], False, True),
    ],
)
def test_caa_records_permit_or_forbid(texts: list[str], wildcard: bool, expected: bool) -> None:
    assert permits(records(*texts), OURS, wildcard=wildcard) is expected


@define
class Book:
    """A resolver that knows some addresses."""

    known: dict[str, list[str]] = field(factory=dict)

    async def addresses(self, host: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        if host not in self.known:
            raise NameNotFound(f"the domain {host} does not exist")
        return self.known[host]

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        raise NotImplementedError(domain)

    async def ipv4_addresses(self, name: str) -> list[str]:
        raise NotImplementedError(name)

    async def pointers(self, address: str) -> list[str]:
        raise NotImplementedError(address)

    async def texts(self, name: str) -> list[str]:
        raise NotImplementedError(name)


@define
class BoardAnswers:
    board: Billboard

    async def answer(self, token: str) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.board.shown.get(token, "").encode()


@define
class Street:
    """A site, an authority, a way to port 80."""

    site: Site = field(factory=lambda: Site(VirtualClock(), Billboard()))
    book: Book = field(factory=lambda: Book({NAME: ["192.0.2.1"]}))
    network: VirtualNetwork = field(factory=lambda: VirtualNetwork(random.Random(1)))
    terms: Terms = Terms("https://authority.example/dir", (NAME,))
    ahead: float | None = 0.0
    caa: list[CaaRecord] = field(factory=list)

    async def found(self, *, open_port: bool = True) -> dict[str, Finding]:
        scene = Scene(
            terms=self.terms,
            authority=ScriptedAuthority(self.site, make_key("ecdsa-p256")),
            solver=self.site.billboard,
            resolver=self.book,
            network=self.network.host("192.0.2.1"),
            clock_ahead=lambda: self.ahead,
            caa=self._caa,
        )
        told: list[Finding] = []
        responder = Responder(BoardAnswers(self.site.billboard))
        async with trio.open_nursery() as nursery:
            if open_port:
                await responder.listen(self.network.host("192.0.2.1"), ":80")
                nursery.start_soon(responder.run)
            else:
                self.network.bind(Endpoint("192.0.2.1", 81), 1)
            await findings(scene, told.append)
            nursery.cancel_scope.cancel()
        assert self.site.billboard.shown == {}
        return {one.subject: one for one in told}

    async def _caa(self, _: str) -> tuple[str, list[CaaRecord]]:
        await trio.lowlevel.checkpoint()
        return ("invalid" if self.caa else ""), self.caa


@pytest.fixture
def street() -> Street:
    return Street()


def states(found: dict[str, Finding]) -> dict[str, State]:
    return {subject.partition(" ")[0]: one.state for subject, one in found.items()}


async def test_when_all_is_well_nothing_is_to_mend(street: Street, autojump_clock: MockClock) -> None:
    found = await street.found()
    assert list(found) == [
        "authority",
        "clock",
        "profile",
        "account",
        f"addresses of {NAME}",
        f"CAA of {NAME}",
        f"http-01 of {NAME}",
    ]
    assert {one.state for one in found.values()} == {State.OK}
    assert {one.mend for one in found.values()} == {""}


async def test_an_authority_that_is_away_hides_nothing_else(street: Street, autojump_clock: MockClock) -> None:
    street.site.always = AWAY
    assert states(await street.found()) == {
        "authority": State.WRONG,
        "addresses": State.OK,
        "CAA": State.OK,
        "http-01": State.OK,
    }


@pytest.mark.parametrize(("ahead", "says"), [(4000.0, "4000 s ahead of"), (-90_000.0, "90000 s behind")])
async def test_a_wrong_clock_is_told(street: Street, ahead: float, says: str, autojump_clock: MockClock) -> None:
    street.ahead = ahead
    clock = (await street.found())["clock"]
    assert clock.state is State.WRONG
    assert says in clock.says


async def test_what_the_account_needs_is_told(street: Street, autojump_clock: MockClock) -> None:
    street.site.offers = Directory(needs_binding=True, terms="https://authority.example/terms", profiles=("classic",))
    street.terms = Terms("https://authority.example/dir", (NAME,), profile="shortlived")
    found = await street.found()
    assert "eab_key_id" in found["account"].mend
    assert "classic" in found["profile"].mend
    street.terms = Terms("https://authority.example/dir", (NAME,), agrees=False, binding=Binding("x", "y"))
    account = (await street.found())["account"]
    assert "https://authority.example/terms" in account.says
    assert "accept_terms" in account.mend


async def test_a_port_that_is_closed_is_told(street: Street, autojump_clock: MockClock) -> None:
    way = (await street.found(open_port=False))[f"http-01 of {NAME}"]
    assert way.state is State.WRONG
    assert "192.0.2.1:80 is not reached" in way.says
    assert "http_addr" in way.mend


async def test_another_server_at_the_port_is_told(street: Street, autojump_clock: MockClock) -> None:
    street.site.billboard.wrong = True
    way = (await street.found())[f"http-01 of {NAME}"]
    assert way.state is State.WRONG
    assert "another server is there" in way.says


async def test_a_silent_port_ends_in_time(street: Street, autojump_clock: MockClock) -> None:
    street.network.partition("192.0.2.1")
    way = (await street.found())[f"http-01 of {NAME}"]
    assert way.state is State.UNSURE
    assert trio.current_time() < 20


async def test_a_name_without_an_address_is_told(street: Street, autojump_clock: MockClock) -> None:
    street.book.known.clear()
    found = await street.found()
    assert found[f"addresses of {NAME}"].state is State.WRONG
    street.site.billboard.kind = Kind.DNS
    found = await street.found()
    assert found[f"addresses of {NAME}"].state is State.UNSURE
    assert found["dns-01"].state is State.OK


async def test_a_private_address_is_told_of_a_public_authority(street: Street, autojump_clock: MockClock) -> None:
    street.terms = Terms(LETS_ENCRYPT, (NAME,))
    assert (await street.found())[f"addresses of {NAME}"].state is State.UNSURE


@define
class Refusing(Billboard):
    async def put_up(self, tasks: Sequence[Task]) -> None:
        await trio.lowlevel.checkpoint()
        raise ChallengeFailed("the name server refused the update")


async def test_an_update_that_is_refused_is_told(street: Street, autojump_clock: MockClock) -> None:
    street.site.billboard = Refusing(Kind.DNS)
    assert (await street.found())["dns-01"].says == "the name server refused the update"


async def test_records_that_forbid_are_told(street: Street, autojump_clock: MockClock) -> None:
    street.site.offers = Directory(caa_identities=OURS)
    street.caa = records("0 issue other.example")
    caa = (await street.found())[f"CAA of {NAME}"]
    assert caa.state is State.WRONG
    assert caa.mend == 'Add a record there: invalid. CAA 0 issue "letsencrypt.org"'
