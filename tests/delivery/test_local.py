"""Local recipients: who is listed, who has a mailbox, how long that is remembered."""

from collections import Counter

import pytest
import trio
import trio.testing
from attrs import define, field

from elemta.config.sections import Config, RouteSection, TransportName
from elemta.delivery import local
from elemta.delivery.local import (
    MISSING_SECONDS,
    PRESENT_SECONDS,
    LocalRecipients,
    RecipientList,
    candidates,
    normal_local,
)
from elemta.delivery.routing import RoutingTable
from elemta.mail.address import Address
from tests.delivery.jobs import address

CONFIG = Config(
    hostname="mx.example.net",
    local_domains=("Example.com", "example.org"),
    local_recipients=("Bob@example.com", "jürgen@example.com", "lists+all@example.com", "carol@EXAMPLE.org"),
    routes=(
        RouteSection("example.com", TransportName.MAILDIR, path="/var/mail/{local}"),
        RouteSection("example.org", TransportName.LMTP, path="/run/lmtp"),
    ),
)


@define
class Known:
    """Mailboxes by name; counts the questions, fails when told to."""

    names: set[str] = field(factory=lambda: {"alice"})
    asked: Counter[str] = field(factory=Counter)
    fails: bool = False

    async def holds(self, address: Address) -> bool:
        self.asked[str(address)] += 1
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise PermissionError("/var/mail")
        return address.local in self.names


def recipients_of(known: Known) -> LocalRecipients:
    table = RoutingTable(CONFIG)
    (maildir,) = (route for route in table.ways if route.transport is TransportName.MAILDIR)
    return LocalRecipients(table, RecipientList(CONFIG), mailboxes={maildir: known})


@pytest.mark.parametrize(
    ("text", "exists"),
    [
        ("bob@example.com", True),
        ("BOB@example.com", True),
        ("bob@example.org", False),
        ("carol@example.org", True),
        ("JÜRGEN@example.com", True),
        ("ju\u0308rgen@example.com", True),  # the same, decomposed
        ("postmaster@example.com", True),
        ("PostMaster@example.org", True),
        ("postmaster@example.net", False),  # not local
        ("bob@example.net", False),
        ("alice@example.com", True),  # has a Maildir
        ("Alice@example.com", True),
        ("alice@example.org", False),  # LMTP's users are listed
        ("bob+news@example.com", True),
        ("alice+news+more@example.com", True),
        ("lists+all@example.com", True),
        ("lists+some@example.com", False),
        ("lists@example.com", False),
        ("+bob@example.com", False),
        ("mallory@example.com", False),
        ("mallory+alice@example.com", False),
    ],
)
async def test_who_exists(text: str, exists: bool) -> None:
    assert await recipients_of(Known()).exists(address(text)) is exists


async def test_the_bare_postmaster_exists() -> None:
    assert await recipients_of(Known()).exists(Address("Postmaster", ""))


def test_candidates() -> None:
    assert candidates(Address("A", "x")) == (Address("a", "x"),)
    assert candidates(Address("A+B+c", "x")) == (Address("a+b+c", "x"), Address("a", "x"))
    assert candidates(Address("+a", "x")) == (Address("+a", "x"),)
    assert candidates(Address("a+", "x")) == (Address("a+", "x"), Address("a", "x"))


@pytest.mark.parametrize("text", ["", "A", "ÄÖ", "İ", "A\u030a", "\u212b", "ẞ", "ﬁ", "\ud800"])
def test_normalising_twice_is_once(text: str) -> None:
    assert normal_local(normal_local(text)) == normal_local(text)


async def test_mailboxes_are_remembered_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    known = Known()
    recipients = recipients_of(known)
    alice, dave = address("alice@example.com"), address("dave@example.com")
    for _ in range(3):
        assert await recipients.exists(alice)
        assert not await recipients.exists(dave)
    assert known.asked == {"alice@example.com": 1, "dave@example.com": 1}
    known.names = {"dave"}
    await trio.sleep(MISSING_SECONDS)
    assert await recipients.exists(dave)  # whoever adds a user does not wait long
    assert await recipients.exists(alice)  # still remembered
    await trio.sleep(PRESENT_SECONDS)
    assert not await recipients.exists(alice)


async def test_what_cannot_be_seen_is_neither_yes_nor_no() -> None:
    known = Known(fails=True)
    recipients = recipients_of(known)
    with pytest.raises(OSError, match="/var/mail"):
        await recipients.exists(address("alice@example.com"))
    assert await recipients.exists(address("bob@example.com"))  # listed: nothing to see
    known.fails = False
    assert await recipients.exists(address("alice@example.com"))  # a failure is not remembered


async def test_guessed_names_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_REMEMBERED", 10)
    recipients = recipients_of(Known())
    for number in range(50):
        await recipients.exists(address(f"guess{number}@example.com"))
    assert len(recipients._remembered) == 10
