"""The hosts that a transport tries, in their order.

What is not here: how they are found (`delivery.mx` asks DNS, a smarthost's finder its name), or the
conversation with them (`delivery.smtp`).
"""

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from elemta.mail.outcome import Deferred, Failed
from elemta.net.base import Endpoint


@frozen(cache_hash=True)
class Hop:
    """One address of one host.

    `host` is the name as routing found it: for logs, reports, and the certificate's check.
    """

    host: str
    endpoint: Endpoint


class HopFinder(Protocol):
    """Where the mail of a domain goes."""

    async def hops(self, domain: str) -> Sequence[Hop] | Deferred | Failed:
        """At least one hop, the most preferred first; or why there is none.

        `domain` is a recipient's: lower-case A-labels or an address literal (`Address.domain`). A finder for
        a smarthost gives the same whatever it is. Hosts of equal preference come shuffled already
        (RFC 5321 §5.1); addresses are tried exactly in this order.
        """
        ...
