"""What is known of each mail without opening its file.

What is not here: files (`file_queue`). A mail takes some 400 octets here; of a mail that waits from an earlier life of
the store, its file's folder and time are known, its priority and destination only once its file was read: when it is
due, or asked for.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import heapify, heappop, heappush
from sys import intern

from elemta.mail.envelope import Priority
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.rules import CLAIMABLE

#: Entries that waiting mails left behind before all is put in order anew.
STALE_ENTRIES = 10_000

#: Whether (due, destination, id) is still a waiting mail of that priority.
IsCurrent = Callable[[Priority, float, str, str], bool]


class Entry:
    """One mail. `due` is its next attempt, UTC in seconds since 1970; `priority` is None until its file was read."""

    __slots__ = ("attempting_since", "content", "destination", "due", "owner", "priority", "state")

    def __init__(self, state: QueueState, due: float, content: str) -> None:
        self.state = state
        self.due = due
        self.content = content
        self.priority: Priority | None = None
        self.destination = ""
        self.owner = ""
        self.attempting_since: float | None = None

    @property
    def is_waiting(self) -> bool:
        """True while anybody may claim it."""
        return not self.owner and self.state in CLAIMABLE


class Index:
    """Every mail, what is due, and what content is referred to."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        #: How many mails refer to a content.
        self.references: dict[str, int] = {}
        self._counts = dict.fromkeys(QueueState, 0)
        #: Waiting mails whose turn has not come or whose file was not read: (due, id). Stale ones are skipped.
        self._later: list[tuple[float, str]] = []
        self._ripe = {priority: _Ripe(priority) for priority in sorted(Priority, reverse=True)}
        self._waiting = 0
        self._stale = 0

    def counts(self) -> dict[QueueState, int]:
        """How many mails stand in each state."""
        return dict(self._counts)

    # ---- changes -------------------------------------------------------------------------------

    def add_unread(self, queue_id: str, entry: Entry) -> None:
        """A mail whose file was seen but not read."""
        self._enter(queue_id, entry)

    def put(self, mail: QueuedMail) -> None:
        """A mail as it is now."""
        entry = Entry(mail.state, mail.next_attempt_at, mail.id if mail.content.id == mail.id else mail.content.id)
        entry.priority = mail.priority
        entry.destination = intern(mail.destination)
        entry.owner = intern(mail.owner)
        entry.attempting_since = mail.attempting_since
        self._leave(mail.id)
        self._enter(mail.id, entry)

    def remove(self, queue_id: str) -> None:
        """A mail that left; one that is not there is no failure."""
        self._leave(queue_id)
        self.entries.pop(queue_id, None)

    def lose(self, queue_id: str) -> None:
        """A mail whose file cannot be read any more; the content that it may need stays."""
        content = self.entries[queue_id].content
        self.references[content] += 1
        self.remove(queue_id)

    def _enter(self, queue_id: str, entry: Entry) -> None:
        self.entries[queue_id] = entry
        self._counts[entry.state] += 1
        self.references[entry.content] = self.references.get(entry.content, 0) + 1
        if entry.is_waiting:
            self._waiting += 1
            heappush(self._later, (entry.due, queue_id))

    def _leave(self, queue_id: str) -> None:
        old = self.entries.get(queue_id)
        if old is None:
            return
        self._counts[old.state] -= 1
        left = self.references[old.content] - 1
        if left:
            self.references[old.content] = left
        else:
            del self.references[old.content]
        if old.is_waiting:
            self._waiting -= 1
            self._stale += 1
            if self._stale > STALE_ENTRIES + self._waiting:
                self._put_in_order(queue_id)

    def _put_in_order(self, without: str) -> None:
        self._stale = 0
        self._later = [
            (entry.due, each) for each, entry in self.entries.items() if entry.is_waiting and each != without
        ]
        heapify(self._later)
        self._ripe = {priority: _Ripe(priority) for priority in self._ripe}

    # ---- what is due ---------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When the earliest waiting mail is due."""
        while self._later and not self._is_waiting(*self._later[0]):
            heappop(self._later)
        firsts = [ripe.first(self._is_ripe) for ripe in self._ripe.values()]
        if self._later:
            firsts.append(self._later[0][0])
        return min((each for each in firsts if each is not None), default=None)

    def _is_waiting(self, due: float, queue_id: str) -> bool:
        entry = self.entries.get(queue_id)
        return entry is not None and entry.is_waiting and entry.due == due

    def _is_ripe(self, priority: Priority, due: float, destination: str, queue_id: str) -> bool:
        if not self._is_waiting(due, queue_id):
            return False
        entry = self.entries[queue_id]
        return entry.priority is priority and entry.destination == destination

    def ripen(self, now: float) -> Iterator[str]:
        """Order what is due; yields the ids whose files must be read first. After each, `put` what was read."""
        while self._later and self._later[0][0] <= now:
            due, queue_id = heappop(self._later)
            if not self._is_waiting(due, queue_id):
                continue
            entry = self.entries[queue_id]
            if entry.priority is None:
                yield queue_id
            else:
                self._ripe[entry.priority].push(due, entry.destination, queue_id)

    def take(
        self, now: float, limit: int, *, exclude: Collection[str], priority: Priority | None
    ) -> list[tuple[float, str]]:
        """The first waiting mails that are due, by priority, time, destination, id. Whoever does not claim them must
        `give_back`."""
        taken: list[tuple[float, str]] = []
        for each, ripe in self._ripe.items():
            if priority in (None, each) and len(taken) < limit:
                taken += ripe.take(now, limit - len(taken), exclude, self._is_ripe)
        return taken

    def give_back(self, taken: Iterable[tuple[float, str]]) -> None:
        """What was taken but not claimed."""
        for each in taken:
            heappush(self._later, each)


