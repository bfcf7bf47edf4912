"""When a mail is tried again, when it is done, when it expires.

What is not here: who gets a report about it (`queue.bounce`), or the attempt itself (`queue.worker`).
The rules, each a promise to senders:

* A mail expires only after an attempt, never while it merely waited: expiry is decided nowhere but in `decide`, which
  needs the outcomes of one. RFC 5321 §4.5.4.1 speaks of retries over days; how many is the operator's word.
* An uncertain outcome (a reply lost after the final dot) does not expire by `max_retries`: only the count of attempts
  would be held against a mail that may well have arrived. It is tried again until `expires_at`. Only when that is past
  too, and its last attempt was still uncertain, does the mail leave like every other, and its report says
  that it may have arrived: neither silence nor retrying (and repeating itself) for ever would serve the sender better.
* The last retry before expiry is moved up to `expires_at`, so that the whole time is used, and the report comes then
  and not one interval later.

Failures raised: `ValueError` for a call that makes no sense: a defect of ours.
"""

from collections.abc import Sequence

from attrs import frozen

from elemta.mail.outcome import Deferred, Delivered, Failed, Outcome
from elemta.mail.reply import Reply
from elemta.storage.records import Progress, QueuedMail, QueueState, RecipientStatus

#: A retry comes up to this fraction of its interval sooner or later, so that mails deferred together do not return
#: together. Ours: enough to spread a burst over minutes, too little for a reader of the schedule to notice.
RETRY_JITTER = 0.1

#: Delivery time expired, RFC 3463 §3.5.
EXPIRED_STATUS = "5.4.7"
#: Transaction failed, RFC 5321 §4.2.3.
_EXPIRED_CODE = 554

#: What an outcome makes of a recipient. Deferred ones stay as they were.
_STATUS_AFTER = {
    Delivered: RecipientStatus.DELIVERED,
    Failed: RecipientStatus.FAILED,
    Deferred: RecipientStatus.PENDING,
}


@frozen
class RetryPolicy:
    """The operator's retry settings. `schedule` is seconds between attempts, its last repeats; `max_retries` counts
    attempts after the first. How long a mail may stay (`max_queue_time`) is in its own `expires_at`."""

    schedule: tuple[float, ...]
    max_retries: int


@frozen
class Verdict:
    """What one attempt means for one recipient.

    `index` points into the envelope's recipients. `outcome` is what counts from now on: a deferral that ran out of time
    is `Failed` with 5.4.7 here, and `cause` is that deferral. `cause` is None in every other case.
    """

    index: int
    outcome: Outcome
    cause: Deferred | None = None

    @property
    def uncertain(self) -> bool:
        """True when the attempt's final reply was lost: the mail may have arrived."""
        last = self.outcome if self.cause is None else self.cause
        return isinstance(last, Deferred) and last.uncertain


@frozen
class Decision:
    """What follows from one attempt.

    `state` is DEFERRED while a recipient is pending, FAILED when all are final and one of them failed (now or in an
    earlier attempt), else DELIVERED. `progress` runs parallel to the envelope's recipients; `verdicts` holds those that
    were tried. `next_attempt_at` is UTC in seconds since 1970, and means nothing unless DEFERRED. `attempts` counts
    this one.
    """

    state: QueueState
    progress: tuple[Progress, ...]
    verdicts: tuple[Verdict, ...]
    attempts: int
    next_attempt_at: float


def pending(mail: QueuedMail) -> tuple[int, ...]:
    """Indexes of the recipients that an attempt must try, in order: delivered and failed ones never again."""
    return tuple([index for index, entry in enumerate(mail.progress) if entry.status is RecipientStatus.PENDING])


def next_attempt(schedule: tuple[float, ...], attempts: int, now: float, chance: float) -> float:
    """When the next attempt is due after `attempts` of them (at least one), UTC in seconds since 1970.

    `chance` in [0, 1) moves it within `RETRY_JITTER`. Raises `ValueError` without a schedule or an attempt.
    """
    if not schedule or attempts < 1:
        raise ValueError(f"no interval {attempts} in the schedule {schedule!r}")
    interval = schedule[min(attempts, len(schedule)) - 1]
    return now + interval * (1 - RETRY_JITTER + 2 * RETRY_JITTER * chance)


def decide(
    mail: QueuedMail, outcomes: Sequence[Outcome], *, policy: RetryPolicy, now: float, chance: float
) -> Decision:
    """What follows from an attempt that ended at `now` with one outcome for each of `pending(mail)`, in that order.

    `mail.attempts` counts the attempts before this one. Raises `ValueError` when the outcomes are not as many as the
    recipients tried.
    """
    tried = pending(mail)
    if len(tried) != len(outcomes):
        raise ValueError(f"{len(outcomes)} outcomes for {len(tried)} recipients of {mail.id}")
    attempts = mail.attempts + 1
    out_of_time = now >= mail.expires_at
    out_of_retries = attempts > policy.max_retries
    verdicts = []
    progress = list(mail.progress)
    for index, outcome in zip(tried, outcomes, strict=True):
        verdict = Verdict(index, outcome)
        if isinstance(outcome, Deferred) and (out_of_time or (out_of_retries and not outcome.uncertain)):
            verdict = _expired(index, outcome, attempts)
        verdicts.append(verdict)
        progress[index] = _progress(mail.progress[index], verdict)
    state = _state(progress)
    due = now
    if state is QueueState.DEFERRED:
        due = min(next_attempt(policy.schedule, attempts, now, chance), mail.expires_at)
    return Decision(state, tuple(progress), tuple(verdicts), attempts, due)


def _expired(index: int, cause: Deferred, attempts: int) -> Verdict:
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    words = (f"delivery time expired after {times}", f"last reply: {cause.reply}")
    return Verdict(index, Failed(Reply(_EXPIRED_CODE, EXPIRED_STATUS, words), cause.peer), cause)


def _progress(before: Progress, verdict: Verdict) -> Progress:
    outcome = verdict.outcome
    return Progress(_STATUS_AFTER[type(outcome)], outcome.reply, before.reported, before.delay_reported)


def _state(progress: Sequence[Progress]) -> QueueState:
    statuses = [entry.status for entry in progress]  # no set: hashing a member of an enum costs more than all this
    if RecipientStatus.PENDING in statuses:
        return QueueState.DEFERRED
    return QueueState.FAILED if RecipientStatus.FAILED in statuses else QueueState.DELIVERED
