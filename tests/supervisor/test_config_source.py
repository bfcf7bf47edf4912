"""What of a file that has changed a running server would take over, or why it would not."""

import json
from pathlib import Path
from typing import Any

import pytest

from elemta.config.load import load_config
from elemta.config.problems import ConfigError
from elemta.delivery.routing import RoutingTable
from elemta.supervisor.reload import ConfigSource

INBOX = {"domain": "example.com", "transport": "inbox"}


def write(folder: Path, **keys: Any) -> None:
    (folder / "elemta.conf").write_text(json.dumps({"hostname": "mx.example.com", **keys}))


def started(folder: Path, **keys: Any) -> ConfigSource:
    """Of a server that found its file by itself."""
    write(folder, **keys)
    loaded = load_config(None, {}, cwd=folder)
    return ConfigSource(loaded.config, lambda: load_config(None, {}, cwd=folder), loaded.source)


def test_a_file_that_is_gone_is_not_the_defaults(tmp_path: Path) -> None:
    source = started(tmp_path, allowed_relays=["127.0.0.1"])
    (tmp_path / "elemta.conf").unlink()
    with pytest.raises(ConfigError, match=r"^\./elemta\.conf: the server was started with this file; now none would"):
        source.read()
    write(tmp_path, max_size=100_000)
    assert source.read().changed == ["max_size", "allowed_relays"]


def test_another_file_does_not_take_its_place(tmp_path: Path) -> None:
    source = started(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "elemta.conf").rename(tmp_path / "config/elemta.conf")
    with pytest.raises(ConfigError, match=r"now \./config/elemta\.conf would be read"):
        source.read()


def test_what_dev_mode_does_not_need_is_asked_for_while_it_is_not_on(tmp_path: Path) -> None:
    source = started(tmp_path)
    write(tmp_path, dev_mode=True, local_domains=["example.com"])
    with pytest.raises(ConfigError, match=r'local_domains\[0\]: "example\.com" has no route'):
        source.read()
    write(tmp_path, dev_mode=True, local_domains=["example.com"], local_recipients=["a@example.com"], routes=[INBOX])
    assert "dev_mode" in source.read().at_start


def test_a_secret_is_read_again_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("first\n")
    login = {"username": "u", "password_file": "./password"}
    route = {"domain": "*", "transport": "smtp", "host": "smtp.example.net", **login}
    source = started(tmp_path, routes=[route])
    assert source.read().changed == []
    (tmp_path / "password").write_text("second\n")
    found = source.read()
    assert found.changed == ["routes"]
    (before,), (after,) = RoutingTable(source.config).ways, RoutingTable(found.config).ways
    assert before != after, "no connection of the one serves the other"
    assert before.destination("example.org") == after.destination("example.org")
    (tmp_path / "password").unlink()
    with pytest.raises(ConfigError, match="password"):
        source.read()