class _Ripe:
    """The due mails of one priority: a queue for each destination, and an order of the queues' heads."""

    def __init__(self, priority: Priority) -> None:
        self._priority = priority
        self._queues: dict[str, list[tuple[float, str]]] = {}
        #: (due, destination, id); those that are not their queue's first any more are skipped.
        self._heads: list[tuple[float, str, str]] = []

    def push(self, due: float, destination: str, queue_id: str) -> None:
        queue = self._queues.setdefault(destination, [])
        heappush(queue, (due, queue_id))
        if queue[0] == (due, queue_id):
            heappush(self._heads, (due, destination, queue_id))

    def _pop(self) -> tuple[float, str, str] | None:
        """Take the first head away; None when it was none any more."""
        due, destination, queue_id = heappop(self._heads)
        queue = self._queues.get(destination)
        return (due, destination, queue_id) if queue and queue[0] == (due, queue_id) else None

    def _advance(self, destination: str) -> None:
        queue = self._queues[destination]
        heappop(queue)
        if queue:
            heappush(self._heads, (queue[0][0], destination, queue[0][1]))
        else:
            del self._queues[destination]

    def first(self, is_current: IsCurrent) -> float | None:
        """When the first one is due."""
        while self._heads:
            head = self._pop()
            if head is None:
                continue
            if is_current(self._priority, *head):
                heappush(self._heads, head)
                return head[0]
            self._advance(head[1])
        return None

    def take(self, now: float, limit: int, exclude: Collection[str], is_current: IsCurrent) -> list[tuple[float, str]]:
        """The first ones, in order. A queue that is left out costs one look, however long it is."""
        taken: list[tuple[float, str]] = []
        left_out: list[tuple[float, str, str]] = []
        while self._heads and len(taken) < limit and self._heads[0][0] <= now:
            head = self._pop()
            if head is None:
                continue
            due, destination, queue_id = head
            if destination in exclude:
                left_out.append(head)
                continue
            self._advance(destination)
            if is_current(self._priority, *head) and (due, queue_id) not in taken[-1:]:
                taken.append((due, queue_id))
        for head in left_out:
            heappush(self._heads, head)
        return taken
