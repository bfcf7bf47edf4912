"""Buckets that are counted over all nodes, or in this process while that is impossible.

What is not here: how a bucket works (`buckets`), which there are (`limits`).
Everything that passes is written down in this process as well. While the key-value store does not answer, that is what
counts, which is logged once a minute. Failures raised: none but cancellation.
"""

import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from math import inf
from typing import Final

import trio

from elemta.plugins.api import Host, SharedAway
from elemta.plugins.protection.buckets import MICROSECONDS, Drawn, draw, dump, give_back, load
from elemta.plugins.protection.limits import Charge

#: Seconds that the store has for one bucket before this process counts alone; a client waits meanwhile.
SHARED_SECONDS: Final = 2.0
#: Seconds for which a store that failed is not asked again.
REST_SECONDS: Final = 5.0
#: Seconds between two log lines about that.
LOG_SECONDS: Final = 60.0
#: Times that a number is read anew because another node changed it. Sessions of one process take turns, so that each
#: time one of the other nodes got further; a few of them never lose so often in a row.
MAX_SWAPS: Final = 8
#: Locks by which sessions of this process take turns, shared by all keys.
TURNS: Final = 64
#: Seconds beyond the time when a bucket is full again that it is kept: nodes' clocks are that far apart.
KEEP_SECONDS: Final = 5.0


class Counters:
    """The buckets of one plugin."""

    def __init__(self, host: Host, *, most_keys: int) -> None:
        self._host = host
        self._most_keys = most_keys
        #: What this process knows; what changed last is at the end.
        self._here: OrderedDict[str, Mapping[str, int]] = OrderedDict()
        self._turns = [trio.Lock() for _ in range(TURNS)]
        self._rests_until = self._next_log = -inf

    async def draw(self, charges: Sequence[Charge]) -> tuple[Charge, float] | None:
        """Draw every charge, or none of them: then the first that does not pass, with the seconds to wait."""
        for index, charge in enumerate(charges):
            wait = await self._draw(charge)
            if wait is not None:
                for earlier in charges[:index]:
                    await self._give_back(earlier)
                return charge, wait / MICROSECONDS
        return None

    async def look(self, charges: Sequence[Charge]) -> tuple[Charge, float] | None:
        """As `draw`, without drawing."""
        for charge in charges:
            wait = await self._look(charge)
            if wait is not None:
                return charge, wait / MICROSECONDS
        return None

    # ---- one subject ---------------------------------------------------------------------------------

    async def _draw(self, charge: Charge) -> int | None:
        async with self._turn(charge.key):
            if self._is_shared:
                with trio.move_on_after(SHARED_SECONDS):
                    try:
                        drawn = await self._draw_shared(charge)
                    except SharedAway as error:
                        self._rest(str(error))
                    else:
                        return self._drawn_here(charge).wait if drawn is None else drawn.wait
                if self._is_shared:
                    self._rest(f"no answer within {SHARED_SECONDS:g} s")
            return self._drawn_here(charge).wait

    async def _draw_shared(self, charge: Charge) -> Drawn | None:
        """Draw from what all nodes share; None when others were always faster. Raises `SharedAway`."""
        shared = self._host.shared
        for _ in range(MAX_SWAPS):
            old = await shared.get(charge.key)
            now = self._now()
            drawn = draw(load(old), now, rates=charge.rates, cost=charge.cost)
            seconds = (drawn.full_at - now) / MICROSECONDS + KEEP_SECONDS
            if drawn.wait is not None or await shared.swap(charge.key, old, dump(drawn.numbers), seconds=seconds):
                self._remember(charge.key, drawn.numbers)
                return drawn
        return None

    def _drawn_here(self, charge: Charge) -> Drawn:
        drawn = draw(self._here.get(charge.key, {}), self._now(), rates=charge.rates, cost=charge.cost)
        self._remember(charge.key, drawn.numbers)
        return drawn

    async def _look(self, charge: Charge) -> int | None:
        numbers = self._here.get(charge.key, {})
        if self._is_shared:
            try:
                with trio.move_on_after(SHARED_SECONDS):
                    numbers = load(await self._host.shared.get(charge.key))
            except SharedAway as error:
                self._rest(str(error))
        return draw(numbers, self._now(), rates=charge.rates, cost=charge.cost).wait

    async def _give_back(self, charge: Charge) -> None:
        async with self._turn(charge.key):
            self._remember(charge.key, give_back(self._here.get(charge.key, {}), rates=charge.rates, cost=charge.cost))
            if not self._is_shared:
                return
            try:
                with trio.move_on_after(SHARED_SECONDS):
                    await self._give_back_shared(charge)
            except SharedAway as error:
                self._rest(str(error))

    async def _give_back_shared(self, charge: Charge) -> None:
        shared = self._host.shared
        for _ in range(MAX_SWAPS):
            old = await shared.get(charge.key)
            if old is None:  # full again, and forgotten
                return
            numbers = give_back(load(old), rates=charge.rates, cost=charge.cost)
            full_at = max((-(-numbers.get(rate.label, 0) // rate.count) for rate in charge.rates), default=0)
            seconds = max(full_at - self._now(), 0) / MICROSECONDS + KEEP_SECONDS
            if await shared.swap(charge.key, old, dump(numbers), seconds=seconds):
                return

    # ---- this process --------------------------------------------------------------------------------

    @property
    def _is_shared(self) -> bool:
        return trio.current_time() >= self._rests_until

    def _turn(self, key: str) -> trio.Lock:
        return self._turns[zlib.crc32(key.encode("utf-8", "surrogatepass")) % TURNS]

    def _now(self) -> int:
        return round(self._host.clock.wall() * MICROSECONDS)

    def _remember(self, key: str, numbers: Mapping[str, int]) -> None:
        self._here[key] = numbers
        self._here.move_to_end(key)
        if len(self._here) > self._most_keys:
            self._here.popitem(last=False)

    def _rest(self, error: str) -> None:
        now = trio.current_time()
        self._rests_until = now + REST_SECONDS
        if now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            self._host.log.warning(
                "plugin.shared_away",
                error=error,
                remedy="what other nodes count does not count here meanwhile; this node's own does",
            )
