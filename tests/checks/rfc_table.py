"""Writes the table of RFCs that the code cites into the manual: `python -m tests.checks.rfc_table docs/rfc.md`.

A citation is `RFC 5321 §4.5.3`, or several sections after one number: `RFC 5321 §7.1 and §3.6.1`. `test_rfc_table.py`
says when the table is due. What is not here: whether citations have that form (`test_house_style.py`).
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tests.checks.rfc_titles import TITLES

ROOT: Final = Path(__file__).resolve().parents[2]
BEGIN: Final = "<!-- table: begin -->\n"
END: Final = "<!-- table: end -->"

_SECTION: Final = r"§([0-9A-Z][0-9A-Za-z]*(?:\.[0-9A-Za-z]+)*)"
#: The number, then sections one after the other.
_CITATION: Final = re.compile(rf"\bRFC ([0-9]{{3,5}})((?:(?:,|;)?(?: and| or| with| to)? {_SECTION})*)")
#: A citation may go on in the next line, which begins with the mark of a comment or with blanks.
_LINE_END: Final = re.compile(r"\s*\n\s*(?:#:?\s*)?")

#: RFC → section, "" for the whole → files that cite it.
Citations = Mapping[int, Mapping[str, set[str]]]


def citations(sources: Iterable[tuple[str, str]]) -> Citations:
    """What these sources cite; each is a file's name with its text."""
    found: defaultdict[int, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, text in sources:
        for match in _CITATION.finditer(_LINE_END.sub(" ", text)):
            for section in re.findall(_SECTION, match[2]) or [""]:
                found[int(match[1])][section].add(name)
    return found


def of_the_code() -> Citations:
    """What the modules of `elemta` cite."""
    package = ROOT / "elemta"
    return citations((str(path.relative_to(package)), path.read_text("utf-8")) for path in package.rglob("*.py"))


def table(found: Citations, titles: Mapping[int, str]) -> str:
    """In Markdown: a row for each RFC, then one for each section. Raises `KeyError` for an RFC without a title."""
    lines = ["| RFC | section | cited in |", "| --- | --- | --- |"]
    for number in sorted(found):
        sections = found[number]
        page = f"https://www.rfc-editor.org/rfc/rfc{number}"
        lines.append(f"| [RFC {number}]({page}) | *{titles[number]}* | {_files(sections.get('', ()))} |")
        for section in sorted(filter(None, sections), key=_order):
            kind = "section" if section[0].isdigit() else "appendix"
            lines.append(f"| | [§{section}]({page}#{kind}-{section}) | {_files(sections[section])} |")
    return "\n".join(lines) + "\n"


def updated(manual: str, rows: str) -> str:
    """The manual with this table. Raises `ValueError` where a mark is missing."""
    head, rest = manual[: manual.index(BEGIN) + len(BEGIN)], manual[manual.index(END) :]
    return f"{head}\n{rows}\n{rest}"


def _files(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _order(section: str) -> list[tuple[int, int, str]]:
    """By number, appendices last."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in section.split(".")]


if __name__ == "__main__":
    _manual = Path(sys.argv[1])
    _manual.write_text(updated(_manual.read_text("utf-8"), table(of_the_code(), TITLES)), "utf-8")
