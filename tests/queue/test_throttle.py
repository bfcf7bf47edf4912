"""The bounds on deliveries at once."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.queue.throttle import DestinationLoad, destination_share


@pytest.mark.parametrize(("workers", "share"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5), (100, 50), (101, 50)])
def test_a_destination_takes_at_most_half_and_at_least_one(workers: int, share: int) -> None:
    assert destination_share(workers) == share


@pytest.mark.parametrize("workers", [0, -1])
def test_there_must_be_a_worker(workers: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        destination_share(workers)
    with pytest.raises(ValueError, match="at least 1"):
        DestinationLoad(workers)


def test_a_full_share_is_refused_and_named_until_a_place_comes_back() -> None:
    load = DestinationLoad(5)
    assert [load.try_take("slow") for _ in range(3)] == [True, True, False]
    assert load.saturated == {"slow"}
    assert not load.can_take("slow")
    assert load.can_take("quick")
    assert (load.of("slow"), load.of("quick"), load.in_flight, load.free) == (2, 0, 2, 3)
    load.give_back("slow")
    assert load.saturated == frozenset()
    assert load.try_take("slow")


def test_all_places_taken_refuse_everybody() -> None:
    load = DestinationLoad(3)
    assert [load.try_take(name) for name in ("a", "b", "c", "d")] == [True, True, True, False]
    assert load.free == 0
    load.give_back("b")
    assert load.try_take("d")


def test_a_place_never_taken_cannot_be_given_back() -> None:
    load = DestinationLoad(4)
    with pytest.raises(ValueError, match="'a'"):
        load.give_back("a")
    assert load.try_take("a")
    load.give_back("a")
    with pytest.raises(ValueError, match="'a'"):
        load.give_back("a")
    assert load.in_flight == 0


@given(st.integers(1, 12), st.lists(st.tuples(st.booleans(), st.sampled_from("abcde")), max_size=200))
def test_no_bound_is_ever_passed(workers: int, steps: list[tuple[bool, str]]) -> None:
    load = DestinationLoad(workers)
    held: Counter[str] = Counter()
    share = destination_share(workers)
    for take, name in steps:
        if take:
            fits = held.total() < workers and held[name] < share
            assert load.can_take(name) == fits
            assert load.try_take(name) == fits
            held[name] += fits
        elif held[name]:
            load.give_back(name)
            held[name] -= 1
        assert load.in_flight == held.total() <= workers
        assert load.free == workers - held.total()
        assert all(load.of(name) == held[name] <= share for name in "abcde")
        assert load.saturated == {name for name in "abcde" if held[name] == share}
        assert len(load.saturated) <= 3
