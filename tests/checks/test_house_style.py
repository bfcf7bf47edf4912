"""The house style, as far as a program can read it."""

import ast
import io
import re
import tokenize
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest

ROOMS_WITHOUT_A_PURPOSE = frozenset({"common", "helper", "helpers", "misc", "util", "utils"})
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|for now)\b")
CITATION = re.compile(r"RFCs?(?: \d{3,5}(?: §[0-9A-Z][0-9A-Za-z]*(?:\.[0-9A-Za-z]+)*)?|(?=[^\w-]|$))")
SECTION_IN_WORDS = re.compile(r"RFC[ -]?\d+(?:§|\S*,? +(?:[sS]ection|[sS]ec\.|[aA]ppendix|§ |\d+\.\d))")
EXPLAINED_IGNORE = re.compile(r"#\s*(?:type: ignore\[[^\]]+\]|noqa: [A-Z0-9, ]+?)\s+#\s*\S+")
IGNORE = re.compile(r"#\s*(?:type:\s*ignore|noqa\b)")
PRETENCE = re.compile(r"(?:unittest\.mock|mock|pytest_mock|time\.sleep)(?:\.|$)")


def prose(source: str) -> list[tuple[int, str]]:
    """Comments and strings of a module with their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(t.start[0], t.string) for t in tokens if t.type in {tokenize.COMMENT, tokenize.STRING}]


def comments(source: str) -> list[tuple[int, str]]:
    return [(line, text) for line, text in prose(source) if text.startswith("#")]


def first_sentence(docstring: str) -> str:
    paragraph = docstring.strip().split("\n\n")[0]
    return re.split(r"(?<=[.!?])\s", " ".join(paragraph.split()))[0]


def docstring_offences(source: str) -> list[str]:
    """A module says at its door what lives there, in one sentence about one thing."""
    docstring = ast.get_docstring(ast.parse(source))
    if docstring is None:
        return ["1: no module docstring"]
    sentence = first_sentence(docstring)
    return [f"1: the module does two things: {sentence!r}"] if " and " in sentence else []


def citation_offences(source: str) -> list[str]:
    """RFCs are cited in one form, so that a program can collect and check them."""
    return badly_cited(prose(source))


def badly_cited(texts: list[tuple[int, str]]) -> list[str]:
    found = []
    for line, text in texts:
        cited = [m for m in re.finditer(r"\bRFC", text) if not CITATION.match(text, m.start())]
        if cited or SECTION_IN_WORDS.search(text):
            found.append(f"{line}: cite as `RFC 5321 §4.5.3.1.4`: {text.strip()[:80]!r}")
    return found


def ignore_offences(source: str) -> list[str]:
    """What silences a checker says why, behind a second `#`."""
    return [
        f"{line}: silences a checker without saying why: {text}"
        for line, text in comments(source)
        if IGNORE.search(text) and not EXPLAINED_IGNORE.search(text)
    ]


def unfinished_offences(source: str) -> list[str]:
    return [f"{line}: unfinished: {text}" for line, text in comments(source) if UNFINISHED.search(text)]


def package_offences(source: str) -> list[str]:
    """`__init__.py` re-exports; code that lives there is found by nobody."""
    allowed = {"__all__", "__version__"}
    found = []
    for node in ast.parse(source).body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                continue
            case ast.Assign(targets=[ast.Name(id=name)]) if name in allowed:
                continue
        found.append(f"{node.lineno}: code in __init__.py")
    return found


def pretence_offences(source: str) -> list[str]:
    """Tests neither wait for the wall clock nor replace the thing they test."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names):
                modules = [f"{module}.{alias.name}" for alias in names]
            case ast.Attribute(value=ast.Name(id="time"), attr="sleep"):
                modules = [f"time.{WAIT}"]
            case _:
                continue
        found += [f"{node.lineno}: {module}" for module in modules if PRETENCE.match(module)]
    return found


# In pieces, so that a search of the tests for either finds only who uses it.
MOCKS, WAIT = "unittest" + ".mock", "sleep"

Check = Callable[[str], list[str]]


