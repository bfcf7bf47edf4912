"""The grammar of addresses, domains, literals in SMTP commands.

Each expression has the RFC's own rule above it, with the reason where ours differs. All of them run in time linear in
their input. What is not here: whole commands (`smtp.commands`), their parameters (`smtp.parameters`).
Failures raised: `AddressError`.
"""

import enum
import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import idna

from elemta.mail.address import Address

#: RFC 5321 §4.5.3.1.1. Kept for forward-paths alone: reverse-paths that encode a recipient are longer in the field.
MAX_LOCAL_OCTETS: Final = 64
#: RFC 5321 §4.5.3.1.2.
MAX_DOMAIN_OCTETS: Final = 255
#: RFC 5321 §4.5.3.1.3, with the angle brackets.
MAX_PATH_OCTETS: Final = 256


class AddressFault(enum.Enum):
    """What is wrong with an address."""

    SYNTAX = "syntax"
    TOO_LONG = "too long"
    DOMAIN = "malformed domain"


class AddressError(ValueError):
    """The text is no address; `fault` says why."""

    def __init__(self, fault: AddressFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


# RFC 5321 §4.1.2: sub-domain = Let-dig [Ldh-str]; RFC 1035 §2.3.4 gives a label 63 octets.
# The underscore is ours: names of containers and of Windows hosts hold it, and every other server lets it pass.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# Domain = sub-domain *("." sub-domain)
DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*+"
_DOMAIN = re.compile(DOMAIN)
# RFC 5322 §3.2.3: atext. The two characters of old-style routing, % and !, are left to the slow road.
PLAIN_ATEXT = r"[A-Za-z0-9#$&'*+/=?^_`{|}~-]"
# RFC 6531 §3.3: atext =/ UTF8-non-ascii
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]"
# Dot-string = Atom *("." Atom)
_DOT_STRING = rf"{_ATEXT}++(?:\.{_ATEXT}++)*+"
# Quoted-string = DQUOTE *QcontentSMTP DQUOTE; QcontentSMTP = qtextSMTP / quoted-pairSMTP
# qtextSMTP = %d32-33 / %d35-91 / %d93-126 (RFC 6531 §3.3: / UTF8-non-ascii); quoted-pairSMTP = %d92 %d32-126
_QUOTED_STRING = r'"(?:[ !#-\[\]-~\x80-\U0010ffff]|\\[ -~])*+"'
# Mailbox = Local-part "@" ( Domain / address-literal ). What follows the "@" is judged by `parse_domain`.
_MAILBOX = re.compile(rf"(?:(?P<dotted>{_DOT_STRING})|(?P<quoted>{_QUOTED_STRING}))@(?P<domain>[^ <>]+)")
_QUOTED_PAIR = re.compile(r"\\(.)")
# A-d-l = At-domain *( "," At-domain ); At-domain = "@" Domain; Path = "<" [ A-d-l ":" ] Mailbox ">"
# Looser than the RFC, since all of it is thrown away.
_SOURCE_ROUTE = re.compile(r"@(?:\[[^]]*\]|[^][,:@<> ]+)(?:,@(?:\[[^]]*\]|[^][,:@<> ]+))*+:")
# C1 controls, line and paragraph separators, overrides of the writing direction: RFC 6531 §3.3 lets them pass, but they
# would forge log lines and headers.
_UNFIT = re.compile("[\x80-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# RFC 5321 §4.1.1.1: ehlo = "EHLO" SP ( Domain / address-literal ). Looser, as every server is: bare and unusual host
# names pass, but nothing that means something in a Received field (RFC 5322 §3.2.3 specials but for ".", ":").
_HELLO_NAME = re.compile(rb"[A-Za-z0-9._:/+#%~=-]{1,255}")
_HELLO_LITERAL = re.compile(rb"\[([A-Za-z0-9.:%_-]{1,100})\]")
# xtext = *( xchar / hexchar ); xchar = %d33-42 / %d44-60 / %d62-126; hexchar = "+" 2(%x30-39 / %x41-46): RFC 3461 §4.
# RFC 4954 §8 takes lower-case digits, too; so do we, everywhere.
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})*+")
_HEXCHAR = re.compile(r"\+([0-9A-Fa-f]{2})")
#: What a decoded xtext may hold: it goes into reports and logs.
_PRINTABLE = re.compile(r"[ -~]*+")


