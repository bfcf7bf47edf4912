"""Every paragraph that a person may read about a configuration, word for word."""

from collections.abc import Callable
from typing import Any

import pytest

from elemta.config.load import Loaded
from elemta.config.problems import ConfigError, describe

Configure = Callable[..., Loaded]

# What is written (one line, beside the host name), and the paragraphs, in their order.
VALUES: list[tuple[str, list[str]]] = [
    ('{"max_sise": 1}', ['1:2: max_sise: there is no such key. Did you mean "max_size"?']),
    ('{"qwertz": 1}', ["1:2: qwertz: there is no such key."]),
    ('{"Max_Size": 1}', ['1:2: Max_Size: there is no such key. Did you mean "max_size"?']),
    (
        '{"auth": {"requierd": true}}',
        ['1:11: auth.requierd: there is no such key. Did you mean "required"?'],
    ),
    (
        '{"listeners": [{"adress": ":25"}]}',
        [
            "1:16: listeners[0].address: this key is missing; expected an address to listen at: "
            '"host:port", ":port", "[v6]:port" or "unix:/path".',
            '1:17: listeners[0].adress: there is no such key. Did you mean "address"?',
        ],
    ),
    (
        '{"routes": [{"domain": "*"}]}',
        [
            '1:13: routes[0].transport: this key is missing; expected one of "mx", "smtp", "lmtp", '
            '"maildir", "discard", "inbox".'
        ],
    ),
    (
        '{"max_size": "25MB"}',
        ['1:2: max_size: found the text "25MB", expected a whole number of octets, at least 1.'],
    ),
    ('{"max_size": 0}', ["1:2: max_size: found the number 0, expected a whole number of octets, at least 1."]),
    (
        '{"max_size": 1.5}',
        ["1:2: max_size: found the number 1.5, expected a whole number of octets, at least 1."],
    ),
    (
        '{"max_size": null}',
        ["1:2: max_size: found null, expected a whole number of octets, at least 1."],
    ),
    ('{"dev_mode": "yes"}', ['1:2: dev_mode: found the text "yes", expected true or false.']),
    ('{"dev_mode": 1}', ["1:2: dev_mode: found the number 1, expected true or false."]),
    ('{"queue_dir": ""}', ['1:2: queue_dir: found the text "", expected a text that is not empty.']),
    (
        '{"queue_dir": "a\\u001bb"}',
        [
            '1:2: queue_dir: found the text "a\\u001bb", expected a text that is not empty and holds '
            "no control characters."
        ],
    ),
    ('{"auth": []}', ["1:2: auth: found an empty list, expected an object with keys of its own."]),
    ('{"tls": true}', ["1:2: tls: found true, expected an object with keys of its own."]),
    ('{"routes": {}}', ["1:2: routes: found an empty object, expected a list."]),
    (
        '{"routes": [[1, {"secret": 1}]]}',
        ["1:13: routes[0]: found a list, expected an object with keys of its own."],
    ),
    (
        '{"allowed_relays": "127.0.0.1"}',
        ['1:2: allowed_relays: found the text "127.0.0.1", expected a list. Put it in brackets.'],
    ),
    (
        '{"allowed_relays": ["10.0.0.1/8"]}',
        [
            '1:21: allowed_relays[0]: found the text "10.0.0.1/8", expected an IP address or a network '
            'such as "192.0.2.0/24". Bits are set beyond the prefix; write "10.0.0.0/8" for the network or "10.0.0.1".'
        ],
    ),
    (
        '{"retry_schedule": [60, "soon"]}',
        [
            '1:25: retry_schedule[1]: found the text "soon", expected a duration of more than 0: a number '
            'of seconds, or a text such as "90s", "30m", "24h".'
        ],
    ),
    (
        '{"retry_schedule": []}',
        ["1:2: retry_schedule: found an empty list, expected at least one waiting time."],
    ),
    (
        '{"max_workers": 0}',
        ["1:2: max_workers: found the number 0, expected a whole number of deliveries from 1 to 10000."],
    ),
    (
        '{"listen_addr": "2525"}',
        [
            '1:2: listen_addr: found the text "2525", expected an address to listen at: "host:port", '
            '":port", "[v6]:port" or "unix:/path". Write ":2525" for this port on every address.'
        ],
    ),
    (
        '{"listeners": [{"address": ":25", "tls": "ssl"}]}',
        ['1:35: listeners[0].tls: found the text "ssl", expected one of "none", "starttls", "implicit".'],
    ),
    (
        '{"listeners": [{"address": ":25", "priority": "urgent"}]}',
        ['1:35: listeners[0].priority: found the text "urgent", expected one of "low", "normal", "high", "critical".'],
    ),
    (
        '{"routes": [{"domain": "*.a_b", "transport": "discard"}]}',
        [
            '1:14: routes[0].domain: found the text "*.a_b", expected a pattern of domains: "*", '
            '"example.com" or "*.example.com". A domain name is letters, digits and hyphens between dots.'
        ],
    ),
    (
        '{"storage": {"type": "oracle"}}',
        [
            '1:14: storage.type: found the text "oracle", expected one of "sqlite", "file", "postgresql", "mysql", '
            '"memory".'
        ],
    ),
    (
        '{"failed_queue_retention_hours": -1}',
        ["1:2: failed_queue_retention_hours: found the number -1, expected a number of hours from 0 to 878400."],
    ),
    (
        '{"auth": {"datasource_pass": 5, "datasource_port": 0}}',
        [
            "1:11: auth.datasource_pass: found a secret, expected a text that is not empty.",
            "1:33: auth.datasource_port: found the number 0, expected a port: a whole number from 1 to 65535.",
        ],
    ),
    (
        f'{{"queue_dir": ["{"x" * 100}"]}}',
        [f'1:2: queue_dir: found the list ["{"x" * 58}…, expected a text that is not empty.'],
    ),
    ('{"max_size": 1, "max_size": 2}', ['1:17: "max_size" stands twice in this object, first at 1:2.']),
    ('{"max_size": 1 // one\n}', ["1:16: JSON knows no comments; remove this one."]),
]


