"""The names of a client's address, asked both ways.

Whoever holds an address may give it any name; only a name that resolves back to the address is true ("forward-confirmed
reverse DNS", RFC 1912 §2.1). What is not here: what follows from it (`reversedns`, `ratelimit`). Failures raised: none.
"""

import trio
from attrs import frozen

from elemta.plugins.protection.clients import address_of
from elemta.resolver.base import NameNotFound, ResolutionFailed, Resolver

#: Names of one address that are resolved, RFC 7208 §5.5.
MAX_NAMES = 10


@frozen
class ReverseNames:
    """What DNS says. `failed` is true when some of it was not to be had: then what is missing may be there."""

    claimed: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    failed: bool = False


async def reverse_names(resolver: Resolver, host: str) -> ReverseNames:
    """Ask for the names of an address and for their addresses. The caller sets the deadline."""
    try:
        claimed = (await resolver.pointers(host))[:MAX_NAMES]
    except NameNotFound:
        return ReverseNames()
    except ResolutionFailed:
        return ReverseNames(failed=True)
    confirmed: dict[str, bool | None] = {}

    async def confirm(name: str) -> None:
        confirmed[name] = await _leads_back(resolver, name, host)

    async with trio.open_nursery() as nursery:
        for name in dict.fromkeys(claimed):
            nursery.start_soon(confirm, name)
    true = tuple(name for name in dict.fromkeys(claimed) if confirmed[name])
    return ReverseNames(tuple(claimed), true, failed=None in confirmed.values())


async def _leads_back(resolver: Resolver, name: str, host: str) -> bool | None:
    """Whether the name has the address; None when DNS does not say."""
    try:
        found = await resolver.addresses(name)
    except NameNotFound:
        return False
    except ResolutionFailed:
        return None
    wanted = address_of(host)
    return any(address_of(each) == wanted for each in found)
