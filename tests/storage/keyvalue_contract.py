"""The contract of a store of the plugins' state as a suite.

Each store's tests derive a class from `KeyValueContract` and give it the fixture `world`. Nothing here knows an engine,
nor waits: the world's time is set.
"""

import random
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest
import trio

from elemta.plugins.api import KeyValue
from elemta.storage.keyvalue import (
    COUNTER_DIGITS,
    KEY_OCTETS,
    LONGEST_SECONDS,
    NAMESPACE_OCTETS,
    VALUE_OCTETS,
    KeyValueStore,
)
from elemta.storage.keyvalue_memory import MemoryKeyValue
from tests.storage.mails import HandClock

#: Longer than any test waits, by the clock of the database as well.
LONG = 3600.0
#: Keys that collations of one server or the other take for equal, two by two: case, accents, width, spaces, ligatures.
ALIKE = ("a", "A", "á", "a\u0301", "ａ", "a ", " a", "ß", "ss", "ſ", "s", "", " ", "a\0", "\0a", "İ", "i", "😀", "😁")


class World(Protocol):
    """One engine's data."""

    #: Whether it is kept when the last store on it was closed.
    is_kept: bool

    def node(self) -> AbstractAsyncContextManager[KeyValueStore]:
        """A store that is open and runs. Where several may share the data, each is its own."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let time go by."""
        ...


