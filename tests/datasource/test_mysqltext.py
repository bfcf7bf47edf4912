"""Statements with their values written into them, as the server reads them back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.datasource.base import Connection
from elemta.datasource.mysqltext import ValueRefused, literal, render
from elemta.datasource.options import DatabaseOptions
from tests.datasource.servers import running


def test_placeholders() -> None:
    assert render("SELECT %s, '100%%', %s", (1, None)) == b"SELECT 1, '100%', NULL"
    assert render("SELECT '%%s'", ()) == b"SELECT '%s'"
    assert render("LIKE 'a%'", ()) == b"LIKE 'a%'"
    assert render("SELECT %s", ("%s %%",)) == b"SELECT '%s %%'"


@pytest.mark.parametrize("values", [(), (1,), (1, 2, 3)])
def test_a_number_of_values_that_differs(values: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=f"2 placeholders for {len(values)} values"):
        render("SELECT %s, %s", values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "\ud800", "a\udcffb"])
def test_values_that_no_server_takes(value: object) -> None:
    with pytest.raises(ValueRefused):
        literal(value)


@pytest.mark.parametrize("value", [object(), [1], {}, 1j])
def test_values_of_other_types(value: object) -> None:
    with pytest.raises(TypeError, match="a value of type"):
        literal(value)


@given(st.binary() | st.text())
def test_no_value_ends_its_quotes(value: bytes | str) -> None:
    """Read as the server reads it, octet by octet, the text ends at its last quote and is the value."""
    shown = literal(value).removeprefix(b"_binary")
    assert (shown[:1], shown[-1:]) == (b"'", b"'")
    octets, read = iter(shown[1:-1]), bytearray()
    for octet in octets:
        assert octet != ord("'")
        read.append(next(octets) if octet == ord("\\") else octet)
    assert read == (value if isinstance(value, bytes) else value.encode())


HARD_TEXTS = ["", "'", "\\", "\\'", "''", "\0", '\n\r\x1a"%_', "é€𝄞", "%s", "a\\", "; DROP TABLE t -- "]
HARD_NUMBERS = [0, -1, 2**63 - 1, -(2**63), True]
HARD_FLOATS = [0.0, -0.5, 1e308, 5e-324, 0.1, 1732528925.123456]


async def test_the_server_reads_them_back(mysql: DatabaseOptions) -> None:
    hard = [b"", bytes(range(256)), b"'\\" * 3, b"\\", *(text.encode() for text in HARD_TEXTS)]
    # Lead octets of longer characters, in this character set and others, right before a quote or a backslash.
    hard += [bytes([lead]) + end for lead in (0x81, 0xBF, 0xC3, 0xE2, 0xF0, 0xFF) for end in (b"'", b"\\", b"\\'")]

    async def check(connection: Connection) -> None:
        for values in (hard, HARD_TEXTS, HARD_NUMBERS, HARD_FLOATS):
            for value in values:
                assert list(await connection.fetch("SELECT %s, 'end'", value)) == [(value, "end")]
        made = (
            "CREATE TEMPORARY TABLE t (b longblob, d double, s varchar(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)"
        )
        await connection.execute(made)
        for octets, number, text in zip(hard, HARD_FLOATS * 9, HARD_TEXTS * 9, strict=False):
            await connection.execute("INSERT INTO t VALUES (%s, %s, %s)", octets, number, text)
            assert list(await connection.fetch("SELECT b, d, s FROM t")) == [(octets, number, text)]
            assert await connection.execute("DELETE FROM t WHERE b = %s AND s = %s", octets, text) == 1

    async with running(mysql) as database:
        await database.look(check)


async def test_other_kinds_of_octets_go_the_same_way(mysql: DatabaseOptions) -> None:
    async def check(connection: Connection) -> None:
        for octets in (bytearray(b"a'\\"), memoryview(b"xa'\\")[1:]):
            assert list(await connection.fetch("SELECT %s", octets)) == [(b"a'\\",)]

    async with running(mysql) as database:
        await database.look(check)
