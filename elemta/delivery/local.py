"""Which recipients exist in local domains.

What is not here: whether a domain is local or may be relayed to (`inbound`), or how mail reaches a mailbox
(`delivery.maildir`, `delivery.lmtp`). A recipient exists when the configuration lists it, or when its domain's route
keeps mailboxes and there is one of its name. Local parts are compared without case: RFC 5321 §2.4 leaves that to the
host that owns them. `user+tag` is `user` unless it exists itself, as RFC 5233 §1 describes.
Failures raised: `OSError` when nobody can say now.
"""

import unicodedata
from collections.abc import Mapping
from typing import Protocol

import trio

from elemta.config.sections import Config
from elemta.delivery.routing import Route, RoutingTable, canonical_domain
from elemta.mail.address import Address

#: Between a user and a detail of the user's own; the character that Postfix, Dovecot and Gmail take.
SUBADDRESS_SEPARATOR = "+"
#: How long a mailbox that was there is taken to be there, in seconds.
PRESENT_SECONDS = 60.0
#: How long one that was missing is taken to be missing: whoever adds a user must not wait.
MISSING_SECONDS = 5.0
#: Mailboxes remembered at once; about 200 octets each. Guessed names push each other out.
MAX_REMEMBERED = 10_000


def normal_local(local: str) -> str:
    """A local part for comparisons: lower case, composed characters (Unicode's form C). Applying it twice is once."""
    if local.isascii():
        return local.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).lower())


def candidates(address: Address) -> tuple[Address, ...]:
    """The mailboxes that an address may mean, the most exact first, in the form for comparisons."""
    local = normal_local(address.local)
    user = local.partition(SUBADDRESS_SEPARATOR)[0]
    exact = Address(local, address.domain)
    return (exact,) if not user or user == local else (exact, Address(user, address.domain))


class RecipientList:
    """The addresses that the configuration lists. Every local domain has a postmaster, RFC 5321 §4.5.1."""

    def __init__(self, config: Config) -> None:
        parts = [text.rpartition("@") for text in config.local_recipients]
        self._addresses = {Address(normal_local(local), canonical_domain(domain)) for local, _, domain in parts}

    def holds(self, address: Address) -> bool:
        """Whether this very address is listed, in any case of letters."""
        local = normal_local(address.local)
        return local == "postmaster" or Address(local, address.domain) in self._addresses


class Mailboxes(Protocol):
    """A place with a mailbox for each user that it knows."""

    async def holds(self, address: Address) -> bool:
        """Whether there is a mailbox of this very name. Raises `OSError` when that cannot be seen."""
        ...


class LocalRecipients:
    """Answers at RCPT whether a local recipient exists.

    `mailboxes` has one for each way out that knows its users by itself; for all others the list decides.
    """

    def __init__(self, table: RoutingTable, listed: RecipientList, *, mailboxes: Mapping[Route, Mailboxes]) -> None:
        self._table = table
        self._listed = listed
        self._mailboxes = mailboxes
        #: By mailbox: whether it is there, and until when (on Trio's clock) that is taken for true.
        self._remembered: dict[Address, tuple[bool, float]] = {}

    async def exists(self, address: Address) -> bool:
        """Whether a local domain has this recipient. Raises `OSError` when nobody can say now."""
        if not self._table.is_local(address.domain):
            return False
        meant = candidates(address)
        if any(self._listed.holds(each) for each in meant):
            return True
        mailboxes = self._mailboxes.get(self._table.route(address.domain).way)
        if mailboxes is None:
            return False
        for each in meant:
            if await self._is_there(mailboxes, each):
                return True
        return False

    async def _is_there(self, mailboxes: Mailboxes, address: Address) -> bool:
        known, until = self._remembered.get(address, (False, 0.0))
        if trio.current_time() < until:
            return known
        known = await mailboxes.holds(address)
        self._remembered.pop(address, None)
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[address] = (known, trio.current_time() + (PRESENT_SECONDS if known else MISSING_SECONDS))
        return known
