"""Promise 30, what only a start finds out: it ends at once, and names the key.

What is not here: what reading the configuration finds out already (`tests/cli/test_config_cli.py`).
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Promise 30.
WITHIN_SECONDS = 2.0
#: What else the machine does is not ours: so many starts may be slow before it counts.
STARTS = 5


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def refused(folder: Path, document: str) -> str:
    """Start a server that must not start; what it says."""
    (folder / "elemta.conf").write_text(document)
    seconds: list[float] = []
    while not seconds or (min(seconds) >= WITHIN_SECONDS and len(seconds) < STARTS):
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "elemta", "run"], cwd=folder, capture_output=True, text=True, timeout=30
        )
        seconds.append(time.monotonic() - began)
        assert ended.returncode != 0
        assert "Traceback" not in ended.stderr
    assert min(seconds) < WITHIN_SECONDS
    return ended.stderr


def with_keys(**keys: object) -> str:
    return json.dumps({"hostname": "mail.example.com", "listen_addr": "127.0.0.1:0", "queue_dir": "queue", **keys})


def test_a_file_that_breaks_off_is_refused_with_its_place(tmp_path: Path) -> None:
    assert "elemta.conf:1:" in refused(tmp_path, with_keys()[:-1])


def test_an_address_that_is_not_of_this_machine_is_refused(tmp_path: Path) -> None:
    """RFC 5737 §3: nobody has an address of an example."""
    said = refused(tmp_path, with_keys(listen_addr="203.0.113.9:2525"))
    assert "203.0.113.9:2525" in said
    assert "listen_addr" in said


def test_a_port_that_is_taken_is_refused(tmp_path: Path, taken_port: int) -> None:
    said = refused(tmp_path, with_keys(listen_addr=f"127.0.0.1:{taken_port}"))
    assert f"127.0.0.1:{taken_port}" in said
    assert "listen_addr" in said


def test_a_queue_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "queue_dir" in refused(tmp_path, with_keys(queue_dir="file/queue"))
