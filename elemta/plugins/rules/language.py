"""The language of rules: a file's text, checked, as rules.

    {"rules": [{
      "name": "no mail from ourselves",
      "stage": "mail_from",
      "if": {"sender_domain": {"within": "example.com"}, "may_relay": false},
      "then": {"reject": "you are not example.com"}
    }]}

Nothing of a rule is executed: it names facts, operators and actions out of fixed lists. Pure; docs/rules.md is the
manual. What is not here: files (`rules.files`), asking the rules (`rules.evaluate`).
Failure raised: `ConfigError`, with every problem of every file at once.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from attrs import field, frozen

from elemta.config.document import JsonError, Path, read_document
from elemta.config.kinds import Unfit
from elemta.config.problems import ConfigError, Problem
from elemta.plugins.api import Stage
from elemta.plugins.rules.actions import Action, read_actions
from elemta.plugins.rules.conditions import (
    ALWAYS,
    MAX_CONDITIONS,
    Condition,
    count_conditions,
    read_condition,
)
from elemta.plugins.rules.facts import STAGES
from elemta.plugins.rules.reading import ReadEntries, Reading, no_entries, quoted

#: Rules in all files together: each is asked for every mail.
MAX_RULES: Final = 1000
#: Characters of a rule's name: it stands in log lines, and in reasons for whoever looks at the queue.
MAX_NAME_CHARACTERS: Final = 100

_RULE_KEYS: Final = ("name", "about", "stage", "if", "then", "enabled", "dry_run")
_FILE_KEYS: Final = ("about", "rules")

#: The original's words for stages. Its `data` came when the mail was there, its `queue` before the mail was queued.
STAGE_SYNONYMS: Final[Mapping[str, Stage]] = {
    "mailfrom": Stage.MAIL_FROM,
    "rcptto": Stage.RCPT_TO,
    "data": Stage.DATA_COMPLETE,
    "queue": Stage.DATA_COMPLETE,
    "deliver": Stage.PRE_DELIVERY,
}
_STAGES: Final[Mapping[str, Stage]] = {
    **{stage.value: stage for stage in Stage if stage in STAGES},
    **STAGE_SYNONYMS,
}
_TOO_LATE: Final = frozenset(stage.value for stage in Stage if stage not in STAGES)


@frozen
class Rule:
    """One rule, as it was written."""

    name: str
    stages: tuple[Stage, ...]
    actions: tuple[Action, ...]
    condition: Condition = ALWAYS
    enabled: bool = True
    #: Only the log tells what it would have done.
    dry_run: bool = False
    about: str = ""
    #: `spam.json:3:5`.
    where: str = field(default="", eq=False)


@frozen
class Source:
    """One file of rules: its name for messages, its text, and what reads the files that its conditions name."""

    name: str
    text: str
    read_entries: ReadEntries = no_entries


def parse_rules(sources: Sequence[Source], *, routes: Collection[str] | None = None) -> tuple[Rule, ...]:
    """The rules of all files, in order. `routes` are the names that `set_route` may give, None to take any.

    Raises `ConfigError`.
    """
    rules: list[Rule] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            document = read_document(source.text.removeprefix("\ufeff"), source.name)
        except JsonError as error:
            where = f"{source.name}:{error.line}:{error.column}"
            problems.append(Problem("", where, f"{error.says}.", line=error.line, column=error.column))
            continue
        reading = Reading(source.name, document, source.read_entries, routes, problems=problems)
        rules += _read_file(reading, {rule.name: rule.where for rule in rules})
    if len(rules) > MAX_RULES:
        problems.append(Problem("", "", f"there are {len(rules)} rules, expected at most {MAX_RULES}."))
    if problems:
        raise ConfigError(problems)
    return tuple(rules)


def _read_file(reading: Reading, known: dict[str, str]) -> list[Rule]:
    document = reading.document
    for key in document.tree:
        if key not in _FILE_KEYS:
            reading.unknown((key,), "key", _FILE_KEYS)
    rules = document.tree.get("rules")
    if not isinstance(rules, list):
        where = document.origin_of(("rules",)).where if "rules" in document.tree else reading.name
        reading.problems.append(Problem("rules", where, 'expected a list of rules: {"rules": [{"name": …}]}.'))
        return []
    return [_read_rule(reading, ("rules", number), value, known) for number, value in enumerate(rules)]


def _read_rule(reading: Reading, path: Path, value: object, known: dict[str, str]) -> Rule:
    reading.rule, reading.stages = "", ()
    if not isinstance(value, dict):
        reading.unfit(path, value, Unfit("a rule: an object with name, stage, if and then"))
        return Rule("", (), ())
    where = reading.document.origin_of(path).where
    name = _read_name(reading, path, value, known)
    known.setdefault(name, where)
    reading.rule = name
    for key in value:
        if key not in _RULE_KEYS:
            reading.unknown((*path, key), "key", _RULE_KEYS, of=" in a rule")
    reading.stages = stages = _read_stages(reading, path, value)
    return Rule(
        name=name,
        stages=stages,
        condition=_read_if(reading, path, value),
        actions=_read_then(reading, path, value),
        enabled=_read_flag(reading, (*path, "enabled"), value, default=True),
        dry_run=_read_flag(reading, (*path, "dry_run"), value, default=False),
        about=_read_about(reading, path, value),
        where=where,
    )


def _missing(reading: Reading, path: Path, key: str, expected: str) -> None:
    reading.error(path, f'the key "{key}" is missing; expected {expected}.')


def _read_name(reading: Reading, path: Path, value: Mapping[str, object], known: Mapping[str, str]) -> str:
    expected = f"a text of 1 to {MAX_NAME_CHARACTERS} printable characters"
    if "name" not in value:
        _missing(reading, path, "name", expected)
        return ""
    name = value["name"]
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS:
        reading.unfit((*path, "name"), name, Unfit(expected))
        return ""
    if name in known:
        reading.error((*path, "name"), f'there is a rule "{name}" already, at {known[name]}.')
    return name


def _read_stages(reading: Reading, path: Path, value: Mapping[str, object]) -> tuple[Stage, ...]:
    expected = f"one of {quoted(_STAGES)}, or a list of them"
    if "stage" not in value:
        _missing(reading, path, "stage", expected)
        return ()
    written = value["stage"]
    several = written if isinstance(written, list) else [written]
    words = [word for word in several if isinstance(word, str)]
    here = (*path, "stage")
    if not words or len(words) < len(several):
        reading.unfit(here, written, Unfit(expected))
        return ()
    for number, word in enumerate(words):
        place = (*here, number) if isinstance(written, list) else here
        if word in _TOO_LATE:
            reading.error(place, f'at "{word}" nothing can be decided any more.')
        elif word not in _STAGES:
            reading.unknown(place, "stage", _STAGES, word=word)
    return tuple(dict.fromkeys(_STAGES[word] for word in words if word in _STAGES))


def _read_then(reading: Reading, path: Path, value: Mapping[str, object]) -> tuple[Action, ...]:
    if "then" not in value:
        _missing(reading, path, "then", 'an action such as "accept" or {"reject": "not here"}, or a list of them')
        return ()
    return read_actions(reading, (*path, "then"), value["then"])


def _read_if(reading: Reading, path: Path, value: Mapping[str, object]) -> Condition:
    if "if" not in value:
        return ALWAYS
    condition = read_condition(reading, (*path, "if"), value["if"])
    if (count := count_conditions(condition)) > MAX_CONDITIONS:
        reading.error((*path, "if"), f"found {count} conditions, expected at most {MAX_CONDITIONS}.")
    return condition


def _read_flag(reading: Reading, path: Path, value: Mapping[str, object], *, default: bool) -> bool:
    flag = value.get(str(path[-1]), default)
    if isinstance(flag, bool):
        return flag
    reading.unfit(path, flag, Unfit("true or false"))
    return default


def _read_about(reading: Reading, path: Path, value: Mapping[str, object]) -> str:
    about = value.get("about", "")
    if isinstance(about, str):
        return about
    reading.unfit((*path, "about"), about, Unfit("a text"))
    return ""
