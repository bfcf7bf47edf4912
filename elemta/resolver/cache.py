"""Answers of a resolver, kept for a short while.

What is not here: asking (`resolver.dns`). The recursive name server keeps each record for its own time to live; what is
kept here only saves the questions of a burst of mails, so it is kept so briefly that no time to live matters.
Failures are remembered like answers: a burst to a domain whose name servers are silent waits for them once.
Failures raised: those of the resolver behind.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio
from attrs import frozen

from elemta.resolver.base import MailExchanger, NameNotFound, ResolutionFailed, Resolver

#: Seconds that an answer or a final "no such name" is kept; RFC 2308 §5 would allow hours for the latter.
ANSWER_SECONDS = 60.0
#: Seconds that a failure is kept; RFC 2308 §7.1 allows five minutes.
FAILURE_SECONDS = 10.0
#: Questions remembered at once, of each kind; about 300 octets each.
MAX_ANSWERS = 10_000
#: Questions about TXT records remembered at once: an answer may have 16 KiB (`resolver.dns`), 32 MiB in all.
MAX_TEXT_ANSWERS = 2000

T = TypeVar("T")


@frozen
class _Answer(Generic[T]):
    """What came back, kept as data: an exception raised twice would gather two tracebacks."""

    records: tuple[T, ...]
    failure: type[Exception] | None
    text: str
    expires: float

    def unpack(self) -> list[T]:
        if self.failure is not None:
            raise self.failure(self.text)
        return list(self.records)


class _Memory(Generic[T]):
    """One kind of question with its answers."""

    def __init__(self, ask: Callable[[str], Awaitable[list[T]]], most: int) -> None:
        self._ask = ask
        self._most = most
        #: In the order of their arrival, so that the first is the oldest.
        self._answers: dict[str, _Answer[T]] = {}
        #: Questions on their way; bounded by the deliveries that ask them. Whoever asks the same waits for the event.
        self._flights: dict[str, trio.Event] = {}

    async def answer(self, name: str) -> list[T]:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            known = self._answers.get(name)
            if known is not None and trio.current_time() < known.expires:
                return known.unpack()
            landed = self._flights.get(name)
            if landed is None:
                return (await self._fly(name)).unpack()
            # If its owner is cancelled there is no answer yet: the first to wake asks anew.
            await landed.wait()

    async def _fly(self, name: str) -> _Answer[T]:
        landed = self._flights[name] = trio.Event()
        try:
            found = await self._asked(name)
            self._remember(name, found)
            return found
        finally:
            del self._flights[name]
            landed.set()

    async def _asked(self, name: str) -> _Answer[T]:
        try:
            records = tuple(await self._ask(name))
        except NameNotFound as failure:
            return _Answer((), NameNotFound, str(failure), trio.current_time() + ANSWER_SECONDS)
        except ResolutionFailed as failure:
            return _Answer((), ResolutionFailed, str(failure), trio.current_time() + FAILURE_SECONDS)
        return _Answer(records, None, "", trio.current_time() + ANSWER_SECONDS)

    def _remember(self, name: str, found: _Answer[T]) -> None:
        self._answers.pop(name, None)
        if len(self._answers) >= self._most:
            del self._answers[next(iter(self._answers))]
        self._answers[name] = found


class CachingResolver:
    """A resolver that remembers what another one said, and asks it each question once at a time."""

    def __init__(self, resolver: Resolver) -> None:
        self._exchangers = _Memory(resolver.mail_exchangers, MAX_ANSWERS)
        self._addresses = _Memory(resolver.addresses, MAX_ANSWERS)
        self._ipv4_addresses = _Memory(resolver.ipv4_addresses, MAX_ANSWERS)
        self._pointers = _Memory(resolver.pointers, MAX_ANSWERS)
        self._texts = _Memory(resolver.texts, MAX_TEXT_ANSWERS)

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        """As the resolver behind; the list is the caller's own. Raises `ResolutionFailed`, `NameNotFound`."""
        return await self._exchangers.answer(domain)

    async def addresses(self, host: str) -> list[str]:
        """As the resolver behind; the list is the caller's own. Raises `ResolutionFailed`, `NameNotFound`."""
        return await self._addresses.answer(host)

    async def ipv4_addresses(self, name: str) -> list[str]:
        """As the resolver behind; the list is the caller's own. Raises `ResolutionFailed`, `NameNotFound`."""
        return await self._ipv4_addresses.answer(name)

    async def pointers(self, address: str) -> list[str]:
        """As the resolver behind; the list is the caller's own. Raises `ResolutionFailed`, `NameNotFound`."""
        return await self._pointers.answer(address)

    async def texts(self, name: str) -> list[str]:
        """As the resolver behind; the list is the caller's own. Raises `ResolutionFailed`, `NameNotFound`."""
        return await self._texts.answer(name)
