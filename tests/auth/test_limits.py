"""How often somebody may be wrong, over virtual time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.auth import limits
from elemta.auth.limits import (
    FIRST_DELAY_SECONDS,
    KNOWN_SECONDS,
    MAX_DELAY_SECONDS,
    MAX_KNOWN_NETWORKS,
    MAX_TALLIES,
    FailureLimits,
    Failures,
    Kind,
    Standing,
    Who,
)

LIMITS = FailureLimits(per_address=3, per_network=5, per_user=7, lockout_seconds=900.0)


def fail(failures: Failures, who: Who, times: int, now: float = 0.0) -> Standing:
    standing = failures.standing(who, now)
    for _ in range(times):
        standing = failures.failed(who, now)
    return standing


def test_an_address_is_locked_out_and_let_in_again() -> None:
    failures = Failures(LIMITS)
    who = Who.of("192.0.2.1", "alice")
    assert fail(failures, who, 2) == Standing(None, 2)
    assert failures.failed(who, 100.0) == Standing(Kind.ADDRESS, 3, is_new=True)
    assert failures.standing(who, 100.0) == Standing(Kind.ADDRESS, 3)
    assert failures.standing(who, 999.9).locked is Kind.ADDRESS, "from the failure that was too many"
    assert failures.standing(Who.of("192.0.2.1"), 999.9).locked is Kind.ADDRESS, "whoever it claims to be"
    assert failures.standing(Who.of("192.0.2.2", "alice"), 999.9).locked is None
    assert failures.standing(who, 1000.0) == Standing(None, 0)


def test_a_window_lasts_from_its_first_failure() -> None:
    failures = Failures(LIMITS)
    who = Who.of("192.0.2.1", "alice")
    fail(failures, who, 2, now=0.0)
    assert failures.standing(who, 899.9).failures == 2
    assert failures.failed(who, 900.0) == Standing(None, 1)


def test_what_comes_while_locked_out_makes_it_no_longer() -> None:
    failures = Failures(LIMITS)
    who = Who.of("192.0.2.1", "alice")
    fail(failures, who, 3)
    failures.failed(who, 899.0)
    assert failures.standing(who, 900.0).locked is None


@pytest.mark.parametrize(
    ("template", "stranger"),
    [("192.0.2.{}", "192.0.3.1"), ("2001:db8:0:7::{}", "2001:db8:0:8::1")],
)
def test_a_network_is_locked_out(template: str, stranger: str) -> None:
    failures = Failures(LIMITS)
    for host in range(1, 6):
        fail(failures, Who.of(template.format(host), f"user{host}"), 1)
    assert failures.standing(Who.of(template.format(99)), 1.0).locked is Kind.NETWORK
    assert failures.standing(Who.of(stranger), 1.0).locked is None


def test_a_user_is_locked_out_for_strangers_alone() -> None:
    failures = Failures(LIMITS)
    home = Who.of("198.51.100.7", "alice")
    assert failures.succeeded(home, 0.0)
    for network in range(7):
        fail(failures, Who.of(f"192.0.{network}.1", "ALICE"), 1, now=10.0)
    assert failures.standing(Who.of("203.0.113.1", "Alice"), 11.0).locked is Kind.USER
    assert failures.standing(Who.of("203.0.113.1", "bob"), 11.0).locked is None
    assert failures.standing(home, 11.0).locked is None
    assert failures.standing(Who.of("198.51.100.250", "alice"), 11.0).locked is None, "the same network"


def test_wrong_passwords_from_a_users_own_network_lock_out_nobody_elsewhere() -> None:
    failures = Failures(LIMITS)
    failures.succeeded(Who.of("198.51.100.7", "alice"), 0.0)
    for host in range(1, 5):
        fail(failures, Who.of(f"198.51.100.{host}", "alice"), 2)
    assert failures.standing(Who.of("203.0.113.1", "alice"), 1.0).locked is None
    assert failures.standing(Who.of("198.51.100.7", "alice"), 1.0).locked is Kind.NETWORK


def test_a_network_is_a_users_own_for_a_while() -> None:
    failures = Failures(LIMITS)
    home = Who.of("198.51.100.7", "alice")
    failures.succeeded(home, 0.0)
    assert failures.is_own_network(home, KNOWN_SECONDS - 1)
    assert not failures.is_own_network(home, KNOWN_SECONDS)
    assert not failures.is_own_network(Who.of("198.51.100.7", "bob"), 0.0)


def test_the_oldest_of_too_many_own_networks_goes() -> None:
    failures = Failures(LIMITS)
    for network in range(MAX_KNOWN_NETWORKS + 1):
        failures.succeeded(Who.of(f"198.51.{network}.7", "alice"), float(network))
    assert not failures.is_own_network(Who.of("198.51.0.7", "alice"), 10.0)
    assert failures.is_own_network(Who.of("198.51.1.7", "alice"), 10.0)


def test_a_success_is_news_once_a_day() -> None:
    failures = Failures(LIMITS)
    home = Who.of("198.51.100.7", "alice")
    assert failures.succeeded(home, 0.0)
    assert not failures.succeeded(home, 3600.0)
    assert failures.succeeded(home, 3600.0 + 86_401.0)


def test_a_success_forgives_no_failure() -> None:
    failures = Failures(LIMITS)
    fail(failures, Who.of("192.0.2.1", "alice"), 2)
    failures.succeeded(Who.of("192.0.2.1", "mallory"), 1.0)
    assert failures.failed(Who.of("192.0.2.1", "alice"), 2.0).locked is Kind.ADDRESS


def test_delays_double_up_to_a_bound() -> None:
    delays = [Standing(None, failures).delay_seconds for failures in (0, 1, 2, 3, 100, 10**6)]
    assert delays == [
        0.0,
        FIRST_DELAY_SECONDS,
        FIRST_DELAY_SECONDS * 2,
        FIRST_DELAY_SECONDS * 4,
        MAX_DELAY_SECONDS,
        MAX_DELAY_SECONDS,
    ]


def test_a_unix_socket_is_an_address_too() -> None:
    assert Who.of("") == Who("unix", "unix")
    failures = Failures(LIMITS)
    fail(failures, Who.of(""), 3)
    assert failures.standing(Who.of(""), 1.0).locked is Kind.ADDRESS


def test_tables_are_bounded_and_keep_who_is_locked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_TALLIES", 100)
    failures = Failures(FailureLimits(per_address=2, per_network=10**6, per_user=10**6, lockout_seconds=900.0))
    bad = Who.of("192.0.2.1")
    fail(failures, bad, 2)
    for number in range(10_000):
        failures.failed(Who.of(f"10.{number >> 8}.{number & 255}.1", f"u{number}"), 1.0)
    assert failures.remembered <= 300
    assert failures.standing(bad, 2.0).locked is Kind.ADDRESS


def test_a_table_full_of_the_locked_out_is_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_TALLIES", 50)
    failures = Failures(FailureLimits(per_address=1, per_network=1, per_user=1, lockout_seconds=900.0))
    for number in range(200):
        failures.failed(Who.of(f"10.0.{number}.1", f"u{number}"), 1.0)
    assert failures.remembered == 150


def test_the_real_bound_is_named() -> None:
    assert MAX_TALLIES == 10_000


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2000)), max_size=60))
def test_no_address_is_looked_at_more_often_than_twice_its_limit_in_a_window(tries: list[tuple[int, float]]) -> None:
    failures = Failures(FailureLimits(per_address=3, per_network=10**6, per_user=10**6, lockout_seconds=900.0))
    looked_at: dict[int, list[float]] = {}
    for host, now in sorted(tries, key=lambda pair: pair[1]):
        who = Who.of(f"192.0.2.{host}")
        if failures.standing(who, now).locked is None:
            failures.failed(who, now)
            looked_at.setdefault(host, []).append(now)
    for times in looked_at.values():
        assert all(sum(start <= other < start + 900.0 for other in times) <= 5 for start in times)
