"""The format of a delivery status notification.

What is not here: who gets one about whom (`queue.bounce`), or the words for people inside it (`mail.dsn_words`).
RFC 6522 gives the frame (multipart/report), RFC 3464 the part for programs, RFC 6533 both for addresses outside ASCII,
RFC 3834 §5 the mark that keeps others from answering it.

Whatever the reported mail holds, a rendered report has CRLF line ends alone, no NUL, no line over 998 octets, and its
boundary nowhere but between its parts. It is 7bit but in two cases: a whole 8bit mail is returned (RFC 2046 §5.2.1
allows no encoding of message/rfc822), or an address is outside ASCII (whose bearer takes SMTPUTF8, and so 8BITMIME).
Failures raised: `BoundaryFound`, upon which the caller chooses another boundary.
"""

import binascii
import enum
import re

from attrs import frozen

from elemta.mail.address import Address
from elemta.mail.headers import header_block, header_end, printable, raw_field
from elemta.mail.outcome import NO_PEER, Peer
from elemta.mail.reply import Reply
from elemta.mail.trace import address_literal, format_date

#: Octets of a line without its CRLF: RFC 5322 §2.1.1, RFC 5321 §4.5.3.1.6.
MAX_LINE_OCTETS = 998
#: Where lines of ours are folded: RFC 5322 §2.1.1.
FOLD_AT_OCTETS = 78
#: Octets of an address that are shown: a local part of 64, the `@`, a domain of 255 (RFC 5321 §4.5.3.1.1, §4.5.3.1.2).
MAX_ADDRESS_OCTETS = 320
#: Octets of a host's name that are shown: RFC 5321 §4.5.3.1.2.
MAX_HOST_OCTETS = 255
#: Octets of an envelope id that are shown: RFC 3461 §4.4.
MAX_ENVID_OCTETS = 100
#: Octets of an address type that are shown. Ours: the registered ones are shorter than ten.
MAX_TYPE_OCTETS = 20
#: Octets of a remote host's words that are shown. Ours: most replies whole, and the report still a small mail.
REPLY_OCTETS = 400

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_MESSAGE_ID = re.compile(rb"<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>\Z")
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z", re.ASCII)


class BoundaryFound(ValueError):
    """The boundary stands in a part: choose another."""


class Action(enum.Enum):
    """What happened to the mail for one recipient, RFC 3464 §2.3.3."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


#: The first digits that a status may have beside each action, the usual one first: RFC 3464 §2.3.4, RFC 3463 §3.1.
_CLASSES = {
    Action.FAILED: "54",
    Action.DELAYED: "4",
    Action.DELIVERED: "2",
    Action.RELAYED: "2",
    Action.EXPANDED: "2",
}


@frozen
class RecipientReport:
    """What is reported of one recipient.

    `status` is `class.subject.detail`; `reply` is what was last said about it, by `peer`, or by us when there is none.
    `original` is the decoded ORCPT (`type;address`). Times are UTC in seconds since 1970. `uncertain`: the mail may
    have arrived although nobody said so.
    """

    address: Address
    action: Action
    status: str
    reply: Reply
    peer: Peer = NO_PEER
    original: str | None = None
    last_attempt_at: float | None = None
    will_retry_until: float | None = None
    uncertain: bool = False


@frozen
class Dsn:
    """All that one report says.

    `to` is the sender of the reported mail, `id` the queue id of the report, `mail_id` the one that the sender's side
    was told, `hostname` ours. `text` is the part for people, as `mail.dsn_words` writes it. `original` is the reported
    mail when `whole`, else its header block or the first octets of it, or nothing. `utf8_mail`: the reported mail came
    with SMTPUTF8.
    """

    to: Address
    subject: str
    text: str
    hostname: str
    id: str
    mail_id: str
    at: float
    arrived_at: float
    recipients: tuple[RecipientReport, ...]
    envid: str | None = None
    original: bytes = b""
    whole: bool = False
    utf8_mail: bool = False
    reply_octets: int = REPLY_OCTETS


@frozen
class RenderedDsn:
    """A report as octets. `utf8`: it needs SMTPUTF8; `eight_bit`: it needs 8BITMIME."""

    content: bytes
    header_octets: int
    eight_bit: bool
    utf8: bool


@frozen
class _Part:
    type: str
    body: bytes
    encoding: str = "7bit"


def status_for(action: Action, reply: Reply) -> str:
    """The status beside an action: the reply's own where it fits, else the class alone (RFC 3464 §2.3.4)."""
    classes = _CLASSES[action]
    if _ENHANCED.match(reply.enhanced) and reply.enhanced[0] in classes:
        return reply.enhanced
    digit = str(reply.code)[0]
    return f"{digit if digit in classes else classes[0]}.0.0"


