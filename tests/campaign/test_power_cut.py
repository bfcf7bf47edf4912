"""Promise 2: what was answered 250 outlives a file system that stops without flushing its journal."""

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.campaign.disks import Disk, mounted_disk
from tests.peers.test_restart import Load, relay_config, wait_until_all_arrived

ROUNDS = int(os.environ.get("ELEMTA_TEST_POWER_CUTS", "10"))
DISK_OCTETS = 1024 * 1024 * 1024
#: Promise 2.
OPENS_WITHIN_SECONDS = 10.0


@pytest.fixture
def disk(as_root: None, tmp_path: Path) -> Iterator[Disk]:
    with mounted_disk(tmp_path, DISK_OCTETS) as disk:
        yield disk


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_no_acknowledged_mail_is_lost_by_a_power_cut(disk: Disk, tmp_path: Path, round_number: int) -> None:
    chance = random.Random(round_number)
    with RecordingSink() as sink:
        config = {**relay_config(sink), "queue_dir": str(disk.mounted / "queue")}
        with ServerProcess(tmp_path, config) as server:
            load = Load(server.port, f"cut{round_number}")
            time_to_cut = threading.Event()
            threading.Timer(chance.uniform(0.5, 3.0), time_to_cut.set).start()
            time_to_cut.wait()
            disk.cut()
            server.kill()
            acknowledged = load.end()
            disk.unmount()
            disk.mount()
            assert disk.lost_what_was_not_synced(), "the cut lost nothing at all, so it was none"
            assert acknowledged
            began = time.monotonic()
            server.start()
            opened = time.monotonic() - began
            arrived = wait_until_all_arrived(sink, acknowledged)
            missing = acknowledged - set(arrived)
            assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged mails never arrived"
            assert opened <= OPENS_WITHIN_SECONDS
            assert server.stop() == 0
    print(f"round {round_number}: {len(acknowledged)} acknowledged, 0 lost, opened in {opened:.1f} s")  # noqa: T201
