"""What is frozen does nothing, whatever reaches it; everything else goes on."""

import trio

from elemta.simulation.clock import run_virtual
from elemta.simulation.freezer import Freezer


def test_a_frozen_part_stands_still_until_it_goes_on() -> None:
    steps: list[tuple[str, float]] = []

    async def tick(name: str) -> None:
        while True:
            await trio.sleep(1)
            steps.append((name, trio.current_time()))

    async def part(freezer: Freezer, inbox: "trio.MemoryReceiveChannel[str]") -> None:
        with freezer.inside("one"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tick, "one")
                while True:
                    steps.append((await inbox.receive(), trio.current_time()))

    async def run() -> None:
        freezer = Freezer()
        trio.lowlevel.add_instrument(freezer)
        say, inbox = trio.open_memory_channel[str](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part, freezer, inbox)
            nursery.start_soon(tick, "other")
            await trio.sleep(1.5)
            freezer.freeze("one")
            assert freezer.is_frozen("one")
            await say.send("hello")
            await trio.sleep(3)
            freezer.thaw("one")
            await trio.sleep(0.6)
            nursery.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(freezer)

    run_virtual(run, seed=1)
    assert [at for name, at in steps if name == "other"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [at for name, at in steps if name == "one"] == [1.0, 4.5]
    assert [at for name, at in steps if name == "hello"] == [4.5]


def test_what_is_frozen_can_still_be_ended() -> None:
    async def run() -> str:
        freezer = Freezer()
        trio.lowlevel.add_instrument(freezer)
        scope = trio.CancelScope()

        async def part() -> None:
            with freezer.inside("one"), scope:
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(part)
            await trio.sleep(1)
            freezer.freeze("one")
            scope.cancel()
            await trio.sleep(1)
            assert not scope.cancelled_caught
            freezer.thaw("one")
        trio.lowlevel.remove_instrument(freezer)
        return "over" if scope.cancelled_caught else "not"

    assert run_virtual(run, seed=1) == "over"
