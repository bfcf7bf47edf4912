"""The envelope of one mail, as RFC 5321 §2.3.1 separates it from the content.

What is not here: the state of its delivery (`storage.records`), or the bytes of the mail.
"""

import enum

from attrs import frozen

from elemta.mail.address import Address


class BodyType(enum.Enum):
    """What the sender declared of the content, RFC 6152 §3."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"


class Notify(enum.Flag):
    """Which reports the sender asked for, RFC 3461 §4.1."""

    NEVER = 0
    SUCCESS = enum.auto()
    FAILURE = enum.auto()
    DELAY = enum.auto()


class Ret(enum.Enum):
    """How much of the mail a failure report returns, RFC 3461 §4.3."""

    FULL = "FULL"
    HEADERS = "HDRS"


class Priority(enum.IntEnum):
    """The four priorities of the queue; higher always goes first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


@frozen
class Recipient:
    """One forward-path with its delivery status options.

    `notify` is None where the client did not say (RFC 3461 §4.1: FAILURE, and DELAY as the server likes);
    `original` is the decoded ORCPT (`type;address`), RFC 3461 §4.2.
    """

    address: Address
    notify: Notify | None = None
    original: str | None = None


@frozen
class Envelope:
    """Reverse-path, recipients, and what MAIL declared. `reverse_path` is None for the null reverse-path `<>`."""

    reverse_path: Address | None
    recipients: tuple[Recipient, ...]
    body: BodyType = BodyType.SEVEN_BIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str | None = None
    require_tls: bool = False
    #: MT-PRIORITY as the client gave it, -9 to 9 (RFC 6710 §4.1), None when it gave none.
    mt_priority: int | None = None

    @property
    def sender(self) -> str:
        """The reverse-path for people and logs, without brackets; empty for the null reverse-path."""
        return "" if self.reverse_path is None else str(self.reverse_path)
