"""The sections of the configuration as frozen classes with the original's keys.

Each field's annotation holds the kind of its value (`config.kinds`) beside what it is for, which the manual, the JSON
Schema, the error messages share. What is not here: reading files (`config.load`), or what the values do.
Durations are seconds, sizes are octets, unless a field says otherwise. Sources of defaults: the original's
documentation for its own keys, the RFC named beside a key for protocol limits.
"""

import enum
import socket
from typing import Annotated

from attrs import Factory, field, frozen

from elemta.config.addresses import parse_domain
from elemta.config.auth import AuthSection
from elemta.config.kinds import (
    About,
    Bool,
    Choice,
    DatabaseName,
    Domain,
    DomainPattern,
    Host,
    Hours,
    Label,
    ListenAddr,
    Mailbox,
    Octets,
    Port,
    Priority,
    Relay,
    Seconds,
    Secret,
    Whole,
    Words,
)
from elemta.config.plugins import PluginsSection
from elemta.config.protection import RateLimiterSection
from elemta.config.rules import RulesSection
from elemta.config.scanners import AntispamSection, AntivirusSection
from elemta.config.tls import TlsMode, TlsSection


class TransportName(enum.Enum):
    """The ways out."""

    MX = "mx"
    SMTP = "smtp"
    LMTP = "lmtp"
    MAILDIR = "maildir"
    DISCARD = "discard"
    INBOX = "inbox"


class RouteTls(enum.Enum):
    """How much TLS a route asks of its hosts."""

    #: Never.
    NONE = "none"
    #: Where the host offers it, with whatever certificate (RFC 7435).
    MAY = "may"
    #: Always, with whatever certificate.
    REQUIRE = "require"
    #: Always, with a certificate that holds the host's name and comes from a trusted authority.
    VERIFY = "verify"


class BareNewlines(enum.Enum):
    """What becomes of a bare CR or LF in a mail: refused, or made a CRLF for trusted clients."""

    REFUSE = "refuse"
    NORMALIZE = "normalize"


@frozen
class ListenerSection:
    """One listener."""

    address: Annotated[ListenAddr, About("Where to listen; port 0 takes a free one.")]
    name: Annotated[Label, About("What logs call it; the address when left out.")] = ""
    tls: Annotated[TlsMode, About("Whether TLS is off, offered by STARTTLS, or spoken from the first octet.")] = (
        TlsMode.NONE
    )
    auth: Annotated[Bool, About("Whether AUTH is offered.")] = False
    auth_required: Annotated[Bool, About("Whether mail is taken from authenticated clients alone.")] = False
    relay: Annotated[Bool, About("Whether clients in `allowed_relays` may relay here.")] = True
    priority: Annotated[Priority | None, About("The priority of mail that comes in here.")] = None
    bare_newlines: Annotated[
        BareNewlines,
        About("What becomes of a bare CR or LF in a mail: refused, or made a CRLF (for trusted clients alone)."),
    ] = BareNewlines.REFUSE
    proxy_protocol: Annotated[
        tuple[Relay, ...],
        About(
            "Addresses and networks of proxies, which must send a PROXY header (version 1 or 2) here; all others are "
            "closed. Empty: clients connect by themselves."
        ),
    ] = ()


@frozen
class RouteSection:
    """One route: the first whose `domain` pattern matches wins."""

    domain: Annotated[DomainPattern, About("`*` for every domain, `example.com`, or `*.example.com` for all below it.")]
    transport: Annotated[TransportName, About("The way out.")]
    name: Annotated[Label, About("What plugins and rules call it, to send a mail this way whatever its domain.")] = ""
    host: Annotated[Host | None, About("The next hop of `smtp` or `lmtp`.")] = None
    port: Annotated[
        Port | None, About("The next hop's port; 25 for `mx` and `smtp` when left out, 465 with `implicit_tls`.")
    ] = None
    path: Annotated[
        Words | None, About("The folder of `maildir`, with `{local}` and `{domain}`; the unix socket of `lmtp`.")
    ] = None
    priority: Annotated[Priority | None, About("The priority of mail that goes this way.")] = None
    allow_private: Annotated[Bool, About("Whether `mx` may deliver to loopback and private addresses.")] = False
    tls: Annotated[
        RouteTls | None,
        About("Whether `mx`, `smtp` or `lmtp` speak TLS; `may` when left out, `verify` with a password."),
    ] = None
    implicit_tls: Annotated[Bool, About("Whether TLS is spoken from the first octet, as at port 465.")] = False
    tls_name: Annotated[Host | None, About("The name that the certificate must hold; the host when left out.")] = None
    tls_ca_file: Annotated[
        Words | None, About("Authorities that `verify` trusts, PEM; the system's when left out.")
    ] = None
    username: Annotated[Words | None, About("Whom to log in as at the host of `smtp`.")] = None
    password: Annotated[Words | None, Secret(), About("The password; `password_file` names a file that holds it.")] = (
        field(default=None, repr=False)
    )
    auth_unverified: Annotated[
        Bool, About("Whether the password may be sent though the host's certificate was not verified.")
    ] = False


