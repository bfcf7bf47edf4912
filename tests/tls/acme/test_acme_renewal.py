"""When certificates are renewed: the rules one by one, and what holds whatever happens."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elemta.tls.acme.base import Window
from elemta.tls.acme.renewal import (
    MOST_BETWEEN_SECONDS,
    MOST_RETRY_AFTER_SECONDS,
    Cause,
    Moment,
    Past,
    Plan,
    Validity,
    Wishes,
    ask_again_seconds,
    plan,
    renewal_moment,
)

DAY = 86_400.0
MINUTE = 60.0
BORN = 1_800_000_000.0
QUARTER = Validity(BORN, BORN + 90 * DAY)
SHORT = Validity(BORN, BORN + 60)
NO_WISHES = Wishes()
FRESH = Past()


def at(seconds: float, *, steady: float = 0.0) -> Moment:
    return Moment(BORN + seconds, steady)


def test_without_a_certificate_one_is_ordered_at_once() -> None:
    assert plan(None, NO_WISHES, FRESH, now=at(0)) == Plan(0.0, Cause.MISSING)


@pytest.mark.parametrize(
    ("validity", "wishes", "age"),
    [
        (QUARTER, NO_WISHES, 60 * DAY),
        (QUARTER, Wishes(chance=1.0), 63 * DAY),
        (SHORT, NO_WISHES, 40),
        (SHORT, Wishes(chance=0.5), 41),
        (QUARTER, Wishes(renewal_days=20), 70 * DAY),
        (QUARTER, Wishes(renewal_days=0), 90 * DAY),
        # Thirty days of a certificate of six would be before its beginning.
        (Validity(BORN, BORN + 6 * DAY), Wishes(renewal_days=30), 3 * DAY),
    ],
)
def test_a_certificate_is_renewed_at_its_age(validity: Validity, wishes: Wishes, age: float) -> None:
    found = plan(validity, wishes, FRESH, now=at(0))
    assert found.seconds == pytest.approx(age)
    assert found.cause is Cause.AGE
    assert plan(validity, wishes, FRESH, now=at(age + 1)) == Plan(0.0, Cause.AGE)


def window(start: float, end: float, retry_after: float | None = None) -> Window:
    return Window(BORN + start, BORN + end, retry_after)


@pytest.mark.parametrize(
    ("wishes", "age", "cause"),
    [
        (Wishes(window=window(50 * DAY, 52 * DAY)), 50 * DAY, Cause.SUGGESTED),
        (Wishes(window=window(50 * DAY, 52 * DAY), chance=0.5), 51 * DAY, Cause.SUGGESTED),
        # It was revoked, or will be soon.
        (Wishes(window=window(-2 * DAY, -1 * DAY)), 0.0, Cause.SUGGESTED),
        # Later than our own rule, though not too late.
        (Wishes(window=window(70 * DAY, 72 * DAY)), 70 * DAY, Cause.SUGGESTED),
        # After its end, or so near that a failure could not be mended.
        (Wishes(window=window(100 * DAY, 101 * DAY)), 75 * DAY, Cause.AGE),
        (Wishes(window=window(89 * DAY, 90 * DAY)), 75 * DAY, Cause.AGE),
        # The operator's word can be brought forward, not put off.
        (Wishes(renewal_days=40, window=window(60 * DAY, 61 * DAY)), 50 * DAY, Cause.AGE),
        (Wishes(renewal_days=20, window=window(60 * DAY, 61 * DAY)), 60 * DAY, Cause.SUGGESTED),
        # A window that ends before it begins: a mistake of theirs.
        (Wishes(window=window(50 * DAY, 40 * DAY), chance=0.9), 50 * DAY, Cause.SUGGESTED),
    ],
)
def test_what_the_authority_suggests_goes_first(wishes: Wishes, age: float, cause: Cause) -> None:
    found = plan(QUARTER, wishes, FRESH, now=at(0))
    assert found.seconds == pytest.approx(age)
    assert found.cause is cause


def distances(validity: Validity | None, age: float, *, refused: bool = False, times: int = 9) -> list[float]:
    """Seconds to the next attempt after each of so many failures, all at one age of the certificate."""
    pasts = [Past(failures=count, refused=refused) for count in range(1, times + 1)]
    return [plan(validity, NO_WISHES, past, now=at(age)).seconds for past in pasts]


def test_an_authority_that_is_away_is_asked_twice_as_late_each_time() -> None:
    minutes = [seconds / MINUTE for seconds in distances(QUARTER, 61 * DAY, times=11)]
    assert minutes == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360])


def test_a_refusal_is_repeated_more_slowly() -> None:
    minutes = [seconds / MINUTE for seconds in distances(QUARTER, 61 * DAY, refused=True)]
    assert minutes == pytest.approx([5, 10, 20, 40, 80, 160, 320, 360, 360])


def test_near_the_end_attempts_come_sooner() -> None:
    hours_left = 3.0
    minutes = [seconds / MINUTE for seconds in distances(QUARTER, 90 * DAY - hours_left * 3600)]
    assert minutes == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])
    assert distances(QUARTER, 90 * DAY - 10) == pytest.approx([60.0] * 9)


def test_after_the_end_and_without_one_it_is_an_hour_at_most() -> None:
    expected = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    for validity, age in ((QUARTER, 100 * DAY), (None, 0.0)):
        assert [seconds / MINUTE for seconds in distances(validity, age)] == pytest.approx(expected)


def test_a_certificate_of_a_minute_is_tried_again_within_seconds() -> None:
    assert distances(SHORT, 40) == pytest.approx([2, 4, 20 / 3, 20 / 3, 20 / 3, 20 / 3, 20 / 3, 20 / 3, 20 / 3])
    assert distances(SHORT, 200, refused=True) == pytest.approx([2, 4, 8, 10, 10, 10, 10, 10, 10])


def test_time_that_passed_since_the_failure_counts() -> None:
    past = Past(failures=3, at=1000.0)
    assert plan(None, NO_WISHES, past, now=at(0, steady=1100)) == Plan(140.0, Cause.BACK_OFF)
    assert plan(None, NO_WISHES, past, now=at(0, steady=1240)) == Plan(0.0, Cause.MISSING)


def test_a_retry_after_is_kept_to_within_a_week() -> None:
    def asked(retry_after: float, passed: float = 0.0) -> Plan:
        past = Past(failures=1, at=50.0, refused=True, retry_after=retry_after)
        return plan(None, NO_WISHES, past, now=at(0, steady=50 + passed))

    assert asked(10) == Plan(300.0, Cause.BACK_OFF)
    assert asked(5000) == Plan(5000.0, Cause.RETRY_AFTER)
    assert asked(5000, 4000) == Plan(1000.0, Cause.RETRY_AFTER)
    assert asked(1e9) == Plan(MOST_RETRY_AFTER_SECONDS, Cause.RETRY_AFTER)


def test_a_failure_does_not_matter_to_a_certificate_that_is_not_due() -> None:
    assert plan(QUARTER, NO_WISHES, Past(failures=5), now=at(0)) == Plan(60 * DAY, Cause.AGE)


def test_a_clock_far_ahead_makes_no_storm_of_orders() -> None:
    years = 3650 * DAY
    ordered = Past(ordered_at=10.0)
    assert plan(QUARTER, NO_WISHES, ordered, now=at(years, steady=10)) == Plan(DAY, Cause.FRESH)
    assert plan(SHORT, NO_WISHES, ordered, now=at(years, steady=15)) == Plan(5.0, Cause.FRESH)
    assert plan(QUARTER, NO_WISHES, ordered, now=at(years, steady=10 + DAY)) == Plan(0.0, Cause.AGE)


def test_a_clock_far_behind_waits_and_hurries_once_it_is_set() -> None:
    assert plan(QUARTER, NO_WISHES, FRESH, now=Moment(0.0, 0.0)).seconds == pytest.approx(BORN + 60 * DAY)
    assert plan(QUARTER, NO_WISHES, FRESH, now=at(80 * DAY)) == Plan(0.0, Cause.AGE)


SECONDS = st.floats(min_value=-1e10, max_value=1e10)
PASTS = st.builds(
    Past,
    failures=st.integers(0, 2000),
    at=st.floats(0, 1e9),
    refused=st.booleans(),
    retry_after=st.none() | st.floats(0, 1e12),
    chance=st.floats(0, 1),
    ordered_at=st.none() | st.floats(0, 1e9),
)
VALIDITIES = st.builds(lambda begin, lifetime: Validity(begin, begin + lifetime), SECONDS, st.floats(-1e6, 1e9))
WISHES = st.builds(
    Wishes,
    renewal_days=st.none() | st.floats(0, 3650),
    window=st.none() | st.builds(Window, SECONDS, SECONDS),
    chance=st.floats(0, 1),
)


@given(st.none() | VALIDITIES, WISHES, PASTS, SECONDS)
def test_whatever_happened_the_wait_is_bounded(
    validity: Validity | None, wishes: Wishes, past: Past, wall: float
) -> None:
    steady = max(past.at, past.ordered_at or 0.0)
    found = plan(validity, wishes, past, now=Moment(wall, steady))
    assert found.seconds >= 0
    if found.cause in (Cause.BACK_OFF, Cause.RETRY_AFTER):
        assert found.seconds <= max(MOST_RETRY_AFTER_SECONDS, 1.1 * MOST_BETWEEN_SECONDS)
    if past.failures == 0 and past.ordered_at is None and validity is not None and validity.not_after <= wall:
        assert found.seconds == 0


@given(VALIDITIES, WISHES)
def test_a_renewal_is_never_planned_for_after_the_end(validity: Validity, wishes: Wishes) -> None:
    moment, _ = renewal_moment(validity, wishes)
    assert moment <= max(validity.not_after, validity.not_before + 1) + 1e-5


def test_renewal_information_is_asked_for_within_bounds() -> None:
    asked = [ask_again_seconds(each) for each in (None, window(0, 1), window(0, 1, 1), window(0, 1, 7000))]
    assert asked == [6 * 3600, 6 * 3600, 60, 7000]
    assert ask_again_seconds(window(0, 1, 1e9)) == DAY
