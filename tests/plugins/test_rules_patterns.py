"""Patterns of rules: the same answers as `re`, in time that no subject line can stretch."""

import re
import time
import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from elemta.plugins.rules.pattern_text import (
    MAX_GROUPS,
    MAX_PATTERN_CHARACTERS,
    PatternError,
    parse_glob,
    parse_pattern,
)
from elemta.plugins.rules.patterns import MAX_POSITIONS, MAX_REMEMBERED, Pattern, make_patterns

LONGEST = 998

#: Pieces of patterns; joined they nest, repeat and anchor in all ways.
ATOMS = st.sampled_from(
    ["a", "b", "A", "_", " ", "-", ".", r"\d", r"\W", r"\s", r"\.", "[ab]", "[^a]", r"[^\d-]", "[]a-c]", "é"]
)
PLACES = st.sampled_from(["^", "$", r"\b", r"\B"])
COUNTS = st.sampled_from(["*", "+", "?", "{0}", "{2}", "{1,}", "{0,2}", "*?", "+?"])


def grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = parts.map(lambda part: f"(?:{part})")
    return st.one_of(
        st.tuples(group, COUNTS).map("".join),
        st.tuples(parts, parts).map("".join),
        st.tuples(parts, parts).map(lambda two: f"({two[0]}|{two[1]})"),
    )


PATTERNS = st.recursive(st.one_of(ATOMS, PLACES, st.tuples(ATOMS, COUNTS).map("".join)), grown, max_leaves=8)
TEXTS = st.text("abAB_1 -.é", max_size=12)


def pattern(text: str, *, case: bool = True) -> Pattern:
    return Pattern(parse_pattern(text), case=case)


@settings(max_examples=400)
@given(PATTERNS, TEXTS, st.booleans())
def test_it_answers_as_re_does(written: str, text: str, case: bool) -> None:
    # `$` of `re` also matches before a last line end; texts here have none. Its `\\B` is nowhere in an empty text,
    # until Python 3.14.
    assume(text or r"\B" not in written)
    expected = re.search(written, text, 0 if case else re.IGNORECASE) is not None
    try:
        made = pattern(written, case=case)
    except PatternError as error:
        assume("more than" not in str(error))
        raise
    assert made.found_in(text) is expected
    assert made.found_in(text) is expected, "what it remembers says the same"


@given(st.text("ab*?.[]()\\^$|", max_size=10), st.text("ab*?.[]()\\^$|", max_size=10))
def test_a_glob_answers_as_its_pattern(written: str, text: str) -> None:
    expected = re.fullmatch(
        "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in written), text, re.DOTALL
    )
    assert Pattern(parse_glob(written), case=True).found_in(text) is (expected is not None)


@given(st.text(max_size=30))
def test_no_text_makes_it_raise_anything_but_its_own_error(written: str) -> None:
    try:
        made = pattern(written)
    except PatternError:
        return
    made.found_in(written)


@given(st.text("ab|()[]{}*+?\\^$-,1:dbB", max_size=20))
def test_what_it_takes_re_takes_too(written: str) -> None:
    try:
        pattern(written)
    except PatternError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it warns of "[[", which may mean something else one day
        re.compile(written)


