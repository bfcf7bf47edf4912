"""What mail asks of DNS.

What is not here: which hosts to try in which order (`delivery.mx`), or the wire (`resolver.dns`).
"""

from typing import Protocol

from attrs import frozen


class ResolutionFailed(Exception):
    """DNS gave no usable answer now: SERVFAIL, time-out, a broken answer. Temporary, always: never "no such domain"."""


class NameNotFound(Exception):
    """NXDOMAIN: the name does not exist. Final."""


@frozen
class MailExchanger:
    """One MX record; `host` is lower-case with A-labels, without the final dot, empty for the null MX (RFC 7505 §3)."""

    preference: int
    host: str


class Resolver(Protocol):
    """Answers about mail. A name that exists without such records gives an empty list."""

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        """The MX records of a domain, CNAMEs followed. Raises `ResolutionFailed`, `NameNotFound`."""
        ...

    async def addresses(self, host: str) -> list[str]:
        """The A and AAAA addresses of a host, as text. Raises `ResolutionFailed`, `NameNotFound`."""
        ...

    async def ipv4_addresses(self, name: str) -> list[str]:
        """The A records of a name alone, as text: what lists in DNS answer with (RFC 5782 §2.1), which no hosts file
        knows. Raises `ResolutionFailed`, `NameNotFound`."""
        ...

    async def pointers(self, address: str) -> list[str]:
        """The names that an IP address has by its PTR records, lower-case without the final dot.

        Anybody may claim any name there: only what resolves back is true. Raises `ResolutionFailed`, `NameNotFound`.
        """
        ...

    async def texts(self, name: str) -> list[str]:
        """The TXT records of a name, the strings of each joined (RFC 7208 §3.3). Raises `ResolutionFailed`,
        `NameNotFound`."""
        ...
