"""One delivery task: it tries one mail after another.

What is not here: which mail comes next (`queue.dispatcher`), how a mail travels (`delivery`), or what follows from the
outcomes (`queue.settlement`).

The road of one attempt: the mail says already that it began, or `Begin` goes into the spool as the attempt starts, so
that its commit runs while we talk to the remote; the gate waits for it before the point of no return (with a commit of
2 ms and a dialogue of 2 ms, an attempt takes 4 ms so and 10 ms when the gate only begins then). Then the outcomes
become one `Settle`, and the task waits until that is durable. Nothing that delivery raises ends the task: what is no
outcome becomes a deferral.
"""

from collections.abc import Sequence
from math import inf
from typing import Protocol

import trio
from attrs import evolve

from elemta.delivery.base import AttemptStopped, Job
from elemta.mail.envelope import Envelope
from elemta.mail.outcome import Deferred, Delivered, Outcome
from elemta.mail.reply import Reply
from elemta.plugins.api import Stage
from elemta.plugins.chain import Chain
from elemta.plugins.verdicts import ROUTE_KEY
from elemta.queue.agenda import Due
from elemta.queue.content import StoredContent
from elemta.queue.plugged import Held, PluggedAttempt
from elemta.queue.record import Recorder
from elemta.queue.schedule import pending
from elemta.queue.settlement import Settlement, Settler, Tried
from elemta.queue.ticket import Ticket
from elemta.queue.workshop import Workshop
from elemta.storage.base import Begin, ContentMissing, Result, Settle, StoreUnavailable
from elemta.storage.records import QueuedMail, QueueState, RecipientStatus

#: For an attempt that the server's end interrupts, to hand its state to the spool.
INTERRUPTED_SECONDS = 5.0

#: Local error in processing, RFC 5321 §4.2.3 and RFC 3463 §3.4 (other or undefined mail system status).
_OUR_DEFECT = Reply(451, "4.3.0", "the delivery broke off with an internal error")
_HELD = Reply(451, "4.7.1", "held by a filter of this server")
_NO_CONTENT = Reply(451, "4.3.0", "the content cannot be read")
#: Bad connection, RFC 3463 §3.5.
_OVERRAN = Reply(451, "4.4.2", "the attempt took too long")
_INTERRUPTED = Reply(451, "4.4.2", "the server stopped while the last reply was awaited")


class Supply(Protocol):
    """What a worker asks of the dispatcher."""

    @property
    def token(self) -> int:
        """The node's present token; mails that are held under another one are not ours any more."""
        ...

    async def next(self) -> Due:
        """The next mail to try; it holds a place in its destination's share until `reached`."""
        ...

    def watch(self, deadline: float) -> None:
        """A worker's deadline has moved."""
        ...

    def reached(self, destination: str) -> None:
        """The delivery is over, whatever came of it; another may take its place."""
        ...

    def settled(self, due: Due, settlement: Settlement) -> None:
        """What came of it is durable."""
        ...

    def dropped(self, due: Due) -> None:
        """The mail is not ours to try any more."""
        ...

    def put_back(self, due: Due) -> None:
        """The store is away: nothing was delivered; try again when it is back."""
        ...