class KeyValueContract:
    """What every store of plugins' state does."""

    async def test_what_is_put_is_there_until_it_is_replaced_or_forgotten(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            assert await part.get("key") is None
            await part.put("key", b"value", seconds=LONG)
            assert await part.get("key") == b"value"
            await part.put("key", b"other", seconds=LONG)
            assert await part.get("key") == b"other"
            await part.delete("key")
            assert await part.get("key") is None
            await part.delete("key")

    async def test_a_value_is_any_octets(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            for value in (b"", bytes(range(256)), b"'\\%s\0\n$1", b"\xff" * VALUE_OCTETS, "é".encode(), b" 1 "):
                await part.put("key", value, seconds=LONG)
                assert await part.get("key") == value
                assert not await part.swap("key", value[: VALUE_OCTETS - 1] + b" ", b"wrong", seconds=LONG), value
                assert await part.swap("key", value, value[::-1], seconds=LONG), value
                assert await part.get("key") == value[::-1]

    async def test_keys_are_told_apart_whatever_they_look_like(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            longest = ["ü" * (KEY_OCTETS // 2), "Ü" * (KEY_OCTETS // 2)]
            for number, key in enumerate((*ALIKE, *longest)):
                assert await part.swap(key, None, b"%d" % number, seconds=LONG), key
            for number, key in enumerate((*ALIKE, *longest)):
                assert await part.get(key) == b"%d" % number, key

    async def test_namespaces_are_told_apart(self, world: World) -> None:
        async with world.node() as store:
            names = ("one", "One", "óne", "one ", "n" * NAMESPACE_OCTETS)
            for name in names:
                await store.of(name).put("key", name.encode(), seconds=LONG)
            await store.of("one").delete("key")
            assert [await store.of(name).get("key") for name in names] == [None, *map(str.encode, names[1:])]
            assert await store.of("óne").get("key") == "óne".encode()

    # ---- time --------------------------------------------------------------------------------------

    async def test_what_is_over_is_not_there(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            for key in ("get", "swap", "fresh", "add"):
                await part.put(key, b"7", seconds=1000)
            await world.pass_time(900)
            assert await part.get("get") == b"7"
            await part.put("fresh", b"8", seconds=1000)
            await world.pass_time(101)
            assert await part.get("get") is None
            assert not await part.swap("swap", b"7", b"8", seconds=1000)
            assert await part.swap("swap", None, b"9", seconds=1000)
            assert await part.get("swap") == b"9"
            assert await part.get("fresh") == b"8"
            assert await part.add("add", 5, seconds=1000) == 5
            await world.pass_time(900)
            assert await part.get("add") == b"5"

    async def test_a_swap_that_wins_lasts_from_then_and_one_that_loses_changes_nothing(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            assert not await part.swap("won", b"never", b"x", seconds=LONG)
            assert await part.get("won") is None
            await part.put("won", b"a", seconds=1000)
            await part.put("lost", b"a", seconds=1000)
            await world.pass_time(900)
            assert await part.swap("won", b"a", b"b", seconds=1000)
            assert not await part.swap("lost", None, b"b", seconds=LONG)
            assert not await part.swap("lost", b"b", b"c", seconds=LONG)
            await world.pass_time(101)
            assert await part.get("won") == b"b"
            assert await part.get("lost") is None

    async def test_a_counter_ends_when_it_was_begun_to_end(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            assert await part.add("key", seconds=1000) == 1
            await world.pass_time(600)
            assert await part.add("key", 2, seconds=1000) == 3
            await world.pass_time(401)
            assert await part.get("key") is None
            assert await part.add("key", seconds=1000) == 1

    async def test_a_counter_that_a_clock_ahead_began_ends_in_its_time(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            await part.add("key", seconds=1000)
            await world.pass_time(-100_000)
            assert await part.add("key", seconds=1000) == 2
            await world.pass_time(900)
            assert await part.add("key", seconds=1000) == 3
            await world.pass_time(101)
            assert await part.add("key", seconds=1000) == 1

    # ---- counters ------------------------------------------------------------------------------------

    async def test_a_counter_is_a_number_in_digits(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            largest = 10**COUNTER_DIGITS - 1
            assert await part.add("key", -5, seconds=LONG) == -5
            assert await part.get("key") == b"-5"
            assert await part.add("key", 0, seconds=LONG) == -5
            await part.put("key", b"041", seconds=LONG)
            assert await part.add("key", seconds=LONG) == 42
            await part.put("key", b"%d" % largest, seconds=LONG)
            assert await part.add("key", largest, seconds=LONG) == 2 * largest
            with pytest.raises(ValueError, match="no whole number"):
                await part.add("key", seconds=LONG)
            assert await part.get("key") == b"%d" % (2 * largest)

    async def test_nothing_is_added_to_what_is_no_counter(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            for value in (b"", b"-", b"5\n", b" 5", b"5 ", b"+5", b"5.0", b"1e3", b"\xff", b"\0", b"1" * 19):
                await part.put("key", value, seconds=LONG)
                with pytest.raises(ValueError, match="'key' holds no whole number"):
                    await part.add("key", seconds=LONG)
                assert await part.get("key") == value

    async def test_one_that_fails_harms_no_other_beside_it(self, world: World) -> None:
        refused = []

        async def add(part: KeyValue, key: str) -> None:
            try:
                await part.add(key, seconds=LONG)
            except ValueError:
                refused.append(key)

        async with world.node() as store:
            part = store.of("one")
            await part.put("bad", b"text", seconds=LONG)
            async with trio.open_nursery() as nursery:
                for key in ("good", "bad", "better") * 5:
                    nursery.start_soon(add, part, key)
            assert refused == ["bad"] * 5
            assert [await part.get(key) for key in ("good", "bad", "better")] == [b"5", b"text", b"5"]

    # ---- several at once -----------------------------------------------------------------------------

    async def test_of_many_who_swap_one_wins(self, world: World) -> None:
        won: list[bytes] = []

        async def swap(part: KeyValue, old: bytes | None, new: bytes) -> None:
            if await part.swap("key", old, new, seconds=100):
                won.append(new)

        async with world.node() as one, world.node() as other:
            for turn in range(4):
                if turn == 2:  # the next finds one that is over
                    await world.pass_time(101)
                old = None if turn % 2 == 0 else won[-1]
                async with trio.open_nursery() as nursery:
                    for number in range(10):
                        for store in (one, other):
                            nursery.start_soon(swap, store.of("one"), old, b"%d %d %d" % (turn, number, id(store)))
                assert len(won) == turn + 1
                assert await other.of("one").get("key") == won[-1]
            await one.of("one").delete("key")

    async def test_of_many_who_add_each_counts_once(self, world: World) -> None:
        sums: dict[str, list[int]] = {"a": [], "b": []}

        async def add(part: KeyValue, *keys: str) -> None:
            for key in keys:
                sums[key].append(await part.add(key, 3, seconds=LONG))

        async with world.node() as one, world.node() as other:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(add, one.of("one"), "a", "b")
                    nursery.start_soon(add, other.of("one"), "b", "a")
            for key in ("a", "b"):
                assert sorted(sums[key]) == [3 * number for number in range(1, 41)]
                assert await one.of("one").get(key) == b"120"

    async def test_what_one_does_the_others_see(self, world: World) -> None:
        async with world.node() as one, world.node() as other:
            await one.of("one").put("key", b"value", seconds=LONG)
            assert await other.of("one").get("key") == b"value"
            await other.of("one").delete("key")
            assert await one.of("one").get("key") is None

    async def test_what_is_kept_is_there_again(self, world: World) -> None:
        async with world.node() as store:
            await store.of("one").put("kept", b"value", seconds=100)
            await store.of("one").put("over", b"value", seconds=10)
        await world.pass_time(50)
        async with world.node() as store:
            expected = b"value" if world.is_kept else None
            assert await store.of("one").get("kept") == expected
            assert await store.of("one").get("over") is None

    # ---- what nobody keeps -----------------------------------------------------------------------------

    async def test_what_nobody_keeps_is_refused(self, world: World) -> None:
        async with world.node() as store:
            part = store.of("one")
            for key in ("k" * (KEY_OCTETS + 1), "ü" * (KEY_OCTETS // 2) + "k", "\ud800"):
                with pytest.raises(ValueError):
                    await part.get(key)
            with pytest.raises(ValueError, match="4096"):
                await part.put("key", b"v" * (VALUE_OCTETS + 1), seconds=LONG)
            with pytest.raises(ValueError, match="4096"):
                await part.swap("key", b"v" * (VALUE_OCTETS + 1), b"", seconds=LONG)
            with pytest.raises(TypeError):
                await part.put("key", "text", seconds=LONG)  # type: ignore[arg-type]  # what is tried
            for seconds in (0.0, -1.0, LONGEST_SECONDS * 2, float("nan"), float("inf")):
                with pytest.raises(ValueError, match="seconds"):
                    await part.put("key", b"", seconds=seconds)
            with pytest.raises(ValueError, match="amount"):
                await part.add("key", 10**COUNTER_DIGITS, seconds=LONG)
            assert await part.get("key") is None
            for name in ("", "n" * (NAMESPACE_OCTETS + 1)):
                with pytest.raises(ValueError, match="namespace"):
                    store.of(name)

    # ---- all of it -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(3))
    async def test_any_calls_are_answered_as_by_the_reference(self, world: World, seed: int) -> None:
        rng = random.Random(seed)
        clock = HandClock()
        async with world.node() as store:
            reference = MemoryKeyValue(clock)
            for _ in range(150):
                if rng.random() < 0.05:
                    seconds = rng.choice((500.0, 5000.0))
                    clock.now += seconds
                    await world.pass_time(seconds)
                call = Call(rng)
                assert await call.on(store) == await call.on(reference), call.words


class Call:
    """One call that chance chose: few keys and values, so that they meet; ends that no step of time comes near."""

    def __init__(self, rng: random.Random) -> None:
        self.words = (
            rng.choice(("get", "put", "swap", "add", "delete")),
            rng.choice(("one", "two")),
            rng.choice(("key", "KEY")),
            rng.choice((None, b"1", b"2", b"x")),
            rng.choice((b"1", b"2", b"x")),
            rng.choice((750.0, 6250.0)),
        )

    async def on(self, store: KeyValueStore) -> object:
        verb, namespace, key, old, new, seconds = self.words
        part = store.of(namespace)
        match verb:
            case "put":
                await part.put(key, new, seconds=seconds)
            case "delete":
                await part.delete(key)
            case "swap":
                return await part.swap(key, old, new, seconds=seconds)
            case "add":
                try:
                    return await part.add(key, len(new), seconds=seconds)
                except ValueError as error:
                    return str(error)
        return await part.get(key)
