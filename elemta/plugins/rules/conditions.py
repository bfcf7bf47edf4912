"""Conditions of rules: trees of comparisons, read from JSON, made into one function.

    {"sender_domain": "example.com", "not": {"client": ["192.0.2.0/24"]}}

Every member of an object must hold. What is not here: the facts (`rules.facts`), the operators (`rules.operators`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import evolve, frozen

from elemta.config.document import Path
from elemta.config.kinds import Unfit
from elemta.plugins.api import Stage
from elemta.plugins.rules.facts import FACTS, Fact, Situation
from elemta.plugins.rules.operators import OPERATORS, Operator, Takes, operator_of
from elemta.plugins.rules.reading import MAX_LINES_TOLD, Entry, Reading, printed, quoted
from elemta.plugins.verdicts import Annotate, RemoveHeader

#: Conditions of one rule; every mail may have to meet them all.
MAX_CONDITIONS: Final = 500

Holds = Callable[[Situation], bool]

_TREES: Final = ("all", "any", "not")
#: Fields that people ask about by their names alone.
_FIELD_NAMES: Final = frozenset({"subject", "from", "to", "cc", "reply-to"})
_FILE = "file"
_CASE = "case"


@frozen
class Compare:
    """One fact, one operator, one operand."""

    fact: Fact
    operator: Operator
    entries: tuple[Any, ...]
    argument: str = ""
    #: Whether capitals differ from small letters.
    case: bool = False


@frozen
class All:
    """Every one of them; always true for none."""

    conditions: tuple["Condition", ...]


@frozen
class AnyOf:
    """At least one of them."""

    conditions: tuple["Condition", ...]


@frozen
class Not:
    """The opposite."""

    condition: "Condition"


Condition = Compare | All | AnyOf | Not

ALWAYS: Final = All(())


# ---- reading -------------------------------------------------------------------------------------


def read_condition(reading: Reading, path: Path, value: object) -> Condition:
    """The condition at a path; problems go to `reading`, and what stands for the condition then is of no use."""
    if not isinstance(value, dict):
        reading.unfit(path, value, Unfit('a condition: an object such as {"sender_domain": "example.com"}'))
        return ALWAYS
    found = [_read_member(reading, (*path, key), each) for key, each in value.items()]
    return found[0] if len(found) == 1 else All(tuple(found))


def count_conditions(condition: Condition) -> int:
    """Comparisons in a tree."""
    match condition:
        case All(several) | AnyOf(several):
            return sum(map(count_conditions, several))
        case Not(one):
            return count_conditions(one)
        case Compare():
            return 1


def _read_member(reading: Reading, path: Path, value: object) -> Condition:
    match path[-1]:
        case "all":
            return All(_read_several(reading, path, value))
        case "any":
            return AnyOf(_read_several(reading, path, value))
        case "not":
            return Not(read_condition(reading, path, value))
        case _:
            return _read_fact(reading, path, value)


def _read_several(reading: Reading, path: Path, value: object) -> tuple[Condition, ...]:
    if not isinstance(value, list) or not value:
        reading.unfit(path, value, Unfit("a list of conditions, at least one"))
        return ()
    return tuple(read_condition(reading, (*path, number), each) for number, each in enumerate(value))


def _read_fact(reading: Reading, path: Path, value: object) -> Condition:
    name, colon, argument = str(path[-1]).partition(":")
    fact = FACTS.get(name)
    if fact is None:
        if name.lower() in _FIELD_NAMES:
            reading.error(path, f'there is no fact "{name}". For the header field there is "header:{name}".')
        else:
            reading.unknown(path, "fact", (*FACTS, *_TREES), word=name)
        return ALWAYS
    _check_fact(reading, path, fact, argument if colon else "")
    # Any operator, until the one that is written is known.
    compare = Compare(fact, next(iter(OPERATORS[fact.kind].values())), (), fact.spelled(argument))
    if not isinstance(value, dict) or set(value) == {_FILE}:
        return _read_bare(reading, path, value, compare)
    return _read_operators(reading, path, value, compare)


def _check_fact(reading: Reading, path: Path, fact: Fact, argument: str) -> None:
    if bool(fact.argument) is not bool(argument):
        form = f"{fact.name}:{fact.argument}" if fact.argument else fact.name
        reading.error(path, f'this fact is written "{form}".')
    elif fact.argument:
        try:
            RemoveHeader(argument) if fact.is_of_field else Annotate(argument, "")
        except ValueError as error:
            reading.error(path, f"{error}.")
    if unknown := [stage.value for stage in reading.stages if stage not in fact.stages]:
        known = [stage.value for stage in Stage if stage in fact.stages]
        reading.error(path, f"this is not known at {quoted(unknown)}; it is at {quoted(known)}.")


def _read_bare(reading: Reading, path: Path, value: object, compare: Compare) -> Condition:
    kind = compare.fact.kind
    name = operator_of(kind, [] if isinstance(value, dict) else value)
    if not name:
        reading.unfit(path, value, Unfit(f"an object with an operator: {', '.join(OPERATORS[kind])}"))
        return ALWAYS
    return _read_operand(reading, path, value, evolve(compare, operator=OPERATORS[kind][name]))


def _read_operators(reading: Reading, path: Path, value: Mapping[str, object], compare: Compare) -> Condition:
    operators = OPERATORS[compare.fact.kind]
    case = _read_case(reading, path, value, compare)
    found: list[Condition] = []
    for name, operand in value.items():
        if name == _CASE:
            continue
        if name == _FILE and "one_of" in operators:
            reading.error((*path, name), 'beside other keys a file stands behind an operator: {"one_of": {"file": …}}.')
            continue
        if name not in operators:
            reading.unknown((*path, name), "operator", operators, of=f" for {compare.fact.kind.value}")
            continue
        each = evolve(compare, operator=operators[name], case=case and operators[name].has_case)
        found.append(_read_operand(reading, (*path, name), operand, each))
    if not set(value) - {_CASE}:
        reading.error(path, f"an operator is missing; known are {', '.join(operators)}.")
    return found[0] if len(found) == 1 else All(tuple(found))


def _read_case(reading: Reading, path: Path, value: Mapping[str, object], compare: Compare) -> bool:
    if _CASE not in value:
        return False
    case, operators = value[_CASE], OPERATORS[compare.fact.kind]
    if not isinstance(case, bool):
        reading.unfit((*path, _CASE), case, Unfit("true or false"))
    elif all(not operator.has_case for name, operator in operators.items() if name in value) and _FILE not in value:
        reading.error((*path, _CASE), "capitals make no difference here; take this key away.")
    return case is True


def _read_operand(reading: Reading, path: Path, value: object, compare: Compare) -> Condition:
    takes = compare.operator.takes
    if isinstance(value, dict):
        return _read_file(reading, path, value, compare)
    if isinstance(value, list):
        return _read_list(reading, path, value, compare)
    if takes in (Takes.LIST, Takes.PAIR):
        reading.unfit(path, value, Unfit(takes.value))
        return compare
    try:
        entry = compare.operator.entry(value)
    except Unfit as fault:
        reading.unfit(path, value, fault)
        return compare
    return evolve(compare, entries=(entry,))


def _read_list(reading: Reading, path: Path, value: list[object], compare: Compare) -> Condition:
    operator = compare.operator
    if operator.takes is Takes.ONE:
        several = '; for several there is "one_of"' if "one_of" in OPERATORS[compare.fact.kind] else ""
        reading.unfit(path, value, Unfit(f"{operator.takes.value}{several}"))
        return compare
    least = 2 if operator.takes is Takes.PAIR else 1
    if not least <= len(value) <= operator.most:
        many = "2" if least == operator.most else f"{least} to {operator.most}"
        reading.error(path, f"found {len(value)} entries, expected {many}.")
        return compare
    found = []
    for number, each in enumerate(value):
        try:
            found.append(compare.operator.entry(each))
        except Unfit as fault:
            reading.unfit((*path, number), each, fault)
    if len(found) < len(value):
        return compare
    if operator.takes is Takes.PAIR and found[0] == found[1]:
        reading.error(path, "both ends are the same, so nothing is ever between them.")
    return evolve(compare, entries=tuple(found))


def _read_file(reading: Reading, path: Path, value: Mapping[str, object], compare: Compare) -> Condition:
    """`{"file": "partners.txt"}`: one entry a line."""
    name = value.get(_FILE)
    if set(value) != {_FILE} or not isinstance(name, str) or compare.operator.takes in (Takes.ONE, Takes.PAIR):
        reading.unfit(path, value, Unfit(compare.operator.takes.value))
        return compare
    here = (*path, _FILE)
    try:
        lines = reading.read_entries(name)
        if not 1 <= len(lines) <= compare.operator.most:
            raise ValueError(f"it has {len(lines)} entries, expected 1 to {compare.operator.most}")
    except ValueError as error:
        reading.error(here, f'the file "{printed(name)}" cannot be used: {error}.')
        return compare
    found = []
    faults: list[tuple[Entry, Unfit]] = []
    for line in lines:
        try:
            found.append(compare.operator.entry(line.text))
        except Unfit as fault:
            faults.append((line, fault))
    for line, unfit in faults[:MAX_LINES_TOLD]:
        reading.unfit_line(here, name, line, unfit)
    if len(faults) > MAX_LINES_TOLD:
        reading.error(here, f"{len(faults) - MAX_LINES_TOLD} more lines of this file are wrong.")
    return compare if faults else evolve(compare, entries=tuple(found))


# ---- making --------------------------------------------------------------------------------------


def make_condition(condition: Condition) -> Holds:
    """One function of a condition; it never raises."""
    match condition:
        case All(several):
            return _make_all([make_condition(each) for each in several])
        case AnyOf(several):
            some = [make_condition(each) for each in several]
            return lambda situation: any(each(situation) for each in some)
        case Not(one):
            opposite = make_condition(one)
            return lambda situation: not opposite(situation)
        case Compare(fact=fact, operator=operator, argument=argument, case=case):
            test, is_folded = operator.make(condition.entries, case), operator.is_folding and not case
            return lambda situation: test(situation.ask(fact, argument, is_folded=is_folded))


def _make_all(every: list[Holds]) -> Holds:
    if not every:
        return lambda _: True
    return lambda situation: all(each(situation) for each in every)
