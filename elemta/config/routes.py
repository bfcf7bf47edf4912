"""Whether routes, local domains, local recipients fit each other.

What is not here: routing a mail (`delivery.routing`), TLS and logins (`config.route_security`), or the check of one
value (`config.kinds`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from elemta.config.document import Path
from elemta.config.problems import Report
from elemta.config.route_security import Authorities, check_route_security
from elemta.config.sections import Config, RouteSection, TransportName

_LOCAL = frozenset({TransportName.LMTP, TransportName.MAILDIR, TransportName.INBOX})

#: The keys of a route beside `domain`, `transport` and `priority`, with the transports that use them.
_USED_BY = {
    "host": frozenset({TransportName.SMTP, TransportName.LMTP}),
    "port": frozenset({TransportName.MX, TransportName.SMTP, TransportName.LMTP}),
    "path": frozenset({TransportName.LMTP, TransportName.MAILDIR}),
    "allow_private": frozenset({TransportName.MX}),
    "tls": frozenset({TransportName.MX, TransportName.SMTP, TransportName.LMTP}),
    "implicit_tls": frozenset({TransportName.SMTP, TransportName.LMTP}),
    "tls_name": frozenset({TransportName.SMTP, TransportName.LMTP}),
    "tls_ca_file": frozenset({TransportName.MX, TransportName.SMTP, TransportName.LMTP}),
    "username": frozenset({TransportName.SMTP}),
    "password": frozenset({TransportName.SMTP}),
    "auth_unverified": frozenset({TransportName.SMTP}),
}

#: RFC 2033 §5: LMTP must not be spoken at the port of SMTP.
_SMTP_PORT = 25

#: What stands in the path of a Maildir for a part of the address.
MAILDIR_PLACEHOLDER: Final = re.compile(r"\{(local|domain)\}")
#: What looks like one, or is a brace for nothing.
_BRACES: Final = re.compile(r"\{[^{}]*\}?|\}")


def matches(pattern: str, domain: str) -> bool:
    """Whether a route's pattern means a domain. `*.example.com` means what is below it, not `example.com` itself."""
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return domain.endswith(pattern[1:])
    return pattern == domain


def check_routes(routes: Sequence[RouteSection], report: Report, *, authorities: Authorities = lambda _: "") -> None:
    """Report routes that lack a key, have one too many, or are never reached."""
    for index, route in enumerate(routes):
        path = ("routes", index)
        _check_keys(route, report, path)
        _check_maildir_path(route, report, (*path, "path"))
        check_route_security(route, report, path=path, authorities=authorities)
        shadow = _shadow(routes[:index], route.domain)
        if route.name and any(other.name == route.name for other in routes[:index]):
            report.error((*path, "name"), f'another route is named "{route.name}" already: a name stands once.')
        if shadow is not None and not route.name:
            report.warn(
                path, f'never used: routes[{shadow}] ("{routes[shadow].domain}") matches all of "{route.domain}" first.'
            )


def _shadow(before: Iterable[RouteSection], pattern: str) -> int | None:
    """The index of an earlier route that matches everything this pattern does."""
    for index, route in enumerate(before):
        below = pattern.removeprefix("*")  # ".example.com" is matched by what matches every domain below it
        if route.domain == pattern or (pattern != "*" and matches(route.domain, below)):
            return index
    return None


def _check_keys(route: RouteSection, report: Report, path: Path) -> None:
    name = route.transport.value
    for key, users in _USED_BY.items():
        if getattr(route, key) and route.transport not in users:
            names = " or ".join(sorted(f'"{user.value}"' for user in users))
            report.error((*path, key), f'the transport "{name}" has no {key}; expected {names}, or no such key.')
    if route.transport is TransportName.SMTP and route.host is None:
        report.error(path, 'the transport "smtp" needs a host, and a port unless it is 25.')
    if route.transport is TransportName.MAILDIR and route.path is None:
        report.error(path, 'the transport "maildir" needs a path such as "/var/mail/{domain}/{local}".')
    if route.transport is TransportName.LMTP:
        _check_lmtp(route, report, path)


