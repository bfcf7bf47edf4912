"""When a plugin is left alone, and when it is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.plugins.breaker import FAILURES_TO_OPEN, REST_SECONDS, Breaker


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for number in range(1, FAILURES_TO_OPEN + 1):
        assert breaker.allows(now)
        assert breaker.failed(now) is (number == FAILURES_TO_OPEN), "told once"
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES_TO_OPEN - 1):
            assert not breaker.failed(0.0)
        assert not breaker.succeeded(), "it was never open"
    assert breaker.allows(0.0)
    assert not breaker.is_open


@pytest.mark.parametrize(("now", "allowed"), [(0.0, False), (REST_SECONDS - 0.01, False), (REST_SECONDS, True)])
def test_it_rests(now: float, allowed: bool) -> None:
    assert opened().allows(now) is allowed


def test_one_call_is_let_through_after_each_rest() -> None:
    breaker = opened()
    now = 0.0
    for _ in range(3):
        now += REST_SECONDS
        assert breaker.allows(now)
        assert not any(breaker.allows(now + later) for later in (0.0, 1.0, 10 * REST_SECONDS)), "one at a time"
        assert not breaker.failed(now), "it is open already"
        assert not breaker.allows(now + REST_SECONDS - 0.01)


def test_a_success_closes_it_and_is_told_once() -> None:
    breaker = opened()
    assert breaker.allows(REST_SECONDS)
    assert breaker.succeeded()
    assert not breaker.succeeded()
    assert all(breaker.allows(REST_SECONDS) for _ in range(100))
    for number in range(1, FAILURES_TO_OPEN + 1):
        assert breaker.failed(REST_SECONDS) is (number == FAILURES_TO_OPEN), "the row begins anew"


def test_a_call_without_an_answer_lets_another_through() -> None:
    breaker = opened()
    assert breaker.allows(REST_SECONDS)
    breaker.forget_probe()
    assert breaker.allows(REST_SECONDS)
    assert not breaker.allows(REST_SECONDS)


@given(st.lists(st.tuples(st.sampled_from(["call", "fail", "succeed", "forget"]), st.floats(0, 100)), max_size=200))
def test_it_never_lets_more_through_than_it_says(history: list[tuple[str, float]]) -> None:
    """While it is open, at most one call a rest; closed again by a success alone."""
    breaker, now, let_through = Breaker(), 0.0, 0
    for deed, passes in history:
        now += passes
        was_open = breaker.is_open
        match deed:
            case "call":
                allowed = breaker.allows(now)
                assert allowed or was_open
                let_through = let_through + 1 if was_open and allowed else let_through
                assert let_through <= 1
            case "fail":
                opening = breaker.failed(now)
                assert opening is (breaker.is_open and not was_open)
                let_through = 0
            case "succeed":
                assert breaker.succeeded() is was_open
                assert not breaker.is_open
                let_through = 0
            case _:
                breaker.forget_probe()
                let_through = 0
