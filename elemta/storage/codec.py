"""Mails as rows of plain columns.

What is not here: any one engine, or its statements. Whatever is queried is a column of its own, the rest is JSON that a
person can read. Every store that keeps rows shares this layout, and `memory` uses it to refuse what they would refuse.

Raises `Unfit` for what no engine could give back as it was: an id of another form, text that is not Unicode, a
time that is not a number.
"""

import re
from math import isfinite
from typing import Any

import orjson

from elemta.mail.address import Address
from elemta.mail.envelope import BodyType, Envelope, Notify, Priority, Recipient, Ret
from elemta.mail.ids import is_queue_id
from elemta.mail.outcome import Attempt, AttemptResult, Peer
from elemta.mail.reply import Reply
from elemta.storage.records import (
    UNTRIED,
    ContentRef,
    Origin,
    Progress,
    QueuedMail,
    QueueState,
    RecipientStatus,
)

#: A row of `mails`, in the order of `MAIL_COLUMNS`; a row of `attempts` likewise.
MailRow = tuple[Any, ...]
AttemptRow = tuple[Any, ...]

MAIL_COLUMNS = (
    "id",
    "state",
    "priority",
    "owner",
    "destination",
    "sender",
    "recipients",
    "progress",
    "received_at",
    "next_attempt_at",
    "expires_at",
    "attempts",
    "attempting_since",
    "reason",
    "details",
    "origin_id",
    "content_id",
    "content_size",
    "content_eight_bit",
    "content_header_octets",
    "content_digest",
)
ATTEMPT_COLUMNS = (
    "mail_id",
    "started_at",
    "duration",
    "recipient",
    "result",
    "code",
    "enhanced",
    "lines",
    "host",
    "address",
)
#: The first column, counted from 0, that a finished attempt leaves alone: where the mail came from does not change.
FIRST_FIXED_COLUMN = MAIL_COLUMNS.index("origin_id")

#: Integers are 64 bits wide in every engine.
_LARGEST_INTEGER = 2**63 - 1
#: Addresses that need no quotes, the common case of `Address.__str__`: atoms and dots, RFC 5321 §4.1.2.
_PLAIN_LOCAL = re.compile(r"[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+(?:\.[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+)*", re.ASCII)
#: SHA-256 in hexadecimal, FIPS 180-4 §1: 256 bits.
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
#: `progress` of a mail whose recipients were all never tried: most mails leave the queue in this form.
_ALL_UNTRIED = "[]"

_STATE_OF = {state.value: state for state in QueueState}
_STATUS_OF = {status.value: status for status in RecipientStatus}
_RESULT_OF = {result.value: result for result in AttemptResult}
_PRIORITY_OF = {priority.value: priority for priority in Priority}
_NOTIFY_TEXT = {
    Notify(value): ",".join(flag.name or "" for flag in Notify if flag.value & value) or "NEVER" for value in range(8)
}
_NOTIFY_OF = {text: notify for notify, text in _NOTIFY_TEXT.items()}
_ORIGIN_FIELDS = ("client", "helo", "listener", "user", "protocol")


class Unfit(ValueError):
    """A record that cannot be kept as it is. The text says why."""


# ---- addresses -----------------------------------------------------------------------------------


def address_text(address: Address) -> str:
    """What `str(address)` gives, at a fifth of its cost for plain addresses."""
    local = address.local
    if _PLAIN_LOCAL.fullmatch(local) and address.domain:
        return f"{local}@{address.domain}"
    return str(address)


def address_of(text: str) -> Address:
    """The address that `address_text` wrote."""
    if not text.startswith('"'):
        local, at, domain = text.rpartition("@")
        return Address(local, domain) if at else Address(domain, "")
    # A domain holds no quote, so the last one closes the local part.
    end = text.rindex('"')
    return Address(_ESCAPED.sub(r"\1", text[1:end]), text[end + 2 :])


# ---- mails ---------------------------------------------------------------------------------------


