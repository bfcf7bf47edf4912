"""The size budgets of a module and of a function.

Code lines are lines that hold code: comments, blank lines, docstrings are free. A function nested in another
counts in both, for a reader has to get past it either way.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE_CODE_LINES = 400
FUNCTION_CODE_LINES = 40
NESTING_LEVELS = 4
PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str, tree: ast.Module) -> set[int]:
    """The numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            lines.difference_update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return lines


def functions(tree: ast.Module) -> Iterator[tuple[Function, bool]]:
    """Every function, with whether its first parameter is `self` or `cls`."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                static = any(getattr(each, "id", None) == "staticmethod" for each in child.decorator_list)
                yield child, isinstance(node, ast.ClassDef) and not static


def nesting(node: ast.AST) -> int:
    """Levels of blocks below a node. `elif` is no deeper than its `if`; a nested function starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and [child] == node.orelse
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def parameters(function: Function) -> int:
    args = function.args
    named = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
    return named + (args.vararg is not None) + (args.kwarg is not None)


def over_budget(name: str, source: str) -> list[str]:
    """One line for each budget that a module exceeds."""
    tree = ast.parse(source)
    lines = code_lines(source, tree)
    found = [f"{name}: {len(lines)} code lines, at most {FILE_CODE_LINES}"] if len(lines) > FILE_CODE_LINES else []
    for function, bound in functions(tree):
        body = range(function.body[0].lineno, (function.end_lineno or 0) + 1)
        figures = (
            (len(lines.intersection(body)), FUNCTION_CODE_LINES, "code lines"),
            (nesting(function), NESTING_LEVELS, "levels of nesting"),
            (parameters(function) - bound, PARAMETERS, "parameters"),
        )
        found += [
            f"{name}:{function.lineno} {function.name}: {figure} {what}, at most {budget}"
            for figure, budget, what in figures
            if figure > budget
        ]
    return found


def test_the_product_keeps_its_budgets(root: Path, product: dict[Path, ast.Module]) -> None:
    offenders = [line for path in product for line in over_budget(str(path), (root / path).read_text(encoding="utf-8"))]
    assert not offenders, "\n".join(offenders)


def function_of(body_lines: int) -> str:
    body = "\n".join(f"    x{number} = (\n        {number}\n    )" for number in range(body_lines // 3))
    return f'def f(\n    a, b,\n) -> None:\n    """Docstring\n\n    of three lines."""\n    # free\n{body}\n'


def nested(levels: int) -> str:
    lines = ["def f(a):"] + ["    " * level + "if a:" for level in range(1, levels + 1)]
    return "\n".join([*lines, "    " * (levels + 1) + "pass", "    elif a is None:\n        pass\n"])


@pytest.mark.parametrize(
    ("within", "beyond", "what"),
    [
        ("x = 1\n\n# free\n" * 400, "x = 1\n" * 401, "401 code lines"),
        (function_of(39), function_of(42), "42 code lines"),
        (nested(4), nested(5), "5 levels of nesting"),
        ("def f(a, b, *, c, d, e, f): pass", "def f(a, b, *c, d, e, f, **g): pass", "7 parameters"),
        (
            "class A:\n def f(self, a, b, c, d, e, f): pass",
            "class A:\n @staticmethod\n def f(a, b, c, d, e, f, g): pass",
            "7 parameters",
        ),
        (
            "class A:\n def f(self): pass",
            "class A:\n async def f(self, a, b, c, d, e, f, g): pass",
            "7 parameters",
        ),
    ],
)
def test_the_check_sees_what_it_forbids(within: str, beyond: str, what: str) -> None:
    assert over_budget("within", within) == []
    (offender,) = over_budget("beyond", beyond)
    assert what in offender
