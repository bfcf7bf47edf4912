"""When mails are tried again and when they expire, to the second."""

from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.sections import Config
from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.outcome import Deferred, Delivered, Failed, Outcome, Peer
from elemta.mail.reply import Reply
from elemta.queue.schedule import RETRY_JITTER, Decision, RetryPolicy, decide, next_attempt, pending
from elemta.storage.records import ContentRef, Progress, QueuedMail, QueueState, RecipientStatus

HOUR = 3600.0
RECEIVED = 1_700_000_000.0
#: With this chance a retry comes exactly when the schedule says.
MIDDLE = 0.5

DEFAULTS = Config(hostname="mail.example.com")
BY_DEFAULT = RetryPolicy(DEFAULTS.retry_schedule, DEFAULTS.max_retries)

BUSY = Deferred(Reply(450, "4.2.1", "mailbox busy"), Peer("mx.example.org", "192.0.2.7"))
LOST = Deferred(Reply(451, "4.4.2", "connection lost after the final dot"), Peer("mx.example.org"), uncertain=True)
REFUSED = Failed(Reply(550, "5.1.1", "no such user"), Peer("mx.example.org", "192.0.2.7"))
TAKEN = Delivered(Reply(250, "2.0.0", "taken"), Peer("mx.example.org", "192.0.2.7"))


def queued(*progress: Progress, lifetime: float = 48 * HOUR, attempts: int = 0) -> QueuedMail:
    names = [f"user{number}" for number in range(len(progress))]
    return QueuedMail(
        id="0" * 22,
        origin_id="0" * 22,
        content=ContentRef("0" * 22, 1000),
        envelope=Envelope(
            Address("sender", "example.com"), tuple(Recipient(Address(name, "example.org")) for name in names)
        ),
        progress=progress,
        destination="example.org",
        received_at=RECEIVED,
        next_attempt_at=RECEIVED,
        expires_at=RECEIVED + lifetime,
        attempts=attempts,
    )


def life(mail: QueuedMail, outcome: Outcome, policy: RetryPolicy, *, chance: float = MIDDLE) -> list[Decision]:
    """The decisions of a mail that meets the same outcome at every attempt, each made when it is due."""
    decisions: list[Decision] = []
    while mail.state in {QueueState.ACTIVE, QueueState.DEFERRED}:
        assert len(decisions) < 1000
        now = mail.next_attempt_at
        decision = decide(mail, [outcome] * len(pending(mail)), policy=policy, now=now, chance=chance)
        decisions.append(decision)
        mail = evolve(
            mail,
            state=decision.state,
            progress=decision.progress,
            attempts=decision.attempts,
            next_attempt_at=decision.next_attempt_at,
        )
    return decisions


def seconds_of_attempts(decisions: list[Decision]) -> list[float]:
    return [0.0] + [decision.next_attempt_at - RECEIVED for decision in decisions[:-1]]


@pytest.mark.parametrize(
    ("attempts", "chance", "seconds"),
    [
        (1, MIDDLE, 60),
        (2, MIDDLE, 300),
        (3, MIDDLE, 900),
        (4, MIDDLE, 900),
        (50, MIDDLE, 900),
        (1, 0.0, 54),
        (1, 1.0, 66),
        (3, 0.25, 855),
    ],
)
def test_the_last_interval_repeats_and_chance_moves_each(attempts: int, chance: float, seconds: float) -> None:
    assert next_attempt((60, 300, 900), attempts, RECEIVED, chance) == pytest.approx(RECEIVED + seconds, abs=1e-6)


@pytest.mark.parametrize(("schedule", "attempts"), [((), 1), ((60,), 0), ((60,), -1)])
def test_there_is_no_next_attempt_without_a_schedule_or_a_first_one(schedule: tuple[float, ...], attempts: int) -> None:
    with pytest.raises(ValueError, match="no interval"):
        next_attempt(schedule, attempts, RECEIVED, MIDDLE)


