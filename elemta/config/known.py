"""The keys that the original documents beyond those that do something here.

Keys that moved are read under their present name; the others are not supported yet, or never will be. Each stands for
a sentence to the person who wrote it, none is an error. What is not here: the keys that work (`config.sections`).
"""

import enum
from collections.abc import Mapping
from functools import cache

from attrs import frozen

from elemta.config.document import Path


class Standing(enum.Enum):
    """What becomes of a key that does nothing."""

    LATER = "not supported yet"
    NEVER = "will not be supported"


@frozen
class Known:
    """One key (with all below it) that is known and does nothing."""

    standing: Standing
    #: What to write instead, or why: a whole sentence, or empty.
    advice: str = ""

    def says(self, *, several: bool = False) -> str:
        """The sentences about the key, or about several that share them."""
        verb, does = ("are", "do") if several else ("is", "does")
        subject = "these keys" if several else "this key"
        what = "will not be supported" if self.standing is Standing.NEVER else f"{verb} not supported yet"
        return f"{subject} {what} and {does} nothing. {self.advice}".rstrip()


@frozen
class Moved:
    """One key (with all below it) that is read under another name."""

    target: Path
    #: Whether both names are equally good, so that nothing need be said.
    silent: bool = False


def _path(text: str) -> Path:
    return tuple(text.split("."))


_MOVED = {
    "plugins.directory": "plugins.plugin_path",
    "queue.dir": "queue_dir",
    "server.hostname": "hostname",
    "server.listen": "listen_addr",
    "server.max_size": "max_size",
    "server.local_domains": "local_domains",
    "server.dev_mode": "dev_mode",
    "server.tls": "tls.enabled",
    "server.cert_file": "tls.cert_file",
    "server.key_file": "tls.key_file",
    "resources.max_connections": "limits.max_connections",
    "resources.max_connections_per_ip": "limits.max_connections_per_address",
    "session_timeout": "timeouts.session_timeout",
    "timeouts.auth_timeout": "auth.timeout",
    "rate_limiter.auth_lockout_duration": "auth.lockout",
    "connect_timeout": "timeouts.connect_timeout",
    "queue_workers": "max_workers",
    "queue_processor.workers": "max_workers",
}

#: By their old path. Both names of the ACME section are the original's own.
MOVED: Mapping[Path, Moved] = {
    _path("tls.letsencrypt"): Moved(_path("tls.lets_encrypt"), silent=True),
    **{_path(old): Moved(_path(new)) for old, new in _MOVED.items()},
}

_ALWAYS_ON = "The queue is always worked on."
_NO_VALKEY = "Counters live in the server itself."

