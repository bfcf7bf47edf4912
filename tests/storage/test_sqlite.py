"""The SQLite store keeps the contract."""

from pathlib import Path

import pytest

from elemta.runtime.threads import InlineThreads, Threads, WorkerThreads
from elemta.storage.base import QueueStore
from elemta.storage.sqlite import SqliteStore
from tests.storage.contract import QueueStoreContract
from tests.storage.mails import HandClock, Stores


class SqliteStores:
    def __init__(self, folder: Path, threads: Threads) -> None:
        self.clock = HandClock()
        self.folder = folder
        self._threads = threads

    def build(self) -> QueueStore:
        return SqliteStore(str(self.folder), self._threads, self.clock)


class TestSqlite(QueueStoreContract):
    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return SqliteStores(tmp_path / "queue", WorkerThreads())


class TestSqliteInline(QueueStoreContract):
    """As the simulated world runs it."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return SqliteStores(tmp_path / "queue", InlineThreads())
