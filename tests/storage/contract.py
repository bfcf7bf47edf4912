"""The contract of a queue store as a suite.

Each engine's tests derive a class from `QueueStoreContract` and give it the fixture `stores`. Nothing here knows an
engine. What an engine alone can do (run out of space, fail a sync) is tried in its own tests.
"""

import random
from hashlib import sha256
from typing import Any

import attrs
import pytest
import trio

from elemta.config.sections import Config
from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Priority, Recipient
from elemta.mail.outcome import AttemptResult
from elemta.mail.reply import Reply
from elemta.storage.base import (
    Begin,
    Change,
    ContentMissing,
    Filter,
    Insert,
    Order,
    QueueStore,
    Result,
    Retention,
    Settle,
    Verb,
    Withdraw,
)
from elemta.storage.records import (
    PIECE_OCTETS,
    UNTRIED,
    ContentRef,
    Progress,
    QueuedMail,
    QueueState,
    RecipientStatus,
)
from tests.storage.mails import OCTETS, START, Post, Stores, attempt, claimed, commit, opened, rich_mail

APPLIED, FENCED, GONE, REFUSED = Result.APPLIED, Result.FENCED, Result.GONE, Result.REFUSED
KEEP_ALL = Retention(delivered_before=None, failed_before=None, attempts_before=None)
EVERYTHING = Filter()


async def ids(store: QueueStore, chosen: Filter = EVERYTHING) -> list[str]:
    return [mail.id for mail in await store.list(chosen, 1000)]


async def present(store: QueueStore, queue_id: str) -> QueuedMail:
    mail = await store.get(queue_id)
    assert mail is not None
    return mail


async def in_flight(store: QueueStore, post: Post) -> tuple[QueuedMail, int]:
    """A mail whose attempt began, owned by `one` under the token returned."""
    token = (await store.join("one", START)).token
    insert = post.insert()
    assert await commit(store, insert) == [APPLIED]
    assert await claimed(store, token) == [insert.mail.id]
    assert await commit(store, Begin(insert.mail.id, "one", token, START + 1)) == [APPLIED]
    return await present(store, insert.mail.id), token


async def staged(store: QueueStore, *pieces: bytes) -> str:
    writer = await store.stage()
    for piece in pieces:
        await writer.write([piece])
    return await writer.finish()


