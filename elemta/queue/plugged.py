"""The plugins' part in an attempt to deliver.

What is not here: calling them (`plugins.chain`), or the attempt (`queue.worker`). Content is immutable here: a plugin
may stop an attempt, not change a mail.
"""

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

from elemta.delivery.base import Job
from elemta.mail.outcome import Deferred, Failed, Outcome
from elemta.plugins.api import ContentAway, Delivery, Stage
from elemta.plugins.chain import Chain
from elemta.plugins.content import Chunks
from elemta.plugins.costs import Ledger
from elemta.plugins.mail import frozen_annotations
from elemta.plugins.verdicts import NO_REASON, Change, Defer, Quarantine, Reject
from elemta.queue.content import StoredContent
from elemta.storage.base import ContentMissing, StoreUnavailable
from elemta.storage.records import QueuedMail

#: The word about a mail that was held here. No plugin can give it: in keys of their own a space has no place.
HELD_KEY: Final = "held by a filter"


@frozen
class Held:
    """A plugin wants the mail to wait for an operator."""

    reason: str

    def noted(self, mail: QueuedMail) -> QueuedMail:
        """The mail with the word that it was held: an attempt after that is one that an operator wants."""
        return evolve(mail, annotations={**mail.annotations, HELD_KEY: self.reason})


class _Content:
    """A queued mail's octets as plugins read them."""

    __slots__ = ("_stored", "header_octets", "size")

    def __init__(self, stored: StoredContent, header_octets: int) -> None:
        self._stored = stored
        self.size = stored.size
        self.header_octets = header_octets

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`; empty at the end. Raises `ContentAway`."""
        try:
            return await self._stored.read(offset, limit)
        except (StoreUnavailable, ContentMissing) as error:
            raise ContentAway(str(error)) from error

    def chunks(self, offset: int = 0) -> Chunks:
        """All octets from `offset`, piece by piece."""
        return Chunks(self.read, offset)


class PluggedAttempt:
    """One attempt's side of it."""

    __slots__ = ("_delivery", "_is_released", "chain", "ledger")

    def __init__(self, chain: Chain, mail: QueuedMail, job: Job, content: StoredContent) -> None:
        #: The plugins that are asked.
        self.chain = chain
        self._is_released = HELD_KEY in mail.annotations
        self.ledger = Ledger()
        self._delivery = Delivery(
            id=mail.id,
            envelope=job.envelope,
            destination=mail.destination,
            attempts=mail.attempts,
            annotations=frozen_annotations(mail.annotations),
            content=_Content(content, mail.content.header_octets),
        )

    def apply(self, changes: Sequence[Change]) -> None:
        """A queued mail is not changed. Raises `ValueError`."""
        raise ValueError("a mail in the queue cannot be changed any more")

    async def before(self) -> Sequence[Outcome] | Held | None:
        """What comes of the attempt without making it; None to go on.

        What an operator released is not held once more: a plugin that says the same each time would keep it for ever.
        """
        if not self.chain.has(Stage.PRE_DELIVERY):
            return None
        verdict = await self.chain.ask(Stage.PRE_DELIVERY, self, self._delivery)
        recipients = len(self._delivery.envelope.recipients)
        match verdict:
            case Reject():
                return (Failed(verdict.reply),) * recipients
            case Defer():
                return (Deferred(verdict.reply),) * recipients
            case Quarantine(reason) if not self._is_released:
                return Held(reason or NO_REASON)
            case _:
                return None

    async def after(self, outcomes: Sequence[Outcome]) -> None:
        """The attempt is settled."""
        if self.chain.has(Stage.POST_DELIVERY):
            await self.chain.tell(Stage.POST_DELIVERY, self, self._delivery, tuple(outcomes))
