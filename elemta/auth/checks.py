"""Passwords checked in a bounded number of threads, without telling anybody who exists.

What is not here: the hashes (`auth.passwords`), who may try (`auth.limits`). What hashing takes at most is threads ×
memory of one hash; what waits for a thread is bounded, in all and for one network, so that a flood of wrong passwords
from one side leaves room for others. Failures raised: `TooBusy`, `MemoryError`.
"""

import os
from collections import Counter
from collections.abc import Callable
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


class TooBusy(Exception):
    """Too many passwords are being checked: try again later."""


def hashing_threads() -> int:
    """Threads for hashing on this machine, one at least."""
    return max(1, (os.cpu_count() or 1) // HASHING_SHARE)


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
        self._turns = trio.Semaphore(hashing_threads())
        self._checks = 0
        self._of_network: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Checks that wait or run."""
        return self._checks

    async def check(
        self, user: User | None, password: bytes, *, network: str, may_try: Callable[[], bool]
    ) -> Verdict | None:
        """What a password is to a user; None when `may_try` says no before it was looked at.

        A user who does not exist, who is disabled or has no password costs what a wrong password costs. Raises
        `TooBusy`, `MemoryError`.
        """
        stored = user.password if user is not None and user.is_active else ""
        name = user.name if user is not None else ""
        if stored and self._cache.knows(name, stored, password, now=trio.current_time()):
            return Verdict.RIGHT
        if self._checks >= MAX_CHECKS or self._of_network[network] >= MAX_CHECKS_PER_NETWORK:
            raise TooBusy
        self._checks += 1
        self._of_network[network] += 1
        try:
            async with self._turns:
                if not may_try():
                    return None
                verdict = await self._threads.run(self._limiter, self._verify, password, stored)
        finally:
            self._checks -= 1
            self._of_network[network] -= 1
            if not self._of_network[network]:
                del self._of_network[network]
        if verdict in (Verdict.RIGHT, Verdict.RIGHT_BUT_OLD):
            self._cache.remember(name, stored, password, now=trio.current_time())
        return verdict

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
        async with self._turns:
            return await self._threads.run(self._limiter, function)
