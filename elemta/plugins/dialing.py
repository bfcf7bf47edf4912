"""A connection to a program beside the server that a plugin asks, such as a scanner or a milter.

What is not here: what is said on it. Names are asked of the host's resolver; each of several addresses has its share of
the time, so that a dead one does not use it up. Failure raised: `Unreached`.
"""

import ipaddress
import math

import trio

from elemta.net.base import Endpoint, Stream
from elemta.plugins.api import Host
from elemta.resolver.base import NameNotFound, ResolutionFailed


class Unreached(Exception):
    """Nobody took the connection; the text says why, in the system's words where there are some."""


async def connect(host: Host, where: Endpoint, *, seconds: float) -> Stream:
    """A connection to the first address that takes one. `where` is an IP address or a name with its port, or a unix
    path. With one address alone the caller's deadline is the only one. Raises `Unreached`."""
    errors: list[str] = []
    endpoints = await _endpoints(host, where)
    for endpoint in endpoints:
        with trio.move_on_after(math.inf if len(endpoints) == 1 else seconds / len(endpoints)):
            try:
                return await host.network.connect(endpoint)
            except OSError as error:
                errors.append(error.strerror or str(error))
                continue
        errors.append("no answer")
    raise Unreached("; ".join(dict.fromkeys(errors)))


async def _endpoints(host: Host, where: Endpoint) -> list[Endpoint]:
    if where.is_unix:
        return [where]
    name = where.host
    try:
        return [Endpoint(str(ipaddress.ip_address(name)), where.port)]
    except ValueError:
        pass
    try:
        found = await host.resolver.addresses(name)
    except (ResolutionFailed, NameNotFound) as error:
        raise Unreached(f"no address of {name} was found: {error}") from error
    if not found:
        raise Unreached(f"{name} has no address")
    return [Endpoint(one, where.port) for one in found]
