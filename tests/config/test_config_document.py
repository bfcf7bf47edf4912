"""JSON with positions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.document import JsonError, Origin, Rank, dotted, read_document

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=5)


@given(OBJECTS, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_what_the_standard_library_writes_is_read_as_it_was(
    tree: dict[str, Any], indent: Any, ascii_only: bool
) -> None:
    text = json.dumps(tree, indent=indent, ensure_ascii=ascii_only)
    assert read_document(text, "x").tree == tree


@given(OBJECTS, st.data())
def test_every_key_is_where_its_origin_says(tree: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(tree, indent=2)
    lines = text.split("\n")
    for path, origin in read_document(text, "x").origins.items():
        if isinstance(path[-1], str):
            assert origin.line is not None
            assert origin.column is not None
            assert lines[origin.line - 1][origin.column - 1 :].startswith(json.dumps(path[-1]) + ":")


FRAGMENTS = [
    "{",
    "}",
    "[",
    "]",
    '"',
    ":",
    ",",
    '"a"',
    "1",
    "-",
    ".",
    "e",
    "true",
    "NaN",
    "\\",
    "\\u12",
    "\n",
    "//",
    "\0",
]


@given(st.text() | st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_no_text_raises_anything_but_an_error_with_a_position_inside(text: str) -> None:
    line, column = 1, 1
    try:
        read_document(text, "x")
    except JsonError as error:
        line, column = error.line, error.column
    else:
        assert isinstance(json.loads(text), dict)
    assert 1 <= line <= text.count("\n") + 1
    assert 1 <= column <= len(text.split("\n")[line - 1]) + 1


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("", 1, 1, 'a configuration is one JSON object and begins with "{"'),
        ("[]", 1, 1, 'a configuration is one JSON object and begins with "{"'),
        ("{} {}", 1, 4, 'there is more text after the "}" that ends the configuration'),
        ('{"a": 1,\n "a": 2}', 2, 2, '"a" stands twice in this object, first at 1:2'),
        ('{"a": {"b": 1, "b": 1}}', 1, 16, '"b" stands twice in this object, first at 1:8'),
        ('{"a": 1 // one\n}', 1, 9, "JSON knows no comments; remove this one"),
        ('{\n  # one\n}', 2, 3, "JSON knows no comments; remove this one"),
        ('{"a": /* one */ 1}', 1, 7, "JSON knows no comments; remove this one"),
        ('{"a": 1,}', 1, 8, 'JSON allows no "," before the closing "}"'),
        ('{"a": [1,\n]}', 1, 9, 'JSON allows no "," before the closing "]"'),
        ('{"a": 1 "b": 2}', 1, 9, 'a "," or the closing "}" is missing here'),
        ('{"a": [1 2]}', 1, 10, 'a "," or the closing "]" is missing here'),
        ('{"a" 1}', 1, 6, 'a ":" must follow the key "a"'),
        ("{'a': 1}", 1, 2, "JSON writes keys and texts in double quotes"),
        ('{"a": 1', 1, 8, 'a "," or the closing "}" is missing here'),
        ("{", 1, 2, 'the text ends before the closing "}"'),
        ("{a: 1}", 1, 2, "a key in double quotes is missing here"),
        ('{"a": yes}', 1, 7, "a value is missing here, or is none that JSON knows"),
        ('{"a": "b}', 1, 7, "this text is not valid JSON: unterminated string starting at"),
        ('{"a": NaN}', 1, 7, "NaN is not a number that JSON allows"),
        ('{"a": 1e999}', 1, 7, "1e999 is not a number that JSON allows"),
        (f'{{"a": {"1" * 5000}}}', 1, 7, "a value is missing here, or is none that JSON knows"),
        (f'{{"a": {"[" * 40}', 1, 39, "objects and lists are nested more than 32 deep"),
    ],
)  # fmt: skip
def test_an_error_says_where_and_what(text: str, line: int, column: int, says: str) -> None:
    with pytest.raises(JsonError) as caught:
        read_document(text, "x")
    assert (caught.value.line, caught.value.column, caught.value.says) == (line, column, says)


def test_a_path_reads_as_people_write_it() -> None:
    assert dotted(("listeners", 0, "address")) == "listeners[0].address"


def test_a_moved_object_takes_its_origins_along() -> None:
    document = read_document('{"a": {"b": {"c": 1}}}', "x")
    document.move(("a", "b"), ("d",))
    assert document.tree == {"a": {}, "d": {"c": 1}}
    assert document.origin_of(("d", "c")) == Origin(Rank.FILE, "x:1:14", 1, 14)
    assert document.origin_of(("a", "b", "c")) == document.origin_of(("a",))


def test_nothing_is_written_below_what_is_no_object() -> None:
    document = read_document('{"tls": 5}', "x")
    document.put(("tls", "enabled"), True, origin=Origin(Rank.ENVIRONMENT, "ELEMTA_TLS_ENABLED"))
    assert document.tree == {"tls": 5}
