"""What the keys of authentication mean together.

What is not here: the check of one value (`config.kinds`), how users are asked or mechanisms work (`auth`). Nothing is
read but the configuration. What would take mail from somebody who was to be kept out is an error, in dev mode as well;
what only leaves clients without AUTH is a warning.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from elemta.config.addresses import DATABASE_SCHEMES, parse_listen_address
from elemta.config.auth import AuthSection
from elemta.config.document import Path
from elemta.config.listeners import asked_listeners
from elemta.config.problems import Report
from elemta.config.sections import Config, ListenerSection
from elemta.config.tls import TlsMode

#: What a token is validated for.
TOKEN_MECHANISMS = frozenset({"OAUTHBEARER", "XOAUTH2"})
SCRAM_MECHANISMS = frozenset({"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"})

#: The types whose users are on a database server.
SERVER_TYPES = frozenset({"postgresql", "mysql"})

_PARTS = ("datasource_host", "datasource_port", "datasource_user", "datasource_pass", "datasource_db")
_OF_SERVERS = (*_PARTS, "datasource_dsn")


def check_auth(config: Config, report: Report) -> None:
    """Check the section `auth` with the listeners."""
    auth = config.auth
    if auth.required and not auth.enabled:
        report.error(("auth", "required"), "nobody could authenticate: auth.enabled is false. Set it to true.")
    _listeners(config, report)
    if auth.enabled:
        _mechanisms(auth, report)
        _datasource(auth, report)
        _query(auth, report)
        _oauth(auth, report)


# ---- listeners -----------------------------------------------------------------------------------


def _listeners(config: Config, report: Report) -> None:
    for index, listener in enumerate(config.listeners):
        path: Path = ("listeners", index)
        if listener.auth and not config.auth.enabled:
            report.error((*path, "auth"), "nobody could authenticate: auth.enabled is false. Set it to true.")
        if listener.auth_required and not listener.auth:
            report.error(
                (*path, "auth_required"), "nobody could authenticate: this listener offers no AUTH. Set auth to true."
            )
    if not config.auth.enabled:
        return
    asked = asked_listeners(config)
    if not any(listener.auth for listener in asked):
        says = 'no listener offers AUTH. Set "auth": true at those that shall.'
        if config.auth.required:
            report.error(("auth", "required"), says)
        else:
            report.warn(("auth", "enabled"), says)
    for index, listener in enumerate(asked):
        if listener.auth:
            _offer(config, listener, ("listeners", index) if config.listeners else ("listen_addr",), report=report)


def _offer(config: Config, listener: ListenerSection, path: Path, *, report: Report) -> None:
    """Whether anybody can use what a listener offers: AUTH stays within TLS, or within this machine."""
    # Behind a proxy a loopback address says nothing of where clients are.
    is_here = parse_listen_address(listener.address).is_loopback and not listener.proxy_protocol
    if listener.tls is not TlsMode.NONE or is_here:
        return
    says = (
        f"AUTH is offered under TLS alone, and {listener.address} has none: only programs on this machine "
        "can authenticate. Give it TLS."
    )
    key: Path = (*path, "auth") if config.listeners else ("auth", "enabled")
    if not (listener.auth_required or config.auth.required):
        report.warn(key, says)
        return
    key = (*path, "auth_required") if listener.auth_required and config.listeners else ("auth", "required")
    if config.dev_mode:
        report.warn(key, says)
    else:
        report.error(key, says)


# ---- mechanisms ----------------------------------------------------------------------------------


def _mechanisms(auth: AuthSection, report: Report) -> None:
    path = ("auth", "mechanisms")
    chosen = frozenset(auth.mechanisms)
    if not chosen:
        report.error(path, 'found an empty list, expected at least one mechanism such as "PLAIN".')
    tokens = sorted(chosen & TOKEN_MECHANISMS)
    if tokens and auth.oauth.introspection_url is None:
        report.error(path, f"{tokens[0]} needs somebody to ask about tokens. Set auth.oauth.introspection_url.")
    if "SCRAM-SHA-256-PLUS" in chosen and "SCRAM-SHA-256" not in chosen:
        report.warn(path, "clients without channel binding have no SCRAM; SCRAM-SHA-256 is not in the list.")
    scram = sorted(chosen & SCRAM_MECHANISMS)
    if scram and auth.user_query is not None:
        # Clients take the strongest mechanism that they see, and would fail by it.
        report.error(path, f"auth.user_query gives no verifiers, so nobody could log in by {scram[0]}. Take it out.")


# ---- users ---------------------------------------------------------------------------------------


def _datasource(auth: AuthSection, report: Report) -> None:
    kind = auth.datasource_type
    if kind in SERVER_TYPES:
        _server(auth, report)
        if report.document.has(("auth", "datasource_path")):
            report.warn(("auth", "datasource_path"), f'not used: the users are of type "{kind}".')
        return
    for key in _OF_SERVERS:
        if getattr(auth, key) is not None:
            report.warn(("auth", key), f'not used: the users are of type "{kind}".')


def _server(auth: AuthSection, report: Report) -> None:
    """Where the database is: by one key, or by several."""
    kind, dsn = auth.datasource_type, auth.datasource_dsn
    if dsn is None:
        for key, what in (("datasource_db", "the database"), ("datasource_user", "the database user")):
            if getattr(auth, key) is None:
                report.error(
                    ("auth", key), f'users of type "{kind}" are on a server. Name {what}, or all in datasource_dsn.'
                )
        return
    for key in _PARTS:
        if getattr(auth, key) is not None:
            report.error(("auth", key), "auth.datasource_dsn says this already. Remove one of the two.")
    scheme = dsn.partition(":")[0]
    if DATABASE_SCHEMES.get(scheme) != kind:
        report.error(("auth", "datasource_dsn"), f'it begins with "{scheme}", but datasource_type is "{kind}".')


def _query(auth: AuthSection, report: Report) -> None:
    query, path = auth.user_query, ("auth", "user_query")
    if query is None:
        return
    if auth.datasource_type == "file":
        report.error(path, 'users of type "file" are not asked for by a query. Remove this key.')
        return
    if not _names(query, ":user"):
        report.error(path, "found no `:user` in it, expected the place where the user's name goes.")
    if query.split()[0].lower() not in ("select", "with"):
        report.error(path, "expected a SELECT.")


def _names(query: str, word: str) -> bool:
    return re.search(rf"(?<![\w:]){word}\b", query, re.IGNORECASE) is not None


def _oauth(auth: AuthSection, report: Report) -> None:
    url, path = auth.oauth.introspection_url, ("auth", "oauth", "introspection_url")
    if url is None:
        return
    if not TOKEN_MECHANISMS & frozenset(auth.mechanisms):
        report.warn(path, "not used: neither OAUTHBEARER nor XOAUTH2 is in auth.mechanisms.")
    if not _is_safe(url):
        report.error(path, "tokens go there, so it is an https:// address, or an http:// one on loopback.")


def _is_safe(url: str) -> bool:
    """Whether what is sent there is seen by nobody else."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.scheme not in ("http", "https"):
        return False
    if parts.scheme == "https" or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
