"""The plugin of rules: hooks for its stages alone, verdicts of its rules, what the log tells."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from elemta.config.plugins import PluginEntry
from elemta.config.problems import ConfigError
from elemta.config.rules import DefaultAction, RulesSection
from elemta.config.structure import structure_as
from elemta.config.wanted import Wanted
from elemta.mail.envelope import Recipient
from elemta.observe.metrics import Metrics
from elemta.plugins.api import OnError, Plugin, Stage
from elemta.plugins.chain import Chain, Member
from elemta.plugins.loader import Found, PluginsUnusable, load_plugins, shape_problems
from elemta.plugins.rules.plugin import MAX_LINES_PER_SESSION, Rules
from elemta.plugins.verdicts import CONTINUE, Annotate, Continue, Defer, Reject
from elemta.smtp.grammar import parse_address
from tests.plugins.rules_world import SESSION, RulesHost, a_delivery, a_mail, with_session


def a_plugin(folder: Path, *written: dict[str, Any], host: RulesHost | None = None, **section: Any) -> Rules:
    rules = [{"name": f"rule {number}", **rule} for number, rule in enumerate(written)]
    (folder / "rules.json").write_text(json.dumps({"rules": rules}))
    given: Any = host or RulesHost()
    return Rules(given, RulesSection(enabled=True, path=str(folder), **section))


def chain_of(plugin: Rules, host: RulesHost) -> Chain:
    member = Member("rules", plugin, plugin.priority, plugin.deadline, plugin.on_error)
    return Chain([member], log=host.log, metrics=Metrics())


def test_the_keys_of_the_original() -> None:
    section = structure_as(RulesSection, {"enabled": True, "path": "/etc/rules", "default_action": "quarantine"})
    assert section == RulesSection(True, "/etc/rules", DefaultAction.QUARANTINE)
    assert RulesSection() == RulesSection(False, "./rules", DefaultAction.ACCEPT, False)


def test_only_the_stages_of_its_rules_are_hooked(tmp_path: Path) -> None:
    host = RulesHost()
    plugin = a_plugin(
        tmp_path,
        {"stage": ["connect", "rcptto"], "then": "accept"},
        {"stage": "helo", "then": "accept", "enabled": False},
        host=host,
    )
    chain = chain_of(plugin, host)
    assert {stage for stage in Stage if chain.has(stage)} == {Stage.CONNECT, Stage.RCPT_TO}
    assert [*shape_problems(type(plugin))] == []
    assert isinstance(plugin, Rules)


def test_two_folders_do_not_meet(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = a_plugin(tmp_path / "a", {"stage": "connect", "then": "accept"})
    other = a_plugin(tmp_path / "b", {"stage": "helo", "then": "accept"})
    assert set(one.programs) == {Stage.CONNECT}
    assert set(other.programs) == {Stage.HELO}
    assert (one.stages, other.stages) == (frozenset({Stage.CONNECT}), frozenset({Stage.HELO}))


async def test_each_hook_asks_the_rules_of_its_stage(tmp_path: Path) -> None:
    stages = ["connect", "helo", "auth", "mail_from", "rcpt_to", "data_headers", "data_complete", "pre_delivery"]
    plugin = a_plugin(tmp_path, *({"stage": stage, "then": {"reject": stage}} for stage in stages))
    mail = a_mail()
    heard = [
        await plugin.on_connect(SESSION),
        await plugin.on_helo(SESSION),
        await plugin.on_auth(SESSION),
        await plugin.on_mail_from(mail),
        await plugin.on_rcpt_to(mail, Recipient(parse_address("dave@example.net"))),
        await plugin.on_data_headers(mail),
        await plugin.on_data_complete(mail),
        await plugin.on_pre_delivery(a_delivery()),
    ]
    assert heard == [Reject(stage) for stage in stages]


async def test_the_recipient_that_is_asked_about_is_the_one(tmp_path: Path) -> None:
    plugin = a_plugin(tmp_path, {"stage": "rcpt_to", "if": {"recipient": "dave@example.net"}, "then": "reject"})
    assert await plugin.on_rcpt_to(a_mail(), Recipient(parse_address("dave@example.net"))) == Reject()
    assert await plugin.on_rcpt_to(a_mail(), Recipient(parse_address("erin@example.net"))) == CONTINUE


async def test_the_chain_makes_its_changes(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    host = RulesHost()
    rule = {"stage": "data", "then": [{"add_header": {"name": "X-A", "value": "b"}}, {"score": 2}]}
    chain = chain_of(a_plugin(tmp_path, rule, host=host), host)
    mail = a_mail()
    assert await chain.ask(Stage.DATA_COMPLETE, mail, mail) == CONTINUE
    assert mail.headers.text("X-A") == "b"
    assert mail.score == 2


async def test_the_log_names_the_rules(tmp_path: Path) -> None:
    host = RulesHost()
    plugin = a_plugin(
        tmp_path,
        {"stage": "data", "then": {"annotate": {"key": "a", "value": "b"}}},
        {"stage": "data", "then": "discard", "dry_run": True},
        {"stage": "data", "if": {"sender": ""}, "then": "defer"},
        host=host,
    )
    await plugin.start()
    assert await plugin.on_data_complete(a_mail()) == Continue((Annotate("a", "b"),))
    assert await plugin.on_data_complete(a_mail("")) == Defer()
    assert host.events("rules.read") == [
        {"event": "rules.read", "log_level": "info", "rules": 3, "stages": ["data_complete"]}
    ]
    told = [{**event, "event": None, "log_level": None} for event in host.events("rules.applied")]
    shared = {"event": None, "log_level": None, "id": "q1", "stage": "data_complete", "only_rehearsed": ["rule 1"]}
    assert told == [
        {**shared, "verdict": "continue", "rules": ["rule 0"]},
        {**shared, "verdict": "defer", "rules": ["rule 0", "rule 2"], "decided_by": "rule 2"},
    ]


async def test_a_client_cannot_fill_the_log(tmp_path: Path) -> None:
    host = RulesHost()
    plugin = a_plugin(tmp_path, {"stage": ["helo", "deliver"], "then": "reject"}, host=host)
    session, other = with_session(notes={}), with_session(notes={})
    for _ in range(MAX_LINES_PER_SESSION + 5):
        await plugin.on_helo(session)
    await plugin.on_helo(other)
    levels = [event["log_level"] for event in host.events("rules.applied")]
    assert levels == ["info"] * MAX_LINES_PER_SESSION + ["debug"] * 5 + ["info"]
    await plugin.on_pre_delivery(a_delivery())
    assert host.events("rules.applied")[-1]["log_level"] == "info"


async def test_a_mail_that_no_rule_names_is_not_told_of(tmp_path: Path) -> None:
    host = RulesHost()
    plugin = a_plugin(tmp_path, {"stage": "data", "if": {"sender": ""}, "then": "defer"}, host=host)
    assert await plugin.on_data_complete(a_mail()) is CONTINUE
    assert host.events("rules.applied") == []


async def test_the_default_of_the_section(tmp_path: Path) -> None:
    host = RulesHost()
    plugin = a_plugin(tmp_path, host=host, default_action=DefaultAction.REJECT)
    assert await plugin.on_data_complete(a_mail()) == Reject()
    assert host.events("rules.applied")[0]["verdict"] == "reject"
    rehearsing = a_plugin(
        tmp_path, {"stage": "data", "then": "reject"}, default_action=DefaultAction.REJECT, dry_run=True
    )
    assert await rehearsing.on_data_complete(a_mail()) is CONTINUE


def test_wrong_rules_keep_it_from_being_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'there is no action "rejct"\. Did you mean "reject"\?'):
        a_plugin(tmp_path, {"stage": "data", "then": "rejct"})


def test_the_loader_makes_it_of_its_section(tmp_path: Path) -> None:
    wanted = Wanted(PluginEntry("rules"), "rules", RulesSection(True, str(tmp_path)))
    known = {"rules": Found("rules", "elemta", lambda: Rules)}
    host: Any = RulesHost()
    (member,) = load_plugins([wanted], known, lambda _: host)
    assert isinstance(member.plugin, Rules)
    assert (member.priority, member.on_error) == (25, OnError.DEFER)
    (tmp_path / "a.json").write_text('{"rules": [{"name": "a", "stage": "data", "then": "rejct"}]}')
    with pytest.raises(PluginsUnusable, match=r"a\.json:1:43: rule \"a\": then: there is no action"):
        load_plugins([wanted], known, lambda _: host)


def test_its_place_among_plugins() -> None:
    assert Rules.priority < Plugin.priority, "others' scores are there when it is asked"
    assert Rules.on_error is OnError.DEFER
    assert Rules.settings_class is RulesSection
