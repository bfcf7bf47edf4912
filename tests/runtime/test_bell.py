"""A bell wakes its listener, and keeps a ring that nobody heard."""

import trio
import trio.testing

from elemta.runtime.bell import Bell


async def test_it_wakes_who_listens(autojump_clock: trio.testing.MockClock) -> None:
    bell = Bell()
    heard: list[float] = []

    async def listen() -> None:
        await bell.wait()
        heard.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(5)
        bell.ring()
    assert heard == [5]


async def test_many_rings_that_nobody_heard_count_as_one(autojump_clock: trio.testing.MockClock) -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    await bell.wait_until(10)
    assert trio.current_time() == 0
    await bell.wait_until(10)
    assert trio.current_time() == 10


async def test_a_ring_after_the_listener_left_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    bell = Bell()
    await bell.wait_until(1)
    bell.ring()
    await bell.wait_until(10)
    assert trio.current_time() == 1
