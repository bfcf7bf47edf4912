"""Keys of the original beyond those that do something here."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from elemta.config.keys import all_keys
from elemta.config.known import MOVED, known_keys
from elemta.config.load import Loaded
from elemta.config.problems import ConfigError

Configure = Callable[..., Loaded]

#: Every key that the original documents, over all its versions.
DOCUMENTED = """
hostname listen_addr queue_dir max_size dev_mode allowed_relays max_workers max_retries max_queue_time retry_schedule
keep_delivered_messages keep_message_data queue_priority_enabled queue_workers message_retention_hours connect_timeout
smtp_timeout max_connections_per_domain local_domains failed_queue_retention_hours queue_processor_enabled
queue_process_interval session_timeout strict_line_endings
auth: enabled required datasource_type datasource_name datasource_path datasource_host datasource_port datasource_user
  datasource_pass datasource_db
tls: enabled listen_addr cert_file key_file min_version max_version ciphers curves client_auth enable_starttls
tls.lets_encrypt: enabled domain email cache_dir staging
tls.letsencrypt: enabled domain email cache_dir staging
tls.renewal: auto_renew renewal_days check_interval force_renewal renewal_timeout
resources: max_cpu max_memory max_connections max_concurrent connection_timeout read_timeout write_timeout
  max_connections_per_ip valkey_url valkey_key_prefix session_timeout idle_timeout goroutine_pool_size max_memory_usage
  rate_limit_window max_requests_per_window
cache: enabled type address password database max_items max_size ttl
antivirus: enabled reject_on_failure
antivirus.clamav: enabled address timeout scan_limit
antispam: enabled reject_on_spam
antispam.spamassassin: enabled address timeout scan_limit threshold
antispam.rspamd: enabled address timeout scan_limit threshold api_key
rules: enabled path default_action
plugins: enabled plugin_path plugins directory
metrics: enabled listen_addr
api: enabled listen_addr web_root auth_enabled auth_file valkey_addr rate_limit cors
delivery: mode host port timeout max_retries retry_delay test_mode default_domain debug
timeouts: session_timeout command_timeout data_timeout shutdown_timeout connection_timeout auth_timeout
rate_limiter: enabled max_connections_per_ip connection_rate_per_minute connection_burst_size connection_timeout
  max_messages_per_minute max_messages_per_hour max_recipients_per_message max_recipients_per_hour max_message_size
  max_data_per_hour volume_burst_size volume_rate_window max_auth_attempts_per_minute auth_lockout_duration
  auth_burst_size whitelist_ips whitelist_domains blacklist_ips blacklist_domains valkey_url valkey_key_prefix
  cache_size cache_ttl cleanup_interval metrics_enabled
