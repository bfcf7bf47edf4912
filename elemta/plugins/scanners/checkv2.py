"""rspamd's question with its answer, without I/O.

What is not here: HTTP (`scanners.http`), or what follows from an answer (`scanners.rspamd`). The fields of the
question, the members of the answer to `/checkv2` are those of rspamd's documentation, "Rspamd protocol".
Failure raised: `ScannerFailed`.
"""

import enum
import json
import math
from typing import Final

from attrs import frozen

from elemta.mail.headers import printable
from elemta.plugins.api import Mail
from elemta.plugins.scanners.failure import ScannerFailed

PATH: Final = "/checkv2"
#: Octets of recipients that are told. rspamd takes 80 KiB of header in all (its HTTP parser's HTTP_MAX_HEADER_SIZE).
MAX_RECIPIENT_OCTETS: Final = 32 * 1024
#: Octets of any other field: a domain name, a user's name.
MAX_FIELD_OCTETS: Final = 1024


class Action(enum.Enum):
    """What rspamd advises."""

    NOTHING = "no action"
    GREYLIST = "greylist"
    ADD_HEADER = "add header"
    REWRITE_SUBJECT = "rewrite subject"
    SOFT_REJECT = "soft reject"
    REJECT = "reject"
    QUARANTINE = "quarantine"
    DISCARD = "discard"


@frozen
class RspamdAnswer:
    """What rspamd thinks of one mail. `action` is None for one that its operator invented."""

    action: Action | None
    score: float
    symbols: tuple[str, ...] = ()
    #: The new subject, where the action is to rewrite it.
    subject: str = ""
    #: What rspamd would have the client hear.
    message: str = ""


Field = tuple[bytes, bytes]


def question(mail: Mail, name: str, *, server: str, password: str | None) -> list[Field]:
    """The header fields that tell rspamd what the mail itself does not.

    `name` is the confirmed one of the client's address, empty where there is none; `server` is our own.
    """
    session = mail.session
    told = [
        ("From", f"<{mail.sender or ''}>"),
        ("IP", "" if session.client.is_unix else session.client.host),
        ("Hostname", name),
        ("Helo", session.helo),
        ("User", session.user),
        ("Queue-Id", mail.id),
        ("MTA-Name", server),
        ("Password", password or ""),
    ]
    fields = [_field(name, value) for name, value in told if value]
    octets = 0
    for recipient in mail.recipients:
        field = _field("Rcpt", f"<{recipient.address}>")
        octets += len(field[1])
        if octets > MAX_RECIPIENT_OCTETS:
            break
        fields.append(field)
    return fields


def _field(name: str, value: str) -> Field:
    return name.encode(), printable(value).encode()[:MAX_FIELD_OCTETS].rstrip()


def parse_answer(octets: bytes) -> RspamdAnswer:
    """Read the answer's body. Raises `ScannerFailed`."""
    try:
        says = json.loads(octets)
    except (ValueError, RecursionError):
        raise ScannerFailed("an answer that is no JSON") from None
    if not isinstance(says, dict):
        raise ScannerFailed("an answer that is no object of JSON")
    if isinstance(says.get("error"), str):
        raise ScannerFailed(f"it says: {printable(says['error'])[:200]}")
    action, score = says.get("action"), _number(says.get("score"))
    if not isinstance(action, str) or score is None:
        raise ScannerFailed("an answer without action and score")
    return RspamdAnswer(
        action=_known(action),
        score=score,
        symbols=_names(says.get("symbols")),
        subject=_text(says.get("subject")),
        message=_text(_member(says, "messages", "smtp_message")),
    )


def _known(action: str) -> Action | None:
    try:
        return Action(action)
    except ValueError:
        return None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _member(says: dict[str, object], name: str, key: str) -> object:
    inner = says.get(name)
    return inner.get(key) if isinstance(inner, dict) else None


def _names(symbols: object) -> tuple[str, ...]:
    return tuple(symbols) if isinstance(symbols, dict) else ()


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""
