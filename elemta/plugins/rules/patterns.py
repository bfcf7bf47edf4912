"""Patterns that are matched in time proportional to the text.

Python's `re` tries one way after the other: `(a+)+$`, or only `a*a*a*b`, takes minutes on a subject line made for it,
while every session of the process waits. Which patterns are so cannot be told by looking at nested repetitions alone.
So none is handed to `re`: a pattern becomes an automaton of positions (Glushkov's), all ways are followed at once, as
one set of bits, and each set that was met before is remembered with where it led (a deterministic automaton made as
needed, as in RE2). One character costs at most a look at every position, mostly one look into a table.

What is not here: how patterns are written (`rules.pattern_text`). Failure raised: `PatternError`, when one is made.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from attrs import frozen

from elemta.plugins.rules.pattern_text import Chars, Either, Mark, Node, PatternError, Repeat, Sequence, is_word

#: Positions of one pattern, its counted repetitions written out: bounds what a character costs.
MAX_POSITIONS: Final = 250
#: Steps that are remembered for one pattern, about 200 octets each; beyond it all are forgotten.
MAX_REMEMBERED: Final = 2048

#: The position before the first one: it is always taken, since a match may begin anywhere.
_BEGIN: Final = 1
#: Bits of a place between two characters.
_AT_START, _AT_END, _AT_BOUNDARY = 1, 2, 4


@frozen
class _Part:
    """A part of a pattern: whether it may be empty, and the sets of positions that begin and end it."""

    may_be_empty: bool
    first: int
    last: int


_EMPTY: Final = _Part(True, 0, 0)

K = TypeVar("K")


class Pattern:
    """One pattern. `found_in` keeps what it learns, so an instance belongs to one thread."""

    __slots__ = (
        "_accepting",
        "_boundaries",
        "_case",
        "_classes",
        "_follow",
        "_is_marked",
        "_leads",
        "_literals",
        "_marks",
        "_places",
        "_sets",
        "_steps",
    )

    def __init__(self, node: Node, *, case: bool = False) -> None:
        """`case` tells whether capitals differ from small letters. Raises `PatternError` when it is too large."""
        check_size(node)
        builder = _Builder()
        whole = builder.build(node)
        builder.lead(_BEGIN, whole.first)
        self._follow = builder.follow
        self._leads: list[dict[int, int]] = [{} for _ in range(0, len(self._follow), 8)]
        self._accepting = whole.last | (_BEGIN if whole.may_be_empty else 0)
        self._marks = [(1 << place, one) for place, one in builder.symbols if isinstance(one, Mark)]
        self._case = case
        self._literals: dict[str, int] = {}
        self._classes: dict[Chars, int] = {}
        for place, symbol in builder.symbols:
            if isinstance(symbol, Chars):
                self._add_symbol(symbol, 1 << place)
        self._is_marked = bool(self._marks)
        self._boundaries = any(mark in (Mark.BOUNDARY, Mark.NO_BOUNDARY) for _, mark in self._marks)
        self._sets: dict[str, int] = {}
        self._steps: dict[tuple[int, str], int] = {}
        self._places: dict[tuple[int, int], int] = {}

    def _add_symbol(self, symbol: Chars, bit: int) -> None:
        """Positions of the same symbol are one set; that of a single character is looked up, not asked."""
        if symbol.single is not None:
            letter = symbol.single if self._case else _small(symbol.single)
            self._literals[letter] = self._literals.get(letter, 0) | bit
        else:
            self._classes[symbol] = self._classes.get(symbol, 0) | bit

    def found_in(self, text: str) -> bool:
        """Whether it matches somewhere in the text."""
        state = self._passed(_BEGIN, text, 0)
        if state & self._accepting:
            return True
        for at, char in enumerate(text, start=1):
            known = self._steps.get((state, char))
            state = self._step(state, char) if known is None else known
            if self._is_marked:
                state = self._passed(state, text, at)
            if state & self._accepting:
                return True
        return False

    def _step(self, state: int, char: str) -> int:
        taken = self._sets.get(char)
        if taken is None:
            taken = self._taking(char)
        self._steps = _bounded(self._steps)
        reached = self._steps[state, char] = self._led(state) & taken | _BEGIN
        return reached

    def _taking(self, char: str) -> int:
        """The positions that take a character."""
        taking = self._literals.get(char if self._case else _small(char), 0)
        if self._classes:
            variants = (char,) if self._case else _variants(char)
            for symbol, places in self._classes.items():
                if symbol.holds(variants):
                    taking |= places
        self._sets = _bounded(self._sets)
        self._sets[char] = taking
        return taking

    def _led(self, state: int) -> int:
        """All positions that may follow those of a set: eight of them at a time, from tables that fill themselves."""
        reached = 0
        for number, octet in enumerate(state.to_bytes(len(self._leads), "little")):
            if octet:
                lead = self._leads[number].get(octet)
                reached |= self._lead(number, octet) if lead is None else lead
        return reached

    def _lead(self, number: int, octet: int) -> int:
        reached = 0
        for place in _places_in(octet):
            reached |= self._follow[8 * number + place]
        self._leads[number][octet] = reached
        return reached

    def _passed(self, state: int, text: str, at: int) -> int:
        """The state with the marks that hold at a place: they take no character, so the positions before them stay."""
        if not self._is_marked:
            return state
        place = _AT_START * (at == 0) | _AT_END * (at == len(text))
        if self._boundaries:
            before, behind = at > 0 and is_word(text[at - 1]), at < len(text) and is_word(text[at])
            place |= _AT_BOUNDARY * (before is not behind)
        known = self._places.get((state, place))
        return self._pass(state, place) if known is None else known

    def _pass(self, state: int, place: int) -> int:
        holding = sum(bit for bit, mark in self._marks if _holds(mark, place))
        reached = state
        while (further := reached | self._led(reached) & holding) != reached:
            reached = further
        self._places = _bounded(self._places)
        self._places[state, place] = reached
        return reached


def make_patterns(nodes: Iterable[Node], *, case: bool) -> list[Pattern]:
    """As few as find what any of the nodes does: small ones are followed together. Raises `PatternError`."""
    together: list[list[Node]] = []
    room = 0
    for node in nodes:
        check_size(node)
        positions = positions_of(node)
        if not together or positions > room:
            together.append([])
            room = MAX_POSITIONS
        together[-1].append(node)
        room -= positions
    return [Pattern(Either(tuple(some)), case=case) for some in together]


def check_size(node: Node) -> None:
    """Raises `PatternError` for a pattern that is too large."""
    if positions_of(node) > MAX_POSITIONS:
        raise PatternError(f"with its repetitions written out it has more than {MAX_POSITIONS} characters")


def _small(char: str) -> str:
    """The one letter that stands for all that count as the same; "ß" has no capital of one character."""
    return next(one for one in (char.casefold(), char.lower(), char) if len(one) == 1)


def _variants(char: str) -> tuple[str, ...]:
    """The letters that count as the same; those of several characters (the capital of "ß") are left out."""
    small = _small(char)
    return tuple({char, small, *(other for other in (char.upper(), small.upper()) if len(other) == 1)})


def _holds(mark: Mark, place: int) -> bool:
    match mark:
        case Mark.START:
            return bool(place & _AT_START)
        case Mark.END:
            return bool(place & _AT_END)
        case Mark.BOUNDARY:
            return bool(place & _AT_BOUNDARY)
        case Mark.NO_BOUNDARY:
            return not place & _AT_BOUNDARY


def _bounded(table: dict[K, int]) -> dict[K, int]:
    return {} if len(table) >= MAX_REMEMBERED else table


def _places_in(state: int) -> Iterator[int]:
    while state:
        lowest = state & -state
        yield lowest.bit_length() - 1
        state ^= lowest


def positions_of(node: Node) -> int:
    """Positions that a tree needs."""
    match node:
        case Sequence(parts) | Either(parts):
            return sum(map(positions_of, parts))
        case Repeat(part, least, most):
            return positions_of(part) * (max(least, 1) if most is None else most)
        case _:
            return 1


class _Builder:
    """Glushkov's construction: every character and mark of the tree is a position; which may follow which?"""

    def __init__(self) -> None:
        self.symbols: list[tuple[int, Chars | Mark]] = []
        #: By position: the set of those that may come next. The first belongs to the beginning.
        self.follow: list[int] = [0]

    def lead(self, places: int, further: int) -> None:
        """Let all of one set be followed by all of another."""
        for place in _places_in(places):
            self.follow[place] |= further

    def build(self, node: Node) -> _Part:
        match node:
            case Sequence(parts):
                return self._sequence(parts)
            case Either(branches):
                built = [self.build(branch) for branch in branches]
                first = last = 0
                for part in built:
                    first, last = first | part.first, last | part.last
                return _Part(any(part.may_be_empty for part in built), first, last)
            case Repeat():
                return self._repeat(node)
            case Chars() | Mark():
                place = len(self.follow)
                self.follow.append(0)
                self.symbols.append((place, node))
                return _Part(False, 1 << place, 1 << place)

    def _sequence(self, parts: tuple[Node, ...]) -> _Part:
        whole = _EMPTY
        for part in parts:
            whole = self._joined(whole, self.build(part))
        return whole

    def _joined(self, one: _Part, other: _Part) -> _Part:
        self.lead(one.last, other.first)
        return _Part(
            one.may_be_empty and other.may_be_empty,
            one.first | (other.first if one.may_be_empty else 0),
            other.last | (one.last if other.may_be_empty else 0),
        )

    def _repeat(self, node: Repeat) -> _Part:
        """Copies that must be there, then copies that may, or a last one that leads back to itself."""
        whole = _EMPTY
        copies = max(node.least, 1) if node.most is None else node.most
        if not positions_of(node.part):
            copies = 1  # nothing, however often: `(){9999}` inside itself would be written out for hours
        for number in range(1, copies + 1):
            copy = self.build(node.part)
            if node.most is None and number == copies:
                self.lead(copy.last, copy.first)
            whole = self._joined(whole, _Part(copy.may_be_empty or number > node.least, copy.first, copy.last))
        return whole
