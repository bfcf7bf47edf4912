"""The tables of keys in the manual, made from the classes.

What is not here: the manual around them. `python -m elemta.config.reference docs/configuration.md` writes them into it;
a test says when that is due.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elemta.config.document import dotted
from elemta.config.keys import Key, Shape, keys_of
from elemta.config.known import MOVED, known_keys
from elemta.config.sections import Config
from elemta.config.structure import unstructure

#: Keys whose default the machine or another key decides.
_DECIDED = {"hostname": "the machine's name", "listen_addr": "`:2525`"}


def key_table() -> str:
    """Every key in Markdown: a table for each section."""
    groups: dict[str, list[Key]] = {}
    for key in _keys():
        groups.setdefault(dotted(key.path[:-1]), []).append(key)
    return "\n".join(_table(section, keys) for section, keys in groups.items())


def known_table() -> str:
    """Every key of the original that does nothing or moved, in Markdown."""
    lines = ["| key | what becomes of it |", "| --- | --- |"]
    for old, moved in MOVED.items():
        lines.append(f"| `{dotted(old)}` | read as `{dotted(moved.target)}` |")
    groups: dict[tuple[str, str], list[str]] = {}
    for path, known in known_keys().items():
        says = f"{known.standing.value}. {known.advice}".strip()
        groups.setdefault((dotted(path[:-1]), says), []).append(str(path[-1]))
    for (section, says), names in groups.items():
        prefix = f"`{section}`: " if section else ""
        lines.append(f"| {prefix}{', '.join(f'`{name}`' for name in names)} | {says} |")
    return "\n".join(lines) + "\n"


def updated(manual: str) -> str:
    """The manual with its tables as they should be. Raises `ValueError` where a mark is missing."""
    for name, table in (("keys", key_table()), ("known keys", known_table())):
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        head, rest = manual[: manual.index(begin) + len(begin)], manual[manual.index(end) :]
        manual = f"{head}\n{table}\n{rest}"
    return manual


def _keys() -> Iterator[Key]:
    """The keys, each list of sections followed by the keys of its elements."""
    for key in keys_of(Config):
        yield key
        if key.shape.item is not None and key.shape.item.section is not None:
            yield from keys_of(key.shape.item.section, (f"{key.path[-1]}[]",))


def _table(section: str, keys: list[Key]) -> str:
    title = f"### `{section}`" if section else "### Top level"
    rows = [f"| `{key.path[-1]}` | {_what(key.shape)} | {_default(key)} | {key.about} |" for key in keys]
    return "\n".join([title, "", "| key | value | default | |", "| --- | --- | --- | --- |", *rows, ""])


def _what(shape: Shape) -> str:
    if shape.item is not None:
        return "a list of objects" if shape.item.section is not None else f"a list; each {_what(shape.item)}"
    if shape.choices is not None:
        return ", ".join(f"`{choice.value}`" for choice in shape.choices)
    assert shape.kind is not None
    # What stands behind the colon is explained once, above the tables.
    return shape.kind.expected.partition(":")[0]


def _default(key: Key) -> str:
    name = dotted(key.path)
    if key.required:
        return "must be given"
    if key.default is None:
        return _DECIDED.get(name, "none")
    value: Any = unstructure(key.default)
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    _manual = Path(sys.argv[1])
    _manual.write_text(updated(_manual.read_text(encoding="utf-8")), encoding="utf-8")
