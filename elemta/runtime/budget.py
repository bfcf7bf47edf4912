"""A budget of octets shared by many tasks.

What is not here: what to do when it is spent; each caller answers that (spill to disk, 452).
"""


class ByteBudget:
    """Counts octets in memory against one bound. Never waits: what does not fit goes another way."""

    def __init__(self, limit_octets: int) -> None:
        self.limit = limit_octets
        self.taken = 0

    def take(self, octets: int) -> bool:
        """Take `octets` if they fit; says whether they did."""
        if self.taken + octets > self.limit:
            return False
        self.taken += octets
        return True

    def give_back(self, octets: int) -> None:
        """Give back what `take` took."""
        self.taken -= octets
