"""Proxies that tell whose connection they pass on: which list is sound, which one gives more than was meant."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elemta.config.load import Loaded
from elemta.config.problems import ConfigError

Configure = Callable[..., Loaded]
MANUAL = Path(__file__).parents[2] / "docs" / "proxy-protocol.md"
KEY = "listeners[0].proxy_protocol"


def behind(*proxies: str, address: str = ":25", **more: Any) -> dict[str, Any]:
    return {"listeners": [{"address": address, "proxy_protocol": list(proxies), **more}]}


def warned_of(configure: Configure, written: dict[str, Any]) -> list[tuple[str, str]]:
    return [(warning.key, warning.says) for warning in configure(written).warnings]


def test_proxies_are_addresses_and_networks(configure: Configure) -> None:
    loaded = configure(behind("192.0.2.9", "2001:DB8::/64", "::ffff:192.0.2.16/124"))
    assert loaded.config.listeners[0].proxy_protocol == ("192.0.2.9", "2001:db8::/64", "192.0.2.16/28")
    assert loaded.warnings == ()


@pytest.mark.parametrize("wrong", ["haproxy.example.com", "192.0.2.9/24", "", "*", "192.0.2.9:25"])
def test_what_is_no_address_of_a_proxy(configure: Configure, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(behind("192.0.2.9", wrong))
    assert [problem.key for problem in caught.value.problems] == [f"{KEY}[1]"]


@pytest.mark.parametrize("everyone", ["0.0.0.0/0", "::/0"])
def test_to_believe_everyone_is_to_relay_for_everyone(configure: Configure, everyone: str) -> None:
    ((key, says),) = warned_of(configure, behind("192.0.2.9", everyone))
    assert key == f"{KEY}[1]"
    assert says.startswith(f"{everyone} is everyone")


@pytest.mark.parametrize(
    ("relays", "warned"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.0/8", "192.0.2.0/24"], True),
        (["192.0.2.0/24", "::1"], False),
        ([], False),
    ],
)
@pytest.mark.parametrize("relay", [True, False])
def test_a_proxy_that_may_relay_itself(configure: Configure, relays: list[str], warned: bool, relay: bool) -> None:
    written = behind("198.51.100.1", "127.0.0.1", relay=relay) | {"allowed_relays": relays}
    keys = [key for key, says in warned_of(configure, written) if "is in allowed_relays" in says]
    assert keys == ([f"{KEY}[1]"] if warned and relay else [])


def test_a_unix_socket_has_peers_on_this_machine_alone(configure: Configure) -> None:
    assert warned_of(configure, behind("127.0.0.0/8", address="unix:/run/elemta.sock")) == []
    assert warned_of(configure, behind(address="unix:/run/elemta.sock")) == []
    with pytest.raises(ConfigError) as caught:
        configure(behind("192.0.2.9", "::1", address="unix:/run/elemta.sock"))
    assert [problem.key for problem in caught.value.problems] == [KEY]


def test_behind_a_proxy_a_loopback_address_does_not_let_anybody_log_in_without_tls(configure: Configure) -> None:
    auth = {"auth": {"enabled": True}}
    assert warned_of(configure, behind(address="127.0.0.1:587", auth=True) | auth) == []
    ((key, says),) = warned_of(configure, behind("127.0.0.1", address="127.0.0.1:587", auth=True) | auth)
    assert key == "listeners[0].auth"
    assert "Give it TLS" in says


def test_the_example_of_the_manual_is_sound(configure: Configure) -> None:
    (document,) = re.findall(r"^```json\n(.*?)^```$", MANUAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert configure(json.loads(document)).warnings == ()
