"""The queue as the other rooms see it.

Mail goes in, operators look and give orders, the server drains. What is not here: receiving (`inbound`), or how an
order reached us (`web`, `supervisor`).

Life: `run` opens the store, joins it (what was accepted and not finished is picked up again), delivers until it is
cancelled, then leaves. `drain` ends the deliveries before that, while mail is still taken. However `run` ends, its
spool ends last: what workers and sessions handed over is committed first.
Failures raised: `StoreUnavailable`, `StoreFull`, `SubmissionTimeout`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import evolve

from elemta.delivery.base import Delivery
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.outcome import Attempt
from elemta.observe.watch import Watch
from elemta.plugins.chain import Chain
from elemta.queue.agenda import Room
from elemta.queue.dispatcher import Dispatcher
from elemta.queue.membership import LEAVE_SECONDS, Membership
from elemta.queue.options import QueueOptions
from elemta.queue.priority import first_spoken
from elemta.queue.spool import Spool
from elemta.queue.submission import Submission
from elemta.queue.upkeep import keep_house, measure
from elemta.queue.workshop import Workshop
from elemta.runtime.world import Runtime
from elemta.storage.base import ContentWriter, Filter, Insert, Order, Ordered, QueueStore, Result
from elemta.storage.records import UNTRIED, ContentRef, QueuedMail, QueueState

#: Ids written to the log in one event.
LOGGED_IDS = 100


class QueueService:
    """One node's queue; shared with others where the options say a lease."""

    def __init__(
        self,
        store: QueueStore,
        delivery: Delivery,
        *,
        runtime: Runtime,
        options: QueueOptions,
        watch: Watch,
        plugins: Chain | None = None,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._log = watch.log
        self._spool = Spool(store, log=watch.log, metrics=watch.metrics)
        self._shop = Workshop(store, self._spool, delivery, runtime, options, watch.log, watch.metrics, plugins)
        self._dispatcher = Dispatcher(self._shop)
        self._membership = Membership(self._shop, self._dispatcher)

    # ---- life ------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join, then deliver until cancelled. Raises `StoreUnavailable` when the store cannot be opened or joined, but
        not for a shared one that is only away."""
        try:
            async with self._spooling(), trio.open_nursery() as nursery:
                await nursery.start(self._dispatcher.run)
                await nursery.start(self._membership.run)
                nursery.start_soon(keep_house, self._shop)
                task_status.started()
        finally:
            with trio.move_on_after(LEAVE_SECONDS, shield=True):
                await self._membership.leave()

    @asynccontextmanager
    async def _spooling(self) -> AsyncIterator[None]:
        """The spool around everything that uses it: cancelled from outside, it ends only when they have."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_spool)
            try:
                yield
            finally:
                self._spool.close()

    async def _run_spool(self) -> None:
        with trio.CancelScope(shield=True):
            await self._spool.run()

    async def drain(self, deadline: float) -> bool:
        """Start no attempt any more; return when those in flight are settled, or were cut at `deadline`.

        `deadline` is on Trio's clock. True when nothing had to be cut. Mail is still taken until `run` is cancelled; it
        is tried after the next start.
        """
        in_flight = self._dispatcher.in_flight
        finished = await self._dispatcher.drain(deadline)
        self._log.info("queue.drained", in_flight=in_flight, cut=not finished)
        return finished

    @property
    def trouble(self) -> str:
        """Why new mail is not taken just now, as a sentence; empty when it is."""
        if self._membership.absence:
            return f"this node is not in the queue: {self._membership.absence}"
        return "the store fails or hangs; new mail is answered 451" if self._spool.failing else ""

    @property
    def resting(self) -> bool:
        """True while an operator wants this node to take no part in deliveries."""
        return self._dispatcher.resting

    def adopt(self, delivery: Delivery, options: QueueOptions, plugins: Chain | None) -> None:
        """Go on with these, from the next step of each mail on.

        `node`, `hostname`, `max_workers`, `ageing`, `lease` and what follows them are as they were.
        """
        shop = self._shop
        shop.delivery, shop.options, shop.plugins = delivery, options, plugins

    def asks(self, plugins: Chain) -> bool:
        """Whether an attempt is running about which these plugins are asked."""
        return self._dispatcher.asks(plugins)

    # ---- mail in ---------------------------------------------------------------------------------

    async def stage(self) -> ContentWriter:
        """Begin to stage large content. Raises `StoreUnavailable`, `StoreFull`."""
        return await self._store.stage()

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """At most `limit` octets of content that is staged. Raises `ContentMissing`, `StoreUnavailable`."""
        return await self._store.read(ref, offset, limit)

    async def submit(self, submission: Submission, *, timeout: float) -> None:  # noqa: ASYNC109  # a scope costs 12 µs
        """Take a mail; it is durable when this returns. `timeout` in seconds.

        Raises `StoreUnavailable`, `StoreFull`, `SubmissionTimeout`; then, or when cancelled, the mail is not in the
        queue, or will be withdrawn from it before it is tried.
        """
        dispatcher = self._dispatcher
        mails = self._mails(submission)
        token = dispatcher.token
        inserts = [Insert(mail, None if at else submission.content, token or None) for at, mail in enumerate(mails)]
        try:
            results = await self._spool.insert(inserts, deadline=trio.current_time() + timeout)
        except BaseException:
            for mail in mails:
                dispatcher.cancel(mail)
            raise
        if submission.held:
            return
        for mail, result in zip(mails, results, strict=True):
            dispatcher.offer(mail, submission.content, token=None if result is Result.FENCED else token)

    def _mails(self, submission: Submission) -> list[QueuedMail]:
        """A mail for each destination; the first has the id that the client is told."""
        now = self._runtime.clock.wall()
        envelope = submission.envelope
        recipients = envelope.recipients
        if len(recipients) == 1:
            destination = self._shop.delivery.destination(recipients[0].address, submission.route)
            return [self._mail(submission, submission.id, envelope, destination, now)]
        lanes: dict[str, list[Recipient]] = {}
        for recipient in recipients:
            lanes.setdefault(self._shop.delivery.destination(recipient.address, submission.route), []).append(recipient)
        mails: list[QueuedMail] = []
        for destination, chosen in lanes.items():
            queue_id = self._runtime.ids.new_id() if mails else submission.id
            own = envelope if len(lanes) == 1 else evolve(envelope, recipients=tuple(chosen))
            mails.append(self._mail(submission, queue_id, own, destination, now))
        return mails

    def _mail(
        self, submission: Submission, queue_id: str, envelope: Envelope, destination: str, now: float
    ) -> QueuedMail:
        # Ours from the first moment where there is room to try it at once; anybody's otherwise.
        asked = self._shop.delivery.priority_for(envelope.recipients[0].address, submission.route)
        priority = first_spoken(submission.priority, asked)
        held = submission.held
        room = Room.NONE if held else self._dispatcher.reserve(priority, destination)
        return QueuedMail(
            id=queue_id,
            origin_id=submission.id,
            content=submission.ref,
            envelope=envelope,
            progress=(UNTRIED,) * len(envelope.recipients),
            destination=destination,
            received_at=now,
            next_attempt_at=now,
            expires_at=now + self._shop.options.max_queue_time,
            priority=priority,
            owner="" if room is Room.NONE else self._shop.options.node,
            attempting_since=now if room is Room.TASK else None,
            state=QueueState.HELD if held else QueueState.ACTIVE,
            reason=held,
            origin=submission.origin,
            annotations=submission.annotations,
        )

    # ---- for operators ---------------------------------------------------------------------------

    async def list(self, chosen: Filter, limit: int, after: str = "") -> Sequence[QueuedMail]:
        """Mails in order of id, beginning after the id `after`."""
        return await self._store.list(chosen, limit, after)

    async def get(self, queue_id: str) -> QueuedMail | None:
        """One mail."""
        return await self._store.get(queue_id)

    async def attempts(self, queue_id: str) -> Sequence[Attempt]:
        """The attempts of a mail, oldest first, also after it left the queue."""
        return await self._store.attempts(queue_id)

    async def counts(self) -> Mapping[QueueState, int]:
        """How many mails stand in each state; also set in the metrics."""
        return await measure(self._shop)

    async def next_due(self) -> float | None:
        """When the next mail that waits in the store is due, UTC in seconds since 1970."""
        return await self._store.next_due()

    async def read_content(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """A piece of a mail's content. Raises `ContentMissing`."""
        return await self._store.read(ref, offset, limit)

    async def apply(self, order: Order) -> Ordered:
        """Carry out an operator's order on mails that are not in flight. Raises `StoreUnavailable`."""
        async with self._dispatcher.holding_claims(), self._spool.between_commits():
            ordered = await self._store.apply(order)
            self._dispatcher.forget(frozenset(ordered.changed))
        self._log.info(
            "queue.ordered",
            verb=order.verb.value,
            changed=len(ordered.changed),
            in_flight=len(ordered.in_flight),
            reason=order.reason,
            ids=list(ordered.changed[:LOGGED_IDS]),
        )
        return ordered
