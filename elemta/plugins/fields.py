"""The fields of a header, as plugins see them; pure.

What is not here: counting and bounds of whole blocks (`mail.headers`), changes as plugins ask for them
(`plugins.verdicts`). RFC 5322 §2.2. A block that holds lines which are no fields keeps them: what is not changed comes
out as it went in. Nothing here raises for hostile octets.
"""

import re
from collections.abc import Sequence
from typing import Final, Self

from elemta.mail.headers import MAX_HEADER_FIELDS, readable

_FIELD_END: Final = re.compile(rb"\r\n(?![ \t])")
_FOLD: Final = re.compile(rb"\r\n(?=[ \t])")
_LINE: Final = b"\r\n"


class HeaderFields:
    """The fields of one header, in order; immutable."""

    __slots__ = ("_lines", "_names")

    def __init__(self, lines: Sequence[bytes] = ()) -> None:
        """`lines` are whole fields, folds included, without their last CRLF."""
        self._lines = tuple(lines)
        self._names = tuple(_name(line) for line in self._lines)

    def _changed(self, first: int, behind: int, *line: bytes) -> "HeaderFields":
        """With `line`, or nothing, in place of the fields from `first` to before `behind`.

        Names are not looked for again: a plugin may ask for thousands of changes at once, of a header of thousands of
        fields.
        """
        changed = HeaderFields()
        changed._lines = (*self._lines[:first], *line, *self._lines[behind:])
        changed._names = (*self._names[:first], *map(_name, line), *self._names[behind:])
        return changed

    @classmethod
    def parse(cls, block: bytes) -> Self:
        """Take a header block apart: octets before the first empty line, the last field's CRLF included."""
        if not block:
            return cls()
        return cls(_FIELD_END.split(block.removesuffix(_LINE)))

    def render(self) -> bytes:
        """The header block."""
        return _LINE.join((*self._lines, b"")) if self._lines else b""

    def __len__(self) -> int:
        return len(self._lines)

    # ---- looking -------------------------------------------------------------------------------------

    @property
    def fields(self) -> Sequence[tuple[str, bytes]]:
        """Name and value of each field; a line that is no field has an empty name."""
        return [
            (line.partition(b":")[0].rstrip(b" \t").decode("ascii"), line.partition(b":")[2]) if name else ("", line)
            for line, name in zip(self._lines, self._names, strict=True)
        ]

    def raw(self, name: str) -> Sequence[bytes]:
        """The values of every field of the name, folds included, stripped."""
        return [self._lines[place].partition(b":")[2].strip(b" \t\r\n") for place in self._places(name)]

    def text(self, name: str) -> str:
        """The first field's value for people; empty when there is none."""
        values = self.raw(name)
        return readable(_FOLD.sub(b"", values[0])) if values else ""

    def _places(self, name: str) -> list[int]:
        wanted = name.lower().encode("utf-8")
        return [place for place, one in enumerate(self._names) if one == wanted]

    # ---- changing ------------------------------------------------------------------------------------

    def added(self, name: str, value: bytes, at: int | None) -> "HeaderFields":
        """One field more, before the field of number `at`, or behind all. Raises `ValueError` for one too many."""
        if len(self._lines) >= MAX_HEADER_FIELDS:
            raise ValueError(f"the header has {len(self._lines)} fields already, no more may be added")
        place = len(self._lines) if at is None else max(0, min(at, len(self._lines)))
        return self._changed(place, place, _line(name, value))

    def replaced(self, name: str, value: bytes, occurrence: int) -> "HeaderFields":
        """The field of the name with another value; added behind all where there is none of that number."""
        places = self._places(name)
        if not 1 <= occurrence <= len(places):
            return self.added(name, value, None)
        place = places[occurrence - 1]
        return self._changed(place, place + 1, _line(name, value))

    def removed(self, name: str, occurrence: int | None) -> "HeaderFields":
        """Without the fields of the name, or the one of that number."""
        places = self._places(name)
        gone = places if occurrence is None else places[occurrence - 1 : occurrence] if occurrence > 0 else ()
        changed = self
        for place in reversed(gone):
            changed = changed._changed(place, place + 1)
        return changed


def _name(line: bytes) -> bytes:
    """A field's name in lower case; empty for a line that is none (RFC 5322 §2.2, and §4.5 for space before the
    colon)."""
    name, colon, _ = line.partition(b":")
    name = name.rstrip(b" \t").lower()
    if not colon or not name or name.translate(None, _PRINTABLE):
        return b""
    return name


_PRINTABLE: Final = bytes(octet for octet in range(33, 127) if octet != ord(":"))


def _line(name: str, value: bytes) -> bytes:
    return name.encode("ascii") + b": " + value.lstrip(b" ")
