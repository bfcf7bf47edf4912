"""Copies of queues: between engines, interrupted anywhere, repeated, with damage on either side."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.queue import transfer
from elemta.queue.shared import as_shared
from elemta.queue.transfer import SameStore, SourceInUse, Tally, Terms, Transfer
from elemta.runtime.threads import WorkerThreads
from elemta.storage.base import (
    Begin,
    Change,
    Claim,
    CommitUnknown,
    Filter,
    Insert,
    Order,
    QueueStore,
    Result,
    Settle,
    StoreUnavailable,
    Verb,
)
from elemta.storage.file import FileStore
from elemta.storage.memory import MemoryStore
from elemta.storage.records import INLINE_CONTENT_OCTETS, PIECE_OCTETS, ContentRef, QueuedMail, QueueState
from elemta.storage.rules import INTERRUPTED
from elemta.storage.sqlite import SqliteStore
from tests.storage.databases import DatabaseStores, empty_tables, made_database
from tests.storage.mails import CLOSE_SECONDS, OCTETS, START, HandClock, Post, attempt, claimed, commit, rich_mail

#: Content that does not travel with its insert, of more than one piece.
LARGE = bytes(range(256)) * (2 * PIECE_OCTETS // 256) + b"the end"
#: After every lease of a store that a test filled, UTC in seconds since 1970.
LATER = START + 3600

#: Makes a store whose data stays where it is; a second call gives the same data.
Make = Callable[[str], QueueStore]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def post(clock: HandClock) -> Post:
    return Post(clock)


@pytest.fixture(params=["memory", "sqlite", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Make:
    """A store that needs no server."""
    kept: dict[str, MemoryStore] = {}

    def build(name: str) -> QueueStore:
        if request.param == "memory":
            return kept.setdefault(name, MemoryStore(clock))
        store = SqliteStore if request.param == "sqlite" else FileStore
        return store(str(tmp_path / name), WorkerThreads(), clock)

    return build


@pytest.fixture(scope="module", params=list(Dialect), ids=lambda dialect: dialect.value)
def databases(request: pytest.FixtureRequest) -> Iterator[dict[str, DatabaseOptions]]:
    """Two databases of one engine."""
    with made_database(request.param) as source, made_database(request.param) as target:
        yield {"source": source, "target": target}


@pytest.fixture
def make_shared(databases: dict[str, DatabaseOptions]) -> Make:
    """A store that nodes share."""
    for options in databases.values():
        empty_tables(options)
    return lambda name: DatabaseStores(databases[name]).build()


@asynccontextmanager
async def both(make: Make) -> AsyncIterator[tuple[QueueStore, QueueStore]]:
    source, target = make("source"), make("target")
    await source.open()
    await target.open()
    try:
        yield source, target
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await source.close()
            await target.close()


async def copy(source: QueueStore, target: QueueStore, **terms: Any) -> Tally:
    clock = HandClock()
    clock.now = LATER
    return await Transfer(source, target, clock=clock, terms=Terms("a copy", **terms)).run(lambda _: None)


async def fill(store: QueueStore, *mails: QueuedMail, octets: bytes = OCTETS) -> None:
    assert await store.commit([Insert(mail, octets) for mail in mails]) == [Result.APPLIED] * len(mails)


async def staged(store: QueueStore, octets: bytes) -> ContentRef:
    writer = await store.stage()
    for start in range(0, len(octets), PIECE_OCTETS):
        await writer.write([octets[start : start + PIECE_OCTETS]])
    return ContentRef(await writer.finish(), len(octets), eight_bit=True, header_octets=5)


async def content(store: QueueStore, mail: QueuedMail) -> bytes:
    found = bytearray()
    while piece := await store.read(mail.content, len(found), PIECE_OCTETS):
        found += piece
    return bytes(found)


async def mails_of(store: QueueStore) -> Sequence[QueuedMail]:
    return await store.list(Filter(), 10_000)


def digested(mail: QueuedMail, octets: bytes = OCTETS) -> QueuedMail:
    return attrs.evolve(mail, content=attrs.evolve(mail.content, digest=sha256(octets).hexdigest()))


async def tried(store: QueueStore, mail: QueuedMail, left: QueuedMail | None = None, **changes: Any) -> None:
    """Try a mail that lies in a store once, as a server would."""
    joined = await store.join("a server", START)
    mails = await store.claim(Claim("a server", joined.token, START + 1e6, 1000))
    assert mail.id in {each.id for each in mails}
    others = [Settle(each.id, "a server", joined.token, attrs.evolve(each, owner="")) for each in mails]
    await store.commit([change for change in others if change.id != mail.id])
    await commit(store, Settle(mail.id, "a server", joined.token, left, (attempt(**changes),)))
    shared = as_shared(store)
    if shared is not None:
        await shared.leave("a server", joined.token)


async def fall_silent(store: QueueStore, owner: str, token: int) -> None:
    """A node of a shared store stops in the middle of everything, and its lease ends."""
    shared = as_shared(store)
    if shared is not None:
        await shared.renew(owner, token, -1.0)


# ---- what comes along --------------------------------------------------------------------------


async def test_everything_of_a_mail_comes_along(make: Make, post: Post, clock: HandClock) -> None:
    async with both(make) as (source, target):
        mail = digested(rich_mail(post.new_id()))
        await fill(source, mail)
        await tried(source, mail, mail)
        await tried(source, mail, attrs.evolve(mail, attempts=4), started_at=START + 9)
        clock.now = LATER
        tally = await copy(source, target)
        assert tally.troubles == []
        assert (tally.total, tally.copied, tally.failed, tally.octets) == (1, 1, 0, len(OCTETS))
        (found,) = await mails_of(target)
        assert found == digested(attrs.evolve(mail, attempts=4))
        assert await target.attempts(mail.id) == await source.attempts(mail.id)
        assert [each.started_at for each in await target.attempts(mail.id)] == [START, START + 9]
        assert await content(target, found) == OCTETS


@pytest.mark.parametrize("state", list(QueueState))
@pytest.mark.parametrize("has_history", [False, True])
async def test_every_state_stays_what_it_is(
    state: QueueState, has_history: bool, make: Make, post: Post, clock: HandClock
) -> None:
    async with both(make) as (source, target):
        mail = post.mail(reason="because")
        await fill(source, mail)
        stands = attrs.evolve(mail, state=state, next_attempt_at=START + 77)
        if has_history:
            await tried(source, mail, stands)
        else:
            mail = attrs.evolve(stands, id=post.new_id())
            await fill(source, mail)
            await source.apply(Order(Verb.DELETE, Filter(ids=frozenset({stands.id})), START, 1))
        before = await mails_of(source)
        clock.now = LATER
        assert (await copy(source, target)).copied == 1
        (found,) = await mails_of(target)
        assert found.state is state
        assert found == digested(before[0])
        assert len(await target.attempts(found.id)) == has_history


async def test_large_content_goes_in_pieces_and_stays_shared(make: Make, post: Post) -> None:
    async with both(make) as (source, target):
        ref = await staged(source, LARGE)
        mails = [post.mail(content=ref) for _ in range(3)]
        await source.commit([Insert(mail) for mail in mails])
        tally = await copy(source, target)
        assert (tally.copied, tally.octets) == (3, len(LARGE))
        found = await mails_of(target)
        assert {mail.content.digest for mail in found} == {sha256(LARGE).hexdigest()}
        assert len({mail.content.id for mail in found}) == 1
        assert (found[0].content.eight_bit, found[0].content.header_octets) == (True, 5)
        assert await content(target, found[2]) == LARGE


async def test_small_content_stays_shared(make: Make, post: Post) -> None:
    async with both(make) as (source, target):
        first, second = post.mail(), post.mail()
        second = attrs.evolve(second, content=first.content)
        await fill(source, first, second)
        await copy(source, target)
        assert len({mail.content.id for mail in await mails_of(target)}) == 1
        await target.apply(Order(Verb.DELETE, Filter(ids=frozenset({first.id})), START, 1))
        assert await content(target, (await mails_of(target))[0]) == OCTETS


@pytest.mark.parametrize("size", [0, 1, INLINE_CONTENT_OCTETS, INLINE_CONTENT_OCTETS + 1])
async def test_content_of_every_size(size: int, make: Make, post: Post) -> None:
    octets = os.urandom(size)
    async with both(make) as (source, target):
        ref = await staged(source, octets)
        await source.commit([Insert(post.mail(content=ref))])
        assert (await copy(source, target)).copied == 1
        (found,) = await mails_of(target)
        assert await content(target, found) == octets


async def test_many_mails_go_in_few_commits(make: Make, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAGE_MAILS", 7)
    async with both(make) as (source, target):
        await fill(source, *(post.mail() for _ in range(30)))
        counted = Interrupted(target, after=1000)
        assert (await copy(source, counted)).copied == 30
        assert counted.commits == 5
        assert [mail.id for mail in await mails_of(target)] == [mail.id for mail in await mails_of(source)]


async def test_a_commit_holds_a_bounded_number_of_octets(
    make: Make, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH_OCTETS", 3 * len(OCTETS))
    async with both(make) as (source, target):
        await fill(source, *(post.mail() for _ in range(7)))
        counted = Interrupted(target, after=1000)
        assert (await copy(source, counted)).copied == 7
        assert counted.commits == 3


# ---- in flight ---------------------------------------------------------------------------------


async def test_an_attempt_in_flight_is_recorded_as_uncertain(make: Make, post: Post, clock: HandClock) -> None:
    async with both(make) as (source, target):
        flying, owned = post.mail(), post.mail()
        await fill(source, flying, owned)
        token = (await source.join("one", START)).token
        assert await claimed(source, token) == [flying.id, owned.id]
        await commit(source, Begin(flying.id, "one", token, START + 3))
        await fall_silent(source, "one", token)
        clock.now = LATER
        tally = await copy(source, target)
        assert (tally.copied, tally.uncertain) == (2, 1)
        assert [(mail.owner, mail.attempting_since) for mail in await mails_of(target)] == [("", None)] * 2
        (record,) = await target.attempts(flying.id)
        assert (record.started_at, record.reply) == (START + 3, INTERRUPTED)
        # As the source would have said of itself.
        await source.join("one", START)
        assert await source.attempts(flying.id) == [record]


async def test_what_is_safe_leaves_the_source(make: Make, post: Post, clock: HandClock) -> None:
    async with both(make) as (source, target):
        flying, owned, plain = post.mail(), post.mail(), post.mail(state=QueueState.HELD)
        await fill(source, flying, owned, plain)
        token = (await source.join("one", START)).token
        await claimed(source, token)
        await commit(source, Begin(flying.id, "one", token, START + 3))
        await fall_silent(source, "one", token)
        clock.now = LATER
        tally = await copy(source, target, remove=True)
        assert (tally.copied, tally.removed, tally.failed) == (3, 3, 0)
        assert await mails_of(source) == []
        assert len(await mails_of(target)) == 3
        assert len(await target.attempts(flying.id)) == 1


async def test_a_source_that_is_delivered_from_is_left_alone(post: Post, clock: HandClock) -> None:
    source, target = MemoryStore(clock), MemoryStore(clock)
    await fill(source, post.mail())
    await source.join("mx1", START)
    with pytest.raises(SourceInUse, match="mx1"):
        await copy(source, target)
    assert await mails_of(target) == []
    assert (await copy(source, target, source_in_use=True)).copied == 1


async def test_a_store_is_not_copied_into_itself(post: Post, clock: HandClock) -> None:
    store = MemoryStore(clock)
    await fill(store, post.mail())
    with pytest.raises(SameStore):
        await copy(store, store, remove=True)
    assert len(await mails_of(store)) == 1
    assert await store.nodes() == []


# ---- again and again ---------------------------------------------------------------------------


async def test_a_second_run_changes_nothing(make: Make, post: Post, clock: HandClock) -> None:
    async with both(make) as (source, target):
        mail, other = post.mail(), post.mail()
        await fill(source, mail, other)
        await tried(source, mail, attrs.evolve(mail, attempts=1, state=QueueState.DEFERRED))
        clock.now = LATER
        await copy(source, target)
        await target.apply(Order(Verb.HOLD, Filter(ids=frozenset({mail.id})), START, 1, "wait"))
        before = await mails_of(target)
        tally = await copy(source, target)
        assert (tally.copied, tally.present, tally.failed) == (0, 2, 0)
        assert await mails_of(target) == before
        assert len(await target.attempts(mail.id)) == 1


@pytest.mark.parametrize("with_history", [False, True])
async def test_what_the_target_delivered_is_not_brought_back(
    with_history: bool, make: Make, post: Post, clock: HandClock
) -> None:
    async with both(make) as (source, target):
        mail, other = post.mail(), post.mail()
        await fill(source, mail, other)
        if with_history:
            await tried(source, mail, attrs.evolve(mail, attempts=1))
        clock.now = LATER
        await copy(source, target)
        await tried(target, mail, None, started_at=LATER)
        clock.now += 3600
        tally = await copy(source, target, remove=True)
        assert (tally.copied, tally.present, tally.finished, tally.removed) == (0, 1, 1, 1)
        assert [each.id for each in await mails_of(target)] == [other.id]
        # For a person to look at: nothing is removed on the word of a record alone.
        assert [each.id for each in await mails_of(source)] == [mail.id]


async def test_a_queue_goes_there_and_back(make: Make, post: Post, clock: HandClock) -> None:
    async with both(make) as (source, target):
        mail, flying = post.mail(), post.mail()
        await fill(source, mail, flying)
        await tried(source, mail, attrs.evolve(mail, attempts=1))
        token = (await source.join("one", START)).token
        await claimed(source, token, now=START)
        await commit(source, Begin(flying.id, "one", token, START + 3))
        await fall_silent(source, "one", token)
        clock.now = LATER
        await copy(source, target, remove=True)
        clock.now += 3600
        tally = await copy(target, source, remove=True)
        assert (tally.copied, tally.removed) == (2, 2)
        assert len(await source.attempts(mail.id)) == 1
        assert len(await source.attempts(flying.id)) == 1


async def test_history_that_the_source_forgot_loses_no_mail(make: Make, post: Post, clock: HandClock) -> None:
    """The target remembers older attempts than the source does: the mail never left the target."""
    async with both(make) as (source, target):
        mail = post.mail()
        tried_once = attrs.evolve(mail, attempts=1)
        await fill(target, mail)
        await tried(target, mail, tried_once)
        await target.apply(Order(Verb.DELETE, Filter(ids=frozenset({mail.id})), START, 1))
        await fill(source, tried_once)
        clock.now = LATER
        assert (await copy(source, target)).copied == 1


class Interrupted:
    """A store whose commits fail from some commit on, before or after they are durable."""

    def __init__(self, inner: QueueStore, *, after: int, landed: bool = False, error: type[Exception] | None = None):
        self._inner = inner
        self._after = after
        self._landed = landed
        self._error = error or StoreUnavailable
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        self.commits += 1
        if self.commits <= self._after:
            return await self._inner.commit(batch)
        if self._landed:
            await self._inner.commit(batch)
        raise self._error("the cable is out")


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("remove", [False, True])
async def test_an_interrupted_copy_goes_on(
    landed: bool, remove: bool, make: Make, post: Post, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PAGE_MAILS", 4)
    async with both(make) as (source, target):
        mails = [post.mail() for _ in range(10)]
        await fill(source, *mails)
        ref = await staged(source, LARGE)
        large = [post.mail(content=ref) for _ in range(3)]
        await source.commit([Insert(mail) for mail in large])
        await tried(source, mails[3], attrs.evolve(mails[3], attempts=1))
        clock.now = LATER
        for after in (0, 1, 1, 2):
            with suppress(StoreUnavailable):
                await copy(source, Interrupted(target, after=after, landed=landed), remove=remove)
            clock.now += 3600
        tally = await copy(source, target, remove=remove)
        assert tally.failed == 0
        found = await mails_of(target)
        assert [mail.id for mail in found] == [mail.id for mail in (*mails, *large)]
        assert len({mail.content.id for mail in found[-3:]}) == 1
        assert len(await target.attempts(mails[3].id)) == 1
        assert len(await mails_of(source)) == (0 if remove else 13)


async def test_a_commit_of_unknown_outcome_is_repeated(make: Make, post: Post, clock: HandClock) -> None:
    class Doubtful(Interrupted):
        async def commit(self, batch: Sequence[Change]) -> list[Result]:
            self.commits += 1
            found = await self._inner.commit(batch)
            if self.commits == 1:
                raise CommitUnknown("who knows")
            return found

    async with both(make) as (source, target):
        mail, other = post.mail(), post.mail()
        await fill(source, mail, other)
        await tried(source, mail, attrs.evolve(mail, attempts=1))
        clock.now = LATER
        tally = await copy(source, Doubtful(target, after=0))
        assert (tally.copied, tally.failed) == (2, 0)
        assert len(await target.attempts(mail.id)) == 1


async def test_content_that_left_the_target_meanwhile_is_copied_again(
    make: Make, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mails share content; the target finished the first before the second came."""
    monkeypatch.setattr(transfer, "PAGE_MAILS", 1)

    class Quick(Interrupted):
        async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
            found = await self._inner.list(chosen, limit, after)
            if found and found[0].id == first.id:
                await self._inner.apply(Order(Verb.DELETE, Filter(ids=frozenset({first.id})), START, 1))
            return found

    async with both(make) as (source, target):
        ref = await staged(source, LARGE)
        first, second = post.mail(content=ref), post.mail(content=ref)
        await source.commit([Insert(first), Insert(second)])
        await copy(source, Quick(target, after=1000))
        (found,) = await mails_of(target)
        assert found.id == second.id
        assert await content(target, found) == LARGE