logging: type level format file output options
server: hostname listen listen_submission max_size local_domains tls cert_file key_file dev_mode
queue: dir
queue_processor: enabled interval workers debug
"""


def documented() -> list[tuple[str, ...]]:
    section: tuple[str, ...] = ()
    found = []
    for line in DOCUMENTED.strip().splitlines():
        head, colon, tail = line.partition(": ")
        if colon:
            section = tuple(head.split("."))
        found += [(*section, name) for name in (tail if colon else line).split()]
    return found


def document(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    for step in reversed(path):
        value = {step: value}
    return dict(value)


@pytest.mark.parametrize("path", documented(), ids=".".join)
def test_every_documented_key_works_or_is_known(path: tuple[str, ...]) -> None:
    works = {key.path for key in all_keys()}
    moved = any(path[: len(old)] == old for old in MOVED)
    assert [path in works, moved, path in known_keys()].count(True) == 1


@pytest.mark.parametrize("top", sorted({str(path[0]) for path in known_keys()}))
def test_known_keys_are_warnings_and_no_errors(configure: Configure, top: str) -> None:
    paths = [path for path in known_keys() if path[0] == top]
    tree: dict[str, Any] = {}
    for path in paths:
        section = tree
        for step in path[:-1]:
            section = section.setdefault(str(step), {})
        section[str(path[-1])] = "anything"
    warnings = configure(tree).warnings
    assert {warning.key for warning in warnings} <= set(map(key_of, groups_of(paths)))
    assert sum(len(warning.key.split(",")) for warning in warnings) == len(paths)
    assert all(" not supported yet " in warning.says or "will not be" in warning.says for warning in warnings)


def groups_of(paths: list[tuple[str | int, ...]]) -> list[list[tuple[str | int, ...]]]:
    """The paths of a section that share what is said of them."""
    groups: dict[tuple[object, ...], list[tuple[str | int, ...]]] = {}
    for path in paths:
        groups.setdefault((path[:-1], known_keys()[path]), []).append(path)
    return list(groups.values())


def key_of(paths: list[tuple[str | int, ...]]) -> str:
    parent = ".".join(map(str, paths[0][:-1]))
    names = ", ".join(str(path[-1]) for path in paths)
    if len(paths) > 1 and parent:
        return f"{parent}.{{{names}}}"
    return f"{parent}.{names}" if parent else names


@pytest.mark.parametrize(
    ("written", "warning"),
    [
        (
            {"cache": {"enabled": True, "type": "redis", "password": "hunter2"}},
            "cache.{enabled, type, password}: these keys will not be supported and do nothing. Nothing needs a cache.",
        ),
        (
            {"cache": {"password": "hunter2"}},
            "cache.password: this key will not be supported and does nothing. Nothing needs a cache.",
        ),
        (
            {"queue_process_interval": 10, "queue_processor_enabled": True},
            "queue_processor_enabled, queue_process_interval: these keys will not be supported and do nothing. "
            "The queue is always worked on.",
        ),
        ({"queue": {"dir": "/var/spool/elemta"}}, "queue.dir: read as queue_dir; write that instead."),
        ({"session_timeout": "30m"}, "session_timeout: read as timeouts.session_timeout; write that instead."),
    ],
)
def test_a_warning_says_what_becomes_of_it(configure: Configure, written: dict[str, Any], warning: str) -> None:
    (said,) = configure(written).warnings
    assert f"{said.key}: {said.says}" == warning
    assert said.where.startswith("./elemta.conf:1:")


MOVED_VALUES = {
    "plugins.directory": ("plugins.plugin_path", "./mine"),
    "queue.dir": ("queue_dir", "/q"),
    "server.hostname": ("hostname", "mx.example.org"),
    "server.listen": ("listen_addr", "127.0.0.1:26"),
    "server.max_size": ("max_size", 100_000),
    "server.local_domains": ("local_domains", []),
    "server.dev_mode": ("dev_mode", True),
    "server.tls": ("tls.enabled", False),
    "server.cert_file": ("tls.cert_file", "c.pem"),
    "server.key_file": ("tls.key_file", "k.pem"),
    "resources.max_connections": ("limits.max_connections", 7),
    "resources.max_connections_per_ip": ("limits.max_connections_per_address", 7),
    "session_timeout": ("timeouts.session_timeout", "7m"),
    "connect_timeout": ("timeouts.connect_timeout", 7),
    "timeouts.auth_timeout": ("auth.timeout", 7),
    "rate_limiter.auth_lockout_duration": ("auth.lockout", "7m"),
    "queue_workers": ("max_workers", 7),
    "queue_processor.workers": ("max_workers", 7),
    "tls.letsencrypt": ("tls.lets_encrypt", {"email": "a@example.com"}),
}


@pytest.mark.parametrize("old", [".".join(map(str, path)) for path in MOVED])
def test_a_moved_key_is_read_under_its_present_name(configure: Configure, old: str) -> None:
    new, value = MOVED_VALUES[old]
    name = {} if old == "server.hostname" else {"hostname": "mail.example.com"}
    loaded = configure(json.dumps({**document(tuple(old.split(".")), value), **name}))
    same = configure(json.dumps({**document(tuple(new.split(".")), value), **name}))
    assert loaded.config == same.config
    assert loaded.config != configure({}).config or not value
    assert len(loaded.warnings) == len(same.warnings) + (old != "tls.letsencrypt")


def test_a_key_under_both_names_is_a_problem(configure: Configure) -> None:
    with pytest.raises(ConfigError) as caught:
        configure('{"queue_dir": "a", "queue": {"dir": "b"}}')
    assert str(caught.value) == ("./elemta.conf:1:30: queue.dir: the same is written as queue_dir; remove one of them.")


@pytest.mark.parametrize(
    ("text", "paragraph"),
    [
        ('{"cache": {"ttk": 1}}', '1:12: cache.ttk: there is no such key. Did you mean "ttl"?'),
        ('{"server": {"lisen": ":25"}}', '1:13: server.lisen: there is no such key. Did you mean "listen"?'),
        ('{"antispam": {"rspamt": {}}}', '1:15: antispam.rspamt: there is no such key. Did you mean "rspamd"?'),
        ('{"antispam": {"rspamd": {"x": 1}}}', "1:26: antispam.rspamd.x: there is no such key."),
        ('{"cahce": {}}', '1:2: cahce: there is no such key. Did you mean "cache"?'),
        ('{"tls": {"min_versoin": 1}}', '1:10: tls.min_versoin: there is no such key. Did you mean "min_version"?'),
        ('{"logging": {"tipe": 1}}', '1:14: logging.tipe: there is no such key. Did you mean "type"?'),
        ('{"cache": true}', "1:2: cache: found true, expected an object with keys of its own."),
        ('{"queue": {"dri": "q"}}', '1:12: queue.dri: there is no such key. Did you mean "dir"?'),
    ],
)
def test_only_a_truly_unknown_key_is_an_error(configure: Configure, text: str, paragraph: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(text)
    assert [str(problem) for problem in caught.value.problems] == [f"./elemta.conf:{paragraph}"]


@pytest.mark.parametrize("section", ["cache", "antivirus", "server", "resources", "queue_processor", "delivery"])
def test_an_empty_section_of_known_keys_is_nothing(configure: Configure, section: str) -> None:
    assert configure({section: {}}).warnings == ()


def test_a_schema_for_editors_may_be_named(configure: Configure) -> None:
    assert configure({"$schema": "./elemta.schema.json"}).warnings == ()
