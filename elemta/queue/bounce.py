"""Which sender is told what about which recipient.

What is not here: the format of a report (`mail.dsn`), or when a recipient has failed (`queue.schedule`).
RFC 3461 §5.2 says when a report is due, RFC 5321 §6.1 that none ever answers a null reverse-path.
"""

import enum

from attrs import frozen

from elemta.mail.envelope import Envelope
from elemta.queue.schedule import Decision, Verdict
from elemta.storage.records import Progress, QueuedMail

#: A delay is reported, where the sender asked for it, once a mail is this old. RFC 3461 §4.1 leaves the time to us;
#: four hours is what mail systems have told their senders for decades.
DELAY_REPORT_AFTER_SECONDS = 4 * 3600.0


class ReportKind(enum.Enum):
    """What a report says; each is a mail of its own."""

    FAILURE = "failure"
    DELAY = "delay"
    SUCCESS = "success"


@frozen
class Report:
    """One report that is due: its kind, and the recipients it is about."""

    kind: ReportKind
    verdicts: tuple[Verdict, ...]


@frozen
class ReportPlan:
    """The reports that follow from one attempt.

    `progress` replaces the decision's: it has `reported` and `delay_reported` set, so that what is committed with these
    reports keeps any of them from being sent twice. `silent` holds the indexes of recipients that failed without a
    report because the mail itself is one (null reverse-path): the caller logs these double bounces.
    """

    progress: tuple[Progress, ...]
    reports: tuple[Report, ...]
    silent: tuple[int, ...] = ()


@frozen
class Bounce:
    """A report as a mail of its own, ready to be queued. `eight_bit` and `header_octets` are as in `ContentRef`."""

    envelope: Envelope
    content: bytes
    eight_bit: bool
    header_octets: int


def plan_reports(mail: QueuedMail, decision: Decision, *, now: float) -> ReportPlan:
    """Which reports are due after `decide(mail, ...)`; `now` is UTC in seconds since 1970."""
    raise NotImplementedError


def original_octets(mail: QueuedMail, report: Report) -> int:
    """How many octets from the start of the mail's content `build_bounce` wants to return: read that many."""
    raise NotImplementedError


def build_bounce(
    mail: QueuedMail, report: Report, *, original: bytes, hostname: str, report_id: str, now: float
) -> Bounce:
    """Write a report: null reverse-path, to the mail's reverse-path, NOTIFY=NEVER.

    `original` is the first `original_octets(mail, report)` octets of the mail's content (or fewer, or none if it cannot
    be read). `report_id` is the new queue id of the report; its Message-ID and boundary are made from it. The content
    never exceeds `INLINE_CONTENT_OCTETS`, so that it can travel with the change that settles the attempt.
    Raises `ValueError` for a mail with a null reverse-path.
    """
    raise NotImplementedError
