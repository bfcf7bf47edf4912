"""What can be read from a mail's header block without parsing the mail.

What is not here: MIME structure, DKIM's view of fields (`mailauth`), or what is done about what is found (`inbound`).
A header block is the octets before the first empty line, its last CRLF included, the empty line not. Everything here
works on whole blocks by `find`, `count` and `lower`, never line by line: a mail of a million fields costs no more an
octet than any other (RFC 5322 §2.2).
Nothing here raises for hostile octets.
"""

import enum
import re
from email.errors import HeaderParseError
from email.header import decode_header

from attrs import frozen

#: Octets of a header block that we take: as much as Exchange takes, 128 times what mails usually have. Beyond it every
#: program on the way would have to carry it in memory.
MAX_HEADER_OCTETS = 256 * 1024
#: Fields of a header block that we take. Ours: ten times a mail with a hundred hops, each of which signs and stamps it.
MAX_HEADER_FIELDS = 2000
#: Characters of a field value shown to people: RFC 5322 §2.1.1's longest line, decoded.
MAX_READABLE_CHARACTERS = 998
#: Octets of a field value that are looked at for it: an encoded word needs up to twelve octets a character.
_READABLE_OCTETS = 12 * MAX_READABLE_CHARACTERS

#: Charsets that an encoded word may name (RFC 2047 §2), by how their names begin. Python knows codecs under more
#: names, among them some that are slow on purpose-made input (idna, punycode), no charsets at all (hex, zlib), or that
#: write escapes (utf-7, unicode_escape): none of these is decoded.
_CHARSETS = (
    "us-ascii", "ascii", "utf-8", "utf8", "iso-8859", "iso8859", "iso_8859", "latin", "windows-125", "cp125", "cp437",
    "cp85", "cp866", "cp874", "cp932", "cp936", "cp949", "cp950", "koi8", "gb2312", "gbk", "gb18030", "big5", "euc-",
    "euc_", "shift_jis", "shift-jis", "sjis", "iso-2022-jp", "iso-2022-kr", "ks_c_5601", "tis-620", "mac",
)  # fmt: skip

#: What no line of a log, a table or a report may hold: control characters (C0, DEL, C1), the line and paragraph
#: separators, the marks that turn the direction of writing, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]+")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_FIELD_END = re.compile(rb"\r\n(?![ \t])")


class HeaderFault(enum.Enum):
    """Why a header block is refused; the value says it to the client."""

    TOO_LARGE = "the header is too large"
    TOO_MANY_FIELDS = f"the header has more than {MAX_HEADER_FIELDS} fields"


@frozen
class HeaderSurvey:
    """What one look at a header block tells: how many fields, how many of them `Received`, and which of those that
    RFC 5322 §3.6 asks for are there."""

    fields: int
    received: int
    has_from: bool
    has_date: bool
    has_message_id: bool


def header_end(content: bytes | bytearray, start: int = 0) -> int:
    """Octets of the header block at the start of `content`; -1 when its end is not in `content` yet.

    The body begins two octets further on. `start` is from where to search: what was searched before needs no second
    look, but for its last three octets. A mail that ends without an empty line is all header: the caller knows its end.
    """
    if content[:2] == b"\r\n":
        return 0
    found = content.find(b"\r\n\r\n", max(start, 0))
    return found if found < 0 else found + 2


def header_block(content: bytes) -> bytes:
    """The header block of whole content, or of its first octets: all of it when there is no empty line."""
    end = header_end(content)
    return content if end < 0 else content[:end]


def survey(header: bytes) -> HeaderSurvey:
    """Look over a header block once."""
    lowered = b"\r\n" + header.lower()
    ends = _ends(lowered)
    return HeaderSurvey(
        fields=_count_fields(lowered),
        received=_count(lowered, b"received", ends),
        has_from=_count(lowered, b"from", ends) > 0,
        has_date=_count(lowered, b"date", ends) > 0,
        has_message_id=_count(lowered, b"message-id", ends) > 0,
    )


