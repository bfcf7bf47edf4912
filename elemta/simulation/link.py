"""One node's way to a store that several nodes share: it can be cut, hang, be slow, lose a question or an answer.

What is not here: the store's own faults (`simulation.store`), or when the link suffers (`simulation.nodes`).
Every verb makes two journeys. A verb that has begun is not given up because its caller is, as a unit of work on a
database. When the question is lost nothing was done (`StoreAway`; of a commit the node may not even know that much:
`CommitUnknown`). When the answer is lost it was done, and the node does not know: `CommitUnknown`.
Failures raised: these two, as planned, and what the store behind raises.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from elemta.simulation.nodes import LinkPlan
from elemta.simulation.relay import SharedRelay
from elemta.storage.base import Change, Claim, CommitUnknown, Result, SharedStore, StoreAway
from elemta.storage.records import QueuedMail

T = TypeVar("T")


class Link(SharedRelay):
    """The way of one node, in one of its lives."""

    def __init__(self, store: SharedStore, plan: LinkPlan, chance: random.Random) -> None:
        super().__init__(store)
        self._plan = plan
        self._chance = chance
        #: Ids that a claim took whose answer was lost: a store's client asks for them again with the next claim, see
        #: `storage.shared_claims`.
        self._doubtful: list[str] = []

    async def _pass(self, verb: Callable[[], Awaitable[T]], /) -> T:
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

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """See `QueueStore.commit`."""
        try:
            return await super().commit(batch)
        except StoreAway as error:
            if self._chance.random() < 1 / 2:
                raise CommitUnknown("nobody knows whether it landed (planned: it did not)") from error
            raise

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """See `QueueStore.claim`."""
        taken: list[str] = []

        async def ask() -> list[QueuedMail]:
            mails = await self._behind.claim(claim)
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
        again = [await self._behind.get(queue_id) for queue_id in doubtful if queue_id not in known]
        return mails + [mail for mail in again if mail is not None and mail.owner == claim.owner]