HOSTILE = [
    (r"(a+)+$", "a" * (LONGEST - 1) + "!"),
    (r"(a|a)*b", "a" * LONGEST),
    (r"(a*)*b", "a" * LONGEST),
    ("a*" * 30 + "b", "a" * LONGEST),
    (r"(\w+\s?)*$", "word " * 199 + "!"),
    (r"(.*a){20}.{80}b", "ab" * (LONGEST // 2)),
    # A state of its own for nearly each character: the worst there is for what is made as needed.
    ("(a|b)*a(a|b){120}c", "".join("ab"[(n * n).bit_count() % 2] for n in range(LONGEST))),
    (r"(\b\w*\b ?)*\B\d$", "a1 " * 332),
    # No two characters alike: nothing that is remembered helps.
    ("".join(f"[^{chr(0x100 + n)}a-z]?" for n in range(120)) + "x", "".join(chr(0x4E00 + n) for n in range(LONGEST))),
]


@pytest.mark.parametrize(("written", "text"), HOSTILE)
def test_no_text_takes_it_long(written: str, text: str) -> None:
    made = pattern(written)
    began = time.process_time()
    made.found_in(text)
    # 1 to 300 ms on the desk; a matcher that goes back and tries again needs longer than the world is old.
    assert time.process_time() - began < 10


def test_small_patterns_are_followed_together() -> None:
    words = [*(f"^word{number}$" for number in range(20)), "(x|y){120}", "a{250}", "()"]
    made = make_patterns(map(parse_pattern, words), case=False)
    assert len(made) == 3
    assert [one.found_in("word7") for one in made[:2]] == [True, False]
    assert not any(one.found_in("word20") for one in made[:1])
    assert any(one.found_in("xy" * 60) for one in made)


def test_what_it_remembers_is_bounded() -> None:
    made = pattern("(a|b)*a(a|b){100}c")
    for seed in range(20):
        made.found_in("".join("ab"[((n + seed) ** 3).bit_count() % 2] for n in range(LONGEST)))
        made.found_in("".join(chr(0x4E00 + seed * LONGEST + n) for n in range(LONGEST)))
    tables = (made._steps, made._sets, made._places)
    assert 0 < max(len(table) for table in tables) <= MAX_REMEMBERED


REFUSED = [
    ("(", 'a ")" is missing'),
    ("a)", 'the ")" at character 2 closes nothing; write "\\)" for the character'),
    ("[a", "it ends too early"),
    ("a\\", "it ends too early"),
    ("*a", '"*" at character 1 repeats nothing; write "\\*" for itself'),
    ("a**", 'two repetitions behind each other at character 3; use "(?:…)"'),
    ("a++", 'two repetitions behind each other at character 3; use "(?:…)"'),
    ("a{", '"{" is not followed by counts such as "{2,5}"; write "\\{" for the character'),
    ("a{5,2}", '"{5,2}" counts backwards'),
    ("^*", '"^" is a place, it cannot be repeated'),
    (r"(a)\1", '"\\1" refers back to what a group found, which is not taken'),
    (r"\q", '"\\q" is not known; known are \\d \\w \\s \\b, the same in capitals, and \\t'),
    (r"[\b]", '"\\b" is not known; known are \\d \\w \\s \\b, the same in capitals, and \\t'),
    ("(?=a)", 'of the groups that begin with "(?" only "(?:…)" is taken'),
    ("(?P<a>b)", 'of the groups that begin with "(?" only "(?:…)" is taken'),
    ("[b-a]", 'the range that begins with "b-" has no end behind its beginning'),
    (r"[a-\d]", 'the range that begins with "a-" has no end behind its beginning'),
    ("a" * (MAX_PATTERN_CHARACTERS + 1), f"it has more than {MAX_PATTERN_CHARACTERS} characters"),
    ("(" * (MAX_GROUPS + 1), f"groups are nested more than {MAX_GROUPS} deep"),
    ("(a{99}){99}", f"with its repetitions written out it has more than {MAX_POSITIONS} characters"),
]


@pytest.mark.parametrize(("written", "says"), REFUSED)
def test_it_says_what_is_wrong(written: str, says: str) -> None:
    with pytest.raises(PatternError) as caught:
        pattern(written)
    assert str(caught.value) == says


def test_repeating_nothing_costs_nothing() -> None:
    assert pattern("((((){9999}){9999}){9999}){9999}b").found_in("ab")


@pytest.mark.parametrize(
    ("written", "text", "case", "found"),
    [
        ("ÄRGER", "viel ärger", False, True),
        ("ÄRGER", "viel ärger", True, False),
        ("[^a]", "A", False, False),
        ("stra.e", "STRASSE", False, False),
        ("straße", "STRAßE", False, True),
        ("straße", "STRA\u1e9eE", False, True),
        ("s", "\u017f", False, True),
        ("S", "\u017f", False, True),
        ("[s]", "\u017f", False, True),
        ("s", "\u017f", True, False),
        ("ΛΌΓΟΣ", "λόγος", False, True),
        ("λόγος", "ΛΌΓΟΣ", False, True),
    ],
)
def test_capitals(written: str, text: str, case: bool, found: bool) -> None:
    assert pattern(written, case=case).found_in(text) is found
