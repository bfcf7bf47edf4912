"""Finds due mails behind a backlog of destinations that can take no more, on a queue that several nodes share.

What is not here: taking them (`shared_claims`), or claims without exclusions, which the index answers by itself.

As in `sqlite_scout`, what a search passed over is remembered, so that the next one begins behind it. Other nodes change
the queue as well, and nobody tells: what they bring in is due later than what was passed, but for mails that operators
or dead nodes left behind. So the last seconds are never passed for good, and everything is forgotten now and then.

Raises `StoreUnavailable`, `StoreAway`.
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

import trio
from attrs import frozen

from elemta.datasource.base import Connection, Row, Work
from elemta.storage import shared_statements as sql
from elemta.storage.base import Change, Claim, Insert, Settle
from elemta.storage.records import QueuedMail
from elemta.storage.rules import CLAIMABLE
from elemta.storage.shared_server import Server
from elemta.storage.sqlite_scout import Key, Passed

#: Mails that one step of a search passes over, first and at most: some 20 ms. Most searches end with the first step.
FIRST_STEP_MAILS = 500
STEP_MAILS = 20_000
#: Seconds for which what was passed is remembered at least: so long may a mail that came to stand in front wait.
REMEMBERED_SECONDS = 30.0
#: What was passed is remembered for so many times as long as it took: a million mails in front are seconds of search.
REMEMBERED_FACTOR = 20.0
#: Seconds up to now that are never passed for good: nodes' clocks differ, and commits take their time.
UNCERTAIN_SECONDS = 5.0

#: Before and behind all keys of one moment: the last character of Unicode stands behind any text's first.
_BEFORE, _BEHIND = "", "\U0010ffff"
#: Before all times: MySQL knows no infinite number.
_EARLIEST = -1e18


@frozen
class Found:
    """The ids of a search, the first to go first, and what it passed, by lane."""

    ids: list[str]
    passed: dict[str, Passed]


class Scout:
    """Searches, one at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._passed: dict[str, Passed] = {}
        self._since = -inf
        #: Seconds that searches took since then.
        self._taken = 0.0
        #: Mails that came to wait while a search ran, as its result does not know them. None while none runs.
        self._meanwhile: list[QueuedMail] | None = None
        self._forgotten = False

    # ---- what is remembered --------------------------------------------------------------------

    def begin(self) -> dict[str, Passed]:
        """Begin a search with what is remembered."""
        lasts = max(REMEMBERED_SECONDS, REMEMBERED_FACTOR * self._taken)
        if trio.current_time() >= self._since + lasts:
            self._passed, self._since, self._taken = {}, trio.current_time(), 0.0
        self._meanwhile, self._forgotten = [], False
        return dict(self._passed)

    def end(self, found: Found | None) -> None:
        """Remember what a search passed, None when it failed."""
        meanwhile, self._meanwhile = self._meanwhile or [], None
        if found is not None and not self._forgotten:
            self._passed = found.passed
        self._note(meanwhile)

    def forget(self) -> None:
        """Mails came to wait that nobody named."""
        self._passed = {}
        self._forgotten = True

    def note(self, batch: Iterable[Change]) -> None:
        """Changes were committed, or may have been."""
        if not self._passed and self._meanwhile is None:
            return
        mails: list[QueuedMail] = []
        for change in batch:
            if isinstance(change, Insert):
                mails.append(change.mail)
            elif isinstance(change, Settle):
                mails += [insert.mail for insert in change.inserts]
                if change.mail is not None:
                    mails.append(change.mail)
        self._note(mails)
        if self._meanwhile is not None:
            self._meanwhile += mails

    def _note(self, mails: Iterable[QueuedMail]) -> None:
        # A mail that asked for an owner may wait for anybody, if its owner was fenced.
        for mail in mails:
            lane = str(int(mail.priority))
            passed = self._passed.get(lane)
            if passed is not None and mail.state in CLAIMABLE:
                self._passed[lane] = passed.with_waiting(mail.destination, mail.next_attempt_at)

    # ---- searching -----------------------------------------------------------------------------

    async def search(self, claim: Claim, passed: dict[str, Passed]) -> Found:
        """The mails of a claim."""
        ids: list[str] = []
        started = trio.current_time()
        certain = (claim.now - UNCERTAIN_SECONDS, _BEFORE, "")
        for lane in sql.lanes_of(claim.priority):
            if len(ids) < claim.limit:
                search = _Search(self._server, claim, lane)
                before = passed.get(lane, Passed())
                begin = before.begin_for(claim.exclude)
                ids += await search.run(begin, claim.limit - len(ids))
                upto = max(min(search.at, certain), begin)
                passed[lane] = before.with_searched(upto, exclude=claim.exclude, met=search.met)
        self._taken += trio.current_time() - started
        return Found(ids, passed)


class _Search:
    """One lane's mails, step by step: each is a short look of its own."""

    def __init__(self, server: Server, claim: Claim, lane: str) -> None:
        self._server = server
        self._lane = lane
        self._exclude = claim.exclude
        self._end: Key = (claim.now, _BEHIND, "")
        #: How far it came: nothing but excluded mails waits up to here once what was found is taken.
        self.at = self._end
        #: Excluded destinations on the way, and when the first mail of each is due.
        self.met: dict[str, float] = {}

    async def run(self, begin: Key, limit: int) -> list[str]:
        """At most `limit` ids between `begin` and the end of what is due."""
        ids: list[str] = []
        self.at = begin
        step = FIRST_STEP_MAILS
        while self.at < self._end:
            last, destinations, found = await self._server.look(self._step(step, limit - len(ids)))
            step = min(step * 4, STEP_MAILS)
            for destination, moment in destinations:
                if destination in self._exclude:
                    self.met[destination] = min(moment, self.met.get(destination, inf))
            ids += [row[2] for row in found]
            if len(ids) == limit:
                self.at = found[-1]
                return ids
            self.at = last
        return ids

    def _step(self, step: int, limit: int) -> Work[tuple[Key, Sequence[Row], Sequence[Row]]]:
        """One look: the key behind `step` mails, the destinations up to there, at most `limit` mails to take."""
        server, exclude = self._server, sorted(self._exclude)

        async def work(connection: Connection) -> tuple[Key, Sequence[Row], Sequence[Row]]:
            ends = await server.fetch(connection, sql.SCOUT_STEP, *self._between(self._end), step - 1)
            last: Any = ends[0] if ends else self._end
            between = self._between(last)
            destinations = await server.fetch(connection, sql.SCOUT_DESTINATIONS, *between)
            if all(row[0] in self._exclude for row in destinations):
                return last, destinations, ()
            return last, destinations, await server.fetch(connection, sql.SCOUT_MAILS, *between, exclude, limit)

        return work

    def _between(self, end: Key) -> tuple[Any, ...]:
        moment, destination, queue_id = self.at
        until, last_destination, last_id = end
        first = max(moment, _EARLIEST)
        after = (first, destination, destination, queue_id)
        return (self._lane, first, until, *after, until, last_destination, last_destination, last_id)
