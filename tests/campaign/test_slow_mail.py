"""Promise 16, the long part: a client that never pauses for long, and never gets anywhere."""

import threading
import time
from contextlib import suppress
from pathlib import Path

from elemta.testing.process import ServerProcess
from tests.peers.test_hostile import ENVELOPE, TO, discarding, get_ready
from tests.peers.wire import Wire


def test_a_mail_that_trickles_is_ended_by_its_rate(tmp_path: Path) -> None:
    """An octet now and then keeps a pause short for ever; only the rate over the whole mail ends it."""
    config = discarding(limits={"min_data_rate": 1_000_000}, timeouts={"data_timeout": 20})
    with ServerProcess(tmp_path, config) as server, Wire(server.port, seconds=60) as wire:
        get_ready(wire, ENVELOPE + TO + b"DATA\r\n")
        began = time.monotonic()
        said: list[bytes] = []
        reader = threading.Thread(target=lambda: said.append(wire.rest()))
        reader.start()
        while reader.is_alive():
            with suppress(OSError):
                wire.send(b"x\r\n")
            reader.join(0.5)
            assert time.monotonic() - began < 60, "still trickling"
        assert said[0].startswith(b"421 4.4.2")
        assert time.monotonic() - began >= 25
