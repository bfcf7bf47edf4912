"""Keys from environment variables."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from elemta.config.environment import RESERVED, RESERVED_PREFIX, variable_of, variables
from elemta.config.keys import all_keys, secret_files
from elemta.config.known import MOVED, known_keys
from elemta.config.load import Loaded
from elemta.config.problems import ConfigError

Configure = Callable[..., Loaded]


def test_no_two_keys_share_a_variable() -> None:
    paths = [*(key.path for key in all_keys()), *secret_files()]
    assert len({variable_of(path) for path in paths}) == len(paths)


def test_an_old_name_shares_a_variable_only_with_what_it_became() -> None:
    ours = {variable_of(key.path): key.path for key in all_keys()}
    for path in known_keys():
        assert variable_of(path) not in ours
    for old, moved in MOVED.items():
        assert ours.get(variable_of(old), moved.target) == moved.target


def test_no_variable_of_a_key_is_reserved() -> None:
    assert not RESERVED & set(variables())
    assert not [name for name in variables() if name.startswith(RESERVED_PREFIX)]


def test_reserved_variables_are_no_keys(configure: Configure) -> None:
    environ = {"ELEMTA_CONNECT": "unix:/x", "ELEMTA_DEBUG": "1", "ELEMTA_TEST_VECTORS": "/x"}
    assert configure({}, environ) == configure({})


VALUES: list[tuple[str, str, str, Any]] = [
    ("ELEMTA_HOSTNAME", "mx.example.org", "hostname", "mx.example.org"),
    ("ELEMTA_DEV_MODE", "true", "dev_mode", True),
    ("ELEMTA_DEV_MODE", "1", "dev_mode", True),
    ("ELEMTA_DEV_MODE", "On", "dev_mode", True),
    ("ELEMTA_DEV_MODE", "no", "dev_mode", False),
    ("ELEMTA_MAX_SIZE", "100000", "max_size", 100_000),
    ("ELEMTA_MAX_QUEUE_TIME", "2h", "max_queue_time", 7200),
    ("ELEMTA_MAX_QUEUE_TIME", "86400.5", "max_queue_time", 86_400.5),
    ("ELEMTA_PRIORITY_AGEING", "60", "priority_ageing", 60),
    ("ELEMTA_RETRY_SCHEDULE", "60, 5m,900", "retry_schedule", (60, 300, 900)),
    ("ELEMTA_RETRY_SCHEDULE", '[60, "5m"]', "retry_schedule", (60, 300)),
    ("ELEMTA_ALLOWED_RELAYS", "127.0.0.1,::1", "allowed_relays", ("127.0.0.1", "::1")),
    ("ELEMTA_ALLOWED_RELAYS", "[]", "allowed_relays", ()),
    ("ELEMTA_LIMITS_MAX_ERRORS", "3", "limits.max_errors", 3),
    ("ELEMTA_TLS_LETS_ENCRYPT_EMAIL", "a@example.com", "tls.lets_encrypt.email", "a@example.com"),
    ("ELEMTA_TLS_LETSENCRYPT_EMAIL", "a@example.com", "tls.lets_encrypt.email", "a@example.com"),
    ("ELEMTA_QUEUE_DIR", "/q", "queue_dir", "/q"),
    ("ELEMTA_SERVER_LISTEN", ":26", "listen_addr", ":26"),
    ("ELEMTA_AUTH_DATASOURCE_PASS", "5", "auth.datasource_pass", "5"),
    ("ELEMTA_LOGGING_LEVEL", "warn", "logging.level", "warning"),
]


@pytest.mark.parametrize(("name", "text", "key", "value"), VALUES)
def test_a_variable_sets_its_key(configure: Configure, name: str, text: str, key: str, value: object) -> None:
    loaded = configure({}, {name: text})
    found: Any = loaded.config
    for step in key.split("."):
        found = getattr(found, step)
    assert found == value
    assert loaded.origins[key].where == name
    assert loaded.warnings == ()


def test_a_list_of_objects_is_json(configure: Configure) -> None:
    loaded = configure({}, {"ELEMTA_LISTENERS": '[{"address": ":26", "name": "mx"}]'})
    assert [listener.name for listener in loaded.config.listeners] == ["mx"]


@pytest.mark.parametrize(
    ("environ", "paragraph"),
    [
        ({"ELEMTA_MAX_SIZ": "1"}, 'ELEMTA_MAX_SIZ: no key belongs to this variable. Did you mean "ELEMTA_MAX_SIZE"?'),
        ({"ELEMTA_FOO": "1"}, "ELEMTA_FOO: no key belongs to this variable."),
        (
            {"ELEMTA_AUTH_REQUIERD": "true"},
            'ELEMTA_AUTH_REQUIERD: no key belongs to this variable. Did you mean "ELEMTA_AUTH_REQUIRED"?',
        ),
        ({"ELEMTA_DEV_MODE": "si"}, 'ELEMTA_DEV_MODE: dev_mode: found the text "si", expected true or false.'),
        (
            {"ELEMTA_MAX_SIZE": "1e400"},
            "ELEMTA_MAX_SIZE: max_size: found the number Infinity, expected a whole number of octets, at least 1.",
        ),
        (
            {"ELEMTA_HOSTNAME": " "},
            'ELEMTA_HOSTNAME: hostname: found the text " ", expected a value, or no such variable.',
        ),
        (
            {"ELEMTA_ALLOWED_RELAYS": ""},
            'ELEMTA_ALLOWED_RELAYS: allowed_relays: found the text "", expected a value, or no such variable. '
            "An empty list is written as [].",
        ),
        (
            {"ELEMTA_ALLOWED_RELAYS": "[1"},
            'ELEMTA_ALLOWED_RELAYS: allowed_relays: found the text "[1", expected a list in JSON.',
        ),
        (
            {"ELEMTA_ALLOWED_RELAYS": "127.0.0.1,nowhere"},
            'ELEMTA_ALLOWED_RELAYS: allowed_relays[1]: found the text "nowhere", expected an IP address or a network '
            'such as "192.0.2.0/24". This is no IP address or network.',
        ),
        (
            {"ELEMTA_ROUTES": "mx"},
            "ELEMTA_ROUTES: routes: found a text, expected a list of objects in JSON.",
        ),
        (
            {"ELEMTA_AUTH_DATASOURCE_PASS": ""},
            "ELEMTA_AUTH_DATASOURCE_PASS: auth.datasource_pass: found a secret, expected a value, or no such variable.",
        ),
    ],
)
def test_a_bad_variable_is_named(configure: Configure, environ: Mapping[str, str], paragraph: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure({}, environ)
    assert str(caught.value) == paragraph


def test_a_variable_below_a_broken_section_does_not_hide_it(configure: Configure) -> None:
    with pytest.raises(ConfigError) as caught:
        configure({"tls": 5}, {"ELEMTA_TLS_ENABLED": "false"})
    assert [problem.key for problem in caught.value.problems] == ["tls"]


def test_the_addresses_of_neighbouring_containers_are_no_keys(configure: Configure) -> None:
    environ = {
        "ELEMTA_SERVICE_HOST": "10.0.0.7",
        "ELEMTA_SERVICE_PORT": "25",
        "ELEMTA_SERVICE_PORT_SMTP": "25",
        "ELEMTA_PORT": "tcp://10.0.0.7:25",
        "ELEMTA_PORT_25_TCP": "tcp://10.0.0.7:25",
        "ELEMTA_PORT_25_TCP_PROTO": "tcp",
        "ELEMTA_PORT_25_TCP_PORT": "25",
        "ELEMTA_PORT_25_TCP_ADDR": "10.0.0.7",
        "ELEMTA_WEB_SERVICE_HOST": "fd00::7",
    }
    assert configure({}, environ) == configure({})
    with pytest.raises(ConfigError, match="ELEMTA_PORT: no key belongs"):
        configure({}, {"ELEMTA_PORT": "25"})


@pytest.mark.parametrize(
    ("environ", "warning"),
    [
        (
            {"ELEMTA_CACHE_ENABLED": "true"},
            "ELEMTA_CACHE_ENABLED: cache.enabled: this key will not be supported and does nothing. "
            "Nothing needs a cache.",
        ),
        (
            {"ELEMTA_QUEUE_PROCESSOR_ENABLED": "true"},
            "ELEMTA_QUEUE_PROCESSOR_ENABLED: queue_processor_enabled: this key will not be supported and does nothing. "
            "The queue is always worked on.",
        ),
        (
            {"AUTH_SQLITE_PATH": "/a"},
            "AUTH_SQLITE_PATH: this variable of the original is not read: write ELEMTA_AUTH_DATASOURCE_PATH.",
        ),
        (
            {"ELEMTA_DISABLE_CLAMAV": "1"},
            "ELEMTA_DISABLE_CLAMAV: this variable of the original is not read: write ELEMTA_ANTIVIRUS_ENABLED.",
        ),
    ],
)
def test_a_variable_of_the_original_is_a_warning(
    configure: Configure, environ: Mapping[str, str], warning: str
) -> None:
    assert [str(said) for said in configure({}, environ).warnings] == [warning]