@frozen
class StorageSection:
    """Where the queue lies."""

    type: Annotated[
        str,
        Choice(("sqlite", "file", "postgresql", "mysql", "memory"), {"postgres": "postgresql", "mariadb": "mysql"}),
        About(
            "`sqlite` and `file` lie on one machine; `postgresql` and `mysql` (MariaDB as well) can be shared by many "
            "nodes; `memory` loses everything at exit: it is for tests and rehearsals."
        ),
    ] = "sqlite"
    path: Annotated[
        Words | None, About("The folder of the queue of `sqlite` and `file`; `queue_dir` when left out.")
    ] = None
    dsn: Annotated[
        DatabaseName | None,
        Secret(),
        About("Where the database of `postgresql` or `mysql` is: `postgresql://user:password@host:5432/database`."),
    ] = field(default=None, repr=False)
    lease: Annotated[
        Seconds,
        About("How long a node of a shared queue may be silent before the others take over its mails; at least 10."),
    ] = 60.0


@frozen
class LimitsSection:
    """Bounds on clients. Every one is answered, never queued without limit."""

    max_connections: Annotated[int, Whole("connections", 1), About("Connections at once, in all.")] = 1000
    max_connections_per_address: Annotated[
        int, Whole("connections", 1), About("Connections at once of one address.")
    ] = 100
    max_connections_per_network: Annotated[
        int, Whole("connections", 1), About("Connections at once of one IPv4 /24 or IPv6 /64 network.")
    ] = 500
    max_recipients: Annotated[
        int, Whole("recipients", 1), About("Recipients of one mail; RFC 5321 §4.5.3.1.8 asks for at least 100.")
    ] = 1000
    max_errors: Annotated[int, Whole("commands", 1), About("Bad commands in one session before 421.")] = 10
    max_idle_commands: Annotated[
        int,
        Whole("commands", 1),
        About("Commands of one session that move no mail (NOOP, RSET, HELP, VRFY …) before 421."),
    ] = 100
    max_transactions: Annotated[int, Whole("mails", 1), About("Mails of one session before 421.")] = 10_000
    max_received: Annotated[
        int,
        Whole("fields", 1),
        About("`Received` fields before a mail counts as looping; RFC 5321 §6.3 asks for at least 100."),
    ] = 100
    message_memory: Annotated[
        Octets,
        About(
            "Octets of mail in memory over all sessions; beyond it content goes to disk at once, or 452 is answered."
        ),
    ] = 64 * 1024 * 1024
    min_data_rate: Annotated[
        int,
        Whole("octets a second", 0),
        About("A client that sends a mail slower than this on average is answered 421; octets a second."),
    ] = 100


@frozen
class TimeoutsSection:
    """Deadlines. RFC 5321 §4.5.3.2 gives the least values for a sender; a server asks for 5 minutes, §4.5.3.2.7."""

    command_timeout: Annotated[Seconds, About("How long a client may take for its next command.")] = 300.0
    data_timeout: Annotated[Seconds, About("How long a client may pause inside a mail, RFC 5321 §4.5.3.2.5.")] = 180.0
    session_timeout: Annotated[Seconds, About("How long a session may last.")] = 1800.0
    shutdown_timeout: Annotated[Seconds, About("How long running transactions may take after SIGTERM.")] = 30.0
    commit_timeout: Annotated[
        Seconds,
        About("How long a client waits for the store before 451; under its own 10 minutes, RFC 5321 §4.5.3.2.6."),
    ] = 60.0
    connect_timeout: Annotated[Seconds, About("Outgoing: to connect.")] = 30.0
    greeting_timeout: Annotated[Seconds, About("Outgoing: for the greeting, RFC 5321 §4.5.3.2.1.")] = 300.0
    mail_timeout: Annotated[Seconds, About("Outgoing: for the reply to MAIL, RFC 5321 §4.5.3.2.2.")] = 300.0
    rcpt_timeout: Annotated[Seconds, About("Outgoing: for the reply to RCPT, RFC 5321 §4.5.3.2.3.")] = 300.0
    data_initiation_timeout: Annotated[Seconds, About("Outgoing: for the reply to DATA, RFC 5321 §4.5.3.2.4.")] = 120.0
    data_block_timeout: Annotated[Seconds, About("Outgoing: to send a block of a mail, RFC 5321 §4.5.3.2.5.")] = 180.0
    data_termination_timeout: Annotated[
        Seconds, About("Outgoing: for the reply to the final dot, RFC 5321 §4.5.3.2.6.")
    ] = 600.0


