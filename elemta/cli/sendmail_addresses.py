"""The addresses in a header field that lists some.

What is not here: whether an address is one (`smtp.grammar` parses it), or which fields are read
(`cli.sendmail_letter`). RFC 5322 §3.4 is the list: names, comments, quoted words, groups. The standard library's parser
of it guesses where the text is broken; a mail that is sent by a guess goes to a stranger, so this one gives up.
Failure raised: `ValueError` with what is wrong.
"""

import itertools
import re
from typing import Final

#: The pieces of a list: white space, a quoted string (RFC 5322 §3.2.4), a domain literal (§3.4.1), a character that
#: means something, or a run of what does not.
_PIECE: Final = re.compile(
    r"""(?P<space>[ \t\r\n]++)|"(?:[^"\\]|\\.)*+"|\[(?:[^]\\]|\\.)*+\]|[<>,:;@]|[^][<>(),:;@" \t\r\n]++""", re.DOTALL
)
#: What lies within a comment, or ends it; comments nest (§3.2.2).
_COMMENT_PIECE: Final = re.compile(r"[^()\\]++|\\.|[()]", re.DOTALL)
#: A local part without quotes (RFC 5322 §3.2.3) that is no encoded word (RFC 2047 §2).
_WORD: Final = re.compile(r"(?!=\?)[\w!#$%&'*+/=?^`{|}~-]++(?:\.[\w!#$%&'*+/=?^`{|}~-]++)*+", re.ASCII)
#: What no address holds but in quotes.
_MEANINGFUL: Final = frozenset("<>:")
#: Characters of a list that are quoted in a failure.
_SHOWN_CHARACTERS: Final = 60


def addresses(value: str) -> list[str]:
    """Every address of a list, without names and comments, in order. Raises `ValueError`."""
    found: list[str] = []
    item: list[str] = []
    in_group = False
    for piece in (*(each[0] for each in _pieces(value)), ","):
        if piece == ":" and "<" not in item:
            if in_group or "@" in item or not item:
                raise ValueError("a colon stands where no group of addresses can begin")
            in_group, item = True, []
        elif piece in (",", ";"):
            found += _address(item)
            item = []
            if piece == ";" and not in_group:
                raise ValueError("a semicolon ends a group of addresses that did not begin")
            in_group = in_group and piece == ","
        else:
            item.append(piece)
    if in_group:
        raise ValueError("a group of addresses does not end with a semicolon")
    return found


def completed(value: str, domain: str) -> str:
    """The list with the domain behind each address that is a lone word; one that cannot be read is left as it is."""
    try:
        addresses(value)
    except ValueError:
        return value
    ends: list[int] = []
    item: list[re.Match[str]] = []
    for piece in _pieces(value):
        if piece[0] in (",", ";", ":"):
            ends += _lone_word(item) if piece[0] != ":" else []  # what a colon ends is the name of a group
            item = []
        else:
            item.append(piece)
    ends += _lone_word(item)
    return f"@{domain}".join(value[start:end] for start, end in itertools.pairwise((0, *ends, len(value))))


def _lone_word(item: list[re.Match[str]]) -> list[int]:
    """Where the address between two commas ends, if it is a word without a domain."""
    texts = [piece[0] for piece in item]
    inner = item[texts.index("<") + 1 : -1] if "<" in texts else item
    return [inner[0].end()] if len(inner) == 1 and _WORD.fullmatch(inner[0][0]) else []


def _pieces(value: str) -> list[re.Match[str]]:
    """The list without its white space and its comments."""
    found: list[re.Match[str]] = []
    at = 0
    while at < len(value):
        if value[at] == "(":
            at = _behind_comment(value, at)
            continue
        piece = _PIECE.match(value, at)
        if piece is None:
            raise ValueError(f"{_shown(value[at:])!r} cannot stand in a list of addresses")
        if piece["space"] is None:
            found.append(piece)
        at = piece.end()
    return found


def _behind_comment(value: str, at: int) -> int:
    depth = 0
    while True:
        piece = _COMMENT_PIECE.match(value, at)
        if piece is None:
            raise ValueError("a comment does not end")
        depth += {"(": 1, ")": -1}.get(piece[0], 0)
        at = piece.end()
        if depth == 0:
            return at


def _address(item: list[str]) -> list[str]:
    """The one address between two commas; none where there is nothing, RFC 5322 §4.4."""
    if "<" in item:
        start = item.index("<")
        if "@" in item[:start]:
            raise ValueError(f"{_shown(''.join(item))!r}: a name that holds an @ needs quotes")
        if item[-1] != ">":
            raise ValueError(f"{_shown(' '.join(item))!r}: the angle bracket is not closed, or something is behind it")
        item = item[start + 1 : -1]
        if item[:1] == ["@"] and ":" in item:  # a route before the address, of old: nobody follows it any more
            item = item[item.index(":") + 1 :]
        if not item:
            raise ValueError("there is nothing between the angle brackets")
    apart = (a.endswith((".", "@")) or b.startswith((".", "@")) for a, b in itertools.pairwise(item))
    if not (_MEANINGFUL.isdisjoint(item) and all(apart)):
        raise ValueError(f"{_shown(' '.join(item))!r} is no address")
    return ["".join(item)] if item else []


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
