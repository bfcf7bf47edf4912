"""A mail as programs write it, made one as SMTP carries it.

What is not here: the options (`cli.sendmail_options`), sending (`cli.sendmail_road`). Programs write LF, leave out Date
or From, name blind copies in the header; RFC 6409 §8 lets a submission mend that, RFC 5322 §3.6 says what must be
there. Pure: time and chance are arguments. Failure raised: `Trouble`.
"""

import binascii
import re
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from elemta.cli.sendmail_addresses import addresses, completed
from elemta.cli.sendmail_options import Order
from elemta.cli.sendmail_trouble import SysExit, Trouble
from elemta.mail.address import Address
from elemta.mail.envelope import BodyType, Envelope, Recipient
from elemta.mail.headers import MAX_HEADER_FIELDS, MAX_HEADER_OCTETS
from elemta.mail.trace import format_date
from elemta.smtp.grammar import AddressError, parse_address

#: Recipients of one mail, the header's included. More is no mail but a list, which has a program of its own.
MAX_RECIPIENTS: Final = 10_000

#: One field with its folded lines; RFC 5322 §2.2, and §4.5 for the white space before the colon.
_FIELD: Final = re.compile(rb"([!-9;-~]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)")
#: What ends a line: who writes CRLF into a text that makes CRLF of LF has two CRs. A run of them is looked at
#: from its start alone.
_LINE_END: Final = re.compile(rb"(?<!\r)\r++\n")
#: What a mailbox file has before each mail, which is no field.
_MBOX_LINE: Final = re.compile(rb"From [^\n]*+\n")
#: Fields that nobody but us may see, or that the last server writes (RFC 5321 §4.4).
_DROPPED: Final = frozenset({b"bcc", b"resent-bcc", b"return-path"})
#: Fields whose addresses get this host's domain where they have none: `root` means nobody elsewhere, and some servers
#: refuse a mail from it.
_COMPLETED: Final = frozenset(
    {b"from", b"sender", b"reply-to", b"to", b"cc", b"resent-from", b"resent-sender", b"resent-to", b"resent-cc"}
)
#: RFC 5322 §3.6.6: who sends a mail again names its recipients so, and the old ones do not count.
_RESENT: Final = (b"resent-to", b"resent-cc", b"resent-bcc")
_FIRST_SENT: Final = (b"to", b"cc", b"bcc")
#: Octets of a line without its end, RFC 5322 §2.1.1.
MAX_LINE_OCTETS: Final = 998
_LONG_LINE: Final = re.compile(rb"^[^\n]{%d,}+" % (MAX_LINE_OCTETS + 1), re.MULTILINE)
#: Octets of a character of UTF-8 at most: the Unicode standard, §3.9.
_CHARACTER_OCTETS: Final = 4
#: Octets of a name in one encoded word, so that it stays within the 75 characters of RFC 2047 §2.
_WORD_OCTETS: Final = 42


@frozen
class Author:
    """Who calls, and when. `hostname` is a domain, `at` seconds since 1970, `id` unique in the world."""

    user: str
    hostname: str
    at: float
    id: str


@frozen
class Letter:
    """What is given to the server. `content` has CRLF line ends throughout; `unicode_header` is True for UTF-8."""

    envelope: Envelope
    content: bytes
    eight_bit: bool
    unicode_header: bool


def write_letter(octets: bytes, order: Order, *, author: Author) -> Letter:
    """The mail on standard input, ready to be sent. Raises `Trouble`."""
    fields, body = _split(_with_lf(octets, dot_ends=order.dot_ends))
    sender = _sender(order, author)
    recipients = _recipients(order, fields, author.hostname)
    kept = [(name, _whole(name, field, author.hostname)) for name, field in fields if name not in _DROPPED]
    kept += _missing({name for name, _ in kept}, order, sender, author)
    header = b"".join(field for _, field in kept)
    unicode_header = not header.isascii() and _is_utf8(header)
    content = _LONG_LINE.sub(_broken, header + b"\n" + body).replace(b"\n", b"\r\n")
    envelope = Envelope(
        sender,
        tuple(Recipient(address, order.notify, _original(address, order)) for address in recipients),
        body=order.body or BodyType.SEVEN_BIT,
        smtputf8=unicode_header,
        ret=order.ret,
        envid=order.envelope_id,
    )
    return Letter(envelope, content, eight_bit=not content.isascii(), unicode_header=unicode_header)


def _original(address: Address, order: Order) -> str | None:
    """ORCPT, so that a report that is asked for says what the caller wrote, RFC 3461 §4.2."""
    return f"rfc822;{address}" if order.notify is not None and address.is_ascii else None


# ---- the text


def _with_lf(octets: bytes, *, dot_ends: bool) -> bytes:
    """Lines that end with LF, the last one too. NUL, which no mail may hold (RFC 5322 §2.2, §2.3), is left out.

    A CR by itself becomes a space, as in Postfix: in SMTP it must not stand for itself, and were it the end of a line,
    what an application lets into a subject could begin the next field.
    """
    text = _LINE_END.sub(b"\n", octets.replace(b"\0", b"")).replace(b"\r", b" ")
    if text and not text.endswith(b"\n"):
        text += b"\n"
    if dot_ends:
        end = (b"\n" + text).find(b"\n.\n")
        text = text if end < 0 else text[:end]
    mbox = _MBOX_LINE.match(text)
    return text if mbox is None else text[mbox.end() :]


