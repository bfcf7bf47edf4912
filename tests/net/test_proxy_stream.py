"""A connection behind its header: what it is called, what comes out of it."""

import random
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from elemta.net.base import Endpoint
from elemta.net.proxied import ProxiedStream, ProxyLeft, receive_header
from elemta.net.proxy import MAX_HEADER_OCTETS, BadProxyHeader
from elemta.simulation.pipe import Latency, VirtualStream, connection
from tests.net.proxy_headers import DESTINATION, SOURCE, addresses, binary, field, line

PROXY, SERVER = Endpoint("192.0.2.9", 50_000), Endpoint("192.0.2.25", 25)
CLIENT = Endpoint(SOURCE, 40_000)
AT_ONCE = Latency(0.0, 0.0)


def connected() -> tuple[VirtualStream, VirtualStream]:
    """The proxy's end, and ours."""
    return connection(PROXY, SERVER, latency=AT_ONCE, chance=random.Random(1))


async def behind(header: bytes) -> tuple[VirtualStream, ProxiedStream]:
    """The proxy's end, and ours behind this header."""
    theirs, ours = connected()
    await theirs.send_all(header)
    return theirs, await receive_header(ours)


async def test_the_ends_are_those_that_were_told() -> None:
    _, stream = await behind(line())
    assert (stream.peer, stream.local) == (CLIENT, Endpoint(DESTINATION, 25))
    _, stream = await behind(b"PROXY UNKNOWN\r\n")
    assert (stream.peer, stream.local) == (PROXY, SERVER)


@given(
    header=st.sampled_from([line(), binary(addresses()), binary(addresses() + field(0xEA, bytes(3000)))]),
    rest=st.binary(max_size=5000),
    cuts=st.lists(st.integers(0, 8000), max_size=4),
    limit=st.sampled_from([1, 7, 5000, None]),
)
async def test_no_octet_is_lost_and_none_comes_twice(
    header: bytes, rest: bytes, cuts: list[int], limit: int | None
) -> None:
    theirs, ours = connected()
    everything = header + rest
    places = [0, *sorted(cut for cut in cuts if cut < len(everything)), len(everything)]

    async def send() -> None:
        for start, end in pairwise(places):
            await theirs.send_all(everything[start:end])
        await theirs.send_eof()

    heard = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        stream = await receive_header(ours)
        while data := await stream.receive_some(limit):
            assert limit is None or len(data) <= limit
            heard += data
    assert heard == rest


async def test_both_ways_are_open_and_close_as_ever() -> None:
    theirs, stream = await behind(line() + b"EHLO")
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"220 hello\r\n")
    assert await theirs.receive_some() == b"220 hello\r\n"
    await stream.send_eof()
    assert await theirs.receive_some() == b""
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):  # and not EHLO
        await stream.receive_some()


async def test_an_abort_is_heard() -> None:
    theirs, stream = await behind(line() + b"EHLO")
    stream.abort()
    with pytest.raises(trio.BrokenResourceError):
        await theirs.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_a_cancelled_receive_loses_nothing() -> None:
    _, stream = await behind(line() + b"EHLO")
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive_some()
    assert scope.cancelled_caught
    assert await stream.receive_some() == b"EHLO"


async def test_a_connection_that_ends_before_its_header() -> None:
    theirs, ours = connected()
    await theirs.aclose()
    with pytest.raises(ProxyLeft):
        await receive_header(ours)


@pytest.mark.parametrize("header", [line(), binary(addresses())])
async def test_a_connection_that_ends_within_its_header(header: bytes) -> None:
    theirs, ours = connected()
    await theirs.send_all(header[:-1])
    await theirs.aclose()
    with pytest.raises(BadProxyHeader, match="ended within"):
        await receive_header(ours)


async def test_no_more_is_received_than_a_header_may_have() -> None:
    theirs, ours = connected()
    await theirs.send_all(line() + bytes(3 * MAX_HEADER_OCTETS))
    await receive_header(ours)
    assert ours.into.taken == MAX_HEADER_OCTETS
