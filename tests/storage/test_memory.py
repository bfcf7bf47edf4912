"""The memory store keeps the contract."""

import pytest

from elemta.storage.base import SharedStore
from elemta.storage.memory import MemoryStore
from tests.storage.contract import QueueStoreContract
from tests.storage.mails import HandClock, Stores
from tests.storage.shared_contract import SharedStoreContract, SharedStores


class MemoryStores:
    def __init__(self) -> None:
        self.clock = HandClock()
        self._store = MemoryStore(self.clock)

    def build(self) -> SharedStore:
        return self._store


class TestMemory(QueueStoreContract):
    @pytest.fixture
    def stores(self) -> Stores:
        return MemoryStores()


class TestSharedMemory(SharedStoreContract):
    @pytest.fixture
    def stores(self) -> SharedStores:
        return MemoryStores()
