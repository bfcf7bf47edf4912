"""The agenda against a plain list that is searched each time."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from elemta.mail.envelope import Priority
from elemta.queue.agenda import Agenda, Due
from elemta.queue.priority import order_key
from elemta.queue.throttle import DestinationLoad
from elemta.storage.records import QueuedMail
from tests.queue.world import EPOCH, mail

DESTINATIONS = ("a.example", "b.example", "c.example")


def agenda_for(
    max_workers: int = 100, ageing: float | None = None, most: int = 10_000
) -> tuple[Agenda, DestinationLoad]:
    load = DestinationLoad(max_workers)
    return Agenda(load, ageing=ageing, most=most), load


def add(agenda: Agenda, queued: QueuedMail) -> None:
    assert agenda.reserve(queued.priority)
    agenda.push(Due(queued, token=1))


def order(agenda: Agenda) -> list[str]:
    found = []
    while (due := agenda.pop()) is not None:
        found.append(due.mail.id)
    return found


def test_the_higher_priority_then_the_longer_due_goes_first() -> None:
    agenda, _ = agenda_for()
    add(agenda, mail(1, next_attempt_at=EPOCH + 5))
    add(agenda, mail(2, next_attempt_at=EPOCH + 1))
    add(agenda, mail(3, next_attempt_at=EPOCH + 9, priority=Priority.CRITICAL))
    add(agenda, mail(4, next_attempt_at=EPOCH, priority=Priority.LOW))
    add(agenda, mail(5, next_attempt_at=EPOCH + 5, priority=Priority.HIGH))
    assert order(agenda) == [mail(number).id for number in (3, 5, 2, 1, 4)]


def test_with_ageing_waiting_counts() -> None:
    agenda, _ = agenda_for(ageing=60.0)
    add(agenda, mail(1, next_attempt_at=EPOCH - 130, priority=Priority.LOW))
    add(agenda, mail(2, next_attempt_at=EPOCH, priority=Priority.HIGH))
    add(agenda, mail(3, next_attempt_at=EPOCH - 50, priority=Priority.NORMAL))
    assert order(agenda) == [mail(number).id for number in (1, 2, 3)]


def test_a_destination_that_has_its_share_keeps_nobody_else_waiting() -> None:
    agenda, load = agenda_for(max_workers=4)
    for number in range(5):
        add(agenda, mail(number, "a.example", priority=Priority.CRITICAL))
    add(agenda, mail(7, "b.example", priority=Priority.LOW))
    assert order(agenda) == [mail(0).id, mail(1).id, mail(7).id]
    load.give_back("a.example")
    agenda.announce("a.example")
    assert order(agenda) == [mail(2).id]


def test_a_full_load_loses_nobody_s_turn() -> None:
    agenda, load = agenda_for(max_workers=3)
    for number, destination in enumerate(("a.example", "b.example", "c.example", "d.example")):
        add(agenda, mail(number, destination))
    assert order(agenda) == [mail(0).id, mail(1).id, mail(2).id]
    load.give_back("a.example")
    agenda.announce("a.example")
    assert order(agenda) == [mail(3).id]


def test_each_priority_has_room_of_its_own() -> None:
    agenda, _ = agenda_for(most=2)
    add(agenda, mail(1))
    add(agenda, mail(2))
    assert not agenda.reserve(Priority.NORMAL)
    assert agenda.reserve(Priority.HIGH)
    agenda.cancel(Priority.HIGH)
    assert agenda.room(Priority.HIGH) == 2
    assert agenda.pop() is not None
    assert agenda.room(Priority.NORMAL) == 1


def test_insisting_takes_room_from_others() -> None:
    agenda, _ = agenda_for(most=1)
    agenda.insist(Due(mail(1), token=1))
    agenda.insist(Due(mail(2), token=1))
    assert (len(agenda), agenda.room(Priority.NORMAL)) == (2, -1)
    agenda.pop()
    assert not agenda.reserve(Priority.NORMAL)
    agenda.pop()
    assert agenda.reserve(Priority.NORMAL)


def test_what_waits_can_be_asked() -> None:
    agenda, _ = agenda_for()
    assert agenda.oldest_due() is None
    for number in range(3):
        add(agenda, mail(number, "a.example", next_attempt_at=EPOCH + number))
    add(agenda, mail(3, "b.example", next_attempt_at=EPOCH - 5, priority=Priority.LOW))
    assert len(agenda) == 4
    assert agenda.waiting_for("a.example") == 3
    assert agenda.waiting_for("z.example") == 0
    assert agenda.longest(2) == ["a.example"]
    assert agenda.oldest_due() == EPOCH - 5


Step = tuple[str, int, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "pop", "pop", "back", "forget"]),
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 20),
    ),
    max_size=80,
)


@given(steps=STEPS, max_workers=st.integers(1, 6))
def test_every_history_is_as_with_a_plain_list(steps: Sequence[Step], max_workers: int) -> None:
    agenda, load = agenda_for(max_workers)
    waiting: list[QueuedMail] = []
    running: list[str] = []
    for number, (what, lane, priority, due) in enumerate(steps):
        destination = DESTINATIONS[lane]
        if what == "push":
            queued = mail(number, destination, priority=Priority(priority), next_attempt_at=EPOCH + due)
            waiting.append(queued)
            add(agenda, queued)
        elif what == "back" and destination in running:
            running.remove(destination)
            load.give_back(destination)
            agenda.announce(destination)
        elif what == "forget":
            gone = {queued.id for queued in waiting if queued.next_attempt_at == EPOCH + due}
            assert {due.mail.id for due in agenda.forget(gone)} == gone
            waiting = [queued for queued in waiting if queued.id not in gone]
        elif what == "pop":
            taken = agenda.pop()
            first = expected(waiting, running, max_workers)
            assert (None if taken is None else taken.mail) == first
            if first is not None:
                waiting.remove(first)
                running.append(first.destination)
        assert len(agenda) == len(waiting)
        used = sum(10_000 - agenda.room(each) for each in Priority)
        assert used == len(waiting)


def expected(waiting: Sequence[QueuedMail], running: Sequence[str], max_workers: int) -> QueuedMail | None:
    share = max(1, max_workers // 2)
    if len(running) >= max_workers:
        return None
    free = [queued for queued in waiting if running.count(queued.destination) < share]
    return min(free, key=lambda each: order_key(each.priority, each.next_attempt_at, id=each.id), default=None)


def test_a_cleared_agenda_has_all_its_room_again() -> None:
    agenda, load = agenda_for(most=3)
    for number in range(3):
        add(agenda, mail(number, f"{number % 2}.example"))
    assert sorted(due.mail.id for due in agenda.clear()) == [mail(number).id for number in range(3)]
    assert (len(agenda), agenda.room(Priority.NORMAL), load.free) == (0, 3, 100)
    assert agenda.pop() is None
    add(agenda, mail(7))
    assert order(agenda) == [mail(7).id]
