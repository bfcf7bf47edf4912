"""The due mails that are next in line, in the order in which they may be tried.

What is not here: mails that are not due or have no room here (they lie in the store), or the tasks that try them
(`queue.dispatcher`). Nothing here waits.

A heap for each destination, and one heap of the destinations' first mails: a destination that holds its whole share of
deliveries costs the others nothing, however many mails wait for it. Every operation takes logarithmic time.
"""

import enum
from collections.abc import Collection
from heapq import heapify, heappop, heappush

from elemta.mail.envelope import Priority
from elemta.queue.priority import OrderKey, order_key
from elemta.queue.throttle import DestinationLoad
from elemta.storage.records import QueuedMail


class Room(enum.Enum):
    """What the dispatcher keeps for a mail that will be durable soon."""

    #: Nothing: it is anybody's in the store.
    NONE = "none"
    #: A place in the agenda.
    WAITING = "waiting"
    #: A delivery task, with a place in the destination's share: the attempt begins with the mail.
    TASK = "task"


class Due:
    """A mail that may be tried now, with its octets where they were still at hand, and the token it is owned under."""

    __slots__ = ("content", "mail", "token")

    def __init__(self, mail: QueuedMail, content: bytes | None = None, *, token: int) -> None:
        self.mail = mail
        self.content = content
        self.token = token


Entry = tuple[OrderKey, Due]


class Agenda:
    """Bounded: `most` mails of each priority, those included that `reserve` was asked for; and one for each delivery
    task by `insist`. Each priority has its own room, so that a full house of ordinary mail never keeps a critical one
    out.

    `load` counts the deliveries in flight; `pop` takes a place from it.
    """

    def __init__(self, load: DestinationLoad, *, ageing: float | None, most: int) -> None:
        self._load = load
        self._ageing = ageing
        self._lanes: dict[str, list[Entry]] = {}
        #: The first mail of every destination that can take one; also outdated entries, which `pop` skips.
        self._heads: list[tuple[OrderKey, str]] = []
        self._room = dict.fromkeys(Priority, most)
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, queue_id: str) -> bool:
        return queue_id in self._ids

    def room(self, priority: Priority) -> int:
        """How many more mails of this priority may come."""
        return self._room[priority]

    def waiting_for(self, destination: str) -> int:
        """How many mails wait for one destination."""
        return len(self._lanes.get(destination, ()))

    def longest(self, least: int) -> list[str]:
        """Destinations for which at least so many mails wait."""
        return [destination for destination, lane in self._lanes.items() if len(lane) >= least]

    def oldest_due(self) -> float | None:
        """Since when the longest waiting mail has been due. Looks at every mail: for an occasional report."""
        return min((due.mail.next_attempt_at for lane in self._lanes.values() for _, due in lane), default=None)

    def reserve(self, priority: Priority) -> bool:
        """Keep a place for a mail that will come by `push`, or not: then `cancel` gives the place back."""
        if self._room[priority] <= 0:
            return False
        self._room[priority] -= 1
        return True

    def insist(self, due: Due) -> None:
        """Take a mail back that has no place reserved: one that a delivery task already held, so few at a time."""
        self._room[due.mail.priority] -= 1
        self.push(due)

    def cancel(self, priority: Priority) -> None:
        """Give back what `reserve` kept, or what `push` used when the mail was taken without a wait."""
        self._room[priority] += 1

    def push(self, due: Due) -> None:
        """Add a mail that is not here, for which a place was reserved."""
        mail = due.mail
        entry = (order_key(mail.priority, mail.next_attempt_at, id=mail.id, ageing=self._ageing), due)
        lane = self._lanes.get(mail.destination)
        if lane is None:
            lane = self._lanes[mail.destination] = []
        heappush(lane, entry)
        self._ids.add(mail.id)
        if lane[0] is entry:
            self.announce(mail.destination)

    def announce(self, destination: str) -> None:
        """Put a destination in line, after its first mail changed or it can take another."""
        lane = self._lanes.get(destination)
        if lane and self._load.of(destination) < self._load.share:
            heappush(self._heads, (lane[0][0], destination))

    def pop(self) -> Due | None:
        """The first mail in line whose destination can take it, with a place in the load; None when there is none."""
        heads = self._heads
        while heads:
            key, destination = heads[0]
            lane = self._lanes.get(destination)
            if lane is None or lane[0][0] != key:
                heappop(heads)
                continue
            if not self._load.try_take(destination):
                if self._load.free <= 0:
                    return None
                heappop(heads)
                continue
            heappop(heads)
            _, due = heappop(lane)
            self._ids.discard(due.mail.id)
            self._room[due.mail.priority] += 1
            if lane:
                self.announce(destination)
            else:
                del self._lanes[destination]
            return due
        return None

    def forget(self, ids: Collection[str]) -> list[Due]:
        """Take out the mails with these ids; returns those that were here."""
        wanted = frozenset(ids)
        gone = []
        for destination, lane in list(self._lanes.items()):
            keep = [entry for entry in lane if entry[1].mail.id not in wanted]
            if len(keep) == len(lane):
                continue
            gone += [due for _, due in lane if due.mail.id in wanted]
            if keep:
                heapify(keep)
                self._lanes[destination] = keep
                self.announce(destination)
            else:
                del self._lanes[destination]
        for due in gone:
            self._ids.discard(due.mail.id)
            self._room[due.mail.priority] += 1
        return gone

    def clear(self) -> list[Due]:
        """Take everything out; what was reserved stays reserved."""
        gone = [due for lane in self._lanes.values() for _, due in lane]
        self._lanes.clear()
        self._heads.clear()
        self._ids.clear()
        for due in gone:
            self._room[due.mail.priority] += 1
        return gone
