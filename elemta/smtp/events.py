"""What the server machine tells its driver.

What is not here: how bytes become events (`smtp.server`), or what is decided about them (`inbound`).
An event of `Answerable` waits for exactly one `reply`; the machine yields nothing more until it came.
"""

import enum

from attrs import frozen

from elemta.mail.address import Address
from elemta.mail.envelope import BodyType, Recipient, Ret
from elemta.mail.reply import Reply


@frozen
class Hello:
    """EHLO or HELO. `domain` as the client gave it, checked and printable. Answerable: a 250 of our greeting is
    rendered by the machine (with the extensions it offers) when the driver replies with code 250."""

    domain: str
    extended: bool


@frozen
class MailFrom:
    """MAIL. `reverse_path` is None for `<>`. Answerable: 250 opens the transaction."""

    reverse_path: Address | None
    size: int | None = None
    body: BodyType = BodyType.SEVEN_BIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str | None = None
    require_tls: bool = False
    mt_priority: int | None = None


@frozen
class RcptTo:
    """RCPT. Source routes are stripped already. Answerable: a 2yz reply adds the recipient."""

    recipient: Recipient


@frozen
class DataStart:
    """DATA, or the first BDAT, of a transaction with at least one recipient.

    Answerable: 354 for DATA; for BDAT (`chunked`) the driver replies 250 to let it pass, and the machine sends nothing
    for it, since BDAT has no such reply. Any other reply refuses the transaction.
    """

    chunked: bool


@frozen
class Content:
    """Octets of the mail, dots unstuffed, CRLF line ends only; as large as what was received. Not answerable."""

    data: bytes


@frozen
class ContentEnd:
    """The mail is whole: `size` octets in all. Answerable: 250 only once it is durable.

    `eight_bit` is True when an octet over 127 came.
    """

    size: int
    eight_bit: bool


@frozen
class ContentRefused:
    """The mail came to its end but cannot be taken; the machine has answered with `reply` and reset the transaction.

    Not answerable: drop what was gathered.
    """

    reply: Reply


@frozen
class Reset:
    """The transaction ended without a mail (RSET, a new EHLO, STARTTLS). Answered already. Not answerable."""


@frozen
class StartTls:
    """STARTTLS where it is offered. Answerable: with 220 the driver sends, does the handshake, then calls
    `tls_started`; buffered plaintext is thrown away (RFC 3207 §4.2)."""


@frozen
class AuthStart:
    """AUTH where it is offered. `initial` is the decoded initial response, None when there was none, RFC 4954 §4.

    Answerable: 334 asks for one more line, which comes as `AuthResponse`; anything else ends the exchange.
    """

    mechanism: str
    initial: bytes | None


@frozen
class AuthResponse:
    """The client's next line in an AUTH exchange, decoded; None when the client cancelled with `*`. Answerable."""

    response: bytes | None


@frozen
class Debug:
    """XDEBUG, in dev mode only. `arguments` are the words after it. Answerable."""

    arguments: tuple[str, ...]


@frozen
class Refused:
    """The machine itself answered a bad command with `reply`. Not answerable: for the log and the metrics.

    `verb` is the command's verb if there was one, made printable.
    """

    verb: str
    reply: Reply


@frozen
class Closing:
    """The session is over: send what is pending, then close. `reply` is the last one (221, 421 …), None at EOF.

    Yielded for ever once the machine is closed.
    """

    reply: Reply | None
    #: For the log: "quit", "eof", "too many errors", "http", "bare newline", "talked before the greeting" …
    cause: str


class Need(enum.Enum):
    """Not an event: the machine waits for bytes."""

    DATA = "data"


NEED_DATA = Need.DATA

Answerable = Hello | MailFrom | RcptTo | DataStart | ContentEnd | StartTls | AuthStart | AuthResponse | Debug
Event = Answerable | Content | ContentRefused | Reset | Refused | Closing
