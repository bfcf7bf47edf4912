"""A node's way to a store that several nodes share: it can be cut, and it can hang.

The store behind it goes on. What is here is no store; every verb passes to the one behind.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio

from elemta.mail.outcome import Attempt
from elemta.storage.base import (
    Adopted,
    Change,
    Claim,
    ContentWriter,
    Filter,
    Finding,
    Joined,
    Node,
    Order,
    Ordered,
    Pulse,
    Result,
    Retention,
    SharedStore,
    StoreAway,
)
from elemta.storage.records import ContentRef, QueuedMail, QueueState

T = TypeVar("T")


class Link:
    """The way of one node. `is_cut`: every verb fails at once. `hang` keeps every verb waiting until `go_on`."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self.is_cut = False
        self._may_go = trio.Event()
        self._may_go.set()

    def hang(self) -> None:
        self._may_go = trio.Event()

    def go_on(self) -> None:
        self._may_go.set()

    async def _pass(self, verb: Callable[[], Awaitable[T]]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        # Like a unit of work on a database: once begun it is not given up because its caller is.
        with trio.CancelScope(shield=True):
            await self._may_go.wait()
            if self.is_cut:
                raise StoreAway("the way to the database is cut")
            result = await verb()
        return result

    async def open(self) -> None:
        await self._pass(self._store.open)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    async def join(self, owner: str, now: float) -> Joined:
        return await self._pass(lambda: self._store.join(owner, now))

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        return await self._pass(lambda: self._store.commit(batch))

    async def stage(self) -> ContentWriter:
        return await self._pass(self._store.stage)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        return await self._pass(lambda: self._store.read(ref, offset, limit))

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        return await self._pass(lambda: self._store.claim(claim))

    async def next_due(self) -> float | None:
        return await self._pass(self._store.next_due)

    async def get(self, queue_id: str) -> QueuedMail | None:
        return await self._pass(lambda: self._store.get(queue_id))

    async def attempts(self, queue_id: str) -> list[Attempt]:
        return await self._pass(lambda: self._store.attempts(queue_id))

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        return await self._pass(lambda: self._store.list(chosen, limit, after))

    async def counts(self) -> Mapping[QueueState, int]:
        return await self._pass(self._store.counts)

    async def apply(self, order: Order) -> Ordered:
        return await self._pass(lambda: self._store.apply(order))

    async def cleanup(self, retention: Retention) -> int:
        return await self._pass(lambda: self._store.cleanup(retention))

    async def inspect(self) -> Sequence[Finding]:
        return await self._pass(self._store.inspect)

    async def renew(self, owner: str, token: int, seconds: float) -> Pulse:
        return await self._pass(lambda: self._store.renew(owner, token, seconds))

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        return await self._pass(lambda: self._store.adopt(owner))

    async def leave(self, owner: str, token: int) -> None:
        await self._pass(lambda: self._store.leave(owner, token))

    async def nodes(self) -> Sequence[Node]:
        return await self._pass(self._store.nodes)

    async def set_draining(self, owner: str, draining: bool) -> bool:
        return await self._pass(lambda: self._store.set_draining(owner, draining))
