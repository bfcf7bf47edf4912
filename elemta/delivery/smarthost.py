"""The finder of hosts that the configuration names.

What is not here: MX (`delivery.mx`), or whether a route leads here (`delivery.routing`). What an operator names is
trusted: loopback and private addresses are as good as any. Failures raised: none; an unknown host defers the mail.
"""

import ipaddress
from collections.abc import Sequence

from elemta.delivery.hops import Hop
from elemta.delivery.routing import SMTP_PORT
from elemta.mail.outcome import Deferred, Failed
from elemta.mail.reply import Reply
from elemta.net.base import Endpoint
from elemta.resolver.base import NameNotFound, ResolutionFailed, Resolver


class FixedHops:
    """Always the same hops: addresses in figures, unix sockets."""

    def __init__(self, *hops: Hop) -> None:
        self._hops = hops

    async def hops(self, domain: str) -> Sequence[Hop]:
        """The hops, whatever the domain."""
        return self._hops


class NamedHops:
    """One host by its name: all its addresses, in the resolver's order. The resolver caches."""

    def __init__(self, host: str, port: int, resolver: Resolver) -> None:
        self._host = host
        self._port = port
        self._resolver = resolver

    async def hops(self, domain: str) -> Sequence[Hop] | Deferred | Failed:
        """The host's addresses, whatever the domain.

        A name that does not exist defers as well: it is the configuration that is wrong, not the mail.
        """
        try:
            addresses = await self._resolver.addresses(self._host)
        except ResolutionFailed as error:
            return Deferred(Reply(451, "4.4.3", f"cannot resolve the next host {self._host}: {error}"))
        except NameNotFound:
            addresses = []
        if not addresses:
            return Deferred(Reply(451, "4.4.4", f"the next host {self._host} has no address"))
        return [Hop(self._host, Endpoint(address, self._port)) for address in addresses]


def smarthost(host: str, port: int | None, resolver: Resolver) -> FixedHops | NamedHops:
    """The finder for `host`: a name, or an IPv4 or IPv6 address, with or without brackets. Port 25 when None or 0."""
    bare = host.removeprefix("[").removesuffix("]")
    number = port or SMTP_PORT
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return NamedHops(host, number, resolver)
    return FixedHops(Hop(host, Endpoint(str(address), number)))
