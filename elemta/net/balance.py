"""How many connections each of several processes has open, in memory that they share.

What is not here: the sockets (`net.shared`). Whoever is woken first would take a whole burst of connections, and with
clients that stay (measured: 50 sessions of a relay) leave the others idle for as long as they do. The numbers are a
hint that is written without a lock: each process writes its own alone, and a wrong one costs a pause.
Failures raised: none.
"""

import mmap
from typing import Final

#: The number of a process that takes no connections; more than any that does.
ABSENT: Final = 0xFFFF_FFFF
_OCTETS: Final = 4


class Tally:
    """The numbers of all processes; made before they are forked. Nobody takes connections yet."""

    def __init__(self, processes: int) -> None:
        self._open = memoryview(mmap.mmap(-1, processes * _OCTETS)).cast("I")
        for index in range(processes):
            self.set(index, ABSENT)

    def set(self, index: int, connections: int) -> None:
        """Say how many connections a process has, counted from 0."""
        self._open[index] = connections

    def least(self) -> int:
        """How many the least busy process has."""
        return min(self._open)


class Share:
    """One process's part: it counts for others while it takes connections."""

    def __init__(self, tally: Tally, index: int) -> None:
        self._tally = tally
        self._index = index
        self._count = 0
        self._taking = False

    def enter(self) -> None:
        """Begin to take connections."""
        self._taking = True
        self._tell()

    def leave(self) -> None:
        """Take no more; those that are open go on."""
        self._taking = False
        self._tell()

    def change(self, by: int) -> None:
        """Count connections that were opened, or closed."""
        self._count += by
        self._tell()

    def _tell(self) -> None:
        self._tally.set(self._index, self._count if self._taking else ABSENT)

    @property
    def is_ahead(self) -> bool:
        """Whether another process that takes connections has fewer."""
        return self._count > self._tally.least()
