"""The trace fields that we put before a mail.

What is not here: when they are added (`inbound` for `Received`, `delivery` at final delivery for the others), or how
loops are counted (`mail.headers`).
RFC 5321 §4.4 defines the fields, RFC 5322 §3.3 the date, RFC 3848 the words after `with`, RFC 6531 §4.3 those for
SMTPUTF8. Nothing here raises for hostile text: what could break a line or a comment is replaced.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache

from attrs import frozen

from elemta.mail.address import Address

#: Octets of a line with its CRLF left out: RFC 5322 §2.1.1 asks for no more than this where a line can be folded.
FOLD_AT_OCTETS = 78
#: Characters of a name from HELO that are put into a trace field: the longest domain name, RFC 5321 §4.5.3.1.2.
MAX_HELO_CHARACTERS = 255
#: The last second that a four-digit year can name, RFC 5322 §3.3.
_LAST_SECOND = 253_402_300_799

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: Anything but what domains and address literals are made of (RFC 5321 §4.1.2, §4.1.3; `_` is found in real names).
_NOT_IN_HOST = re.compile(r"[^A-Za-z0-9._:\[\]-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@frozen
class Arrival:
    """How a mail came to us, for its `Received` field.

    `helo` is what the client called itself, `client` its IP address as text (empty on a unix socket), `hostname` our
    name, `protocol` a word of `protocol_name`, `id` the queue id, `at` UTC in seconds since 1970. `recipient` is given
    only when there is exactly one: naming one of several would tell the others of a blind copy (RFC 5321 §7.2).
    `tls` and `cipher` are OpenSSL's words for what the connection is encrypted with; empty in the clear.
    """

    helo: str
    client: str
    hostname: str
    protocol: str
    id: str
    at: float
    recipient: Address | None = None
    tls: str = ""
    cipher: str = ""


def protocol_name(*, extended: bool, tls: bool = False, authenticated: bool = False, utf8: bool = False) -> str:
    """The word after `with`: SMTP, ESMTP, ESMTPS, UTF8SMTPSA … (RFC 3848, RFC 6531 §4.3).

    `extended` is False after HELO, with which none of the others can be said.
    """
    if not extended:
        return "SMTP"
    return ("UTF8SMTP" if utf8 else "ESMTP") + ("S" if tls else "") + ("A" if authenticated else "")


def address_literal(address: str) -> str:
    """An IP address as text with the brackets and the tag of RFC 5321 §4.1.3."""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def format_date(at: float) -> str:
    """A time as RFC 5322 §3.3 writes it, in UTC; `at` is seconds since 1970. A time out of bounds is moved to them."""
    return _format_second(int(min(max(at, 0.0), _LAST_SECOND)))


@lru_cache(maxsize=8)  # a busy second has thousands of mails
def _format_second(second: int) -> str:
    moment = datetime.fromtimestamp(second, UTC)
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day} {_MONTHS[moment.month]} {moment.year}"
        f" {moment.hour:02}:{moment.minute:02}:{moment.second:02} +0000"
    )


def received(arrival: Arrival) -> bytes:
    """The `Received` field for a mail that came in, with its CRLF; folded before 78 octets wherever it can be."""
    source = f"Received: from {_host(arrival.helo) or 'unknown'}"
    if arrival.client:
        source = _join(source, f"({address_literal(_host(arrival.client))})")
    ours = _join(f"\tby {_host(arrival.hostname)} (Elemta)", f"with {arrival.protocol} id {arrival.id}")
    if arrival.tls:  # as a comment, where Postfix has it too: the clause of RFC 8314 §4.3 wants IANA's names of ciphers
        ours += f"\r\n\t(using {_host(arrival.tls)} with cipher {_host(arrival.cipher)})"
    recipient = arrival.recipient
    if recipient is not None and (recipient.is_ascii or arrival.protocol.startswith("UTF8")):
        ours += f"\r\n\tfor {_path(recipient)}"
    return f"{source}\r\n{ours};\r\n\t{format_date(arrival.at)}\r\n".encode("utf-8", "replace")


def return_path(reverse_path: Address | None) -> bytes:
    """The `Return-Path` field of final delivery, RFC 5321 §4.4; `<>` for the null reverse-path."""
    return f"Return-Path: {_path(reverse_path)}\r\n".encode("utf-8", "replace")


def delivered_to(address: Address) -> bytes:
    """The `Delivered-To` field: the recipient that this copy was delivered to (RFC 9228 §2)."""
    return f"Delivered-To: {_clean(str(address))}\r\n".encode("utf-8", "replace")


def _path(address: Address | None) -> str:
    return "<>" if address is None else f"<{_clean(str(address))}>"


def _clean(text: str) -> str:
    return _CONTROL.sub("?", text)


@lru_cache(maxsize=64)  # our own name, and the clients that send much
def _host(name: str) -> str:
    return _NOT_IN_HOST.sub("?", name[:MAX_HELO_CHARACTERS])


def _join(line: str, words: str) -> str:
    """Both on one line, or on two where one would reach the fold (a `;` may follow)."""
    return f"{line} {words}" if len(line) + len(words) + 2 < FOLD_AT_OCTETS else f"{line}\r\n\t{words}"
