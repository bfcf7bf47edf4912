"""MySQL's text protocol: a statement with its values written into it.

What is not here: the protocol's packets (the driver's). The driver's own way escapes each value letter by letter into
text, and encodes the whole again; here octets stay octets.

Right for a session whose `sql_mode` lacks NO_BACKSLASH_ESCAPES and ANSI_QUOTES and whose character set is utf8mb4, in
which no octet of a longer character is a quote or a backslash. Raises `ValueRefused`, `TypeError`.
"""

import math
from collections.abc import Sequence
from typing import Any

#: Stands for `%%`, which means one percent sign, while placeholders are looked for; no statement holds it.
_PERCENT = b"\x00"


class ValueRefused(ValueError):
    """A value that no server takes: text that is not Unicode, a number that is not finite."""


def render(statement: str, values: Sequence[Any]) -> bytes:
    """The statement with each `%s` replaced by its value. Raises `TypeError` when their numbers differ."""
    text = statement.encode()
    is_escaped = b"%%" in text
    pieces = (text.replace(b"%%", _PERCENT) if is_escaped else text).split(b"%s")
    if len(pieces) != len(values) + 1:
        raise TypeError(f"{len(pieces) - 1} placeholders for {len(values)} values in: {statement[:100]}")
    if is_escaped:
        pieces = [piece.replace(_PERCENT, b"%") for piece in pieces]
    woven = [b""] * (2 * len(values) + 1)
    woven[::2] = pieces
    woven[1::2] = [literal(value) for value in values]
    return b"".join(woven)


def literal(value: object) -> bytes:
    """One value as it stands in a statement."""
    if isinstance(value, bytes):
        return b"_binary'%b'" % _quoted(value)
    if isinstance(value, str):
        try:
            return b"'%b'" % _quoted(value.encode())
        except UnicodeEncodeError as error:
            raise ValueRefused(f"text that is not Unicode: {error.reason}") from None
    if isinstance(value, float):
        return _float_literal(value)
    if isinstance(value, int):
        return b"%d" % value  # True is 1
    if value is None:
        return b"NULL"
    if isinstance(value, bytearray | memoryview):
        return b"_binary'%b'" % _quoted(bytes(value))
    raise TypeError(f"a value of type {type(value).__name__}: give None, str, bytes, int, float or bool")


def _quoted(octets: bytes) -> bytes:
    """With every quote and backslash behind a backslash: the rest stands for itself, NUL included, in a text whose
    length is told beforehand."""
    return octets.replace(b"\\", b"\\\\").replace(b"'", b"\\'")


def _float_literal(value: float) -> bytes:
    if not math.isfinite(value):
        raise ValueRefused(f"a number that is not finite: {value}")
    shown = repr(float(value))
    # With an exponent it is a DOUBLE at once; without, a DECIMAL first.
    return (shown if "e" in shown else f"{shown}e0").encode()
