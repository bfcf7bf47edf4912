"""A JSON document that remembers where each of its keys was written.

What is not here: reading files (`config.load`), or what the keys mean. RFC 8259, with two restrictions that a
configuration needs: a key stands once in its object, and numbers are finite.
Failure raised: `JsonError`, with line and column.
"""

import enum
import json
import math
import re
from bisect import bisect_right
from typing import NoReturn

from attrs import define, field, frozen

#: The way to a value: keys of objects, indices of lists.
Path = tuple[str | int, ...]

#: Objects and lists inside each other; our deepest key is at 4, and the reader recurses.
_MOST_LEVELS = 32

_SPACE = re.compile(r"[ \t\r\n]*")


class Rank(enum.IntEnum):
    """Who wins when a key has several values: the higher one."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


@frozen
class Origin:
    """Where a value was written. `line` and `column` count from 1, None outside a file."""

    rank: Rank
    #: `elemta.conf:3:5`, `ELEMTA_MAX_SIZE`, `command line`, `default`.
    where: str
    line: int | None = None
    column: int | None = None


DEFAULT = Origin(Rank.DEFAULT, "default")


class JsonError(ValueError):
    """The text is not the JSON of a configuration. `line` and `column` count from 1."""

    def __init__(self, says: str, *, line: int, column: int) -> None:
        super().__init__(says)
        self.says = says
        self.line = line
        self.column = column


def dotted(path: Path) -> str:
    """A path as people read it: `listeners[0].address`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


