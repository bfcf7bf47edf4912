"""How long a worker that ended waits."""

import random

import pytest

from elemta.supervisor.backoff import FIRST_SECONDS, JITTER, MOST_SECONDS, SOUND_SECONDS, Backoff


class Middle(random.Random):
    """Chance that always strikes the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def test_each_wait_is_twice_the_one_before_to_its_bound() -> None:
    backoff = Backoff(Middle())
    waits = [backoff.after(0.1) for _ in range(9)]
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])


def test_a_worker_that_ran_long_enough_begins_anew() -> None:
    backoff = Backoff(Middle())
    for _ in range(5):
        backoff.after(SOUND_SECONDS - 0.1)
    assert [backoff.after(SOUND_SECONDS), backoff.after(0)] == pytest.approx([FIRST_SECONDS, 2 * FIRST_SECONDS])


def test_chance_parts_workers_that_fell_together() -> None:
    first = {Backoff(random.Random(seed)).after(0) for seed in range(50)}
    assert len(first) == 50
    assert min(first) >= FIRST_SECONDS * (1 - JITTER)
    assert max(first) <= FIRST_SECONDS * (1 + JITTER)
    backoff = Backoff(random.Random(3))
    assert max(backoff.after(0) for _ in range(200)) <= MOST_SECONDS
