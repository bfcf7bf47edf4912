"""A node's way to a store that several nodes share: it can be cut, and it can hang.

The store behind it goes on. What is here is no store; every verb passes to the one behind.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from elemta.simulation.relay import SharedRelay
from elemta.storage.base import SharedStore, StoreAway

T = TypeVar("T")


class Link(SharedRelay):
    """The way of one node. `is_cut`: every verb fails at once. `hang` keeps every verb waiting until `go_on`."""

    def __init__(self, store: SharedStore) -> None:
        super().__init__(store)
        self.is_cut = False
        self._may_go = trio.Event()
        self._may_go.set()

    def hang(self) -> None:
        self._may_go = trio.Event()

    def go_on(self) -> None:
        self._may_go.set()

    async def _pass(self, verb: Callable[[], Awaitable[T]], /) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        # Like a unit of work on a database: once begun it is not given up because its caller is.
        with trio.CancelScope(shield=True):
            await self._may_go.wait()
            if self.is_cut:
                raise StoreAway("the way to the database is cut")
            result = await verb()
        return result
