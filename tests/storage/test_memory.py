"""The memory store keeps the contract."""

import pytest

from elemta.storage.base import QueueStore
from elemta.storage.memory import MemoryStore
from tests.storage.contract import QueueStoreContract
from tests.storage.mails import HandClock, Stores


class MemoryStores:
    def __init__(self) -> None:
        self.clock = HandClock()
        self._store = MemoryStore(self.clock)

    def build(self) -> QueueStore:
        return self._store


class TestMemory(QueueStoreContract):
    @pytest.fixture
    def stores(self) -> Stores:
        return MemoryStores()
