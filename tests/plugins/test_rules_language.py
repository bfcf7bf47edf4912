"""Rules as they are written: what is read, what is said about mistakes."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.problems import ConfigError, Problem
from elemta.plugins.api import Stage
from elemta.plugins.rules.actions import ACTIONS, MAX_ACTIONS
from elemta.plugins.rules.conditions import MAX_CONDITIONS, All, AnyOf, Compare, Condition, Not
from elemta.plugins.rules.facts import FACTS
from elemta.plugins.rules.files import MAX_FILES, MAX_RULES_OCTETS, read_rules
from elemta.plugins.rules.language import MAX_RULES, Rule, Source, parse_rules
from elemta.plugins.rules.operators import MAX_PATTERNS, OPERATORS
from tests.plugins.rules_world import FILES, read_entries, rules_of

HERE = Path(__file__).parent / "rules"


def problems_of(text: str, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_rules([Source("r.json", text, read_entries)], **options)
    return [str(problem) for problem in caught.value.problems]


def problem_of(rule: object, **options: Any) -> str:
    """What is said about one rule, without the place in the file."""
    (said,) = problems_of(json.dumps({"rules": [rule]}), **options)
    return said.split(" ", 1)[1]


def compares(condition: Condition) -> list[Compare]:
    match condition:
        case All(several) | AnyOf(several):
            return [one for each in several for one in compares(each)]
        case Not(one):
            return compares(one)
        case Compare():
            return [condition]


@pytest.fixture
def every() -> tuple[Rule, ...]:
    return parse_rules([Source("every.json", (HERE / "every.json").read_text("utf-8"), read_entries)])


def test_every_word_of_the_language_is_read(every: tuple[Rule, ...]) -> None:
    written = [one for rule in every for one in compares(rule.condition)]
    assert {one.fact.name for one in written} == set(FACTS)
    assert {one.operator.name for one in written} == {name for names in OPERATORS.values() for name in names}
    assert {action.kind.name for rule in every for action in rule.actions} == set(ACTIONS)
    stages = {stage for rule in every for stage in rule.stages}
    assert stages >= {Stage.CONNECT, Stage.MAIL_FROM, Stage.RCPT_TO, Stage.DATA_COMPLETE, Stage.PRE_DELIVERY}


def test_the_short_forms_in_full(every: tuple[Rule, ...]) -> None:
    text = (HERE / "every.full.json").read_text("utf-8")
    assert parse_rules([Source("full.json", text, read_entries)]) == every


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    ["name", "stage", "if", "then", "enabled", "all", "not", "any", "header:Subject", "size", "client", "time",
     "reject", "add_header", "matches", "case", "file", "one_of", "between", "redirect", "data", "about", "words.txt"]
)  # fmt: skip
ALIKE = st.recursive(
    JSON | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)


@given(st.lists(st.fixed_dictionaries({}, optional={"name": ALIKE, "stage": ALIKE, "if": ALIKE, "then": ALIKE})))
def test_nothing_that_looks_alike_raises_anything_else(written: list[Any]) -> None:
    problems: Sequence[Problem] = ()
    try:
        parse_rules([Source("r.json", json.dumps({"rules": written}), read_entries)])
    except ConfigError as error:
        problems = error.problems
    assert all(problem.says and problem.where.startswith(("r.json:", "words.txt:")) for problem in problems)


RULE: dict[str, Any] = {"name": "x", "stage": "data", "then": "accept"}


def mistakes() -> Iterator[tuple[object, str]]:
    """Of the file: a rule, or what of `RULE` is different (null: missing); below it what is said about it."""
    for case in (HERE / "mistakes.txt").read_text("utf-8").rstrip().split("\n\n"):
        written, says = case.split("\n")
        rule = json.loads(written)
        if isinstance(rule, dict):
            rule = {key: value for key, value in (RULE | rule).items() if value is not None}
        yield rule, says.strip()


@pytest.mark.parametrize(("rule", "says"), [*mistakes()])
def test_a_mistake_is_named(rule: object, says: str) -> None:
    assert problem_of(rule) == says


def test_too_much_in_one_rule_is_named() -> None:
    conditions = {"any": [{"size": 1}] * (MAX_CONDITIONS + 1)}
    assert problem_of({**RULE, "if": conditions}) == (
        f'rule "x": if: found {MAX_CONDITIONS + 1} conditions, expected at most {MAX_CONDITIONS}.'
    )
    assert problem_of({**RULE, "then": [{"score": 1}] * (MAX_ACTIONS + 1)}) == (
        f'rule "x": then: found {MAX_ACTIONS + 1} actions, expected 1 to {MAX_ACTIONS}.'
    )
    patterns = {"matches": ["a"] * (MAX_PATTERNS + 1)}
    assert problem_of({**RULE, "if": {"helo": patterns}}) == (
        f'rule "x": if.helo.matches: found {MAX_PATTERNS + 1} entries, expected 1 to {MAX_PATTERNS}.'
    )


def test_what_no_plugin_may_do_is_found_before_a_mail_comes() -> None:
    said = problem_of({**RULE, "then": {"annotate": {"key": "plugins", "value": "c"}}})
    assert said.startswith('rule "x": then.annotate: ')
    assert said.endswith("is the server's own.")


def test_an_unknown_route_is_named_where_routes_are_known() -> None:
    rule = {**RULE, "then": {"set_route": "bakup"}}
    assert parse_rules([Source("r.json", json.dumps({"rules": [rule]}))])
    assert problem_of(rule, routes=["backup"]) == (
        'rule "x": then.set_route: there is no route "bakup". Did you mean "backup"?'
    )


def test_all_is_said_at_once_with_its_place() -> None:
    text = """{
  "rulez": [],
  "rules": [
    {"name": "x", "stage": "data",
     "if": {"sendr": ""},
     "then": "rejekt"},
    {"name": "x", "stage": "data", "then": "accept"}
  ]
}"""
    assert problems_of(text) == [
        'r.json:2:3: rulez: there is no key "rulez". Did you mean "rules"?',
        'r.json:5:13: rule "x": if.sendr: there is no fact "sendr". Did you mean "sender"?',
        'r.json:6:6: rule "x": then: there is no action "rejekt". Did you mean "reject"?',
        'r.json:7:6: rules[1].name: there is a rule "x" already, at r.json:4:5.',
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", 'r.json:1:1: a configuration is one JSON object and begins with "{".'),
        ("{}", 'r.json: rules: expected a list of rules: {"rules": [{"name": …}]}.'),
        ('{"rules": {}}', 'r.json:1:2: rules: expected a list of rules: {"rules": [{"name": …}]}.'),
        ('{"rules": [],}', 'r.json:1:13: JSON allows no "," before the closing "}".'),
        ('{"rules": [\n// x\n]}', "r.json:2:1: JSON knows no comments; remove this one."),
    ],
)
def test_a_file_that_is_none_is_named(text: str, says: str) -> None:
    assert problems_of(text) == [says]


def test_too_many_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"there are {MAX_RULES + 1} rules, expected at most {MAX_RULES}"):
        rules_of(*({"then": "accept"} for _ in range(MAX_RULES + 1)))


# ---- folders -------------------------------------------------------------------------------------


def folder_of(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, "utf-8")
    return folder


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    one, other = ({"rules": [{**RULE, "name": name}]} for name in "ab")
    folder_of(tmp_path, **{"20-b_rules_json": json.dumps(one), "10-a_json": json.dumps(other), "notes_txt": "x"})
    (tmp_path / ".hidden.json").write_text("x")
    assert [rule.name for rule in read_rules(tmp_path)] == ["b", "a"]


def test_lists_lie_beside_the_rules(tmp_path: Path) -> None:
    rule = {**RULE, "if": {"sender_domain": {"within": {"file": "partners.txt"}}}}
    folder_of(tmp_path, a_json=json.dumps({"rules": [rule]}), partners_txt=FILES["partners.txt"])
    (compare,) = compares(read_rules(tmp_path)[0].condition)
    assert compare.entries == ("example.org", "xn--bcher-kva.example")


def test_a_bad_line_of_a_list_is_named(tmp_path: Path) -> None:
    rule = {**RULE, "if": {"client": {"file": "networks.txt"}}}
    lines = ["192.0.2.1", "", "# no", *(f"host{number}" for number in range(12))]
    folder_of(tmp_path, a_json=json.dumps({"rules": [rule]}), networks_txt="\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        read_rules(tmp_path)
    told = [str(problem) for problem in caught.value.problems]
    assert told[0] == (
        'networks.txt:4: rule "x": if.client.file: found the text "host0", expected an IP address or a network such as '
        '"192.0.2.0/24". This is no IP address or network.'
    )
    assert len(told) == 11
    assert told[-1].endswith("2 more lines of this file are wrong.")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../secret", "a file of entries lies in the folder of the rules and is called by its name alone"),
        ("/etc/passwd", "a file of entries lies in the folder of the rules and is called by its name alone"),
        ("", "a file of entries lies in the folder of the rules and is called by its name alone"),
        ("absent.txt", "no such file or directory"),
        ("empty.txt", "it has 0 entries, expected 1 to 200000"),
        ("latin.txt", "it is not UTF-8 at octet 1"),
        ("folder", "is a directory"),
    ],
)
def test_a_list_that_cannot_be_had_is_named(tmp_path: Path, name: str, says: str) -> None:
    rule = {**RULE, "if": {"helo": {"file": name}}}
    folder_of(tmp_path, a_json=json.dumps({"rules": [rule]}), empty_txt="# nothing\n")
    (tmp_path / "latin.txt").write_bytes(b"a\xe4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError) as caught:
        read_rules(tmp_path)
    (problem,) = caught.value.problems
    assert problem.says.endswith(f"cannot be used: {says}.")


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"the folder of the rules cannot be read: No such file or directory\. Make it"
    ):
        read_rules(tmp_path / "absent")


def test_files_that_cannot_be_used_are_named_with_all_else(tmp_path: Path) -> None:
    folder_of(tmp_path, a_json="{", c_json=" " * (MAX_RULES_OCTETS + 1))
    (tmp_path / "b.json").write_bytes(b"\xff")
    with pytest.raises(ConfigError) as caught:
        read_rules(tmp_path)
    told = [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]
    assert told == [
        "b.json: this file of rules cannot be used: it is not UTF-8 at octet 0.",
        f"c.json: this file of rules cannot be used: it has more than {MAX_RULES_OCTETS} octets.",
        'a.json:1:2: the text ends before the closing "}".',
    ]


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 1):
        (tmp_path / f"{number}.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"found {MAX_FILES + 1} files of rules"):
        read_rules(tmp_path)