def render(dsn: Dsn, boundary: str) -> RenderedDsn:
    """The report as a mail. Raises `BoundaryFound` when `boundary` (at most 70 of RFC 2046 §5.1.1) stands in a part."""
    utf8 = _needs_utf8(dsn)
    parts = (_text_part(dsn.text, utf8=utf8), _status_part(dsn, utf8=utf8), *_original_parts(dsn, utf8=utf8))
    mark = boundary.encode("ascii")
    if any(mark in part.body for part in parts):
        raise BoundaryFound(boundary)
    eight_bit = utf8 or any(part.encoding == "8bit" for part in parts)
    header = _header(dsn, boundary, utf8=utf8, eight_bit=eight_bit)
    chunks = [header, b"\r\nThis is a report in MIME format, RFC 3464.\r\n"]
    for part in parts:
        chunks += (b"\r\n--", mark, b"\r\n", _part_header(part), b"\r\n", part.body)
    chunks += (b"\r\n--", mark, b"--\r\n")
    return RenderedDsn(b"".join(chunks), len(header), eight_bit, utf8)


def wrap(text: str, indent: str = "") -> list[str]:
    """Lines of less than `FOLD_AT_OCTETS` that hold the words of `text`; a word too long for that has its own line."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and len(f"{line} {word}".encode("utf-8", "replace")) >= FOLD_AT_OCTETS:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else f"{indent}{word}"
    return [*lines, line]


def clip(text: str, octets: int) -> str:
    """The text made printable, cut to so many octets of UTF-8."""
    wire = printable(text).encode("utf-8", "replace")
    return wire.decode() if len(wire) <= octets else wire[: octets - 3].decode("utf-8", "ignore") + "..."


def host_name(name: str) -> str:
    """A host's name as it may be shown anywhere: short, printable, in ASCII (A-labels are)."""
    return clip(name, MAX_HOST_OCTETS).encode("ascii", "replace").decode()


def _needs_utf8(dsn: Dsn) -> bool:
    """RFC 6533 §4: only what ASCII cannot name asks the sender's side for SMTPUTF8."""
    entries = dsn.recipients
    return (
        not dsn.to.is_ascii
        or any(not entry.address.is_ascii or not (entry.original or "").isascii() for entry in entries)
        or (dsn.utf8_mail and not header_block(dsn.original).isascii())
    )


def _header(dsn: Dsn, boundary: str, *, utf8: bool, eight_bit: bool) -> bytes:
    kind = "global-delivery-status" if utf8 else "delivery-status"
    host = host_name(dsn.hostname)
    answered = raw_field(header_block(dsn.original), "message-id") or b""
    fields = [
        _field("From", f"Mail Delivery System <MAILER-DAEMON@{host}>", utf8=utf8),
        _field("To", f"<{clip(str(dsn.to), MAX_ADDRESS_OCTETS)}>", utf8=utf8),
        _field("Subject", dsn.subject, utf8=utf8),
        _field("Date", format_date(dsn.at), utf8=utf8),
        _field("Message-ID", f"<{dsn.id}@{host}>", utf8=utf8),
        b"Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n",
        f'Content-Type: multipart/report; report-type={kind};\r\n\tboundary="{boundary}"\r\n'.encode("ascii"),
    ]
    if _MESSAGE_ID.match(answered):
        fields.insert(5, b"In-Reply-To: " + answered + b"\r\nReferences: " + answered + b"\r\n")
    if eight_bit:
        fields.append(b"Content-Transfer-Encoding: 8bit\r\n")
    return b"".join(fields)


def _part_header(part: _Part) -> bytes:
    return f"Content-Type: {part.type}\r\nContent-Transfer-Encoding: {part.encoding}\r\n".encode("ascii")


def _text_part(text: str, *, utf8: bool) -> _Part:
    body = text.replace("\n", "\r\n").encode("utf-8", "replace")
    if body.isascii():
        return _Part("text/plain; charset=us-ascii", body)
    return _either_way("text/plain; charset=utf-8", body, utf8=utf8)


def _either_way(type: str, body: bytes, *, utf8: bool) -> _Part:
    """Text outside ASCII: as it is where SMTPUTF8 promises 8BITMIME (RFC 6531 §3.1), else made to pass everywhere."""
    if utf8:
        return _Part(type, body, "8bit")
    return _Part(type, binascii.b2a_qp(body, istext=True), "quoted-printable")


def _status_part(dsn: Dsn, *, utf8: bool) -> _Part:
    groups = [_mail_fields(dsn, utf8=utf8)]
    groups += [_recipient_fields(entry, dsn.reply_octets, utf8=utf8) for entry in dsn.recipients]
    body = b"\r\n".join(groups)
    if utf8:
        return _Part("message/global-delivery-status", body, "8bit")
    return _Part("message/delivery-status", body)