# One line a group: the section (empty: the top level), its keys, what becomes of them, what to write instead.
_GROUPS: tuple[tuple[str, str, Standing, str], ...] = (
    (
        "",
        "keep_message_data",
        Standing.NEVER,
        "See keep_delivered_messages.",
    ),
    ("", "queue_priority_enabled", Standing.NEVER, "Priorities are always honoured; see priority_ageing."),
    ("", "smtp_timeout", Standing.NEVER, "Each step has its own deadline: see timeouts."),
    ("", "max_connections_per_domain", Standing.NEVER, "A destination takes at most half of max_workers."),
    ("", "queue_processor_enabled queue_process_interval", Standing.NEVER, _ALWAYS_ON),
    ("", "strict_line_endings", Standing.NEVER, "Line ends are always strict; see listeners[].bare_newlines."),
    ("queue_processor", "enabled interval", Standing.NEVER, _ALWAYS_ON),
    ("queue_processor", "debug", Standing.NEVER, "See logging.level."),
    ("server", "listen_submission", Standing.LATER, "See listeners for more than one listener."),
    ("timeouts", "connection_timeout", Standing.NEVER, "See timeouts.connect_timeout and timeouts.greeting_timeout."),
    ("tls", "curves", Standing.NEVER, "OpenSSL chooses them: Python cannot list them."),
    ("tls.renewal", "force_renewal", Standing.NEVER, 'Run "elemta cert renew --force".'),
    ("resources", "max_cpu goroutine_pool_size", Standing.NEVER, "The operating system bounds these; see max_workers."),
    ("resources", "max_memory max_memory_usage", Standing.NEVER, "See limits.message_memory."),
    ("resources", "max_concurrent", Standing.NEVER, "See limits.max_connections and max_workers."),
    (
        "resources",
        "connection_timeout read_timeout write_timeout session_timeout idle_timeout",
        Standing.NEVER,
        "See timeouts.",
    ),
    ("resources", "rate_limit_window max_requests_per_window", Standing.NEVER, "See rate_limiter."),
    ("resources", "valkey_url valkey_key_prefix", Standing.NEVER, _NO_VALKEY),
    (
        "cache",
        "enabled type address password database max_items max_size ttl",
        Standing.NEVER,
        "Nothing needs a cache.",
    ),
    ("metrics", "enabled listen_addr", Standing.NEVER, "Metrics are at /metrics of web.listen_addr; see web."),
    ("api", "enabled listen_addr", Standing.NEVER, "See web."),
    ("api", "web_root valkey_addr", Standing.NEVER, "Pages and state belong to the server itself."),
    ("api", "auth_enabled auth_file rate_limit cors", Standing.LATER, "The web side is on loopback alone."),
    (
        "rate_limiter",
        "connection_timeout volume_rate_window cache_ttl cleanup_interval metrics_enabled",
        Standing.NEVER,
        "Deadlines are in timeouts, limits are by the minute and the hour, counters go when they are over.",
    ),
    (
        "rate_limiter",
        "max_auth_attempts_per_minute auth_burst_size",
        Standing.NEVER,
        "See auth.max_failures_per_address.",
    ),
    ("rate_limiter", "max_connections_per_ip", Standing.NEVER, "See limits.max_connections_per_address."),
    ("rate_limiter", "max_recipients_per_message", Standing.NEVER, "See limits.max_recipients."),
    ("rate_limiter", "max_message_size", Standing.NEVER, "See max_size."),
    ("rate_limiter", "valkey_url valkey_key_prefix", Standing.NEVER, _NO_VALKEY),
    (
        "delivery",
        "mode host port timeout max_retries retry_delay test_mode default_domain debug",
        Standing.NEVER,
        "See routes, timeouts and retry_schedule.",
    ),
    ("logging", "type file output options", Standing.NEVER, "The log goes to standard error; send it on from there."),
)


@cache
def known_keys() -> dict[Path, Known]:
    """Every key that is known and does nothing, by its path."""
    found: dict[Path, Known] = {}
    for section, names, standing, advice in _GROUPS:
        prefix = _path(section) if section else ()
        found |= {(*prefix, name): Known(standing, advice) for name in names.split()}
    return found


@cache
def known_sections() -> frozenset[Path]:
    """The objects that hold known keys: written empty, they are known as well."""
    return frozenset(path[:length] for path in (*known_keys(), *MOVED) for length in range(1, len(path)))


#: Environment variables of the original that have no prefix or are no key. Not read; a person is told what is.
FOREIGN_VARIABLES: Mapping[str, str] = {
    "AUTH_DATASOURCE_TYPE": "write ELEMTA_AUTH_DATASOURCE_TYPE",
    "AUTH_SQLITE_PATH": "write ELEMTA_AUTH_DATASOURCE_PATH",
    **dict.fromkeys(
        (f"AUTH_LDAP_{name}" for name in ("HOST", "PORT", "BIND_DN", "BIND_PASSWORD", "USER_DN", "GROUP_DN")),
        "LDAP is not supported yet",
    ),
    "ELEMTA_DISABLE_CLAMAV": "write ELEMTA_ANTIVIRUS_ENABLED",
    "VALKEY_ADDR": "counters live in the server itself",
}
