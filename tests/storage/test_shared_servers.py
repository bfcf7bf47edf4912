"""What the stores on database servers do beside the contract: large mails, refusals, failures, damage."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import pytest
import trio

from elemta.datasource.base import Connection, DatabaseAway, DatabaseError, DatabaseFull, Named, OutcomeUnknown, Work
from elemta.datasource.mysqltext import render
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.datasource.pool import PooledDatabase
from elemta.storage import shared_scout
from elemta.storage.base import (
    Begin,
    Change,
    CommitUnknown,
    ContentMissing,
    Filter,
    Insert,
    Result,
    Retention,
    Settle,
    StoreAway,
    StoreFull,
    StoreUnavailable,
    Withdraw,
)
from elemta.storage.mysql_dialect import LEAST_PACKET_OCTETS, MysqlDialect
from elemta.storage.records import PIECE_OCTETS, ContentRef, QueueState
from elemta.storage.shared import DatabaseStore
from elemta.storage.shared_ledger import Ledger, Looked
from tests.datasource.servers import SERVERS, running, server
from tests.storage.databases import STORES, empty_tables, made_database
from tests.storage.mails import OCTETS, START, HandClock, Post, attempt, claimed, commit

__all__ = ["server"]

T = TypeVar("T")
APPLIED, REFUSED, FULL = Result.APPLIED, Result.REFUSED, Result.FULL


@pytest.fixture(scope="module", params=SERVERS)
def tables(request: pytest.FixtureRequest) -> Iterator[DatabaseOptions]:
    with made_database(request.param) as options:
        yield options


@pytest.fixture
def options(tables: DatabaseOptions) -> DatabaseOptions:
    empty_tables(tables)
    return tables


class Unlucky:
    """A real database whose units of work fail when a test says so, before they begin or after they are committed."""

    def __init__(self, database: PooledDatabase) -> None:
        self.database = database
        self.name = database.name
        self.dialect = database.dialect
        self.labour = database.labour
        #: What the next units fail with before they begin, and after; None for one that succeeds.
        self.before: list[DatabaseError | None] = []
        self.after: list[DatabaseError | None] = []

    async def transact(self, work: Work[T]) -> T:
        fault = self.before.pop(0) if self.before else None
        if fault is not None:
            raise fault
        value = await self.database.transact(work)
        fault = self.after.pop(0) if self.after else None
        if fault is not None:
            raise fault
        return value

    async def look(self, work: Work[T]) -> T:
        return await self.database.look(work)


@asynccontextmanager
async def using(options: DatabaseOptions) -> AsyncIterator[tuple[DatabaseStore, Unlucky]]:
    async with running(options) as database:
        unlucky = Unlucky(database)
        store = STORES[options.dialect](unlucky, HandClock())
        await store.open()
        yield store, unlucky


async def run(unlucky: Unlucky, *statements: str) -> None:
    async def each(connection: Connection) -> None:
        for statement in statements:
            await connection.execute(statement)

    await unlucky.database.transact(each)


async def test_an_insert_repeated_after_another_node_finished_its_mail_brings_nothing_back(
    options: DatabaseOptions, post: Post
) -> None:
    async with using(options) as (store, unlucky):
        one, two = (await store.join("one", START)).token, (await store.join("two", START)).token
        gone, stays = (attrs.evolve(post.insert(), token=one) for _ in range(2))
        unlucky.after = [OutcomeUnknown("the connection broke during COMMIT")]
        with pytest.raises(CommitUnknown):
            await commit(store, gone, stays)
        assert await claimed(store, two, owner="two", limit=1) == [gone.mail.id]
        assert await commit(store, Settle(gone.mail.id, "two", two, None, (attempt(),))) == [APPLIED]
        assert await commit(store, gone, stays) == [Result.FENCED, APPLIED]
        assert [mail.id for mail in await store.list(Filter(), 10)] == [stays.mail.id]
        assert await store.inspect() == []


# ---- large content -------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 2, 3), (5,), (2, 0, 7), (PIECE_OCTETS + 1,)])
async def test_any_part_of_any_pieces_can_be_read(options: DatabaseOptions, post: Post, sizes: tuple[int, ...]) -> None:
    octets = random.Random(2).randbytes(sum(sizes))
    async with using(options) as (store, _):
        writer = await store.stage()
        start = 0
        for size in sizes:
            await writer.write([octets[start : start + size]])
            start += size
        ref = ContentRef(await writer.finish(), len(octets))
        await commit(store, Insert(post.mail(content=ref)))
        ends = {0, 1, 2, 3, 5, 6, 9, len(octets) - 1, len(octets), len(octets) + 3}
        for offset in ends:
            for limit in ends:
                assert await store.read(ref, offset, limit) == octets[offset : offset + limit]


async def test_content_that_was_collected_before_its_end_is_not_durable(options: DatabaseOptions, post: Post) -> None:
    async with using(options) as (store, _):
        writer = await store.stage()
        await writer.write([OCTETS])
        await store.cleanup(Retention(None, None, None, staged_before=START + 1))
        with pytest.raises(StoreUnavailable, match="too slow"):
            await writer.finish([OCTETS])
        await writer.abandon()
        assert await store.inspect() == []


async def test_any_number_of_staged_contents_is_collected(options: DatabaseOptions, post: Post) -> None:
    async with using(options) as (store, _):
        refs = []
        for _ in range(25):
            writer = await store.stage()
            refs.append(ContentRef(await writer.finish([OCTETS]), len(OCTETS)))
        await store.cleanup(Retention(None, None, None, staged_before=START + 1))
        assert set(await store.commit([Insert(post.mail(content=ref)) for ref in refs])) == {REFUSED}
        assert await store.inspect() == []


# ---- what a server refuses -----------------------------------------------------------------------


async def test_what_only_the_server_refuses_harms_no_neighbour(options: DatabaseOptions, post: Post) -> None:
    """A destination that fits into no index: 3072 octets of MySQL's, 2704 of PostgreSQL's."""
    chance = random.Random(3)
    long = "".join(chance.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(9000))
    async with using(options) as (store, _):
        token = (await store.join("one", START)).token
        own = post.insert(owner="one")
        await commit(store, own)
        batch = [post.insert(destination=long if number in (3, 4, 10) else "here") for number in range(11)]
        settle = Settle(own.mail.id, "one", token, None, (attempt(),), (post.insert(destination=long),))
        expected = [REFUSED if number in (3, 4, 10) else APPLIED for number in range(11)]
        assert await store.commit([*batch[:6], settle, *batch[6:]]) == [*expected[:6], REFUSED, *expected[6:]]
        assert len(await store.list(Filter(), 100)) == 9
        assert await store.get(own.mail.id) == own.mail
        assert await store.attempts(own.mail.id) == []
        assert await store.inspect() == []


async def test_an_insert_repeated_with_other_octets_leaves_the_mail_alone(options: DatabaseOptions, post: Post) -> None:
    insert = post.insert()
    async with using(options) as (store, _):
        batch = [insert, post.insert()]
        assert await store.commit(batch) == [APPLIED, APPLIED]
        assert await commit(store, Insert(insert.mail, b"")) == [APPLIED]
        assert await commit(store, Insert(insert.mail)) == [APPLIED]
        assert await store.read(insert.mail.content, 0, 1000) == OCTETS


class Longest:
    """A connection that only looks how long the statements are."""

    def __init__(self) -> None:
        self.octets: list[int] = []

    async def fetch(self, statement: str, *values: object) -> Sequence[tuple[object, ...]]:
        return [(LEAST_PACKET_OCTETS,)]

    async def fetch_named(self, statement: str, *values: object) -> Named:
        raise NotImplementedError

    async def execute(self, statement: str, *values: object) -> int:
        self.octets.append(len(render(statement, values)))
        return 0


def test_statements_of_mysql_keep_within_its_packet(post: Post) -> None:
    """Though every octet has to be written as two, and every character takes four."""
    connection, dialect = Longest(), MysqlDialect()
    inserts = [post.insert(b"\\" * 100_000, reason="\N{CROISSANT}" * 20_000) for _ in range(30)]
    ledger = Ledger(Looked())
    assert {ledger.apply(insert) for insert in inserts} == {APPLIED}

    async def write() -> None:
        await dialect.learn(connection)
        await dialect.write(connection, ledger.writes(), slot=0)

    asyncio.run(write())
    assert len(connection.octets) > 20
    assert max(connection.octets) < LEAST_PACKET_OCTETS


def test_no_plan_of_postgresql_goes_through_all_rows(post: Post) -> None:
    with made_database(Dialect.POSTGRESQL) as options:

        async def main() -> None:
            async with using(attrs.evolve(options, pool_size=1)) as (store, unlucky):
                assert await commit(store, post.insert()) == [APPLIED]
                assert await unlucky.look(lambda connection: connection.fetch("SHOW enable_seqscan")) == [("off",)]

        trio.run(main)


# ---- failures ------------------------------------------------------------------------------------


async def test_a_commit_of_which_nobody_heard_is_repeated(options: DatabaseOptions, post: Post) -> None:
    async with using(options) as (store, unlucky):
        token = (await store.join("one", START)).token
        batch = [attrs.evolve(post.insert(owner="one"), token=token) for _ in range(3)]
        unlucky.after = [OutcomeUnknown("lost")]
        with pytest.raises(CommitUnknown):
            await store.commit(batch)
        assert await store.commit(batch) == [APPLIED] * 3
        assert (await store.counts())[QueueState.ACTIVE] == 3
        unlucky.before = [DatabaseAway("gone")]
        with pytest.raises(StoreAway):
            await store.commit([post.insert()])
        assert (await store.counts())[QueueState.ACTIVE] == 3


async def test_a_batch_of_which_a_part_landed_is_in_doubt(options: DatabaseOptions, post: Post) -> None:
    batch = [post.insert(), post.insert(destination=random.Random(4).randbytes(9000).hex())]
    async with using(options) as (store, unlucky):
        # Presumed fresh, whole, its first half, then no more.
        unlucky.before = [None, None, None, DatabaseAway("gone")]
        with pytest.raises(CommitUnknown, match="durable"):
            await store.commit(batch)
        assert await store.commit(batch) == [APPLIED, REFUSED]


async def test_mails_of_a_claim_of_which_nobody_heard_come_with_the_next(options: DatabaseOptions, post: Post) -> None:
    inserts = [post.insert(state=QueueState.DEFERRED) for _ in range(4)]
    ids = [insert.mail.id for insert in inserts]
    async with using(options) as (store, unlucky):
        token = (await store.join("one", START)).token
        await store.commit(inserts)
        unlucky.after = [OutcomeUnknown("lost")]
        with pytest.raises(CommitUnknown):
            await claimed(store, token, limit=3)
        assert [mail.owner for mail in await store.list(Filter(), 9)] == ["one"] * 3 + [""]
        assert await claimed(store, token, limit=1) == ids
        assert await claimed(store, token) == []
        assert await commit(store, *(Begin(queue_id, "one", token, START) for queue_id in ids)) == [APPLIED] * 4


async def test_a_claim_that_did_not_land_takes_nothing(options: DatabaseOptions, post: Post) -> None:
    async with using(options) as (store, unlucky):
        token = (await store.join("one", START)).token
        insert = post.insert()
        await commit(store, insert)
        unlucky.before = [OutcomeUnknown("lost, and rolled back")]
        with pytest.raises(CommitUnknown):
            await claimed(store, token)
        assert await claimed(store, token) == [insert.mail.id]


async def test_a_full_server_still_lets_the_old_mail_out(options: DatabaseOptions, post: Post) -> None:
    async with using(options) as (store, unlucky):
        token = (await store.join("one", START)).token
        old, there = post.insert(owner="one"), post.insert()
        await commit(store, old, there)
        unlucky.before = [DatabaseFull("full")]
        with pytest.raises(StoreFull):
            await commit(store, post.insert())
        unlucky.before = [DatabaseFull("full")]
        batch: list[Change] = [post.insert(), Settle(old.mail.id, "one", token, None, (attempt(),)), there]
        assert await store.commit(batch) == [FULL, APPLIED, APPLIED]
        assert [mail.id for mail in await store.list(Filter(), 9)] == [there.mail.id]
        unlucky.before = [DatabaseFull("full"), DatabaseFull("full")]
        with pytest.raises(StoreFull):
            await commit(store, post.insert(), Withdraw(there.mail.id))


# ---- nodes ---------------------------------------------------------------------------------------


async def test_a_heartbeat_does_not_wait_for_a_commit(options: DatabaseOptions, post: Post) -> None:
    async with using(options) as (store, unlucky):
        token = (await store.join("one", START)).token
        over = asyncio.Event()
        locked = trio.Event()
        token_of_trio = trio.lowlevel.current_trio_token()
        share = "FOR KEY SHARE" if options.dialect is Dialect.POSTGRESQL else "LOCK IN SHARE MODE"

        async def hold(connection: Connection) -> None:
            await connection.fetch(f"SELECT token FROM elemta_nodes WHERE owner = 'one' {share}")
            token_of_trio.run_sync_soon(locked.set)
            await over.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(unlucky.database.transact, hold)
            await locked.wait()
            with trio.fail_after(4):
                assert (await store.renew("one", token, -1.0)).is_held
                # Nor does the one who would adopt it: the next time will do.
                assert await store.adopt("two") == []
            over.set()
        assert [adopted.owner for adopted in await store.adopt("two")] == ["one"]


async def test_what_others_left_in_front_is_found_once_the_memory_ends(
    options: DatabaseOptions, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_scout, "REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr(shared_scout, "REMEMBERED_FACTOR", 0.0)
    async with using(options) as (store, unlucky):
        other = STORES[options.dialect](unlucky, HandClock())
        await other.open()
        token, dead = (await store.join("one", START)).token, (await store.join("two", START)).token
        crowd = [post.insert(destination="crowd", next_attempt_at=START - 50) for _ in range(5)]
        old = post.insert(owner="two", next_attempt_at=START - 99)
        await store.commit([*crowd, old])
        crowded = frozenset({"crowd"})
        assert await claimed(store, token, exclude=crowded) == []
        await other.leave("two", dead)
        assert await claimed(store, token, exclude=crowded) == [old.mail.id]


@pytest.mark.parametrize("server", SERVERS, indirect=True)
async def test_stores_that_open_an_empty_database_at_once_agree(server: DatabaseOptions) -> None:
    async with running(server) as database:
        stores = [STORES[server.dialect](database, HandClock()) for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for store in stores:
                nursery.start_soon(store.open)
        assert await stores[0].inspect() == []


# ---- damage --------------------------------------------------------------------------------------


async def test_what_does_not_add_up_is_told(options: DatabaseOptions, post: Post) -> None:
    async with using(options) as (store, unlucky):
        inserts = [post.insert() for _ in range(4)]
        await store.commit(inserts)
        writer = await store.stage()
        await writer.write([OCTETS])
        ref = ContentRef(await writer.finish([OCTETS]), 2 * len(OCTETS))
        staged = post.mail(content=ref)
        await commit(store, Insert(staged))
        assert await store.inspect() == []
        ids = [insert.mail.id for insert in inserts]
        await run(
            unlucky,
            f"DELETE FROM elemta_contents WHERE id = '{ids[0]}'",
            f"UPDATE elemta_contents SET mails = 7 WHERE id = '{ids[1]}'",
            f"UPDATE elemta_contents SET size = 1 WHERE id = '{ids[2]}'",
            f"DELETE FROM elemta_pieces WHERE content_id = '{ref.id}' AND start > 0",
            f"INSERT INTO elemta_pieces (content_id, start, octets) VALUES ('{ids[3][::-1]}', 0, 'abc')",
            f"DELETE FROM elemta_mails WHERE id = '{ids[3]}'",
        )
        found = {finding.where: finding.what for finding in await store.inspect()}
        assert "missing" in found[f"mail {ids[0]}"]
        assert "7 are counted" in found[f"content {ids[1]}"]
        assert "another size" in found[f"mail {ids[2]}"]
        assert "0 mails refer to it" in found[f"content {ids[3]}"]
        assert f"{len(OCTETS)} octets instead of {2 * len(OCTETS)}" in found[f"content {ref.id}"]
        assert "not there" in found[f"pieces of {ids[3][::-1]}"]
        assert "4 mails are active, 5 are counted" in found["elemta_tally"]
        assert len(found) == 7
        with pytest.raises(ContentMissing, match="lacks pieces"):
            await store.read(ref, 0, 100)