def _mail_fields(dsn: Dsn, *, utf8: bool) -> bytes:
    fields = [_field("Reporting-MTA", f"dns; {host_name(dsn.hostname)}", utf8=utf8)]
    if dsn.envid:
        fields.insert(0, _field("Original-Envelope-Id", clip(dsn.envid, MAX_ENVID_OCTETS), utf8=utf8))
    fields.append(_field("Arrival-Date", format_date(dsn.arrived_at), utf8=utf8))
    fields.append(_field("X-Elemta-Queue-Id", dsn.mail_id, utf8=utf8))
    return b"".join(fields)


def _recipient_fields(entry: RecipientReport, reply_octets: int, *, utf8: bool) -> bytes:
    kind = "rfc822" if entry.address.is_ascii else "utf-8"
    values = [
        ("Original-Recipient", _original_recipient(entry.original)),
        ("Final-Recipient", f"{kind}; {clip(str(entry.address), MAX_ADDRESS_OCTETS)}"),
        ("Action", entry.action.value),
        ("Status", entry.status),
        ("Remote-MTA", _remote_mta(entry.peer)),
        ("Diagnostic-Code", _diagnostic_code(entry, reply_octets)),
        ("Last-Attempt-Date", _date(entry.last_attempt_at)),
        ("Will-Retry-Until", _date(entry.will_retry_until) if entry.action is Action.DELAYED else ""),
    ]
    return b"".join(_field(name, value, utf8=utf8) for name, value in values if value)


def _original_recipient(original: str | None) -> str:
    kind, separator, address = (original or "").partition(";")
    return f"{clip(kind, MAX_TYPE_OCTETS)}; {clip(address, MAX_ADDRESS_OCTETS)}" if separator else ""


def _remote_mta(peer: Peer) -> str:
    if peer.host:
        return f"dns; {host_name(peer.host)}"
    return f"dns; {address_literal(host_name(peer.address))}" if peer.address else ""


def _diagnostic_code(entry: RecipientReport, reply_octets: int) -> str:
    """RFC 3464 §2.3.6: `smtp` only for what a mail host said; our own words have a type of our own."""
    kind = "x-elemta" if entry.peer == NO_PEER else "smtp"
    return f"{kind}; {clip(str(entry.reply), reply_octets)}"


def _date(at: float | None) -> str:
    return "" if at is None else format_date(at)


def _field(name: str, value: str, *, utf8: bool) -> bytes:
    """A folded field; without `utf8`, characters outside ASCII are written as RFC 6533 §3 embeds them."""
    text = printable(value)
    if not utf8:
        text = _NOT_ASCII.sub(lambda found: f"\\x{{{ord(found[0]):X}}}", text)
    return ("\r\n\t".join(wrap(f"{name}: {text}")) + "\r\n").encode("utf-8", "replace")


def _original_parts(dsn: Dsn, *, utf8: bool) -> tuple[_Part, ...]:
    """The reported mail, if it may be whole and can be; else its header; nothing when nothing is known of it."""
    if dsn.whole and _can_travel(dsn.original):
        return (_whole_part(dsn.original, utf8=utf8 and dsn.utf8_mail),)
    header = _clean_header(header_block(dsn.original))
    if not header:
        return ()
    if header.isascii():
        return (_Part("text/rfc822-headers", header),)
    if utf8 and dsn.utf8_mail:
        return (_Part("message/global-headers", header, "8bit"),)
    return (_either_way("text/rfc822-headers", header, utf8=False),)


def _whole_part(original: bytes, *, utf8: bool) -> _Part:
    encoding = "7bit" if original.isascii() else "8bit"
    header_is_ascii = header_block(original).isascii()
    return _Part("message/global" if utf8 and not header_is_ascii else "message/rfc822", original, encoding)


def _can_travel(original: bytes) -> bool:
    """True when a mail holds nothing that SMTP forbids: RFC 5321 §2.3.8, §4.5.3.1.6; RFC 6152 §3 for NUL.

    A mail that ends inside its header would take the boundary for a field; it is returned as a header.
    """
    breaks = original.count(b"\r\n")
    return (
        header_end(original) >= 0
        and original.count(b"\r") == breaks
        and original.count(b"\n") == breaks
        and b"\0" not in original
        and max(map(len, original.split(b"\r\n"))) <= MAX_LINE_OCTETS
    )


def _clean_header(header: bytes) -> bytes:
    """A header block whose lines end with CRLF alone and are no longer than they may be: what is over is cut off."""
    whole = header.replace(b"\0", b"?")
    lines = [re.sub(rb"[\r\n]", b" ", line)[:MAX_LINE_OCTETS] for line in whole.split(b"\r\n") if line]
    return b"".join(line + b"\r\n" for line in lines)
