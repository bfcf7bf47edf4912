"""Real sockets under the narrow interface: ends, line breaks of connections, stale unix paths, addresses."""

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from elemta.net.base import Endpoint, Stream
from elemta.net.sockets import SystemNetwork, split_address


async def _pair(network: SystemNetwork, address: str) -> tuple[Stream, Stream]:
    (listener,) = await network.listen(address, 10)
    async with trio.open_nursery() as nursery:
        accepted: list[Stream] = []

        async def accept() -> None:
            accepted.append(await listener.accept())

        nursery.start_soon(accept)
        client = await network.connect(listener.local)
    listener.close()
    return client, accepted[0]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
async def test_octets_cross_in_both_directions(address: str) -> None:
    client, server = await _pair(SystemNetwork(), address)
    await client.send_all(b"EHLO there\r\n")
    assert await server.receive_some() == b"EHLO there\r\n"
    await server.send_all(b"250 hello\r\n")
    assert await client.receive_some() == b"250 hello\r\n"
    assert client.peer == server.local
    assert client.local == server.peer
    await client.aclose()
    assert await server.receive_some() == b""
    await server.aclose()


async def test_more_than_the_kernel_takes_at_once_arrives_whole() -> None:
    client, server = await _pair(SystemNetwork(), "127.0.0.1:0")
    sent = os.urandom(8 * 1024 * 1024)
    got = bytearray()

    async def receive() -> None:
        while len(got) < len(sent):
            got.extend(await server.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await client.send_all(sent)
    assert bytes(got) == sent
    await client.aclose()
    await server.aclose()


async def test_an_abort_reaches_the_peer_as_a_broken_connection() -> None:
    client, server = await _pair(SystemNetwork(), "127.0.0.1:0")
    client.abort()
    client.abort()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    await server.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")


async def test_closing_wakes_a_task_that_waits() -> None:
    client, server = await _pair(SystemNetwork(), "127.0.0.1:0")

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await server.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await server.aclose()
    await client.aclose()


async def test_a_refused_connection_is_an_oserror() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await SystemNetwork().connect(Endpoint("127.0.0.1", holder.getsockname()[1]))


async def test_a_port_without_host_means_every_address_with_one_port() -> None:
    listeners = await SystemNetwork().listen(":0", 10)
    assert [listener.local.host for listener in listeners] == ["0.0.0.0", "::"]
    assert len({listener.local.port for listener in listeners}) == 1
    for listener in listeners:
        stream = await SystemNetwork().connect(
            Endpoint("127.0.0.1" if listener.local.host == "0.0.0.0" else "::1", listener.local.port)
        )
        accepted = await listener.accept()
        assert accepted.local.host == stream.peer.host
        await stream.aclose()
        await accepted.aclose()
        listener.close()


async def test_a_busy_port_is_an_oserror_and_leaves_nothing_bound() -> None:
    (first,) = await SystemNetwork().listen("127.0.0.1:0", 10)
    with pytest.raises(OSError, match="in use"):
        await SystemNetwork().listen(str(first.local), 10)
    first.close()
    (again,) = await SystemNetwork().listen(str(first.local), 10)
    again.close()


async def test_a_closed_listener_ends_its_accept() -> None:
    (listener,) = await SystemNetwork().listen("127.0.0.1:0", 10)

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        listener.close()


async def test_a_unix_path_nobody_listens_at_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    client, server = await _pair(SystemNetwork(), f"unix:{path}")
    assert server.local == Endpoint(str(path))
    assert not path.exists()
    await client.aclose()
    await server.aclose()


async def test_a_unix_path_in_use_or_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    network = SystemNetwork()
    (listener,) = await network.listen(f"unix:{tmp_path}/live", 10)
    with pytest.raises(OSError, match="in use"):
        await network.listen(f"unix:{tmp_path}/live", 10)
    assert stat.S_ISSOCK((tmp_path / "live").stat().st_mode)
    listener.close()
    plain = tmp_path / "plain"
    plain.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        await network.listen(f"unix:{plain}", 10)
    assert plain.read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "parts"),
    [(":25", ("", 25)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:2525", ("::1", 2525)), ("mail:25", ("mail", 25))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", "25", "::1:25", "host:", "host:x", "host:70000", "host:٢٥"])
def test_what_is_no_address_says_why(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|brackets"):
        split_address(text)


def test_endpoints_as_people_write_them() -> None:
    assert str(Endpoint("::1", 25)) == "[::1]:25"
    assert str(Endpoint("127.0.0.1", 25)) == "127.0.0.1:25"
    assert str(Endpoint("/run/lmtp")) == "unix:/run/lmtp"
