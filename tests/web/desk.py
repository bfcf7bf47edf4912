"""What the tests of the web room and of its commands share: a store with mails, and the applications over it."""

import io
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from starlette.types import ASGIApp

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.outcome import Attempt, AttemptResult, Peer
from elemta.mail.reply import Reply
from elemta.observe.log import make_logger
from elemta.observe.metrics import Metrics
from elemta.runtime.ids import SeededIds
from elemta.storage.base import Begin, Claim, Filter, Insert, Order, Ordered, Settle
from elemta.storage.inbox import MemoryInbox
from elemta.storage.memory import MemoryStore
from elemta.storage.records import UNTRIED, ContentRef, QueuedMail, QueueState
from elemta.web.app import control_app
from elemta.web.base import PREFIX, Identity
from elemta.web.control import Control

if TYPE_CHECKING:
    import httpx

#: UTC in seconds since 1970: 2027-01-15T08:00:00Z.
START = 1_800_000_000.0
OCTETS = b"Subject: a test\r\n\r\nHello\r\n"
LATER = Reply(451, "4.7.1", "greylisted, come again")


class HandClock:
    """A clock that a test sets by hand."""

    def __init__(self) -> None:
        self.now = START

    def wall(self) -> float:
        return self.now


class Checks:
    """Health as a test says it."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {"listeners": "", "store": "", "disk": ""}

    def checks(self) -> Mapping[str, str]:
        return self.found


class Desk:
    """A `MemoryStore` as the queue of an application."""

    def __init__(self, *, running: bool = True) -> None:
        self.clock = HandClock()
        self.store = MemoryStore(self.clock)
        self.inbox: Any = MemoryInbox()
        self.health = Checks()
        self.metrics = Metrics()
        self.counted = 0
        self.log = io.TextIOWrapper(io.BytesIO())
        self._ids = SeededIds(self.clock, random.Random(11))
        self.control = Control(
            queue=self,
            store=self.store,
            inbox=self.inbox,
            health=self.health,
            metrics=self.metrics,
            clock=self.clock,
            identity=Identity("mail.example.com", START - 60, running=running),
            log=make_logger("debug", "json", self.log),
        )
        self.app = control_app(self.control)

    def share(self) -> None:
        """Let the queue be one that several nodes share."""
        self.control = attrs.evolve(self.control, shared=self.store)
        self.app = control_app(self.control)

    def use_inbox(self, inbox: Any) -> None:
        """Answer from another inbox, or from none."""
        self.inbox = inbox
        self.control = attrs.evolve(self.control, inbox=inbox)
        self.app = control_app(self.control)

    # ---- QueueAdmin, as `queue.service` does it ----------------------------------------------

    async def list(self, chosen: Filter, limit: int, after: str = "") -> Sequence[QueuedMail]:
        return await self.store.list(chosen, limit, after)

    async def get(self, queue_id: str) -> QueuedMail | None:
        return await self.store.get(queue_id)

    async def attempts(self, queue_id: str) -> Sequence[Attempt]:
        return await self.store.attempts(queue_id)

    async def counts(self) -> Mapping[QueueState, int]:
        self.counted += 1
        return await self.store.counts()

    async def read_content(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        return await self.store.read(ref, offset, limit)

    async def apply(self, order: Order) -> Ordered:
        return await self.store.apply(order)

    # ---- what lies there ---------------------------------------------------------------------

    def new_id(self) -> str:
        """Ids in the order of their making."""
        self.clock.now += 0.002
        return self._ids.new_id()

    async def add(self, octets: bytes = OCTETS, **changes: Any) -> QueuedMail:
        """Queue a mail for one recipient, due an hour after the start."""
        queue_id = self.new_id()
        plain = QueuedMail(
            id=queue_id,
            origin_id=queue_id,
            content=ContentRef(queue_id, len(octets)),
            envelope=Envelope(Address("sender", "example.org"), (Recipient(Address("someone", "example.net")),)),
            progress=(UNTRIED,),
            destination="example.net",
            received_at=START,
            next_attempt_at=START + 3600,
            expires_at=START + 86_400,
            state=QueueState.DEFERRED,
        )
        mail = attrs.evolve(plain, **changes)
        await self.store.commit([Insert(mail, octets)])
        return mail

    async def deferred(self, reply: Reply = LATER) -> QueuedMail:
        """A mail that was tried once, by a node that settled it."""
        mail = await self.add(next_attempt_at=START)
        node, token = await self._node()
        (claimed,) = await self.store.claim(Claim(node, token, self.clock.now, 1))
        progress = (attrs.evolve(UNTRIED, reply=reply),)
        left = attrs.evolve(
            claimed, state=QueueState.DEFERRED, owner="", attempts=1, next_attempt_at=START + 300, progress=progress
        )
        tried = Attempt(
            START, 1.25, "someone@example.net", AttemptResult.DEFERRED, reply, Peer("mx.example.net", "192.0.2.1:25")
        )
        await self.store.commit([Settle(claimed.id, node, token, left, (tried,))])
        assert claimed.id == mail.id
        return left

    async def in_flight(self) -> QueuedMail:
        """A mail whose attempt has passed the point of no return."""
        mail = await self.add(next_attempt_at=START)
        node, token = await self._node()
        (claimed,) = await self.store.claim(Claim(node, token, self.clock.now, 1))
        await self.store.commit([Begin(claimed.id, node, token, START + 5)])
        assert claimed.id == mail.id
        return mail

    async def _node(self) -> tuple[str, int]:
        """A node of its own, for joining again would give up what another test step claimed."""
        name = self.new_id()
        return name, (await self.store.join(name, START)).token

    async def states(self) -> Sequence[str]:
        """The states of all mails, in order of id."""
        return [mail.state.value for mail in await self.store.list(Filter(), 1000)]

    def logged(self) -> str:
        """What was logged."""
        self.log.flush()
        buffer = self.log.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


@asynccontextmanager
async def asking(app: ASGIApp, base: str = "http://localhost") -> AsyncIterator["httpx.AsyncClient"]:
    """A client of an application."""
    import httpx

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:
        yield client


def over_tcp(address: str) -> "httpx.AsyncClient":
    """A client of a server at `host:port`."""
    import httpx

    return httpx.AsyncClient(base_url=f"http://{address}")


def over_unix(path: Path | str) -> "httpx.AsyncClient":
    """A client of a server at a unix socket."""
    import httpx

    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://elemta")


async def ask(desk: Desk, path: str, method: str = "GET", **options: Any) -> "httpx.Response":
    """One request to the operators' pages."""
    async with asking(desk.app, f"http://localhost{PREFIX}") as client:
        return await client.request(method, path, **options)


async def order(desk: Desk, **body: Any) -> dict[str, Any]:
    """One order that is taken."""
    answer = await ask(desk, "/queue/actions", "POST", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
