"""What keys mean together, once each value by itself fits.

What is not here: the check of one value (`config.kinds`), mail routing (`config.routes` checks how routes fit local
domains). Nothing is read but the configuration; whether a file exists is asked through `Facts`.
"""

import ipaddress
from collections.abc import Callable

from elemta.config.acme_checks import check_acme
from elemta.config.addresses import DATABASE_SCHEMES, Network, parse_listen_address, parse_network
from elemta.config.auth_checks import check_auth
from elemta.config.facts import Facts
from elemta.config.problems import Report
from elemta.config.routes import check_local_domains, check_maildir_folders, check_routes
from elemta.config.scanner_checks import check_scanners
from elemta.config.sections import Config
from elemta.config.tls_checks import check_tls

#: RFC 5321 §4.5.3.1.7: every server takes mails of at least 64K octets.
_LEAST_MAX_SIZE = 65_536

#: The types of `storage` that several nodes can share.
SHARED_STORAGE = frozenset({"postgresql", "mysql"})

#: Ours: a node renews its lease each few seconds, and its event loop may be busy for some.
LEAST_LEASE_SECONDS = 10.0

#: A relay network with a shorter prefix is more than any one organisation has: the largest allocations are IPv4 /8
#: and IPv6 /19.
_SHORTEST_PREFIX = {4: 8, 6: 19}


def check(config: Config, report: Report, *, facts: Facts, broken: frozenset[str]) -> None:
    """Run every check whose keys are sound. `broken` are the keys of the top level whose values do not fit."""
    for function, needs in _CHECKS:
        if not broken & needs:
            function(config, report, facts)


def _hostname(config: Config, report: Report, _: Facts) -> None:
    if "." not in config.hostname and not config.dev_mode:
        report.warn(
            ("hostname",),
            f'"{config.hostname}" is no fully qualified name; other servers distrust such a greeting. '
            'Set one that the DNS knows, such as "mail.example.com".',
        )
    elif _is_address(config.hostname):
        report.error(("hostname",), 'found an IP address, expected a name such as "mail.example.com".')


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _sizes(config: Config, report: Report, _: Facts) -> None:
    if config.max_size < _LEAST_MAX_SIZE:
        report.warn(
            ("max_size",), f"mails of {_LEAST_MAX_SIZE} octets are to be taken by every server, RFC 5321 §4.5.3.1.7."
        )


def _relays(config: Config, report: Report, _: Facts) -> None:
    for index, text in enumerate(config.allowed_relays):
        network = parse_network(text)
        path = ("allowed_relays", index)
        if network.prefixlen == 0:
            report.warn(
                path,
                f"OPEN RELAY: {network} is everyone. Spammers will find this server within hours, and others will "
                "refuse its mail. Name the networks of your own clients.",
            )
        elif network.prefixlen < _SHORTEST_PREFIX[network.version] and not network.is_private:
            report.warn(path, f"{network} is larger than the network of any one organisation; all of it may relay.")


def _proxies(config: Config, report: Report, _: Facts) -> None:
    relays = [parse_network(text) for text in config.allowed_relays]
    for index, listener in enumerate(config.listeners):
        proxies = [parse_network(text) for text in listener.proxy_protocol]
        path = ("listeners", index, "proxy_protocol")
        for number, network in enumerate(proxies):
            if network.prefixlen == 0:
                report.warn(
                    (*path, number),
                    f"{network} is everyone, and whoever sends a PROXY header is whoever it says: a client that may "
                    "relay, if it likes. Name your proxies.",
                )
            elif listener.relay and any(_overlap(network, relay) for relay in relays):
                report.warn(
                    (*path, number),
                    f"{network} is in allowed_relays: where this proxy does not tell the client's address, the client "
                    "may relay. Name clients there, not proxies.",
                )
        if proxies and parse_listen_address(listener.address).path and not any(map(_is_here, proxies)):
            report.error(path, "whoever connects to a unix socket counts as 127.0.0.1, which is not in the list.")


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _is_here(network: Network) -> bool:
    return ipaddress.ip_address("127.0.0.1") in network


def _retries(config: Config, report: Report, _: Facts) -> None:
    if not config.retry_schedule:
        report.error(("retry_schedule",), "found an empty list, expected at least one waiting time.")
    elif config.max_retries and config.retry_schedule[0] >= config.max_queue_time:
        report.warn(
            ("retry_schedule",),
            f"the first retry would come after max_queue_time ({config.max_queue_time:g} s): "
            "mails bounce after one attempt.",
        )


