"""The keys of a route that are about TLS and a login, secrets inside lists among them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from elemta.config.keys import EACH, listed_secret_files
from elemta.config.load import Loaded
from elemta.config.problems import ConfigError
from elemta.config.schema import json_schema
from elemta.config.show import MASK, shown_document

Configure = Callable[..., Loaded]
HOST = {"domain": "*", "transport": "smtp", "host": "smtp.example.net"}
LOGIN = {"username": "relay@example.com", "password": "hunter2"}
NOT_VERIFIED = (
    'expected "verify": the password would go to whoever answers. If that is meant, add "auth_unverified": true.'
)


def problems(configure: Configure, route: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        configure({"routes": [route]})
    assert "hunter2" not in str(caught.value)
    return [(problem.key.removeprefix("routes[0]"), problem.says) for problem in caught.value.problems]


def warnings(configure: Configure, route: dict[str, Any]) -> list[tuple[str, str]]:
    found = configure({"routes": [route]}).warnings
    return [(notice.key.removeprefix("routes[0]"), notice.says) for notice in found if "can read" not in notice.says]


@pytest.mark.parametrize(
    "keys",
    [
        {"transport": "mx", "tls": "none"},
        {"transport": "mx", "tls": "require"},
        {"tls": "verify", "tls_name": "mail.example.net"},
        {"implicit_tls": True},
        {"implicit_tls": True, "port": 465},
        {"implicit_tls": True, "port": 2465},
        {"port": 587, **LOGIN},
        {"tls": "verify", **LOGIN},
        {"tls": "require", "auth_unverified": True, **LOGIN},
        {"tls": "none", "auth_unverified": True, **LOGIN},
        {"host": "127.0.0.1", "tls": "none", **LOGIN},
        {"host": "[::1]", "tls": "may", **LOGIN},
        {"host": "localhost", "tls": "may", **LOGIN},
        {"transport": "lmtp", "port": 24, "tls": "require"},
    ],
)
def test_sound_keys_are_taken_in_silence(configure: Configure, keys: dict[str, Any]) -> None:
    route = {**HOST, **keys}
    if route["transport"] == "mx":
        del route["host"]
    assert warnings(configure, route) == []


MAILDIR = {"domain": "*", "transport": "maildir", "path": "/var/mail/{local}"}
UNIX = {"domain": "*", "transport": "lmtp", "path": "/run/lmtp"}


@pytest.mark.parametrize(
    ("route", "key", "says"),
    [
        (
            {**MAILDIR, "tls": "may"},
            ".tls",
            'the transport "maildir" has no tls; expected "lmtp" or "mx" or "smtp", or no such key.',
        ),
        (
            {"domain": "*", "transport": "mx", "implicit_tls": True},
            ".implicit_tls",
            'the transport "mx" has no implicit_tls; expected "lmtp" or "smtp", or no such key.',
        ),
        (
            {"domain": "*", "transport": "mx", "password": "hunter2"},
            ".password",
            'the transport "mx" has no password; expected "smtp", or no such key.',
        ),
        ({**UNIX, "tls": "verify"}, ".tls", "a unix socket has no TLS; remove this key."),
        ({**UNIX, "tls_name": "a.example"}, ".tls_name", "a unix socket has no TLS; remove this key."),
        ({**HOST, "tls": "none", "implicit_tls": True}, ".implicit_tls", 'tls is "none"; remove one of the two.'),
        ({**HOST, "tls": "none", "tls_name": "a.example"}, ".tls_name", 'tls is "none"; remove one of the two.'),
        (
            {**HOST, "username": "relay"},
            ".username",
            "it needs a password; name a file that holds it in password_file.",
        ),
        ({**HOST, "password": "hunter2"}, ".password", "it needs a username."),
        ({**HOST, **LOGIN, "tls": "none"}, ".tls", f'found "none", {NOT_VERIFIED}'),
        ({**HOST, **LOGIN, "tls": "may"}, ".tls", f'found "may", {NOT_VERIFIED}'),
        ({**HOST, **LOGIN, "tls": "require"}, ".tls", f'found "require", {NOT_VERIFIED}'),
        (
            {**HOST, "tls": "verify", "tls_ca_file": "nowhere.pem"},
            ".tls_ca_file",
            'the file "nowhere.pem" cannot be read: No such file or directory.',
        ),
        (
            {**HOST, "tls": "verify", "tls_ca_file": "elemta.conf"},
            ".tls_ca_file",
            'the file "elemta.conf" holds no certificates in PEM that can be read.',
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    configure: Configure, route: dict[str, Any], key: str, says: str
) -> None:
    assert problems(configure, route) == [(key, says)]


@pytest.mark.parametrize(
    ("keys", "key", "says"),
    [
        (
            {"port": 465},
            ".port",
            'at port 465 hosts speak TLS from the first octet; add "implicit_tls": true.',
        ),
        (
            {"port": 587, "implicit_tls": True},
            ".implicit_tls",
            "at port 587 hosts begin in clear; remove this key, STARTTLS comes first.",
        ),
        ({"auth_unverified": True}, ".auth_unverified", "not used: the route has no password."),
    ],
)
def test_what_is_most_often_a_slip_is_a_warning(
    configure: Configure, keys: dict[str, Any], key: str, says: str
) -> None:
    assert warnings(configure, {**HOST, **keys}) == [(key, says)]


def test_authorities_are_read_when_the_configuration_is(configure: Configure, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert warnings(configure, {**HOST, "tls": "verify", "tls_ca_file": "ca.pem"}) == []
    assert warnings(configure, {**HOST, "tls_ca_file": "ca.pem"}) == [
        (".tls_ca_file", 'certificates are checked by "tls": "verify" alone, or for a mail with REQUIRETLS.')
    ]


# ---- secrets inside lists ------------------------------------------------------------------------


def test_a_password_of_a_route_comes_from_a_file(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    (tmp_path / "secret").chmod(0o600)
    other = {"domain": "example.org", "transport": "mx"}
    route = {**HOST, "username": "relay", "password_file": "secret"}
    loaded = configure({"routes": [other, route]})
    assert loaded.config.routes[1].password == "hunter2"
    assert loaded.config.routes[0].password is None
    assert loaded.warnings == ()
    by_environment = configure({}, {"ELEMTA_ROUTES": json.dumps([route])})
    assert by_environment.config.routes[0].password == "hunter2"


def test_the_smarthost_of_the_manual_is_sound(configure: Configure, tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "outgoing-tls.md").read_text(encoding="utf-8")
    (document,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "secret").write_text("hunter2\n")
    (tmp_path / "secret").chmod(0o600)
    loaded = configure(document.replace("/etc/elemta/smarthost-password", str(tmp_path / "secret")))
    assert loaded.warnings == ()
    assert loaded.config.routes[0].password == "hunter2"


def test_a_password_is_written_once(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    ((key, says),) = problems(configure, {**HOST, **LOGIN, "password_file": "secret"})
    assert key == ".password_file"
    assert says == "the same secret is written as routes[0].password; remove one of them."


@pytest.mark.parametrize(
    ("written", "key", "says"),
    [
        ({"password_file": "nowhere"}, ".password_file", 'the file "nowhere" cannot be read: No such file'),
        ({"password_file": 7}, ".password_file", "found the number 7, expected the name of a file."),
        ({"password": 7}, ".password", "found a secret, expected a text that is not empty."),
        ({"pasword_file": "x"}, ".pasword_file", 'there is no such key. Did you mean "password_file"?'),
    ],
)
def test_a_bad_password_is_named(configure: Configure, written: dict[str, Any], key: str, says: str) -> None:
    found = problems(configure, {**HOST, "username": "relay", **written})
    assert [(where, text[: len(says)]) for where, text in found] == [(key, says)]


def test_a_list_that_is_a_text_shows_no_secret(configure: Configure) -> None:
    for written, environ in (
        ({"routes": '[{"password": "hunter2"}]'}, {}),
        ({}, {"ELEMTA_ROUTES": '{"p": "hunter2"}'}),
    ):
        with pytest.raises(ConfigError) as caught:
            configure(written, environ)
        assert "hunter2" not in str(caught.value)
        assert "found a text" in str(caught.value)


def test_a_password_that_everyone_can_read_is_a_warning(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "elemta.conf").touch(mode=0o644)
    (warning,) = configure({"routes": [{**HOST, **LOGIN}]}).warnings
    assert warning.key == "routes[0].password"
    assert warning.says == "everyone on this machine can read this secret; run: chmod o-r ./elemta.conf"


def test_what_is_shown_is_masked(configure: Configure) -> None:
    loaded = configure({"routes": [{**HOST, **LOGIN}, {"domain": "example.org", "transport": "mx"}]})
    first, second = shown_document(loaded)["routes"]
    assert (first["username"], first["password"]) == ("relay@example.com", MASK)
    assert second["password"] is None
    assert "hunter2" not in repr(loaded.config)


def test_the_schema_knows_the_files_of_secrets_in_lists() -> None:
    assert ("routes", EACH, "password_file") in listed_secret_files()
    element = json_schema()["properties"]["routes"]["items"]
    assert element["properties"]["password_file"]["description"] == "The name of a file that holds routes[].password."
    assert element["properties"]["password"]["writeOnly"]
