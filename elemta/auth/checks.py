"""Passwords checked in a bounded number of threads, without telling anybody who exists.

What is not here: the hashes (`auth.passwords`), who may try (`auth.limits`). What hashing takes at most is threads ×
memory of one hash; what waits for a thread is bounded, in all, for one network, for networks that are not the user's
own, so that a flood of wrong passwords leaves room for others: users who log in from where they did before go first,
however many networks guess. Failures raised: `TooBusy`, `MemoryError`.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import trio

from elemta.auth.base import User
from elemta.auth.credentials import CredentialCache
from elemta.auth.passwords import PasswordHasher, Verdict
from elemta.auth.scram import SALT_OCTETS, make_verifier
from elemta.runtime.threads import Threads

T = TypeVar("T")

#: Threads that hash, of the processors there are: the rest is for mail.
HASHING_SHARE = 2
#: Checks that wait or run at once: with one thread, at 40 ms each, the last waits 5 s.
MAX_CHECKS = 128
#: Of those, checks for one network.
MAX_CHECKS_PER_NETWORK = 32
#: Of those, checks from networks that are not the user's own (`auth.limits`): three quarters.
MAX_CHECKS_OF_STRANGERS = 96


class TooBusy(Exception):
    """Too many passwords are being checked: try again later."""


def hashing_threads() -> int:
    """Threads for hashing on this machine, one at least."""
    return max(1, (os.cpu_count() or 1) // HASHING_SHARE)


class _Turns:
    """As many at once as there are threads; among those who wait, users in a network of their own go first."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._own, self._others = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def turn(self, *, is_own: bool) -> AsyncIterator[None]:
        """Hold a turn for the block."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._free:
            self._free -= 1
        else:  # whoever ends hands its turn over
            await (self._own if is_own else self._others).park()
        try:
            yield
        finally:
            if not self._own.unpark() and not self._others.unpark():
                self._free += 1


class PasswordChecks:
    """Says whether a password is a user's."""

    def __init__(
        self,
        hasher: PasswordHasher,
        cache: CredentialCache,
        threads: Threads,
        *,
        chance: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._hasher = hasher
        self._cache = cache
        self._threads = threads
        self._chance = chance
        self._limiter = trio.CapacityLimiter(hashing_threads())
        #: Held by who has a thread; whether they may still try is looked at once they have it.
        self._turns = _Turns(hashing_threads())
        self._checks = self._of_strangers = 0
        self._of_network: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Checks that wait or run."""
        return self._checks

    async def check(
        self, user: User | None, password: bytes, *, network: str, is_own: bool, may_try: Callable[[], bool]
    ) -> Verdict | None:
        """What a password is to a user; None when `may_try` says no before it was looked at.

        `is_own` says whether the network is one that the user logged in from before. A user who does not exist, who is
        disabled or has no password costs what a wrong password costs. Raises `TooBusy`, `MemoryError`.
        """
        stored = user.password if user is not None and user.is_active else ""
        name = user.name if user is not None else ""
        if stored and self._cache.knows(name, stored, password, now=trio.current_time()):
            return Verdict.RIGHT
        with self._counted(network, is_own):
            async with self._turns.turn(is_own=is_own):
                if not may_try():
                    return None
                verdict = await self._threads.run(self._limiter, self._verify, password, stored)
        if verdict in (Verdict.RIGHT, Verdict.RIGHT_BUT_OLD):
            self._cache.remember(name, stored, password, now=trio.current_time())
        return verdict

    @contextmanager
    def _counted(self, network: str, is_own: bool) -> Iterator[None]:
        """Count a check for the block. Raises `TooBusy`."""
        strangers = int(not is_own)
        if (
            self._checks >= MAX_CHECKS
            or self._of_network[network] >= MAX_CHECKS_PER_NETWORK
            or self._of_strangers + strangers > MAX_CHECKS_OF_STRANGERS
        ):
            raise TooBusy
        self._checks += 1
        self._of_strangers += strangers
        self._of_network[network] += 1
        try:
            yield
        finally:
            self._checks -= 1
            self._of_strangers -= strangers
            self._of_network[network] -= 1
            if not self._of_network[network]:
                del self._of_network[network]

    def _verify(self, password: bytes, stored: str) -> Verdict:
        if stored:
            return self._hasher.verify(password, stored)
        self._hasher.dummy(password)
        return Verdict.WRONG

    async def hash(self, password: bytes) -> str:
        """What to store of a password, when a thread is free. Raises `Unfit`, `MemoryError`."""
        return await self._in_turn(lambda: self._hasher.hash(password))

    async def verifier(self, password: bytes) -> str:
        """What SCRAM stores of it, when a thread is free. Raises `Unfit`."""
        salt = self._chance(SALT_OCTETS)
        return await self._in_turn(lambda: make_verifier(password, salt=salt).text())

    async def _in_turn(self, function: Callable[[], T]) -> T:
        async with self._turns.turn(is_own=False):
            return await self._threads.run(self._limiter, function)
