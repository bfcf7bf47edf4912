"""The cache: what it keeps, for how long, how many ask at once."""

from collections import Counter

import pytest
import trio
import trio.testing

from elemta.resolver import cache
from elemta.resolver.base import MailExchanger, NameNotFound, ResolutionFailed, Resolver
from elemta.resolver.cache import ANSWER_SECONDS, FAILURE_SECONDS, CachingResolver

EXCHANGER = MailExchanger(10, "mx.example.com")


class Slow(Resolver):
    """Answers after a second: missing.* never exists, broken.* fails."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def _think(self, name: str) -> None:
        self.asked[name] += 1
        await trio.sleep(1)
        if name.startswith("missing."):
            raise NameNotFound(name)
        if name.startswith("broken."):
            raise ResolutionFailed(name)

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        await self._think(domain)
        return [EXCHANGER]

    async def addresses(self, host: str) -> list[str]:
        await self._think(host)
        return ["192.0.2.1"]

    async def ipv4_addresses(self, name: str) -> list[str]:
        await self._think(name)
        return ["127.0.0.2"]

    async def pointers(self, address: str) -> list[str]:
        await self._think(address)
        return ["mx.example.com"]

    async def texts(self, name: str) -> list[str]:
        await self._think(name)
        return ["v=spf1 -all"]


async def test_an_answer_is_kept_for_its_time(autojump_clock: trio.testing.MockClock) -> None:
    behind = Slow()
    resolver = CachingResolver(behind)
    first = await resolver.mail_exchangers("example.com")
    first.clear()  # the caller's own
    assert await resolver.mail_exchangers("example.com") == [EXCHANGER]
    assert behind.asked["example.com"] == 1
    assert await resolver.addresses("example.com") == ["192.0.2.1"]
    assert behind.asked["example.com"] == 2
    await trio.sleep(ANSWER_SECONDS)
    await resolver.mail_exchangers("example.com")
    assert behind.asked["example.com"] == 3


async def test_each_kind_of_question_has_answers_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    behind = Slow()
    resolver = CachingResolver(behind)
    for _ in range(2):
        assert await resolver.texts("192.0.2.1") == ["v=spf1 -all"]
        assert await resolver.pointers("192.0.2.1") == ["mx.example.com"]
        assert await resolver.addresses("192.0.2.1") == ["192.0.2.1"]
        assert await resolver.ipv4_addresses("192.0.2.1") == ["127.0.0.2"]
    assert behind.asked["192.0.2.1"] == 4


@pytest.mark.parametrize(
    ("name", "failure", "seconds"),
    [("missing.example", NameNotFound, ANSWER_SECONDS), ("broken.example", ResolutionFailed, FAILURE_SECONDS)],
)
async def test_a_failure_is_kept_for_its_time(
    name: str, failure: type[Exception], seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    behind = Slow()
    resolver = CachingResolver(behind)
    raised = []
    for _ in range(3):
        with pytest.raises(failure, match=name) as caught:
            await resolver.mail_exchangers(name)
        raised.append(caught.value)
    assert behind.asked[name] == 1
    assert raised[1] is not raised[2]  # one exception raised twice would gather both tracebacks
    await trio.sleep(seconds)
    with pytest.raises(failure):
        await resolver.mail_exchangers(name)
    assert behind.asked[name] == 2


async def test_the_same_question_is_asked_once_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    behind = Slow()
    resolver = CachingResolver(behind)
    found: list[list[str]] = []

    async def ask(name: str) -> None:
        found.append(await resolver.addresses(name))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask, "example.com")
            nursery.start_soon(ask, "example.org")
    assert len(found) == 100
    assert behind.asked == {"example.com": 1, "example.org": 1}
    assert trio.current_time() < 2


async def test_who_waits_is_not_hurt_by_the_cancellation_of_who_asked(autojump_clock: trio.testing.MockClock) -> None:
    behind = Slow()
    resolver = CachingResolver(behind)
    found: list[list[str]] = []

    async def ask() -> None:
        found.append(await resolver.addresses("example.com"))

    async def ask_in_a_hurry() -> None:
        with trio.move_on_after(0.5):
            await ask()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_in_a_hurry)
        await trio.sleep(0.1)
        nursery.start_soon(ask)
        nursery.start_soon(ask)
    assert found == [["192.0.2.1"]] * 2
    assert behind.asked["example.com"] == 2
    assert resolver._addresses._flights == {}


async def test_the_cache_is_bounded(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ANSWERS", 3)
    behind = Slow()
    resolver = CachingResolver(behind)
    for name in ("a", "b", "a", "c", "d", "b"):
        await resolver.addresses(name)
    assert set(resolver._addresses._answers) == {"b", "c", "d"}
    assert behind.asked["b"] == 1
    await resolver.addresses("a")
    assert behind.asked["a"] == 2
    assert set(resolver._addresses._answers) == {"c", "d", "a"}


async def test_texts_are_bounded_by_themselves(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_TEXT_ANSWERS", 1)
    behind = Slow()
    resolver = CachingResolver(behind)
    for name in ("a", "b", "a"):
        await resolver.texts(name)
        await resolver.pointers(name)
    assert behind.asked == {"a": 3, "b": 2}
