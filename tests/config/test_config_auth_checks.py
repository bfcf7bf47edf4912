"""What the keys of authentication mean together."""

from typing import Any

import pytest

from elemta.config.auth_checks import check_auth
from elemta.config.document import Document
from elemta.config.problems import Report
from elemta.config.structure import structure

NOBODY = "nobody could authenticate: auth.enabled is false. Set it to true."
HERE_ALONE = (
    "AUTH is offered under TLS alone, and {} has none: only programs on this machine can authenticate. Give it TLS."
)
NO_LISTENER = 'no listener offers AUTH. Set "auth": true at those that shall.'


def verdict(written: dict[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Problems and notices of this check alone."""
    report = Report(Document(written))
    check_auth(structure(written), report)
    return [(each.key, each.says) for each in report.problems], [(each.key, each.says) for each in report.notices]


def at_home(**keys: Any) -> dict[str, Any]:
    return {"listen_addr": "127.0.0.1:2525", "auth": {"enabled": True, **keys}}


def listeners(*sections: dict[str, Any], **auth: Any) -> dict[str, Any]:
    return {"listeners": list(sections), "auth": {"enabled": True, **auth}}


WARNED: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({}, []),
    (at_home(), []),
    (at_home(required=True), []),
    ({"listen_addr": ":25", "tls": {"enabled": True}, "auth": {"enabled": True, "required": True}}, []),
    ({"listen_addr": ":25", "auth": {"enabled": True}}, [("auth.enabled", HERE_ALONE.format(":25"))]),
    (listeners({"address": ":25"}, {"address": ":465", "tls": "implicit", "auth": True}), []),
    (listeners({"address": "unix:/run/submit", "auth": True, "auth_required": True}), []),
    (listeners({"address": ":587", "auth": True}), [("listeners[0].auth", HERE_ALONE.format(":587"))]),
    (listeners({"address": ":25"}), [("auth.enabled", NO_LISTENER)]),
    (
        {**listeners({"address": ":587", "auth": True, "auth_required": True}), "dev_mode": True},
        [("listeners[0].auth_required", HERE_ALONE.format(":587"))],
    ),
    (at_home(datasource_host="db"), [("auth.datasource_host", 'not used: the users are of type "sqlite".')]),
    (
        at_home(datasource_type="file", datasource_port=5, datasource_pass="x"),
        [
            ("auth.datasource_port", 'not used: the users are of type "file".'),
            ("auth.datasource_pass", 'not used: the users are of type "file".'),
        ],
    ),
    (at_home(datasource_type="mysql", datasource_db="mail", datasource_user="mail"), []),
    (at_home(datasource_type="mysql", datasource_dsn="mariadb://mail@db/mail"), []),
    (
        at_home(datasource_type="postgresql", datasource_dsn="postgres://a@b/c", datasource_path="users.db"),
        [("auth.datasource_path", 'not used: the users are of type "postgresql".')],
    ),
    (at_home(user_query="SELECT password FROM accounts WHERE name = :user"), []),
    (at_home(mechanisms=["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]), []),
    (
        at_home(mechanisms=["SCRAM-SHA-256-PLUS"]),
        [("auth.mechanisms", "clients without channel binding have no SCRAM; SCRAM-SHA-256 is not in the list.")],
    ),
    (at_home(mechanisms=["XOAUTH2"], oauth={"introspection_url": "https://id.example/introspect"}), []),
    (at_home(mechanisms=["OAUTHBEARER"], oauth={"introspection_url": "http://[::1]:8080/i"}), []),
    (
        at_home(oauth={"introspection_url": "http://localhost/i"}),
        [
            (
                "auth.oauth.introspection_url",
                "not used: neither OAUTHBEARER nor XOAUTH2 is in auth.mechanisms.",
            )
        ],
    ),
]


@pytest.mark.parametrize(("written", "says"), WARNED)
def test_what_starts(written: dict[str, Any], says: list[tuple[str, str]]) -> None:
    assert verdict(written) == ([], says)


QUERY = "SELECT password FROM accounts WHERE name = :user"
UNSAFE = "tokens go there, so it is an https:// address, or an http:// one on loopback."

REFUSED: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"auth": {"required": True}}, [("auth.required", NOBODY)]),
    ({"auth": {"required": True}, "dev_mode": True}, [("auth.required", NOBODY)]),
    ({"listeners": [{"address": ":587", "auth": True}]}, [("listeners[0].auth", NOBODY)]),
    (
        listeners({"address": "[::1]:587", "auth": True}, {"address": ":26", "auth_required": True}),
        [
            (
                "listeners[1].auth_required",
                "nobody could authenticate: this listener offers no AUTH. Set auth to true.",
            )
        ],
    ),
    (listeners({"address": ":25"}, required=True), [("auth.required", NO_LISTENER)]),
    (
        {"listen_addr": ":25", "auth": {"enabled": True, "required": True}},
        [("auth.required", HERE_ALONE.format(":25"))],
    ),
    (
        listeners({"address": ":587", "auth": True, "auth_required": True}),
        [("listeners[0].auth_required", HERE_ALONE.format(":587"))],
    ),
    (listeners({"address": ":587", "auth": True}, required=True), [("auth.required", HERE_ALONE.format(":587"))]),
    (
        at_home(mechanisms=[]),
        [("auth.mechanisms", 'found an empty list, expected at least one mechanism such as "PLAIN".')],
    ),
    (
        at_home(mechanisms=["PLAIN", "OAUTHBEARER"]),
        [("auth.mechanisms", "OAUTHBEARER needs somebody to ask about tokens. Set auth.oauth.introspection_url.")],
    ),
    *(
        (
            at_home(mechanisms=["XOAUTH2"], oauth={"introspection_url": url}),
            [("auth.oauth.introspection_url", UNSAFE)],
        )
        for url in ("http://id.example/i", "ftp://localhost/i", "id.example", "https://", "https://[::1/i")
    ),
    (
        at_home(datasource_type="postgresql"),
        [
            (
                "auth.datasource_db",
                'users of type "postgresql" are on a server. Name the database, or all in datasource_dsn.',
            ),
            (
                "auth.datasource_user",
                'users of type "postgresql" are on a server. Name the database user, or all in datasource_dsn.',
            ),
        ],
    ),
    (
        at_home(datasource_type="mysql", datasource_dsn="postgresql://a@b/c", datasource_pass="x"),
        [
            ("auth.datasource_pass", "auth.datasource_dsn says this already. Remove one of the two."),
            ("auth.datasource_dsn", 'it begins with "postgresql", but datasource_type is "mysql".'),
        ],
    ),
    (
        at_home(mechanisms=["PLAIN", "SCRAM-SHA-256"], user_query=QUERY),
        [
            (
                "auth.mechanisms",
                "auth.user_query gives no verifiers, so nobody could log in by SCRAM-SHA-256. Take it out.",
            )
        ],
    ),
    (
        at_home(user_query="SELECT password FROM accounts"),
        [("auth.user_query", "found no `:user` in it, expected the place where the user's name goes.")],
    ),
    (
        at_home(user_query="SELECT password FROM accounts WHERE name = :username"),
        [("auth.user_query", "found no `:user` in it, expected the place where the user's name goes.")],
    ),
    (at_home(user_query="DELETE FROM accounts WHERE name = :user"), [("auth.user_query", "expected a SELECT.")]),
    (
        at_home(datasource_type="file", user_query="SELECT :user"),
        [("auth.user_query", 'users of type "file" are not asked for by a query. Remove this key.')],
    ),
]


@pytest.mark.parametrize(("written", "says"), REFUSED)
def test_what_does_not_start(written: dict[str, Any], says: list[tuple[str, str]]) -> None:
    assert verdict(written)[0] == says
