"""This node's part in a queue: joining it, proving life, adopting the dead.

What is not here: the tries themselves (`queue.dispatcher`), or how a store judges a lease (`storage`).

A queue that belongs to one process is joined once. In a shared one the node renews its lease every few seconds and
looks for nodes whose lease is past. Three things can go wrong:

* The database is away at the start: the node serves all the same (new mail is answered 451), and joins when it can.
* The lease cannot be renewed: shortly before it ends, attempts in flight are cut, since somebody else will soon try
  these mails; what a remote acknowledged by then is kept by the spool until the database is back.
* The lease ended and another node adopted: everything that was this node's is given up, and it joins again under a new
  token. What it still says under the old one is fenced.

Failures raised: `StoreUnavailable` at the first join, unless the store is shared and only away (`StoreAway`), or nobody
knows whether we joined (`CommitUnknown`): joining once more is safe.
"""

from math import inf

import trio

from elemta.queue.dispatcher import Dispatcher
from elemta.queue.shared import as_shared
from elemta.queue.workshop import Workshop
from elemta.runtime.watch import DeadlineWatch
from elemta.storage.base import CommitUnknown, Joined, Pulse, SharedStore, StoreAway, StoreUnavailable

#: A lease is renewed so often before it ends, so that one lost renewal costs nothing; but at least each
#: `LONGEST_BEAT_SECONDS`, so that the dead are adopted soon after their lease.
BEATS_PER_LEASE = 6
LONGEST_BEAT_SECONDS = 5.0
#: Part of the lease before whose end attempts in flight are cut.
CUT_PART = 1 / 6
#: Between two tries of a store that is away.
AWAY_SECONDS = 1.0
#: What a start waits for the first join: who hangs is away.
FIRST_JOIN_SECONDS = 5.0
#: To say good-bye at the end, seconds.
LEAVE_SECONDS = 5.0
#: Ids written to the log in one event.
LOGGED_IDS = 100


class Membership:
    """Keeps one node in its queue."""

    def __init__(self, shop: Workshop, dispatcher: Dispatcher) -> None:
        self._shop = shop
        self._dispatcher = dispatcher
        self._shared = None if shop.options.lease is None else as_shared(shop.store)
        self._lease = shop.options.lease or inf
        self._beat = min(self._lease / BEATS_PER_LEASE, LONGEST_BEAT_SECONDS)
        #: Until when, on Trio's clock, nobody else can have adopted this node's mails.
        self._sure_until = inf
        self._deadlines = DeadlineWatch(self._cut_late)
        #: Why this node takes no part just now; empty while it does. A sentence for people.
        self.absence = ""

    @property
    def _token(self) -> int:
        return self._dispatcher.token

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join, then stay a member until cancelled; started once joined, or once it is known that this must wait."""
        if self._shared is None:
            await self._enter()
            task_status.started()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deadlines.run)
            known = trio.Event()
            nursery.start_soon(self._say_started, known, task_status)
            try:
                await self._enter()
            except (StoreAway, CommitUnknown) as error:
                self._is_away(error)
            known.set()
            pause = 0.0
            while True:
                await trio.sleep(pause)
                pause = await self._step(self._shared)

    async def _say_started(self, known: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        """Let the server start when it is known whether we joined, or when that takes too long."""
        with trio.move_on_after(FIRST_JOIN_SECONDS):
            await known.wait()
        if not known.is_set():
            self.absence = "the store has not answered yet"
        task_status.started()

    async def _step(self, shared: SharedStore) -> float:
        """Join or renew, then adopt; returns the seconds until the next step."""
        try:
            if not self._token:
                await self._enter()
            asked, pulse = await self._ask(shared)
            if trio.current_time() - asked > self._beat:
                # The database hung: that answer says little of the lease now, and would have us cut what is well.
                asked, pulse = await self._ask(shared)
            if not pulse.is_held:
                self._give_up()
                return 0.0
            self._renewed(asked, pulse)
            await self._adopt(shared)
        except StoreUnavailable as error:
            self._is_away(error)
            return min(AWAY_SECONDS, self._beat)
        return self._beat

    async def _ask(self, shared: SharedStore) -> tuple[float, Pulse]:
        """Renew the lease; when that was asked for, on Trio's clock, and the answer."""
        asked = trio.current_time()
        return asked, await shared.renew(self._shop.options.node, self._token, self._lease)

    async def _enter(self) -> None:
        shop = self._shop
        await shop.store.open()
        joined = await shop.store.join(shop.options.node, shop.runtime.clock.wall())
        self._say_joined(joined)
        self._dispatcher.take_part(joined.token)

    def _say_joined(self, joined: Joined) -> None:
        self._shop.log.info(
            "queue.joined",
            node=self._shop.options.node,
            recovered=joined.recovered,
            uncertain=len(joined.uncertain),
            uncertain_ids=list(joined.uncertain[:LOGGED_IDS]),
        )
        self._shop.metrics.uncertain.inc(len(joined.uncertain))

    def _renewed(self, asked: float, pulse: Pulse) -> None:
        if self.absence:
            self._shop.log.info("queue.store_back", node=self._shop.options.node)
        self.absence = ""
        # Counted from before the question was sent: the database's lease begins no earlier.
        self._sure_until = asked + self._lease * (1 - CUT_PART)
        self._deadlines.note(self._sure_until)
        self._dispatcher.rest(pulse.is_draining)

    async def _adopt(self, shared: SharedStore) -> None:
        for adopted in await shared.adopt(self._shop.options.node):
            self._shop.log.warning(
                "queue.adopted",
                node=adopted.owner,
                recovered=adopted.recovered,
                uncertain=len(adopted.uncertain),
                uncertain_ids=list(adopted.uncertain[:LOGGED_IDS]),
            )
            self._shop.metrics.uncertain.inc(len(adopted.uncertain))
            if adopted.recovered:
                self._dispatcher.note_due(-inf)

    def _is_away(self, error: StoreUnavailable) -> None:
        if not self.absence:
            self._shop.log.error("queue.store_away", node=self._shop.options.node, error=str(error))
        self.absence = str(error)

    def _give_up(self) -> None:
        """Somebody adopted our mails while we were silent."""
        self._shop.log.warning("queue.fenced", node=self._shop.options.node, in_flight=self._dispatcher.in_flight)
        self._sure_until = inf
        self._dispatcher.lose()

    def _cut_late(self, now: float) -> float:
        """Cut what is in flight when the lease could not be renewed; see `DeadlineWatch`."""
        if now < self._sure_until:
            return self._sure_until
        self._sure_until = inf
        cut = self._dispatcher.cut()
        self._shop.log.error("queue.lease_ends", node=self._shop.options.node, cut=cut)
        return inf

    async def leave(self) -> None:
        """Give up what is this node's, so that others need not wait for the end of its lease. Never raises."""
        if self._shared is None or not self._token or self.absence:
            return  # who does not answer now would only hold up our end; the lease says the rest
        try:
            await self._shared.leave(self._shop.options.node, self._token)
        except StoreUnavailable as error:
            self._shop.log.warning("queue.not_left", node=self._shop.options.node, error=str(error))
