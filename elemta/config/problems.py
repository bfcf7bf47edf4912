"""What is said about a configuration that is wrong or only odd.

What is not here: finding it (`config.structure`, `config.checks`), or how it is printed (`cli.config`).
Each problem is one paragraph: where it stands, which key, what was found, what was expected, what to write instead.
Failure raised: `ConfigError`, which holds every problem of a configuration at once.
"""

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from attrs import define, field, frozen

from elemta.config.document import DEFAULT, Document, Path, dotted

#: Characters of a found value that are shown; more would bury the sentence.
_SHOWN_CHARACTERS = 60


@frozen
class Problem:
    """One thing that keeps the server from starting. `line` and `column` count from 1, None outside a file."""

    key: str
    where: str
    says: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return _paragraph(self.where, self.key, self.says)


@frozen
class Notice:
    """One thing that a person should know, though the server starts."""

    key: str
    where: str
    says: str

    def __str__(self) -> str:
        return _paragraph(self.where, self.key, self.says)


def _paragraph(where: str, key: str, says: str) -> str:
    # What nobody wrote stands nowhere.
    return ": ".join(part for part in (where if where != DEFAULT.where else "", key, says) if part)


class ConfigError(Exception):
    """The configuration cannot be used: `problems` says why, one paragraph each. The exit code for it is 78.

    `warnings` are what was noticed beside.
    """

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[Notice] = ()) -> None:
        super().__init__("\n\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


@define
class Report:
    """Gathers what is found while one configuration is loaded; `document` knows where each key was written."""

    document: Document
    problems: list[Problem] = field(factory=list)
    notices: list[Notice] = field(factory=list)
    #: The keys of the top level that have a problem somewhere: what they mean together cannot be judged.
    broken: set[str] = field(factory=set)

    def error(self, path: Path, says: str) -> None:
        """Add a problem with the key at `path`."""
        self.broken.add(str(path[0]))
        origin = self.document.origin_of(path)
        self.problems.append(
            Problem(key=dotted(path), where=origin.where, says=says, line=origin.line, column=origin.column)
        )

    def warn(self, path: Path, says: str, *, key: str | None = None) -> None:
        """Add a notice about the key at `path`, or about several that `key` names together."""
        self.notices.append(Notice(key=key or dotted(path), where=self.document.origin_of(path).where, says=says))


def describe(value: object) -> str:
    """Say what a JSON value is, in a few words and in printable characters."""
    match value:
        case str():
            return f"the text {_shown(value)}"
        case None | bool():
            return json.dumps(value)
        case int() | float():
            return f"the number {_shown(value)}"
        case []:
            return "an empty list"
        case list():
            # Objects in it are not shown: they may hold a secret.
            flat = all(isinstance(item, str | int | float) for item in value)
            return f"the list {_shown(value)}" if flat else "a list"
        case dict():
            return "an object" if value else "an empty object"
        case _:
            return type(value).__name__


def _shown(value: object) -> str:
    # ASCII escapes: neither a control character nor a look-alike reaches a terminal.
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A sentence with the nearest candidate and a leading blank, or nothing."""
    near = get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""
