"""A mail that will not end is ended by the server, on a real connection."""

from collections.abc import Iterator
from pathlib import Path

from elemta.smtp.content import LEAST_SURPLUS_OCTETS
from elemta.testing.process import ServerProcess
from tests.peers.test_hostile import BLOCK_OCTETS, ENVELOPE, TO, discarding, flood, get_ready, warm_up
from tests.peers.wire import Wire

#: What the kernels on both sides may hold beyond what the server read.
IN_FLIGHT_OCTETS = 20_000_000
SURPLUS_BLOCKS = (LEAST_SURPLUS_OCTETS + IN_FLIGHT_OCTETS) // BLOCK_OCTETS + 1


def test_a_mail_without_an_end_is_ended(tmp_path: Path) -> None:
    sent = 0

    def blocks() -> Iterator[bytes]:
        nonlocal sent
        block = (b"x" * 78 + b"\r\n") * (BLOCK_OCTETS // 80)
        for _ in range(2 * SURPLUS_BLOCKS):
            yield block
            sent += 1

    with ServerProcess(tmp_path, discarding(max_size=10_000)) as server:
        with Wire(server.port, seconds=60) as wire:
            get_ready(wire, ENVELOPE + TO + b"DATA\r\n")
            said = flood(wire, blocks())
        assert said == b"552 5.3.4 Message too big\r\n"
        assert sent <= SURPLUS_BLOCKS, "the server read on"
        warm_up(server.port)
        assert server.stop() == 0
        causes = [event["cause"] for event in server.events if event["event"] == "session.ended"]
    assert "endless mail" in causes
