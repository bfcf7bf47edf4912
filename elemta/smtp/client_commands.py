"""The commands of a client, made fit for what the remote host offers.

What is not here: when a command is sent (`smtp.client`), or whether the mail may go at all (`smtp.client_checks`).
A parameter is sent only where its extension is offered (RFC 5321 §2.2.1): SIZE is RFC 1870, BODY RFC 6152, SMTPUTF8
RFC 6531, RET, ENVID, NOTIFY, ORCPT are RFC 3461, MT-PRIORITY is RFC 6710, REQUIRETLS RFC 8689. Failures raised: none.
"""

from collections.abc import Iterable
from typing import Final

from attrs import frozen

from elemta.mail.address import Address
from elemta.mail.envelope import BodyType, Envelope, Notify, Recipient
from elemta.mail.reply import Reply

#: Digits of the SIZE that a host announces, RFC 1870 §4.
MAX_SIZE_DIGITS: Final = 20


@frozen
class Capabilities:
    """What the remote host offers in its answer to EHLO or LHLO; after HELO, nothing.

    `size_limit` is octets, None where there is no fixed limit (RFC 1870 §4: absent, or 0).
    """

    pipelining: bool = False
    size: bool = False
    size_limit: int | None = None
    eight_bit_mime: bool = False
    smtputf8: bool = False
    chunking: bool = False
    dsn: bool = False
    enhanced_status_codes: bool = False
    mt_priority: bool = False
    starttls: bool = False
    require_tls: bool = False
    auth: frozenset[str] = frozenset()


@frozen
class Transaction:
    """One mail for one host: an envelope with the recipients to name, and what MAIL says of the content.

    `size` is octets before dot-stuffing (RFC 1870 §3); `eight_bit` is True when one of them is over 127.
    """

    envelope: Envelope
    size: int
    eight_bit: bool


def parse_capabilities(reply: Reply) -> Capabilities:
    """The extensions in a positive answer to EHLO: its first line is the host's name, unknown keywords are skipped.

    RFC 5321 §4.1.1.1: `ehlo-line = ehlo-keyword *( SP ehlo-param )`, keywords in any case.
    """
    offered: dict[str, list[str]] = {}
    for line in reply.lines[1:]:
        # `AUTH=` is how hosts said it before RFC 2554; some still do so beside the right form.
        words = line.upper().replace("AUTH=", "AUTH ", 1).split()
        if words:
            offered.setdefault(words[0], []).extend(words[1:])
    return Capabilities(
        pipelining="PIPELINING" in offered,
        size="SIZE" in offered,
        size_limit=_size_limit(offered.get("SIZE", ())),
        eight_bit_mime="8BITMIME" in offered,
        smtputf8="SMTPUTF8" in offered,
        chunking="CHUNKING" in offered,
        dsn="DSN" in offered,
        enhanced_status_codes="ENHANCEDSTATUSCODES" in offered,
        mt_priority="MT-PRIORITY" in offered,
        starttls="STARTTLS" in offered,
        require_tls="REQUIRETLS" in offered,
        auth=frozenset(offered.get("AUTH", ())),
    )


def _size_limit(parameters: Iterable[str]) -> int | None:
    for word in parameters:
        if word.isascii() and word.isdigit() and len(word) <= MAX_SIZE_DIGITS:
            return int(word) or None
    return None


def needs_smtputf8(envelope: Envelope) -> bool:
    """True when an address of the envelope is not ASCII. Domains are A-labels, so only local parts can be."""
    path = envelope.reverse_path
    if path is not None and not path.is_ascii:
        return True
    return not all(recipient.address.is_ascii for recipient in envelope.recipients)


def uses_smtputf8(envelope: Envelope, offered: Capabilities) -> bool:
    """True when MAIL says SMTPUTF8: the sender did, or an address needs it, RFC 6531 §3.4."""
    return offered.smtputf8 and (envelope.smtputf8 or needs_smtputf8(envelope))


def mail_command(transaction: Transaction, offered: Capabilities) -> str:
    """MAIL with its parameters, without the line end."""
    envelope = transaction.envelope
    words = [f"MAIL FROM:<{_path(envelope.reverse_path)}>"]
    if offered.size:
        words.append(f"SIZE={transaction.size}")
    if offered.eight_bit_mime and (transaction.eight_bit or envelope.body is BodyType.EIGHT_BIT_MIME):
        words.append("BODY=8BITMIME")
    if uses_smtputf8(envelope, offered):
        words.append("SMTPUTF8")
    if offered.dsn:
        if envelope.ret is not None:
            words.append(f"RET={envelope.ret.value}")
        if envelope.envid is not None:
            words.append(f"ENVID={xtext(envelope.envid)}")
    if offered.mt_priority and envelope.mt_priority is not None:
        words.append(f"MT-PRIORITY={envelope.mt_priority}")
    if offered.require_tls and envelope.require_tls:
        words.append("REQUIRETLS")
    return " ".join(words)


def rcpt_command(recipient: Recipient, offered: Capabilities, *, unicode: bool) -> str:
    """RCPT with its parameters, without the line end. `unicode` is True when MAIL said SMTPUTF8."""
    command = f"RCPT TO:<{recipient.address}>"
    if offered.dsn:
        if recipient.notify is not None:
            command += f" NOTIFY={_notify(recipient.notify)}"
        if recipient.original is not None:
            command += f" ORCPT={_original(recipient.original, unicode=unicode)}"
    return command


def _path(address: Address | None) -> str:
    return "" if address is None else str(address)


def _notify(notify: Notify) -> str:
    return ",".join(str(flag.name) for flag in notify) if notify else "NEVER"


def xtext(value: str) -> str:
    """RFC 3461 §4: printable ASCII but for `+` and `=` stands for itself, each other octet is `+HH`."""
    if value.isascii() and value.isalnum():
        return value
    return "".join(chr(octet) if _is_plain(octet) else f"+{octet:02X}" for octet in value.encode("utf-8"))


def _is_plain(octet: int) -> bool:
    return 0x21 <= octet <= 0x7E and octet not in b"+="


def _original(value: str, *, unicode: bool) -> str:
    """ORCPT. The address of type `utf-8` has forms of its own, RFC 6533 §3; one already in ASCII stays as it is."""
    kind, semicolon, address = value.partition(";")
    if kind.lower() != "utf-8" or address.isascii():
        return f"{kind}{semicolon}{xtext(address)}"
    return f"{kind};" + "".join(_utf8_char(char, unicode=unicode) for char in address)


def _utf8_char(char: str, *, unicode: bool) -> str:
    # RFC 6533 §3: QCHAR stands for itself, as does non-ASCII under SMTPUTF8; `\x{HEX}` is anything else.
    if char.isascii():
        return char if _is_plain(ord(char)) and char != "\\" else f"\\x{{{ord(char):02X}}}"
    return char if unicode else f"\\x{{{ord(char):X}}}"
