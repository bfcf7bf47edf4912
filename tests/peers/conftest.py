"""Fixtures of the tests with real peers."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from elemta.testing.sink import RecordingSink
from tests.conftest import UNDER_CI
from tests.peers.wire import make_certificate


@pytest.fixture
def sink() -> Iterator[RecordingSink]:
    with RecordingSink() as sink:
        yield sink


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its certificate for mail.example.com, in one file."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, with a short path: unix sockets have room for 107 octets of it."""
    folder = Path(tempfile.mkdtemp(prefix="elemta-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def as_root() -> None:
    """What this test starts or mounts needs root: skipped at a desk without, failed in CI."""
    if os.geteuid() == 0:
        return
    message = "needs root"
    if UNDER_CI:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