@frozen
class WebSection:
    """Health and metrics over HTTP, on loopback."""

    enabled: Annotated[Bool, About("Whether `/livez`, `/readyz` and `/metrics` are served.")] = True
    listen_addr: Annotated[ListenAddr, About("Where; a loopback address.")] = "127.0.0.1:8025"


@frozen
class LoggingSection:
    """The log on standard error."""

    level: Annotated[
        str,
        Choice(("debug", "info", "warning", "error"), {"warn": "warning"}),
        About("The least important level that is logged."),
    ] = "info"
    format: Annotated[
        str,
        Choice(("auto", "console", "json"), {"text": "console"}),
        About("`auto` is `console` on a terminal and `json` elsewhere."),
    ] = "auto"


def _system_hostname() -> str:
    """The machine's name, or `localhost` where that is no domain name. Not the resolver's name: asking it may hang."""
    try:
        return parse_domain(socket.gethostname())
    except ValueError:
        return "localhost"


def _default_listen_addr(config: "Config") -> str:
    # Dev mode takes mail from anyone who can connect, so only this machine may, unless a person says otherwise.
    return "127.0.0.1:2525" if config.dev_mode else ":2525"


@frozen
class Config:
    """The whole configuration. Unset `listeners` means one at `listen_addr`; unset `routes` means all by `mx`."""

    dev_mode: Annotated[
        Bool,
        About("Takes every mail, sends none out, keeps all in the inbox. For a developer's machine."),
    ] = False
    hostname: Annotated[
        Domain, About("The name in the greeting and in trace fields; the machine's own when left out.")
    ] = field(factory=_system_hostname)
    listen_addr: Annotated[
        ListenAddr, About("The listener when `listeners` is left out; in dev mode `127.0.0.1:2525` when left out.")
    ] = field(default=Factory(_default_listen_addr, takes_self=True))
    queue_dir: Annotated[Words, About("The folder of the queue and of the control socket.")] = "./queue"
    max_size: Annotated[Octets, About("Octets of the largest mail that is taken, RFC 1870 §4.")] = 26_214_400
    allowed_relays: Annotated[
        tuple[Relay, ...],
        About("Addresses and networks of clients that may send mail to every domain. Empty: none may."),
    ] = ()
    local_domains: Annotated[
        tuple[Domain, ...], About("Domains whose mail ends here; each needs a route to `lmtp`, `maildir` or `inbox`.")
    ] = ()
    local_recipients: Annotated[
        tuple[Mailbox, ...],
        About("Addresses that exist in local domains; with a `maildir` route the Maildirs that exist count as well."),
    ] = ()
    max_workers: Annotated[
        int,
        Whole("deliveries", 1, 10_000),
        About("Deliveries at once; one destination takes at most half of them."),
    ] = 100
    processes: Annotated[
        int,
        Whole("processes", 1, 64),
        About("Worker processes on the same listeners; more than one needs a queue on `postgresql` or `mysql`."),
    ] = 1
    max_retries: Annotated[int, Whole("attempts", 0), About("Attempts after the first one before a mail bounces.")] = 10
    max_queue_time: Annotated[Seconds, About("How long a mail is tried before it bounces.")] = 172_800.0
    retry_schedule: Annotated[tuple[Seconds, ...], About("Waiting times between attempts; the last one repeats.")] = (
        60,
        300,
        900,
        3600,
        10_800,
        21_600,
        43_200,
    )
    keep_delivered_messages: Annotated[Bool, About("Whether delivered mails stay in the queue as a record.")] = False
    message_retention_hours: Annotated[Hours, About("Hours that records of finished mails are kept.")] = 168.0
    failed_queue_retention_hours: Annotated[Hours, About("Hours that failed mails are kept; 0 deletes at once.")] = 0.0
    priority_ageing: Annotated[
        Seconds | None, About("The waiting time that raises a mail by one priority; left out: strict priorities.")
    ] = None
    listeners: Annotated[tuple[ListenerSection, ...], About("The listeners; they replace `listen_addr`.")] = ()
    routes: Annotated[tuple[RouteSection, ...], About("The ways out by domain; the first that matches wins.")] = ()
    storage: StorageSection = StorageSection()
    limits: LimitsSection = LimitsSection()
    timeouts: TimeoutsSection = TimeoutsSection()
    web: WebSection = WebSection()
    logging: LoggingSection = LoggingSection()
    auth: AuthSection = AuthSection()
    tls: TlsSection = TlsSection()
    plugins: PluginsSection = PluginsSection()
    rules: RulesSection = RulesSection()
    rate_limiter: RateLimiterSection = RateLimiterSection()
    antispam: AntispamSection = AntispamSection()
    antivirus: AntivirusSection = AntivirusSection()
