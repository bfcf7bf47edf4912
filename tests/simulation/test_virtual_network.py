"""The virtual network behaves as a network does."""

import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from elemta.net.base import Endpoint, Stream
from elemta.simulation.network import CONNECT_SECONDS, VirtualNetwork
from elemta.simulation.pipe import WIRE_OCTETS, Latency, VirtualStream, connection

SERVER = "192.0.2.1"
CLIENT = "203.0.113.1"
MTA = Endpoint(SERVER, 25)


def network() -> VirtualNetwork:
    return VirtualNetwork(random.Random(1), latency=Latency(0.01, 0.01))


async def pair() -> tuple[VirtualStream, VirtualStream]:
    await trio.lowlevel.checkpoint()
    return connection(Endpoint(CLIENT, 49152), MTA, latency=Latency(0.001, 0.01), chance=random.Random(1))


async def connected(net: VirtualNetwork) -> tuple[VirtualStream, VirtualStream]:
    """The client's and the server's end of a connection through the network."""
    (listener,) = await net.host(SERVER).listen(f"{SERVER}:25", 10)
    client = await net.host(CLIENT).connect(MTA)
    server = await listener.accept()
    assert isinstance(client, VirtualStream)
    assert isinstance(server, VirtualStream)
    return client, server


async def test_octets_travel_both_ways_in_order(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await connected(network())
    for number in range(20):
        await client.send_all(b"%d," % number)
    await client.send_eof()
    seen = b""
    while piece := await server.receive_some(7):
        seen += piece
    assert seen == b"".join(b"%d," % number for number in range(20))
    await server.send_all(b"after the client's end")
    assert await client.receive_some() == b"after the client's end"
    assert (client.peer, server.local, server.peer) == (MTA, MTA, client.local)


async def test_a_journey_takes_its_latency(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await connected(network())
    began = trio.current_time()
    await client.send_all(b"x")
    await server.receive_some()
    assert trio.current_time() - began == pytest.approx(0.01)


async def test_a_wire_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await pair()
    with trio.move_on_after(60) as scope:
        await client.send_all(bytes(4 * WIRE_OCTETS))
    assert scope.cancelled_caught
    assert client.out.sent <= 2 * WIRE_OCTETS
    assert server.into.taken == 0


@pytest.mark.parametrize("octets", [0, 1, 7, 1000])
async def test_a_connection_breaks_after_any_octet(octets: int, autojump_clock: trio.testing.MockClock) -> None:
    client, server = await pair()
    client.out.reset_after = octets
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(bytes(1001))
    if octets:
        assert len(await server.receive_some()) == octets
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")


async def test_what_was_sent_arrives_before_a_reset(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await pair()
    await client.send_all(b"last words")
    client.abort()
    assert await server.receive_some() == b"last words"
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")


async def test_who_sends_to_a_closed_end_hears_of_it_a_journey_later(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await pair()
    await server.aclose()
    await client.send_all(b"into the void")
    assert await client.receive_some() == b""
    await trio.sleep(0.02)
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")
    assert client.peer_left


async def test_closing_wakes_whoever_receives_here(autojump_clock: trio.testing.MockClock) -> None:
    client, _ = await pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect, trio.ClosedResourceError, client.receive_some)
        await trio.sleep(1)
        client.abort()


async def _expect(error: type[Exception], function: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(error):
        await function()


async def test_nobody_listens_is_refused_and_no_machine_times_out(autojump_clock: trio.testing.MockClock) -> None:
    net = network()
    await net.host(SERVER).listen(f"{SERVER}:25", 1)
    client = net.host(CLIENT)
    with pytest.raises(ConnectionRefusedError):
        await client.connect(Endpoint(SERVER, 26))
    began = trio.current_time()
    with pytest.raises(TimeoutError):
        await client.connect(Endpoint("192.0.2.99", 25))
    assert trio.current_time() - began == pytest.approx(CONNECT_SECONDS)


async def test_a_partition_holds_octets_until_it_heals(autojump_clock: trio.testing.MockClock) -> None:
    net = network()
    client, server = await connected(net)
    net.partition(SERVER)
    await client.send_all(b"x")
    with trio.move_on_after(1000) as scope:
        await server.receive_some()
    assert scope.cancelled_caught
    net.heal(SERVER)
    assert await server.receive_some() == b"x"


async def test_a_crash_cuts_everything_and_the_next_life_listens_again(autojump_clock: trio.testing.MockClock) -> None:
    net = network()
    machine = net.host(SERVER)
    (listener,) = await machine.listen(":25", 10)
    client = await net.host(CLIENT).connect(MTA)
    await listener.accept()
    machine.crash()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    with pytest.raises(OSError, match="down"):
        await machine.connect(Endpoint(CLIENT, 25))
    with pytest.raises(ConnectionRefusedError):
        await net.host(CLIENT).connect(MTA)
    (again,) = await net.host(SERVER).listen(":25", 10)
    assert again.local == MTA
    await net.host(CLIENT).connect(MTA)


async def test_addresses_are_used_once_and_only_by_their_machine(autojump_clock: trio.testing.MockClock) -> None:
    net = network()
    machine = net.host(SERVER)
    await machine.listen(f"{SERVER}:25", 1)
    with pytest.raises(OSError, match="in use"):
        await machine.listen(":25", 1)
    with pytest.raises(OSError, match="assign"):
        await machine.listen(f"{CLIENT}:25", 1)
    with pytest.raises(ValueError, match="not host:port"):
        await machine.listen("nonsense", 1)
    (free,) = await machine.listen(":0", 1)
    assert free.local.port > 0


async def test_unix_paths_are_addresses_too(autojump_clock: trio.testing.MockClock) -> None:
    net = network()
    machine = net.host(SERVER)
    (listener,) = await machine.listen("unix:/run/lmtp", 1)
    stream: Stream = await machine.connect(Endpoint("/run/lmtp"))
    assert stream.peer.is_unix
    server = await listener.accept()
    await server.send_all(b"220")
    assert await stream.receive_some() == b"220"


async def test_a_full_backlog_makes_clients_wait(autojump_clock: trio.testing.MockClock) -> None:
    net = network()
    (listener,) = await net.host(SERVER).listen(":25", 1)
    client = net.host(CLIENT)
    await client.connect(MTA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(client.connect, MTA))
        await trio.sleep(10)
        assert len(nursery.child_tasks) == 1
        await listener.accept()
        await trio.sleep(1)
        assert not nursery.child_tasks