def _check_lmtp(route: RouteSection, report: Report, path: Path) -> None:
    over_tcp = route.host is not None and route.port is not None
    if route.path is not None and (route.host is not None or route.port is not None):
        report.error(path, 'the transport "lmtp" has either a path (a unix socket) or a host and a port, not both.')
    elif route.path is None and not over_tcp:
        report.error(path, 'the transport "lmtp" needs a host and a port, or the path of a unix socket.')
    if route.port == _SMTP_PORT:
        report.error(
            (*path, "port"),
            f"found {_SMTP_PORT}, expected another port such as 24: LMTP must not use that of SMTP, RFC 2033 §5.",
        )


def _check_maildir_path(route: RouteSection, report: Report, path: Path) -> None:
    if route.transport is not TransportName.MAILDIR or route.path is None:
        return
    for found in _BRACES.findall(route.path):
        if found not in {"{local}", "{domain}"}:
            report.error(path, f'found "{found}", expected no braces but {{local}} and {{domain}}.')
    _, below = split_maildir_path(route.path)
    if not below or ".." in below:  # nor may it lead out of the operator's folder, `delivery.maildir`
        report.error(
            path, f'found "{route.path}", expected the name of a folder at its end and no ".." behind a placeholder.'
        )


def split_maildir_path(text: str) -> tuple[str, tuple[str, ...]]:
    """The operator's folder, which must be there; then what comes below it: from the first placeholder on, or the last
    folder where there is none."""
    folders = [part for part in text.split("/") if part not in ("", ".")]
    marked = (index for index, part in enumerate(folders) if MAILDIR_PLACEHOLDER.search(part))
    first = next(marked, len(folders) - 1)
    root = "/" if text.startswith("/") else ""
    return root + "/".join(folders[:first]) or ".", tuple(folders[first:])


def check_maildir_folders(config: Config, report: Report, is_folder: Callable[[str], bool]) -> None:
    """Report Maildirs whose operator's folder is missing: no delivery makes it, as its disk may not be mounted."""
    for index, route in enumerate(() if config.dev_mode else config.routes):
        if route.transport is not TransportName.MAILDIR or route.path is None:
            continue
        folder, _ = split_maildir_path(route.path)
        if not is_folder(folder):
            report.warn(
                ("routes", index, "path"),
                f'there is no folder "{folder}": mail for it is put off with 451 until there is one. Make it, and let '
                "it belong to the server's user; what is below the server makes.",
            )


def check_local_domains(config: Config, report: Report) -> None:
    """Report local domains whose mail has nowhere to go, or whose recipients nobody knows."""
    for index, mailbox in enumerate(config.local_recipients):
        domain = mailbox.rpartition("@")[2]
        if domain not in config.local_domains:
            report.error(("local_recipients", index), f'"{domain}" is not in local_domains; add it there.')
    if config.dev_mode:
        return  # every valid recipient is taken, every mail goes to the inbox
    for index, domain in enumerate(config.local_domains):
        says = _trouble_with(domain, config)
        if says:
            report.error(("local_domains", index), f'"{domain}" {says}')


def _trouble_with(domain: str, config: Config) -> str:
    number = next((number for number, route in enumerate(config.routes) if matches(route.domain, domain)), None)
    example = f'such as {{"domain": "{domain}", "transport": "maildir", "path": "/var/mail/{{domain}}/{{local}}"}}'
    if number is None:
        return f'has no route; expected one to "lmtp", "maildir" or "inbox", {example}.'
    route = config.routes[number]
    if route.transport not in _LOCAL:
        return (
            f'goes by routes[{number}] to "{route.transport.value}"; expected a route before it to "lmtp", '
            f'"maildir" or "inbox", {example}.'
        )
    listed = any(mailbox.endswith(f"@{domain}") for mailbox in config.local_recipients)
    from_folders = route.transport is TransportName.MAILDIR and "{local}" in (route.path or "")
    if not listed and not from_folders:
        return (
            f'has no recipients; expected some in local_recipients, such as "postmaster@{domain}", or a route '
            'to "maildir" whose path has {local}.'
        )
    return ""
