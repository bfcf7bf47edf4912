"""The outcome of one delivery attempt for one recipient.

What is not here: what follows from it (`queue.schedule` decides on retries, `queue.bounce` on reports).
"""

import enum

from attrs import field, frozen

from elemta.mail.reply import Reply


@frozen
class Peer:
    """The host that was spoken to: its name as routing found it, its address and port as text. Both may be empty.

    `tls` is for the log: version, cipher, `verified` where the certificate was checked; empty in clear. The history
    does not keep it.
    """

    host: str = ""
    address: str = ""
    tls: str = field(default="", eq=False)


NO_PEER = Peer()


@frozen
class Delivered:
    """The next hop has taken responsibility for this recipient.

    `relayed_dsn` is False where the next hop did not take over the sender's DSN request (RFC 3461 §5.2.2). `final` is
    True where the mail has reached its mailbox (Maildir, LMTP, inbox) and not another relay: a success report then says
    `delivered` instead of `relayed` (RFC 3464 §2.3.3).
    """

    reply: Reply
    peer: Peer = NO_PEER
    relayed_dsn: bool = False
    final: bool = False


@frozen
class Deferred:
    """Nothing final was said: try again.

    `uncertain` marks an attempt whose final reply was lost after the final dot was sent: the mail may have arrived.
    """

    reply: Reply
    peer: Peer = NO_PEER
    uncertain: bool = False


@frozen
class Failed:
    """The recipient is refused for good: RFC 5321 §4.2.1, a 5yz reply, or a local decision of the same weight."""

    reply: Reply
    peer: Peer = NO_PEER


Outcome = Delivered | Deferred | Failed


class AttemptResult(enum.Enum):
    """How an attempt is recorded. UNCERTAIN: the mail may have arrived, and is tried again (contract 4)."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    UNCERTAIN = "uncertain"


@frozen
class Attempt:
    """The record of one attempt for one recipient.

    `started_at` is UTC in seconds since 1970, `duration` in seconds, `recipient` the forward-path as text.
    """

    started_at: float
    duration: float
    recipient: str
    result: AttemptResult
    reply: Reply
    peer: Peer = NO_PEER
