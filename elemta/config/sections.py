"""The sections of the configuration as frozen classes with the original's keys.

What is not here: reading files, the environment, errors for people (`config.load`), or what the values do.
Durations are whole or fractional seconds, sizes are octets, unless a field says otherwise. Sources of defaults:
the original's documentation for its own keys, the RFC beside the field for protocol limits.
"""

import enum

from attrs import field, frozen


class TlsMode(enum.Enum):
    """How a listener speaks TLS."""

    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class TransportName(enum.Enum):
    """The ways out."""

    MX = "mx"
    SMTP = "smtp"
    LMTP = "lmtp"
    MAILDIR = "maildir"
    DISCARD = "discard"
    INBOX = "inbox"


class BareNewlines(enum.Enum):
    """What becomes of a bare CR or LF in a mail: refused, or made a CRLF for trusted clients."""

    REFUSE = "refuse"
    NORMALIZE = "normalize"


@frozen
class ListenerSection:
    """One listener. `address` is `host:port`, `:port`, `[v6]:port` or `unix:/path`."""

    address: str
    name: str = ""
    tls: TlsMode = TlsMode.NONE
    auth: bool = False
    auth_required: bool = False
    #: Whether clients in `allowed_relays` may relay here.
    relay: bool = True
    priority: str | None = None
    bare_newlines: BareNewlines = BareNewlines.REFUSE


@frozen
class RouteSection:
    """One route: the first whose `domain` pattern matches wins. `*`, `example.com`, `*.example.com`."""

    domain: str
    transport: TransportName
    host: str | None = None
    port: int | None = None
    #: `maildir`: a folder, with `{local}` and `{domain}`; `lmtp`: a unix socket.
    path: str | None = None
    priority: str | None = None
    #: Whether `mx` may deliver to loopback and private addresses.
    allow_private: bool = False


@frozen
class StorageSection:
    """Where the queue lies. `memory` loses everything at exit: for tests and rehearsals."""

    type: str = "sqlite"
    #: Default: `queue_dir`.
    path: str | None = None


@frozen
class LimitsSection:
    """Bounds on clients. Every one is answered, never queued without limit."""

    max_connections: int = 1000
    max_connections_per_address: int = 100
    #: Connections of one IPv4 /24 or IPv6 /64 network.
    max_connections_per_network: int = 500
    #: RFC 5321 §4.5.3.1.8 asks for at least 100.
    max_recipients: int = 1000
    #: Bad commands in one session before 421.
    max_errors: int = 10
    #: Commands in one session that move no mail (NOOP, RSET, HELP, VRFY …) before 421.
    max_idle_commands: int = 100
    max_transactions: int = 10_000
    #: Received fields before a mail counts as looping; RFC 5321 §6.3 asks for at least 100.
    max_received: int = 100
    #: Message octets in memory over all sessions; beyond, content is staged to disk at once, or answered 452.
    message_memory: int = 64 * 1024 * 1024
    #: A client that sends content slower than this on average is answered 421; octets a second.
    min_data_rate: int = 100


@frozen
class TimeoutsSection:
    """Seconds. RFC 5321 §4.5.3.2 gives the least values for a sender; a server asks for 5 minutes in §4.5.3.2.7."""

    command_timeout: float = 300.0
    #: Between two pieces of content, RFC 5321 §4.5.3.2.5.
    data_timeout: float = 180.0
    session_timeout: float = 1800.0
    shutdown_timeout: float = 30.0
    #: How long a client may wait for the store before 451; under the client's 10 minutes, RFC 5321 §4.5.3.2.6.
    commit_timeout: float = 60.0
    #: Outgoing: to connect; RFC 5321 §4.5.3.2.1 to §4.5.3.2.6 for the rest.
    connect_timeout: float = 30.0
    greeting_timeout: float = 300.0
    mail_timeout: float = 300.0
    rcpt_timeout: float = 300.0
    data_initiation_timeout: float = 120.0
    data_block_timeout: float = 180.0
    data_termination_timeout: float = 600.0


@frozen
class WebSection:
    """Health and metrics over HTTP, on loopback."""

    enabled: bool = True
    listen_addr: str = "127.0.0.1:8025"


@frozen
class LoggingSection:
    """The log on standard error. `format`: `auto` is `console` on a terminal and `json` elsewhere."""

    level: str = "info"
    format: str = "auto"


@frozen
class AuthSection:
    """Authentication of clients, the original's keys."""

    enabled: bool = False
    required: bool = False
    datasource_type: str = "sqlite"
    datasource_name: str | None = None
    datasource_path: str = "./elemta.db"
    datasource_host: str | None = None
    datasource_port: int | None = None
    datasource_user: str | None = None
    datasource_pass: str | None = field(default=None, repr=False)
    datasource_db: str | None = None


@frozen
class LetsEncryptSection:
    """Certificates by ACME, the original's keys."""

    enabled: bool = False
    domain: str | None = None
    email: str | None = None
    cache_dir: str = "./certs"
    staging: bool = False


@frozen
class TlsSection:
    """TLS, the original's keys."""

    enabled: bool = False
    listen_addr: str = ":465"
    cert_file: str | None = None
    key_file: str | None = None
    lets_encrypt: LetsEncryptSection = LetsEncryptSection()


def _system_hostname() -> str:
    import socket

    return socket.getfqdn() or "localhost"


@frozen
class Config:
    """The whole configuration. Unset `listeners` means one at `listen_addr`; unset `routes` means everything by `mx`."""

    hostname: str = field(factory=_system_hostname)
    listen_addr: str = ":2525"
    queue_dir: str = "./queue"
    max_size: int = 26_214_400
    dev_mode: bool = False
    allowed_relays: tuple[str, ...] = ()
    local_domains: tuple[str, ...] = ()
    #: Addresses that exist in local domains; with a `maildir` route the Maildirs that exist count as well.
    local_recipients: tuple[str, ...] = ()
    max_workers: int = 100
    max_retries: int = 10
    max_queue_time: float = 172_800.0
    retry_schedule: tuple[float, ...] = (60, 300, 900, 3600, 10_800, 21_600, 43_200)
    keep_delivered_messages: bool = False
    #: Hours that finished mails' records are kept.
    message_retention_hours: float = 168.0
    #: Hours that failed mails are kept; 0 deletes at once.
    failed_queue_retention_hours: float = 0.0
    #: Seconds of waiting that raise a mail by one priority; None: strict priorities.
    priority_ageing: float | None = None
    listeners: tuple[ListenerSection, ...] = ()
    routes: tuple[RouteSection, ...] = ()
    storage: StorageSection = StorageSection()
    limits: LimitsSection = LimitsSection()
    timeouts: TimeoutsSection = TimeoutsSection()
    web: WebSection = WebSection()
    logging: LoggingSection = LoggingSection()
    auth: AuthSection = AuthSection()
    tls: TlsSection = TlsSection()
