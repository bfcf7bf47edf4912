"""The PostgreSQL store keeps the contract."""

from collections.abc import Iterator

import pytest

from elemta.datasource.options import DatabaseOptions, Dialect
from tests.storage.contract import QueueStoreContract
from tests.storage.databases import DatabaseStores, empty_tables, made_database
from tests.storage.mails import Stores
from tests.storage.shared_contract import SharedStoreContract, SharedStores


@pytest.fixture(scope="module")
def database() -> Iterator[DatabaseOptions]:
    with made_database(Dialect.POSTGRESQL) as options:
        yield options


@pytest.fixture
def stores(database: DatabaseOptions) -> DatabaseStores:
    empty_tables(database)
    return DatabaseStores(database)


class TestPostgresql(QueueStoreContract):
    @pytest.fixture
    def stores(self, database: DatabaseOptions) -> Stores:
        empty_tables(database)
        return DatabaseStores(database)


class TestSharedPostgresql(SharedStoreContract):
    @pytest.fixture
    def stores(self, database: DatabaseOptions) -> SharedStores:
        empty_tables(database)
        return DatabaseStores(database)
