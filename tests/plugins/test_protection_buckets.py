"""Buckets: never more than burst and rate allow, and who waits as long as was said passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.plugins.protection.buckets import (
    MICROSECONDS,
    SKEW_SECONDS,
    Rate,
    draw,
    dump,
    full_at,
    give_back,
    load,
    take,
)

START = 1_700_000_000 * MICROSECONDS

rates = st.builds(
    Rate,
    count=st.integers(1, 10**10),
    seconds=st.sampled_from([1, 60, 3600, 86_400]),
    burst=st.integers(1, 10**6),
)
visits = st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 100)), max_size=60)


def visit(rate: Rate, stored: int | None, now: int, cost: int = 1) -> tuple[int, int | None]:
    taken = take(stored, now, rate=rate, cost=cost)
    return taken.number, taken.wait


@given(rates, visits)
def test_never_more_than_burst_and_rate(rate: Rate, visits: list[tuple[int, int]]) -> None:
    """Over every stretch of time, in exact arithmetic."""
    stored, now, passed = None, START, []
    for pause, cost in visits:
        now += pause
        stored, wait = visit(rate, stored, now, cost)
        if wait is None:
            passed.append((now, min(cost, rate.burst)))
    for first in range(len(passed)):
        begin, amount = passed[first][0], 0
        for when, cost in passed[first:]:
            amount += cost
            assert amount * rate.seconds * MICROSECONDS <= (
                rate.burst * rate.seconds * MICROSECONDS + (when - begin) * rate.count
            )


@given(rates, visits, st.integers(1, 10**7))
def test_the_wait_is_exact(rate: Rate, visits: list[tuple[int, int]], cost: int) -> None:
    """Whoever comes when they were told passes, and one microsecond before they do not."""
    stored, now = None, START
    for pause, each in visits:
        now += pause
        stored, _ = visit(rate, stored, now, each)
    stored, wait = visit(rate, stored, now, cost)
    if wait is not None:
        assert wait > 0
        assert visit(rate, stored, now + wait - 1, cost)[1] == 1
        assert visit(rate, stored, now + wait, cost)[1] is None


@given(rates)
def test_a_full_bucket_gives_its_burst(rate: Rate) -> None:
    stored, wait = visit(rate, None, START, rate.burst)
    assert wait is None
    assert visit(rate, stored, START)[1] is not None


@given(rates, visits, st.integers(1, 10**15))
def test_a_clock_that_was_set_back_costs_no_more_than_an_empty_bucket(
    rate: Rate, visits: list[tuple[int, int]], step: int
) -> None:
    """But by so much as clocks differ. Whoever waits as long as was said passes, though nothing was kept anew."""
    stored, now = None, START
    for pause, cost in visits:
        now += pause
        stored, _ = visit(rate, stored, now, cost)
    now -= step
    _, wait = visit(rate, stored, now)
    if wait is not None:
        assert (wait - 1) * rate.count < (rate.seconds + SKEW_SECONDS * rate.count) * MICROSECONDS
        assert visit(rate, stored, now + wait - 1)[1] == 1
        assert visit(rate, stored, now + wait)[1] is None


@given(rates, st.integers(0, 5 * MICROSECONDS), st.integers(1, 10**6))
def test_clocks_that_differ_a_little_make_no_bucket_fuller(rate: Rate, skew: int, cost: int) -> None:
    """A bucket that was emptied by a clock that is ahead is empty for one that is not."""
    stored, _ = visit(rate, None, START + skew, rate.burst)
    assert visit(rate, stored, START, cost)[1] is not None


def test_what_is_refused_takes_nothing() -> None:
    rate = Rate(60, 60, 2)
    stored, _ = visit(rate, None, START, 2)
    for _ in range(10):
        stored, wait = visit(rate, stored, START)
        assert wait == 1_000_000
    assert visit(rate, stored, START + 1_000_000)[1] is None


def test_what_costs_more_than_a_bucket_holds_empties_it() -> None:
    rate = Rate(3600, 3600, 100)
    stored, wait = visit(rate, None, START, 1000)
    assert wait is None
    assert visit(rate, stored, START, 1000)[1] == 100 * MICROSECONDS


def test_several_buckets_are_drawn_from_together_or_not_at_all() -> None:
    minute, hour = Rate(10, 60, 10), Rate(12, 3600, 12)
    stored: dict[str, int] = {}
    for _ in range(10):
        drawn = draw(stored, START, rates=(minute, hour))
        assert drawn.wait is None
        stored = dict(drawn.numbers)
    assert draw(stored, START, rates=(minute, hour)).wait == 6 * MICROSECONDS
    later = START + 60 * MICROSECONDS
    for _ in range(2):
        drawn = draw(stored, later, rates=(minute, hour))
        assert drawn.wait is None
        stored = dict(drawn.numbers)
    # The hour's bucket got a fifth of a token in a minute; the minute's would have let pass.
    refused = draw(stored, later, rates=(minute, hour))
    assert refused.wait == 240 * MICROSECONDS
    assert refused.numbers == stored


def test_who_is_refused_by_several_waits_for_the_slowest() -> None:
    both = (Rate(2, 60, 2), Rate(2, 3600, 2))
    drawn = draw({}, START, rates=both, cost=2)
    assert draw(drawn.numbers, START, rates=both).wait == 1800 * MICROSECONDS


@given(rates, st.integers(1, 1000))
def test_what_is_given_back_was_never_taken(rate: Rate, cost: int) -> None:
    before = dict(draw({}, START, rates=(rate,)).numbers)
    drawn = draw(before, START, rates=(rate,), cost=cost)
    if drawn.wait is None:
        assert give_back(drawn.numbers, rates=(rate,), cost=cost) == before


@given(rates, st.integers(1, 100))
def test_a_bucket_is_forgotten_when_it_is_full_again(rate: Rate, cost: int) -> None:
    drawn = draw({}, START, rates=(rate,), cost=cost)
    full = full_at(drawn.numbers, rates=(rate,))
    assert draw(drawn.numbers, full, rates=(rate,), cost=rate.burst).wait is None
    assert draw(drawn.numbers, full - 1, rates=(rate,), cost=rate.burst).wait == 1


@given(st.dictionaries(st.sampled_from(["60/60/60", "1/2/3"]), st.integers(0, 10**30)))
def test_numbers_are_kept(numbers: dict[str, int]) -> None:
    assert load(dump(numbers)) == numbers


@pytest.mark.parametrize("kept", [None, b"", b"=", b"60/60/60", b"60/60/60=-1", b"60/60/60=x \xff=1x", "x=²".encode()])
def test_what_is_no_number_is_left_out(kept: bytes | None) -> None:
    assert load(kept) == {}
