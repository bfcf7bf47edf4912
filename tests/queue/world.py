"""The world that the tests of the live queue share; `test_world.py` tests it.

A wall clock on the virtual one, deliveries that follow a script, a store that fails on order.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog
import trio
from attrs import field, frozen
from structlog.testing import LogCapture
from structlog.typing import FilteringBoundLogger

from elemta.delivery.base import AttemptStopped, Job
from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Notify, Priority, Recipient
from elemta.mail.outcome import Deferred, Delivered, Failed, Outcome, Peer
from elemta.mail.reply import Reply
from elemta.observe.metrics import Metrics
from elemta.observe.watch import Watch
from elemta.plugins.chain import Chain
from elemta.queue.options import QueueOptions
from elemta.queue.schedule import RetryPolicy
from elemta.queue.service import QueueService
from elemta.queue.submission import Submission
from elemta.runtime.ids import SeededIds
from elemta.runtime.threads import InlineThreads
from elemta.runtime.world import Runtime
from elemta.storage.base import Begin, Change, Claim, Insert, Result, Settle, SharedStore
from elemta.storage.memory import MemoryStore
from elemta.storage.records import UNTRIED, ContentRef, QueuedMail

#: The wall clock when Trio's virtual clock stands at 0.
EPOCH = 1_700_000_000.0
PEER = Peer("mx.example.org", "192.0.2.7:25")
TAKEN = Delivered(Reply(250, "2.0.0", "taken"), PEER)
BUSY = Deferred(Reply(451, "4.2.1", "mailbox busy"), PEER)
LOST = Deferred(Reply(451, "4.4.2", "connection lost after the final dot"), PEER, uncertain=True)
REFUSED = Failed(Reply(550, "5.1.1", "no such user"), PEER)
#: Room of each node; tests make it small to see what happens without room.
waiting_mails = 10_000
CONTENT = b"Subject: greetings\r\n\r\nhello\r\n"

#: What a scripted delivery does with a job: outcomes, or something that makes them.
Answer = Outcome | Sequence[Outcome] | Callable[[Job], Awaitable[Sequence[Outcome]]]
#: What a faulty store does instead of a commit.
Fault = Callable[[Sequence[Change]], Awaitable[list[Result]]]


class VirtualWall:
    """A wall clock that follows Trio's, and steps when told."""

    def __init__(self) -> None:
        self.stepped = 0.0

    def wall(self) -> float:
        return EPOCH + trio.current_time() + self.stepped


class Middle(random.Random):
    """Chance that always falls in the middle: retries come exactly when the schedule says."""

    def random(self) -> float:
        return 0.5


@frozen
class Call:
    """One delivery that was asked for: when (Trio's clock), which mail, to whom."""

    at: float
    id: str
    to: tuple[str, ...]
    job: Job = field(eq=False, repr=False)


