"""Promise 2: what was answered 250 outlives a file system that stops without flushing its journal."""

import fcntl
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.test_restart import Load, relay_config, wait_until_all_arrived

ROUNDS = int(os.environ.get("ELEMTA_TEST_POWER_CUTS", "10"))
#: FS_IOC_SHUTDOWN with the flag that flushes neither data nor journal: include/uapi/linux/fs.h, fs/ext4/ext4.h.
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
DISK_OCTETS = 1024 * 1024 * 1024
#: Promise 2.
OPENS_WITHIN_SECONDS = 10.0


class Disk:
    """An ext4 file system in a file, mounted over a loop device."""

    def __init__(self, folder: Path) -> None:
        self._image = folder / "image"
        self.mounted = folder / "disk"
        self.mounted.mkdir()
        with self._image.open("wb") as image:
            image.truncate(DISK_OCTETS)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True)

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.mounted], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.mounted], check=True)

    def cut(self) -> None:
        """Stop the file system where it stands: what was not synced is gone."""
        descriptor = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
        finally:
            os.close(descriptor)


@pytest.fixture
def disk(as_root: None, tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    disk.mount()
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk.mounted], check=False)


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
            unsynced = disk.mounted / "unsynced"
            unsynced.write_bytes(b"x" * 100_000)
            disk.cut()
            server.kill()
            acknowledged = load.end()
            disk.unmount()
            disk.mount()
            # Its name may have come along with a sync of the server's, but not its octets.
            kept = unsynced.stat().st_size if unsynced.exists() else 0
            assert kept == 0, "the cut lost nothing at all, so it was none"
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
