"""What a client may call itself, as far as one can see without asking anybody.

RFC 5321 §4.1.4: the argument of HELO and EHLO is a domain name or an address literal. That it is not the client's own
is no reason to refuse, so nothing here compares it with the client's address; but it is never ours. What is not here:
asking DNS (`helocheck`). Failures raised: none.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from elemta.plugins.protection.clients import Address, address_of

#: Characters of a domain in its written form; RFC 1035 §2.3.4 allows 255 octets on the wire.
_DOMAIN_CHARACTERS: Final = 253
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# RFC 5321 §4.1.2, with the underscore that is in many machines' names; RFC 5321 §2.3.5 asks for a whole name, so that
# there is a dot, and RFC 3696 §2 for a top-level domain that is not all digits: an address without brackets is none.
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+\.?\Z){_LABEL}\.?", re.ASCII)


def literal_of(hello: str) -> Address | None:
    """The address of an address literal, RFC 5321 §4.1.3; None for what is none."""
    if not (hello.startswith("[") and hello.endswith("]")):
        return None
    inner = hello[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            return address_of(str(IPv6Address(inner[5:])))
        return IPv4Address(inner)
    except ValueError:
        return None


def is_well_formed(hello: str) -> bool:
    """Whether it is a domain name in full, or an address literal."""
    if hello.startswith("["):
        return literal_of(hello) is not None
    name = _ascii(hello.lower())
    return len(name) <= _DOMAIN_CHARACTERS and _DOMAIN.fullmatch(name) is not None


def is_ours(hello: str, *, names: Collection[str], address: str) -> bool:
    """Whether it is one of our `names` (lower-case) or `address`, with or without brackets."""
    said = literal_of(hello) or address_of(hello)
    if said is not None:
        return said == address_of(address)
    return hello.lower().removesuffix(".") in names


def _ascii(name: str) -> str:
    """RFC 6531 §3.7.1 asks for A-labels here; a U-label is taken all the same, as one of letters."""
    return re.sub(r"[^\x00-\x7f]", "x", name)
