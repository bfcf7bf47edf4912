"""What an attempt's outcomes become: one change for the store, with the reports that follow from it.

What is not here: the decisions (`queue.schedule`, `queue.bounce`), or committing the change (`queue.worker`).
"""

from collections.abc import Sequence
from hashlib import sha256

from attrs import evolve, frozen

from elemta.delivery.base import Content
from elemta.mail.outcome import Attempt, AttemptResult, Deferred, Delivered, Failed, Outcome
from elemta.queue.bounce import Report, build_bounce, original_octets, plan_reports
from elemta.queue.schedule import Decision, Verdict, decide
from elemta.queue.workshop import Workshop
from elemta.storage.base import ContentMissing, Insert, Settle, StoreUnavailable
from elemta.storage.records import UNTRIED, ContentRef, Origin, Progress, QueuedMail, QueueState

#: How a report's origin is shown: it came from nowhere outside.
_REPORT_ORIGIN = Origin(protocol="report")


@frozen
class Tried:
    """One attempt that is over: the mail as it was before, who holds it, when it began, how long it took in seconds."""

    mail: QueuedMail
    owner: str
    token: int
    started_at: float
    duration: float
    content: Content


@frozen
class Settlement:
    """The change that finishes an attempt, and what it says for the log."""

    settle: Settle
    verdicts: tuple[Verdict, ...]
    state: QueueState
    next_attempt_at: float
    #: Indexes of recipients that failed and of which nobody is told: the mail was a report itself.
    silent: tuple[int, ...] = ()


class Settler:
    """Turns outcomes into settlements."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def settle(self, tried: Tried, outcomes: Sequence[Outcome]) -> Settlement:
        """Decide what follows. Awaits only to read what a report returns of the original."""
        mail = tried.mail
        runtime, retry = self._shop.runtime, self._shop.options.retry
        now = runtime.clock.wall()
        decision = decide(mail, outcomes, policy=retry, now=now, chance=runtime.chance.random())
        plan = plan_reports(mail, decision, now=now)
        inserts = [await self._report(tried, report, now) for report in plan.reports]
        settle = Settle(
            mail.id,
            tried.owner,
            tried.token,
            self._next_state(mail, decision, plan.progress),
            tuple(_record(tried, verdict) for verdict in decision.verdicts),
            tuple(inserts),
        )
        return Settlement(settle, decision.verdicts, decision.state, decision.next_attempt_at, plan.silent)

    def _next_state(self, mail: QueuedMail, decision: Decision, progress: tuple[Progress, ...]) -> QueuedMail | None:
        """The mail as it stays in the queue, nobody's (so that no settle lands twice); None when it leaves."""
        options = self._shop.options
        if decision.state is QueueState.DELIVERED and not options.keep_delivered:
            return None
        if decision.state is QueueState.FAILED and options.failed_retention_hours <= 0:
            return None
        return evolve(
            mail,
            state=decision.state,
            progress=progress,
            attempts=decision.attempts,
            next_attempt_at=decision.next_attempt_at,
            owner="",
            attempting_since=None,
        )

    async def _report(self, tried: Tried, report: Report, now: float) -> Insert:
        mail, options = tried.mail, self._shop.options
        sender = mail.envelope.reverse_path
        if sender is None:
            raise ValueError(f"a report about {mail.id}, which has a null reverse-path")
        report_id = self._shop.runtime.ids.new_id()
        bounce = build_bounce(
            mail,
            report,
            original=await _beginning(tried.content, original_octets(mail, report)),
            hostname=options.hostname,
            report_id=report_id,
            now=now,
        )
        ref = ContentRef(
            id=report_id,
            size=len(bounce.content),
            eight_bit=bounce.eight_bit,
            header_octets=bounce.header_octets,
            digest=sha256(bounce.content).hexdigest(),
        )
        queued = QueuedMail(
            id=report_id,
            origin_id=report_id,
            content=ref,
            envelope=bounce.envelope,
            progress=(UNTRIED,) * len(bounce.envelope.recipients),
            destination=self._shop.delivery.destination(sender),
            received_at=now,
            next_attempt_at=now,
            expires_at=now + options.max_queue_time,
            origin=_REPORT_ORIGIN,
        )
        return Insert(queued, bounce.content)


async def _beginning(content: Content, octets: int) -> bytes:
    """The beginning of the content, or as much as can be read: a report without it is better than none."""
    pieces: list[bytes] = []
    have = 0
    try:
        while have < octets and (piece := await content.read(have, octets - have)):
            pieces.append(piece)
            have += len(piece)
    except (ContentMissing, StoreUnavailable):
        return b""
    return b"".join(pieces)


def _record(tried: Tried, verdict: Verdict) -> Attempt:
    """The attempt as it went: a recipient that expired after it was deferred in it."""
    recipient = tried.mail.envelope.recipients[verdict.index].address
    went = verdict.outcome if verdict.cause is None else verdict.cause
    return Attempt(tried.started_at, tried.duration, str(recipient), result_of(went), went.reply, went.peer)


def result_of(outcome: Outcome) -> AttemptResult:
    """How an outcome is recorded."""
    match outcome:
        case Delivered():
            return AttemptResult.DELIVERED
        case Failed():
            return AttemptResult.FAILED
        case Deferred(uncertain=True):
            return AttemptResult.UNCERTAIN
        case Deferred():
            return AttemptResult.DEFERRED