@given(
    st.lists(st.floats(1, 1e6), min_size=1, max_size=8).map(sorted),
    st.integers(1, 20),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
)
def test_a_retry_stays_within_its_jitter_and_never_comes_earlier_after_more_attempts(
    intervals: list[float], attempts: int, chance: float, other: float
) -> None:
    schedule = tuple(intervals)
    interval = schedule[min(attempts, len(schedule)) - 1]
    due = next_attempt(schedule, attempts, 0.0, chance)
    assert interval * (1 - RETRY_JITTER) <= due <= interval * (1 + RETRY_JITTER) * (1 + 1e-12)
    assert due <= next_attempt(schedule, attempts + 1, 0.0, chance) * (1 + 1e-12)
    assert (chance <= other) == (due <= next_attempt(schedule, attempts, 0.0, other)) or chance == pytest.approx(other)


def test_the_default_schedule_to_the_second() -> None:
    decisions = life(queued(Progress()), BUSY, BY_DEFAULT)
    assert seconds_of_attempts(decisions) == pytest.approx(
        [0, 60, 360, 1260, 4860, 15_660, 37_260, 80_460, 123_660, 166_860, 172_800]
    )
    assert [decision.attempts for decision in decisions] == list(range(1, 12))


def test_the_schedule_of_the_example_uses_every_interval_once() -> None:
    decisions = life(queued(Progress(), lifetime=HOUR), BUSY, RetryPolicy((60, 300, 900), max_retries=3))
    assert seconds_of_attempts(decisions) == pytest.approx([0, 60, 360, 1260])


def test_the_last_retry_before_expiry_is_moved_up_to_it() -> None:
    decisions = life(queued(Progress(), lifetime=1000), BUSY, RetryPolicy((300, 900), max_retries=10))
    assert seconds_of_attempts(decisions) == pytest.approx([0, 300, 1000])


def test_what_expired_keeps_the_last_words_of_the_other_side() -> None:
    last = life(queued(Progress(), lifetime=HOUR), BUSY, RetryPolicy((60, 300, 900), max_retries=3))[-1]
    (verdict,) = last.verdicts
    assert last.state is QueueState.FAILED
    assert verdict.cause == BUSY
    assert verdict.outcome == Failed(
        Reply(
            554, "5.4.7", ("delivery time expired after 4 attempts", "last reply: 450 4.2.1 mailbox busy")
        ),
        BUSY.peer,
    )  # fmt: skip
    assert last.progress == (Progress(RecipientStatus.FAILED, verdict.outcome.reply),)
    assert not verdict.uncertain


def test_a_mail_that_waited_past_its_time_is_tried_once_before_it_expires() -> None:
    mail = queued(Progress())
    back = mail.expires_at + 7 * 24 * HOUR
    assert decide(mail, [TAKEN], policy=BY_DEFAULT, now=back, chance=MIDDLE).state is QueueState.DELIVERED
    expired = decide(mail, [BUSY], policy=BY_DEFAULT, now=back, chance=MIDDLE)
    assert expired.state is QueueState.FAILED
    assert expired.verdicts[0].outcome.reply.lines[0] == "delivery time expired after 1 attempt"


def test_without_retries_the_first_deferral_is_the_last() -> None:
    assert len(life(queued(Progress()), BUSY, RetryPolicy((60,), max_retries=0))) == 1


def test_an_uncertain_outcome_outlives_the_retries_and_ends_with_the_time() -> None:
    decisions = life(queued(Progress(), lifetime=1000), LOST, RetryPolicy((60,), max_retries=2))
    assert seconds_of_attempts(decisions) == pytest.approx([*range(0, 1000, 60), 1000])
    (verdict,) = decisions[-1].verdicts
    assert isinstance(verdict.outcome, Failed)
    assert verdict.outcome.reply.enhanced == "5.4.7"
    assert verdict.uncertain
    assert all(decision.verdicts[0].uncertain for decision in decisions)


def test_a_certain_deferral_after_an_uncertain_one_expires_by_the_retries() -> None:
    mail = queued(Progress(), attempts=5)
    policy = RetryPolicy((60,), max_retries=2)
    decision = decide(mail, [BUSY], policy=policy, now=RECEIVED, chance=MIDDLE)
    assert decision.state is QueueState.FAILED