class Inserting:
    async def test_a_mail_comes_back_as_it_was(self, stores: Stores, post: Post) -> None:
        mail = rich_mail(post.new_id())
        async with opened(stores) as store:
            assert await commit(store, Insert(mail, OCTETS)) == [APPLIED]
            assert await store.get(mail.id) == mail
            assert await store.read(mail.content, 0, 1000) == OCTETS
        async with opened(stores) as store:
            assert await store.get(mail.id) == mail
            assert await store.read(mail.content, 9, 6) == OCTETS[9:15]
            assert await store.read(mail.content, len(OCTETS), 10) == b""

    async def test_a_store_that_vanished_keeps_what_it_committed(self, stores: Stores, post: Post) -> None:
        first = stores.build()
        await first.open()
        inserts = [post.insert(b"%d" % number) for number in range(20)]
        assert set(await first.commit(inserts)) == {APPLIED}
        async with opened(stores) as store:
            assert await ids(store) == [insert.mail.id for insert in inserts]
            assert await store.read(inserts[7].mail.content, 0, 9) == b"7"
        await first.close()

    async def test_an_insert_repeated_changes_nothing(self, stores: Stores, post: Post) -> None:
        insert = post.insert(b"first")
        again = Insert(attrs.evolve(insert.mail, reason="changed", content=ContentRef(insert.mail.id, 6)), b"second")
        async with opened(stores) as store:
            assert await commit(store, insert, insert) == [APPLIED, APPLIED]
            other = post.insert()
            assert await commit(store, again, other, insert) == [APPLIED] * 3
            assert await store.get(insert.mail.id) == insert.mail
            assert await store.read(insert.mail.content, 0, 10) == b"first"
            assert (await store.counts())[QueueState.ACTIVE] == 2

    async def test_an_insert_repeated_leaves_a_mail_in_its_later_state(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, _ = await in_flight(store, post)
            assert await commit(store, Insert(mail, OCTETS), post.insert()) == [APPLIED, APPLIED]
            assert await store.get(mail.id) == mail

    async def test_a_mail_brings_its_history_along_once(self, stores: Stores, post: Post) -> None:
        records = (attempt(started_at=START - 9), attempt(started_at=START - 5))
        moved = attrs.evolve(post.insert(attempts=2, state=QueueState.DEFERRED), attempts=records)
        unfit = attrs.evolve(post.insert(), attempts=(attempt(reply=Reply(250, "", "\udc80")),))
        async with opened(stores) as store:
            assert await commit(store, moved, unfit, post.insert()) == [APPLIED, REFUSED, APPLIED]
            assert await commit(store, moved, moved) == [APPLIED, APPLIED]
            assert await store.attempts(moved.mail.id) == list(records)
            assert await commit(store, attrs.evolve(moved, attempts=(attempt(),)), post.insert()) == [APPLIED, APPLIED]
            assert await store.attempts(moved.mail.id) == list(records)
            assert await store.attempts(unfit.mail.id) == []

    async def test_an_empty_batch_is_no_change(self, stores: Stores) -> None:
        async with opened(stores) as store:
            assert await store.commit([]) == []

    async def test_only_an_active_mail_comes_with_an_owner(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            joined = await store.join("one", START)
            own = post.insert(owner="one")
            held = post.insert(owner="one", state=QueueState.HELD)
            await commit(store, own, held)
            assert (await present(store, own.mail.id)).owner == "one"
            assert (await present(store, held.mail.id)).owner == ""
            assert await claimed(store, joined.token) == []
            assert await commit(store, Begin(own.mail.id, "one", joined.token, START)) == [APPLIED]

    async def test_a_mail_with_an_owner_may_be_in_flight_from_its_insert_on(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            flying = post.insert(owner="one", attempting_since=START + 1)
            nobodys = post.insert(attempting_since=START + 1)
            held = post.insert(owner="one", state=QueueState.HELD, attempting_since=START + 1)
            await commit(store, flying, nobodys, held)
            found = [(await present(store, each.mail.id)).attempting_since for each in (flying, nobodys, held)]
            assert found == [START + 1, None, None]
            assert await commit(store, Withdraw(flying.mail.id)) == [FENCED]
            assert (await store.join("one", START + 2)).uncertain == (flying.mail.id,)
            (attempt,) = await store.attempts(flying.mail.id)
            assert (attempt.result, attempt.started_at) == (AttemptResult.UNCERTAIN, START + 1)
            assert await commit(store, Settle(flying.mail.id, "one", token, None)) == [FENCED]

    async def test_a_mail_in_flight_from_its_insert_on_is_withdrawn_by_who_gave_it_to_nobody(
        self, stores: Stores, post: Post
    ) -> None:
        async with opened(stores) as store:
            await store.join("one", START)
            flying = [post.insert(owner="one", attempting_since=START) for _ in range(3)]
            tried = post.insert(attempts=1, state=QueueState.DEFERRED)
            await commit(store, *flying, tried)
            batch = [Withdraw(each.mail.id, begun=True) for each in (*flying[:2], tried)]
            assert await store.commit([*batch, Withdraw(flying[2].mail.id)]) == [APPLIED, APPLIED, FENCED, FENCED]
            assert await ids(store) == sorted([flying[2].mail.id, tried.mail.id])

    async def test_what_is_returned_is_not_what_is_kept(self, stores: Stores, post: Post) -> None:
        notes = {"a": "b"}
        insert = post.insert(annotations=notes)
        async with opened(stores) as store:
            await commit(store, insert)
            notes["a"] = "changed by the giver"
            found = (await present(store, insert.mail.id)).annotations
            assert found == {"a": "b"}
            assert isinstance(found, dict)
            found["a"] = "changed by the taker"
            assert (await present(store, insert.mail.id)).annotations == {"a": "b"}

    async def test_cancellation_does_a_commit_whole_or_not_at_all(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            batch = [post.insert() for _ in range(30)]
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.commit(batch)
            assert await ids(store) == []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.commit, batch)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert len(await ids(store)) in (0, 30)

    async def test_batches_of_many_tasks_all_land(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            async with trio.open_nursery() as nursery:
                for size in range(1, 12):
                    nursery.start_soon(store.commit, [post.insert() for _ in range(size)])
            assert (await store.counts())[QueueState.ACTIVE] == 66


def poison(post: Post) -> dict[str, Insert]:
    """Inserts that no store can take."""
    fine = post.insert()
    mail = fine.mail
    surrogate = "\udc80"
    odd = Envelope(Address(surrogate, "example.org"), mail.envelope.recipients)
    return {
        "no content": Insert(post.mail()),
        "content of another size": Insert(post.mail(b"longer than it is"), b"short"),
        "an id of another form": Insert(attrs.evolve(mail, id="../../etc/passwd"), OCTETS),
        "an empty id": Insert(attrs.evolve(mail, id=""), OCTETS),
        "a content id of another form": Insert(attrs.evolve(mail, content=ContentRef("../x", len(OCTETS))), OCTETS),
        "an origin of another form": Insert(attrs.evolve(mail, origin_id="x"), OCTETS),
        "text that is not Unicode": Insert(attrs.evolve(mail, envelope=odd), OCTETS),
        "a reason that is not Unicode": Insert(attrs.evolve(mail, reason=surrogate), OCTETS),
        "an annotation that is not Unicode": Insert(attrs.evolve(mail, annotations={"a": surrogate}), OCTETS),
        "a time that is no number": Insert(attrs.evolve(mail, expires_at=float("nan")), OCTETS),
        "a time without end": Insert(attrs.evolve(mail, next_attempt_at=float("inf")), OCTETS),
        "a number beyond 64 bits": Insert(attrs.evolve(mail, attempts=2**63), OCTETS),
        "a digest of another form": Insert(
            attrs.evolve(mail, content=attrs.evolve(mail.content, digest="0" * 63)), OCTETS
        ),
        "progress of another length": Insert(attrs.evolve(mail, progress=()), OCTETS),
    }


class Refusing:
    @pytest.mark.parametrize("kind", list(poison(Post())))
    async def test_poison_harms_no_neighbour(self, stores: Stores, post: Post, kind: str) -> None:
        bad = poison(post)[kind]
        before, after = post.insert(), post.insert()
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            settle = Settle(mail.id, "one", token, None, (attempt(),))
            assert await commit(store, before, bad, settle, after) == [APPLIED, REFUSED, APPLIED, APPLIED]
            assert await ids(store) == [before.mail.id, after.mail.id]
            assert await store.get(bad.mail.id) is None
            assert await store.read(after.mail.content, 0, 1000) == OCTETS
            assert await commit(store, bad) == [REFUSED]

    @pytest.mark.parametrize("kind", list(poison(Post())))
    async def test_a_settlement_with_poison_is_refused_whole(self, stores: Stores, post: Post, kind: str) -> None:
        bounce, bad = post.insert(), poison(post)[kind]
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            settle = Settle(mail.id, "one", token, None, (attempt(),), (bounce, bad))
            assert await commit(store, settle) == [REFUSED]
            assert await ids(store) == [mail.id]
            assert await store.get(mail.id) == mail
            assert await store.attempts(mail.id) == []
            assert await store.read(mail.content, 0, 1000) == OCTETS

    async def test_a_settlement_of_another_mail_is_refused(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            assert await commit(store, Settle(mail.id, "one", token, post.mail())) == [REFUSED]
            broken = attrs.evolve(mail, state=QueueState.DEFERRED, reason="\udc80")
            assert await commit(store, Settle(mail.id, "one", token, broken)) == [REFUSED]
            unsaid = attempt(reply=Reply(250, "", "\udc80"))
            assert await commit(store, Settle(mail.id, "one", token, None, (unsaid,))) == [REFUSED]
            assert await store.get(mail.id) == mail

    async def test_the_fence_is_asked_before_the_fitness(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            bad = poison(post)["no content"]
            assert await commit(store, Settle(mail.id, "one", token + 1, None, (), (bad,))) == [FENCED]
            assert await commit(store, Settle(post.new_id(), "one", token, None, (), (bad,))) == [GONE]


class Contents:
    async def test_mails_share_content_until_the_last_one_leaves(self, stores: Stores, post: Post) -> None:
        first = post.insert()
        others = [Insert(post.mail(origin_id=first.mail.id, content=first.mail.content)) for _ in range(2)]
        async with opened(stores) as store:
            assert await commit(store, first, *others) == [APPLIED] * 3
            # The one whose id the content bears leaves first, then one of the others, then the last.
            for insert in (first, others[1]):
                await commit(store, Withdraw(insert.mail.id))
                assert await store.read(first.mail.content, 0, 1000) == OCTETS
            await commit(store, Withdraw(others[0].mail.id))
            with pytest.raises(ContentMissing):
                await store.read(first.mail.content, 0, 1000)

    async def test_the_same_content_may_come_with_each_insert(self, stores: Stores, post: Post) -> None:
        first = post.insert()
        second = Insert(post.mail(content=first.mail.content), OCTETS)
        third = Insert(post.mail(content=first.mail.content), OCTETS)
        async with opened(stores) as store:
            assert await commit(store, first, second) == [APPLIED, APPLIED]
            assert await commit(store, third) == [APPLIED]
            await commit(store, Withdraw(first.mail.id), Withdraw(second.mail.id))
            assert await store.read(first.mail.content, 0, 1000) == OCTETS

    async def test_content_already_there_need_not_travel_again(self, stores: Stores, post: Post) -> None:
        first = post.insert()
        second = Insert(post.mail(content=first.mail.content))
        async with opened(stores) as store:
            await commit(store, first)
            assert await commit(store, second, post.insert()) == [APPLIED, APPLIED]

    async def test_a_report_may_keep_the_content_of_the_mail_that_leaves(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            report = Insert(post.mail(content=mail.content))
            assert await commit(store, Settle(mail.id, "one", token, None, (), (report,))) == [APPLIED]
            assert await store.read(mail.content, 0, 1000) == OCTETS

    async def test_a_mail_may_be_empty(self, stores: Stores, post: Post) -> None:
        insert = post.insert(b"")
        async with opened(stores) as store:
            assert await commit(store, insert) == [APPLIED]
            assert await store.read(insert.mail.content, 0, 10) == b""

    async def test_content_of_another_size_is_missing(self, stores: Stores, post: Post) -> None:
        insert = post.insert()
        async with opened(stores) as store:
            await commit(store, insert)
            with pytest.raises(ContentMissing):
                await store.read(attrs.evolve(insert.mail.content, size=len(OCTETS) + 1), 0, 10)

    async def test_staged_content_is_there_with_its_insert(self, stores: Stores, post: Post) -> None:
        pieces = [bytes([number]) * PIECE_OCTETS for number in range(3)] + [b"the end"]
        async with opened(stores) as store:
            ref = ContentRef(await staged(store, *pieces), 3 * PIECE_OCTETS + 7)
            with pytest.raises(ContentMissing):
                await store.read(ref, 0, 5)
            mails = [post.mail(content=ref), post.mail(content=ref)]
            assert await commit(store, Insert(mails[0]), Insert(mails[1])) == [APPLIED, APPLIED]
        async with opened(stores) as store:
            assert await store.read(ref, PIECE_OCTETS - 2, 4) == b"\0\0\1\1"
            assert await store.read(ref, 3 * PIECE_OCTETS, PIECE_OCTETS) == b"the end"
            assert await store.read(ref, ref.size, 5) == b""
            await commit(store, Withdraw(mails[0].id))
            assert await store.read(ref, 3 * PIECE_OCTETS, PIECE_OCTETS) == b"the end"
            await commit(store, Withdraw(mails[1].id))
            with pytest.raises(ContentMissing):
                await store.read(ref, 0, 5)

    async def test_little_content_may_be_staged_too(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            small, empty = await staged(store, OCTETS), await staged(store)
            mails = [post.mail(content=ContentRef(small, len(OCTETS))), post.mail(content=ContentRef(empty, 0))]
            assert await commit(store, *map(Insert, mails)) == [APPLIED, APPLIED]
            assert await store.read(mails[0].content, 0, 100) == OCTETS
            assert await store.read(mails[1].content, 0, 100) == b""

    async def test_a_mail_of_the_largest_size_is_kept_whole(self, stores: Stores, post: Post) -> None:
        size = Config().max_size
        octets = random.Random(1).randbytes(size)
        async with opened(stores) as store:
            pieces = [octets[start : start + PIECE_OCTETS] for start in range(0, size, PIECE_OCTETS)]
            ref = ContentRef(await staged(store, *pieces), size)
            mail = post.mail(content=ref)
            assert await commit(store, Insert(mail)) == [APPLIED]
        async with opened(stores) as store:
            digest = sha256()
            for start in range(0, size, 700_000):
                digest.update(await store.read(ref, start, 700_000))
            assert digest.digest() == sha256(octets).digest()
            assert await store.inspect() == []
            assert await commit(store, Withdraw(mail.id)) == [APPLIED]
            with pytest.raises(ContentMissing):
                await store.read(ref, 0, 1)
            assert await store.inspect() == []

    async def test_staged_content_must_be_whole(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            content_id = await staged(store, OCTETS)
            for size in (len(OCTETS) - 1, len(OCTETS) + 1):
                assert await commit(store, Insert(post.mail(content=ContentRef(content_id, size)))) == [REFUSED]
            assert await commit(store, Insert(post.mail(content=ContentRef(content_id, len(OCTETS))))) == [APPLIED]

    async def test_abandoned_content_is_nowhere_and_finished_content_stays(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            writer = await store.stage()
            await writer.write([OCTETS])
            await writer.abandon()
            await writer.abandon()
            writer = await store.stage()
            await writer.abandon()
            writer = await store.stage()
            await writer.write([OCTETS])
            mail = post.mail(content=ContentRef(await writer.finish(), len(OCTETS)))
            await commit(store, Insert(mail))
            await writer.abandon()
            assert await store.read(mail.content, 0, 100) == OCTETS

    async def test_what_no_insert_refers_to_is_collected(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            used, left = await staged(store, OCTETS), await staged(store, OCTETS)
            stores.clock.now = START + 60
            young = await staged(store, OCTETS)
            refs = [ContentRef(content_id, len(OCTETS)) for content_id in (used, left, young)]
            await commit(store, Insert(post.mail(content=refs[0])))
            await store.cleanup(attrs.evolve(KEEP_ALL, staged_before=START + 30))
            assert await commit(store, Insert(post.mail(content=refs[1]))) == [REFUSED]
            assert await commit(store, Insert(post.mail(content=refs[2]))) == [APPLIED]
            assert await store.read(refs[0], 0, 100) == OCTETS


class Claiming:
    async def test_higher_priorities_first_then_the_longest_due(self, stores: Stores, post: Post) -> None:
        def due(priority: Priority, since: float) -> Insert:
            return post.insert(priority=priority, next_attempt_at=START - since)

        low, old, young = due(Priority.LOW, 99), due(Priority.NORMAL, 50), due(Priority.NORMAL, 1)
        high, critical = due(Priority.HIGH, 0), due(Priority.CRITICAL, 2)
        batch = [young, low, high, old, critical]
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            await store.commit(batch)
            assert await claimed(store, token, limit=3) == [critical.mail.id, high.mail.id, old.mail.id]
            assert await claimed(store, token, limit=3) == [young.mail.id, low.mail.id]
            assert await claimed(store, token) == []

    async def test_a_claimed_mail_is_active_and_owned(self, stores: Stores, post: Post) -> None:
        insert = post.insert(state=QueueState.DEFERRED, attempts=2)
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            await commit(store, insert)
            assert await claimed(store, token) == [insert.mail.id]
            mail = await present(store, insert.mail.id)
            assert mail == attrs.evolve(insert.mail, state=QueueState.ACTIVE, owner="one")

    async def test_only_what_is_due_and_may_be_tried(self, stores: Stores, post: Post) -> None:
        later = post.insert(next_attempt_at=START + 10)
        parked = [post.insert(state=state) for state in (QueueState.HELD, QueueState.FAILED, QueueState.DELIVERED)]
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            await commit(store, later, *parked)
            assert await claimed(store, token) == []
            assert await claimed(store, token, now=START + 9.999) == []
            assert await claimed(store, token, now=START + 10) == [later.mail.id]

    async def test_destinations_and_priorities_can_be_left_out(self, stores: Stores, post: Post) -> None:
        a, b = post.insert(destination="a"), post.insert(destination="b", priority=Priority.HIGH)
        c, d = post.insert(destination="c"), post.insert(destination="d")
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            await commit(store, a, b, c, d)
            busy = frozenset({"a", "d", "elsewhere"})
            assert await claimed(store, token, exclude=busy, priority=Priority.NORMAL) == [c.mail.id]
            assert await claimed(store, token, exclude=busy) == [b.mail.id]
            assert await claimed(store, token, limit=0) == []
            assert await claimed(store, token, priority=Priority.LOW) == []
            assert await claimed(store, token) == [a.mail.id, d.mail.id]

    async def test_no_mail_has_two_owners(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            one, two = (await store.join("one", START)).token, (await store.join("two", START)).token
            await store.commit([post.insert() for _ in range(10)])
            first = await claimed(store, one, limit=4)
            second = await claimed(store, two, owner="two", limit=100)
            assert len(first) == 4
            assert len(second) == 6
            assert not set(first) & set(second)

    async def test_a_token_of_an_earlier_life_claims_nothing(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            old = (await store.join("one", START)).token
            new = (await store.join("one", START)).token
            await commit(store, post.insert())
            assert await claimed(store, old) == []
            assert await claimed(store, new, owner="two") == []
            assert len(await claimed(store, new)) == 1

    async def test_next_due_is_the_earliest_that_nobody_owns(self, stores: Stores, post: Post) -> None:
        early = post.insert(next_attempt_at=START - 5, priority=Priority.LOW)
        late = post.insert(next_attempt_at=START + 5, state=QueueState.DEFERRED, priority=Priority.CRITICAL)
        held = post.insert(next_attempt_at=START - 9, state=QueueState.HELD)
        async with opened(stores) as store:
            assert await store.next_due() is None
            await commit(store, early, late, held)
            assert await store.next_due() == START - 5
            assert len(await claimed(store, (await store.join("one", START)).token)) == 1
            assert await store.next_due() == START + 5


class Attempting:
    async def test_an_attempt_begins_only_on_an_own_active_mail(self, stores: Stores, post: Post) -> None:
        insert, held = post.insert(), post.insert(state=QueueState.HELD)
        queue_id = insert.mail.id
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            await commit(store, insert, held)
            assert await commit(store, Begin(queue_id, "one", token, START)) == [FENCED]
            # Nobody owns it, and nobody is no owner.
            assert await commit(store, Begin(queue_id, "", 0, START), Settle(queue_id, "", 0, None)) == [FENCED, FENCED]
            await store.apply(Order(Verb.HOLD, Filter(ids=frozenset({queue_id})), START, 10))
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            batch = [
                Begin(held.mail.id, "one", token, START),
                Begin(mail.id, "two", token, START),
                Begin(mail.id, "one", token - 1, START),
                Begin(post.new_id(), "one", token, START),
                Begin(mail.id, "one", token, START + 7),
            ]
            assert await store.commit(batch) == [FENCED, FENCED, FENCED, GONE, APPLIED]
            assert (await present(store, mail.id)).attempting_since == START + 7

    async def test_a_finished_mail_leaves_with_its_content(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            said = (attempt(), attempt(result=AttemptResult.DELIVERED, recipient="b@example.net"))
            bounce = post.insert(b"bounce")
            assert await commit(store, Settle(mail.id, "one", token, None, said, (bounce,))) == [APPLIED]
            assert await ids(store) == [bounce.mail.id]
            assert await store.attempts(mail.id) == list(said)
            with pytest.raises(ContentMissing):
                await store.read(mail.content, 0, 10)
            assert await store.read(bounce.mail.content, 0, 10) == b"bounce"
            assert await commit(store, Settle(mail.id, "one", token, None, said)) == [GONE]
            assert await store.attempts(mail.id) == list(said)

    async def test_a_deferred_mail_waits_for_anybody(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            progress = (Progress(reply=Reply(450, "4.2.1", "busy"), delay_reported=True),)
            deferred = attrs.evolve(
                mail,
                state=QueueState.DEFERRED,
                progress=progress,
                attempts=1,
                next_attempt_at=START + 60,
                reason="busy",
                priority=Priority.HIGH,
                annotations={"tried": "once"},
            )
            assert await commit(store, Settle(mail.id, "one", token, deferred, (attempt(),))) == [APPLIED]
            expected = attrs.evolve(deferred, owner="", attempting_since=None)
            assert await store.get(mail.id) == expected
            assert await commit(store, Begin(mail.id, "one", token, START)) == [FENCED]
            assert await commit(store, Settle(mail.id, "one", token, None)) == [FENCED]
            assert await claimed(store, token, now=START + 60) == [mail.id]
            assert await store.attempts(mail.id) == [attempt()]

    async def test_where_a_mail_came_from_does_not_change(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            other = attrs.evolve(
                mail, state=QueueState.DEFERRED, origin_id=post.new_id(), content=ContentRef(post.new_id(), 5)
            )
            assert await commit(store, Settle(mail.id, "one", token, other)) == [APPLIED]
            found = await present(store, mail.id)
            assert (found.origin_id, found.content) == (mail.origin_id, mail.content)

    @pytest.mark.parametrize("state", [QueueState.DELIVERED, QueueState.FAILED, QueueState.HELD])
    async def test_a_finished_mail_may_be_kept(self, stores: Stores, post: Post, state: QueueState) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            kept = attrs.evolve(mail, state=state)
            assert await commit(store, Settle(mail.id, "one", token, kept, (attempt(),))) == [APPLIED]
            assert await store.get(mail.id) == attrs.evolve(kept, owner="", attempting_since=None)
            assert await store.read(mail.content, 0, 1000) == OCTETS
            assert await claimed(store, token, now=START + 1e6) == []

    async def test_an_attempt_can_end_with_the_mail_still_owned_or_handed_back(
        self, stores: Stores, post: Post
    ) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            assert await commit(store, Settle(mail.id, "one", token, mail)) == [APPLIED]
            assert await store.get(mail.id) == attrs.evolve(mail, attempting_since=None)
            assert await commit(store, Begin(mail.id, "one", token, START)) == [APPLIED]
            assert await commit(store, Settle(mail.id, "one", token, attrs.evolve(mail, owner=""))) == [APPLIED]
            assert await claimed(store, token) == [mail.id]

    async def test_a_report_is_durable_exactly_when_its_reason_is(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            bounce = post.insert()
            late = Settle(mail.id, "one", token + 1, None, (attempt(),), (bounce,))
            assert await commit(store, late, post.insert()) == [FENCED, APPLIED]
            assert await store.get(bounce.mail.id) is None
            assert await store.attempts(mail.id) == []

    async def test_a_mail_answered_4yz_is_withdrawn_unless_tried(self, stores: Stores, post: Post) -> None:
        fresh, tried = post.insert(), post.insert(attempts=1, state=QueueState.DEFERRED)
        async with opened(stores) as store:
            flying, _ = await in_flight(store, post)
            await commit(store, fresh, tried)
            batch = [Withdraw(fresh.mail.id), Withdraw(tried.mail.id), Withdraw(flying.id), Withdraw(fresh.mail.id)]
            assert await store.commit(batch) == [APPLIED, FENCED, FENCED, GONE]
            assert await ids(store) == sorted([tried.mail.id, flying.id])
            with pytest.raises(ContentMissing):
                await store.read(fresh.mail.content, 0, 1)

    @pytest.mark.parametrize("queue_id", ["", "no such id", "%", "\udc80", "'; --"])
    async def test_an_id_of_another_form_is_no_mails(self, stores: Stores, post: Post, queue_id: str) -> None:
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            insert = post.insert()
            batch: list[Change] = [Begin(queue_id, "one", token, START), Withdraw(queue_id), insert]
            assert await store.commit([*batch, Settle(queue_id, "one", token, None)]) == [GONE, GONE, APPLIED, GONE]
            assert await store.get(queue_id) is None
            assert await store.attempts(queue_id) == []
            with pytest.raises(ContentMissing):
                await store.read(ContentRef(queue_id, 1), 0, 1)
            assert await ids(store) == [insert.mail.id]

    async def test_changes_of_one_mail_apply_in_order(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            insert = post.insert(owner="one")
            queue_id = insert.mail.id
            batch: list[Change] = [
                insert,
                Begin(queue_id, "one", token, START),
                Withdraw(queue_id),
                Settle(queue_id, "one", token, None, (attempt(),)),
                Settle(queue_id, "one", token, None),
                insert,
                Withdraw(queue_id),
            ]
            assert await store.commit(batch) == [APPLIED, APPLIED, FENCED, APPLIED, GONE, APPLIED, APPLIED]
            assert await ids(store) == []
            assert await store.attempts(queue_id) == [attempt()]

    async def test_large_batches_apply_like_small_ones(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            inserts = [post.insert(b"%d" % number, owner="one") for number in range(150)]
            assert set(await store.commit(inserts)) == {APPLIED}
            begins = [Begin(insert.mail.id, "one", token, START + n) for n, insert in enumerate(inserts)]
            assert set(await store.commit(begins)) == {APPLIED}
            assert (await present(store, inserts[77].mail.id)).attempting_since == START + 77
            begun = [attrs.evolve(insert.mail, attempts=1, state=QueueState.DEFERRED) for insert in inserts]
            settles = [
                Settle(mail.id, "one", token, mail if number % 3 else None, (attempt(started_at=float(number)),))
                for number, mail in enumerate(begun)
            ]
            assert set(await store.commit(settles)) == {APPLIED}
            counts = await store.counts()
            assert (counts[QueueState.ACTIVE], counts[QueueState.DEFERRED]) == (0, 100)
            assert [each.started_at for each in await store.attempts(inserts[149].mail.id)] == [149.0]


class Joining:
    async def test_each_life_has_a_greater_token(self, stores: Stores) -> None:
        async with opened(stores) as store:
            tokens = [(await store.join(owner, START)).token for owner in ("one", "two", "one")]
        async with opened(stores) as store:
            tokens.append((await store.join("two", START)).token)
        assert tokens == sorted(set(tokens))
        assert tokens[0] > 0

    async def test_mails_of_an_earlier_life_can_be_claimed_again(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            flying, old = await in_flight(store, post)
            resting, foreign = post.insert(), post.insert()
            await commit(store, resting)
            await claimed(store, old)
            other = (await store.join("two", START)).token
            await commit(store, foreign)
            await claimed(store, other, owner="two")
        async with opened(stores) as store:
            joined = await store.join("one", START + 100)
            assert (joined.recovered, joined.uncertain) == (2, (flying.id,))
            assert await store.get(flying.id) == attrs.evolve(flying, owner="", attempting_since=None)
            assert (await present(store, foreign.mail.id)).owner == "two"
            assert await commit(store, Settle(flying.id, "one", old, None)) == [FENCED]
            assert await claimed(store, joined.token) == sorted([flying.id, resting.mail.id])
            assert await commit(store, Settle(flying.id, "one", old, None)) == [FENCED]
            assert await commit(store, Settle(flying.id, "one", joined.token, None)) == [APPLIED]

    async def test_an_attempt_that_nobody_saw_the_end_of_is_recorded(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            recipients = tuple(Recipient(Address(name, "example.net")) for name in ("a", "b", "c"))
            mail = post.mail(
                envelope=Envelope(None, recipients),
                progress=(UNTRIED, Progress(RecipientStatus.DELIVERED), UNTRIED),
                owner="one",
            )
            await commit(store, Insert(mail, OCTETS), Begin(mail.id, "one", token, START + 3))
            await store.join("one", START + 100)
            found = await store.attempts(mail.id)
            assert [each.recipient for each in found] == ["a@example.net", "c@example.net"]
            assert {(each.result, each.started_at) for each in found} == {(AttemptResult.UNCERTAIN, START + 3)}
            assert all(each.reply.is_transient for each in found)
            assert (await store.join("one", START + 200)).uncertain == ()


class Looking:
    async def test_pages_follow_the_ids(self, stores: Stores, post: Post) -> None:
        inserts = [post.insert() for _ in range(5)]
        expected = [insert.mail.id for insert in inserts]
        async with opened(stores) as store:
            await store.commit(inserts[::-1])
            assert [mail.id for mail in await store.list(EVERYTHING, 2)] == expected[:2]
            assert [mail.id for mail in await store.list(EVERYTHING, 2, expected[1])] == expected[2:4]
            assert await store.list(EVERYTHING, 2, expected[4]) == []
            assert await store.list(EVERYTHING, 0) == []
            assert await store.get("no such id") is None
            assert await store.attempts("no such id") == []

    async def test_all_given_terms_of_a_filter_hold(self, stores: Stores, post: Post) -> None:
        def to(*recipients: Address, sender: Address | None = None, **changes: Any) -> str:
            everyone = tuple(map(Recipient, recipients))
            envelope = Envelope(sender, everyone)
            inserts.append(post.insert(envelope=envelope, progress=(UNTRIED,) * len(everyone), **changes))
            return inserts[-1].mail.id

        inserts: list[Insert] = []
        a = to(Address("Bob", "example.net"), Address("eve", "sub.example.net"), sender=Address("x", "y.org"))
        b = to(Address("bob", "example.net"), destination="elsewhere", received_at=START - 50)
        c = to(Address("odd@example.net", "z.org"), sender=Address("x x", "y.org"), state=QueueState.HELD)
        d = to(Address("postmaster", ""), sender=Address("xx", "sub.y.org"), state=QueueState.FAILED)
        expected = [
            (EVERYTHING, [a, b, c, d]),
            (Filter(ids=frozenset({b, d, "no such id"})), [b, d]),
            (Filter(ids=frozenset()), []),
            (Filter(states=frozenset({QueueState.HELD, QueueState.FAILED})), [c, d]),
            (Filter(states=frozenset()), []),
            (Filter(recipient="Bob@EXAMPLE.net"), [a]),
            (Filter(recipient="bob@example.net"), [b]),
            (Filter(recipient="@Example.NET"), [a, b]),
            (Filter(recipient="postmaster"), [d]),
            (Filter(recipient="@net"), []),
            (Filter(sender="@y.org"), [a, c]),
            (Filter(sender='"x x"@y.org'), [c]),
            (Filter(sender=""), [b]),
            (Filter(destination="elsewhere"), [b]),
            (Filter(received_before=START - 50), [b]),
            (Filter(received_before=START - 51), []),
            (Filter(sender="@y.org", states=frozenset({QueueState.ACTIVE}), recipient="@example.net"), [a]),
            (Filter(sender="%", recipient="%"), []),
            (Filter(sender="\udc80"), []),
            (Filter(ids=frozenset({"\udc80", "", "%", a})), [a]),
        ]
        async with opened(stores) as store:
            await store.commit(inserts)
            for chosen, found in expected:
                assert await ids(store, chosen) == found, chosen

    async def test_every_state_is_counted(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            assert await store.counts() == dict.fromkeys(QueueState, 0)
            mail, token = await in_flight(store, post)
            await store.commit([post.insert(state=state) for state in QueueState for _ in range(2)])
            await commit(store, Settle(mail.id, "one", token, attrs.evolve(mail, state=QueueState.FAILED)))
            assert await store.counts() == {state: 3 if state is QueueState.FAILED else 2 for state in QueueState}


class Ordering:
    async def test_hold_and_release(self, stores: Stores, post: Post) -> None:
        new, tried = post.insert(next_attempt_at=START + 50), post.insert(attempts=1, next_attempt_at=START - 50)
        both = (new.mail.id, tried.mail.id)
        async with opened(stores) as store:
            token = (await store.join("one", START)).token
            await commit(store, new, tried)
            await claimed(store, token)
            held = await store.apply(Order(Verb.HOLD, EVERYTHING, START, 10, "looks odd"))
            assert (held.changed, held.in_flight) == (both, ())
            for queue_id in both:
                mail = await present(store, queue_id)
                assert (mail.state, mail.reason, mail.owner) == (QueueState.HELD, "looks odd", "")
            assert await commit(store, Begin(both[1], "one", token, START)) == [FENCED]
            assert await claimed(store, token, now=START + 99) == []
            again = await store.apply(Order(Verb.HOLD, EVERYTHING, START, 10))
            assert again.changed == ()
            assert (await store.apply(Order(Verb.RELEASE, EVERYTHING, START, 10))).changed == both
            assert await store.get(both[0]) == attrs.evolve(new.mail, next_attempt_at=START)
            released = attrs.evolve(tried.mail, state=QueueState.DEFERRED)
            assert await store.get(both[1]) == released
            assert await claimed(store, token) == [both[1], both[0]]

    async def test_retry_makes_mails_due_and_comes_to_an_end(self, stores: Stores, post: Post) -> None:
        due, later = post.insert(next_attempt_at=START - 1), post.insert(next_attempt_at=START + 99)
        more = post.insert(state=QueueState.DEFERRED, next_attempt_at=START + 99)
        held = post.insert(state=QueueState.HELD)
        async with opened(stores) as store:
            await commit(store, due, later, more, held)
            changed: list[str] = []
            while found := (await store.apply(Order(Verb.RETRY, EVERYTHING, START, 1))).changed:
                changed += found
            assert changed == [later.mail.id, more.mail.id]
            assert (await present(store, due.mail.id)).next_attempt_at == START - 1
            assert (await present(store, later.mail.id)).next_attempt_at == START
            assert (await present(store, held.mail.id)).next_attempt_at == START

    async def test_retry_gives_failed_recipients_another_chance(self, stores: Stores, post: Post) -> None:
        refused = Progress(RecipientStatus.FAILED, Reply(550, "5.1.1", "nobody"), reported=True)
        taken = Progress(RecipientStatus.DELIVERED, Reply(250, "2.0.0", "ok"))
        everyone = tuple(Recipient(Address(name, "example.net")) for name in "ab")
        failed = post.insert(
            state=QueueState.FAILED,
            envelope=Envelope(None, everyone),
            progress=(refused, taken),
            next_attempt_at=START - 10,
            reason="nobody",
        )
        async with opened(stores) as store:
            await commit(store, failed)
            order = Order(Verb.RETRY, EVERYTHING, START, 10)
            assert (await store.apply(order)).changed == (failed.mail.id,)
            pending = attrs.evolve(refused, status=RecipientStatus.PENDING)
            expected = attrs.evolve(
                failed.mail, state=QueueState.DEFERRED, progress=(pending, taken), reason="", next_attempt_at=START - 10
            )
            assert await store.get(failed.mail.id) == expected
            assert (await store.apply(order)).changed == ()

    async def test_delete_takes_any_state_and_keeps_the_history(self, stores: Stores, post: Post) -> None:
        inserts = [post.insert(state=state) for state in QueueState]
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            await commit(store, Settle(mail.id, "one", token, attrs.evolve(mail, owner=""), (attempt(),)))
            await store.commit(inserts)
            ordered = await store.apply(Order(Verb.DELETE, EVERYTHING, START, 100))
            assert len(ordered.changed) == 6
            assert await ids(store) == []
            assert await store.attempts(mail.id) == [attempt()]
            assert set((await store.counts()).values()) == {0}
            with pytest.raises(ContentMissing):
                await store.read(inserts[0].mail.content, 0, 1)

    @pytest.mark.parametrize("verb", [Verb.RETRY, Verb.HOLD, Verb.DELETE])
    async def test_a_mail_in_flight_is_left_alone(self, stores: Stores, post: Post, verb: Verb) -> None:
        async with opened(stores) as store:
            mail, _ = await in_flight(store, post)
            ordered = await store.apply(Order(verb, EVERYTHING, START, 100))
            assert (ordered.changed, ordered.in_flight) == ((), (mail.id,))
            assert await store.get(mail.id) == mail

    async def test_an_order_keeps_to_its_limit_and_filter(self, stores: Stores, post: Post) -> None:
        inserts = [post.insert(destination="ab"[number % 2]) for number in range(10)]
        async with opened(stores) as store:
            await store.commit(inserts)
            ordered = await store.apply(Order(Verb.DELETE, Filter(destination="b"), START, 3))
            assert ordered.changed == tuple(inserts[number].mail.id for number in (1, 3, 5))
            assert (await store.apply(Order(Verb.DELETE, EVERYTHING, START, 0))).changed == ()
            assert len(await ids(store)) == 7


class Ageing:
    async def test_finished_mails_go_when_their_time_is_over(self, stores: Stores, post: Post) -> None:
        def finished(state: QueueState, ago: float) -> Insert:
            return post.insert(state=state, next_attempt_at=START - ago)

        old = [finished(state, 100) for state in QueueState]
        young = [finished(state, 10) for state in QueueState]
        async with opened(stores) as store:
            await store.commit(old + young)
            assert await store.cleanup(KEEP_ALL) == 0
            retention = Retention(delivered_before=START - 50, failed_before=START - 50, attempts_before=None, limit=1)
            assert [await store.cleanup(retention) for _ in range(3)] == [1, 1, 0]
            left = await ids(store)
            assert len(left) == 8
            assert await store.cleanup(attrs.evolve(retention, delivered_before=START, limit=50)) == 1
            with pytest.raises(ContentMissing):
                await store.read(old[3].mail.content, 0, 1)

    async def test_old_attempts_go_with_the_years(self, stores: Stores, post: Post) -> None:
        async with opened(stores) as store:
            mail, token = await in_flight(store, post)
            records = (attempt(started_at=START - 100), attempt(started_at=START))
            await commit(store, Settle(mail.id, "one", token, None, records))
            await store.cleanup(attrs.evolve(KEEP_ALL, attempts_before=START - 100))
            assert len(await store.attempts(mail.id)) == 2
            await store.cleanup(attrs.evolve(KEEP_ALL, attempts_before=START - 50))
            assert await store.attempts(mail.id) == [records[1]]


class QueueStoreContract(Inserting, Refusing, Contents, Claiming, Attempting, Joining, Looking, Ordering, Ageing):
    """The whole contract: `class TestEngine(QueueStoreContract)` runs it."""