def offenders(root: Path, paths: list[Path], *checks: Check) -> str:
    return "\n".join(
        f"{path}:{offence}"
        for path in paths
        for check in checks
        for offence in check((root / path).read_text(encoding="utf-8"))
    )


def test_the_product(root: Path, product: dict[Path, ast.Module]) -> None:
    checks = (docstring_offences, citation_offences, ignore_offences, unfinished_offences)
    found = offenders(root, list(product), *checks)
    assert not found, found


def test_the_documents_cite_alike(root: Path) -> None:
    documents = [
        root / "README.md",
        root / "CHANGELOG.md",
        *(root / "docs").rglob("*.md"),
        *(root / "news").glob("*.md"),
    ]
    texts = {path: list(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)) for path in documents}
    assert [f"{path}:{offence}" for path, lines in texts.items() for offence in badly_cited(lines)] == []


def test_packages_hold_no_code(root: Path, product: dict[Path, ast.Module]) -> None:
    found = offenders(root, [path for path in product if path.name == "__init__.py"], package_offences)
    assert not found, found


def test_the_tests(root: Path, tests: dict[Path, ast.Module]) -> None:
    found = offenders(root, list(tests), pretence_offences)
    assert not found, found
    assert [path for path in tests if path.name == "__init__.py"] == []


def test_names_of_test_modules_are_unique(tests: dict[Path, ast.Module]) -> None:
    names = [path.name for path in tests if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def has_no_purpose(path: PurePath) -> bool:
    return not ROOMS_WITHOUT_A_PURPOSE.isdisjoint([*path.parts[:-1], path.stem.strip("_")])


def test_every_module_has_a_purpose(product: dict[Path, ast.Module], tests: dict[Path, ast.Module]) -> None:
    assert [str(path) for path in [*product, *tests] if has_no_purpose(path)] == []


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (docstring_offences, "import trio"),
        (docstring_offences, '"""Parses lines\nand sends mail. Nothing else."""'),
        (citation_offences, "# RFC5321 says so"),
        (citation_offences, "# RFC-5321 says so"),
        (citation_offences, "# RFC 5321, section 4.5.3"),
        (citation_offences, "# RFC 5321 § 4.5.3"),
        (citation_offences, '"""As RFC 5321§4.5.3 says."""'),
        (citation_offences, "x = 'RFC 5321 4.5.3'"),
        (ignore_offences, "x = f()  # type: ignore"),
        (ignore_offences, "x = f()  # type: ignore[no-any-return]"),
        (ignore_offences, "x = f()  # noqa: B008"),
        (unfinished_offences, "x = 1  # TODO mend"),
        (package_offences, '"""Room."""\nx = 1'),
        (package_offences, "def f(): pass"),
        (pretence_offences, "from unittest import mock"),
        (pretence_offences, f"from {MOCKS} import Mock"),
        (pretence_offences, f"import time\ntime.{WAIT}(1)"),
        (pretence_offences, f"from time import {WAIT}"),
    ],
)
def test_the_checks_see_what_they_forbid(check: Check, source: str) -> None:
    assert len(check(source)) == 1


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (docstring_offences, '"""Parses lines.\n\nIt starts and stops."""'),
        (citation_offences, "# RFC 5321 §4.5.3.1.4. RFC 6710, RFC 5322 §A.1; the RFCs agree; message/rfc822"),
        (ignore_offences, "x = f()  # type: ignore[no-any-return]  # the library ships no types"),
        (package_offences, '"""Room."""\nfrom elemta.mail.ids import QueueId\n__all__ = ["QueueId"]'),
        (pretence_offences, "import time\nimport trio\nasync def f(): await trio.sleep(time.monotonic())"),
    ],
)
def test_the_checks_let_through_what_is_fine(check: Check, source: str) -> None:
    assert check(source) == []


def test_rooms_without_a_purpose_are_recognised() -> None:
    assert has_no_purpose(PurePath("elemta/utils/x.py"))
    assert has_no_purpose(PurePath("elemta/mail/_helpers.py"))
    assert not has_no_purpose(PurePath("elemta/mail/address.py"))
