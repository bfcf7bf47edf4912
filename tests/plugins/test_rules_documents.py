"""The manual of rules: each of its examples can be read, each word of the language is in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from elemta.config.problems import ConfigError
from elemta.config.rules import RulesSection
from elemta.config.structure import structure_as
from elemta.plugins.api import Stage
from elemta.plugins.rules.actions import ACTIONS
from elemta.plugins.rules.facts import FACTS, STAGES
from elemta.plugins.rules.files import read_rules
from elemta.plugins.rules.language import STAGE_SYNONYMS, Source, parse_rules
from elemta.plugins.rules.operators import OPERATORS
from elemta.plugins.rules.reading import Entry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "rules.md").read_text("utf-8")
BLOCKS = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)]
INLINE = sorted(set(re.findall(r"`(\{\".*?\})`", TEXT)))


def read(*written: Any) -> None:
    """Files that conditions name have an entry that is a domain, or an address, or a network, as the name says."""
    entries = {"bad-senders.txt": "eve@example.org", "bad-networks.txt": "192.0.2.0/24"}
    parse_rules(
        [Source("docs", json.dumps({"rules": written}), lambda name: [Entry(1, entries.get(name, "example.org"))])]
    )


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading: what its first cell names, the others."""
    rows = re.search(rf"^#+ {heading}\n.*?(^\|.*?)\n\n", TEXT, re.MULTILINE | re.DOTALL)
    assert rows is not None
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows[1].splitlines()[2:]]
    return {name: row[1:] for row in cells for name in re.findall(r"`([a-z_]+)", row[0])}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: next(iter(block)))
def test_a_block_can_be_read(block: dict[str, Any]) -> None:
    if "name" in block:
        read(block)
    elif isinstance(block["rules"], list):
        read(*block["rules"])
    else:
        structure_as(RulesSection, block["rules"])


@pytest.mark.parametrize("example", INLINE)
def test_an_example_can_be_read(example: str) -> None:
    written = json.loads(example)
    if set(written) == {"file"}:
        written = {"sender_domain": written}
    is_action = next(iter(written)) in ACTIONS and example not in CONDITIONS
    part = {"then": written} if is_action else {"if": written, "then": "accept"}
    faults = []
    for stage in ("data_complete", "pre_delivery"):
        try:
            read({"name": "x", "stage": stage, **part})
        except ConfigError as error:
            faults.append(str(error))
    assert len(faults) < 2, faults


#: `score` is a fact and an action.
CONDITIONS = ('{"score": {"at_least": 10}}',)


def test_there_are_examples() -> None:
    assert len(BLOCKS) == 4
    assert len(INLINE) > 50


def test_every_fact_is_explained() -> None:
    rows = table("Facts")
    assert list(rows) == list(FACTS)
    for name, (_, known, *_rest, example) in rows.items():
        assert stages_of(known) == FACTS[name].stages, name
        assert f'{{"{name}' in example


def test_every_action_is_explained() -> None:
    rows = table("Actions")
    assert list(rows) == list(ACTIONS)
    same = ""
    for name, (possible, fields, _, example) in rows.items():
        same = same if possible == "the same" else possible
        assert stages_of(same) == ACTIONS[name].stages, name
        assert {each.name for each in ACTIONS[name].fields} <= set(re.findall(r"[a-z]+", fields)), name
        assert re.findall(r"\*\*(\w+)\*\*", fields) == [each for each in [ACTIONS[name].short] if each]
        assert f'"{name}"' in example


def test_every_operator_is_explained() -> None:
    assert set(table("Operators")) == {name for names in OPERATORS.values() for name in names}


def test_every_stage_is_explained() -> None:
    rows = table("Stages")
    assert set(rows) == {stage.value for stage in STAGES}
    words = {word: Stage(name) for name, row in rows.items() for word in re.findall(r"`(\w+)`", row[0])}
    assert words == {**STAGE_SYNONYMS, "connect": Stage.CONNECT, "helo": Stage.HELO}


def stages_of(words: str) -> frozenset[Stage]:
    """ "all", "all but `a`", "from `a`", "from `a` to `b`", or names."""
    names = [Stage(name) for name in re.findall(r"`(\w+)`", words)]
    every = [stage for stage in Stage if stage in STAGES]
    if words.startswith("all"):
        return frozenset(every) - frozenset(names)
    if words.startswith("from"):
        last = names[1] if len(names) > 1 else None
        reaches = every[every.index(names[0]) :]
        return frozenset(reaches[: reaches.index(last) + 1] if last else reaches)
    return frozenset(names)


def test_the_example_that_ships_can_be_read() -> None:
    rules = read_rules(ROOT / "conf" / "rules")
    assert len(rules) == 7
    assert any(rule.dry_run for rule in rules)