def test_recipients_are_decided_one_by_one() -> None:
    done = Progress(RecipientStatus.DELIVERED, TAKEN.reply, reported=True)
    mail = queued(Progress(), done, Progress(), Progress())
    assert pending(mail) == (0, 2, 3)
    decision = decide(mail, [TAKEN, REFUSED, BUSY], policy=BY_DEFAULT, now=RECEIVED, chance=MIDDLE)
    assert decision.state is QueueState.DEFERRED
    assert decision.progress == (
        Progress(RecipientStatus.DELIVERED, TAKEN.reply),
        done,
        Progress(RecipientStatus.FAILED, REFUSED.reply),
        Progress(RecipientStatus.PENDING, BUSY.reply),
    )
    assert [(verdict.index, verdict.outcome) for verdict in decision.verdicts] == [(0, TAKEN), (2, REFUSED), (3, BUSY)]
    assert not any(verdict.uncertain for verdict in decision.verdicts)


@pytest.mark.parametrize(
    ("before", "outcome", "state"),
    [
        (RecipientStatus.DELIVERED, TAKEN, QueueState.DELIVERED),
        (RecipientStatus.DELIVERED, REFUSED, QueueState.FAILED),
        (RecipientStatus.FAILED, TAKEN, QueueState.FAILED),
        (RecipientStatus.DELIVERED, BUSY, QueueState.DEFERRED),
        (RecipientStatus.FAILED, LOST, QueueState.DEFERRED),
    ],
)
def test_the_state_of_a_mail_counts_all_its_recipients(
    before: RecipientStatus, outcome: Outcome, state: QueueState
) -> None:
    mail = queued(Progress(before), Progress())
    assert decide(mail, [outcome], policy=BY_DEFAULT, now=RECEIVED, chance=MIDDLE).state is state


@pytest.mark.parametrize("outcomes", [[], [TAKEN, TAKEN]])
def test_outcomes_must_be_as_many_as_recipients_tried(outcomes: list[Outcome]) -> None:
    with pytest.raises(ValueError, match="outcomes for 1 recipients"):
        decide(queued(Progress()), outcomes, policy=BY_DEFAULT, now=RECEIVED, chance=MIDDLE)


@given(
    st.lists(st.sampled_from(RecipientStatus), min_size=1, max_size=5),
    st.data(),
    st.integers(0, 15),
    st.floats(-HOUR, 60 * HOUR),
    st.floats(0, 1, exclude_max=True),
)
def test_what_is_final_stays_and_what_is_deferred_is_due_before_it_expires(
    statuses: list[RecipientStatus], data: st.DataObject, attempts: int, age: float, chance: float
) -> None:
    mail = queued(*(Progress(status) for status in statuses), attempts=attempts)
    tried = pending(mail)
    possible: tuple[Outcome, ...] = (BUSY, LOST, REFUSED, TAKEN)
    outcomes = [data.draw(st.sampled_from(possible)) for _ in tried]
    now = RECEIVED + age
    decision = decide(mail, outcomes, policy=BY_DEFAULT, now=now, chance=chance)
    for index, entry in enumerate(decision.progress):
        if index not in tried:
            assert entry == mail.progress[index]
    for verdict, outcome in zip(decision.verdicts, outcomes, strict=True):
        assert verdict.outcome == outcome or (
            isinstance(outcome, Deferred)
            and verdict.cause == outcome
            and (now >= mail.expires_at or (attempts >= BY_DEFAULT.max_retries and not outcome.uncertain))
        )
    if decision.state is QueueState.DEFERRED:
        assert now < decision.next_attempt_at <= mail.expires_at


@given(st.floats(0, 1, exclude_max=True), st.sampled_from([BUSY, LOST]), st.integers(0, 12), st.floats(1, 100 * HOUR))
def test_every_mail_ends(chance: float, outcome: Outcome, max_retries: int, lifetime: float) -> None:
    policy = RetryPolicy((600, 3600), max_retries)
    decisions = life(queued(Progress(), lifetime=lifetime), outcome, policy, chance=chance)
    times = seconds_of_attempts(decisions)
    assert times == sorted(times)
    assert times[-1] <= lifetime + 1e-6  # seconds since 1970 keep microseconds, no more
    assert decisions[-1].state is QueueState.FAILED


def test_the_documented_times_are_those_of_the_defaults() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "retry-and-bounces.md"
    (row,) = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| seconds |")]
    documented = [float(cell) for cell in row.split("|")[2:-1]]
    assert seconds_of_attempts(life(queued(Progress()), BUSY, BY_DEFAULT)) == pytest.approx(documented)
