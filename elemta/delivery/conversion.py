"""The conversion of 8-bit mails for hosts that take 7 bits alone.

What is not here: whether a host takes 8 bits (`smtp.client_checks`). RFC 6152 §3 leaves two ways with such a host: to
convert, or to return the mail. A mail of one text part is converted to quoted-printable (RFC 2045 §6.7); all others
are returned, see docs/adr/0004-eight-bit-mail-for-seven-bit-hosts.md. Failures raised: none of its own.
"""

import binascii
import re
from typing import Final

from attrs import frozen

from elemta.delivery.base import Content

#: Octets of a header that is looked at whole; a longer one is taken for one that is not ASCII.
MAX_HEADER_OCTETS: Final = 1024 * 1024

#: Octets of a mail that is converted; it is held in memory, together with up to three times as much.
MAX_CONVERTED_OCTETS: Final = 1024 * 1024

#: A line end that ends a field: no folding white space follows, RFC 5322 §2.2.3.
_FIELD_END: Final = re.compile(rb"\r\n(?![ \t])")


@frozen
class ConvertedContent:
    """A mail in memory, with octets under 128 only."""

    octets: bytes
    eight_bit: bool = False

    @property
    def size(self) -> int:
        """Octets in all."""
        return len(self.octets)

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`."""
        return self.octets[offset : offset + limit]


async def header_is_ascii(content: Content) -> bool:
    """False when the header holds an octet over 127, or is longer than `MAX_HEADER_OCTETS`."""
    octets = await _read_whole(content, MAX_HEADER_OCTETS)
    header, end, _ = (b"\r\n" + octets).partition(b"\r\n\r\n")
    return header.isascii() and (bool(end) or content.size <= MAX_HEADER_OCTETS)


async def to_seven_bit(content: Content) -> Content:
    """The mail with its one text part in quoted-printable; the mail itself where that cannot be done."""
    if content.size > MAX_CONVERTED_OCTETS:
        return content
    octets = await _read_whole(content, content.size)
    header, end, body = octets.partition(b"\r\n\r\n")
    if not end or not header.isascii():
        return content
    fields = _FIELD_END.split(header)
    if not _is_plain_text(fields):
        return content
    converted = [_quoted_printable_field(field) for field in fields]
    return ConvertedContent(b"\r\n".join(converted) + end + quoted_printable(body))


async def _read_whole(content: Content, limit: int) -> bytes:
    """The first `limit` octets."""
    pieces: list[bytes] = []
    size = 0
    while size < limit:
        piece = await content.read(size, limit - size)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def quoted_printable(body: bytes) -> bytes:
    """A text with CRLF line ends in quoted-printable, RFC 2045 §6.7: lines of at most 76 characters."""
    encoded = binascii.b2a_qp(body, istext=True)
    # It breaks lines with LF alone where the text has no line end of its own to tell it better.
    return encoded.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].rstrip(b" \t").lower()


def _value(field: bytes) -> bytes:
    return field.partition(b":")[2].strip().lower()


def _is_plain_text(fields: list[bytes]) -> bool:
    """True for MIME of one text part that says itself that it is 8bit: nothing is guessed."""
    values: dict[bytes, list[bytes]] = {}
    for field in fields:
        values.setdefault(_name(field), []).append(_value(field))
    kinds = values.get(b"content-type", [])
    return (
        len(values.get(b"mime-version", ())) == 1
        and len(kinds) == 1
        and kinds[0].startswith(b"text/")
        and values.get(b"content-transfer-encoding") == [b"8bit"]
    )


def _quoted_printable_field(field: bytes) -> bytes:
    if _name(field) != b"content-transfer-encoding":
        return field
    return field.partition(b":")[0] + b": quoted-printable"
