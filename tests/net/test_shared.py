"""Sockets that one process binds for several to accept at."""

import socket
from pathlib import Path

import pytest
import trio

from elemta.net.base import Endpoint
from elemta.net.shared import InheritedNetwork, SharedSockets, listen_shared
from elemta.net.sockets import SystemNetwork


def closed(shared: SharedSockets) -> bool:
    return all(sock.fileno() == -1 for sock in shared.sockets)


async def test_what_was_bound_is_found_by_its_address(tmp_path: Path) -> None:
    path = tmp_path / "mail.sock"
    bound = [listen_shared("127.0.0.1:0", 5), listen_shared(f"unix:{path}", 5)]
    network = InheritedNetwork(bound)
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
    network = InheritedNetwork([])
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
