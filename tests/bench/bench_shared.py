"""What the stores on database servers take for a mail, with and without a backlog.

Run it: `python tests/bench/bench_shared.py [--store postgresql] [--store mysql] [--backlog 1000000] [--rounds 20]`. The
servers are those of the tests (`ELEMTA_TEST_POSTGRESQL`, `ELEMTA_TEST_MYSQL`); a database is made and dropped again. A
backlog is of deferred mails for tomorrow, to a thousand destinations; `--flood` adds as many that are due, to one
destination that takes no more. A server that does not share its disk with others says more.
"""

import argparse
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import trio

from elemta.datasource.base import Connection
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.outcome import Attempt, AttemptResult, Peer
from elemta.mail.reply import Reply
from elemta.runtime.clock import SystemClock
from elemta.runtime.ids import SecureIds
from elemta.storage.base import Begin, Change, Claim, Filter, Insert, Result, Settle
from elemta.storage.codec import encode_mail
from elemta.storage.mysql import MysqlStore
from elemta.storage.mysql_dialect import MysqlDialect
from elemta.storage.postgresql import PostgresqlStore
from elemta.storage.postgresql_dialect import PostgresqlDialect
from elemta.storage.records import UNTRIED, ContentRef, Origin, QueuedMail, QueueState
from elemta.storage.shared import DatabaseStore
from elemta.storage.shared_ledger import Writes
from tests.datasource.servers import empty_database, running

OWNER = "bench"
BATCH = 50
OCTETS = 4096
WAITING_OCTETS = 500
FILL_ROWS = 2000
DAY_SECONDS = 86_400.0
CROWDED = "crowded.example"


class Bench:
    """One store, and mails for it."""

    def __init__(self, store: DatabaseStore) -> None:
        self.store = store
        self.clock = SystemClock()
        self._ids = SecureIds(self.clock)
        self.token = 0
        self._octets = os.urandom(OCTETS)
        now = self.clock.wall()
        self._plain = QueuedMail(
            id="",
            origin_id="",
            content=ContentRef("", OCTETS, digest="0" * 64),
            envelope=Envelope(Address("sender", "example.org"), (Recipient(Address("someone", "example.net")),)),
            progress=(UNTRIED,),
            destination="example.net",
            received_at=now,
            next_attempt_at=now,
            expires_at=now + 2 * DAY_SECONDS,
            origin=Origin("192.0.2.1", "client.example", "0.0.0.0:25", "", "ESMTP"),
        )
        self._attempt = Attempt(
            now,
            0.01,
            "someone@example.net",
            AttemptResult.DELIVERED,
            Reply(250, "2.0.0", "Ok: queued as 4bQ2xk3Xyz"),
            Peer("mx.example.net", "192.0.2.2:25"),
        )

    def mail(self, *, size: int = OCTETS, **changes: Any) -> QueuedMail:
        queue_id = self._ids.new_id()
        content = attrs.evolve(self._plain.content, id=queue_id, size=size)
        plain = attrs.evolve(self._plain, id=queue_id, origin_id=queue_id, content=content)
        return attrs.evolve(plain, **changes)

    def inserts(self, *, owner: str = OWNER) -> list[Insert]:
        token = self.token if owner else None
        return [Insert(self.mail(owner=owner), self._octets, token) for _ in range(BATCH)]

    def begins(self, mails: Sequence[QueuedMail]) -> list[Begin]:
        return [Begin(mail.id, OWNER, self.token, 1.0) for mail in mails]

    def settles(self, mails: Sequence[QueuedMail]) -> list[Settle]:
        return [Settle(mail.id, OWNER, self.token, None, (self._attempt,)) for mail in mails]

    def deferrals(self, mails: Sequence[QueuedMail]) -> list[Settle]:
        later = [
            attrs.evolve(mail, state=QueueState.DEFERRED, attempts=1, next_attempt_at=self.clock.wall() + DAY_SECONDS)
            for mail in mails
        ]
        return [Settle(mail.id, OWNER, self.token, mail, (self._attempt,)) for mail in later]

    async def commit(self, batch: Sequence[Change]) -> None:
        if set(await self.store.commit(batch)) - {Result.APPLIED}:
            raise RuntimeError("a change was not applied")

    def waiting(self, number: int, *, is_flood: bool) -> QueuedMail:
        if is_flood:
            due = self.clock.wall() - 3600 + number / 1e6
            return self.mail(size=WAITING_OCTETS, destination=CROWDED, next_attempt_at=due)
        return self.mail(
            size=WAITING_OCTETS,
            destination=f"host{number % 1000}.example",
            state=QueueState.DEFERRED,
            next_attempt_at=self.clock.wall() + DAY_SECONDS + number % 9973,
            attempts=1,
        )


