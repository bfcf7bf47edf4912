"""The client's name for filters, asked of DNS.

Filters judge by it: a client without a name, or with one that does not lead back to its address, is suspect to them. So
the server looks, as Sendmail and Postfix do. What is not here: how names are written down (`milter.macros`).
Failures raised: none.
"""

import ipaddress
from typing import Final

import trio

from elemta.net.base import Endpoint
from elemta.plugins.milter.macros import Names, Resolved, without_dns
from elemta.plugins.protection.reverse import reverse_names
from elemta.resolver.base import Resolver

#: Seconds until DNS counts as silent about the client's name: meanwhile the client waits for its greeting.
NAME_SECONDS: Final = 5.0


async def names_of(resolver: Resolver, hostname: str, client: Endpoint) -> Names:
    """What the server and the client are called."""
    plain = without_dns(hostname, client)
    if client.is_unix:
        return plain
    if ipaddress.ip_address(client.host).is_loopback:
        return Names(hostname, "localhost", "localhost", Resolved.OK)
    found = None
    with trio.move_on_after(NAME_SECONDS):
        found = await reverse_names(resolver, client.host)
    if found is None:
        return Names(hostname, plain.client, "", Resolved.TEMP)
    if found.confirmed:
        return Names(hostname, found.confirmed[0], found.confirmed[0], Resolved.OK)
    pointer = found.claimed[0] if found.claimed else ""
    if found.failed:
        return Names(hostname, plain.client, pointer, Resolved.TEMP)
    return Names(hostname, plain.client, pointer, Resolved.FORGED if pointer else Resolved.FAIL)
