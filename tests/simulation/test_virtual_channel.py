"""What a channel says of octets on the wire is what happens there, for both versions of TLS."""

from pathlib import Path

import pytest
import trio
import trio.testing

from elemta.net.base import Endpoint
from elemta.simulation.certificates import Certificates
from elemta.simulation.channel import Channel
from elemta.simulation.clock import chance_of
from elemta.simulation.personality import Shown
from elemta.simulation.pipe import Latency, connection

TEXTS = (1, 500, 16_384, 16_385, 100_000)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path, ["mx.one.test"])


def channels() -> tuple[Channel, Channel]:
    near, far = Endpoint("203.0.113.1", 50_000), Endpoint("192.0.2.1", 25)
    client, server = connection(near, far, latency=Latency(), chance=chance_of(1))
    return Channel(client), Channel(server)


async def encrypted(certificates: Certificates, *, old: bool) -> tuple[Channel, Channel]:
    client, server = channels()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.encrypt, certificates.server(Shown.GOOD, old=False))
        context = certificates.client(old=old)
        nursery.start_soon(lambda: client.encrypt(context, server_name="mx.one.test"))
    return client, server


async def receive(channel: Channel, octets: int) -> bytes:
    heard = b""
    while len(heard) < octets:
        piece = await channel.receive_some(65_536)
        if not piece:
            break
        heard += piece
    return heard


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("size", TEXTS)
async def test_a_text_takes_what_it_says(
    size: int, old: bool, certificates: Certificates, autojump_clock: trio.testing.MockClock
) -> None:
    for sender, receiver in (await encrypted(certificates, old=old), (await encrypted(certificates, old=old))[::-1]):
        before = sender.wire.out.sent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, b"x" * size)
            assert await receive(receiver, size) == b"x" * size
        assert sender.wire.out.sent - before == sender.wire_octets(size)
        assert receiver.wire.into.taken == sender.wire.out.sent


async def test_in_clear_a_text_takes_itself() -> None:
    client, _ = channels()
    assert [client.wire_octets(size) for size in TEXTS] == list(TEXTS)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("missing", "heard"), [(0, 500), (1, 0)])
async def test_the_last_octet_of_a_record_opens_it(
    missing: int, heard: int, old: bool, certificates: Certificates, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = await encrypted(certificates, old=old)
    client.wire.out.reset_after = client.wire.out.sent + client.wire_octets(500) - missing
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_cut, client, b"x" * 500)
        try:
            got = await receive(server, 500)
        except trio.BrokenResourceError:
            got = b""
    assert len(got) == heard


async def send_cut(channel: Channel, text: bytes) -> None:
    try:
        await channel.send_all(text)
        await channel.send_all(text)
    except trio.BrokenResourceError:
        return
    raise AssertionError("the wire was to break")


async def test_a_handshake_has_the_same_length_every_time(
    certificates: Certificates, autojump_clock: trio.testing.MockClock
) -> None:
    lengths = set()
    for _ in range(20):
        client, server = await encrypted(certificates, old=False)
        lengths.add((client.wire.out.sent, server.wire.out.sent))
    assert len(lengths) == 1


def test_certificates_are_the_same_in_every_world(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        Certificates(folder, ["mx.one.test"])
    one, two = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert one == two
