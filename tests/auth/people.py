"""Users in memory with an authenticator on them, for the tests of logins."""

import functools
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from attrs import evolve
from structlog.testing import LogCapture

from elemta.auth.attempt import Backends
from elemta.auth.authenticator import Authenticator, LoginOptions
from elemta.auth.base import User, UsersAway
from elemta.auth.checks import PasswordChecks
from elemta.auth.credentials import CredentialCache
from elemta.auth.failure_book import MemoryBook
from elemta.auth.limits import FailureLimits
from elemta.auth.passwords import PasswordHasher, Verdict
from elemta.auth.scram import make_verifier
from elemta.auth.tokens import ValidatorAway
from elemta.config.auth import MECHANISMS, SenderRule
from elemta.observe.metrics import Metrics
from elemta.runtime.threads import InlineThreads

PASSWORD = "wonderland"
VERIFIER = make_verifier(PASSWORD, salt=b"0123456789abcdef", iterations=4096).text()
WALL = 1_700_000_000.0
LIMITS = FailureLimits(per_address=10, per_network=50, per_user=20, lockout_seconds=900.0)


@functools.cache
def hashed() -> str:
    return PasswordHasher().hash(PASSWORD)


def residents() -> dict[str, User]:
    """Who there is. `carol`'s hash is from another system, `old` came with an unknown one."""
    users = (
        User("alice@example.com", password=hashed(), scram=VERIFIER, attributes={"senders": "sales@example.com"}),
        User("bob@example.com", password=hashed(), scram=VERIFIER, is_active=False),
        User("carol@example.com", password="{SSHA}RFMKYeWLidwCuUudsQKImRUtrq1zYWx0"),
        User("tokens@example.com"),
        User("old@example.com", password="plain text"),
    )
    return {user.name: user for user in users}


class People:
    """Users in memory; `away` and `hangs` are what a database does."""

    name = "memory"

    def __init__(self) -> None:
        self.users = residents()
        self.away = self.hangs = False
        #: What a table says to a change of it: a new hash, a name in small letters.
        self.refuses: Exception | None = None
        self.closed = False
        self.asked: Counter[str] = Counter()
        self.logins: list[tuple[str, float]] = []

    async def _answer(self, verb: str) -> None:
        self.asked[verb] += 1
        if self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.away:
            raise UsersAway("memory: gone")

    async def open(self) -> None:
        await self._answer("open")
        if self.refuses is not None:
            raise self.refuses

    async def close(self) -> None:
        self.closed = True

    async def find(self, name: str) -> User | None:
        await self._answer("find")
        return self.users.get(name)

    async def renew(self, name: str, *, old: str, password: str, scram: str | None = None) -> bool:
        await self._answer("renew")
        if self.refuses is not None:
            raise self.refuses
        user = self.users[name]
        if user.password != old:
            return False
        self.users[name] = evolve(user, password=password, scram=user.scram if scram is None else scram)
        return True

    async def note_login(self, name: str, at: float) -> None:
        await self._answer("note_login")
        self.logins.append((name, at))
        self.users[name] = evolve(self.users[name], last_login_at=at)


class Tokens:
    """Knows whose tokens are whose."""

    def __init__(self) -> None:
        self.owners = {"good": "Tokens@example.com", "of-bob": "bob@example.com", "of-stranger": "x@example.net"}
        self.away = False

    async def owner(self, token: str) -> str | None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise ValidatorAway("tokens: gone")
        return self.owners.get(token)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class KeptSecret:
    """The server's secret."""

    async def get(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"the server's secret"


class CountingHasher(PasswordHasher):
    """The real one; counts what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.verified = self.pretended = 0

    def verify(self, password: str | bytes, stored: str) -> Verdict:
        self.verified += 1
        return super().verify(password, stored)

    def dummy(self, password: str | bytes) -> None:
        self.pretended += 1
        super().dummy(password)


class Wall:
    """A wall clock on Trio's."""

    def wall(self) -> float:
        return WALL + trio.current_time()


class House:
    """An authenticator with everything around it."""

    def __init__(self, *, limits: FailureLimits = LIMITS, cache_seconds: float = 300.0, **options: Any) -> None:
        self.people = People()
        self.tokens = Tokens()
        self.hasher = CountingHasher()
        self.capture = LogCapture()
        self.metrics = Metrics()
        self.checks = PasswordChecks(self.hasher, CredentialCache(cache_seconds), InlineThreads())
        self.book = MemoryBook(limits)
        self.backends = Backends(
            users=self.people,
            checks=self.checks,
            book=self.book,
            validator=self.tokens,
            secret=KeptSecret(),
            log=structlog.wrap_logger(None, processors=[self.capture]),
        )
        usual = LoginOptions(MECHANISMS, SenderRule.LISTED, seconds=10.0, failures=3, scope="mail")
        self.authenticator = Authenticator(
            self.backends,
            evolve(usual, **options),
            clock=Wall(),
            metrics=self.metrics,
            chance=random.Random(1).randbytes,
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self.capture.entries if entry["event"] == name]

    def figure(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def inhabited(**options: Any) -> AsyncIterator[House]:
    """A house whose authenticator runs, and has opened its users."""
    house = House(**options)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.authenticator.run)
        with trio.move_on_after(0.001):  # virtual
            await trio.sleep_forever()
        yield house
        nursery.cancel_scope.cancel()
