"""The table of RFCs in the manual: made from the citations as they are now."""

from pathlib import Path

import pytest

from tests.checks.rfc_table import BEGIN, END, citations, of_the_code, table, updated
from tests.checks.rfc_titles import TITLES

CITED = of_the_code()


def test_the_table_is_that_of_the_code(root: Path) -> None:
    manual = (root / "docs" / "rfc.md").read_text(encoding="utf-8")
    assert updated(manual, table(CITED, TITLES)) == manual, "due: python -m tests.checks.rfc_table docs/rfc.md"


def test_every_rfc_has_its_title() -> None:
    assert sorted(set(CITED) ^ set(TITLES)) == [], "cited without a title, or a title of nothing that is cited"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# as RFC 5321 says", {5321: {"": {"x.py"}}}),
        ("# RFC 5322 §2.2, §A.1", {5322: {"2.2": {"x.py"}, "A.1": {"x.py"}}}),
        (
            "# RFC 5321 §7.1 and §3.6.1; RFC 3463 §3.8.",
            {5321: {"7.1": {"x.py"}, "3.6.1": {"x.py"}}, 3463: {"3.8": {"x.py"}}},
        ),
        ("#: long, RFC 5321\n    #: §4.5.3, and\n#: §4.4 too", {5321: {"4.5.3": {"x.py"}, "4.4": {"x.py"}}}),
        ("# RFC 3461 of §4.2", {3461: {"": {"x.py"}}}),
        ("# RFCs agree", {}),
    ],
)
def test_citations_are_recognised(text: str, found: object) -> None:
    assert citations([("x.py", text)]) == found


def test_sections_stand_in_order_with_their_files() -> None:
    rows = table(citations([("b.py", "RFC 999 §10"), ("a.py", "RFC 999 §A.1, §10, §9.2. RFC 999")]), {999: "Nines"})
    assert rows.splitlines()[2:] == [
        "| [RFC 999](https://www.rfc-editor.org/rfc/rfc999) | *Nines* | `a.py` |",
        "| | [§9.2](https://www.rfc-editor.org/rfc/rfc999#section-9.2) | `a.py` |",
        "| | [§10](https://www.rfc-editor.org/rfc/rfc999#section-10) | `a.py`, `b.py` |",
        "| | [§A.1](https://www.rfc-editor.org/rfc/rfc999#appendix-A.1) | `a.py` |",
    ]


def test_what_stands_around_the_table_stays() -> None:
    assert updated(f"before\n{BEGIN}old\n{END}\nafter", "new\n") == f"before\n{BEGIN}\nnew\n\n{END}\nafter"