def _split(text: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields, each with its name in lower case, then the body. A first line that is no field begins the body."""
    fields: list[tuple[bytes, bytes]] = []
    at = 0
    while field := _FIELD.match(text, at):
        if field.end() > MAX_HEADER_OCTETS or len(fields) >= MAX_HEADER_FIELDS:
            raise Trouble(SysExit.DATAERR, "the header of this mail is too large")
        fields.append((field[1].lower(), field[0]))
        at = field.end()
    return fields, text[at:].removeprefix(b"\n") if text[at : at + 1] == b"\n" else text[at:]


def _whole(name: bytes, field: bytes, hostname: str) -> bytes:
    """A field whose addresses all have a domain. Latin-1 makes characters of octets, and octets of them again."""
    if name not in _COMPLETED:
        return field
    head, colon, value = field.decode("latin-1").partition(":")
    return f"{head}{colon}{completed(value, hostname)}".encode("latin-1")


def _broken(match: re.Match[bytes]) -> bytes:
    """A line that is too long, as several: before a space where there is one, else before one that is put in.

    So a field stays one, folded; in a body it is what Postfix does. Nothing is cut within a character of UTF-8.
    """
    line = match[0]
    room = MAX_LINE_OCTETS - 1  # an octet is for the space that is put in
    lines: list[bytes] = []
    at = 0
    while len(line) - at > room:
        end = line.rfind(b" ", at + 1, at + room + 1)
        is_space = end >= 0
        if not is_space:
            end = at + room
            end -= next((back for back in range(_CHARACTER_OCTETS) if line[end - back] & 0xC0 != 0x80), 0)
        lines += line[at:end], b"\n" if is_space else b"\n "
        at = end
    return b"".join((*lines, line[at:]))


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- the envelope


def _sender(order: Order, author: Author) -> Address | None:
    if order.sender is None:
        return _own_address(author)
    if not order.sender:
        return None
    found = _listed(order.sender, author.hostname, SysExit.USAGE)
    if len(found) != 1:
        raise Trouble(SysExit.USAGE, f"-f {order.sender}: this is not the address of one sender")
    return found[0]


def _own_address(author: Author) -> Address:
    """The caller's; a name that is no word, such as `DOMAIN\\jo` of a directory, stands in quotes in it."""
    return _one(str(Address(author.user, author.hostname)), author.hostname, SysExit.USAGE)


def _recipients(order: Order, fields: Iterable[tuple[bytes, bytes]], hostname: str) -> list[Address]:
    found: dict[Address, None] = {}
    for word in order.recipients:
        if word.startswith("-"):
            raise Trouble(SysExit.USAGE, f"{word}: options stand before the recipients, and addresses begin otherwise")
        found |= dict.fromkeys(_listed(word, hostname, SysExit.USAGE))
    if order.from_header:
        values = _lists(list(fields))
        for value in values:
            found |= dict.fromkeys(_listed(value, hostname, SysExit.DATAERR))
    if not found:
        where = "neither the header nor the command line names one" if order.from_header else "name one, or give -t"
        raise Trouble(SysExit.USAGE, f"there is no recipient: {where}")
    if len(found) > MAX_RECIPIENTS:
        raise Trouble(SysExit.DATAERR, f"the mail has {len(found)} recipients, at most {MAX_RECIPIENTS} are taken")
    return list(found)


def _lists(fields: list[tuple[bytes, bytes]]) -> list[str]:
    """The values of the fields that name recipients."""
    wanted = _RESENT if any(name in _RESENT for name, _ in fields) else _FIRST_SENT
    values = [field.partition(b":")[2] for name, field in fields if name in wanted]
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise Trouble(SysExit.DATAERR, "the recipients in the header are neither ASCII nor UTF-8") from None


def _listed(value: str, hostname: str, status: SysExit) -> list[Address]:
    try:
        return [_one(address, hostname, status) for address in addresses(value)]
    except ValueError as error:
        raise Trouble(status, f"the addresses cannot be read: {error}") from None


def _one(text: str, hostname: str, status: SysExit) -> Address:
    """One address; one without a domain is of this host."""
    try:
        return parse_address(text if "@" in text else f"{text}@{hostname}")
    except AddressError as error:
        raise Trouble(status, f"{text}: this is no address: {error}") from None


# ---- the fields that are missing


def _missing(names: set[bytes], order: Order, sender: Address | None, author: Author) -> list[tuple[bytes, bytes]]:
    """The fields that RFC 5322 §3.6 wants, Message-ID with them."""
    added: dict[bytes, str] = {}
    if b"from" not in names:
        address = sender or _own_address(author)
        name = _phrase(order.full_name)
        added[b"from"] = f"From: {name} <{address}>" if name else f"From: {address}"
    if b"date" not in names:
        added[b"date"] = f"Date: {format_date(author.at)}"
    if b"message-id" not in names:
        added[b"message-id"] = f"Message-ID: <{author.id}@{author.hostname}>"
    return [(name, f"{field}\n".encode()) for name, field in added.items()]


def _phrase(name: str) -> str:
    """A name before an address: in quotes, or as encoded words (RFC 2047 §5) where it is not ASCII."""
    shown = "".join(char for char in name if char.isprintable()).strip()
    if shown.isascii():
        return '"{}"'.format(re.sub(r'(["\\])', r"\\\1", shown)) if shown else ""
    words: list[bytes] = [b""]
    for char in shown:
        octets = char.encode("utf-8", "replace")
        if len(words[-1]) + len(octets) > _WORD_OCTETS:
            words.append(b"")
        words[-1] += octets
    return "\n ".join(f"=?utf-8?b?{binascii.b2a_base64(word, newline=False).decode()}?=" for word in words)