def header_fault(header: bytes) -> HeaderFault | None:
    """Why a header block (or the part of it that has come so far) is beyond our bounds; None when it is not."""
    if len(header) > MAX_HEADER_OCTETS:
        return HeaderFault.TOO_LARGE
    if _count_fields(b"\r\n" + header) > MAX_HEADER_FIELDS:
        return HeaderFault.TOO_MANY_FIELDS
    return None


def count_field(header: bytes, name: str) -> int:
    """How often the field `name` stands in a header block, in any case of letters; 0 when it does not."""
    lowered = b"\r\n" + header.lower()
    return _count(lowered, name.lower().encode("ascii"), _ends(lowered))


def raw_field(header: bytes, name: str) -> bytes | None:
    """The value of the first field `name`, unfolded (RFC 5322 §2.2.3) and stripped, otherwise as it came.

    None when there is no such field.
    """
    start = _find(b"\r\n" + header.lower(), name.lower().encode("ascii"))
    if start < 0:
        return None
    # The search ran over a block with two octets more in front, so `start` is behind the line end before the field.
    end = _FIELD_END.search(header, start)
    value = header[header.index(b":", start) + 1 : len(header) if end is None else end.start()]
    return _FOLD.sub(b"", value).strip(b" \t\r\n")


def readable_field(header: bytes, name: str) -> str:
    """The value of the first field `name` for people: decoded (RFC 2047, RFC 6532), on one line, without control
    characters, at most `MAX_READABLE_CHARACTERS` long. Empty when there is no such field."""
    return readable(raw_field(header, name) or b"")


def readable(value: bytes) -> str:
    """An unfolded field value for people; as `readable_field`. What cannot be decoded is shown as it came."""
    text = value[:_READABLE_OCTETS].decode("utf-8", "replace")
    if "=?" in text:
        text = _decode_words(text)
    return printable(text)[:MAX_READABLE_CHARACTERS]


def printable(text: str) -> str:
    """The text with every run of control characters (line breaks and direction marks among them) made one space."""
    return _UNPRINTABLE.sub(" ", text).strip()


def _decode_words(text: str) -> str:
    # One line, up to the last end of a word: behind it `decode_header` looks for an end from each beginning anew.
    words, end, rest = printable(text).rpartition("?=")
    try:
        pieces = decode_header(words + end)
    except (HeaderParseError, ValueError):  # broken base64: binascii.Error is a ValueError
        return text
    return "".join(one if isinstance(one, str) else _decode_piece(one, charset) for one, charset in pieces) + rest


def _decode_piece(piece: bytes, charset: str | None) -> str:
    if charset is None:
        # The words between encoded words; `decode_header` hands out characters beyond Latin-1 as escapes otherwise.
        return piece.decode("raw-unicode-escape", "replace")
    if not charset.lower().startswith(_CHARSETS):
        return piece.decode("ascii", "replace")
    try:
        return piece.decode(charset, "replace")
    except (LookupError, UnicodeError):
        return piece.decode("ascii", "replace")


def _count_fields(block: bytes) -> int:
    """Lines that begin a field, in a block with a CRLF in front; a last CRLF begins none."""
    folds = block.count(b"\r\n ") + block.count(b"\r\n\t")
    return block.count(b"\r\n") - folds - block.endswith(b"\r\n")


def _ends(lowered: bytes) -> tuple[bytes, ...]:
    """What else than a colon may end a field's name in this block.

    RFC 5322 §4.5: old mails may have white space before the colon. One space or tab is tolerated; more of it stands in
    no mail but a contrived one, and a contrived mail cannot hide the fields that we add.
    """
    return (b" :", b"\t:") if b" :" in lowered or b"\t:" in lowered else ()


def _count(lowered: bytes, name: bytes, ends: tuple[bytes, ...]) -> int:
    found = lowered.count(b"\r\n" + name + b":")
    for end in ends:
        found += lowered.count(b"\r\n" + name + end)
    return found


def _find(lowered: bytes, name: bytes) -> int:
    """Where the first field `name` begins, counted without the CRLF in front of the block; -1 when there is none."""
    places = [lowered.find(b"\r\n" + name + end) for end in (b":", *_ends(lowered))]
    return min((place for place in places if place >= 0), default=-1)
