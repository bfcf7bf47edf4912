"""The secret of SCRAM's fake salts: made once, read again, the owner's alone."""

import os
from pathlib import Path

import pytest
import trio

from elemta.auth.server_secret import SECRET_NAME, SECRET_OCTETS, FileSecret
from elemta.runtime.threads import WorkerThreads


async def test_it_is_made_once_and_read_again(tmp_path: Path) -> None:
    first = await FileSecret(tmp_path, WorkerThreads()).get()
    assert len(first) == SECRET_OCTETS
    assert await FileSecret(tmp_path, WorkerThreads()).get() == first
    assert os.stat(tmp_path / SECRET_NAME).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [SECRET_NAME]


async def test_several_processes_that_make_it_at_once_agree(tmp_path: Path) -> None:
    found: set[bytes] = set()

    async def one() -> None:
        found.add(await FileSecret(tmp_path, WorkerThreads()).get())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert len(found) == 1


async def test_a_file_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / SECRET_NAME).write_bytes(b"short")
    with pytest.raises(OSError, match="remove it"):
        await FileSecret(tmp_path, WorkerThreads()).get()
