"""Jobs for transports: content in memory that is read in pieces, and a gate that counts.

What is not here: assertions.
"""

from attrs import define, field

from elemta.delivery.base import Job
from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient


@define
class Octets:
    """Content in memory; `reads` counts how often it was asked for."""

    octets: bytes
    reads: int = 0

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def eight_bit(self) -> bool:
        return not self.octets.isascii()

    async def read(self, offset: int, limit: int) -> bytes:
        self.reads += 1
        return self.octets[offset : offset + limit]


@define
class CountingGate:
    """Open or closed; counts who asked."""

    opens: bool = True
    asked: int = 0

    async def __call__(self) -> bool:
        self.asked += 1
        return self.opens


@define
class Attempt:
    """The job with what can be looked at afterwards."""

    job: Job
    gate: CountingGate = field(factory=CountingGate)
    content: Octets = field(factory=lambda: Octets(b""))


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def attempt(*recipients: str, content: bytes = b"", sender: str = "sender@example.org", opens: bool = True) -> Attempt:
    """An attempt for recipients written as plain addresses; an empty sender is the null reverse-path."""
    gate = CountingGate(opens)
    octets = Octets(content)
    envelope = Envelope(address(sender) if sender else None, tuple(Recipient(address(each)) for each in recipients))
    return Attempt(Job("0000000000000000000001", envelope, octets, gate), gate, octets)
