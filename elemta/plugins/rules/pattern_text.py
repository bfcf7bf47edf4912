"""The text of a pattern as a tree.

    pattern     = branch *("|" branch)
    branch      = *(atom [repetition])
    atom        = character / "." / "^" / "$" / class / escape / "(" ["?:"] pattern ")"
    repetition  = "*" / "+" / "?" / "{" m "}" / "{" m "," "}" / "{" m "," n "}", then "?" if one likes
    class       = "[" ["^"] 1*(character / character "-" character / escape) "]"
    escape      = "\\" followed by one of d D w W s S b B t, or by a character that is no letter and no digit

It is Python's notation (`re`) without what needs memory of the way: no back references, no looking ahead or behind.
What is not here: matching (`rules.patterns`). Failure raised: `PatternError`.
"""

import enum
import re
from collections.abc import Callable
from typing import Final

from attrs import frozen

#: Characters of one pattern; a longer one is a list of words, for which there are lists.
MAX_PATTERN_CHARACTERS: Final = 1000
#: Groups inside each other; the reader recurses.
MAX_GROUPS: Final = 20

_COUNTS = re.compile(r"\{([0-9]{1,4})(,?)([0-9]{0,4})\}")
_SPECIAL: Final = frozenset("*+?{")


class PatternError(ValueError):
    """A text that is no pattern, or one that is not taken here; says which."""


class Mark(enum.Enum):
    """A place between two characters."""

    START = "^"
    END = "$"
    BOUNDARY = r"\b"
    NO_BOUNDARY = r"\B"


def is_word(char: str) -> bool:
    r"""Whether `\w` stands for the character."""
    return char.isalnum() or char == "_"


_CLASSES: Final[dict[str, Callable[[str], bool]]] = {"d": str.isdecimal, "w": is_word, "s": str.isspace}


@frozen
class Chars:
    """One character out of a set: of some ranges, or of a class (`classes` holds letters of escapes)."""

    ranges: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] = ()
    is_negated: bool = False

    @property
    def single(self) -> str | None:
        """The only character that it stands for; None when there may be others."""
        if self.is_negated or self.classes or len(self.ranges) != 1:
            return None
        first, last = self.ranges[0]
        return first if first == last else None

    def holds(self, variants: tuple[str, ...]) -> bool:
        """Whether it stands for a character, given as all the letters that count as the same."""
        return any(self._names(char) for char in variants) is not self.is_negated

    def _names(self, char: str) -> bool:
        if any(first <= char <= last for first, last in self.ranges):
            return True
        return any(_CLASSES[one.lower()](char) is one.islower() for one in self.classes)


ANY: Final = Chars(is_negated=True)


@frozen
class Sequence:
    """One after the other; the empty text when there are none."""

    parts: tuple["Node", ...]


@frozen
class Either:
    """One of several."""

    branches: tuple["Node", ...]


@frozen
class Repeat:
    """The same, from `least` to `most` times; without end when `most` is None."""

    part: "Node"
    least: int
    most: int | None


Node = Chars | Mark | Sequence | Either | Repeat


def literal(char: str) -> Chars:
    """The character itself."""
    return Chars(((char, char),))


def parse_glob(text: str) -> Node:
    """A whole text in which `*` stands for any characters, `?` for one. Raises `PatternError`."""
    _check_length(text)
    stands_for: dict[str, Node] = {"*": Repeat(ANY, 0, None), "?": ANY}
    return Sequence((Mark.START, *(stands_for.get(char) or literal(char) for char in text), Mark.END))


def parse_pattern(text: str) -> Node:
    """A pattern as it is written. Raises `PatternError`."""
    _check_length(text)
    reader = _Reader(text)
    return reader.read()


def _check_length(text: str) -> None:
    if len(text) > MAX_PATTERN_CHARACTERS:
        raise PatternError(f"it has more than {MAX_PATTERN_CHARACTERS} characters")


