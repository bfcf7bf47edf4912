"""What keys mean together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.auth import AuthSection
from elemta.config.document import Document
from elemta.config.listeners import DEV_TLS_ADDRESS, effective_listeners
from elemta.config.load import Loaded
from elemta.config.problems import ConfigError, Report
from elemta.config.routes import check_routes, matches
from elemta.config.sections import Config, ListenerSection, RouteSection, TransportName
from elemta.config.tls import TlsMode, TlsSection
from elemta.delivery.maildir import Template

Configure = Callable[..., Loaded]


def problems(configure: Configure, written: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        configure(written)
    return [(problem.key, problem.says) for problem in caught.value.problems]


def warnings(configure: Configure, written: dict[str, Any]) -> list[tuple[str, str]]:
    return [(warning.key, warning.says) for warning in configure(written).warnings]


# ---- AUTH ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dev_mode", [False, True])
def test_auth_that_nobody_could_give_does_not_start(configure: Configure, dev_mode: bool) -> None:
    written = {"dev_mode": dev_mode, "auth": {"required": True}}
    assert [key for key, _ in problems(configure, written)] == ["auth.required"]


def test_auth_that_is_offered_to_this_machine_alone_is_a_warning(configure: Configure) -> None:
    assert [key for key, _ in warnings(configure, {"auth": {"enabled": True}})] == ["auth.enabled"]
    assert warnings(configure, {"listen_addr": "127.0.0.1:2525", "auth": {"enabled": True}}) == []


def test_auth_is_required_where_it_is_offered() -> None:
    auth = AuthSection(enabled=True, required=True)
    listeners = (ListenerSection(address=":25"), ListenerSection(address=":587", auth=True))
    assert [one.auth_required for one in effective_listeners(Config(auth=auth, listeners=listeners))] == [False, True]
    assert [one.auth_required for one in effective_listeners(Config(auth=auth))] == [True]


# ---- listeners -----------------------------------------------------------------------------------


def test_listeners_replace_listen_addr(configure: Configure) -> None:
    assert warnings(configure, {"listen_addr": ":25", "listeners": [{"address": ":26"}]}) == [
        ("listen_addr", "not used: listeners names all listeners. Remove one of the two.")
    ]


def test_two_listeners_share_neither_address_nor_name(configure: Configure) -> None:
    written = {"listeners": [{"address": ":25", "name": "mx"}, {"address": ":25"}, {"address": ":26", "name": "mx"}]}
    assert problems(configure, written) == [
        ("listeners[1].address", "listeners[0] listens at :25 already."),
        ("listeners[2].name", 'listeners[0] is called "mx" already.'),
    ]
    free = {"address": "127.0.0.1:0"}
    assert warnings(configure, {"listeners": [free, free]}) == []


def test_the_listeners_that_are_served() -> None:
    assert [(one.name, one.tls) for one in effective_listeners(Config(tls=TlsSection(enabled=True)))] == [
        (":2525", TlsMode.STARTTLS),
        (":465", TlsMode.IMPLICIT),
    ]
    without = Config(tls=TlsSection(enabled=True, enable_starttls=False))
    assert [one.tls for one in effective_listeners(without)] == [TlsMode.NONE, TlsMode.IMPLICIT]
    assert [one.tls for one in effective_listeners(Config())] == [TlsMode.NONE]
    named = ListenerSection(address=":26", name="in", relay=False, priority="high", tls=TlsMode.IMPLICIT)
    assert effective_listeners(Config(listeners=(named,))) == (named,)


def test_dev_mode_speaks_tls_on_this_machine_alone_unless_told() -> None:
    def addresses(tls: TlsSection) -> list[str]:
        return [one.address for one in effective_listeners(Config(dev_mode=True, tls=tls))]

    assert addresses(TlsSection(enabled=True)) == ["127.0.0.1:2525", DEV_TLS_ADDRESS]
    assert addresses(TlsSection(enabled=True, listen_addr=":4650")) == ["127.0.0.1:2525", ":4650"]


# ---- routes --------------------------------------------------------------------------------------

MX = {"domain": "*", "transport": "mx"}


@pytest.mark.parametrize(
    ("route", "key", "says"),
    [
        ({"transport": "smtp"}, "routes[0]", 'the transport "smtp" needs a host, and a port unless it is 25.'),
        (
            {"transport": "smtp", "port": 26},
            "routes[0]",
            'the transport "smtp" needs a host, and a port unless it is 25.',
        ),
        (
            {"transport": "lmtp", "host": "h"},
            "routes[0]",
            'the transport "lmtp" needs a host and a port, or the path of a unix socket.',
        ),
        (
            {"transport": "lmtp"},
            "routes[0]",
            'the transport "lmtp" needs a host and a port, or the path of a unix socket.',
        ),
        (
            {"transport": "lmtp", "host": "h", "port": 24, "path": "/s"},
            "routes[0]",
            'the transport "lmtp" has either a path (a unix socket) or a host and a port, not both.',
        ),
        (
            {"transport": "maildir"},
            "routes[0]",
            'the transport "maildir" needs a path such as "/var/mail/{domain}/{local}".',
        ),
        (
            {"transport": "maildir", "path": "/m/{user}"},
            "routes[0].path",
            'found "{user}", expected no braces but {local} and {domain}.',
        ),
        (
            {"transport": "maildir", "path": "/m/{local"},
            "routes[0].path",
            'found "{local", expected no braces but {local} and {domain}.',
        ),
        *(
            (
                {"transport": "maildir", "path": text},
                "routes[0].path",
                f'found "{text}", expected the name of a folder at its end and no ".." behind a placeholder.',
            )
            for text in ("/m/{local}/../x", "/m/{domain}/..", "{local}/./../x", "/m/..", "..", "/", "./.")
        ),
        (
            {"transport": "lmtp", "host": "h", "port": 25},
            "routes[0].port",
            "found 25, expected another port such as 24: LMTP must not use that of SMTP, RFC 2033 §5.",
        ),
        (
            {"transport": "mx", "host": "h"},
            "routes[0].host",
            'the transport "mx" has no host; expected "lmtp" or "smtp", or no such key.',
        ),
        (
            {"transport": "discard", "port": 25},
            "routes[0].port",
            'the transport "discard" has no port; expected "lmtp" or "mx" or "smtp", or no such key.',
        ),
        (
            {"transport": "smtp", "host": "h", "path": "/p"},
            "routes[0].path",
            'the transport "smtp" has no path; expected "lmtp" or "maildir", or no such key.',
        ),
        (
            {"transport": "smtp", "host": "h", "allow_private": True},
            "routes[0].allow_private",
            'the transport "smtp" has no allow_private; expected "mx", or no such key.',
        ),
    ],
)  # fmt: skip
def test_a_route_has_the_keys_of_its_transport(
    configure: Configure, route: dict[str, Any], key: str, says: str
) -> None:
    assert problems(configure, {"routes": [{"domain": "*", **route}]}) == [(key, says)]


@pytest.mark.parametrize(
    "route",
    [
        {"transport": "mx"},
        {"transport": "mx", "port": 26, "allow_private": True},
        {"transport": "smtp", "host": "127.0.0.1", "port": 2600},
        {"transport": "smtp", "host": "::1"},
        {"transport": "lmtp", "host": "127.0.0.1", "port": 24},
        {"transport": "lmtp", "path": "/run/dovecot/lmtp"},
        {"transport": "maildir", "path": "/{domain}/{local}"},
        {"transport": "maildir", "path": "../..{local}../Maildir"},
        {"transport": "maildir", "path": "../all"},
        {"transport": "discard"},
        {"transport": "inbox", "priority": "low"},
    ],
)
def test_a_sound_route_is_taken_in_silence(configure: Configure, route: dict[str, Any]) -> None:
    assert warnings(configure, {"routes": [{"domain": "*", **route}]}) == []


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("mail/{domain}/{local}", "mail"),
        ("./mail/x/all", "mail/x"),
        ("{local}", ""),
        ("/gone/{local}/Maildir", "/gone"),
    ],
)
def test_the_folder_of_maildirs_must_be_there(configure: Configure, tmp_path: Path, path: str, folder: str) -> None:
    written = {"routes": [{"domain": "*", "transport": "maildir", "path": path}]}
    says = (
        f'there is no folder "{folder}": mail for it is put off with 451 until there is one. Make it, and let it '
        "belong to the server's user; what is below the server makes."
    )
    assert warnings(configure, written) == ([("routes[0].path", says)] if folder else [])
    assert warnings(configure, {**written, "dev_mode": True}) == []
    if not folder.startswith("/"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        assert warnings(configure, written) == []


def test_a_file_is_no_folder_for_maildirs(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "mail").touch()
    written = {"routes": [{"domain": "*", "transport": "maildir", "path": "mail/{local}"}]}
    assert [key for key, _ in warnings(configure, written)] == ["routes[0].path"]


PARTS = st.sampled_from(["", ".", "..", "mail", "{local}", "x{domain}"])


@given(st.lists(PARTS, min_size=1, max_size=6).map("/".join).filter(bool))
def test_a_maildir_path_that_is_taken_can_be_delivered_to(path: str) -> None:
    report = Report(Document())
    check_routes([RouteSection(domain="*", transport=TransportName.MAILDIR, path=path)], report)
    try:
        usable = bool(Template.parse(path).parts)
    except ValueError:
        usable = False
    assert usable is not bool(report.problems)


@pytest.mark.parametrize(
    ("pattern", "domain", "meant"),
    [
        ("*", "example.com", True),
        ("example.com", "example.com", True),
        ("example.com", "mail.example.com", False),
        ("*.example.com", "mail.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
    ],
)
def test_what_a_pattern_means(pattern: str, domain: str, meant: bool) -> None:
    assert matches(pattern, domain) is meant


@pytest.mark.parametrize(
    ("first", "second", "shadowed"),
    [
        ("*", "example.com", True),
        ("*", "*.example.com", True),
        ("*", "*", True),
        ("example.com", "example.com", True),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "*.a.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.a.example.com", "*.example.com", False),
        ("example.com", "*", False),
        ("*.example.com", "*", False),
        ("example.com", "*.example.com", False),
    ],
)
def test_a_route_that_is_never_reached_is_a_warning(
    configure: Configure, first: str, second: str, shadowed: bool
) -> None:
    written = {"routes": [{"domain": first, "transport": "mx"}, {"domain": second, "transport": "mx"}]}
    says = f'never used: routes[0] ("{first}") matches all of "{second}" first.'
    assert warnings(configure, written) == ([("routes[1]", says)] if shadowed else [])


# ---- local domains -------------------------------------------------------------------------------

MAILDIR = {"domain": "example.com", "transport": "maildir", "path": "./{domain}/{local}"}
SHARED = {"domain": "*", "transport": "maildir", "path": "./all"}
LMTP = {"domain": "*", "transport": "lmtp", "path": "/run/lmtp"}
EXAMPLE = 'such as {"domain": "example.com", "transport": "maildir", "path": "/var/mail/{domain}/{local}"}'
NO_RECIPIENTS = (
    '"example.com" has no recipients; expected some in local_recipients, such as "postmaster@example.com", or a route '
    'to "maildir" whose path has {local}.'
)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({}, f'"example.com" has no route; expected one to "lmtp", "maildir" or "inbox", {EXAMPLE}.'),
        (
            {"routes": [MX, MAILDIR]},
            '"example.com" goes by routes[0] to "mx"; expected a route before it to "lmtp", "maildir" or "inbox", '
            f"{EXAMPLE}.",
        ),
        ({"routes": [LMTP]}, NO_RECIPIENTS),
        ({"routes": [SHARED]}, NO_RECIPIENTS),
        ({"routes": [{"domain": "*", "transport": "inbox"}]}, NO_RECIPIENTS),
    ],
)
def test_a_local_domain_needs_a_route_and_recipients(configure: Configure, written: dict[str, Any], says: str) -> None:
    found = problems(configure, {"local_domains": ["example.com"], **written})
    assert found == [("local_domains[0]", says)]


@pytest.mark.parametrize("route", [MAILDIR, {**MAILDIR, "domain": "*"}])
def test_maildirs_that_exist_are_recipients(configure: Configure, route: dict[str, Any]) -> None:
    assert warnings(configure, {"local_domains": ["Example.COM"], "routes": [route]}) == []


@pytest.mark.parametrize("route", [LMTP, SHARED, {"domain": "example.com", "transport": "inbox"}])
def test_listed_recipients_are_recipients(configure: Configure, route: dict[str, Any]) -> None:
    written = {"local_domains": ["example.com"], "local_recipients": ["jo@EXAMPLE.com"], "routes": [route]}
    assert warnings(configure, written) == []


def test_a_listed_recipient_is_in_a_local_domain(configure: Configure) -> None:
    assert problems(configure, {"local_recipients": ["jo@example.org"]}) == [
        ("local_recipients[0]", '"example.org" is not in local_domains; add it there.')
    ]


def test_in_dev_mode_a_local_domain_needs_nothing(configure: Configure) -> None:
    assert warnings(configure, {"dev_mode": True, "local_domains": ["example.com"]}) == []


# ---- the rest ------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "::ffff:0:0/96"])
def test_an_open_relay_is_said_loudly(configure: Configure, network: str) -> None:
    ((key, says),) = warnings(configure, {"allowed_relays": ["127.0.0.1", network]})
    assert key == "allowed_relays[1]"
    assert says.startswith("OPEN RELAY: ")


@pytest.mark.parametrize(
    ("network", "wide"),
    [("128.0.0.0/1", True), ("10.0.0.0/8", False), ("2000::/3", True), ("fc00::/7", False), ("2001:db8::/32", False)],
)
def test_a_network_of_many_organisations_is_a_warning(configure: Configure, network: str, wide: bool) -> None:
    assert bool(warnings(configure, {"allowed_relays": [network]})) is wide


@pytest.mark.parametrize(
    ("written", "key", "says"),
    [
        (
            {"hostname": "mail"},
            "hostname",
            '"mail" is no fully qualified name; other servers distrust such a greeting. Set one that the DNS knows, '
            'such as "mail.example.com".',
        ),
        (
            {"max_size": 65_535},
            "max_size",
            "mails of 65536 octets are to be taken by every server, RFC 5321 §4.5.3.1.7.",
        ),
        (
            {"storage": {"type": "memory"}},
            "storage.type",
            'mail that was accepted is lost when the server stops; use "sqlite".',
        ),
        (
            {"retry_schedule": ["1h"], "max_queue_time": 3600},
            "retry_schedule",
            "the first retry would come after max_queue_time (3600 s): mails bounce after one attempt.",
        ),
    ],
)
def test_an_oddity_is_a_warning(configure: Configure, written: dict[str, Any], key: str, says: str) -> None:
    assert warnings(configure, written) == [(key, says)]


def test_no_retries_need_no_time(configure: Configure) -> None:
    assert warnings(configure, {"max_retries": 0, "max_queue_time": 1}) == []


def test_a_short_name_is_good_enough_for_dev_mode(configure: Configure) -> None:
    assert warnings(configure, {"hostname": "laptop", "dev_mode": True}) == []


def test_an_address_is_no_host_name(configure: Configure) -> None:
    assert problems(configure, {"hostname": "192.0.2.1"}) == [
        ("hostname", 'found an IP address, expected a name such as "mail.example.com".')
    ]


@pytest.mark.parametrize("address", [":8025", "0.0.0.0:8025", "[::]:8025", "192.0.2.1:8025", "mail.example.com:80"])
def test_the_web_side_is_for_this_machine_alone(configure: Configure, address: str) -> None:
    for dev_mode in (True, False):
        ((key, says),) = problems(configure, {"dev_mode": dev_mode, "web": {"listen_addr": address}})
        assert key == "web.listen_addr"
        assert says.startswith(f'found "{address}", expected a loopback address')
    assert warnings(configure, {"web": {"enabled": False, "listen_addr": address}}) == []


# ---- the queue -----------------------------------------------------------------------------------

POSTGRESQL = {"type": "postgresql", "dsn": "postgresql://elemta@db.example.com/elemta"}


@pytest.mark.parametrize(
    ("written", "key", "says"),
    [
        ({"storage": {"type": "mariadb"}}, "storage.dsn", '"mysql" needs to know its server'),
        ({"storage": POSTGRESQL | {"lease": 9}}, "storage.lease", "found 9, expected at least 10 seconds"),
        ({"processes": 2}, "processes", 'a queue of type "sqlite" belongs to one process'),
        ({"processes": 2, "storage": {"type": "file"}}, "processes", 'a queue of type "file" belongs to one process'),
        ({"processes": 2, "storage": POSTGRESQL, "dev_mode": True}, "processes", "the inbox of dev mode"),
    ],
)
def test_a_queue_that_could_not_work_is_refused(
    configure: Configure, written: dict[str, Any], key: str, says: str
) -> None:
    ((found, text),) = problems(configure, written)
    assert found == key
    assert says in text


def test_keys_of_another_store_are_warned_of(configure: Configure) -> None:
    for storage, expected in (
        ({"dsn": "mysql://h/d"}, ("storage.dsn", 'not used: the queue is of type "sqlite".')),
        (POSTGRESQL | {"path": "/srv/q"}, ("storage.path", 'not used: the queue is of type "postgresql".')),
    ):
        assert expected in warnings(configure, {"storage": storage})


def test_several_processes_share_a_database(configure: Configure) -> None:
    config = configure({"processes": 4, "storage": POSTGRESQL}).config
    assert (config.processes, config.storage.type, config.storage.lease) == (4, "postgresql", 60)


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("db.example.com", "It begins with postgresql:// or mysql://."),
        ("oracle://h/d", "It begins with postgresql:// or mysql://."),
        ("postgresql://user:hunter/2@h/d", "Its host or port cannot be read"),
        ("postgresql://host", "It ends in the name of a database."),
        ("mysql://host/d", 'it begins with "mysql", but storage.type is "postgresql".'),
    ],
)
def test_a_database_that_cannot_be_found_is_refused_without_showing_secrets(
    configure: Configure, dsn: str, says: str
) -> None:
    ((key, text),) = problems(configure, {"storage": {"type": "postgresql", "dsn": dsn}})
    assert key == "storage.dsn"
    assert says in text
    assert "hunter" not in text
