"""Which sender is told what about which recipient.

What is not here: the format of a report (`mail.dsn`), its words (`mail.dsn_words`), or when a recipient has failed
(`queue.schedule`).
RFC 3461 §5.2 says when a report is due, RFC 5321 §6.1 that none ever answers a null reverse-path: a report that cannot
be delivered ends here. A recipient is reported once as delayed at most, and once as failed or delivered at most:
what was reported is committed together with the report itself (`Progress.reported`).
Failures raised: `ValueError` for a report to nobody: a defect of ours.
"""

from attrs import evolve, frozen

from elemta.mail.address import Address
from elemta.mail.dsn import REPLY_OCTETS, Action, BoundaryFound, Dsn, RecipientReport, RenderedDsn, render, status_for
from elemta.mail.dsn_words import MailWords, subject_for, text_for
from elemta.mail.envelope import BodyType, Envelope, Notify, Recipient, Ret
from elemta.mail.headers import header_block, readable_field
from elemta.mail.outcome import Delivered, Failed
from elemta.queue.schedule import Decision, Verdict
from elemta.storage.records import INLINE_CONTENT_OCTETS, Progress, QueuedMail

#: A delay is reported, where the sender asked for it, once a mail is this old. RFC 3461 §4.1 leaves the time to us;
#: four hours is what mail systems have told their senders for decades.
DELAY_REPORT_AFTER_SECONDS = 4 * 3600.0

#: Recipients in one report; more are told of in a further one, nobody twice. Ours: so many of the longest that can be
#: still fit into content that travels with the change (`INLINE_CONTENT_OCTETS`).
RECIPIENTS_PER_REPORT = 50
#: Octets of a mail up to which RET=FULL returns it whole; of a larger one its header, as RFC 3461 §4.3 allows.
RETURNED_MAIL_OCTETS = 48 * 1024
#: Octets of a header that are returned. Ours: four times what mails with many hops have.
RETURNED_HEADER_OCTETS = 16 * 1024
#: Octets of a remote host's words when a report would otherwise be too large.
_SHORT_REPLY_OCTETS = 80


@frozen
class Report:
    """One report that is due: what happened, and the recipients to whom it happened."""

    action: Action
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


@frozen
class _Stamp:
    """Who writes a report, under which queue id, when."""

    hostname: str
    report_id: str
    now: float


def plan_reports(mail: QueuedMail, decision: Decision, *, now: float) -> ReportPlan:
    """Which reports are due after `decide(mail, ...)`; `now` is UTC in seconds since 1970."""
    progress = list(decision.progress)
    due: dict[Action, list[Verdict]] = {}
    silent = []
    for verdict in decision.verdicts:
        index = verdict.index
        before = progress[index]
        action = _action(verdict)
        wanted = _is_wanted(mail, verdict, action, now)
        if wanted and not (before.delay_reported if action is Action.DELAYED else before.reported):
            due.setdefault(action, []).append(verdict)
        if action is Action.DELAYED:
            progress[index] = before if before.delay_reported or not wanted else evolve(before, delay_reported=True)
        else:
            progress[index] = Progress(before.status, before.reply, reported=True, delay_reported=before.delay_reported)
        if action is Action.FAILED and mail.envelope.reverse_path is None:
            silent.append(index)
    reports = tuple(report for action, verdicts in due.items() for report in _split(action, verdicts))
    return ReportPlan(tuple(progress), reports, tuple(silent))


def original_octets(mail: QueuedMail, report: Report) -> int:
    """How many octets from the start of the mail's content `build_bounce` wants to return: read that many."""
    if _returns_whole(mail, report):
        return mail.content.size
    return min(mail.content.size, mail.content.header_octets or RETURNED_HEADER_OCTETS, RETURNED_HEADER_OCTETS)


def build_bounce(
    mail: QueuedMail, report: Report, *, original: bytes, hostname: str, report_id: str, now: float
) -> Bounce:
    """Write a report: null reverse-path, to the mail's reverse-path, NOTIFY=NEVER.

    `original` is the first `original_octets(mail, report)` octets of the mail's content (or fewer, or none if it cannot
    be read). `report_id` is the new queue id of the report; its Message-ID and boundary are made from it. The content
    never exceeds `INLINE_CONTENT_OCTETS`, so that it can travel with the change that settles the attempt.
    Raises `ValueError` for a mail with a null reverse-path.
    """
    to = mail.envelope.reverse_path
    if to is None:
        raise ValueError(f"a report about {mail.id} would answer the null reverse-path")
    stamp = _Stamp(hostname, report_id, now)
    header = _cut_header(original)
    dsn = _dsn(mail, report, to=to, original=header, stamp=stamp)
    if _returns_whole(mail, report) and len(original) == mail.content.size:
        dsn = evolve(dsn, original=original, whole=True)
    rendered = _render(dsn)
    for less in (header, b""):
        if len(rendered.content) <= INLINE_CONTENT_OCTETS:
            break
        dsn = _dsn(mail, report, to=to, original=less, stamp=stamp, reply_octets=_SHORT_REPLY_OCTETS)
        rendered = _render(dsn)
    envelope = Envelope(
        reverse_path=None,
        recipients=(Recipient(to, notify=Notify.NEVER),),
        body=BodyType.EIGHT_BIT_MIME if rendered.eight_bit else BodyType.SEVEN_BIT,
        smtputf8=rendered.utf8,
        require_tls=mail.envelope.require_tls,
    )
    return Bounce(envelope, rendered.content, rendered.eight_bit, rendered.header_octets)


