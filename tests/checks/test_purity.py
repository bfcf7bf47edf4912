"""The purity of the rooms that decide.

They read no clock, throw no dice, touch no socket or file, write no log: time and chance are arguments.
Imports for type checkers alone (`if TYPE_CHECKING:`) are free, they do not happen at run time.
"""

import ast
import tomllib
from pathlib import Path, PurePath

import pytest

PURE = (
    "elemta/auth/sasl",
    "elemta/delivery/routing.py",
    "elemta/delivery/tlspolicy.py",
    "elemta/mail",
    "elemta/plugins/breaker.py",
    "elemta/plugins/costs.py",
    "elemta/plugins/fields.py",
    "elemta/plugins/milter/address.py",
    "elemta/plugins/milter/changes.py",
    "elemta/plugins/milter/defaults.py",
    "elemta/plugins/milter/events.py",
    "elemta/plugins/milter/machine.py",
    "elemta/plugins/milter/reading.py",
    "elemta/plugins/milter/verdicts.py",
    "elemta/plugins/milter/wire.py",
    "elemta/plugins/protection/buckets.py",
    "elemta/plugins/protection/greylist.py",
    "elemta/plugins/protection/hello.py",
    "elemta/plugins/protection/listing.py",
    "elemta/plugins/rules/actions.py",
    "elemta/plugins/rules/conditions.py",
    "elemta/plugins/rules/evaluate.py",
    "elemta/plugins/rules/facts.py",
    "elemta/plugins/rules/language.py",
    "elemta/plugins/rules/operators.py",
    "elemta/plugins/rules/pattern_text.py",
    "elemta/plugins/rules/patterns.py",
    "elemta/plugins/rules/reading.py",
    "elemta/plugins/scanners/checkv2.py",
    "elemta/plugins/scanners/clamd.py",
    "elemta/plugins/scanners/http.py",
    "elemta/plugins/scanners/policy.py",
    "elemta/plugins/scanners/spamd.py",
    "elemta/plugins/verdicts.py",
    "elemta/queue/bounce.py",
    "elemta/queue/priority.py",
    "elemta/queue/schedule.py",
    "elemta/queue/throttle.py",
    "elemta/smtp",
)
FORBIDDEN = frozenset(
    {
        "anyio",
        "asyncio",
        "concurrent",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "structlog",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "trio",
        "uuid",
    }
)
FORBIDDEN_ROOMS = frozenset({"elemta.observe", "elemta.runtime", "elemta.net", "elemta.resolver"})
CLOCK_READINGS = frozenset({"now", "today", "utcnow"})  # of datetime.datetime, datetime.date


def is_pure(path: PurePath) -> bool:
    return any(path.is_relative_to(room) for room in PURE)


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def impurities(tree: ast.AST) -> list[str]:
    """Every import or call of a module that a pure room must not have."""
    found: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if is_for_type_checkers(node):
            continue
        found += [f"{node.lineno}: {what}" for what in impurity(node)] if isinstance(node, ast.stmt | ast.expr) else []
        found += impurities(node)
    return found


def impurity(node: ast.stmt | ast.expr) -> list[str]:
    """What one node, without its children, does that is impure."""
    match node:
        case ast.Import(names=names):
            modules = [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names):
            modules = [module, *(f"{module}.{alias.name}" for alias in names)]
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name), attr=reading)):
            reads_clock = name in {"datetime", "date"} and reading in CLOCK_READINGS
            return [f"reads the clock by {name}.{reading}()"] if reads_clock else []
        case _:
            return []
    rooms = {".".join(module.split(".")[:2]) for module in modules}
    tops = {module.partition(".")[0] for module in modules}
    return [f"imports {module}" for module in sorted(tops & FORBIDDEN | rooms & FORBIDDEN_ROOMS)]


def test_pure_rooms_are_pure(product: dict[Path, ast.Module]) -> None:
    offenders = [f"{path}:{line}" for path, tree in product.items() if is_pure(path) for line in impurities(tree)]
    assert not offenders, "\n".join(offenders)


def test_the_list_of_pure_rooms_is_the_one_that_coverage_reports(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    reported = {
        pattern.removeprefix("*/").removesuffix("/*") for pattern in settings["tool"]["coverage"]["report"]["include"]
    }
    assert reported == set(PURE)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import trio", "trio"),
        ("import os.path as p", "os"),
        ("from time import monotonic", "time"),
        ("def f():\n  if a:\n    import random", "random"),
        ("from elemta.observe import metrics", "elemta.observe"),
        ("from elemta import observe", "elemta.observe"),
        ("import datetime\ndatetime.datetime.now(datetime.UTC)", "datetime.now()"),
        ("from datetime import date\nx = [date.today()]", "date.today()"),
    ],
)
def test_the_check_sees_what_it_forbids(source: str, what: str) -> None:
    (offender,) = impurities(ast.parse(source))
    assert what in offender


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random",
        "from datetime import datetime\ndef f(now: datetime) -> datetime: return now.astimezone()",
        "import elemta.mail.address",
        "import osprey",
    ],
)
def test_the_check_lets_through_what_is_pure(source: str) -> None:
    assert impurities(ast.parse(source)) == []


def test_pure_rooms_are_recognised() -> None:
    assert is_pure(PurePath("elemta/smtp/server.py"))
    assert is_pure(PurePath("elemta/queue/bounce.py"))
    assert not is_pure(PurePath("elemta/queue/dispatcher.py"))
    assert not is_pure(PurePath("elemta/mailauth/spf.py"))
