"""The text that names a database: `postgresql://user:password@host:port/database?option=value`.

What is not here: connecting. Schemes are `postgresql`, `postgres`, `mysql`, `mariadb`; parts are percent-decoded.

| option | means |
|---|---|
| `host`, `socket`, `unix_socket` | a unix socket: PostgreSQL's folder, MySQL's path |
| `sslmode` | `disable`, `require` (encrypted, unchecked), `verify-ca`, `verify-full` |
| `sslrootcert` | a file of the authorities to trust, in place of the system's |
| `connect_timeout`, `statement_timeout` | seconds |
| `pool_size` | connections at most |
| `password_file`, `password_env` | where the password is, instead of in the text |

Without `sslmode` it is `verify-full`, but `disable` towards loopback or a unix socket, which no stranger can listen to.
Raises `ValueError`, never with any of the text in it that could be a password.
"""

import difflib
import ipaddress
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from elemta.datasource.encryption import client_context
from elemta.datasource.options import (
    CONNECT_SECONDS,
    LOCK_SECONDS,
    POOL_SIZE,
    STATEMENT_SECONDS,
    UNIT_SECONDS,
    DatabaseOptions,
    Dialect,
    Encryption,
)

DIALECTS = {
    "postgresql": Dialect.POSTGRESQL,
    "postgres": Dialect.POSTGRESQL,
    "mysql": Dialect.MYSQL,
    "mariadb": Dialect.MYSQL,
}

SOCKET_OPTIONS = ("host", "socket", "unix_socket")
KNOWN_OPTIONS = (
    *SOCKET_OPTIONS,
    "sslmode",
    "sslrootcert",
    "connect_timeout",
    "statement_timeout",
    "pool_size",
    "password_file",
    "password_env",
)

#: Seconds: a mail server that waits longer than this for its database has failed already.
MAX_TIMEOUT_SECONDS = 600.0

#: More connections than this from one node are a slip of the finger: PostgreSQL allows 100 in all by default.
MAX_POOL_SIZE = 200

#: What has to be percent-encoded in a password, or it ends before its end.
ENCODE = "in a password, write % as %25, / as %2F, ? as %3F, # as %23, @ as %40, : as %3A"


def parse_dsn(text: str, environment: Mapping[str, str] = os.environ) -> DatabaseOptions:
    """What a DSN says. Raises `ValueError` that names the part, and how to mend it."""
    scheme, found, _ = text.partition("://")
    if not found or scheme.lower() not in DIALECTS:
        hint = _suggest(scheme, DIALECTS) if found else ""
        raise ValueError(f"scheme: {hint}a dsn begins with postgresql:// or mysql://")
    dialect = DIALECTS[scheme.lower()]
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"host and port: write host:5432 or [::1]:5432 ({ENCODE})") from None
    if parts.fragment:
        raise ValueError(f"a dsn has no part after # ({ENCODE})")
    if port == 0:
        raise ValueError("port: a number from 1 to 65535")
    options = _options_of(parts)
    socket = _socket_of(options)
    host = parts.hostname or "127.0.0.1"
    connect = _number(options, "connect_timeout", CONNECT_SECONDS)
    statement = _number(options, "statement_timeout", STATEMENT_SECONDS)
    found_options = DatabaseOptions(
        dialect=dialect,
        host=host,
        port=port or 0,
        socket=socket,
        user=_user_of(parts),
        password=_password_of(parts, options, environment),
        database=_database_of(parts),
        encryption=_encryption_of(options, is_near=bool(socket) or is_loopback(host)),
        roots=_roots_of(options),
        pool_size=_pool_size_of(options),
        connect_seconds=connect,
        statement_seconds=statement,
        lock_seconds=min(LOCK_SECONDS, statement),
        unit_seconds=max(UNIT_SECONDS, connect + statement),
    )
    client_context(found_options)  # certificates that cannot be read are found out now, not at the first mail
    return found_options


def is_loopback(host: str) -> bool:
    """Whether only this machine answers there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _suggest(word: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """A question, from known words alone: what was written may be part of a password."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"did you mean {close[0]}? " if close else ""


def _options_of(parts: SplitResult) -> dict[str, str]:
    if "@" in parts.query:
        raise ValueError(f"options: none of them holds an @ ({ENCODE})")
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError("options: write ?name=value&name=value") from None
    options = dict(pairs)
    for name in options:
        if name not in KNOWN_OPTIONS:
            raise ValueError(f"option: {_suggest(name, KNOWN_OPTIONS)}known are {', '.join(KNOWN_OPTIONS)}")
    if len(options) != len(pairs):
        raise ValueError("options: one of them stands there twice")
    return options


def _user_of(parts: SplitResult) -> str:
    if not parts.username:
        raise ValueError("user: name it before the host, as in postgresql://elemta@host/database")
    return unquote(parts.username)


def _database_of(parts: SplitResult) -> str:
    raw = parts.path.removeprefix("/")
    if "/" in raw:
        raise ValueError(f"database: one name behind the host ({ENCODE})")
    return unquote(raw)


def _socket_of(options: Mapping[str, str]) -> str:
    given = [options[name] for name in SOCKET_OPTIONS if name in options]
    if len(given) > 1:
        raise ValueError(f"socket: only one of {', '.join(SOCKET_OPTIONS)}")
    if given and not given[0].startswith("/"):
        raise ValueError("socket: a path that begins with /; a host's name goes before the database, behind the @")
    return given[0] if given else ""


def _encryption_of(options: Mapping[str, str], *, is_near: bool) -> Encryption:
    wanted = options.get("sslmode")
    if wanted is None:
        return Encryption.DISABLE if is_near else Encryption.VERIFY_FULL
    known = [mode.value for mode in Encryption]
    if wanted not in known:
        raise ValueError(f"sslmode: {_suggest(wanted, tuple(known))}one of {', '.join(known)}")
    if wanted != Encryption.DISABLE.value and any(name in options for name in SOCKET_OPTIONS):
        raise ValueError("sslmode: a unix socket has no TLS and needs none; leave it out")
    return Encryption(wanted)


def _roots_of(options: Mapping[str, str]) -> Path | None:
    return Path(options["sslrootcert"]) if "sslrootcert" in options else None


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = float(options.get(name, default))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:  # which no NaN is
        raise ValueError(f"{name}: seconds, more than 0 and at most {MAX_TIMEOUT_SECONDS:g}")
    return seconds


def _pool_size_of(options: Mapping[str, str]) -> int:
    wanted = options.get("pool_size", str(POOL_SIZE))
    if not (wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= MAX_POOL_SIZE):
        raise ValueError(f"pool_size: a number from 1 to {MAX_POOL_SIZE}")
    return int(wanted)


def _password_of(parts: SplitResult, options: Mapping[str, str], environment: Mapping[str, str]) -> str:
    sources = [parts.password is not None, "password_file" in options, "password_env" in options]
    if sum(sources) > 1:
        raise ValueError("password: only one of the text's own, password_file and password_env")
    if "password_file" in options:
        return _password_in(Path(options["password_file"]))
    if "password_env" in options:
        variable = options["password_env"]
        if variable not in environment:
            raise ValueError(f"password_env: no environment variable {variable}")
        return environment[variable]
    return unquote(parts.password or "")


def _password_in(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                raise ValueError(f"password_file: everybody may read {path}: chmod o= {path}")
            return file.read().removesuffix("\n")
    except OSError as error:
        raise ValueError(f"password_file: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"password_file: {path} is no UTF-8 text") from None