class _Reader:
    """Recursive descent over the grammar of the module."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def read(self) -> Node:
        node = self._either()
        if self._at < len(self._text):
            raise PatternError(f'the ")" at character {self._at + 1} closes nothing; write "\\)" for the character')
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise PatternError("it ends too early")
        self._at += 1
        return char

    def _skip(self, word: str) -> bool:
        found = self._text.startswith(word, self._at)
        self._at += len(word) if found else 0
        return found

    def _either(self) -> Node:
        branches = [self._branch()]
        while self._skip("|"):
            branches.append(self._branch())
        return branches[0] if len(branches) == 1 else Either(tuple(branches))

    def _branch(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, atom: Node) -> Node:
        if self._peek() not in _SPECIAL or not self._peek():
            return atom
        if isinstance(atom, Mark):
            raise PatternError(f'"{atom.value}" is a place, it cannot be repeated')
        least, most = self._counts()
        # A lazy repetition finds another match, never another answer to whether there is one.
        self._skip("?")
        if self._peek() in _SPECIAL and self._peek():
            raise PatternError(f'two repetitions behind each other at character {self._at + 1}; use "(?:…)"')
        return Repeat(atom, least, most)

    def _counts(self) -> tuple[int, int | None]:
        match = _COUNTS.match(self._text, self._at)
        if match is None:
            sign = self._take()
            if sign == "{":
                raise PatternError('"{" is not followed by counts such as "{2,5}"; write "\\{" for the character')
            return int(sign == "+"), 1 if sign == "?" else None
        self._at = match.end()
        least = int(match[1])
        most = int(match[3]) if match[3] else None if match[2] else least
        if most is not None and most < least:
            raise PatternError(f'"{match[0]}" counts backwards')
        return least, most

    def _atom(self) -> Node:
        match self._take():
            case "(":
                return self._group()
            case "[":
                return self._class()
            case "\\":
                return self._escape()
            case ".":
                return ANY
            case "^":
                return Mark.START
            case "$":
                return Mark.END
            case "*" | "+" | "?" | "{" as sign:
                raise PatternError(f'"{sign}" at character {self._at} repeats nothing; write "\\{sign}" for itself')
            case char:
                return literal(char)

    def _group(self) -> Node:
        if self._peek() == "?" and not self._skip("?:"):
            raise PatternError('of the groups that begin with "(?" only "(?:…)" is taken')
        self._depth += 1
        if self._depth > MAX_GROUPS:
            raise PatternError(f"groups are nested more than {MAX_GROUPS} deep")
        node = self._either()
        self._depth -= 1
        if not self._skip(")"):
            raise PatternError('a ")" is missing')
        return Sequence((node,)) if isinstance(node, Mark) else node

    def _escape(self) -> Node:
        char = self._take()
        if char == "b":
            return Mark.BOUNDARY
        if char == "B":
            return Mark.NO_BOUNDARY
        if char.lower() in _CLASSES:
            return Chars(classes=(char,))
        return literal(self._escaped(char))

    def _escaped(self, char: str) -> str:
        if char == "t":
            return "\t"
        if char.isascii() and char.isdigit():
            raise PatternError(f'"\\{char}" refers back to what a group found, which is not taken')
        if char.isalnum():
            raise PatternError(f'"\\{char}" is not known; known are \\d \\w \\s \\b, the same in capitals, and \\t')
        return char

    def _class(self) -> Node:
        is_negated = self._skip("^")
        ranges: list[tuple[str, str]] = []
        classes: list[str] = []
        # As everywhere: a "]" that comes first is one of the characters.
        while (not ranges and not classes) or self._peek() != "]":
            first = self._member(classes)
            if first is None:
                continue
            last = first
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
                self._take()
                last = self._end_of_range(first)
            ranges.append((first, last))
        self._take()
        return Chars(tuple(ranges), tuple(classes), is_negated)

    def _member(self, classes: list[str]) -> str | None:
        """The next character of a class; None for an escape that stands for several, which goes to `classes`."""
        char = self._take()
        if char != "\\":
            return char
        char = self._take()
        if char.lower() in _CLASSES:
            classes.append(char)
            return None
        return self._escaped(char)

    def _end_of_range(self, first: str) -> str:
        several: list[str] = []
        last = self._member(several)
        if last is None or last < first:
            raise PatternError(f'the range that begins with "{first}-" has no end behind its beginning')
        return last
