"""Who is tried next: due mails meet free delivery tasks.

What is not here: one attempt (`queue.worker`), the order itself (`queue.agenda`, `queue.priority`), or the truth, which
lies in the store: what lies here is a bounded choice of it, and can be thrown away at any moment.

A mail that was just made durable is handed over directly, content included, while there is room; where a delivery task
is free its first attempt begins with it, in the same change. What has no room is anybody's in the store, and is claimed
in batches when it is its turn. While mail of a destination waits in the store,
newer mail for it goes there as well, so that nobody is overtaken for ever. A delivery task that is free takes the first
mail in line by itself; one that waits is handed its mail over a memory channel.

The wall clock may step: what is due is looked at anew at least once in `QueueOptions.look_seconds`.
Everything here is held under the token of `take_part`; who holds none (`queue.membership`) tries nothing.
Failures raised: none; a store that fails makes everybody wait for `AWAY_SECONDS`.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from math import inf

import trio
from attrs import evolve

from elemta.mail.envelope import Priority
from elemta.plugins.chain import Chain
from elemta.queue.agenda import Agenda, Due, Room
from elemta.queue.priority import STARVING_AFTER_SECONDS, is_starving
from elemta.queue.settlement import Settlement
from elemta.queue.throttle import DestinationLoad
from elemta.queue.worker import INTERRUPTED_SECONDS, Worker
from elemta.queue.workshop import Workshop
from elemta.runtime.bell import Bell
from elemta.runtime.budget import ByteBudget
from elemta.runtime.watch import DeadlineWatch
from elemta.storage.base import Claim, Settle, StoreUnavailable
from elemta.storage.records import QueuedMail, QueueState

#: Octets of content kept with mails that wait in memory: an eighth of a small machine's 512 MiB.
KEPT_CONTENT_OCTETS = 64 * 1024 * 1024
#: Mails claimed in one hop: about a millisecond of the store's time, and some tens of milliseconds of work.
CLAIM_MAILS = 250
#: A destination for which so many mails wait here is left out of claims, until there are fewer than `LANE_LOW_MAILS`.
LANE_FULL_MAILS = 200
LANE_LOW_MAILS = 50
#: Destinations remembered as having mail in the store; when there are more, all new mail goes there.
BEHIND_DESTINATIONS = 1000
#: Between two looks while mail is due that has no room here.
BUSY_LOOK_SECONDS = 1.0
#: Between two reports of how long mail waits.
REPORT_SECONDS = 10.0
#: After the store failed, before the next try.
AWAY_SECONDS = 5.0
#: A mail due within this time is due: times since 1970 have steps of a quarter microsecond.
DUE_SLACK_SECONDS = 0.001


class Dispatcher:
    """Feeds at most `max_workers` delivery tasks, at most half of them with one destination."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        options = shop.options
        self._load = DestinationLoad(options.max_workers)
        self._agenda = Agenda(self._load, ageing=options.ageing, most=options.waiting_mails)
        self._budget = ByteBudget(KEPT_CONTENT_OCTETS)
        self._to_idle, self._when_idle = trio.open_memory_channel[Due](0)
        self._idle = 0
        #: Delivery tasks that are kept for mails whose commit is under way.
        self._kept = 0
        self._workers: list[Worker] = []
        self._nursery: trio.Nursery | None = None
        #: The fencing token of this life of the node (`Joined.token`); 0 while it is no member of its queue.
        self.token = 0
        #: True while an operator wants this node to take nothing more.
        self.resting = False
        self._in_hand: set[str] = set()
        #: Claimed again while in hand (an operator made it due, or its settle is in the store and not answered yet).
        self._claimed_again: dict[str, Due] = {}
        #: Mails whose gate found the store away: at most one a worker, tried when the pause is over.
        self._put_back: list[Due] = []
        self._away_until = -inf
        self._draining = False
        self._cut = False
        #: Nothing is given to delivery tasks any more.
        self._closed = False
        self._all_idle = trio.Event()
        self._ended = trio.Event()
        self._behind: set[str] = set()
        #: What the last claim left out, or had little room for, though the store may have it: see `_look_when_low`.
        self._excluded: frozenset[str] = frozenset()
        self._crowded: frozenset[Priority] = frozenset()
        self._next_due = inf
        #: True after a claim of whose end nobody heard; the next one asks for its mails, however little is due.
        self._claim_in_doubt = False
        self._looks = Bell()
        self._claiming = trio.Lock()
        self._reported_at = -inf
        self._starving_reported = -inf
        self._deadlines = DeadlineWatch(self._end_overrun)

    # ---- what comes in ---------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Due mails in memory."""
        return len(self._agenda)

    @property
    def in_flight(self) -> int:
        """Attempts that have begun and are not settled."""
        return len(self._in_hand)

    def asks(self, plugins: Chain) -> bool:
        """Whether an attempt is running about which these plugins are asked."""
        return any(worker.plugins is plugins for worker in self._workers)

    def reserve(self, priority: Priority, destination: str) -> Room:
        """Keep room for a mail that will be durable soon; then `offer` it, or `cancel`.

        With `Room.TASK` the mail must say `attempting_since`. One destination may hold as much as is still free for
        all, so that one flood never takes the whole room.
        """
        agenda = self._agenda
        behind = self._behind
        if not self._takes_mail or len(behind) >= BEHIND_DESTINATIONS or destination in behind:
            return Room.NONE
        if self._may_start() and self._load.try_take(destination):
            self._kept += 1
            return Room.TASK
        if agenda.waiting_for(destination) < agenda.room(priority) and agenda.reserve(priority):
            return Room.WAITING
        behind.add(destination)
        return Room.NONE

    @property
    def _takes_mail(self) -> bool:
        return self._nursery is not None and self.token > 0 and not (self._draining or self.resting)

    def cancel(self, mail: QueuedMail) -> None:
        """Give back what `reserve` kept for it."""
        if mail.attempting_since is not None:
            self._kept -= 1
            self.reached(mail.destination)
            self._check_idle()
        elif mail.owner:
            self._agenda.cancel(mail.priority)

    def offer(self, mail: QueuedMail, content: bytes | None, *, token: int | None) -> None:
        """A mail that is durable now: with the room that was reserved for it, or as one that anybody may claim.

        `token` is the one it was inserted under; None when it turned out not to be ours.
        """
        if not mail.owner or token != self.token:
            self.cancel(mail)
            self.note_due(mail.next_attempt_at)
            return
        if content is not None and not self._budget.take(len(content)):
            content = None
        due = Due(mail, content, token=token)
        if mail.attempting_since is not None:
            self._kept -= 1
            if self._closed:
                self._free(due)
            else:
                self._give(due)
        elif self._may_start() and self._load.try_take(mail.destination):
            self._agenda.cancel(mail.priority)
            self._give(due)
        else:
            self._agenda.push(due)

    def note_due(self, at: float) -> None:
        """A mail that anybody may claim is due at `at`, UTC in seconds since 1970."""
        if at < self._next_due:
            self._next_due = at
            self._looks.ring()

    @asynccontextmanager
    async def holding_claims(self) -> AsyncIterator[None]:
        """Nothing is claimed meanwhile, so that an order and `forget` meet the same mails."""
        async with self._claiming:
            yield

    def forget(self, ids: Collection[str]) -> None:
        """An operator changed these mails: those that wait here are the store's again."""
        for due in self._agenda.forget(ids):
            self._let_go(due)
        self._put_back = [due for due in self._put_back if due.mail.id not in ids]
        self.note_due(-inf)

    # ---- membership (see `queue.membership`) -----------------------------------------------------

    def take_part(self, token: int) -> None:
        """Take mail and try it under a token from now on."""
        self.token = token
        self.note_due(-inf)

    def rest(self, resting: bool) -> None:
        """Finish what is in flight and take nothing more, while an operator wants it so; what waits goes back."""
        if resting == self.resting:
            return
        self.resting = resting
        self._shop.log.info("queue.resting" if resting else "queue.working", in_flight=self.in_flight)
        self.note_due(-inf)

    def lose(self) -> None:
        """The mails held here are not ours any more."""
        self.token = 0
        self._clear()
        self._claimed_again.clear()
        self.cut()

    def _clear(self) -> list[Due]:
        """Let go of all that waits here."""
        waiting = [*self._agenda.clear(), *self._put_back]
        self._put_back.clear()
        for due in waiting:
            self._let_go(due)
        return waiting

    def cut(self) -> int:
        """End all attempts in flight now; returns how many."""
        running = [worker for worker in self._workers if worker.deadline < inf]
        for worker in running:
            worker.overran()
        return len(running)

    def _hand_back(self, due: Due) -> None:
        """Make a mail anybody's that was not tried."""
        free = evolve(due.mail, owner="", attempting_since=None)
        with suppress(StoreUnavailable):  # the queue is closed: the next start finds it
            self._shop.spool.post(Settle(due.mail.id, self._shop.options.node, due.token, free))

    # ---- running ---------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._deadlines.run)
            task_status.started()
            try:
                while True:
                    pause = await self._look()
                    await self._looks.wait_until(trio.current_time() + pause)
            finally:
                # Sessions may still hand in mail: it is for the next start.
                self._draining = self._closed = True
        self._all_idle.set()
        self._ended.set()

    async def drain(self, deadline: float) -> bool:
        """Start no attempt any more; wait until those in flight are settled, at most until `deadline` on Trio's clock.

        Then what is still in flight is cut: it goes back to the queue, or is recorded as uncertain. Returns True when
        nothing had to be cut. A second call may hurry the first.
        """
        self._draining = True
        self._check_idle()
        with trio.CancelScope(deadline=deadline):
            await self._all_idle.wait()
        self._cut = self._cut or bool(self._in_hand)
        self._closed = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            with trio.move_on_after(INTERRUPTED_SECONDS):
                await self._ended.wait()
        return not self._cut

    def _check_idle(self) -> None:
        if self._draining and self._idle == len(self._workers) and not self._kept:
            self._all_idle.set()

    # ---- workers' side (see `worker.Supply`) -----------------------------------------------------

    async def next(self) -> Due:
        """The next mail for the worker that asks."""
        if not self._is_paused():
            due = self._pop()
            if due is not None:
                self._in_hand.add(due.mail.id)
                return due
        self._idle += 1
        self._check_idle()
        try:
            return await self._when_idle.receive()
        except trio.Cancelled:
            self._idle -= 1
            raise

    def watch(self, deadline: float) -> None:
        """A worker began an attempt that must end before `deadline`."""
        self._deadlines.note(deadline)

    def reached(self, destination: str) -> None:
        """One delivery fewer to a destination."""
        load = self._load
        was_full = load.of(destination) >= load.share
        load.give_back(destination)
        if was_full:
            self._agenda.announce(destination)
        if len(self._agenda):
            self._feed()

    def settled(self, due: Due, settlement: Settlement) -> None:
        """A mail is done for this time."""
        if settlement.state is QueueState.DEFERRED:
            self.note_due(settlement.next_attempt_at)
        for insert in settlement.settle.inserts:
            self.note_due(insert.mail.next_attempt_at)
        again = self._let_go(due)
        # The settle was in the store, and the next attempt due, before we heard so. What was claimed before the settle
        # counts this attempt's recipients as untried; the store will give it once more, as it is now.
        if again is not None and again.mail.attempts > due.mail.attempts:
            self._agenda.insist(again)

    def dropped(self, due: Due) -> None:
        """A mail is not ours, unless we claimed it again."""
        again = self._let_go(due)
        if again is not None:
            self._agenda.insist(again)

    def put_back(self, due: Due) -> None:
        """A mail was not tried because the store is away; nor is any other for a while."""
        self._in_hand.discard(due.mail.id)
        self._put_back.append(due)
        self._away_until = trio.current_time() + AWAY_SECONDS
        self._looks.ring()

    def _let_go(self, due: Due) -> Due | None:
        """It is not in hand any more; the same mail as it was claimed again meanwhile, if it was."""
        self._in_hand.discard(due.mail.id)
        if due.content is not None:
            self._budget.give_back(len(due.content))
        return self._claimed_again.pop(due.mail.id, None)

    # ---- feeding ---------------------------------------------------------------------------------

    def _is_paused(self) -> bool:
        return self._draining or self.resting or (self._away_until > -inf and trio.current_time() < self._away_until)

    def _may_start(self) -> bool:
        if self._nursery is None or self._is_paused():
            return False
        return self._idle + self._load.max_workers - len(self._workers) > self._kept

    def _feed(self) -> None:
        """Give waiting workers what is first in line."""
        while self._may_start():
            due = self._pop()
            if due is None:
                return
            self._give(due)

    def _give(self, due: Due) -> None:
        self._in_hand.add(due.mail.id)
        if not self._idle:
            assert self._nursery is not None
            worker = Worker(self._shop, self)
            self._workers.append(worker)
            self._nursery.start_soon(worker.run, due)
            return
        try:
            self._to_idle.send_nowait(due)
            self._idle -= 1
        except trio.WouldBlock:
            # The waiting workers were cancelled a moment ago: this is the end, and the mail is for the next start.
            self._draining = self._closed = True
            self._free(due)

    def _free(self, due: Due) -> None:
        """Take a mail back that no delivery task can have any more; where its attempt was said to begin, it did not."""
        self._in_hand.discard(due.mail.id)
        self._load.give_back(due.mail.destination)
        if due.mail.attempting_since is not None:
            self._hand_back(due)

    def _end_overrun(self, now: float) -> float:
        """End attempts that overrun; see `DeadlineWatch`."""
        for worker in self._workers:
            if worker.deadline <= now:
                worker.overran()
        return min((worker.deadline for worker in self._workers), default=inf)

    # ---- what is due in the store ----------------------------------------------------------------

    def _pop(self) -> Due | None:
        """The first in line; and where few are left of what the store has more of, a reason to look."""
        due = self._agenda.pop()
        if due is not None and (self._excluded or self._crowded):
            self._look_when_low(due.mail)
        return due

    def _look_when_low(self, taken: QueuedMail) -> None:
        destination, priority = taken.destination, taken.priority
        if destination in self._excluded and self._agenda.waiting_for(destination) < LANE_LOW_MAILS:
            self._excluded -= {destination}
            self._looks.ring()
        elif priority in self._crowded and self._agenda.room(priority) >= CLAIM_MAILS:
            self._crowded -= {priority}
            self._looks.ring()

    async def _look(self) -> float:
        """Claim what is due and has room; returns the seconds until the next look."""
        if self._away_until > -inf:
            pause = self._away_until - trio.current_time()
            if pause > 0:
                return pause
            self._return()
        if self.resting:
            for due in self._clear():
                self._hand_back(due)
        if not self._takes_mail or self._shop.spool.in_doubt:
            return BUSY_LOOK_SECONDS
        try:
            pause = await self._claim_due()
        except StoreUnavailable:
            return AWAY_SECONDS
        self._feed()
        return pause

    def _return(self) -> None:
        self._away_until = -inf
        put_back, self._put_back = self._put_back, []
        for due in put_back:
            if due.mail.id in self._agenda:
                self._let_go(due)
            else:
                self._agenda.insist(due)
        self._feed()

    async def _claim_due(self) -> float:
        self._next_due = inf
        due = await self._shop.store.next_due()
        now = self._shop.runtime.clock.wall()
        self._report_waiting(due, now)
        if not self._claim_in_doubt and (due is None or due > now + DUE_SLACK_SECONDS):
            self._behind.clear()
            self._next_due = min(self._next_due, inf if due is None else due)
            return min(self._shop.options.look_seconds, max(0.0, self._next_due - now))
        async with self._claiming:
            claimed = await self._claim(now + DUE_SLACK_SECONDS)
        if claimed:
            return 0.0
        # What is due has no room here: nothing that becomes due meanwhile is a reason to look sooner.
        self._next_due = min(self._next_due, now)
        return BUSY_LOOK_SECONDS

    async def _claim(self, now: float) -> int:
        """Claim, highest priority first, as much as has room; returns how many mails came."""
        agenda = self._agenda
        self._excluded = frozenset(agenda.longest(LANE_FULL_MAILS))
        rooms = {priority: min(CLAIM_MAILS, agenda.room(priority)) for priority in sorted(Priority, reverse=True)}
        self._crowded = frozenset(priority for priority, room in rooms.items() if room < CLAIM_MAILS)
        wanted: list[tuple[Priority | None, int]] = [*rooms.items()]
        if min(rooms.values()) > 0:
            wanted = [(None, min(rooms.values()))]
        claimed = 0
        for priority, limit in wanted:
            if limit <= 0:
                continue
            token = self.token
            claim = Claim(self._shop.options.node, token, now, limit, self._excluded, priority)
            # Whoever never hears of its end may own mails that it does not know of, and that are due to nobody else.
            self._claim_in_doubt = True
            mails = await self._shop.store.claim(claim)
            self._claim_in_doubt = False
            for mail in mails:
                self._take_claimed(Due(mail, token=token))
            claimed += len(mails)
            if priority is None and len(mails) < limit:
                self._behind &= self._excluded
        return claimed

    def _take_claimed(self, due: Due) -> None:
        if due.token != self.token:
            return  # lost meanwhile, and somebody else's by now
        if due.mail.id in self._in_hand:
            self._claimed_again[due.mail.id] = due
        else:
            if due.mail.id in self._agenda:
                # Held and released at another node, which could not tell us: what waits here is out of date.
                self.forget((due.mail.id,))
            self._agenda.insist(due)

    def _report_waiting(self, due: float | None, now: float) -> None:
        """Say how long the longest waiting mail waits; and complain once in a while when that is too long."""
        if trio.current_time() - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = trio.current_time()
        here = self._agenda.oldest_due()
        oldest = min(now if due is None else due, now if here is None else here)
        self._shop.metrics.queue_waiting.set(max(0.0, now - oldest))
        if is_starving(oldest, now) and trio.current_time() - self._starving_reported >= STARVING_AFTER_SECONDS:
            self._starving_reported = trio.current_time()
            self._shop.log.warning("queue.starving", oldest_due_seconds=round(now - oldest), waiting=len(self._agenda))
