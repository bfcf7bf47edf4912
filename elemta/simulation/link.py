"""One node's way to a store that several nodes share: it can be cut, hang, be slow, lose a question or an answer.

What is not here: the store's own faults (`simulation.store`), or when the link suffers (`simulation.nodes`).
Every verb makes two journeys. A verb that has begun is not given up because its caller is, as a unit of work on a
database. When the question is lost nothing was done (`StoreAway`; of a commit the node may not even know that much:
`CommitUnknown`). When the answer is lost it was done, and the node does not know: `CommitUnknown`.
Failures raised: these two, as planned, and what the store behind raises.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio

from elemta.mail.outcome import Attempt
from elemta.simulation.nodes import LinkPlan
from elemta.storage.base import (
    Adopted,
    Change,
    Claim,
    CommitUnknown,
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
    """The way of one node, in one of its lives."""

    def __init__(self, store: SharedStore, plan: LinkPlan, chance: random.Random) -> None:
        self._store = store
        self._plan = plan
        self._chance = chance
        #: Ids that a claim took whose answer was lost: a store's client asks for them again with the next claim, see
        #: `storage.shared_claims`.
        self._doubtful: list[str] = []

    async def _pass(self, verb: Callable[[], Awaitable[T]]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            if not await self._travel():
                raise StoreAway("the way to the store is cut (planned)")
            result = await verb()
            if not await self._travel():
                raise CommitUnknown("the answer of the store was lost (planned: it did what it was asked)")
        return result

    async def _travel(self) -> bool:
        """One journey; False when what travels is lost."""
        plan = self._plan
        is_lost = False
        if trio.current_time() < plan.troubled_until:
            is_lost = self._chance.random() < plan.loses
            if plan.slow:
                await trio.sleep(self._chance.uniform(0, plan.slow))
        now = trio.current_time()
        end = max((end for start, end in plan.hangs if start <= now < end), default=now)
        await trio.sleep_until(min(end, now + plan.patience))
        now = trio.current_time()
        return not (is_lost or now < end or any(start <= now < end for start, end in plan.cuts))

    # ---- commits, claims ---------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """See `QueueStore.commit`."""
        try:
            return await self._pass(lambda: self._store.commit(batch))
        except StoreAway as error:
            if self._chance.random() < 1 / 2:
                raise CommitUnknown("nobody knows whether it landed (planned: it did not)") from error
            raise

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """See `QueueStore.claim`."""
        taken: list[str] = []

        async def ask() -> list[QueuedMail]:
            mails = await self._store.claim(claim)
            taken.extend(mail.id for mail in mails)
            return mails

        doubtful = self._doubtful
        try:
            mails = await self._pass(ask)
        except CommitUnknown:
            # Each once: a mail that was adopted meanwhile may have been taken a second time.
            self._doubtful = list(dict.fromkeys([*doubtful, *taken]))
            raise
        self._doubtful = []
        known = {mail.id for mail in mails}
        again = [await self._store.get(queue_id) for queue_id in doubtful if queue_id not in known]
        return mails + [mail for mail in again if mail is not None and mail.owner == claim.owner]

    # ---- everything else -------------------------------------------------------------------------

    async def open(self) -> None:
        """See `QueueStore.open`."""
        await self._pass(self._store.open)

    async def close(self) -> None:
        """See `QueueStore.close`."""
        await self._store.close()

    async def join(self, owner: str, now: float) -> Joined:
        """See `QueueStore.join`."""
        return await self._pass(lambda: self._store.join(owner, now))

    async def stage(self) -> ContentWriter:
        """See `QueueStore.stage`. Its pieces travel each for itself."""
        return _LinkedWriter(await self._pass(self._store.stage), self._pass)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """See `QueueStore.read`."""
        return await self._pass(lambda: self._store.read(ref, offset, limit))

    async def next_due(self) -> float | None:
        """See `QueueStore.next_due`."""
        return await self._pass(self._store.next_due)

    async def get(self, queue_id: str) -> QueuedMail | None:
        """See `QueueStore.get`."""
        return await self._pass(lambda: self._store.get(queue_id))

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """See `QueueStore.attempts`."""
        return await self._pass(lambda: self._store.attempts(queue_id))

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        """See `QueueStore.list`."""
        return await self._pass(lambda: self._store.list(chosen, limit, after))

    async def counts(self) -> Mapping[QueueState, int]:
        """See `QueueStore.counts`."""
        return await self._pass(self._store.counts)

    async def apply(self, order: Order) -> Ordered:
        """See `QueueStore.apply`."""
        return await self._pass(lambda: self._store.apply(order))

    async def cleanup(self, retention: Retention) -> int:
        """See `QueueStore.cleanup`."""
        return await self._pass(lambda: self._store.cleanup(retention))

    async def inspect(self) -> Sequence[Finding]:
        """See `QueueStore.inspect`."""
        return await self._pass(self._store.inspect)

    async def renew(self, owner: str, token: int, seconds: float) -> Pulse:
        """See `SharedStore.renew`."""
        return await self._pass(lambda: self._store.renew(owner, token, seconds))

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        """See `SharedStore.adopt`."""
        return await self._pass(lambda: self._store.adopt(owner))

    async def leave(self, owner: str, token: int) -> None:
        """See `SharedStore.leave`."""
        await self._pass(lambda: self._store.leave(owner, token))

    async def nodes(self) -> Sequence[Node]:
        """See `SharedStore.nodes`."""
        return await self._pass(self._store.nodes)

    async def set_draining(self, owner: str, draining: bool) -> bool:
        """See `SharedStore.set_draining`."""
        return await self._pass(lambda: self._store.set_draining(owner, draining))


class _LinkedWriter:
    """Content on its way over a link. What is staged counts for nothing yet, so any loss fails alike."""

    def __init__(self, inner: ContentWriter, over: Callable[[Callable[[], Awaitable[object]]], Awaitable[object]]):
        self._inner = inner
        self._over = over

    async def write(self, pieces: Sequence[bytes]) -> None:
        await self._over(lambda: self._inner.write(pieces))

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        content_id = await self._over(lambda: self._inner.finish(pieces))
        assert isinstance(content_id, str)
        return content_id

    async def abandon(self) -> None:
        await self._inner.abandon()
