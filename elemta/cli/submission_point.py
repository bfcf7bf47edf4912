"""Where this machine's own programs hand in their mail: a listener of the configuration.

What is not here: sending. Which configuration, if any, is the caller's say; its classes are imported when one is looked
at, since a program that needs none starts in half the time. Failure raised: `NoPoint` with why.
"""

import os
from typing import TYPE_CHECKING

from attrs import frozen

from elemta.smtp.grammar import AddressError, parse_domain

if TYPE_CHECKING:
    from elemta.config.sections import Config

#: Where a listener for every address is reached from here.
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


class NoPoint(Exception):
    """No listener takes mail from here."""


@frozen
class SubmissionPoint:
    """`address` is `host:port` or `unix:/path`, `hostname` what EHLO says."""

    address: str
    hostname: str


def point_of(config: "Config") -> SubmissionPoint:
    """The first listener that takes mail in clear, without a login, on this machine if there is one.

    None behind a proxy: it closes whoever connects by himself. Raises `NoPoint`.
    """
    from elemta.config.listeners import effective_listeners
    from elemta.config.tls import TlsMode

    fit = [
        _address(listener.address)
        for listener in effective_listeners(config)
        if listener.tls is not TlsMode.IMPLICIT and not listener.auth_required and not listener.proxy_protocol
    ]
    if not fit:
        raise NoPoint("no listener takes mail without TLS, a login or a proxy; say which server")
    return SubmissionPoint(min(fit, key=_is_elsewhere), config.hostname)


def _address(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return address if address.startswith("unix:") else f"{_EVERYWHERE.get(host, host)}{colon}{port}"


def _is_elsewhere(address: str) -> bool:
    return not address.startswith(("unix:", "127.", "[::1]", "localhost:"))


def own_hostname() -> str:
    """What this machine calls itself, as far as it is fit for an address; else `localhost`."""
    try:
        return parse_domain(os.uname().nodename)
    except AddressError:
        return "localhost"