def encode_mail(mail: QueuedMail) -> MailRow:
    """The row of a mail, in the order of `MAIL_COLUMNS`. Raises `Unfit`."""
    try:
        return _encode_mail(mail)
    except (TypeError, AttributeError, UnicodeError, OverflowError) as error:
        raise Unfit(f"mail cannot be kept: {error}") from error


def _encode_mail(mail: QueuedMail) -> MailRow:
    envelope, content, progress = mail.envelope, mail.content, mail.progress
    _check_mail(mail)
    sender = "" if envelope.reverse_path is None else address_text(envelope.reverse_path)
    recipients = [address_text(recipient.address) for recipient in envelope.recipients]
    untried = all(each is UNTRIED or each == UNTRIED for each in progress)
    plain = f"{sender}{mail.destination}{mail.reason}{mail.owner}"
    if not plain.isascii():
        plain.encode()
    return (
        mail.id,
        mail.state.value,
        int(mail.priority),
        mail.owner,
        mail.destination,
        sender,
        orjson.dumps(recipients).decode(),
        _ALL_UNTRIED if untried else orjson.dumps([_plain_progress(each) for each in progress]).decode(),
        float(mail.received_at),
        float(mail.next_attempt_at),
        float(mail.expires_at),
        mail.attempts,
        mail.attempting_since,
        mail.reason,
        orjson.dumps(_plain_details(mail)).decode(),
        mail.origin_id,
        content.id,
        content.size,
        int(content.eight_bit),
        content.header_octets,
        content.digest,
    )


def _check_mail(mail: QueuedMail) -> None:
    content = mail.content
    # Most mails have one destination, and one id for everything.
    others = {mail.origin_id, content.id, mail.id}
    if not is_queue_id(mail.id) or (len(others) > 1 and not all(map(is_queue_id, others))):
        raise Unfit("an id is not of the form that ids have")
    if len(mail.progress) != len(mail.envelope.recipients):
        raise Unfit("progress does not run parallel to the recipients")
    # One test for all: a sum is finite only when every term is.
    if not isfinite(mail.received_at + mail.next_attempt_at + mail.expires_at + (mail.attempting_since or 0.0)):
        raise Unfit("a time is not a finite number")
    if content.digest and not _DIGEST.fullmatch(content.digest):
        raise Unfit("the content's digest is no SHA-256")
    if not 0 <= max(content.size, content.header_octets, mail.attempts) <= _LARGEST_INTEGER:
        raise Unfit("a number does not fit into 64 bits")


def _plain_progress(progress: Progress) -> dict[str, Any]:
    plain: dict[str, Any] = {"status": progress.status.value}
    reply = progress.reply
    if reply is not None:
        plain["reply"] = [reply.code, reply.enhanced, *reply.lines]
    if progress.reported:
        plain["reported"] = True
    if progress.delay_reported:
        plain["delay_reported"] = True
    return plain


def _progress_of(plain: dict[str, Any]) -> Progress:
    said = plain.get("reply")
    return Progress(
        status=_STATUS_OF[plain["status"]],
        reply=None if said is None else Reply(said[0], said[1], tuple(said[2:])),
        reported=plain.get("reported", False),
        delay_reported=plain.get("delay_reported", False),
    )


def _plain_details(mail: QueuedMail) -> dict[str, Any]:
    """What is neither queried nor changed, without what has its default."""
    envelope, origin = mail.envelope, mail.origin
    details: dict[str, Any] = {}
    if envelope.body is not BodyType.SEVEN_BIT:
        details["body"] = envelope.body.value
    if envelope.smtputf8:
        details["smtputf8"] = True
    if envelope.ret is not None:
        details["ret"] = envelope.ret.value
    if envelope.envid is not None:
        details["envid"] = envelope.envid
    if envelope.require_tls:
        details["require_tls"] = True
    if envelope.mt_priority is not None:
        details["mt_priority"] = envelope.mt_priority
    for recipient in envelope.recipients:
        if recipient.notify is not None or recipient.original is not None:
            details["dsn"] = [_plain_dsn(each) for each in envelope.recipients]
            break
    said = {name: text for name in _ORIGIN_FIELDS if (text := getattr(origin, name))}
    if said:
        details["origin"] = said
    if mail.annotations:
        details["annotations"] = dict(mail.annotations)
    return details


