"""What the queue asks of delivery.

What is not here: retry decisions (`queue.schedule`), or any one transport.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from attrs import frozen

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Priority
from elemta.mail.outcome import Outcome


class Content(Protocol):
    """The content of the mail in hand; immutable, readable more than once."""

    @property
    def size(self) -> int:
        """Octets in all."""
        ...

    @property
    def eight_bit(self) -> bool:
        """True when it holds an octet over 127."""
        ...

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`; empty at the end. Small content comes without a thread hop."""
        ...


#: Awaited before the final dot, or before whatever cannot be taken back. It returns False when the attempt must stop
#: without delivering: the mail was deleted, held or adopted meanwhile.
Gate = Callable[[], Awaitable[bool]]


@frozen
class Job:
    """One attempt: the mail's id, the envelope with only the recipients still pending, the content, the gate.

    `route` names the way out that was chosen for this mail; empty for those of its recipients' domains.
    """

    id: str
    envelope: Envelope
    content: Content
    gate: Gate
    route: str = ""


class AttemptStopped(Exception):
    """The gate closed: nothing was delivered, and nothing is to be recorded."""


class Transport(Protocol):
    """One way out."""

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """One outcome a recipient, in the order of the envelope. Raises `AttemptStopped` when the gate closed.

        Cancellation may come anywhere; after the final dot was sent, the caller treats it as uncertain.
        """
        ...


class Delivery(Protocol):
    """All ways out, behind the routes."""

    def destination(self, address: Address, route: str = "") -> str:
        """The key of the next hop for a recipient, by the route of that name if any.

        Mails with the same key share bounds, connections and attempts.
        """
        ...

    def priority_for(self, address: Address, route: str = "") -> Priority | None:
        """The priority that the recipient's route, or the one of that name, asks for; None when it does not say."""
        ...

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """Route and try; as `Transport.deliver`."""
        ...
