"""Two stores that are told the same answer the same: SQLite against the reference, whatever happens to them."""

import random
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from elemta.mail.envelope import Priority
from elemta.mail.outcome import AttemptResult
from elemta.mail.reply import Reply
from elemta.runtime.ids import SeededIds
from elemta.runtime.threads import InlineThreads
from elemta.storage import sqlite_scout
from elemta.storage.base import (
    Begin,
    Change,
    Claim,
    ContentMissing,
    Filter,
    Insert,
    Order,
    QueueStore,
    Retention,
    Settle,
    Verb,
    Withdraw,
)
from elemta.storage.memory import MemoryStore
from elemta.storage.records import ContentRef, Progress, QueuedMail, QueueState, RecipientStatus
from elemta.storage.sqlite import SqliteStore
from tests.storage.mails import START, HandClock, Post, attempt

#: In memory where there is such a folder: no example waits for a disk.
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
OWNERS = ("one", "two")
EVERYTHING = Filter()
TIMES = (START - 50, START, START + 10, START + 100)
PROGRESS = (
    Progress(),
    Progress(RecipientStatus.DELIVERED, Reply(250, "2.0.0", "ok"), reported=True),
    Progress(RecipientStatus.FAILED, Reply(550, "5.1.1", ("no", "body"))),
)

Ask = Callable[[QueueStore], Awaitable[Any]]


class Pair:
    """Both stores, and what the test knows of them."""

    def __init__(self, folder: str, data: st.DataObject) -> None:
        self._folder = folder
        self._draw = data.draw
        self.clock = HandClock()
        self.memory: QueueStore = MemoryStore(self.clock, ids=self._ids())
        self._sqlite_ids = self._ids()
        self.sqlite = self._build()
        self._post = Post(self.clock)
        self._mails: list[QueuedMail] = []
        self._contents: list[ContentRef] = []
        self._tokens = dict.fromkeys(OWNERS, 0)

    def _ids(self) -> SeededIds:
        return SeededIds(self.clock, random.Random(3))

    def _build(self) -> QueueStore:
        return SqliteStore(self._folder, InlineThreads(), self.clock, ids=self._sqlite_ids)

    async def both(self, verb: Ask) -> Any:
        """Ask both; they must answer the same."""
        answers = []
        for store in (self.memory, self.sqlite):
            try:
                answers.append(await verb(store))
            except ContentMissing:
                answers.append(ContentMissing)
        assert answers[0] == answers[1]
        return answers[0]

    def pick(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))

    def chance(self) -> bool:
        return self._draw(st.booleans())

    # ---- what is done to them ------------------------------------------------------------------

    async def restart(self) -> None:
        # What was staged and not inserted is a stranger's after a restart; the reference has none.
        await self.memory.cleanup(Retention(None, None, None, staged_before=self.clock.now + 1))
        # Now and then it vanishes instead of closing; what it keeps open goes with it.
        if self.chance():
            await self.sqlite.close()
        self.sqlite = self._build()
        await self.sqlite.open()

    async def join(self) -> None:
        owner = self.pick(OWNERS)
        joined = await self.both(lambda store: store.join(owner, START))
        self._tokens[owner] = joined.token

    async def stage(self) -> None:
        octets = self._draw(st.binary(max_size=40))

        async def write(store: QueueStore) -> str:
            writer = await store.stage()
            await writer.write([octets])
            return await writer.finish()

        self._contents.append(ContentRef(await self.both(write), len(octets)))

    async def commit(self) -> None:
        makers = (self._insert, self._insert, self._begin, self._settle, self._withdraw)
        batch = [self.pick(makers)() for _ in range(self.pick((1, 1, 2, 3, 5)))]
        await self.both(lambda store: store.commit(batch))

    async def claim(self) -> None:
        owner = self.pick(OWNERS)
        claim = Claim(
            owner,
            self._token(owner),
            self.pick(TIMES),
            self.pick((0, 1, 2, 50)),
            frozenset(self.pick(("", "a", "b", "ab", "abc"))),
            self.pick((None, None, Priority.NORMAL, Priority.HIGH)),
        )
        await self.both(lambda store: store.claim(claim))

    async def order(self) -> None:
        chosen = Filter(
            ids=frozenset({self._id(), self._id()}) if self.chance() else None,
            states=frozenset({self.pick(list(QueueState)), QueueState.ACTIVE}) if self.chance() else None,
            destination=self.pick((None, None, "a")),
        )
        order = Order(self.pick(list(Verb)), chosen, self.pick(TIMES), self.pick((1, 2, 50)), "why")
        await self.both(lambda store: store.apply(order))

    async def cleanup(self) -> None:
        times = (None, *TIMES)
        retention = Retention(
            self.pick(times), self.pick(times), self.pick(times), self.pick(times), self.pick((1, 50))
        )
        await self.both(lambda store: store.cleanup(retention))

    async def wait(self) -> None:
        self.clock.now += 20

    # ---- changes -------------------------------------------------------------------------------

    def _id(self) -> str:
        return self.pick(self._mails).id if self._mails else self._post.new_id()

    def _token(self, owner: str) -> int:
        late: int = self.pick((0, 0, 0, 1))
        return self._tokens[owner] - late

    def _insert(self) -> Insert:
        if self._mails and self.pick((True, False, False)):
            again = self.pick(self._mails)
            return Insert(again, b"" if self.chance() else None)
        octets: bytes | None = self._draw(st.binary(max_size=20))
        mail = self._post.mail(
            octets or b"",
            priority=self.pick((Priority.NORMAL, Priority.HIGH)),
            destination=self.pick("aabc"),
            state=self.pick((QueueState.ACTIVE, QueueState.ACTIVE, *QueueState)),
            next_attempt_at=self.pick(TIMES),
            owner=self.pick(("", "", *OWNERS)),
            attempts=self.pick((0, 0, 1)),
            progress=(self.pick(PROGRESS),),
        )
        if self._contents and self.chance():
            mail = attrs.evolve(mail, content=self.pick(self._contents))
            octets = None if self.chance() else bytes(mail.content.size)
        self._mails.append(mail)
        self._contents.append(mail.content)
        return Insert(mail, octets)

    def _begin(self) -> Change:
        owner = self.pick(OWNERS)
        return Begin(self._id(), owner, self._token(owner), self.pick(TIMES))

    def _settle(self) -> Change:
        owner = self.pick(OWNERS)
        old = self.pick(self._mails) if self._mails else self._post.mail()
        new = None
        if self.chance():
            state = self.pick(list(QueueState))
            new = attrs.evolve(
                old,
                state=state,
                owner=self.pick(("", owner)),
                next_attempt_at=self.pick(TIMES),
                attempts=old.attempts + 1,
                progress=(self.pick(PROGRESS),),
                annotations={"n": "1"},
            )
        records = tuple(
            attempt(started_at=self.pick(TIMES), result=self.pick(list(AttemptResult)))
            for _ in range(self.pick((0, 1, 2)))
        )
        inserts = tuple(self._insert() for _ in range(self.pick((0, 0, 1, 2))))
        return Settle(old.id, owner, self._token(owner), new, records, inserts)

    def _withdraw(self) -> Change:
        return Withdraw(self._id())

    # ---- what they say -------------------------------------------------------------------------

    async def compare(self) -> None:
        mails = await self.both(lambda store: store.list(EVERYTHING, 1000))
        await self.both(lambda store: store.counts())
        await self.both(lambda store: store.next_due())
        for mail in self._mails:
            await self.both(lambda store, mail=mail: store.attempts(mail.id))  # type: ignore[misc]  # a default binds it
        for ref in {*self._contents, *(mail.content for mail in mails)}:
            await self.both(lambda store, ref=ref: store.read(ref, 1, 100))  # type: ignore[misc]  # likewise


