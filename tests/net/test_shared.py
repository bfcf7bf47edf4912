"""Sockets that one process binds for several to accept at."""

import itertools
import socket
from pathlib import Path

import pytest
import trio

from elemta.net.balance import ABSENT, Share, Tally
from elemta.net.base import Endpoint, Stream
from elemta.net.shared import InheritedNetwork, SharedListener, SharedSockets, listen_shared
from elemta.net.sockets import SystemNetwork
from tests.peers.wire import PATIENCE_SECONDS


def closed(shared: SharedSockets) -> bool:
    return all(sock.fileno() == -1 for sock in shared.sockets)


async def test_what_was_bound_is_found_by_its_address(tmp_path: Path) -> None:
    path = tmp_path / "mail.sock"
    bound = [listen_shared("127.0.0.1:0", 5), listen_shared(f"unix:{path}", 5)]
    network = InheritedNetwork(bound, Share(Tally(1), 0))
    for shared in bound:
        (listener,) = await network.listen(shared.address, 5)
        assert [listener.local] == shared.endpoints
        async with await SystemNetwork().connect(listener.local) as client:
            async with await listener.accept() as served:
                await client.send_all(b"hello")
                assert await served.receive_some() == b"hello"
        listener.close()
        assert closed(shared)
    assert path.exists(), "the path is for the one who bound it"
    bound[1].unlink()
    assert not path.exists()


async def test_every_address_has_one_port() -> None:
    shared = listen_shared(":0", 5)
    try:
        assert len({endpoint.port for endpoint in shared.endpoints}) == 1
        assert shared.endpoints[0].host == "0.0.0.0"
        assert {sock.gettimeout() for sock in shared.sockets} == {0.0}, (
            "an accept that another process won must not wait"
        )
    finally:
        shared.close()


async def test_a_name_is_looked_up() -> None:
    shared = listen_shared("localhost:0", 5)
    shared.close()
    assert closed(shared)


async def test_what_was_not_bound_is_bound_now() -> None:
    network = InheritedNetwork([], Share(Tally(1), 0))
    (listener,) = await network.listen("127.0.0.1:0", 5)
    async with await network.connect(listener.local):
        pass
    listener.close()
    await trio.lowlevel.checkpoint()


def test_a_busy_port_is_an_error_and_nothing_stays_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            listen_shared(f"127.0.0.1:{port}", 5)
    again = listen_shared(f"127.0.0.1:{port}", 5)
    assert again.endpoints == [Endpoint("127.0.0.1", port)]
    again.close()


# ---- who takes a connection ----------------------------------------------------------------------


async def test_a_burst_makes_up_for_what_one_has_more() -> None:
    tally = Tally(3)
    shared = listen_shared("127.0.0.1:0", 50)
    shares = [Share(tally, index) for index in range(3)]
    shares[0].change(10)
    listeners = [SharedListener(shared.sockets[0].dup(), share) for share in shares]
    taken: list[list[Stream]] = [[], [], []]
    all_taken = trio.Event()

    async def take(index: int) -> None:
        while True:
            taken[index].append(await listeners[index].accept())
            if sum(map(len, taken)) == len(clients):
                all_taken.set()

    clients = [await SystemNetwork().connect(shared.endpoints[0]) for _ in range(30)]
    async with trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(take, index)
        with trio.fail_after(PATIENCE_SECONDS):
            await all_taken.wait()
        nursery.cancel_scope.cancel()
    counts = [10 + len(taken[0]), len(taken[1]), len(taken[2])]
    for stream in itertools.chain(clients, *taken):
        stream.abort()
    for listener in listeners:
        listener.close()
    shared.close()
    # Whoever has more waits some milliseconds, of the real clock: on a busy machine one accept or two come late.
    # Without that wait the first would end with twice as many as the others.
    assert max(counts) - min(counts) <= 4, counts


async def test_the_one_that_is_ahead_takes_what_nobody_else_does() -> None:
    tally = Tally(2)
    tally.set(1, 0)  # a process that hangs
    shared = listen_shared("127.0.0.1:0", 5)
    share = Share(tally, 0)
    listener = SharedListener(shared.sockets[0], share)
    streams = []
    for _ in range(3):
        streams.append(await SystemNetwork().connect(shared.endpoints[0]))
        with trio.fail_after(PATIENCE_SECONDS):
            streams.append(await listener.accept())
    assert share.is_ahead
    for stream in streams:
        stream.abort()
    listener.close()


async def test_what_is_open_is_counted_until_it_is_closed() -> None:
    tally = Tally(2)
    shared = listen_shared("127.0.0.1:0", 5)
    listener = SharedListener(shared.sockets[0], Share(tally, 0))
    assert tally.least() == ABSENT
    streams = []
    for number in range(3):
        async with await SystemNetwork().connect(shared.endpoints[0]):
            streams.append(await listener.accept())
        assert tally.least() == number + 1
    streams[0].abort()
    streams[0].abort()
    await streams[1].aclose()
    assert tally.least() == 1
    listener.close()
    assert tally.least() == ABSENT, "whoever takes no more is nobody's precedence"
    await streams[2].aclose()
    assert tally.least() == ABSENT