def _action(verdict: Verdict) -> Action:
    outcome = verdict.outcome
    if isinstance(outcome, Delivered):
        return Action.DELIVERED if outcome.final else Action.RELAYED
    return Action.FAILED if isinstance(outcome, Failed) else Action.DELAYED


def _is_wanted(mail: QueuedMail, verdict: Verdict, action: Action, now: float) -> bool:
    """Whether the sender is to be told, leaving aside whether it was: RFC 3461 §4.1, §5.2."""
    if mail.envelope.reverse_path is None:
        return False
    notify = mail.envelope.recipients[verdict.index].notify
    if notify is None:
        # RFC 3461 §4.1: without NOTIFY, failures are reported; of delays those only hear who asked.
        return action is Action.FAILED
    if isinstance(verdict.outcome, Delivered):
        # RFC 3461 §5.2.2: a next hop that took over the request reports in our place.
        return Notify.SUCCESS in notify and not verdict.outcome.relayed_dsn
    if action is Action.FAILED:
        return Notify.FAILURE in notify
    return Notify.DELAY in notify and now - mail.received_at >= DELAY_REPORT_AFTER_SECONDS


def _split(action: Action, verdicts: list[Verdict]) -> list[Report]:
    starts = range(0, len(verdicts), RECIPIENTS_PER_REPORT)
    return [Report(action, tuple(verdicts[start : start + RECIPIENTS_PER_REPORT])) for start in starts]


def _returns_whole(mail: QueuedMail, report: Report) -> bool:
    """RFC 3461 §4.3: RET counts for failures alone. RFC 8689 §5: never for a mail that requires TLS."""
    envelope = mail.envelope
    return (
        report.action is Action.FAILED
        and envelope.ret is Ret.FULL
        and not envelope.require_tls
        and mail.content.size <= RETURNED_MAIL_OCTETS
    )


def _cut_header(original: bytes) -> bytes:
    """The header block, cut after a line when it is too long to return."""
    header = header_block(original)
    if len(header) <= RETURNED_HEADER_OCTETS:
        return header
    return header[: header.rfind(b"\r\n", 0, RETURNED_HEADER_OCTETS) + 2]


def _dsn(
    mail: QueuedMail, report: Report, *, to: Address, original: bytes, stamp: _Stamp, reply_octets: int = REPLY_OCTETS
) -> Dsn:
    entries = tuple(_entry(mail, verdict, report.action, stamp.now) for verdict in report.verdicts)
    words = MailWords(readable_field(original, "subject"), mail.origin_id, mail.received_at, stamp.hostname)
    return Dsn(
        to=to,
        subject=subject_for(report.action),
        text=text_for(report.action, words, recipients=entries, reply_octets=reply_octets),
        hostname=stamp.hostname,
        id=stamp.report_id,
        mail_id=mail.origin_id,
        at=stamp.now,
        arrived_at=mail.received_at,
        recipients=entries,
        envid=mail.envelope.envid,
        original=original,
        utf8_mail=mail.envelope.smtputf8,
        reply_octets=reply_octets,
    )


def _entry(mail: QueuedMail, verdict: Verdict, action: Action, now: float) -> RecipientReport:
    recipient = mail.envelope.recipients[verdict.index]
    said = verdict.outcome if verdict.cause is None else verdict.cause
    return RecipientReport(
        address=recipient.address,
        action=action,
        status=status_for(action, verdict.outcome.reply),
        reply=said.reply,
        peer=said.peer,
        original=recipient.original,
        last_attempt_at=now,
        will_retry_until=mail.expires_at,
        uncertain=verdict.uncertain,
    )


def _render(dsn: Dsn) -> RenderedDsn:
    """The report behind the first boundary that stands in none of its parts; its id makes it hard to meet by intent."""
    number = 0
    while True:
        try:
            return render(dsn, f"=_{dsn.id}_{number}")
        except BoundaryFound:
            number += 1
