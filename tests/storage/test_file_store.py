"""The file store keeps the contract, and what is its own: folders, states, full disks, damage."""

from pathlib import Path

import pytest

from elemta.runtime.threads import InlineThreads, Threads, WorkerThreads
from elemta.storage.base import QueueStore
from elemta.storage.file import FileStore
from tests.storage.contract import QueueStoreContract
from tests.storage.mails import HandClock, Stores


class FileStores:
    def __init__(self, folder: Path, threads: Threads | None = None) -> None:
        self.clock = HandClock()
        self.folder = folder
        self._threads = threads or WorkerThreads()

    def build(self) -> QueueStore:
        return FileStore(str(self.folder), self._threads, self.clock)


@pytest.fixture
def stores(tmp_path: Path) -> FileStores:
    return FileStores(tmp_path / "queue")


class TestFile(QueueStoreContract):
    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return FileStores(tmp_path / "queue")


class TestFileInline(QueueStoreContract):
    """As the simulated world runs it."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return FileStores(tmp_path / "queue", InlineThreads())