class Timed:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    async def run(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        started = time.perf_counter()
        await work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)

    def tell(self, title: str) -> None:
        print(title)
        for name, seconds in self.seconds.items():
            print(f"  {name:18} median {statistics.median(seconds) * 1e3:8.2f} ms  worst {max(seconds) * 1e3:8.2f} ms")


async def road(bench: Bench, rounds: int) -> Timed:
    """The way of batches through the queue, with what the dispatcher and the health page ask."""
    timed = Timed()
    store = bench.store
    for _ in range(rounds):
        own, other, late = bench.inserts(), bench.inserts(owner=""), bench.inserts()
        mails, later = [each.mail for each in own], [each.mail for each in late]
        await timed.run("insert 50", lambda: bench.commit(own))  # noqa: B023  # run at once
        await timed.run("insert 50 nobody's", lambda: bench.commit(other))  # noqa: B023  # run at once
        await timed.run("begin 50", lambda: bench.commit(bench.begins(mails)))  # noqa: B023  # run at once
        await timed.run("settle 50", lambda: bench.commit(bench.settles(mails)))  # noqa: B023  # run at once
        await bench.commit(late)
        await timed.run("defer 50", lambda: bench.commit(bench.deferrals(later)))  # noqa: B023  # run at once
        for name, exclude in (("claim 25", frozenset[str]()), ("claim 25 excluding", frozenset({CROWDED}))):
            claim = Claim(OWNER, bench.token, bench.clock.wall(), 25, exclude)
            claimed: list[QueuedMail] = []

            async def take(claim: Claim = claim, claimed: list[QueuedMail] = claimed) -> None:
                claimed += await store.claim(claim)

            await timed.run(name, take)
            await bench.commit(bench.settles(claimed))
        await timed.run("next due", store.next_due)
        await timed.run("counts", store.counts)
        await timed.run("list 50", lambda: store.list(Filter(), 50))
    return timed


async def throughput(bench: Bench, batches: int) -> None:
    """Inserts by two tasks at once, as two nodes' spools would."""

    async def insert() -> None:
        for _ in range(batches):
            await bench.commit(bench.inserts())

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(insert)
    taken = time.perf_counter() - started
    print(f"  two at once: {2 * batches / taken:.0f} commits/s, {2 * batches * BATCH / taken:.0f} mails/s accepted")


async def fill(bench: Bench, dialect: PostgresqlDialect | MysqlDialect, mails: int, *, is_flood: bool) -> None:
    """A backlog, written behind the store's back to save an hour."""
    server = bench.store._server  # there is no other way to it
    for start in range(0, mails, FILL_ROWS):
        waiting = [bench.waiting(number, is_flood=is_flood) for number in range(start, min(start + FILL_ROWS, mails))]
        writes = Writes(
            mails=[(*encode_mail(mail), 0) for mail in waiting],
            contents=[(mail.id, bytes(WAITING_OCTETS), 1) for mail in waiting],
            tally={(QueueState.ACTIVE if is_flood else QueueState.DEFERRED).value: len(waiting)},
        )

        async def write(connection: Connection, writes: Writes = writes) -> None:
            await dialect.write(connection, writes, slot=0)

        await server.transact(write)


async def measure(options: DatabaseOptions, chosen: argparse.Namespace) -> None:
    name = options.dialect.value
    is_postgresql = options.dialect is Dialect.POSTGRESQL
    async with running(options) as database:
        store = (PostgresqlStore if is_postgresql else MysqlStore)(database, SystemClock())
        await store.open()
        bench = Bench(store)
        bench.token = (await store.join(OWNER, bench.clock.wall())).token
        await store.renew(OWNER, bench.token, DAY_SECONDS)
        await road(bench, 3)
        (await road(bench, chosen.rounds)).tell(f"{name}, empty")
        await throughput(bench, chosen.rounds)
        for is_flood in (False, True) if chosen.flood else (False,):
            started = time.perf_counter()
            words = PostgresqlDialect() if is_postgresql else MysqlDialect()
            await fill(bench, words, chosen.backlog, is_flood=is_flood)
            print(f"  {chosen.backlog} mails more in {time.perf_counter() - started:.0f} s")
            kind = "due, for one destination" if is_flood else "for tomorrow"
            (await road(bench, chosen.rounds)).tell(f"{name}, {chosen.backlog} more {kind}")
            await throughput(bench, chosen.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", action="append", choices=[each.value for each in Dialect])
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--flood", action="store_true")
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    for dialect in Dialect:
        if chosen.store is None or dialect.value in chosen.store:
            with empty_database(dialect) as options:
                trio.run(measure, options, chosen)


if __name__ == "__main__":
    main()
