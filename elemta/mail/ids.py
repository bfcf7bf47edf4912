"""Queue ids: 22 base62 characters, ordered by time, impossible to guess.

What is not here: the source of time or chance (`runtime.ids`).
The first 8 characters are the milliseconds since 1970 (62^8 ms last until the year 8888), the other 14 are chance
(83 bits). A time prefix keeps B-tree inserts at the right edge; chance keeps ids from being guessed or made twice.
"""

import re

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARACTERS = 22
TIME_CHARACTERS = 8
CHANCE_CHARACTERS = ID_CHARACTERS - TIME_CHARACTERS
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{22}\Z", re.ASCII)
#: Pairs of digits, so that an id takes eleven look-ups instead of twenty-two.
_PAIRS = tuple(a + b for a in ALPHABET for b in ALPHABET)


def _digits(value: int, pairs: int) -> str:
    out = []
    for _ in range(pairs):
        value, low = divmod(value, 3844)
        out.append(_PAIRS[low])
    return "".join(reversed(out))


def time_prefix(milliseconds: int) -> str:
    """The first characters of every id made in this millisecond since 1970."""
    return _digits(milliseconds, TIME_CHARACTERS // 2)


def make_queue_id(milliseconds: int, chance: int) -> str:
    """A queue id from the time in milliseconds since 1970, and at least 84 random bits (the surplus is dropped)."""
    return time_prefix(milliseconds) + _digits(chance, CHANCE_CHARACTERS // 2)


def is_queue_id(text: str) -> bool:
    """True for the only form that any door accepts: no path, no pattern, no control character can pass."""
    return _QUEUE_ID.match(text) is not None
