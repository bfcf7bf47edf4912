"""File systems of our own, to be filled, and cut off without flushing what they owe the disk.

What is not here: who keeps something there. Needs root. Failures raised: `subprocess.CalledProcessError`.
"""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: FS_IOC_SHUTDOWN with the flag that flushes neither data nor journal: include/uapi/linux/fs.h, fs/ext4/ext4.h.
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
MEBIBYTE = 1024 * 1024
UNSYNCED_OCTETS = 100_000


class Disk:
    """An ext4 file system in a file, mounted over a loop device."""

    def __init__(self, folder: Path, octets: int) -> None:
        self._image = folder / "image"
        self.mounted = folder / "disk"
        self.mounted.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(octets)
        # No blocks kept for root, or root would never see it full.
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", self._image], check=True)

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.mounted], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.mounted], check=True)

    def cut(self) -> None:
        """Stop the file system where it stands: what was not synced is gone."""
        (self.mounted / "unsynced").write_bytes(b"x" * UNSYNCED_OCTETS)
        descriptor = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
        finally:
            os.close(descriptor)

    def lost_what_was_not_synced(self) -> bool:
        """True, once mounted again, when the cut was one: octets that nobody synced are gone."""
        # Their name may have come along with somebody's sync, but not they.
        unsynced = self.mounted / "unsynced"
        kept = unsynced.stat().st_size if unsynced.exists() else 0
        unsynced.unlink(missing_ok=True)
        return kept == 0

    def fill(self, name: str, octets: int) -> Path:
        """Take so much room with a file that can go again."""
        path = self.mounted / name
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, octets)
        return path

    @property
    def free(self) -> int:
        """Octets that are free."""
        facts = os.statvfs(self.mounted)
        return facts.f_bavail * facts.f_frsize


@contextmanager
def mounted_disk(folder: Path, octets: int) -> Iterator[Disk]:
    """A disk for the block."""
    disk = Disk(folder, octets)
    disk.mount()
    try:
        yield disk
    finally:
        # Lazily: what failed may still hold it open. It may as well be unmounted already.
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "--lazy", disk.mounted], check=True, stderr=subprocess.DEVNULL)
