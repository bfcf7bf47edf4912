"""What each life of a server keeps its mail in.

What is not here: the stores, or their faults. A keeper keeps what was durable from one life to the next; a giver puts
the faults around it. Failures raised: none.
"""

import random
from collections.abc import Callable
from typing import Protocol

from attrs import frozen

from elemta.runtime.clock import Clock
from elemta.runtime.ids import SeededIds
from elemta.runtime.threads import InlineThreads
from elemta.runtime.world import Runtime
from elemta.simulation.clock import chance_of
from elemta.simulation.ledger import Ledger
from elemta.simulation.link import Link
from elemta.simulation.nodes import NodePlan
from elemta.simulation.record import Record
from elemta.simulation.shared_store import FaultySharedStore
from elemta.simulation.store import FaultyStore, StorePlan
from elemta.storage.base import QueueStore, SharedStore
from elemta.storage.memory import MemoryStore
from elemta.storage.sqlite import SqliteStore


def runtime_of(seed: int, clock: Clock, *purpose: object) -> Runtime:
    """Chance and ids for one purpose, by one wall clock."""
    ids = SeededIds(clock, chance_of(seed, "ids", *purpose))
    return Runtime(clock=clock, threads=InlineThreads(), ids=ids, chance=chance_of(seed, "runtime", *purpose))


class Keeper(Protocol):
    """Gives each life of a server its store, on what the lives before it made durable."""

    def __call__(self, runtime: Runtime) -> QueueStore:
        """A store that is not open yet."""
        ...


def memory_keeper() -> Keeper:
    """One `MemoryStore` for all lives."""
    kept: list[MemoryStore] = []

    def keep(runtime: Runtime) -> QueueStore:
        if not kept:
            kept.append(MemoryStore(runtime.clock, ids=runtime.ids))
        return kept[0]

    return keep


def sqlite_keeper(directory: str) -> Keeper:
    """A new `SqliteStore` for each life, on the same files."""
    return lambda runtime: SqliteStore(directory, runtime.threads, runtime.clock, ids=runtime.ids)


@frozen
class Given:
    """A life's store. `shared` is the node's way to it where the queue is shared."""

    faults: FaultyStore[QueueStore]
    shared: Link | None = None


#: Gives the life of a number its store.
StoreGiver = Callable[[Runtime, NodePlan, int], Given]


def alone(keeper: Keeper, plan: StorePlan, *, record: Record, chance: Callable[..., random.Random]) -> StoreGiver:
    """A store that belongs to one node."""

    def give(runtime: Runtime, node: NodePlan, life: int) -> Given:
        own = chance("store", life)
        return Given(FaultyStore(keeper(runtime), plan, record=record, clock=runtime.clock, chance=own, life=life))

    return give


def together(
    store: SharedStore, plan: StorePlan, *, record: Record, chance: Callable[..., random.Random]
) -> StoreGiver:
    """A store that all nodes share, each over a link of its own."""
    ledger = Ledger(record)

    def give(runtime: Runtime, node: NodePlan, life: int) -> Given:
        own = chance("store", life)
        faults = FaultySharedStore(store, plan, ledger=ledger, clock=runtime.clock, chance=own, life=life)
        return Given(faults, Link(faults, node.link, chance("link", life)))

    return give