# Without `explain`, which repeats a failure a hundred times to say what was not to blame.
@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(st.data())
async def test_sqlite_agrees_with_the_reference(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=FAST) as folder:
        patch.setattr(sqlite_scout, "FIRST_STEP_MAILS", data.draw(st.integers(1, 4)))
        patch.setattr(sqlite_scout, "REMEMBERED_DESTINATIONS", data.draw(st.integers(1, 3)))
        pair = Pair(folder, data)
        await pair.sqlite.open()
        steps = [pair.commit] * 6 + [pair.claim] * 2
        steps += [pair.join, pair.stage, pair.order, pair.cleanup, pair.wait, pair.restart]
        await pair.join()
        for _ in range(data.draw(st.integers(1, 25))):
            await pair.pick(steps)()
        await pair.compare()
        await pair.restart()
        await pair.compare()
        await pair.sqlite.close()


@pytest.mark.parametrize("seed", range(8))
async def test_claims_agree_behind_a_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The same mails in the same order, however often destinations come and go among the excluded."""
    monkeypatch.setattr(sqlite_scout, "FIRST_STEP_MAILS", 3)
    monkeypatch.setattr(sqlite_scout, "STEP_MAILS", 7)
    chance, post = random.Random(seed), Post()
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        stores: list[QueueStore] = [MemoryStore(), SqliteStore(folder, InlineThreads(), HandClock())]
        for store in stores:
            await store.open()
            await store.join("one", START)
        claimed = 0
        held: list[QueuedMail] = []
        for now in range(150):
            batch: list[Change] = [some_insert(post, chance, now) for _ in range(chance.choice((0, 1, 5)))]
            for _ in range(min(len(held), chance.choice((0, 3)))):
                mail = held.pop(chance.randrange(len(held)))
                later = attrs.evolve(
                    mail, state=QueueState.DEFERRED, next_attempt_at=START + now + chance.randint(-9, 9)
                )
                batch.append(Settle(mail.id, "one", 1, chance.choice((later, attrs.evolve(mail, owner="")))))
            exclude = frozenset(chance.sample("abcd", chance.choice((0, 1, 1, 2, 3))))
            claim = Claim(
                "one", 1, START + now, chance.choice((1, 2, 5)), exclude, chance.choice((None, Priority.HIGH))
            )
            answers = [(await store.commit(batch), await store.claim(claim)) for store in stores]
            assert answers[0] == answers[1]
            held += answers[0][1]
            claimed += len(answers[0][1])
        assert claimed > 50
        await stores[1].close()


def some_insert(post: Post, chance: random.Random, now: int) -> Insert:
    return post.insert(
        destination=chance.choice("aaaaabcd"),
        priority=chance.choice((Priority.NORMAL, Priority.NORMAL, Priority.HIGH)),
        next_attempt_at=START + now - chance.choice((0, 0, 0, 3, -5)),
        owner=chance.choice(("", "", "", "one")),
    )
