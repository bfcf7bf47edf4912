"""Which mail goes first, and where its priority comes from."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.mail.envelope import Priority
from elemta.queue.priority import (
    STARVING_AFTER_SECONDS,
    combine,
    first_spoken,
    from_mt_priority,
    from_name,
    is_starving,
    order_key,
    to_mt_priority,
)

LOW, NORMAL, HIGH, CRITICAL = Priority
MAILS = st.tuples(st.sampled_from(Priority), st.floats(0, 1e10), st.text("0Aa", min_size=1, max_size=3))


def line(*mails: tuple[Priority, float, str], ageing: float | None = None) -> list[str]:
    heap = [(order_key(priority, due, id=id, ageing=ageing), id) for priority, due, id in mails]
    heapq.heapify(heap)
    return [heapq.heappop(heap)[1] for _ in range(len(mails))]


def test_higher_always_goes_first_then_the_longest_due_then_the_smaller_id() -> None:
    mails = [(LOW, 1.0, "e"), (NORMAL, 5.0, "d"), (NORMAL, 5.0, "c"), (NORMAL, 4.0, "b"), (CRITICAL, 99.0, "a")]
    assert line(*mails) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("waited_longer", "first"),
    [(0.0, "high"), (599.0, "high"), (601.0, "normal"), (6000.0, "normal")],
)
def test_ageing_makes_up_for_one_priority(waited_longer: float, first: str) -> None:
    mails = [(HIGH, 10_000.0, "high"), (NORMAL, 10_000.0 - waited_longer, "normal")]
    assert line(*mails, ageing=600.0)[0] == first
    assert line(*mails)[0] == "high"


def test_two_priorities_take_twice_the_wait() -> None:
    assert line((CRITICAL, 10_000.0, "critical"), (NORMAL, 8_801.0, "normal"), ageing=600.0)[0] == "critical"
    assert line((CRITICAL, 10_000.0, "critical"), (NORMAL, 8_799.0, "normal"), ageing=600.0)[0] == "normal"


@pytest.mark.parametrize("ageing", [0.0, -1.0])
def test_ageing_must_be_positive(ageing: float) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        order_key(NORMAL, 0.0, id="0", ageing=ageing)


@given(MAILS, MAILS, MAILS, st.none() | st.floats(0.001, 1e6))
def test_the_order_is_total(
    one: tuple[Priority, float, str],
    two: tuple[Priority, float, str],
    three: tuple[Priority, float, str],
    ageing: float | None,
) -> None:
    keys = [order_key(priority, due, id=id, ageing=ageing) for priority, due, id in (one, two, three)]
    first, second, third = keys
    assert (first < second) + (second < first) + (first == second) == 1
    assert not (first < second < third) or first < third
    if one[2] != two[2]:
        assert first != second


@given(MAILS, MAILS)
def test_without_ageing_no_wait_beats_a_higher_priority(
    one: tuple[Priority, float, str], two: tuple[Priority, float, str]
) -> None:
    if one[0] > two[0]:
        assert order_key(one[0], one[1], id=one[2]) < order_key(two[0], two[1], id=two[2])


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        *((value, LOW) for value in (-9, -4, -2)),
        *((value, NORMAL) for value in (-1, 0, 1)),
        *((value, HIGH) for value in (2, 4, 5)),
        *((value, CRITICAL) for value in (6, 9)),
    ],
)
def test_mt_priority_to_level(value: int, priority: Priority) -> None:
    assert from_mt_priority(value) is priority


@pytest.mark.parametrize("value", [-10, 10, 100])
def test_mt_priority_has_bounds(value: int) -> None:
    with pytest.raises(ValueError, match="-9 to 9"):
        from_mt_priority(value)


def test_mt_priority_keeps_order_and_comes_back() -> None:
    levels = [from_mt_priority(value) for value in range(-9, 10)]
    assert levels == sorted(levels)
    assert [from_mt_priority(to_mt_priority(priority)) for priority in Priority] == list(Priority)
    assert [to_mt_priority(priority) for priority in Priority] == [-4, 0, 4, 6]


@pytest.mark.parametrize(
    ("name", "priority"), [("low", LOW), ("Normal", NORMAL), (" HIGH ", HIGH), ("critical", CRITICAL)]
)
def test_levels_have_names(name: str, priority: Priority) -> None:
    assert from_name(name) is priority


@pytest.mark.parametrize("name", ["", "urgent", "2", "LOW\n1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="low, normal, high or critical"):
        from_name(name)


@pytest.mark.parametrize(
    ("mt_priority", "listener", "route", "priority"),
    [
        (None, None, None, NORMAL),
        (None, None, LOW, LOW),
        (None, HIGH, LOW, HIGH),
        (None, LOW, CRITICAL, LOW),
        (-4, CRITICAL, HIGH, LOW),
        (6, LOW, LOW, CRITICAL),
        (0, HIGH, LOW, HIGH),
        (1, None, LOW, LOW),
        (None, NORMAL, HIGH, HIGH),
    ],
)
def test_what_is_nearest_to_the_mail_has_the_word(
    mt_priority: int | None, listener: Priority | None, route: Priority | None, priority: Priority
) -> None:
    assert combine(mt_priority, listener=listener, route=route) is priority


@given(st.none() | st.integers(-9, 9), st.none() | st.sampled_from(Priority), st.none() | st.sampled_from(Priority))
def test_the_route_may_be_asked_later(
    mt_priority: int | None, listener: Priority | None, route: Priority | None
) -> None:
    decided = combine(mt_priority, listener=listener)
    assert first_spoken(decided, route) is combine(mt_priority, listener=listener, route=route)


def test_a_mail_starves_after_its_time() -> None:
    assert not is_starving(due=1000.0, now=1000.0 + STARVING_AFTER_SECONDS)
    assert is_starving(due=1000.0, now=1000.1 + STARVING_AFTER_SECONDS)
    assert not is_starving(due=1000.0, now=0.0)