# ---- damage ------------------------------------------------------------------------------------


class Rotten:
    """A store in which some content was changed or cut behind everybody's back."""

    def __init__(self, inner: QueueStore, content_ids: set[str], *, cut: bool = False) -> None:
        self._inner = inner
        self._content_ids = content_ids
        self._cut = cut

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        octets = await self._inner.read(ref, offset, limit)
        if ref.id not in self._content_ids:
            return octets
        return b"" if self._cut else bytes([octets[0] ^ 1]) + octets[1:]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("large", [False, True])
async def test_damaged_content_is_said_and_left(cut: bool, large: bool, make: Make, post: Post) -> None:
    octets = LARGE if large else OCTETS
    async with both(make) as (source, target):
        refs = [attrs.evolve(await staged(source, octets), digest=sha256(octets).hexdigest()) for _ in range(3)]
        mails = [post.mail(content=ref) for ref in refs]
        await source.commit([Insert(mail) for mail in mails])
        tally = await copy(Rotten(source, {refs[1].id}, cut=cut), target, remove=True)
        assert (tally.copied, tally.removed, tally.failed) == (2, 2, 1)
        assert tally.troubles[0].id == mails[1].id
        assert ("ends after" if cut else "SHA-256") in tally.troubles[0].what
        assert [mail.id for mail in await mails_of(source)] == [mails[1].id]
        assert [mail.id for mail in await mails_of(target)] == [mails[0].id, mails[2].id]


