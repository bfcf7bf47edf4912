"""The book in which failures to log in are kept.

What is not here: how many are too many (`auth.limits`), the book that nodes share (`auth.shared_failures`).
Failures raised: none. A book that cannot be reached is answered from memory: it is never a way around the limits.
"""

from typing import Protocol

import trio

from elemta.auth.limits import FailureLimits, Failures, Standing, Who


class FailureBook(Protocol):
    """Counts failures."""

    def standing_here(self, who: Who) -> Standing:
        """How somebody stands as far as this process knows."""
        ...

    def is_own_network(self, who: Who) -> bool:
        """Whether the user logged in from there lately, as far as this process knows."""
        ...

    async def standing(self, who: Who) -> Standing:
        """How somebody stands."""
        ...

    async def failed(self, who: Who) -> Standing:
        """Write down a failure; how they stand then."""
        ...

    async def succeeded(self, who: Who) -> None:
        """Write down that a user logged in from there."""
        ...


class MemoryBook:
    """The book of one process, on Trio's clock."""

    def __init__(self, limits: FailureLimits) -> None:
        self._failures = Failures(limits)

    def standing_here(self, who: Who) -> Standing:
        """How somebody stands."""
        return self._failures.standing(who, trio.current_time())

    async def standing(self, who: Who) -> Standing:
        """How somebody stands."""
        return self.standing_here(who)

    async def failed(self, who: Who) -> Standing:
        """Write down a failure."""
        return self.failed_here(who)

    async def succeeded(self, who: Who) -> None:
        """Write down that a user logged in from there."""
        self.succeeded_here(who)

    def failed_here(self, who: Who) -> Standing:
        """Write down a failure, now."""
        return self._failures.failed(who, trio.current_time())

    def succeeded_here(self, who: Who) -> bool:
        """Write down that a user logged in from there, now; whether that is worth telling other nodes."""
        return self._failures.succeeded(who, trio.current_time())

    def is_own_network(self, who: Who) -> bool:
        """Whether the user logged in from there lately."""
        return self._failures.is_own_network(who, trio.current_time())


class NoBook:
    """Counts nothing: for dev mode, where a developer's test of a wrong password must lock out nobody."""

    def standing_here(self, who: Who) -> Standing:
        """Nobody is ever wrong."""
        return Standing()

    def is_own_network(self, who: Who) -> bool:
        """Nothing is remembered."""
        return False

    async def standing(self, who: Who) -> Standing:
        """Nobody is ever wrong."""
        return Standing()

    async def failed(self, who: Who) -> Standing:
        """Forget it."""
        return Standing()

    async def succeeded(self, who: Who) -> None:
        """Forget it."""
