"""Which reverse-paths a user may use.

What is not here: the reply to MAIL (`inbound.login`), or the `From` field, which nobody judges here.
A user's own addresses are the name they log in with, where it is an address, and their mail address, each with what
may stand behind a `+` in it, as mailboxes here take it (RFC 5233 §1). Domains are compared as A-labels, local parts
without regard to the case of letters. The null reverse-path is everybody's: a mail program that confirms a reading must
use it, RFC 8098 §3. Failures raised: none; what is no address in a list permits nothing.
"""

from collections.abc import Iterable
from functools import lru_cache

from attrs import frozen

from elemta.auth.base import SENDERS_ATTRIBUTE, User
from elemta.config.auth import SenderRule
from elemta.mail.address import Address
from elemta.smtp.grammar import AddressError, parse_address, parse_domain

#: What separates a mailbox from the rest of a local part.
SUBADDRESS_SEPARATOR = "+"
#: Entries of a user's list that are read; more are a directory, and want `any`.
MAX_LISTED = 1000


@frozen
class Permit:
    """What one user may use: addresses as (local part, domain) in lower case, whole domains, or anything."""

    addresses: frozenset[tuple[str, str]] = frozenset()
    domains: frozenset[str] = frozenset()
    anything: bool = False

    def allows(self, reverse_path: Address | None) -> bool:
        """Whether the user may send with this reverse-path."""
        if self.anything or reverse_path is None or reverse_path.domain in self.domains:
            return True
        local, domain = reverse_path.local.lower(), reverse_path.domain
        base = local.partition(SUBADDRESS_SEPARATOR)[0]
        return (local, domain) in self.addresses or (base, domain) in self.addresses


ANYTHING = Permit(anything=True)


def permit_of(rule: SenderRule, user: User) -> Permit:
    """What a rule gives to a user."""
    if rule is SenderRule.ANY:
        return ANYTHING
    words = [user.name, user.email]
    if rule is SenderRule.LISTED:
        listed = user.attributes.get(SENDERS_ATTRIBUTE, "")
        words += listed.replace(",", " ").split()[:MAX_LISTED]
    return _permit(tuple(word for word in words if "@" in word))


@lru_cache(maxsize=1000)  # users come again, and their lists may be long
def _permit(words: tuple[str, ...]) -> Permit:
    return Permit(frozenset(_addresses(words)), frozenset(_domains(words)))


def _addresses(words: Iterable[str]) -> Iterable[tuple[str, str]]:
    for word in words:
        try:
            address = parse_address(word)
        except AddressError:
            continue
        yield address.local.lower(), address.domain


def _domains(words: Iterable[str]) -> Iterable[str]:
    for word in words:
        if not word.startswith("@"):
            continue
        try:
            yield parse_domain(word[1:])
        except AddressError:
            continue
