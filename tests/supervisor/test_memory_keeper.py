"""When memory is given back, and that it really goes."""

import os
import platform
import signal
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define

from elemta.runtime.memory import SystemMemory
from elemta.runtime.threads import InlineThreads, WorkerThreads
from elemta.supervisor.memory import LOOK_SECONDS, SPARE_OCTETS, MemoryKeeper, memory_keeper
from elemta.testing.process import ServerProcess

MIB = 1024 * 1024


@define
class CountedMemory:
    """A process that needs `used` octets, and keeps what it freed until it is asked."""

    used: int
    resident: int
    asked: int = 0

    def resident_octets(self) -> int:
        return self.resident

    def give_back(self) -> None:
        self.asked += 1
        self.resident = self.used


async def after_looks(memory: CountedMemory, *sizes: tuple[int, int]) -> list[int]:
    """How often memory was given back, after each look. `sizes` are what is used and what is resident before it."""
    keeper = MemoryKeeper(memory, InlineThreads())
    asked = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        for memory.used, memory.resident in sizes:
            await trio.sleep(LOOK_SECONDS)
            await trio.testing.wait_all_tasks_blocked()
            asked.append(memory.asked)
        nursery.cancel_scope.cancel()
    return asked


async def test_memory_is_given_back_after_a_flood(autojump_clock: trio.testing.MockClock) -> None:
    memory = CountedMemory(60 * MIB, 60 * MIB)
    assert await after_looks(memory, (60 * MIB, 300 * MIB), (60 * MIB, 60 * MIB)) == [1, 1]
    assert memory.resident == 60 * MIB


async def test_what_is_little_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    memory = CountedMemory(60 * MIB, 60 * MIB)
    most = 60 * MIB + SPARE_OCTETS
    assert await after_looks(memory, (60 * MIB, most), (60 * MIB, most + 1)) == [0, 1]


async def test_what_was_in_use_is_given_back_once_it_is_freed(autojump_clock: trio.testing.MockClock) -> None:
    memory = CountedMemory(60 * MIB, 60 * MIB)
    in_use, freed = (300 * MIB, 300 * MIB), (60 * MIB, 300 * MIB)
    assert await after_looks(memory, in_use, in_use, freed) == [1, 2, 3]
    assert memory.resident == 60 * MIB


async def test_a_process_that_shrank_is_measured_by_its_new_size(autojump_clock: trio.testing.MockClock) -> None:
    memory = CountedMemory(300 * MIB, 300 * MIB)
    small, grown = (60 * MIB, 60 * MIB), (60 * MIB, 100 * MIB)
    assert await after_looks(memory, small, grown) == [0, 1]


async def test_a_system_that_does_not_say_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    assert await after_looks(CountedMemory(0, 0), (0, 0), (0, 0)) == [0, 0]


def test_the_simulated_world_has_no_keeper() -> None:
    assert memory_keeper(InlineThreads()) is None
    assert memory_keeper(WorkerThreads()) is not None


def test_the_server_has_one(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"hostname": "mx.example.com"}) as server:
        os.kill(server.pid, signal.SIGUSR2)
        assert server.stop() == 0
        (event,) = [event for event in server.events if event["event"] == "server.tasks"]
    assert any("MemoryKeeper.run" in row for row in event["tree"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library has malloc_trim")
def test_freed_memory_below_memory_in_use_goes_back() -> None:
    memory = SystemMemory()
    blocks = [b"x" * 60_000 for _ in range(2000)]
    full = memory.resident_octets()
    kept = blocks[::50]
    del blocks
    assert memory.resident_octets() > full - 20 * MIB, "the library gave it back by itself"
    memory.give_back()
    assert memory.resident_octets() < full - 80 * MIB
    assert len(kept) == 40
