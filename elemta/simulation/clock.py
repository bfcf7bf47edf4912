"""Virtual time with seeded scheduling.

What is not here: what happens in that time (`simulation.world`). Time passes only when every task waits: Trio's clock
then jumps to the next deadline, so that two days of retries take a second.
Failures raised: whatever the function that is run raises.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
from trio._core import _run
from trio.testing import MockClock

T = TypeVar("T")

#: UTC in seconds since 1970 when Trio's virtual clock stands at 0: 2023-11-14T22:13:20Z, any whole number would do.
EPOCH_SECONDS = 1_700_000_000.0
#: Trio's switch for a repeatable order of tasks, see `seeded_scheduling`.
_SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"


class VirtualClock:
    """The wall clock of the simulated world: it follows Trio's clock, and steps when told."""

    def __init__(self) -> None:
        self.stepped = 0.0

    def wall(self) -> float:
        """UTC in seconds since 1970-01-01T00:00:00Z."""
        return EPOCH_SECONDS + trio.current_time() + self.stepped

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back."""
        self.stepped += seconds


@contextmanager
def seeded_scheduling(seed: int) -> Iterator[None]:
    """Inside, Trio runs ready tasks in an order that the seed decides.

    Trio shuffles the tasks that are ready in each round, on purpose, with a generator of its own. Two names of its
    core make that repeatable: with `_ALLOW_DETERMINISTIC_SCHEDULING` the tasks of a round are brought into the order of
    their making before they are shuffled (a set's own order depends on addresses in memory), and `_r` is the generator
    that shuffles. They are private, but kept for this very purpose (Hypothesis uses them as well). This is the one
    place that touches them.
    """
    before = _run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING
    setattr(_run, _SWITCH, True)  # by its name: type checkers take it for a constant
    _run._r.seed(seed)
    try:
        yield
    finally:
        state, switch = before
        setattr(_run, _SWITCH, switch)
        _run._r.setstate(state)


def run_virtual(function: Callable[[], Awaitable[T]], *, seed: int) -> T:
    """Run `function` under Trio in virtual time, with the scheduling of `seed`."""
    with seeded_scheduling(seed):
        return trio.run(function, clock=MockClock(autojump_threshold=0))


def chance_of(seed: int, *purpose: object) -> random.Random:
    """A generator for one purpose: what one part of the world draws never moves what another part draws."""
    return random.Random(f"{seed}/{'/'.join(map(str, purpose))}")
