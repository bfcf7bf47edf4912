"""Whom a mail comes from, as scanners want to know it beside the mail itself.

What is not here: what they make of it. Both spam filters give a mail some points when nobody tells them the name of the
client's address. Failures raised: none; a name that DNS does not tell in time is not told.
"""

import re
from typing import Final

import trio

from elemta.mail.trace import MAX_HELO_CHARACTERS, address_literal, format_date, protocol_name, return_path
from elemta.plugins.api import Host, Mail, Session
from elemta.plugins.protection.reverse import reverse_names

#: Seconds for the name of an address. A scan has many times that, and is worth more than the name.
LOOKUP_SECONDS: Final = 5.0

#: Anything but what domains and address literals are made of, RFC 5321 §4.1.2, §4.1.3.
_NOT_IN_HOST = re.compile(r"[^A-Za-z0-9._:\[\]-]")


async def client_name(host: Host, session: Session) -> str:
    """The name of the client's address, confirmed by leading back to it; empty where there is none."""
    if session.client.is_unix:
        return ""
    with trio.move_on_after(LOOKUP_SECONDS):
        names = await reverse_names(host.resolver, session.client.host)
        return names.confirmed[0] if names.confirmed else ""
    return ""


def prologue(mail: Mail, name: str, *, server: str, at: float) -> bytes:
    """Fields that go before a mail on its way to SpamAssassin, which knows of envelope and client what fields say.

    `Return-Path` is what final delivery would add (RFC 5321 §4.4); SPF is checked for it. With a `name`, a `Received`
    in Postfix's form follows: ours, further down, does not hold the name. `at` is UTC in seconds since 1970.
    """
    session = mail.session
    fields = return_path(mail.sender)
    if not name:
        return fields
    source = f"{_host(session.helo) or 'unknown'} ({_host(name)} {address_literal(session.client.host)})"
    protocol = protocol_name(extended=True, tls=bool(session.tls), authenticated=bool(session.user))
    line = f"Received: from {source}\r\n\tby {server} (Elemta) with {protocol} id {mail.id};\r\n\t{format_date(at)}\r\n"
    return fields + line.encode()


def _host(text: str) -> str:
    return _NOT_IN_HOST.sub("?", text[:MAX_HELO_CHARACTERS])
