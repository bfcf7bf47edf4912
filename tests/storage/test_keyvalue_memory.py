"""The plugins' state in memory keeps the contract, and its bound."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from elemta.storage.keyvalue import KeyValueStore
from elemta.storage.keyvalue_memory import MemoryKeyValue
from tests.storage.keyvalue_contract import KeyValueContract, World
from tests.storage.mails import HandClock


class MemoryWorld:
    """All nodes are one, as long as any is there."""

    is_kept = False

    def __init__(self) -> None:
        self._clock = HandClock()
        self._store = MemoryKeyValue(self._clock)
        self._nodes = 0

    @asynccontextmanager
    async def node(self) -> AsyncIterator[KeyValueStore]:
        if not self._nodes:
            self._store = MemoryKeyValue(self._clock)
        self._nodes += 1
        await self._store.open()
        yield self._store
        await self._store.close()
        self._nodes -= 1

    async def pass_time(self, seconds: float) -> None:
        self._clock.now += seconds


class TestMemory(KeyValueContract):
    @pytest.fixture
    def world(self) -> World:
        return MemoryWorld()


async def test_beyond_the_bound_goes_what_ends_soonest() -> None:
    store = MemoryKeyValue(HandClock(), entries=3)
    part = store.of("one")
    for key, seconds in (("c", 30), ("a", 10), ("b", 20)):
        await part.put(key, b"", seconds=seconds)
    await store.of("two").put("a", b"", seconds=1)
    await part.put("a", b"", seconds=40)  # ends last now
    await part.put("d", b"", seconds=25)
    assert [key for key in "abcd" if await part.get(key) is not None] == ["a", "c", "d"]
    await part.delete("c")
    await part.put("e", b"", seconds=5)
    assert [key for key in "abcde" if await part.get(key) is not None] == ["a", "d", "e"]
    assert await store.of("two").get("a") is not None


async def test_writing_one_entry_for_ever_takes_no_more_memory() -> None:
    clock = HandClock()
    store = MemoryKeyValue(clock)
    for _ in range(1000):
        clock.now += 1
        await store.of("one").put("key", b"", seconds=1e6)
    assert len(store._rooms["one"]._ends) <= 4