@pytest.mark.parametrize(("text", "paragraphs"), VALUES)
def test_a_paragraph_says_where_what_and_what_instead(configure: Configure, text: str, paragraphs: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(text)
    assert [str(problem) for problem in caught.value.problems] == [f"./elemta.conf:{said}" for said in paragraphs]


def test_all_problems_are_said_at_once_in_the_order_of_the_file(configure: Configure) -> None:
    text = """{
      "hostnam": "mail.example.com",
      "max_size": "large",
      "local_domains": ["example.com"],
      "auth": {"required": true},
      "web": {"listen_addr": ":80"},
      "cache": {"enabled": true, "ttk": 5}
    }"""
    with pytest.raises(ConfigError) as caught:
        configure(text, {"ELEMTA_MAX_WORKERS": "many", "ELEMTA_TIMEOUT": "5"})
    keys = [(problem.line, problem.key or problem.where) for problem in caught.value.problems]
    assert keys == [
        (2, "hostnam"),
        (3, "max_size"),
        (4, "local_domains[0]"),
        (5, "auth.required"),
        (6, "web.listen_addr"),
        (7, "cache.ttk"),
        (None, "max_workers"),
        (None, "ELEMTA_TIMEOUT"),
    ]
    assert str(caught.value).count("\n\n") == len(keys) - 1
    assert [warning.key for warning in caught.value.warnings] == ["cache.enabled", "hostname"]


def test_a_key_that_does_not_fit_brings_no_false_alarm_about_another(configure: Configure) -> None:
    written = {"local_domains": ["example.com"], "routes": [{"domain": "*", "transport": "maildri"}]}
    with pytest.raises(ConfigError) as caught:
        configure(written)
    assert [problem.key for problem in caught.value.problems] == ["routes[0].transport"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (7, "the number 7"),
        ("\x1b]0;\u202e", 'the text "\\u001b]0;\\u202e"'),
        ([], "an empty list"),
        ([1, "a"], 'the list [1, "a"]'),
        ([{"datasource_pass": "hunter2"}], "a list"),
        ([["hunter2"]], "a list"),
        ({}, "an empty object"),
        ({"datasource_pass": "hunter2"}, "an object"),
    ],
)
def test_a_found_value_is_described_in_printable_words(value: Any, words: str) -> None:
    assert describe(value) == words