@pytest.mark.parametrize("again", [False, True])
async def test_nothing_leaves_the_source_that_is_not_whole_in_the_target(again: bool, make: Make, post: Post) -> None:
    async with both(make) as (source, target):
        small = post.mail()
        await fill(source, small)
        ref = await staged(source, LARGE)
        shared = [post.mail(content=ref) for _ in range(2)]
        await source.commit([Insert(mail) for mail in shared])
        if again:
            await copy(source, target)
            rotten = {mail.content.id for mail in await mails_of(target)}
        else:
            rotten = Everything()
        tally = await copy(source, Rotten(target, rotten), remove=True)
        assert (tally.removed, tally.failed) == (0, 3)
        assert len(await mails_of(source)) == 3


class Everything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


async def test_more_troubles_than_are_named_stay_in_the_source_too(
    make: Make, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "NAMED_TROUBLES", 1)
    async with both(make) as (source, target):
        mails = [digested(post.mail()) for _ in range(4)]
        await fill(source, *mails)
        bad = {mail.content.id for mail in mails[:3]}
        tally = await copy(Rotten(source, bad), target, remove=True)
        assert (tally.removed, tally.failed, len(tally.troubles)) == (1, 3, 1)
        assert [mail.id for mail in await mails_of(source)] == [mail.id for mail in mails[:3]]


