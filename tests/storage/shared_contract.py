"""The contract of a queue that several nodes share, as a suite.

Each engine's tests derive a class from `SharedStoreContract` and give it the fixture `stores`. No test waits for the
end of a lease: a node that renews for less than no time is dead at once, by whatever clock judges it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import attrs
import pytest
import trio

from elemta.mail.outcome import AttemptResult
from elemta.storage.base import (
    JOIN_LEASE_SECONDS,
    Adopted,
    Begin,
    Change,
    ContentMissing,
    Filter,
    Insert,
    Order,
    Pulse,
    Result,
    Settle,
    SharedStore,
    Verb,
    Withdraw,
)
from elemta.storage.records import QueuedMail, QueueState
from tests.storage.mails import CLOSE_SECONDS, OCTETS, START, HandClock, Post, attempt, claimed, commit

APPLIED, FENCED, GONE = Result.APPLIED, Result.FENCED, Result.GONE
EVERYTHING = Filter()


class SharedStores(Protocol):
    """One engine's data; see `mails.Stores`."""

    clock: HandClock

    def build(self) -> SharedStore:
        """One node's store."""
        ...


@asynccontextmanager
async def opened(stores: SharedStores) -> AsyncIterator[SharedStore]:
    """A store that is open for the block and closed after it."""
    store = stores.build()
    await store.open()
    try:
        yield store
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await store.close()


@asynccontextmanager
async def two_nodes(stores: SharedStores) -> AsyncIterator[tuple[SharedStore, SharedStore]]:
    """The stores of two nodes, neither of which has joined."""
    async with opened(stores) as one, opened(stores) as two:
        yield one, two


async def joined(store: SharedStore, owner: str) -> int:
    return (await store.join(owner, START)).token


async def die(store: SharedStore, owner: str, token: int) -> None:
    """Let a lease be past."""
    assert await store.renew(owner, token, -1.0) == Pulse(is_held=True)


async def mail_of(store: SharedStore, queue_id: str) -> QueuedMail:
    mail = await store.get(queue_id)
    assert mail is not None
    return mail


async def names(store: SharedStore) -> list[str]:
    return [node.owner for node in await store.nodes()]


