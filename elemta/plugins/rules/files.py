"""The files of rules in their folder.

`*.json` in the order of their names, and the files beside them that conditions name. Read once, when the server starts
or a configuration is checked. What is not here: what they say (`rules.language`).
Failure raised: `ConfigError`, with every problem of every file at once.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from elemta.config.problems import ConfigError, Problem
from elemta.plugins.rules.language import Rule, Source, parse_rules
from elemta.plugins.rules.reading import Entry

#: Files of rules in a folder.
MAX_FILES: Final = 100
#: Octets of a file of rules: a thousand rules of a screenful each.
MAX_RULES_OCTETS: Final = 2 * 1024 * 1024
#: Octets of a file with entries: 200,000 of the length of a long address.
MAX_ENTRIES_OCTETS: Final = 16 * 1024 * 1024


def read_rules(folder: Path, *, routes: Collection[str] | None = None) -> tuple[Rule, ...]:
    """The rules of a folder, in order; blocks. `routes` are the names that `set_route` may give, None to take any.

    Raises `ConfigError`.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except OSError as error:
        says = f"the folder of the rules cannot be read: {error.strerror}. Make it, or set rules.enabled to false."
        raise ConfigError([Problem("rules.path", str(folder), says)]) from None
    if len(paths) > MAX_FILES:
        says = f"found {len(paths)} files of rules, expected at most {MAX_FILES}."
        raise ConfigError([Problem("rules.path", str(folder), says)])
    problems: list[Problem] = []
    sources: list[Source] = []
    for path in paths:
        try:
            text = _read_text(path, MAX_RULES_OCTETS)
        except ValueError as error:
            problems.append(Problem("", str(path), f"this file of rules cannot be used: {error}."))
            continue
        sources.append(Source(str(path), text, lambda name: _read_entries(folder, name)))
    try:
        rules = parse_rules(sources, routes=routes)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return rules


def _read_text(path: Path, most: int) -> str:
    """The text of a file. Raises `ValueError` with a sentence."""
    try:
        with path.open("rb") as file:
            octets = file.read(most + 1)
    except OSError as error:
        raise ValueError(f"{(error.strerror or 'it cannot be read').lower()}") from None
    if len(octets) > most:
        raise ValueError(f"it has more than {most} octets")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at octet {error.start}") from None


def _read_entries(folder: Path, name: str) -> Sequence[Entry]:
    """The lines of a file beside the rules, without empty ones and comments. Raises `ValueError`."""
    if not name or "/" in name or "\0" in name or name.startswith("."):
        raise ValueError("a file of entries lies in the folder of the rules and is called by its name alone")
    text = _read_text(folder / name, MAX_ENTRIES_OCTETS).removeprefix("\ufeff")
    lines = enumerate((line.strip() for line in text.split("\n")), start=1)
    return [Entry(number, line) for number, line in lines if line and not line.startswith("#")]
