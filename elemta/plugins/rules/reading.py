"""One file of rules while it is read: where each value stands, what is wrong with it.

What is not here: what the keys mean (`rules.language`, `rules.conditions`, `rules.actions`), or files (`rules.files`).
Problems are gathered, so that a person hears of all at once. Failure raised: none.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from attrs import define, field, frozen

from elemta.config.document import Document, Path, dotted
from elemta.config.kinds import Unfit
from elemta.config.problems import Problem, describe, did_you_mean
from elemta.plugins.api import Stage

#: Lines of a file with entries that have a problem and are told one by one.
MAX_LINES_TOLD: Final = 10


@frozen
class Entry:
    """One line of a file with entries for a condition; `line` counts from 1."""

    line: int
    text: str


#: The entries of the file of a name. Raises `ValueError` with a sentence where there are none.
ReadEntries = Callable[[str], Sequence[Entry]]


def no_entries(name: str) -> Sequence[Entry]:
    """For rules that lie in no folder."""
    raise ValueError("these rules lie in no folder, so no file can be beside them")


@define
class Reading:
    """One file of rules. `rule` and `stages` are those of the rule at hand."""

    name: str
    document: Document
    read_entries: ReadEntries = no_entries
    #: Names of routes that a rule may choose; None when nobody knows them yet.
    routes: Collection[str] | None = None
    problems: list[Problem] = field(factory=list)
    rule: str = ""
    stages: tuple[Stage, ...] = ()

    def error(self, path: Path, says: str) -> None:
        """Add a problem with the value at a path."""
        origin = self.document.origin_of(path)
        self.problems.append(
            Problem(self._key(path), origin.where, says.rstrip(), line=origin.line, column=origin.column)
        )

    def _key(self, path: Path) -> str:
        """`rule "no invoices": if.sender`; the place in the list as long as the name is not known."""
        if not self.rule or len(path) < 2:
            return dotted(path)
        return ": ".join(part for part in (f'rule "{self.rule}"', dotted(path[2:])) if part)

    def unfit(self, path: Path, value: object, fault: Unfit) -> None:
        """Add a problem with a value that is not what its key asks for."""
        self.error(path, f"found {describe(value)}, expected {fault.expected}. {fault.advice}")

    def unfit_line(self, path: Path, file: str, entry: Entry, fault: Unfit) -> None:
        """Add a problem with a line of a file that the value at a path names."""
        says = f"found {describe(entry.text)}, expected {fault.expected}. {fault.advice}".rstrip()
        self.problems.append(Problem(self._key(path), f"{file}:{entry.line}", says, line=entry.line))

    def unknown(self, path: Path, what: str, known: Iterable[str], *, word: object = None, of: str = "") -> None:
        """Add a problem with a word that is none of those known: the key at the path, unless `word` is given.

        "There is no `what` WORD `of`."
        """
        words = list(known)
        found = str(path[-1] if word is None else word)
        advice = did_you_mean(found, words) or f" Known are {', '.join(words)}."
        self.error(path, f'there is no {what} "{printed(found)}"{of}.{advice}')


def printed(word: object) -> str:
    """A word from a file in a sentence: short, without control characters."""
    return ascii(str(word))[1:-1][:60]


def quoted(words: Iterable[str]) -> str:
    """Words in a sentence."""
    return ", ".join(f'"{word}"' for word in words)
