"""How many handshakes one address may begin.

A token bucket for each address: it holds `burst` tokens, and gets `rate` of them a second. What is not here: what a
refused client is told. Nothing is raised.
"""

from collections import OrderedDict
from typing import Final

from elemta.net.networks import network_of

#: Addresses that are remembered. Whoever comes from more of them at once is forgotten, and begins with a full bucket.
MAX_ADDRESSES: Final = 10_000
#: How many times the rate of a second may come at once: what the manual says of `handshakes_per_address`.
BURST_SECONDS: Final = 5


def bucket_of(host: str) -> str:
    """Who shares a bucket: an IPv4 address, an IPv6 network (one customer has all of it), a unix socket's clients."""
    return network_of(host) if ":" in host else host


class HandshakeRate:
    """The buckets."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = BURST_SECONDS * rate
        #: Tokens, and when they were counted; the latest at the end.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, host: str, now: float) -> bool:
        """Take a token of `host`'s bucket, if there is one; `now` is on Trio's clock."""
        bucket = bucket_of(host)
        tokens, at = self._buckets.pop(bucket, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        taken = tokens >= 1
        self._buckets[bucket] = (tokens - 1 if taken else tokens, now)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return taken

    @property
    def remembered(self) -> int:
        """How many addresses are remembered now."""
        return len(self._buckets)
