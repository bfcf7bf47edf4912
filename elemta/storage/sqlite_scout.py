"""Finds due mails behind a backlog of destinations that can take no more.

What is not here: taking them (`Writer.claim_found`), or claims without exclusions, which the index answers by itself.

The index `mails_due` holds the mails that nobody owns by priority and time. Where a hundred thousand due mails of one
excluded destination stand in front, a claim that begins at the front passes over all of them, every time. So what was
passed is remembered: up to which key of the index, which destinations stand there, and since when each of them does.
The next search begins behind it, or where a destination stands that is no longer excluded. Whatever else comes to stand
in front is noted from the changes themselves (`note`), or the memory is dropped (`forget`).

A search reads on a connection of its own and in short steps, so that it keeps no commit and no look-up waiting.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import orjson
from attrs import evolve, field, frozen

from elemta.storage import sqlite_statements as sql
from elemta.storage.base import Change, Claim, Insert, Settle, StoreUnavailable
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.rules import CLAIMABLE
from elemta.storage.sqlite_errors import explain
from elemta.storage.sqlite_place import Place

#: Mails that one step of a search passes over, first and at most: some 30 ms. Most searches end with the first step.
FIRST_STEP_MAILS = 500
STEP_MAILS = 20_000
#: Destinations that are remembered of what was passed; with more, the next search begins at the front.
REMEMBERED_DESTINATIONS = 10_000

#: A mail's place among those of its priority: when it is due, its destination, its id.
Key = tuple[float, str, str]
#: Before and behind all keys of one moment: the last character of Unicode stands behind any text's first.
_BEFORE, _BEHIND = "", "\U0010ffff"


@frozen
class Passed:
    """Every mail that waits up to `key` is for a destination in `since`, and none of these is due before its time."""

    key: Key = (float("-inf"), _BEFORE, "")
    since: Mapping[str, float] = field(factory=dict)

    def begin_for(self, exclude: frozenset[str]) -> Key:
        """Where a search begins: behind all that was passed, but for destinations that are welcome again."""
        welcome = [moment for destination, moment in self.since.items() if destination not in exclude]
        return min(self.key, (min(welcome), _BEFORE, "")) if welcome else self.key

    def with_waiting(self, destination: str, moment: float) -> "Passed":
        """What is still true when one more mail waits."""
        known = self.since.get(destination)
        if known is not None:
            return self if known <= moment else evolve(self, since={**self.since, destination: moment})
        return evolve(self, key=min(self.key, (moment, _BEFORE, "")))

    def with_searched(self, key: Key, *, exclude: frozenset[str], met: Mapping[str, float]) -> "Passed":
        """What is true once nothing but `exclude` waits between `begin_for` and `key`; of `exclude` it met `met`."""
        behind = key >= self.key
        since = {
            destination: moment for destination, moment in self.since.items() if destination in exclude or not behind
        }
        for destination in since:
            if destination not in exclude:
                since[destination] = max(since[destination], key[0])
        for destination, moment in met.items():
            since[destination] = min(moment, since.get(destination, moment))
        return Passed(max(self.key, key), since) if len(since) <= REMEMBERED_DESTINATIONS else Passed()


@frozen
class Found:
    """The ids of a search, and what it passed, by priority."""

    ids: list[str]
    passed: dict[int, Passed]


class Scout:
    """Searches, one at a time. `search` blocks and is called in a thread; all else is called in the event loop."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._connection: sqlite3.Connection | None = None
        self._passed: dict[int, Passed] = {}
        #: Mails that came to wait while a search ran, as its result does not know them. None while none runs.
        self._meanwhile: list[QueuedMail] | None = None
        self._forgotten = False

    def open(self) -> None:
        """Connect. Raises `StoreUnavailable`."""
        try:
            self._connection = self._place.connect_to_read()
        except sqlite3.Error as error:
            raise explain(error, self._place.database) from error

    def close(self) -> None:
        """Let go; more than once is no failure."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    # ---- what is remembered --------------------------------------------------------------------

    def begin(self) -> dict[int, Passed]:
        """Begin a search with what is remembered."""
        self._meanwhile, self._forgotten = [], False
        return dict(self._passed)

    def end(self, found: Found | None) -> None:
        """Remember what a search passed, None when it failed."""
        meanwhile, self._meanwhile = self._meanwhile or [], None
        if found is not None and not self._forgotten:
            self._passed = found.passed
        self._note_mails(meanwhile)

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
                mails.extend(insert.mail for insert in change.inserts)
                if change.mail is not None:
                    mails.append(change.mail)
        self._note_mails(mails)
        if self._meanwhile is not None:
            self._meanwhile.extend(mails)

    def _note_mails(self, mails: Iterable[QueuedMail]) -> None:
        for mail in mails:
            passed = self._passed.get(mail.priority)
            is_owned = mail.owner != "" and mail.state is QueueState.ACTIVE
            if passed is not None and mail.state in CLAIMABLE and not is_owned:
                self._passed[mail.priority] = passed.with_waiting(mail.destination, mail.next_attempt_at)

    # ---- searching -----------------------------------------------------------------------------

    def search(self, claim: Claim, passed: dict[int, Passed]) -> Found:
        """The mails of a claim, the first ones first. Raises `StoreUnavailable`."""
        if self._connection is None:
            raise StoreUnavailable("the queue is not open")
        priorities = sql.PRIORITIES if claim.priority is None else (int(claim.priority),)
        ids: list[str] = []
        try:
            for priority in priorities:
                if len(ids) < claim.limit:
                    search = _Search(self._connection, claim, priority=priority)
                    before = passed.get(priority, Passed())
                    ids += search.run(before.begin_for(claim.exclude), claim.limit - len(ids))
                    passed[priority] = before.with_searched(search.at, exclude=claim.exclude, met=search.met)
        except sqlite3.Error as error:
            raise explain(error, self._place.database) from error
        return Found(ids, passed)


class _Search:
    """One priority's mails, step by step."""

    def __init__(self, connection: sqlite3.Connection, claim: Claim, *, priority: int) -> None:
        self._connection = connection
        self._exclude = claim.exclude
        self._end: Key = (claim.now, _BEHIND, "")
        self._values: dict[str, object] = {
            "priority": priority,
            "exclude": orjson.dumps(list(claim.exclude)).decode(),
        }
        #: How far it came: nothing but excluded mails waits up to here once what was found is taken.
        self.at = self._end
        #: Excluded destinations on the way, and when the first mail of each is due.
        self.met: dict[str, float] = {}

    def run(self, begin: Key, limit: int) -> list[str]:
        """At most `limit` ids between `begin` and the end of what is due."""
        ids: list[str] = []
        self.at = begin
        step = FIRST_STEP_MAILS
        while self.at < self._end:
            (last,) = self._look(sql.SCOUT_STEP, self._end, step=step - 1) or [self._end]
            step = min(step * 4, STEP_MAILS)
            destinations = dict(self._look(sql.SCOUT_DESTINATIONS, last))
            welcome = destinations.keys() - self._exclude
            found = self._look(sql.SCOUT_MAILS, last, limit=limit - len(ids)) if welcome else []
            for destination in destinations.keys() - welcome:
                self.met[destination] = min(destinations[destination], self.met.get(destination, self._end[0]))
            ids += [row[2] for row in found]
            if len(ids) == limit:
                self.at = found[-1]
                return ids
            self.at = last
        return ids

    def _look(self, statement: str, end: Key, **bounds: int) -> list[Any]:
        moment, destination, queue_id = self.at
        until, last_destination, last_id = end
        values = {"moment": moment, "destination": destination, "id": queue_id, "until": until}
        values |= {"last_destination": last_destination, "last_id": last_id}
        return self._connection.execute(statement, self._values | values | bounds).fetchall()
