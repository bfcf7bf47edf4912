"""Mails, batches, stores for the tests of this folder."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import attrs
import trio

from elemta.mail.address import Address
from elemta.mail.envelope import BodyType, Envelope, Notify, Recipient, Ret
from elemta.mail.outcome import Attempt, AttemptResult, Peer
from elemta.mail.reply import Reply
from elemta.runtime.ids import SeededIds
from elemta.storage.base import Change, Claim, Insert, QueueStore, Result
from elemta.storage.records import UNTRIED, ContentRef, Origin, QueuedMail

#: The morning of the tests, UTC in seconds since 1970.
START = 1_800_000_000.0
OCTETS = b"Subject: a test\r\n\r\nHello\r\n"


class HandClock:
    """A clock that a test sets by hand."""

    def __init__(self) -> None:
        self.now = START

    def wall(self) -> float:
        return self.now


class Stores(Protocol):
    """One engine's data, on which any number of stores are built one after another."""

    clock: HandClock

    def build(self) -> QueueStore:
        """A store on the data as it lies there; the one before may have closed, or just vanished."""
        ...


#: A store that takes longer to close has hung.
CLOSE_SECONDS = 10.0


@asynccontextmanager
async def opened(stores: Stores) -> AsyncIterator[QueueStore]:
    """A store that is open for the block and closed after it."""
    store = stores.build()
    await store.open()
    try:
        yield store
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await store.close()


class Post:
    """Makes mails with ids in the order of their making."""

    def __init__(self, clock: HandClock | None = None) -> None:
        self._clock = clock or HandClock()
        self._ids = SeededIds(self._clock, random.Random(7))
        self._made = 0

    def new_id(self) -> str:
        # Chance decides the order of ids of one millisecond, and tests want to know it.
        self._made += 1
        clock = HandClock()
        clock.now = self._clock.now + self._made / 1000
        return SeededIds(clock, random.Random(self._made)).new_id()

    def mail(self, octets: bytes = OCTETS, **changes: Any) -> QueuedMail:
        """A mail for one recipient, due at once."""
        queue_id = changes.pop("id", None) or self.new_id()
        plain = QueuedMail(
            id=queue_id,
            origin_id=queue_id,
            content=ContentRef(queue_id, len(octets)),
            envelope=Envelope(Address("sender", "example.org"), (Recipient(Address("someone", "example.net")),)),
            progress=(UNTRIED,),
            destination="example.net",
            received_at=START,
            next_attempt_at=START,
            expires_at=START + 86_400,
        )
        return attrs.evolve(plain, **changes)

    def insert(self, octets: bytes = OCTETS, **changes: Any) -> Insert:
        return Insert(self.mail(octets, **changes), octets)


def rich_mail(queue_id: str) -> QueuedMail:
    """A mail that has nothing at its default."""
    return QueuedMail(
        id=queue_id,
        origin_id=queue_id[::-1],
        content=ContentRef(queue_id, len(OCTETS), eight_bit=True, header_octets=17, digest="0123456789abcdef" * 4),
        envelope=Envelope(
            Address('a "quoted" one@home', "xn--bcher-kva.example"),
            (
                Recipient(Address("grüße", "example.net"), Notify.SUCCESS | Notify.DELAY, "rfc822;a@b"),
                Recipient(Address("postmaster", ""), Notify.NEVER),
                Recipient(Address("two\\ways", "[IPv6:::1]")),
            ),
            body=BodyType.EIGHT_BIT_MIME,
            smtputf8=True,
            ret=Ret.HEADERS,
            envid="QQ314159",
            require_tls=True,
            mt_priority=-4,
        ),
        progress=(
            attrs.evolve(UNTRIED, reply=Reply(451, "4.7.1", ("greylisted", "come again")), delay_reported=True),
            attrs.evolve(UNTRIED, reply=Reply(550, "", ""), reported=True),
            UNTRIED,
        ),
        destination="example.net",
        received_at=START + 0.123456,
        next_attempt_at=START + 1 / 3,
        expires_at=START + 2e5,
        attempts=3,
        reason="why not – “quoted”",
        origin=Origin("192.0.2.7", "client.example", "submission", "user", "ESMTPSA"),
        annotations={"spam": "no", "über": "ja"},
    )


def attempt(**changes: Any) -> Attempt:
    plain = Attempt(
        START,
        0.25,
        "someone@example.net",
        AttemptResult.DEFERRED,
        Reply(451, "4.3.0", ("later", "please")),
        Peer("mx.example.net", "192.0.2.1:25"),
    )
    return attrs.evolve(plain, **changes)


async def commit(store: QueueStore, *batch: Change) -> list[Result]:
    return await store.commit(batch)


async def claimed(store: QueueStore, token: int, *, owner: str = "one", limit: int = 100, **terms: Any) -> list[str]:
    """The ids that a claim takes now."""
    now = terms.pop("now", START)
    return [mail.id for mail in await store.claim(Claim(owner, token, now, limit, **terms))]
