"""Whether the keys of a route that are about TLS or a login fit each other.

What is not here: its other keys (`config.routes`), or what the keys do (`delivery.tlspolicy`). Whether a file of
authorities can be used is asked through `Authorities`.
"""

import ipaddress
from collections.abc import Callable

from elemta.config.document import Path
from elemta.config.problems import Report
from elemta.config.sections import RouteSection, RouteTls, TransportName

#: Says why a PEM file of certificates cannot be used; empty where it can.
Authorities = Callable[[str], str]

#: RFC 8314 §7.3: TLS from the first octet; and the ports where a client begins in clear (RFC 5321 §2.3.4, RFC 6409 §3).
_IMPLICIT_TLS_PORT = 465
_CLEAR_PORTS = frozenset({25, 587})


def check_route_security(route: RouteSection, report: Report, *, path: Path, authorities: Authorities) -> None:
    """Report keys of TLS and login that contradict each other, or would do something else than they look like."""
    _check_tls(route, report, path)
    if route.tls_ca_file is not None:
        _check_authorities(route, report, path, authorities=authorities)
    if route.transport is TransportName.SMTP:
        _check_login(route, report, path)


def _check_tls(route: RouteSection, report: Report, path: Path) -> None:
    keys = [key for key in ("tls", "implicit_tls", "tls_name", "tls_ca_file") if getattr(route, key)]
    if route.transport is TransportName.LMTP and route.path is not None:
        for key in keys:
            report.error((*path, key), "a unix socket has no TLS; remove this key.")
        return
    if route.tls is RouteTls.NONE:
        for key in keys[1:]:
            report.error((*path, key), 'tls is "none"; remove one of the two.')
    elif route.transport is TransportName.SMTP:
        _check_port(route, report, path)


def _check_port(route: RouteSection, report: Report, path: Path) -> None:
    if route.implicit_tls and route.port in _CLEAR_PORTS:
        report.warn(
            (*path, "implicit_tls"),
            f"at port {route.port} hosts begin in clear; remove this key, STARTTLS comes first.",
        )
    elif route.port == _IMPLICIT_TLS_PORT and not route.implicit_tls:
        report.warn(
            (*path, "port"),
            f'at port {_IMPLICIT_TLS_PORT} hosts speak TLS from the first octet; add "implicit_tls": true.',
        )


def _check_authorities(route: RouteSection, report: Report, path: Path, *, authorities: Authorities) -> None:
    name = route.tls_ca_file or ""
    trouble = authorities(name)
    if trouble:
        report.error((*path, "tls_ca_file"), f'the file "{name}" {trouble}.')
    elif route.tls in (RouteTls.MAY, RouteTls.REQUIRE) or (route.tls is None and route.password is None):
        report.warn(
            (*path, "tls_ca_file"),
            'certificates are checked by "tls": "verify" alone, or for a mail with REQUIRETLS.',
        )


def _check_login(route: RouteSection, report: Report, path: Path) -> None:
    if route.username is not None and route.password is None:
        report.error((*path, "username"), "it needs a password; name a file that holds it in password_file.")
    if route.password is None:
        if route.auth_unverified:
            report.warn((*path, "auth_unverified"), "not used: the route has no password.")
        return
    if route.username is None:
        report.error((*path, "password"), "it needs a username.")
    is_verified = route.tls in (None, RouteTls.VERIFY)
    if not is_verified and not route.auth_unverified and not _is_this_machine(route.host or ""):
        assert route.tls is not None
        report.error(
            (*path, "tls"),
            f'found "{route.tls.value}", expected "verify": the password would go to whoever answers. '
            'If that is meant, add "auth_unverified": true.',
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
