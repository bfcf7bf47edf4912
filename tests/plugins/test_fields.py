"""Header fields as plugins see and change them."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elemta.mail.headers import MAX_HEADER_FIELDS, count_field
from elemta.plugins.fields import HeaderFields
from elemta.plugins.verdicts import MAX_LINE_OCTETS, MAX_NAME_CHARACTERS, AddHeader, RemoveHeader, ReplaceHeader

BLOCK = (
    b"Received: by mx.example.com;\r\n Mon, 1 Nov 2027\r\n"
    b"Subject: =?utf-8?q?gr=C3=BC?=\r\n =?utf-8?q?n?=\r\n"
    b"X-Old : 1\r\n"
    b"this is no field\r\n"
    b"x-old:\t2\r\n"
    b"To:\r\n"
)
#: Octets that mean something in a header, and some that do not.
PIECES = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"A", b"a", b"Subject", b"\0", b"\xff", b"\xc3\xbc", b"=?utf-8?q?=0A?="]
)
SOUP = st.lists(PIECES | st.binary(max_size=3), max_size=30).map(b"".join)
NAMES = st.text(max_size=5) | st.sampled_from(["Subject", "X-A", "a:b", "a b", "a\r\nb", "a\n", "", "ü", "x" * 77])
#: What ends a line for anybody: a CRLF that no fold follows, and what some take for one.
LINE_END = re.compile(rb"\r\n(?![ \t])|\r(?!\n)|(?<!\r)\n")


# ---- looking -------------------------------------------------------------------------------------


def test_fields_in_any_case_of_letters() -> None:
    fields = HeaderFields.parse(BLOCK)
    assert fields.text("SUBJECT") == "grün"
    assert fields.raw("subject") == [b"=?utf-8?q?gr=C3=BC?=\r\n =?utf-8?q?n?="]
    assert fields.raw("X-OLD") == [b"1", b"2"]
    assert fields.text("received") == "by mx.example.com; Mon, 1 Nov 2027"
    assert (fields.text("To"), fields.raw("To")) == ("", [b""])
    assert (fields.text("Cc"), list(fields.raw("Cc"))) == ("", [])
    assert len(fields) == 6
    assert list(fields.fields)[2:] == [("X-Old", b" 1"), ("", b"this is no field"), ("x-old", b"\t2"), ("To", b"")]


@given(SOUP)
@example(b"")
@example(b" begins with a fold")
@example(b":")
@example(b"\r\n ")
def test_what_is_not_changed_comes_out_as_it_went_in(soup: bytes) -> None:
    block = soup + b"\r\n"
    fields = HeaderFields.parse(block)
    assert fields.render() == block
    again = HeaderFields.parse(fields.render())
    assert again.fields == fields.fields


@given(SOUP, NAMES)
def test_looking_raises_for_no_octets(soup: bytes, name: str) -> None:
    fields = HeaderFields.parse(soup + b"\r\n")
    for value in fields.raw(name):
        assert value == value.strip(b" \t\r\n")
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e]", fields.text(name))


# ---- changing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "place"), [(0, 0), (1, 1), (6, 6), (7, 6), (10**9, 6), (-1, 0), (None, 6)])
def test_a_field_is_added_where_it_is_wanted(at: int | None, place: int) -> None:
    fields = HeaderFields.parse(BLOCK).added("X-New", b"1\r\n\tfolded", at)
    assert len(fields) == 7
    assert fields.fields[place] == ("X-New", b" 1\r\n\tfolded")


def test_replacing_and_removing_by_number() -> None:
    fields = HeaderFields.parse(BLOCK)
    assert fields.replaced("x-old", b"new", 1).raw("X-Old") == [b"new", b"2"]
    assert fields.replaced("x-old", b"new", 2).raw("X-Old") == [b"1", b"new"]
    for number in (0, 3, -1):
        assert fields.replaced("x-old", b"new", number).raw("X-Old") == [b"1", b"2", b"new"], "behind all"
        assert fields.removed("x-old", number).raw("X-Old") == [b"1", b"2"]
    assert fields.removed("x-old", 1).raw("X-Old") == [b"2"]
    assert fields.removed("X-OLD", None).raw("X-Old") == []
    assert fields.raw("X-Old") == [b"1", b"2"], "the first one is as it was"
    assert fields.removed("", None).render() == BLOCK.replace(b"this is no field\r\n", b""), "lines that are no field"


def test_fields_are_bounded() -> None:
    full = HeaderFields([b"A: 1"] * MAX_HEADER_FIELDS)
    with pytest.raises(ValueError, match=f"{MAX_HEADER_FIELDS} fields already"):
        full.added("B", b"", 0)
    with pytest.raises(ValueError, match=f"{MAX_HEADER_FIELDS} fields already"):
        full.replaced("B", b"", 1)
    assert len(full.replaced("A", b"2", 7)) == MAX_HEADER_FIELDS


@given(SOUP, NAMES, SOUP | st.text(max_size=20))
def test_no_name_and_no_value_gives_more_than_one_field(soup: bytes, name: str, value: bytes | str) -> None:
    """A change is refused as it is made, or it is one field, and every other line stays what it was."""
    fields = HeaderFields.parse(b"Received: by us\r\n" + soup + b"\r\n")
    try:
        add, replace = AddHeader(name, value), ReplaceHeader(name, value)
    except ValueError:
        return
    before = list(fields.fields)
    for at in (0, 1, None):
        added = fields.added(add.name, add.value, at)
        again = HeaderFields.parse(added.render())
        assert len(again) == len(fields) + 1
        place = len(before) if at is None else at
        assert again.fields[place][0] == name
        assert [*again.fields[:place], *again.fields[place + 1 :]] == before
        assert not LINE_END.search(add.value)
        assert count_field(again.render(), name) == count_field(fields.render(), name) + 1
    replaced = HeaderFields.parse(fields.replaced(replace.name, replace.value, 1).render())
    assert len(replaced) - len(fields) == (0 if fields.raw(name) else 1)


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "a\r\n", "a\n", "ü", "a\0", "x" * (MAX_NAME_CHARACTERS + 1)])
def test_names_that_are_none_are_refused(name: str) -> None:
    for make in (lambda: AddHeader(name, b""), lambda: ReplaceHeader(name, b""), lambda: RemoveHeader(name)):
        with pytest.raises(ValueError, match="no name of a header field"):
            make()


@pytest.mark.parametrize(
    "value",
    [
        "1\r\nBcc: everybody@example.com",
        "1\r\n\r\nbody",
        "1\nBcc: x@example.com",
        "1\rBcc: x@example.com",
        "1\r\n",
        "1\n x",
        "a\0b",
        "x" * MAX_LINE_OCTETS,
        "a\r\n " + "x" * MAX_LINE_OCTETS,
        "\ud800",
    ],
)
def test_values_that_would_be_more_are_refused(value: str) -> None:
    with pytest.raises(ValueError):
        AddHeader("X-A", value)
    with pytest.raises(ValueError):
        ReplaceHeader("X-A", value)


def test_values_at_the_bounds_are_taken() -> None:
    longest = AddHeader(
        "X" * MAX_NAME_CHARACTERS, b"x" * (MAX_LINE_OCTETS - MAX_NAME_CHARACTERS - 2) + b"\r\n " + b"y" * 997
    )
    line = HeaderFields().added(longest.name, longest.value, None).render()
    assert max(map(len, line.removesuffix(b"\r\n").split(b"\r\n"))) == MAX_LINE_OCTETS
    assert AddHeader("X-A", "a\udcffb").value == b"a\xffb", "octets that came through a text"