class Worker:
    """Tries mails until it is cancelled. `deadline` is on Trio's clock, infinite while no delivery runs."""

    def __init__(self, shop: Workshop, supply: Supply) -> None:
        self._shop = shop
        self._supply = supply
        self._settler = Settler(shop)
        self._plugged: PluggedAttempt | None = None
        self._recorder = Recorder(shop.log, shop.metrics)
        self._scope = trio.CancelScope()
        self._late = False
        self.deadline = inf
        self._forget_attempt()

    def _forget_attempt(self) -> None:
        self._due: Due | None = None
        self._begin: Ticket | None = None
        self._content: StoredContent | None = None
        self._outcomes: Sequence[Outcome] | None = None
        #: A plugin wants the mail held.
        self._held: Held | None = None
        #: The gate was passed: from here on nobody can say what the remote has.
        self._opened = False
        self._store_away = False
        self._not_ours = False
        self._posted = False
        self._started_at = 0.0
        self._started = 0.0

    @property
    def plugins(self) -> Chain | None:
        """The plugins that are asked about the attempt; None where there is no attempt, or nothing to ask."""
        return None if self._plugged is None else self._plugged.chain

    def overran(self) -> None:
        """End the attempt: its deadline is past."""
        self.deadline = inf
        self._late = True
        self._scope.cancel()

    async def run(self, first: Due) -> None:
        """Try `first`, then what the dispatcher supplies."""
        self._due = first
        try:
            while True:
                self._late = False
                with trio.CancelScope() as self._scope:
                    await self._serve()
                # One scope for all attempts until one overran: a scope each would cost 12 µs a mail.
                if self._due is not None:
                    await self._settle(self._due, self._outcomes or self._deferred(self._due.mail, _OVERRAN))
        except BaseException:
            with trio.move_on_after(INTERRUPTED_SECONDS, shield=True):
                await self._interrupted()
            raise

    async def _serve(self) -> None:
        while not self._late:
            due = self._due
            self._plugged = None
            if due is None:
                due = self._due = await self._supply.next()
            outcomes = self._outcomes = await self._deliver(due)
            if outcomes is None:
                self._stopped(due)
            elif self._held is not None:
                await self._hold(due, outcomes, self._held.reason)
            elif not self._late:
                plugged = self._plugged
                await self._settle(due, outcomes)
                if plugged is not None:
                    await plugged.after(outcomes)

    # ---- the delivery ----------------------------------------------------------------------------

    async def _deliver(self, due: Due) -> Sequence[Outcome] | None:
        """One outcome a pending recipient; None when the attempt stopped before anything was delivered."""
        mail, shop = due.mail, self._shop
        self._started_at = shop.runtime.clock.wall()
        self._started = trio.current_time()
        self._content = StoredContent(shop.store, mail.content, due.content)
        route = mail.annotations.get(ROUTE_KEY, "") if mail.annotations else ""
        job = Job(mail.id, still_pending(mail), self._content, self._gate, route)
        try:
            if not job.envelope.recipients:
                return ()
            if mail.attempting_since is None:
                self._begin = shop.spool.post(Begin(mail.id, shop.options.node, due.token, self._started_at))
            self.deadline = self._started + shop.options.attempt_seconds
            self._supply.watch(self.deadline)
            outcomes = await self._plugins_say(mail, job, self._content) or await shop.delivery.deliver(job)
            if len(outcomes) == len(job.envelope.recipients):
                return outcomes
            shop.log.error("delivery.defect", queue_id=mail.id, outcomes=len(outcomes), destination=mail.destination)
            return self._deferred(mail, _OUR_DEFECT)
        except AttemptStopped:
            return None if self._store_away or self._not_ours else self._defect(mail, "stopped without the gate")
        except StoreUnavailable:
            self._store_away = True
            return self._deferred(mail, _NO_CONTENT) if self._opened else None
        except ContentMissing as error:
            shop.log.error("delivery.content_missing", queue_id=mail.id, error=str(error))
            return self._deferred(mail, _NO_CONTENT)
        except Exception as error:
            return self._defect(mail, error)
        except BaseExceptionGroup as group:
            return self._defect_while_cancelled(mail, group)
        finally:
            self.deadline = inf
            self._supply.reached(mail.destination)

    async def _plugins_say(self, mail: QueuedMail, job: Job, content: StoredContent) -> Sequence[Outcome] | None:
        """What comes of the attempt where plugins do not let it be made."""
        chain = self._shop.plugins
        if chain is None or not (chain.has(Stage.PRE_DELIVERY) or chain.has(Stage.POST_DELIVERY)):
            return None
        self._plugged = PluggedAttempt(chain, mail, job, content)
        found = await self._plugged.before()
        if isinstance(found, Held):
            self._held = found
            return self._deferred(mail, _HELD)
        return found

    async def _gate(self) -> bool:
        """True once the attempt is marked durably, and the mail is still ours."""
        if self._begin is None:
            self._opened = self._due is not None and self._due.token == self._supply.token
            self._not_ours = not self._opened
            return self._opened
        try:
            (result,) = await self._begin.wait()
        except StoreUnavailable:
            self._store_away = True
            return False
        self._opened = result is Result.APPLIED
        self._not_ours = not self._opened
        return self._opened

    def _deferred(self, mail: QueuedMail, reply: Reply) -> Sequence[Outcome]:
        """All recipients to be tried again; past the gate nobody knows what arrived."""
        return (Deferred(reply, uncertain=self._opened),) * len(pending(mail))

    def _defect(self, mail: QueuedMail, error: Exception | str) -> Sequence[Outcome]:
        exc_info = error if isinstance(error, Exception) else None
        self._shop.log.error(
            "delivery.defect", queue_id=mail.id, destination=mail.destination, error=str(error), exc_info=exc_info
        )
        return self._deferred(mail, _OUR_DEFECT)

    def _defect_while_cancelled(self, mail: QueuedMail, group: BaseExceptionGroup[BaseException]) -> Sequence[Outcome]:
        """A cancelled delivery that also raised: the error is logged, the cancellation goes on its way."""
        cancelled, rest = group.split(trio.Cancelled)
        if cancelled is None or not isinstance(rest, ExceptionGroup):
            raise group
        self._defect(mail, rest)
        raise cancelled

    # ---- what follows ----------------------------------------------------------------------------

    def _stopped(self, due: Due) -> None:
        """Nothing was delivered, and nothing is recorded."""
        not_ours = self._not_ours
        self._forget_attempt()
        if not_ours:
            self._shop.log.info("delivery.stopped", queue_id=due.mail.id, reason="deleted, held or changed meanwhile")
            self._supply.dropped(due)
        else:
            self._supply.put_back(due)

    async def _settle(self, due: Due, outcomes: Sequence[Outcome]) -> None:
        """Make durable what came of the attempt, then let go of the mail."""
        mail, shop = due.mail, self._shop
        assert self._content is not None
        duration = trio.current_time() - self._started
        tried = Tried(mail, shop.options.node, due.token, self._started_at, duration, self._content)
        try:
            settlement = await self._settler.settle(tried, outcomes)
        except Exception as error:
            shop.log.error("queue.defect", queue_id=mail.id, exc_info=error)
            await self._hold(due, outcomes, "our own error while its attempt was settled")
            return
        self._posted = True
        result = await shop.spool.commit(settlement.settle)
        if result is Result.REFUSED:
            await self._hold(due, outcomes, "the store refused what came of its attempt")
            return
        self._forget_attempt()
        if result is Result.APPLIED:
            self._recorder.settled(tried, settlement)
            self._supply.settled(due, settlement)
        else:
            shop.log.warning("queue.settled_elsewhere", queue_id=mail.id, result=result.value)
            self._supply.dropped(due)

    async def _hold(self, due: Due, outcomes: Sequence[Outcome], reason: str) -> None:
        """The last resort, or what a plugin wants: an operator decides. What was delivered is marked as such."""
        options = self._shop.options
        mail = due.mail if self._held is None else self._held.noted(due.mail)
        progress = list(mail.progress)
        for index, outcome in zip(pending(mail), outcomes, strict=True):
            # No replies: they may be what could not be kept. What failed is pending, so that its report is not lost.
            if isinstance(outcome, Delivered):
                progress[index] = evolve(progress[index], status=RecipientStatus.DELIVERED)
        held = evolve(mail, state=QueueState.HELD, reason=reason, progress=tuple(progress), owner="")
        result = await self._shop.spool.commit(Settle(mail.id, options.node, due.token, held))
        tell = self._shop.log.error if self._held is None else self._shop.log.info
        tell("queue.held", queue_id=mail.id, reason=reason, result=result.value)
        self._forget_attempt()
        self._supply.dropped(due)

    async def _interrupted(self) -> None:
        """The server ends while a mail is in hand: what is known is kept, what is not is said to be uncertain."""
        due = self._due
        if due is None or self._posted:
            return
        if self._outcomes is not None:
            await self._settle(due, self._outcomes)
        elif self._opened:
            await self._settle(due, self._deferred(due.mail, _INTERRUPTED))
        else:
            free = evolve(due.mail, owner="", attempting_since=None)
            self._shop.spool.post(Settle(due.mail.id, self._shop.options.node, due.token, free))


def still_pending(mail: QueuedMail) -> Envelope:
    """The envelope with only the recipients that are still to be tried."""
    if len(mail.progress) == 1 and mail.progress[0].status is RecipientStatus.PENDING:
        return mail.envelope
    recipients = mail.envelope.recipients
    tried = pending(mail)
    if len(tried) == len(recipients):
        return mail.envelope
    return evolve(mail.envelope, recipients=tuple(recipients[index] for index in tried))