class ScriptedDelivery:
    """Delivers as its script says, by recipient or by destination; without a script it delivers everything.

    An answer is used up by each call, the last one repeats. `seconds` pass before the gate.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.scripts: dict[str, list[Answer]] = {}
        #: What the routes say, by domain or name.
        self.priorities: dict[str, Priority] = {}
        self.calls: list[Call] = []
        self.received: list[tuple[str, str, bytes]] = []
        self.running = 0
        self.most_running: dict[str, int] = {}
        self._running: dict[str, int] = {}

    def script(self, whom: str, *answers: Answer) -> None:
        self.scripts[whom] = list(answers)

    def destination(self, address: Address, route: str = "") -> str:
        return route or address.domain

    def priority_for(self, address: Address, route: str = "") -> Priority | None:
        return self.priorities.get(route or address.domain)

    def times(self, queue_id: str | None = None) -> list[float]:
        """When deliveries were asked for, rounded to milliseconds."""
        return [round(call.at, 3) for call in self.calls if queue_id in (None, call.id)]

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        to = tuple(str(recipient.address) for recipient in job.envelope.recipients)
        destination = job.envelope.recipients[0].address.domain if to else ""
        self.calls.append(Call(trio.current_time(), job.id, to, job))
        self.running += 1
        running = self._running[destination] = self._running.get(destination, 0) + 1
        self.most_running[destination] = max(running, self.most_running.get(destination, 0))
        try:
            answer = self._answer(destination, to)
            if callable(answer):
                return await answer(job)
            await trio.sleep(self.seconds)
            if not await job.gate():
                raise AttemptStopped
            outcomes = answer if isinstance(answer, Sequence) else [answer] * len(to)
            content = await job.content.read(0, job.content.size)
            self.received += [(job.id, each, content) for each, o in zip(to, outcomes, strict=True) if o == TAKEN]
            return outcomes
        finally:
            self.running -= 1
            self._running[destination] -= 1

    def _answer(self, destination: str, to: Sequence[str]) -> Answer:
        for whom in (*to, destination):
            answers = self.scripts.get(whom)
            if answers:
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return TAKEN


class FaultyStore(MemoryStore):
    """A `MemoryStore` whose next commits go as `faults` says, one each; afterwards they go well. Batches are kept.

    `claimed` counts the mails that claims returned; with `away` every verb raises it.
    """

    def __init__(self) -> None:
        super().__init__(VirtualWall())
        self.faults: list[Fault] = []
        self.batches: list[tuple[float, list[Change]]] = []
        self.claims: list[Claim] = []
        self.claimed = 0
        self.reads = 0
        self.away: Exception | None = None

    def changes(self) -> list[list[Change]]:
        return [changes for _, changes in self.batches]

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        self.batches.append((trio.current_time(), list(batch)))
        self._check()
        if self.faults:
            return await self.faults.pop(0)(batch)
        return await super().commit(batch)

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        self._check()
        self.claims.append(claim)
        mails = await super().claim(claim)
        self.claimed += len(mails)
        return mails

    async def next_due(self) -> float | None:
        self._check()
        return await super().next_due()

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        self._check()
        self.reads += 1
        return await super().read(ref, offset, limit)

    def _check(self) -> None:
        if self.away is not None:
            raise self.away

    # ---- faults ----

    def fails(self, error: Exception, *, landed: bool = False) -> Fault:
        """The commit raises; `landed` says whether it was durable all the same."""

        async def fault(batch: Sequence[Change]) -> list[Result]:
            if landed:
                await super(FaultyStore, self).commit(batch)
            raise error

        return fault

    def waits(self, event: trio.Event) -> Fault:
        """The commit goes well, but only once the event is set."""

        async def fault(batch: Sequence[Change]) -> list[Result]:
            await event.wait()
            return await super(FaultyStore, self).commit(batch)

        return fault

    def takes(self, seconds: float) -> Fault:
        """The commit goes well, and takes its time."""

        async def fault(batch: Sequence[Change]) -> list[Result]:
            await trio.sleep(seconds)
            return await super(FaultyStore, self).commit(batch)

        return fault

    def breaks_on(self, queue_id: str, error: Exception) -> Fault:
        """The commit raises what no store may raise, when this mail is in the batch."""

        async def fault(batch: Sequence[Change]) -> list[Result]:
            self.faults.append(fault)
            if any(isinstance(change, Insert) and change.mail.id == queue_id for change in batch):
                raise error
            return await super(FaultyStore, self).commit(batch)

        return fault


class World:
    """One node with everything around it."""

    def __init__(
        self,
        store: FaultyStore | None = None,
        *,
        shared: SharedStore | None = None,
        plugins: Chain | None = None,
        **options: Any,
    ) -> None:
        """`shared` is the node's way to a store that others use as well; `store` is the only node's own."""
        self.clock = VirtualWall()
        self.store = store or FaultyStore()
        self.delivery = ScriptedDelivery()
        self.ids = SeededIds(self.clock, random.Random(7))
        self.runtime = Runtime(self.clock, InlineThreads(), self.ids, Middle())
        self.captured = LogCapture()
        self.log = capturing(self.captured)
        self.metrics = Metrics()
        given: dict[str, Any] = {
            "node": "one",
            "hostname": "mail.example.com",
            "retry": RetryPolicy((60.0, 300.0), 3),
            "waiting_mails": waiting_mails,
            "lease": 60.0 if shared else None,
        } | options
        self.options = QueueOptions(**given)
        self.service = QueueService(
            shared or self.store,
            self.delivery,
            runtime=self.runtime,
            options=self.options,
            watch=Watch(self.log, self.metrics),
            plugins=plugins,
        )

    def running(self) -> AbstractAsyncContextManager[trio.Nursery]:
        """The service runs inside; at the end it is cancelled."""
        return running(self.service)

    def events(self, name: str) -> list[Any]:
        return [event for event in self.captured.entries if event["event"] == name]

    def figure(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def submit(self, *to: str, sender: str | None = "a@source.example", **given: Any) -> str:
        """Submit a mail and return its id."""
        queue_id = self.ids.new_id()
        seconds = given.pop("timeout", 60.0)
        await self.service.submit(submission(queue_id, *to, sender=sender, **given), timeout=seconds)
        return queue_id


@asynccontextmanager
async def running(service: QueueService) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield nursery
        nursery.cancel_scope.cancel()


def capturing(capture: LogCapture) -> FilteringBoundLogger:
    log: FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger("debug")
    ).bind()
    return log


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def submission(
    queue_id: str,
    *to: str,
    sender: str | None = "a@source.example",
    content: bytes = CONTENT,
    priority: Priority = Priority.NORMAL,
    notify: Notify | None = None,
) -> Submission:
    envelope = Envelope(
        None if sender is None else address(sender),
        tuple(Recipient(address(each), notify) for each in to or ("b@dest.example",)),
    )
    return Submission(queue_id, envelope, ContentRef(queue_id, len(content)), content, priority)


def mail(number: int, destination: str = "dest.example", *, owner: str = "", **given: Any) -> QueuedMail:
    """A mail as it lies in the store; ids are in order of their numbers."""
    queue_id = f"{number:022}"
    fields: dict[str, Any] = {
        "id": queue_id,
        "origin_id": queue_id,
        "content": ContentRef(queue_id, len(CONTENT)),
        "envelope": Envelope(Address("a", "source.example"), (Recipient(Address("b", destination)),)),
        "progress": (UNTRIED,),
        "destination": destination,
        "received_at": EPOCH,
        "next_attempt_at": EPOCH,
        "expires_at": EPOCH + 172_800,
        "owner": owner,
    }
    return QueuedMail(**(fields | given))


def insert(number: int, destination: str = "dest.example", **given: Any) -> Insert:
    return Insert(mail(number, destination, **given), CONTENT)


def begin(number: int, owner: str = "one", token: int = 1) -> Begin:
    return Begin(f"{number:022}", owner, token, EPOCH)


def settle(number: int, settled: QueuedMail | None = None, owner: str = "one", token: int = 1) -> Settle:
    return Settle(f"{number:022}", owner, token, settled)
