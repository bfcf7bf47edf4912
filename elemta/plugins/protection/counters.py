"""Buckets that are counted over all nodes, or in this process while that is impossible.

What is not here: how a bucket works (`buckets`), which there are (`limits`), how long the key-value store is waited for
(`shared`).
Everything that passes is written down in this process as well. While the store does not answer, that is what counts.
Otherwise it is a guess at what the store has: while guesses are right, as they are on a single node, a bucket is drawn
from by one write, and no read. Failures raised: none but cancellation.
"""

import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import trio

from elemta.plugins.api import Host
from elemta.plugins.protection.buckets import (
    MICROSECONDS,
    SKEW_SECONDS,
    Drawn,
    draw,
    dump,
    full_at,
    give_back,
    load,
)
from elemta.plugins.protection.limits import Charge
from elemta.plugins.protection.shared import SharedState

#: Times that a number is read anew because another node changed it. Sessions of one process take turns, so that each
#: time one of the other nodes got further; a few of them never lose so often in a row.
MAX_SWAPS: Final = 8
#: How often guesses must have been right, more than wrong, before they are relied on; and the most that is remembered.
TRUST: Final = 4
MOST_TRUST: Final = 8
#: Locks by which sessions of this process take turns, shared by all keys.
TURNS: Final = 64

T = TypeVar("T")


class Counters:
    """The buckets of one plugin."""

    def __init__(self, host: Host, *, most_keys: int) -> None:
        self._host = host
        self._most_keys = most_keys
        #: What this process knows, as it is kept; what changed last is at the end.
        self._here: OrderedDict[str, bytes] = OrderedDict()
        self._trust = TRUST
        self._turns = [trio.Lock() for _ in range(TURNS)]
        self._shared = SharedState(
            host, meanwhile="what other nodes count does not count here meanwhile; this node's own does"
        )

    async def draw(self, charges: Sequence[Charge]) -> tuple[Charge, float] | None:
        """Draw every charge, or none of them: then the first that does not pass, with the seconds to wait."""
        for index, charge in enumerate(charges):
            drawn = await self._ask(self._draw_shared, charge) or self._drawn_here(charge)
            if drawn.wait is not None:
                for earlier in charges[:index]:
                    await self._give_back(earlier)
                return charge, drawn.wait / MICROSECONDS
        return None

    async def look(self, charges: Sequence[Charge]) -> tuple[Charge, float] | None:
        """As `draw`, without drawing."""
        for charge in charges:
            seen = await self._ask(self._look_shared, charge) or self._drawn(charge, self._here.get(charge.key))
            if seen.wait is not None:
                return charge, seen.wait / MICROSECONDS
        return None

    # ---- one subject ---------------------------------------------------------------------------------

    async def _ask(self, work: Callable[[Charge], Awaitable[T | None]], charge: Charge) -> T | None:
        """What comes of asking the store, one session after the other; None while it does not answer in time.

        Waiting for the turn counts: a store that is too slow for all who come must not keep them until the plugin's
        own deadline, past which nothing would be limited at all.
        """

        async def in_turn() -> T | None:
            async with self._turn(charge.key):
                return None if self._shared.rests else await work(charge)

        return await self._shared.ask(in_turn)

    async def _draw_shared(self, charge: Charge) -> Drawn | None:
        """Draw from what all nodes share; None when others were always faster. Raises `SharedAway`."""
        guess = self._guess(charge)
        if self._trust >= TRUST:
            drawn = self._drawn(charge, guess)
            if drawn.wait is None and await self._swap(charge, guess, drawn.numbers):
                self._learn(is_right=True)
                return drawn
        for _ in range(MAX_SWAPS):
            old = await self._host.shared.get(charge.key)
            self._learn(is_right=guess == old)
            drawn = self._drawn(charge, old)
            if drawn.wait is not None:
                self._remember(charge.key, old or b"")
                return drawn
            if await self._swap(charge, old, drawn.numbers):
                return drawn
            guess = old
        return None

    def _guess(self, charge: Charge) -> bytes | None:
        """What the store has, as far as this process knows: nothing of what is past its time."""
        known = self._here.get(charge.key)
        if known is None:
            return None
        until = full_at(load(known), rates=charge.rates) / MICROSECONDS + SKEW_SECONDS
        return known if until > self._host.clock.wall() else None

    def _learn(self, *, is_right: bool) -> None:
        self._trust = min(self._trust + 1, MOST_TRUST) if is_right else max(self._trust - 1, 0)

    def _drawn(self, charge: Charge, kept: bytes | None) -> Drawn:
        return draw(load(kept), self._now(), rates=charge.rates, cost=charge.cost)

    async def _swap(self, charge: Charge, old: bytes | None, numbers: Mapping[str, int]) -> bool:
        new = dump(numbers)
        full_in = max(full_at(numbers, rates=charge.rates) - self._now(), 0) / MICROSECONDS
        # Another node's clock may say later that it is full.
        is_ours = await self._host.shared.swap(charge.key, old, new, seconds=full_in + SKEW_SECONDS)
        if is_ours:
            self._remember(charge.key, new)
        return is_ours

    def _drawn_here(self, charge: Charge) -> Drawn:
        drawn = self._drawn(charge, self._here.get(charge.key))
        self._remember(charge.key, dump(drawn.numbers))
        return drawn

    async def _look_shared(self, charge: Charge) -> Drawn:
        return self._drawn(charge, await self._host.shared.get(charge.key))

    async def _give_back(self, charge: Charge) -> None:
        if not await self._ask(self._give_back_shared, charge):
            known = self._here.get(charge.key)
            self._remember(charge.key, dump(self._given_back(charge, known)))

    async def _give_back_shared(self, charge: Charge) -> bool:
        """False when it is full again and forgotten, or others were always faster. Raises `SharedAway`."""
        for _ in range(MAX_SWAPS):
            old = await self._host.shared.get(charge.key)
            if old is None:
                return False
            if await self._swap(charge, old, self._given_back(charge, old)):
                return True
        return False

    def _given_back(self, charge: Charge, kept: bytes | None) -> dict[str, int]:
        return give_back(load(kept), rates=charge.rates, cost=charge.cost)

    # ---- this process --------------------------------------------------------------------------------

    def _turn(self, key: str) -> trio.Lock:
        return self._turns[zlib.crc32(key.encode("utf-8", "surrogatepass")) % TURNS]

    def _now(self) -> int:
        return round(self._host.clock.wall() * MICROSECONDS)

    def _remember(self, key: str, kept: bytes) -> None:
        self._here[key] = kept
        self._here.move_to_end(key)
        if len(self._here) > self._most_keys:
            self._here.popitem(last=False)