class Leasing:
    async def test_a_node_that_joins_is_alive(self, stores: SharedStores) -> None:
        async with two_nodes(stores) as (one, two):
            token = await joined(one, "one")
            await joined(two, "two")
            assert await two.adopt("two") == []
            nodes = await two.nodes()
            assert [(node.owner, node.is_draining, node.mails) for node in nodes] == [
                ("one", False, 0),
                ("two", False, 0),
            ]
            assert nodes[0].token == token
            assert all(0 < node.lease_left <= JOIN_LEASE_SECONDS for node in nodes)

    async def test_a_lease_lasts_as_long_as_it_was_renewed_for(self, stores: SharedStores) -> None:
        async with two_nodes(stores) as (one, two):
            token = await joined(one, "one")
            assert await one.renew("one", token, 500.0) == Pulse(is_held=True)
            assert 400 < (await two.nodes())[0].lease_left <= 500
            await die(one, "one", token)
            assert (await two.nodes())[0].lease_left < 0
            # Late, but nobody noticed.
            assert await one.renew("one", token, 30.0) == Pulse(is_held=True)
            assert await two.adopt("two") == []

    async def test_a_token_that_is_not_the_latest_renews_nothing(self, stores: SharedStores) -> None:
        async with two_nodes(stores) as (one, two):
            old = await joined(one, "one")
            new = await joined(two, "one")
            await die(two, "one", new)
            assert await one.renew("one", old, 500.0) == Pulse(is_held=False)
            assert await one.renew("stranger", new, 500.0) == Pulse(is_held=False)
            assert (await two.nodes())[0].lease_left < 0

    async def test_a_node_can_be_asked_to_drain(self, stores: SharedStores) -> None:
        async with two_nodes(stores) as (one, two):
            token = await joined(one, "one")
            assert await two.set_draining("one", True)
            assert await one.renew("one", token, 30.0) == Pulse(is_held=True, is_draining=True)
            assert [node.is_draining for node in await two.nodes()] == [True]
            assert await two.set_draining("one", True)
            assert await two.set_draining("one", False)
            assert await one.renew("one", token, 30.0) == Pulse(is_held=True)
            assert not await two.set_draining("stranger", True)
            await two.set_draining("one", True)
            token = await joined(one, "one")
            assert await one.renew("one", token, 30.0) == Pulse(is_held=True)

    async def test_a_node_leaves_with_nothing_left_behind(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            token, other = await joined(one, "one"), await joined(two, "two")
            resting, flying = post.insert(owner="one"), post.insert(owner="one", attempting_since=START)
            await commit(one, resting, flying)
            assert [node.mails for node in await two.nodes()] == [2, 0]
            await one.leave("one", token + 100)
            await one.leave("stranger", token)
            assert await names(two) == ["one", "two"]
            await one.leave("one", token)
            assert await names(two) == ["two"]
            assert [each.result for each in await two.attempts(flying.mail.id)] == [AttemptResult.UNCERTAIN]
            assert await claimed(two, other, owner="two") == [resting.mail.id, flying.mail.id]
            await one.leave("one", token)
            assert await one.renew("one", token, 30.0) == Pulse(is_held=False)

    async def test_tokens_grow_though_nobody_is_left(self, stores: SharedStores) -> None:
        tokens = []
        for _ in range(3):
            async with opened(stores) as store:
                tokens.append(await joined(store, "one"))
                await store.leave("one", tokens[-1])
                assert await store.nodes() == []
        assert tokens == sorted(set(tokens))


class Fencing:
    async def test_a_late_node_changes_nothing_that_was_adopted(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            late, token = await joined(one, "one"), await joined(two, "two")
            inserts = [post.insert(owner="one") for _ in range(3)]
            await one.commit(inserts)
            first, second, third = (insert.mail for insert in inserts)
            await commit(one, Begin(first.id, "one", late, START))
            await die(one, "one", late)
            await two.adopt("two")
            assert await claimed(two, token, owner="two", limit=2) == [first.id, second.id]
            bounce = post.insert()
            batch: list[Change] = [
                Settle(first.id, "one", late, None, (attempt(),), (bounce,)),
                Begin(second.id, "one", late, START),
                Settle(third.id, "one", late, attrs.evolve(third, reason="late")),
                Begin(second.id, "two", token, START + 5),
            ]
            assert await one.commit(batch) == [FENCED, FENCED, FENCED, APPLIED]
            assert await claimed(one, late) == []
            assert await one.get(bounce.mail.id) is None
            assert await one.get(third.id) == attrs.evolve(third, owner="")
            assert (await mail_of(one, second.id)).attempting_since == START + 5
            assert [each.result for each in await two.attempts(first.id)] == [AttemptResult.UNCERTAIN]

    async def test_what_a_late_node_accepts_is_anybodys(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            late, token = await joined(one, "one"), await joined(two, "two")
            await die(one, "one", late)
            await two.adopt("two")
            new = post.insert(owner="one", attempting_since=START)
            own = post.insert(owner="two")
            batch = [attrs.evolve(new, token=late), attrs.evolve(own, token=token)]
            assert await one.commit(batch) == [FENCED, APPLIED]
            assert await two.get(new.mail.id) == attrs.evolve(new.mail, owner="", attempting_since=None)
            assert (await mail_of(two, own.mail.id)).owner == "two"
            assert await claimed(two, token, owner="two") == [new.mail.id]
            assert await two.read(new.mail.content, 0, 1000) == OCTETS

    async def test_an_earlier_life_is_late_as_well(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            old, new = await joined(one, "one"), await joined(two, "one")
            insert = post.insert(owner="one")
            assert await commit(one, attrs.evolve(insert, token=old)) == [FENCED]
            assert (await mail_of(two, insert.mail.id)).owner == ""
            assert await claimed(one, old) == []
            assert await claimed(two, new) == [insert.mail.id]
            assert await commit(one, attrs.evolve(insert, token=old)) == [FENCED]
            assert await commit(two, attrs.evolve(insert, token=new)) == [APPLIED]

    async def test_an_insert_repeated_does_not_bring_an_adopted_mail_back(
        self, stores: SharedStores, post: Post
    ) -> None:
        async with two_nodes(stores) as (one, two):
            token, other = await joined(one, "one"), await joined(two, "two")
            insert = attrs.evolve(post.insert(owner="one"), token=token)
            assert await commit(one, insert) == [APPLIED]
            assert await commit(one, insert, attrs.evolve(post.insert(owner="one"), token=token)) == [APPLIED] * 2
            await die(one, "one", token)
            await two.adopt("two")
            assert await commit(one, insert) == [FENCED]
            assert insert.mail.id in await claimed(two, other, owner="two")
            assert await commit(one, insert) == [FENCED]
            assert (await mail_of(one, insert.mail.id)).owner == "two"
            # Who asked for no owner has nothing to lose.
            assert await commit(one, Insert(insert.mail, OCTETS)) == [APPLIED]

    async def test_a_report_of_a_node_may_be_its_own(self, stores: SharedStores, post: Post) -> None:
        async with opened(stores) as store:
            token = await joined(store, "one")
            mail, report = post.insert(owner="one"), attrs.evolve(post.insert(owner="one"), token=token)
            await commit(store, mail, Begin(mail.mail.id, "one", token, START))
            assert await commit(store, Settle(mail.mail.id, "one", token, None, (), (report,))) == [APPLIED]
            assert (await mail_of(store, report.mail.id)).owner == "one"
            assert await commit(store, Begin(report.mail.id, "one", token, START)) == [APPLIED]


class Adopting:
    async def test_each_dead_node_is_adopted_once(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            dead = ["a", "b", "c"]
            expected = []
            for owner in dead:
                token = await joined(one, owner)
                flying = post.insert(owner=owner)
                await commit(one, flying, post.insert(owner=owner), Begin(flying.mail.id, owner, token, START))
                await die(one, owner, token)
                expected.append(Adopted(owner, 2, (flying.mail.id,)))
            await joined(one, "living")
            adopted: list[Adopted] = []

            async def adopt(store: SharedStore, owner: str) -> None:
                adopted.extend(await store.adopt(owner))

            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(adopt, (one, two)[number % 2], f"adopter {number}")
            assert sorted(adopted, key=lambda each: each.owner) == expected
            assert await names(two) == ["living"]
            for each in expected:
                (record,) = await two.attempts(each.uncertain[0])
                assert (record.result, record.started_at) == (AttemptResult.UNCERTAIN, START)
                assert record.reply.is_transient
            assert {mail.owner for mail in await two.list(EVERYTHING, 100)} == {""}
            assert await two.inspect() == []

    async def test_a_dead_node_without_mails_is_forgotten(self, stores: SharedStores) -> None:
        async with two_nodes(stores) as (one, two):
            await die(one, "one", await joined(one, "one"))
            assert await two.adopt("two") == [Adopted("one", 0)]
            assert await two.adopt("two") == []
            assert await two.nodes() == []

    async def test_nobody_adopts_itself(self, stores: SharedStores, post: Post) -> None:
        async with opened(stores) as store:
            token = await joined(store, "one")
            insert = post.insert(owner="one")
            await commit(store, insert)
            await die(store, "one", token)
            assert await store.adopt("one") == []
            assert await commit(store, Begin(insert.mail.id, "one", token, START)) == [APPLIED]

    async def test_what_is_committed_meanwhile_is_not_left_behind(self, stores: SharedStores, post: Post) -> None:
        """Whichever comes first: a mail of the node that dies is adopted, or it never was the node's."""
        async with two_nodes(stores) as (one, two):
            token = await joined(one, "one")
            answers: list[Sequence[Result]] = []

            async def insert() -> None:
                new = [attrs.evolve(post.insert(owner="one"), token=token) for _ in range(3)]
                answers.append(await one.commit(new))

            async def end() -> None:
                await die(one, "one", token)
                for _ in range(10_000):
                    if await two.adopt("two"):
                        return

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(insert)
                    if number == 5:
                        nursery.start_soon(end)
            assert {result for results in answers for result in results} <= {APPLIED, FENCED}
            mails = await two.list(EVERYTHING, 100)
            assert (len(mails), {mail.owner for mail in mails}) == (36, {""})
            assert await commit(one, attrs.evolve(post.insert(owner="one"), token=token)) == [FENCED]


class Sharing:
    async def test_claimers_never_get_the_same_mail(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            inserts = [post.insert(state=QueueState.DEFERRED) for _ in range(60)]
            await one.commit(inserts)
            got: dict[str, list[str]] = {}

            async def claim_all(store: SharedStore, owner: str) -> None:
                token = await joined(store, owner)
                mine = got.setdefault(owner, [])
                while found := await claimed(store, token, owner=owner, limit=4):
                    mine += found

            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(claim_all, (one, two)[number % 2], f"node {number}")
            # A claim may find nothing but what others are just taking; then there is nothing left to take.
            everything = [queue_id for mine in got.values() for queue_id in mine]
            assert sorted(everything) == [insert.mail.id for insert in inserts]
            for owner, mine in got.items():
                assert {(await mail_of(one, queue_id)).owner for queue_id in mine} <= {owner}
            assert (await one.counts())[QueueState.ACTIVE] == 60

    async def test_claimers_with_exclusions_never_get_the_same_mail(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            await one.commit([post.insert(destination="ab"[number % 2]) for number in range(40)])
            got: list[str] = []

            async def claim_all(store: SharedStore, owner: str) -> None:
                token = await joined(store, owner)
                while found := await claimed(store, token, owner=owner, limit=3, exclude=frozenset("a")):
                    got.extend(found)

            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(claim_all, (one, two)[number % 2], f"node {number}")
            assert len(got) == len(set(got)) == 20

    async def test_an_order_takes_a_waiting_mail_from_its_owner(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            token = await joined(one, "one")
            waiting, flying = post.insert(owner="one"), post.insert(owner="one")
            await commit(one, waiting, flying, Begin(flying.mail.id, "one", token, START))
            ordered = await two.apply(Order(Verb.HOLD, EVERYTHING, START, 10, "looks odd"))
            assert (ordered.changed, ordered.in_flight) == ((waiting.mail.id,), (flying.mail.id,))
            assert await commit(one, Begin(waiting.mail.id, "one", token, START)) == [FENCED]
            assert await commit(one, Settle(flying.mail.id, "one", token, None)) == [APPLIED]
            assert (await mail_of(one, waiting.mail.id)).state is QueueState.HELD
            later = attrs.evolve(post.mail(owner="one"), next_attempt_at=START + 50)
            await commit(one, Insert(later, OCTETS, token))
            retried = await two.apply(Order(Verb.RETRY, EVERYTHING, START, 10))
            assert retried.changed == (later.id,)
            # It is its owner's all the same.
            assert await commit(one, Begin(later.id, "one", token, START)) == [APPLIED]

    async def test_content_leaves_with_its_last_two_mails_at_once(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            for _ in range(5):
                first = post.insert()
                second = Insert(post.mail(content=first.mail.content))
                await commit(one, first, second)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.commit, [Withdraw(first.mail.id)])
                    nursery.start_soon(two.commit, [Withdraw(second.mail.id)])
                with pytest.raises(ContentMissing):
                    await one.read(first.mail.content, 0, 10)
            assert await two.inspect() == []

    async def test_content_stays_for_a_mail_that_comes_as_another_leaves(
        self, stores: SharedStores, post: Post
    ) -> None:
        async with two_nodes(stores) as (one, two):
            for _ in range(5):
                first = post.insert()
                second = Insert(post.mail(content=first.mail.content), OCTETS)
                await commit(one, first)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.commit, [Withdraw(first.mail.id)])
                    nursery.start_soon(two.commit, [second])
                assert await one.read(second.mail.content, 0, 1000) == OCTETS
            assert await two.inspect() == []

    async def test_the_same_batch_at_once_lands_once(self, stores: SharedStores, post: Post) -> None:
        """As when a commit is repeated though the server is still at it."""
        async with two_nodes(stores) as (one, two):
            token = await joined(one, "one")
            batch = [attrs.evolve(post.insert(owner="one"), token=token) for _ in range(20)]
            answers: list[list[Result]] = []

            async def land(store: SharedStore) -> None:
                answers.append(await store.commit(batch))

            async with trio.open_nursery() as nursery:
                for store in (one, two, one, two):
                    nursery.start_soon(land, store)
            assert answers == [[APPLIED] * 20] * 4
            assert (await one.counts())[QueueState.ACTIVE] == 20
            assert await one.inspect() == []

    async def test_batches_that_meet_in_any_order_all_end(self, stores: SharedStores, post: Post) -> None:
        async with two_nodes(stores) as (one, two):
            token = await joined(one, "one")
            inserts = [post.insert(owner="one") for _ in range(30)]
            await one.commit(inserts)
            ids = [insert.mail.id for insert in inserts]
            begins = [Begin(queue_id, "one", token, START) for queue_id in ids]
            settles = [Settle(queue_id, "one", token, None, (attempt(),)) for queue_id in ids]
            async with trio.open_nursery() as nursery:
                for store, batch in ((one, begins), (two, begins[::-1]), (one, settles), (two, settles[::-1])):
                    nursery.start_soon(partial(store.commit, batch))
                nursery.start_soon(two.apply, Order(Verb.HOLD, EVERYTHING, START, 100))
            for queue_id in ids:
                assert len(await one.attempts(queue_id)) == (await one.get(queue_id) is None)
            assert await one.inspect() == []


class SharedStoreContract(Leasing, Fencing, Adopting, Sharing):
    """The whole contract: `class TestEngine(SharedStoreContract)` runs it."""
