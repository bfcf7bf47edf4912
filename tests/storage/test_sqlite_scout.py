"""What a search remembers of the mails that it passed, and what is noted while it runs.

That it finds the same mails as the reference is `test_agreement`.
"""

import attrs

from elemta.mail.envelope import Priority
from elemta.storage.base import Insert, Settle
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.sqlite_place import Place
from elemta.storage.sqlite_scout import Found, Key, Passed, Scout
from tests.storage.mails import START, Post

NORMAL = int(Priority.NORMAL)
BUSY = frozenset({"busy"})
#: Behind 100 seconds of mails for a busy destination.
PASSED = Passed((START, "z", ""), {"busy": START - 100})


def scout_that_passed(passed: Passed) -> Scout:
    scout = Scout(Place("/nowhere"))
    scout.begin()
    scout.end(Found([], {NORMAL: passed}))
    return scout


def begin_of(scout: Scout) -> Key:
    return scout.begin()[NORMAL].begin_for(BUSY)


def waiting(post: Post, since: float, destination: str = "idle") -> QueuedMail:
    return post.mail(destination=destination, next_attempt_at=START - since)


def test_a_search_begins_behind_what_was_passed() -> None:
    assert PASSED.begin_for(BUSY) == PASSED.key
    assert PASSED.begin_for(frozenset({"busy", "other"})) == PASSED.key
    assert PASSED.begin_for(frozenset({"other"})) == (START - 100, "", "")


def test_a_search_remembers_what_it_passed() -> None:
    further = PASSED.with_searched((START + 5, "b", "id"), exclude=frozenset({"busy", "b"}), met={"b": START + 1})
    assert further == Passed((START + 5, "b", "id"), {"busy": START - 100, "b": START + 1})
    # One that was welcome again and taken whole is forgotten; one that was taken in part stands there from then on.
    assert further.with_searched((START + 9, "", ""), exclude=frozenset({"b"}), met={}).since == {"b": START + 1}
    part = further.with_searched((START - 50, "busy", "id"), exclude=frozenset({"b"}), met={})
    assert part == Passed(further.key, {"busy": START - 50, "b": START + 1})


def test_what_comes_to_stand_in_front_is_noted(post: Post) -> None:
    scout = scout_that_passed(PASSED)
    scout.note([Insert(waiting(post, -3)), Insert(attrs.evolve(waiting(post, 60), owner="one"))])
    scout.note([Insert(attrs.evolve(waiting(post, 60), state=QueueState.HELD))])
    scout.note([Insert(attrs.evolve(waiting(post, 60), priority=Priority.LOW)), Insert(waiting(post, 60, "busy"))])
    assert begin_of(scout) == PASSED.key
    scout.note([Insert(waiting(post, 30))])
    assert begin_of(scout) == (START - 30, "", "")
    handed_back, report = waiting(post, 40), waiting(post, 50)
    scout.note([Settle(handed_back.id, "one", 1, handed_back)])
    assert begin_of(scout) == (START - 40, "", "")
    scout.note([Settle(handed_back.id, "one", 1, None, (), (Insert(report),))])
    assert begin_of(scout) == (START - 50, "", "")


def test_an_earlier_mail_of_a_busy_destination_is_noted(post: Post) -> None:
    scout = scout_that_passed(PASSED)
    scout.note([Insert(waiting(post, 200, "busy"))])
    assert begin_of(scout) == PASSED.key
    assert scout.begin()[NORMAL].begin_for(frozenset()) == (START - 200, "", "")


def test_what_comes_while_a_search_runs_is_noted_after_it(post: Post) -> None:
    scout = Scout(Place("/nowhere"))
    scout.begin()
    scout.note([Insert(waiting(post, 30))])
    scout.end(Found([], {NORMAL: PASSED}))
    assert begin_of(scout) == (START - 30, "", "")


def test_a_search_that_ran_through_a_change_of_all_is_not_believed() -> None:
    scout = scout_that_passed(PASSED)
    scout.begin()
    scout.forget()
    scout.end(Found([], {NORMAL: PASSED}))
    assert scout.begin() == {}


def test_a_search_that_failed_changes_nothing(post: Post) -> None:
    scout = scout_that_passed(PASSED)
    scout.begin()
    scout.note([Insert(waiting(post, 30))])
    scout.end(None)
    assert begin_of(scout) == (START - 30, "", "")
