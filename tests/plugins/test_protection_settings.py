"""The settings of the plugins of protection: as the loader makes them, as the manual shows them."""

import json
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest
import trio
import trio.testing

from elemta.config.kinds import About
from elemta.config.structure import Findings, structure_as
from elemta.plugins.loader import shape_problems
from elemta.plugins.protection.dnslists import DnsLists
from elemta.plugins.protection.greylisting import Greylisting
from elemta.plugins.protection.helocheck import HeloCheck
from elemta.plugins.protection.limits import limits_of
from elemta.plugins.protection.ratelimit import RateLimit
from elemta.plugins.protection.report import Protection
from elemta.plugins.protection.reversedns import ReverseDns
from elemta.plugins.protection.tarpit import Tarpit, TarpitSettings
from tests.plugins.protection_world import World, a_mail, a_session, to

PLUGINS: dict[str, type[Protection]] = {
    each.label: each for each in (RateLimit, Greylisting, DnsLists, HeloCheck, ReverseDns, Tarpit)
}
MANUAL = Path(__file__).parents[2] / "docs" / "protection.md"


def section_of(name: str) -> Any:
    return PLUGINS[name].settings_class


def manual_blocks() -> list[dict[str, Any]]:
    pieces = MANUAL.read_text(encoding="utf-8").split("```json\n")[1:]
    return [json.loads(piece.partition("```")[0]) for piece in pieces]


@pytest.mark.parametrize("name", PLUGINS)
def test_without_settings_the_defaults_hold(name: str) -> None:
    plugin = PLUGINS[name](World().host())
    assert plugin.settings == structure_as(section_of(name), {}) == section_of(name)()
    assert not plugin.is_dry_run
    assert plugin.about
    assert list(shape_problems(PLUGINS[name])) == []


@pytest.mark.parametrize("name", PLUGINS)
def test_every_setting_says_what_it_is_for(name: str) -> None:
    for attribute in attrs.fields(section_of(name)):
        if not attrs.has(attribute.type or object):
            assert any(isinstance(marker, About) for marker in get_args(attribute.type)), attribute.name


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("ratelimit", {"max_messages_per_minute": 0}, "a whole number of mails, at least 1"),
        ("ratelimit", {"per_user": {"connections_per_minute": 1}}, ""),
        ("ratelimit", {"whitelist_ips": ["300.1.1.1"]}, "an IP address or a network"),
        ("greylisting", {"delay": 0}, "a duration of more than 0"),
        ("greylisting", {"client_passes": -1}, "a whole number of triplets"),
        ("dnslists", {"zones": [{"zone": "x y"}]}, "a domain name"),
        (
            "dnslists",
            {"zones": [{"zone": "x.example", "answers": [{"address": "127.0.0.1/8", "score": 1}]}]},
            "a pattern",
        ),
        ("dnslists", {"reject_at": 0}, "a number of points"),
        ("helo", {"malformed": "maybe"}, 'one of "off", "score", "defer", "reject"'),
        ("reversedns", {"score": -1}, "a number of points"),
        ("tarpit", {"max_delay": 60}, "a number of seconds from 0.01 to 25"),
    ],
)
def test_what_cannot_be_set(name: str, settings: dict[str, object], says: str) -> None:
    with pytest.raises(Findings) as caught:
        structure_as(section_of(name), settings)
    assert says in caught.value.found[0].expected


def test_every_limit_can_be_turned_off() -> None:
    section = section_of("ratelimit")
    limits = [each.name for each in attrs.fields(section) if isinstance(each.default, int) and "max" in each.name]
    assert len(limits) == 3
    off = dict.fromkeys([*limits, "max_data_per_hour", "volume_burst_size", "connection_rate_per_minute"])
    inner = {
        each.name: dict.fromkeys(one.name for one in attrs.fields(each.type))
        for each in attrs.fields(section)
        if attrs.has(each.type)
    }
    assert len(inner) == 4
    assert limits_of(structure_as(section, off | inner)) == {}


def test_the_manual_shows_settings_that_there_are() -> None:
    named: list[str] = []
    for block in manual_blocks():
        for entry in block.get("plugins", {}).get("plugins", []):
            name, settings = (entry, {}) if isinstance(entry, str) else (entry["name"], entry["settings"])
            structure_as(section_of(name), settings)
            named.append(name)
        if "rate_limiter" in block:
            section = structure_as(section_of("ratelimit"), block["rate_limiter"])
            assert section.per_recipient_domain.recipients_per_minute == 300
            named.append("ratelimit")
    assert set(named) == set(PLUGINS)


def test_the_manual_names_every_setting_of_the_small_plugins() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    for name in ("greylisting", "dnslists", "tarpit"):
        for attribute in attrs.fields(section_of(name)):
            assert f"`{attribute.name}`" in text or f'"{attribute.name}"' in text, (name, attribute.name)


async def test_all_of_them_together_cost_an_honest_client_no_word(autojump_clock: trio.testing.MockClock) -> None:
    """Plugins keep their notes of one session apart."""
    host = World().host()
    patient = Tarpit(host, TarpitSettings(free_refusals=100))
    plugins = [patient if each is Tarpit else each(host) for each in PLUGINS.values()]
    session = a_session()
    for plugin in plugins:
        await plugin.on_connect(session)
    for _ in range(3):
        mail = a_mail(session)
        for plugin in plugins:
            assert not hasattr(await plugin.on_mail_from(mail), "reply")
            verdict = await plugin.on_rcpt_to(mail, to())
            assert hasattr(verdict, "reply") is (plugin.label == "greylisting")