@define
class Document:
    """A tree of JSON values, and the origin of each."""

    tree: dict[str, object] = field(factory=dict)
    origins: dict[Path, Origin] = field(factory=dict)

    def origin_of(self, path: Path) -> Origin:
        """The origin of the nearest written value at or above `path`."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return DEFAULT

    def find(self, path: Path) -> object | None:
        """The value at `path`, None where nothing (or null) is."""
        value: object = self.tree
        for step in path:
            in_object = isinstance(value, dict) and step in value
            in_list = isinstance(value, list) and isinstance(step, int) and step < len(value)
            if not in_object and not in_list:
                return None
            value = value[step]  # type: ignore[index]  # one of the two, as just asked
        return value

    def has(self, path: Path) -> bool:
        """True when the key at `path` is written, be it as null."""
        parent = self.find(path[:-1])
        return isinstance(parent, dict) and path[-1] in parent

    def put(self, path: Path, value: object, *, origin: Origin) -> None:
        """Write `value` over what is at `path`; objects on the way are made.

        Where something else stands on the way nothing is written: that is a problem of its own, found later. Elements
        of lists are not made.
        """
        self.pop(path)
        parent: object = self.tree
        for step in path[:-1]:
            parent = parent.setdefault(str(step), {}) if isinstance(parent, dict) else _element(parent, step)
        if isinstance(parent, dict):
            parent[str(path[-1])] = value
            self.origins[path] = origin

    def pop(self, path: Path) -> object | None:
        """Remove the key at `path` with all below it; its value, or None where nothing was."""
        parent = self.find(path[:-1])
        if not isinstance(parent, dict) or path[-1] not in parent:
            return None
        for known in [known for known in self.origins if known[: len(path)] == path]:
            del self.origins[known]
        removed: object = parent.pop(path[-1])
        return removed

    def move(self, path: Path, target: Path) -> None:
        """Put what is at `path` to `target`, origins included."""
        moved = {
            target + known[len(path) :]: origin for known, origin in self.origins.items() if known[: len(path)] == path
        }
        value = self.pop(path)
        self.put(target, value, origin=moved[target])
        if self.has(target):
            self.origins.update(moved)


def _element(parent: object, step: str | int) -> object:
    in_list = isinstance(parent, list) and isinstance(step, int) and step < len(parent)
    return parent[step] if in_list else None  # type: ignore[index]  # as just asked


def read_document(text: str, name: str) -> Document:
    """Read a configuration, which is one object. `name` is what the origins call it. Raises `JsonError`."""
    reader = _Reader(text, name)
    return reader.read()


class _Reader:
    """Objects and lists by hand, for the positions; scalars by the standard library."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._scalars = json.JSONDecoder(parse_constant=self._refuse_constant, parse_float=_finite)
        self._origins: dict[Path, Origin] = {}

    def read(self) -> Document:
        start = self._skip(0)
        if self._text[start : start + 1] != "{":
            self._fail(start, 'a configuration is one JSON object and begins with "{"')
        tree, end = self._object(start, ())
        end = self._skip(end)
        if end != len(self._text):
            self._fail(end, 'there is more text after the "}" that ends the configuration')
        return Document(tree, self._origins)

    def _value(self, at: int, path: Path) -> tuple[object, int]:
        if len(path) > _MOST_LEVELS:
            self._fail(at, f"objects and lists are nested more than {_MOST_LEVELS} deep")
        match self._text[at : at + 1]:
            case "{":
                return self._object(at, path)
            case "[":
                return self._list(at, path)
            case '"':
                return self._string(at)
            case _:
                return self._scalar(at)

    def _object(self, at: int, path: Path) -> tuple[dict[str, object], int]:
        found: dict[str, object] = {}
        at = self._skip(at + 1)
        while self._text[at : at + 1] != "}":
            if self._text[at : at + 1] != '"':
                self._fail(at, self._no_key(at))
            key, after = self._string(at)
            here = (*path, key)
            if key in found:
                first = self._origins[here]
                self._fail(at, f"{json.dumps(key)} stands twice in this object, first at {first.line}:{first.column}")
            self._origins[here] = self._origin(at)
            after = self._skip(after)
            if self._text[after : after + 1] != ":":
                self._fail(after, f'a ":" must follow the key {json.dumps(key)}')
            found[key], after = self._value(self._skip(after + 1), here)
            at = self._next(after, "}")
        return found, at + 1

    def _list(self, at: int, path: Path) -> tuple[list[object], int]:
        found: list[object] = []
        at = self._skip(at + 1)
        while self._text[at : at + 1] != "]":
            here = (*path, len(found))
            self._origins[here] = self._origin(at)
            value, after = self._value(at, here)
            found.append(value)
            at = self._next(after, "]")
        return found, at + 1

    def _next(self, at: int, closing: str) -> int:
        """Past a comma to the next member, or at the closing bracket."""
        at = self._skip(at)
        character = self._text[at : at + 1]
        if character == closing:
            return at
        if character != ",":
            self._fail(at, self._comment(at) or f'a "," or the closing "{closing}" is missing here')
        after = self._skip(at + 1)
        if self._text[after : after + 1] == closing:
            self._fail(at, f'JSON allows no "," before the closing "{closing}"')
        return after

    def _string(self, at: int) -> tuple[str, int]:
        try:
            text, end = self._scalars.raw_decode(self._text, at)
        except json.JSONDecodeError as error:
            self._fail(error.pos, f"this text is not valid JSON: {error.msg[0].lower()}{error.msg[1:]}")
        return str(text), end

    def _scalar(self, at: int) -> tuple[object, int]:
        try:
            value, end = self._scalars.raw_decode(self._text, at)
        except _Infinite as error:
            self._fail(at, f"{error} is not a number that JSON allows")
        except ValueError:  # JSONDecodeError, or an integer of thousands of digits
            self._fail(at, self._comment(at) or "a value is missing here, or is none that JSON knows")
        return value, end

    def _no_key(self, at: int) -> str:
        if at >= len(self._text):
            return 'the text ends before the closing "}"'
        if self._text[at] == "'":
            return "JSON writes keys and texts in double quotes"
        return self._comment(at) or "a key in double quotes is missing here"

    def _comment(self, at: int) -> str:
        if self._text.startswith(("//", "/*", "#"), at):
            return "JSON knows no comments; remove this one"
        return ""

    def _skip(self, at: int) -> int:
        space = _SPACE.match(self._text, at)
        return space.end() if space else at

    def _position(self, at: int) -> tuple[int, int]:
        line = bisect_right(self._line_starts, at)
        return line, at - self._line_starts[line - 1] + 1

    def _origin(self, at: int) -> Origin:
        line, column = self._position(at)
        return Origin(Rank.FILE, f"{self._name}:{line}:{column}", line, column)

    def _fail(self, at: int, says: str) -> NoReturn:
        line, column = self._position(at)
        raise JsonError(says, line=line, column=column)

    @staticmethod
    def _refuse_constant(word: str) -> object:
        raise _Infinite(word)


class _Infinite(Exception):
    """NaN or a number beyond what a float holds."""


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Infinite(digits)
    return number