def _plain_dsn(recipient: Recipient) -> list[str | None]:
    notify = recipient.notify
    return [None if notify is None else _NOTIFY_TEXT[notify], recipient.original]


def decode_mail(row: MailRow) -> QueuedMail:
    """The mail of a row that `encode_mail` made."""
    details = orjson.loads(row[14])
    recipients = _recipients_of(orjson.loads(row[6]), details.get("dsn"))
    progress = row[7]
    origin = details.get("origin")
    return QueuedMail(
        id=row[0],
        state=_STATE_OF[row[1]],
        priority=_PRIORITY_OF[row[2]],
        owner=row[3],
        destination=row[4],
        envelope=_envelope_of(row[5], recipients, details),
        progress=(UNTRIED,) * len(recipients)
        if progress == _ALL_UNTRIED
        else tuple([_progress_of(each) for each in orjson.loads(progress)]),
        received_at=row[8],
        next_attempt_at=row[9],
        expires_at=row[10],
        attempts=row[11],
        attempting_since=row[12],
        reason=row[13],
        origin=Origin(**origin) if origin else Origin(),
        annotations=details.get("annotations") or {},
        origin_id=row[15],
        content=ContentRef(row[16], row[17], row[18] != 0, row[19], row[20]),
    )


def _recipients_of(addresses: list[str], dsn: list[list[str | None]] | None) -> tuple[Recipient, ...]:
    if dsn is None:
        return tuple([Recipient(address_of(text)) for text in addresses])
    return tuple(
        [
            Recipient(address_of(text), None if notify is None else _NOTIFY_OF[notify], original)
            for text, (notify, original) in zip(addresses, dsn, strict=True)
        ]
    )


def _envelope_of(sender: str, recipients: tuple[Recipient, ...], details: dict[str, Any]) -> Envelope:
    ret = details.get("ret")
    return Envelope(
        reverse_path=address_of(sender) if sender else None,
        recipients=recipients,
        body=BodyType(details.get("body", BodyType.SEVEN_BIT)),
        smtputf8=details.get("smtputf8", False),
        ret=None if ret is None else Ret(ret),
        envid=details.get("envid"),
        require_tls=details.get("require_tls", False),
        mt_priority=details.get("mt_priority"),
    )


# ---- attempts ------------------------------------------------------------------------------------


def encode_attempt(mail_id: str, attempt: Attempt) -> AttemptRow:
    """The row of an attempt, in the order of `ATTEMPT_COLUMNS`. Raises `Unfit`."""
    reply, peer = attempt.reply, attempt.peer
    try:
        plain = f"{attempt.recipient}{reply.enhanced}{peer.host}{peer.address}"
        if not plain.isascii():
            plain.encode()
        if not isfinite(attempt.started_at + attempt.duration):
            raise Unfit("a time is not a finite number")
        return (
            mail_id,
            float(attempt.started_at),
            float(attempt.duration),
            attempt.recipient,
            attempt.result.value,
            reply.code,
            reply.enhanced,
            orjson.dumps(reply.lines).decode(),
            peer.host,
            peer.address,
        )
    except (TypeError, AttributeError, UnicodeError, OverflowError) as error:
        raise Unfit(f"attempt cannot be kept: {error}") from error


def decode_attempt(row: AttemptRow) -> Attempt:
    """The attempt of a row that `encode_attempt` made."""
    return Attempt(
        started_at=row[1],
        duration=row[2],
        recipient=row[3],
        result=_RESULT_OF[row[4]],
        reply=Reply(row[5], row[6], tuple(orjson.loads(row[7]))),
        peer=Peer(row[8], row[9]),
    )
