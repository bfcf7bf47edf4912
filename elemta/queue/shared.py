"""Tells a queue that several nodes share from one that is a single node's.

What is not here: what nodes do (`storage.base.SharedStore`).
"""

from collections.abc import Sequence
from typing import cast

from elemta.storage.base import Node, QueueStore, SharedStore


def as_shared(store: QueueStore) -> SharedStore | None:
    """The store with the verbs of a shared one, None when it has none."""
    # Structural, as everywhere: no store inherits from the Protocol.
    return cast(SharedStore, store) if hasattr(store, "renew") and hasattr(store, "nodes") else None


async def nodes_alive(store: QueueStore) -> Sequence[Node]:
    """The nodes that may be delivering now, as far as a store knows of any. Raises `StoreUnavailable`."""
    shared = as_shared(store)
    return [] if shared is None else [node for node in await shared.nodes() if node.lease_left > 0]
