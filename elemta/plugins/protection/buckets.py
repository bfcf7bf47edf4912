"""Token buckets, each kept as one number.

A bucket holds `burst` tokens and is refilled evenly, `count` in `seconds`; who takes what is not there is told how long
to wait. This is the generic cell rate algorithm (ITU-T I.371): instead of a level and the time when it was right, one
keeps the time at which the bucket will be full again. So a bucket that nobody touches needs no refilling and, once
full, no keeping.

All is exact: times are whole microseconds, and the number kept is that time in fractions of `1 / count` microseconds,
so that no rate has to be rounded. Never more passes than `burst + elapsed * count / seconds`, and whoever waits as long
as was said passes. Where the clock is set back, a bucket is no longer empty than it was to be, or counts as full.

What is not here: where numbers are kept (`counters`), who has which bucket (`limits`). Failures raised: none.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from attrs import evolve, frozen

MICROSECONDS: Final = 1_000_000
#: Seconds by which clocks of nodes differ, at most. Ours: NTP keeps them within one.
SKEW_SECONDS: Final = 5


@frozen
class Rate:
    """`count` in `seconds`, of which `burst` may come at once; all at least 1."""

    count: int
    seconds: int
    burst: int

    @property
    def label(self) -> str:
        """What tells its number from those of other rates: a number means nothing under another rate."""
        return f"{self.count}/{self.seconds}/{self.burst}"

    @property
    def token(self) -> int:
        """One token, in the unit of the number."""
        return self.seconds * MICROSECONDS

    def price(self, cost: int) -> int:
        """`cost` tokens in the unit of the number. What costs more than a full bucket costs a full one: otherwise it
        would never pass."""
        return min(cost, self.burst) * self.token


@frozen
class Taken:
    """The number to keep, and how many microseconds to wait: None for what passed."""

    number: int
    wait: int | None


def take(stored: int | None, now: int, *, rate: Rate, cost: int = 1) -> Taken:
    """Take `cost` tokens at `now` (microseconds) out of a bucket; it is full where nothing is stored.

    What does not pass takes nothing.
    """
    here = now * rate.count
    depth = rate.burst * rate.token
    begin = here if stored is None else max(stored, here)
    # No bucket is emptier than empty, but by clocks that differ: what is, was kept before the clock was set back, and
    # would be empty until that time has come again.
    if begin > here + depth + SKEW_SECONDS * MICROSECONDS * rate.count:
        begin = here
    end = begin + rate.price(cost)
    excess = end - here - depth
    if excess <= 0:
        return Taken(end, None)
    return Taken(begin, -(-excess // rate.count))


@frozen
class Drawn:
    """What `draw` gives: the numbers to keep, and the longest wait in microseconds; None for what passed."""

    numbers: Mapping[str, int]
    wait: int | None


def draw(stored: Mapping[str, int], now: int, *, rates: Sequence[Rate], cost: int = 1) -> Drawn:
    """Take from several buckets of one subject, from all or from none."""
    taken = {rate: take(stored.get(rate.label), now, rate=rate, cost=cost) for rate in rates}
    waits = [each.wait for each in taken.values() if each.wait is not None]
    if waits and cost:
        return evolve(draw(stored, now, rates=rates, cost=0), wait=max(waits))
    return Drawn({rate.label: each.number for rate, each in taken.items()}, None)


def full_at(numbers: Mapping[str, int], *, rates: Sequence[Rate]) -> int:
    """When all buckets are full again, in microseconds."""
    return max((-(-numbers.get(rate.label, 0) // rate.count) for rate in rates), default=0)


def give_back(stored: Mapping[str, int], *, rates: Sequence[Rate], cost: int = 1) -> dict[str, int]:
    """The numbers without what was drawn before."""
    costs = {rate.label: rate.price(cost) for rate in rates}
    return {label: number - costs.get(label, 0) for label, number in stored.items()}


def dump(numbers: Mapping[str, int]) -> bytes:
    """The numbers of one subject as they are kept."""
    return " ".join(f"{label}={number}" for label, number in numbers.items()).encode("ascii")


def load(kept: bytes | None) -> dict[str, int]:
    """The numbers that were kept; what is no number is left out."""
    pairs = (word.partition("=") for word in (kept or b"").decode("ascii", "replace").split())
    return {label: int(number) for label, _, number in pairs if number.isascii() and number.isdecimal()}
