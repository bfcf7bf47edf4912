"""The stores that a configuration names.

What is not here: how they keep anything (`storage`). Only the supervisor names a concrete store. The drivers of
database servers, and the store of files, are imported where they are used: a start on SQLite does not pay for them.

Failure raised: `UnusableDsn`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from elemta.config.checks import SHARED_STORAGE
from elemta.config.sections import Config
from elemta.delivery.inbox import InboxStore
from elemta.runtime.world import Runtime
from elemta.storage.base import QueueStore, SharedStore
from elemta.storage.inbox import MemoryInbox, SqliteInbox
from elemta.storage.memory import MemoryStore
from elemta.storage.sqlite import SqliteStore
from elemta.supervisor.build import Stores

if TYPE_CHECKING:
    from elemta.datasource.pool import PooledDatabase
    from elemta.storage.keyvalue import KeyValueStore


class UnusableDsn(ValueError):
    """`storage.dsn` does not say where the database is; the text says what is wrong, without any secret."""


@asynccontextmanager
async def stores_of(config: Config, runtime: Runtime, *, node: str = "") -> AsyncIterator[Stores]:
    """The stores of a configuration, with what must run beside them, for the block. They are not open yet.

    `node` is the name under which mails of a shared queue are owned, empty for who owns none.
    """
    inbox = make_inbox_store(config, runtime)
    if config.storage.type not in SHARED_STORAGE:
        yield Stores(_own_store(config, runtime), inbox)
        return
    database = make_database(config)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        shared = _shared_store(database, runtime)
        yield Stores(shared, inbox, shared, node, database)
        nursery.cancel_scope.cancel()


def _own_store(config: Config, runtime: Runtime) -> QueueStore:
    """A store that belongs to this process."""
    folder = config.storage.path or config.queue_dir
    match config.storage.type:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SqliteStore(folder, runtime.threads, runtime.clock)
        case "file":
            from elemta.storage.file import FileStore

            return FileStore(folder, runtime.threads, runtime.clock)
        case other:
            raise ValueError(f"storage.type {other!r} is not one of memory, sqlite, file")


def make_database(config: Config) -> "PooledDatabase":
    """The database of `storage.dsn`; its `run` must run beside whoever uses it. Raises `UnusableDsn`."""
    from elemta.datasource.dsn import parse_dsn
    from elemta.datasource.options import Dialect

    try:
        options = parse_dsn(config.storage.dsn or "")
    except ValueError as error:
        raise UnusableDsn(f"storage.dsn: {error}") from error
    if options.dialect.value != config.storage.type:
        raise UnusableDsn(f'storage.dsn: it does not name a server of storage.type "{config.storage.type}"')
    if options.dialect is Dialect.POSTGRESQL:
        from elemta.datasource.postgresql import PostgresqlDatabase

        return PostgresqlDatabase(options)
    from elemta.datasource.mysql import MysqlDatabase

    return MysqlDatabase(options)


def _shared_store(database: "PooledDatabase", runtime: Runtime) -> SharedStore:
    from elemta.datasource.options import Dialect

    if database.dialect is Dialect.POSTGRESQL:
        from elemta.storage.postgresql import PostgresqlStore

        return PostgresqlStore(database, runtime.clock)
    from elemta.storage.mysql import MysqlStore

    return MysqlStore(database, runtime.clock)


def make_plugin_state(config: Config, runtime: Runtime, database: "PooledDatabase | None") -> "KeyValueStore":
    """Where plugins keep their small state: with the queue, and as lasting as the queue."""
    if database is not None:
        from elemta.storage.keyvalue_shared import SharedKeyValue

        return SharedKeyValue(database)
    if config.storage.type == "memory":
        from elemta.storage.keyvalue_memory import MemoryKeyValue

        return MemoryKeyValue(runtime.clock)
    from elemta.storage.keyvalue_sqlite import SqliteKeyValue

    return SqliteKeyValue(config.storage.path or config.queue_dir, runtime.threads, runtime.clock)


def make_inbox_store(config: Config, runtime: Runtime) -> InboxStore:
    """The dev inbox's store: beside the queue, and as lasting as the queue."""
    if config.storage.type == "memory":
        return MemoryInbox()
    return SqliteInbox(Path(config.storage.path or config.queue_dir), runtime.threads)
