"""The mail that `elemta send` makes of its options.

What is not here: sending it. The library `email` writes MIME (RFC 2045); a mail that is given whole is left as it is,
but for line ends that SMTP forbids. Time and chance are arguments. Failure raised: `CommandError`.
"""

import email.policy
import mimetypes
import re
from collections.abc import Sequence
from email.headerregistry import HeaderRegistry
from email.message import EmailMessage
from pathlib import Path
from typing import Final

from attrs import frozen

from elemta.cli.output import CommandError, ExitCode
from elemta.mail.trace import format_date

#: Octets of a file that is sent: all of a mail is held in memory, and few servers take as much.
MAX_FILE_OCTETS: Final = 64 * 1024 * 1024

#: RFC 5322 §2.2: the name of a field, then its value, which is one line here.
_FIELD: Final = re.compile(r"([!-9;-~]+)[ \t]*:[ \t]*(.*)")


@frozen
class Draft:
    """What the options say of a mail. `sender` is empty for the null reverse-path."""

    sender: str
    recipients: tuple[str, ...]
    subject: str
    body: str
    headers: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def compose(draft: Draft, *, at: float, message_id: str) -> bytes:
    """The mail with CRLF line ends; `at` is seconds since 1970. Raises `CommandError`."""
    fields = [_field(text) for text in draft.headers]
    given = {name.lower() for name, _ in fields}
    message = _blank(given, is_ascii="".join((draft.sender, *draft.recipients)).isascii())
    ours = {
        "From": draft.sender or "MAILER-DAEMON",
        "To": ", ".join(draft.recipients),
        "Subject": draft.subject,
        "Date": format_date(at),
        "Message-ID": f"<{message_id}>",
    }
    try:
        for name, value in [*((name, value) for name, value in ours.items() if name.lower() not in given), *fields]:
            message[name] = value
        message.set_content(draft.body if draft.body.endswith("\n") else f"{draft.body}\n")
        _describe(message, [(name, value) for name, value in fields if name.lower().startswith("content-")])
        for path in draft.files:
            _attach(message, path)
        return message.as_bytes()
    except (ValueError, TypeError) as error:  # TypeError: a type of content that no file can be added to
        raise CommandError(f"no mail can be made of this: {error}", ExitCode.USAGE) from error


def _blank(given: set[str], *, is_ascii: bool) -> EmailMessage:
    """A mail without fields. Those that are `given` will stay as they are: `email` would drop what it cannot read.

    Addresses beyond ASCII need headers in UTF-8 (RFC 6532), everything else fits in 7 bits, which every host takes.
    """
    registry = HeaderRegistry()
    for name in given:
        registry.registry.pop(name, None)  # of no type of its own: a text
    policy = email.policy.SMTP if is_ascii else email.policy.SMTPUTF8
    return EmailMessage(policy=policy.clone(cte_type="7bit", header_factory=registry))


def _describe(message: EmailMessage, fields: Sequence[tuple[str, str]]) -> None:
    """Say of the text what these fields say. Raises `CommandError` for the one that says what was done to it."""
    for name, value in fields:
        if name.lower() == "content-transfer-encoding":
            says = f"--header {name}: the text is encoded as it needs to be; --raw takes a mail that is encoded already"
            raise CommandError(says, ExitCode.USAGE)
        kind = value.lower() if name.lower() == "content-type" else ""
        is_bare = kind.startswith("text/") and "charset" not in kind
        del message[name]
        message[name] = f'{value}; charset="utf-8"' if is_bare else value


def _field(text: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise CommandError(f'--header "{text}": expected "Name: value", on one line', ExitCode.USAGE)
    return match[1], match[2]


def _attach(message: EmailMessage, path: Path) -> None:
    kind, encoding = mimetypes.guess_type(path.name)
    # A mail within a mail may not be encoded (RFC 2045 §6.4); as a file it may be.
    is_file = not kind or encoding is not None or kind.startswith(("message/", "multipart/"))
    main, _, sub = (kind if kind and not is_file else "application/octet-stream").partition("/")
    message.add_attachment(read_file(path), maintype=main, subtype=sub, filename=path.name)


def read_file(path: Path) -> bytes:
    """A file of bounded size. Raises `CommandError`."""
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE_OCTETS + 1)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}", ExitCode.USAGE) from error
    if len(octets) > MAX_FILE_OCTETS:
        raise CommandError(f"{path} has more than {MAX_FILE_OCTETS} octets", ExitCode.USAGE)
    return octets


def as_sent(octets: bytes) -> bytes:
    """A mail that was given whole: lines that end with LF, as files have them, end with CRLF; a mail that has CRLF
    already is left as it is, so that a server can be tried with what it must refuse."""
    return octets if b"\r\n" in octets else octets.replace(b"\n", b"\r\n")
