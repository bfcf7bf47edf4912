"""The transport that takes every mail, to forget it.

What is not here: refusing mail (`inbound`). For rehearsals, and for addresses that nobody reads.
Failures raised: `AttemptStopped`.
"""

from collections.abc import Sequence

from elemta.delivery.base import AttemptStopped, Job
from elemta.mail.outcome import Delivered, Outcome
from elemta.mail.reply import Reply

_DISCARDED = Delivered(Reply(250, "2.0.0", "discarded"))


class DiscardTransport:
    """Delivers to nobody."""

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """Delivered, for each recipient. Raises `AttemptStopped`: a mail that an operator holds must not be lost."""
        if not await job.gate():
            raise AttemptStopped
        return [_DISCARDED] * len(job.envelope.recipients)
