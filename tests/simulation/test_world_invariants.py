"""The invariants see what they are for: a sound history is made unsound, one thing at a time."""

from collections.abc import Callable

import pytest
from attrs import evolve

from elemta.mail.envelope import Priority
from elemta.mail.outcome import AttemptResult
from elemta.mail.reply import Reply
from elemta.simulation.keeper import memory_keeper
from elemta.simulation.personality import Personality
from elemta.simulation.record import Answer, Complaint, Drained, Obeyed, Record
from elemta.simulation.scenario import SERVER_ADDRESS, Scenario
from elemta.simulation.world import simulate
from elemta.storage.base import Verb
from elemta.testing.invariants import broken
from tests.simulation.scenes import mail, scene

SCENE = scene(
    mail("a", "ok-a@one.test", "no-a@one.test", "later-a@one.test"), mail("b"), host=Personality(drops=1, greylists=1)
)


def lose_a_delivery(record: Record) -> None:
    record.kept = [kept for kept in record.kept if kept.recipient != "later-a@one.test"]


def lose_a_report(record: Record) -> None:
    record.kept = [kept for kept in record.kept if kept.sender]


def report_twice(record: Record) -> None:
    (report,) = [each for each in record.passages.values() if each.is_report]
    record.passages["another"] = report


def deliver_again(record: Record) -> None:
    record.kept.append(evolve(record.kept[-1]))


def forget_uncertainty(record: Record) -> None:
    for passage in record.passages.values():
        passage.attempts = tuple(a for a in passage.attempts if a.result is not AttemptResult.UNCERTAIN)


def leave_one_stuck(record: Record) -> None:
    next(iter(record.passages.values())).left_at = None


def run_out_of_time(record: Record) -> None:
    record.overdue = True


def answer_too_early(record: Record) -> None:
    record.submitted = [evolve(one, at=0.5) for one in record.submitted]


def take_what_was_cut_off(record: Record) -> None:
    record.submitted = [evolve(one, answer=Answer.INCOMPLETE) for one in record.submitted]


def deliver_what_was_refused(record: Record) -> None:
    record.submitted = [evolve(one, answer=Answer.REFUSED) for one in record.submitted]


def change_an_octet(record: Record) -> None:
    record.kept = [evolve(kept, content=kept.content.replace(b"xx", b"xy", 1)) for kept in record.kept]


def run_too_many(record: Record) -> None:
    record.busiest[SERVER_ADDRESS, "one.test"] = 51


def retry_too_soon(record: Record) -> None:
    for passage in record.passages.values():
        passage.attempts = tuple(evolve(a, started_at=a.started_at - 5 * i) for i, a in enumerate(passage.attempts))


def schedule_wrongly(record: Record) -> None:
    for passage in record.passages.values():
        passage.settled = [
            evolve(each, mail=each.mail and evolve(each.mail, next_attempt_at=each.mail.next_attempt_at + 30))
            for each in passage.settled
        ]


def log_a_defect(record: Record) -> None:
    record.complaints.append(Complaint(3.0, "error", "queue.defect", ""))


def give_up_untried(record: Record) -> None:
    next(iter(record.passages.values())).attempts = ()


def mistake_a_priority(record: Record) -> None:
    for passage in record.passages.values():
        passage.mail = evolve(passage.mail, priority=Priority.HIGH)


def pass_one_over(record: Record) -> None:
    last = max((p for p in record.passages.values() if not p.is_report), key=lambda p: p.begun[0])
    last.mail = evolve(last.mail, priority=Priority.HIGH)
    last.at_hand[0] = evolve(last.at_hand[0], at=0.0)


def order(record: Record, verb: Verb, after: float) -> None:
    """Say that an order had changed every mail so many seconds after it came."""
    for passage in record.passages.values():
        passage.orders.append(Obeyed(passage.inserted_at + after, verb))


def deliver_what_was_held(record: Record) -> None:
    order(record, Verb.HOLD, -0.1)
    for passage in record.passages.values():
        passage.attempts = ()
        passage.begun = []


def try_what_was_deleted(record: Record) -> None:
    for passage in record.passages.values():
        passage.deleted_at = passage.inserted_at - 0.1


def forget_a_retry(record: Record) -> None:
    order(record, Verb.RETRY, 20.0)


def leave_one_in_flight(record: Record) -> None:
    record.drains.append(Drained(record.lives, 50.0, 80.0, 60.0))
    record.found[record.lives + 1] = tuple(record.passages)


def cut_an_attempt(record: Record) -> None:
    cut = Reply(451, "4.4.2", "the server stopped while the last reply was awaited")
    for passage in record.passages.values():
        passage.attempts = tuple(evolve(a, result=AttemptResult.UNCERTAIN, reply=cut) for a in passage.attempts)


def leave_a_client_in_the_dark(record: Record) -> None:
    record.submitted = [evolve(one, answer=Answer.UNKNOWN) for one in record.submitted]


@pytest.fixture
def world() -> tuple[Scenario, Record]:
    return SCENE, simulate(SCENE, memory_keeper())


def test_a_sound_history_is_sound(world: tuple[Scenario, Record]) -> None:
    assert broken(*world) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_a_delivery, "has neither mail nor report"),
        (lose_a_report, "has neither mail nor report"),
        (report_twice, "2 reports say"),
        (deliver_again, "which the server knew, and again"),
        (forget_uncertainty, "recorded uncertain 0 times"),
        (leave_one_stuck, "is stuck in the queue"),
        (run_out_of_time, "was not done after"),
        (answer_too_early, "was answered 250, and is 0 times in the queue"),
        (take_what_was_cut_off, "never came whole, and is in the queue"),
        (deliver_what_was_refused, "was refused with"),
        (change_an_octet, "arrived changed"),
        (run_too_many, "51 deliveries ran at once from 192.0.2.1 to one.test, 50 may"),
        (retry_too_soon, "before its time"),
        (schedule_wrongly, "was set for"),
        (log_a_defect, "logged queue.defect"),
        (give_up_untried, "was never tried"),
        (mistake_a_priority, "is HIGH, and asked for NORMAL"),
        (pass_one_over, "was ready from 0.000 on"),
        (deliver_what_was_held, "got it at"),
        (try_what_was_deleted, ", and begun at"),
        (forget_a_retry, "was not begun after retry"),
        (leave_one_in_flight, "was found in flight by life 2"),
        (cut_an_attempt, "when no drain was over"),
        (leave_a_client_in_the_dark, "never heard what became of it"),
    ],
)
def test_an_unsound_one_is_not(spoil: Callable[[Record], None], words: str, world: tuple[Scenario, Record]) -> None:
    scenario, record = world
    spoil(record)
    assert any(words in sentence for sentence in broken(scenario, record)), broken(scenario, record)
