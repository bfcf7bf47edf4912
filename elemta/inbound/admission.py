"""Who may connect now: bounds in all, an address, a network.

What is not here: rates over time, lists of good or bad clients (plugins).
Overload is answered 421, never queued without limit (RFC 5321 §3.8).
"""

from collections import Counter

from elemta.config.sections import LimitsSection
from elemta.mail.reply import Reply
from elemta.net.networks import network_of

TOO_MANY = Reply(421, "4.3.2", "too many connections, try again later")
TOO_MANY_FROM_YOU = Reply(421, "4.7.0", "too many connections from your address, try again later")


class Admission:
    """Counts open connections."""

    def __init__(self, limits: LimitsSection) -> None:
        #: What holds from the next client on.
        self.limits = limits
        self.open = 0
        self._by_address: Counter[str] = Counter()
        self._by_network: Counter[str] = Counter()

    def admit(self, host: str) -> Reply | None:
        """Count a connection from `host` in; or the reply that refuses it, and then it does not count."""
        limits = self.limits
        if self.open >= limits.max_connections:
            return TOO_MANY
        network = network_of(host)
        if self._by_address[host] >= limits.max_connections_per_address:
            return TOO_MANY_FROM_YOU
        if self._by_network[network] >= limits.max_connections_per_network:
            return TOO_MANY_FROM_YOU
        self.open += 1
        self._by_address[host] += 1
        self._by_network[network] += 1
        return None

    @property
    def counted(self) -> int:
        """Addresses and networks that are remembered: none without an open connection."""
        return len(self._by_address) + len(self._by_network)

    def leave(self, host: str) -> None:
        """Count an admitted connection out."""
        self.open -= 1
        for counter, key in ((self._by_address, host), (self._by_network, network_of(host))):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]