async def test_it_may_be_cancelled_anywhere(make: Make, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAGE_MAILS", 2)
    async with both(make) as (source, target):
        await fill(source, *(post.mail() for _ in range(8)))
        for stop in (1, 3, 5):
            with trio.CancelScope() as scope:

                def tell(tally: Tally, scope: trio.CancelScope = scope, stop: int = stop) -> None:
                    if tally.seen >= stop:
                        scope.cancel()

                clock = HandClock()
                await Transfer(source, target, clock=clock, terms=Terms("a copy")).run(tell)
            assert scope.cancelled_caught
        assert (await copy(source, target)).failed == 0
        assert await mails_of(target) == [digested(mail) for mail in await mails_of(source)]


# ---- in a database that nodes share ------------------------------------------------------------


async def test_everything_goes_to_a_database_and_back(make_shared: Make, post: Post, clock: HandClock) -> None:
    async with both(make_shared) as (shared, other):
        source = MemoryStore(clock)
        tried_mail, flying, held = rich_mail(post.new_id()), post.mail(), post.mail(state=QueueState.HELD)
        await fill(source, digested(tried_mail), flying, held)
        await tried(source, tried_mail, attrs.evolve(tried_mail, attempts=4, next_attempt_at=START + 1e7))
        ref = await staged(source, LARGE)
        large = [post.mail(content=ref) for _ in range(2)]
        await source.commit([Insert(mail) for mail in large])
        token = (await source.join("one", START)).token
        assert flying.id in await claimed(source, token)
        await commit(source, Begin(flying.id, "one", token, START + 3))
        await fall_silent(source, "one", token)
        before = {mail.id: mail for mail in await mails_of(source)}
        for start, end in ((source, shared), (shared, other), (other, source)):
            tally = await copy(start, end, remove=True)
            assert (tally.copied, tally.removed, tally.failed) == (5, 5, 0)
            found = await mails_of(end)
            assert [each.state for each in found] == [mail.state for mail in before.values()]
            assert found[0] == digested(attrs.evolve(before[tried_mail.id], owner=""))
            assert await content(end, found[-1]) == LARGE
            assert found[-1].content == found[-2].content
            assert await end.attempts(tried_mail.id) == [attempt()]
            assert [each.reply for each in await end.attempts(flying.id)] == [INTERRUPTED]
            assert await mails_of(start) == []


async def test_no_node_is_left_in_the_database(make_shared: Make, post: Post, clock: HandClock) -> None:
    async with both(make_shared) as (source, target):
        await fill(source, post.mail())
        await copy(source, target, remove=True)
        for store in (source, target):
            shared = as_shared(store)
            assert shared is not None
            assert await shared.nodes() == []


async def test_a_database_is_not_copied_into_itself(make_shared: Make, post: Post) -> None:
    store, again = make_shared("source"), make_shared("source")
    await store.open()
    await again.open()
    await fill(store, post.mail())
    with pytest.raises(SameStore):
        await copy(store, again, remove=True)
    assert len(await mails_of(store)) == 1
    await store.close()
    await again.close()


async def test_a_database_that_is_delivered_from_is_left_alone(make_shared: Make, post: Post) -> None:
    async with both(make_shared) as (source, target):
        await fill(source, post.mail())
        token = (await source.join("mx1", START)).token
        with pytest.raises(SourceInUse, match="mx1"):
            await copy(source, target)
        assert (await copy(source, target, source_in_use=True)).copied == 1
        await fall_silent(source, "mx1", token)
        assert (await copy(source, target)).present == 1


async def test_what_a_database_delivered_is_not_brought_back(make_shared: Make, post: Post, clock: HandClock) -> None:
    async with both(make_shared) as (source, target):
        mail, other = post.mail(), post.mail()
        await fill(source, mail, other)
        await tried(source, mail, attrs.evolve(mail, attempts=1))
        await copy(source, target)
        await tried(target, mail, None, started_at=LATER)
        tally = await copy(source, target, remove=True)
        assert (tally.present, tally.finished, tally.removed) == (1, 1, 1)
        assert [each.id for each in await mails_of(target)] == [other.id]
