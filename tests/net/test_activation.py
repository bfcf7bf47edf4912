"""Sockets that a service manager hands over: whose they are, and which address asks for them."""

import os
import socket
from collections.abc import Iterator

import pytest

from elemta.net.activation import ActivatedNetwork, BadHandover, HandedSockets, is_bound_to
from elemta.net.base import Endpoint

PID = 7


@pytest.mark.parametrize(
    ("endpoint", "address", "expected"),
    [
        (Endpoint("::", 25), ":25", True),
        (Endpoint("0.0.0.0", 25), ":25", True),
        (Endpoint("127.0.0.1", 25), ":25", False),
        (Endpoint("::", 26), ":25", False),
        (Endpoint("::", 25), "[::]:25", True),
        (Endpoint("::", 25), "0.0.0.0:25", False),
        (Endpoint("192.0.2.1", 25), "192.0.2.1:25", True),
        (Endpoint("2001:db8::1", 25), "[2001:DB8:0::1]:25", True),
        (Endpoint("127.0.0.1", 25), "localhost:25", False),
        (Endpoint("/run/mail"), "unix:/run/mail", True),
        (Endpoint("/run/mail"), "unix:/run/other", False),
        (Endpoint("/run/mail"), ":0", False),
        (Endpoint("::", 25), "unix:/run/mail", False),
    ],
)
def test_a_socket_belongs_to_the_address_it_is_bound_to(endpoint: Endpoint, address: str, expected: bool) -> None:
    assert is_bound_to(endpoint, address) is expected


@pytest.fixture
def descriptor() -> Iterator[int]:
    """A descriptor that listens, as it comes from another program: others may inherit it, reads wait."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        given = os.dup(sock.fileno())
        os.set_inheritable(given, True)
        yield given


def environment(**more: str) -> dict[str, str]:
    return {"LISTEN_PID": str(PID), "LISTEN_FDS": "1", **more}


async def test_what_is_taken_is_listened_at_once(descriptor: int) -> None:
    environ = environment(LISTEN_FDNAMES="smtp")
    handed = HandedSockets.of_environment(environ, PID, first=descriptor)
    assert environ == {}, "what the server starts must not take them again"
    assert not os.get_inheritable(descriptor)
    (one,) = handed.left_by([])
    assert one.name == "smtp"
    network = ActivatedNetwork(handed)
    (listener,) = await network.listen(str(one.endpoint), 5)
    assert listener.local == one.endpoint
    async with await network.connect(one.endpoint) as client:
        async with await listener.accept() as served:
            await client.send_all(b"hello")
            assert await served.receive_some() == b"hello"
    assert handed.take(str(one.endpoint)) == []
    with pytest.raises(OSError, match="in use"):
        await network.listen(str(one.endpoint), 5)
    listener.close()


def test_what_another_process_was_given_is_left_alone(descriptor: int) -> None:
    handed = HandedSockets.of_environment(environment(LISTEN_PID="8"), PID, first=descriptor)
    assert handed.left_by([]) == []
    os.close(descriptor)


@pytest.mark.parametrize("count", ["many", "-1", "1025", ""])
def test_a_number_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(BadHandover, match="LISTEN_FDS"):
        HandedSockets.of_environment(environment(LISTEN_FDS=count), PID)


def test_a_file_is_refused() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(BadHandover, match="is no socket"):
        HandedSockets.of_environment(environment(), PID, first=read_end)
    os.close(read_end)
    os.close(write_end)
