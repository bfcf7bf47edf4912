"""The stores that a configuration names.

What is not here: how they keep anything (`storage`). Only the supervisor names a concrete store.
"""

from pathlib import Path

from elemta.config.sections import Config
from elemta.delivery.inbox import InboxStore
from elemta.runtime.world import Runtime
from elemta.storage.base import QueueStore
from elemta.storage.inbox import MemoryInbox, SqliteInbox
from elemta.storage.memory import MemoryStore
from elemta.storage.sqlite import SqliteStore


def make_store(config: Config, runtime: Runtime) -> QueueStore:
    """The queue store of `storage`. Raises `ValueError` for a type that the configuration should have refused."""
    match config.storage.type:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SqliteStore(config.storage.path or config.queue_dir, runtime.threads, runtime.clock)
        case other:
            raise ValueError(f"storage.type {other!r} is not one of memory, sqlite")


def make_inbox_store(config: Config, runtime: Runtime) -> InboxStore:
    """The dev inbox's store: beside the queue, and as lasting as the queue."""
    if config.storage.type == "memory":
        return MemoryInbox()
    return SqliteInbox(Path(config.storage.path or config.queue_dir), runtime.threads)
