"""How many deliveries may run at once, towards one destination or in all.

What is not here: who waits for a free place (`queue.dispatcher`), or limits on clients (`inbound`).
Failures raised: `ValueError` for a place given back that was never taken: a defect of ours.
"""


def destination_share(max_workers: int) -> int:
    """Deliveries at once to one destination: half of all, at least one.

    One slow destination can thus never hold every place. Raises `ValueError` for fewer than one worker.
    """
    if max_workers < 1:
        raise ValueError(f"max_workers must be at least 1, not {max_workers}")
    return max(1, max_workers // 2)


class DestinationLoad:
    """Counts deliveries in flight, by destination and in all, and never lets either bound be passed.

    Every operation takes constant time. It holds one number a destination in flight, so at most `max_workers` of them.
    """

    def __init__(self, max_workers: int) -> None:
        self.share = destination_share(max_workers)
        self.max_workers = max_workers
        self._total = 0
        self._counts: dict[str, int] = {}
        self._saturated: set[str] = set()

    @property
    def in_flight(self) -> int:
        """Deliveries in flight, in all."""
        return self._total

    @property
    def free(self) -> int:
        """Places left, in all."""
        return self.max_workers - self._total

    @property
    def saturated(self) -> frozenset[str]:
        """Destinations that hold their whole share: what a claim must leave out. Never more than three of them."""
        return frozenset(self._saturated)

    def of(self, destination: str) -> int:
        """Deliveries in flight to one destination."""
        return self._counts.get(destination, 0)

    def can_take(self, destination: str) -> bool:
        """True when `try_take` would succeed now."""
        return self._total < self.max_workers and destination not in self._saturated

    def try_take(self, destination: str) -> bool:
        """Take a place; False when there is none in all, or none left in the destination's share."""
        if not self.can_take(destination):
            return False
        count = self._counts.get(destination, 0) + 1
        self._counts[destination] = count
        self._total += 1
        if count == self.share:
            self._saturated.add(destination)
        return True

    def give_back(self, destination: str) -> None:
        """Give back a place that `try_take` gave. Raises `ValueError` when none was taken."""
        count = self._counts.get(destination, 0)
        if not count:
            raise ValueError(f"no delivery to {destination!r} is in flight")
        if count == 1:
            del self._counts[destination]
        else:
            self._counts[destination] = count - 1
        self._total -= 1
        self._saturated.discard(destination)
