"""A program that commits to a SQLite queue until it is stopped, and says what was acknowledged.

`python committer.py DIRECTORY SEED [BATCHES]` writes one line on standard output for each fact, after the store said
so:

    + ID SIZE    the mail is in the queue, its content is `content_of(ID, SIZE)`
    > ID         the mail is about to be settled: it may stay or leave
    - ID         it left, one attempt recorded
    ! ERROR      a commit raised this; what it was about is not known to have happened

It commits in one thread, so that the order of its system calls repeats with the seed.
"""

import os
import random
import sys
from pathlib import Path

import attrs
import trio

sys.path.append(str(Path(__file__).resolve().parents[2]))

from elemta.runtime.clock import SystemClock
from elemta.runtime.ids import SecureIds
from elemta.runtime.threads import InlineThreads
from elemta.storage.base import Begin, Claim, ContentWriter, Insert, QueueStore, Settle, StoreUnavailable
from elemta.storage.records import PIECE_OCTETS, ContentRef, QueuedMail, QueueState
from elemta.storage.sqlite import SqliteStore
from tests.storage.mails import START, Post, attempt

#: One size in five is staged.
SIZES = (100, 4096, 4097, 100_000, 300_000)


def content_of(queue_id: str, size: int) -> bytes:
    """Octets that are no other mail's."""
    return (queue_id.encode() * (size // len(queue_id) + 1))[:size]


def say(lines: list[str]) -> None:
    os.write(1, "".join(f"{line}\n" for line in lines).encode())


async def write(writer: ContentWriter, octets: bytes) -> str:
    for start in range(0, len(octets), PIECE_OCTETS):
        await writer.write([octets[start : start + PIECE_OCTETS]])
    return await writer.finish()


class Committer:
    def __init__(self, directory: str, seed: int) -> None:
        clock = SystemClock()
        self._store: QueueStore = SqliteStore(directory, InlineThreads(), clock)
        self._ids = SecureIds(clock)
        self._chance = random.Random(seed)
        self._plain = Post().mail()
        self._waiting: list[QueuedMail] = []
        self._token = 0

    async def run(self, batches: int) -> None:
        await self._store.open()
        self._token = (await self._store.join("one", START)).token
        for _ in range(batches):
            try:
                await self._insert()
                await self._settle()
            except StoreUnavailable as error:
                say([f"! {type(error).__name__}: {error}"])
        await self._store.close()

    async def _insert(self) -> None:
        inserts = [await self._new() for _ in range(self._chance.randint(1, 8))]
        results = await self._store.commit(inserts)
        say(
            [
                f"+ {each.mail.id} {each.mail.content.size} {result.value}"
                for each, result in zip(inserts, results, strict=True)
            ]
        )
        self._waiting += [each.mail for each in inserts if each.mail.owner]
        # A claim is not synced; what comes after it must be.
        self._waiting += await self._store.claim(Claim("one", self._token, START, 100))

    async def _new(self) -> Insert:
        queue_id, size = self._ids.new_id(), self._chance.choice(SIZES)
        octets = content_of(queue_id, size)
        content_id = queue_id
        if size == SIZES[-1]:
            content_id = await write(await self._store.stage(), octets)
        mail = attrs.evolve(
            self._plain,
            id=queue_id,
            origin_id=queue_id,
            content=ContentRef(content_id, size),
            owner=self._chance.choice(("", "one")),
        )
        return Insert(mail, octets if content_id == queue_id else None)

    async def _settle(self) -> None:
        self._chance.shuffle(self._waiting)
        going = [self._waiting.pop() for _ in range(len(self._waiting) * 3 // 4)]
        say([f"> {mail.id}" for mail in going])
        await self._store.commit([Begin(mail.id, "one", self._token, START) for mail in going])
        # Beyond the claims' time, so that none of them is tried twice.
        waits = attrs.evolve(self._plain, state=QueueState.DEFERRED, attempts=1, next_attempt_at=START + 1000)
        deferred = [attrs.evolve(waits, id=mail.id, origin_id=mail.id, content=mail.content) for mail in going[:2]]
        await self._store.commit(
            [
                *(Settle(mail.id, "one", self._token, mail, (attempt(),)) for mail in deferred),
                *(Settle(mail.id, "one", self._token, None, (attempt(),)) for mail in going[2:]),
            ]
        )
        say([f"- {mail.id}" for mail in going[2:]])


if __name__ == "__main__":
    endless = 1_000_000
    trio.run(Committer(sys.argv[1], int(sys.argv[2])).run, int(sys.argv[3]) if len(sys.argv) > 3 else endless)
