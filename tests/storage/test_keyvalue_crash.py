"""The plugins' state in SQLite after its process was killed, or the power was cut."""

import fcntl
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elemta.storage.keyvalue import Answer, Get
from elemta.storage.keyvalue_file import StateFile
from tests.storage.mounting import mounted
from tests.storage.state_writer import COUNTER, NAMESPACE

WRITER = Path(__file__).with_name("state_writer.py")
LIVES = 3
#: FS_IOC_SHUTDOWN with NOLOGFLUSH, linux/fs/ext4/ext4.h: the file system stops as if the power went.
SHUTDOWN, WITHOUT_FLUSHING = 0x8004587D, struct.pack("I", 2)


@contextmanager
def writing(folder: Path, lines: int) -> Iterator[list[int]]:
    """What a writer acknowledged; it goes on for the block, then it is killed, and the rest is read."""
    command = [sys.executable, str(WRITER), str(folder)]
    acknowledged: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged += [int(next(process.stdout)) for _ in range(lines)]
        yield acknowledged
        process.kill()
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]


def whole(folder: Path) -> int:
    """The number of batches that are there, each of them whole and none after a gap."""
    file = StateFile(folder)
    file.open()
    counter, *_ = file.carry_out([Get(NAMESPACE, COUNTER)], time.time())
    assert isinstance(counter, Answer)
    number = int(counter.value or b"0")
    keys = file.carry_out([Get(NAMESPACE, f"{key}") for key in range(1, number + 2)], time.time())
    assert keys == [Answer(b"")] * number + [Answer(None)]
    file.close()
    return number


def test_a_process_that_is_killed_loses_nothing_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(5)
    for _ in range(LIVES):
        with writing(tmp_path, chance.randint(1, 300)) as acknowledged:
            pass
        assert whole(tmp_path) >= acknowledged[-1]


@pytest.mark.slow
@pytest.mark.needs("mkfs.ext4")
def test_a_power_cut_takes_the_last_moments_along_and_breaks_nothing(
    tmp_path: Path, needs: Callable[[str], Path]
) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    subprocess.run([str(needs("mkfs.ext4")), "-q", "-F", str(image)], check=True)
    chance = random.Random(5)
    kept = 0
    for _ in range(LIVES):
        with mounted(tmp_path / "mount", "-o", "loop", str(image)) as folder:
            with writing(folder, chance.randint(500, 3000)):
                descriptor = os.open(folder, os.O_RDONLY)
                fcntl.ioctl(descriptor, SHUTDOWN, WITHOUT_FLUSHING)
                os.close(descriptor)
        with mounted(tmp_path / "mount", "-o", "loop", str(image)) as folder:
            kept, before = whole(folder), kept
            assert kept >= before
    assert kept > 0
