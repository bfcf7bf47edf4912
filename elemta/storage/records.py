"""What a store keeps: mails, their recipients' progress, their content's reference.

What is not here: how a store lays it out, or when a mail is tried (`queue`).
Times are UTC in seconds since 1970.
"""

import enum
from collections.abc import Mapping

from attrs import field, frozen

from elemta.mail.envelope import Envelope, Priority
from elemta.mail.reply import Reply

#: Content up to this many octets travels with the change and lies in the database; above it lies in a file of its own.
#: Measured: one transaction a batch keeps up with a raw log at 4 KiB, and falls behind it at 1 MiB.
INLINE_CONTENT_OCTETS = 128 * 1024

#: Octets in one piece of staged content: MariaDB takes packets of 16 MiB by default, and no stranger's 250 must wait.
PIECE_OCTETS = 1024 * 1024


class QueueState(enum.Enum):
    """Where a mail stands. Only ACTIVE and DEFERRED mails are ever tried; HELD waits for an operator."""

    ACTIVE = "active"
    DEFERRED = "deferred"
    HELD = "held"
    FAILED = "failed"
    DELIVERED = "delivered"


class RecipientStatus(enum.Enum):
    """Delivered and failed recipients are never tried again (contract 4)."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@frozen
class Progress:
    """How far one recipient is: its status, and the last reply about it (None before the first attempt)."""

    status: RecipientStatus = RecipientStatus.PENDING
    reply: Reply | None = None
    #: True once a success or failure report about this recipient was queued or was not due: never report twice.
    reported: bool = False
    #: True once a delay report was queued, RFC 3461 §4.1.
    delay_reported: bool = False


UNTRIED = Progress()


@frozen
class ContentRef:
    """Names immutable content. `id` is a queue id; `size` in octets. Where the octets lie is the store's business.

    `eight_bit` and `header_octets` were counted while receiving, so that no hop has to scan again. `digest` is the
    SHA-256 of the octets in hexadecimal (what `sha256sum` prints), empty when it is not known; what a store gives back
    is checked against it on its way out.
    """

    id: str
    size: int
    eight_bit: bool = False
    header_octets: int = 0
    digest: str = ""


@frozen
class Origin:
    """Where a mail came from, for the log, the reports and the operator."""

    client: str = ""
    helo: str = ""
    listener: str = ""
    user: str = ""
    protocol: str = ""


@frozen
class QueuedMail:
    """One mail for one destination: what the dispatcher schedules and a worker tries.

    A mail accepted for several destinations becomes several of these in one commit, sharing content; `origin_id` is the
    id the client was told. `progress` runs parallel to `envelope.recipients`. `owner` is the node that may try it,
    empty when any node may claim it. `attempting_since` is set while an attempt is in flight (contract 4).
    `next_attempt_at`, `expires_at`, `received_at` are UTC in seconds since 1970.
    """

    id: str
    origin_id: str
    content: ContentRef
    envelope: Envelope
    progress: tuple[Progress, ...]
    destination: str
    received_at: float
    next_attempt_at: float
    expires_at: float
    priority: Priority = Priority.NORMAL
    state: QueueState = QueueState.ACTIVE
    attempts: int = 0
    owner: str = ""
    attempting_since: float | None = None
    reason: str = ""
    origin: Origin = Origin()
    annotations: Mapping[str, str] = field(factory=dict)
