"""Scripted DNS.

What is not here: which hosts are tried (`delivery.mx`).
Failures raised: `ResolutionFailed` while a name's servers are down, `NameNotFound` for names that nobody scripted.
"""

import random
from collections.abc import Mapping
from ipaddress import ip_address

import trio
from attrs import frozen

from elemta.resolver.base import MailExchanger, NameNotFound, ResolutionFailed


@frozen
class Name:
    """What DNS holds of one name. Until `failing_until` (virtual seconds) it answers SERVFAIL.

    `pointers` are those of the name under `in-addr.arpa` or `ip6.arpa` that stands for an address.
    """

    exchangers: tuple[MailExchanger, ...] = ()
    addresses: tuple[str, ...] = ()
    failing_until: float = 0.0
    pointers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class ScriptedResolver:
    """A `Resolver` over a fixed set of names; every answer takes up to `seconds`."""

    def __init__(self, names: Mapping[str, Name], chance: random.Random, *, seconds: float = 0.02) -> None:
        self._names = names
        self._chance = chance
        self._seconds = seconds

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        """The scripted MX records."""
        return list((await self._name(domain)).exchangers)

    async def addresses(self, host: str) -> list[str]:
        """The scripted addresses."""
        return list((await self._name(host)).addresses)

    async def ipv4_addresses(self, name: str) -> list[str]:
        """Those of the scripted addresses that an A record can hold."""
        return [address for address in (await self._name(name)).addresses if ":" not in address]

    async def pointers(self, address: str) -> list[str]:
        """The scripted PTR records."""
        return list((await self._name(ip_address(address).reverse_pointer)).pointers)

    async def texts(self, name: str) -> list[str]:
        """The scripted TXT records."""
        return list((await self._name(name)).texts)

    async def _name(self, text: str) -> Name:
        await trio.sleep(self._chance.uniform(0, self._seconds))
        name = self._names.get(text)
        if name is None:
            raise NameNotFound(f"{text} does not exist")
        if trio.current_time() < name.failing_until:
            raise ResolutionFailed(f"SERVFAIL for {text}")
        return name