def parse_address(text: str) -> Address:
    """The address that `text` is, without angle brackets, as RFC 5321 §4.1.2 and RFC 6531 §3.3 write it.

    Raises `AddressError`.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATH_OCTETS - 2:
        raise AddressError(AddressFault.TOO_LONG)
    mailbox = _MAILBOX.fullmatch(text)
    if mailbox is None or _UNFIT.search(text):
        raise AddressError(AddressFault.SYNTAX)
    local = mailbox["dotted"]
    if local is None:
        local = _QUOTED_PAIR.sub(r"\1", mailbox["quoted"][1:-1])
    return Address(local, parse_domain(mailbox["domain"]))


def strip_source_route(path: str) -> str:
    """The path without its source route, which RFC 5321 §4.1.1.3 lets a server ignore."""
    route = _SOURCE_ROUTE.match(path)
    return path if route is None else path[route.end() :]


def parse_domain(text: str) -> str:
    """A domain or address literal in the form that `Address` compares. Raises `AddressError`."""
    if text.startswith("["):
        return _parse_literal(text)
    domain = text.lower()
    if not domain.isascii() or "xn--" in domain:
        domain = _to_a_labels(text)
    if len(domain) > MAX_DOMAIN_OCTETS:
        raise AddressError(AddressFault.TOO_LONG)
    if _DOMAIN.fullmatch(domain) is None:
        raise AddressError(AddressFault.DOMAIN)
    return domain


def _to_a_labels(text: str) -> str:
    """RFC 5891 §4 after the mapping of UTS 46, with its strict rules for ASCII, not its transitional ones."""
    try:
        return idna.encode(text, strict=True, uts46=True, std3_rules=True).decode("ascii")
    except (ValueError, IndexError) as error:  # idna.IDNAError is a UnicodeError, and so a ValueError
        raise AddressError(AddressFault.DOMAIN) from error


def _parse_literal(text: str) -> str:
    """RFC 5321 §4.1.3: IPv4, or `IPv6:` before IPv6. No other tag is registered."""
    inner = text[1:-1]
    if not text.endswith("]") or not inner.isascii() or "%" in inner:
        raise AddressError(AddressFault.DOMAIN)
    try:
        if inner[:5].upper() == "IPV6:":
            return f"[IPv6:{IPv6Address(inner[5:])}]"
        return f"[{IPv4Address(inner)}]"
    except AddressValueError as error:
        raise AddressError(AddressFault.DOMAIN) from error


def parse_hello(argument: bytes) -> str | None:
    """What a client calls itself in EHLO or HELO, or None where that is unfit for a Received field."""
    if _HELLO_NAME.fullmatch(argument):
        return argument.decode("ascii")
    literal = _HELLO_LITERAL.fullmatch(argument)
    if literal is None:
        return None
    inner = literal[1].decode("ascii")
    bare = inner[5:] if inner[:5].upper() == "IPV6:" else inner
    try:
        # Clients leave out the tag, or add the zone of a link-local address: RFC 4291 §2.2 is enough here.
        IPv6Address(bare) if ":" in bare else IPv4Address(bare)
    except AddressValueError:
        return None
    return f"[{inner}]"


def decode_xtext(text: str) -> str | None:
    """The text that `text` encodes, RFC 3461 §4; None where it is no xtext, or stands for what is not printable."""
    if _XTEXT.fullmatch(text) is None:
        return None
    decoded = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text)
    return decoded if _PRINTABLE.fullmatch(decoded) else None