def _listeners(config: Config, report: Report, _: Facts) -> None:
    names: dict[str, int] = {}
    addresses: dict[str, int] = {}
    for index, listener in enumerate(config.listeners):
        address = parse_listen_address(listener.address)
        first = addresses.setdefault(listener.address, index)
        if first != index and (address.port or address.path):
            report.error(("listeners", index, "address"), f"listeners[{first}] listens at {listener.address} already.")
        name = listener.name or listener.address
        first = names.setdefault(name, index)
        if first != index and listener.name:
            report.error(("listeners", index, "name"), f'listeners[{first}] is called "{name}" already.')
    if config.listeners and report.document.has(("listen_addr",)):
        report.warn(("listen_addr",), "not used: listeners names all listeners. Remove one of the two.")


def _web(config: Config, report: Report, _: Facts) -> None:
    if config.web.enabled and not parse_listen_address(config.web.listen_addr).is_loopback:
        report.error(
            ("web", "listen_addr"),
            f'found "{config.web.listen_addr}", expected a loopback address such as "127.0.0.1:8025": '
            "the web side has no tokens yet, so it is for this machine alone.",
        )


def _storage(config: Config, report: Report, _: Facts) -> None:
    storage = config.storage
    if storage.type == "memory" and not config.dev_mode:
        report.warn(("storage", "type"), 'mail that was accepted is lost when the server stops; use "sqlite".')
    if storage.type in SHARED_STORAGE and storage.dsn is None:
        report.error(
            ("storage", "dsn"),
            f'"{storage.type}" needs to know its server: "{storage.type}://user@host/database". '
            "With a password in it, name a file that holds it in dsn_file.",
        )
    elif storage.type in SHARED_STORAGE and storage.dsn is not None:
        scheme = storage.dsn.partition(":")[0]
        if DATABASE_SCHEMES[scheme] != storage.type:
            report.error(("storage", "dsn"), f'it begins with "{scheme}", but storage.type is "{storage.type}".')
    if storage.type not in SHARED_STORAGE and storage.dsn is not None:
        report.warn(("storage", "dsn"), f'not used: the queue is of type "{storage.type}".')
    if storage.type in SHARED_STORAGE and storage.path is not None:
        report.warn(("storage", "path"), f'not used: the queue is of type "{storage.type}".')
    if storage.lease < LEAST_LEASE_SECONDS:
        report.error(
            ("storage", "lease"),
            f"found {storage.lease:g}, expected at least {LEAST_LEASE_SECONDS:g} seconds: a busy node must not be "
            "taken for a dead one.",
        )


def _processes(config: Config, report: Report, _: Facts) -> None:
    storage = config.storage.type
    if config.processes > 1 and storage not in SHARED_STORAGE:
        report.error(
            ("processes",),
            f'a queue of type "{storage}" belongs to one process: its files are changed without asking others. '
            'Set it to 1, or use a storage.type of "postgresql" or "mysql".',
        )
    if config.processes > 1 and config.dev_mode:
        report.error(("processes",), "the inbox of dev mode belongs to one process. Set it to 1.")


def _auth(config: Config, report: Report, _: Facts) -> None:
    check_auth(config, report)


def _tls(config: Config, report: Report, facts: Facts) -> None:
    check_tls(config, report, facts)


def _acme(config: Config, report: Report, facts: Facts) -> None:
    check_acme(config, report, facts.exists)


def _scanners(config: Config, report: Report, _: Facts) -> None:
    check_scanners(config.antispam, config.antivirus, report)


def _routes(config: Config, report: Report, facts: Facts) -> None:
    check_routes(config.routes, report, authorities=facts.authorities)


def _maildirs(config: Config, report: Report, facts: Facts) -> None:
    check_maildir_folders(config, report, facts.is_folder)


def _local_domains(config: Config, report: Report, _: Facts) -> None:
    check_local_domains(config, report)


_CHECKS: tuple[tuple[Callable[[Config, Report, Facts], None], frozenset[str]], ...] = (
    (_hostname, frozenset({"hostname", "dev_mode"})),
    (_scanners, frozenset({"antispam", "antivirus"})),
    (_sizes, frozenset({"max_size"})),
    (_relays, frozenset({"allowed_relays"})),
    (_proxies, frozenset({"listeners", "allowed_relays"})),
    (_retries, frozenset({"retry_schedule", "max_queue_time", "max_retries"})),
    (_listeners, frozenset({"listeners", "listen_addr"})),
    (_web, frozenset({"web"})),
    (_storage, frozenset({"storage", "dev_mode"})),
    (_processes, frozenset({"storage", "processes", "dev_mode"})),
    (_auth, frozenset({"auth", "listeners", "listen_addr", "tls", "dev_mode"})),
    (_tls, frozenset({"tls", "listeners", "dev_mode"})),
    (_acme, frozenset({"tls", "hostname"})),
    (_routes, frozenset({"routes"})),
    (_maildirs, frozenset({"routes", "dev_mode"})),
    (_local_domains, frozenset({"routes", "local_domains", "local_recipients", "dev_mode"})),
)
