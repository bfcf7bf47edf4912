"""The one connection that changes `queue.db`.

What is not here: threads (`sqlite`), or what is only looked up (`sqlite_reader`). Every method blocks; they are called
in one thread at a time. One verb is one transaction, and a transaction that fails leaves nothing behind:

* no space: rolled back, `StoreFull`;
* another program's lock: nothing begun, `StoreUnavailable`;
* a failed write or sync: the connection is not trusted again. A new one overwrites what the failed transaction may have
  left at the end of the log, in a small transaction of its own. When that is durable, the failed one is known to be
  nowhere (`StoreUnavailable`); when it fails too, nobody knows (`CommitUnknown`) and it is tried before the next verb.
  A second sync of the same pages would prove nothing: the kernel may have dropped them at the first.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import orjson

from elemta.mail.ids import is_queue_id
from elemta.mail.outcome import Attempt
from elemta.storage import sqlite_statements as sql
from elemta.storage.base import (
    Begin,
    Change,
    Claim,
    CommitUnknown,
    Insert,
    Joined,
    Order,
    Ordered,
    Result,
    Retention,
    Settle,
    StoreFull,
    StoreUnavailable,
    Verb,
)
from elemta.storage.codec import Unfit, decode_mail, encode_attempt, encode_mail
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.rules import obey, uncertain_attempts
from elemta.storage.sqlite_content import ContentFolder
from elemta.storage.sqlite_errors import POISON, explain, primary_code
from elemta.storage.sqlite_place import Place

T = TypeVar("T")

#: Rows of `attempts` that one transaction of a cleanup removes: some 10 ms, so that commits are not kept waiting.
CLEANUP_ROWS = 5000


class _NotAtOnce(Exception):
    """The batch cannot be applied as a whole: look at each change by itself."""


class Writer:
    """Everything that changes the queue."""

    def __init__(self, place: Place, contents: ContentFolder) -> None:
        self._place = place
        self._contents = contents
        self._connection: sqlite3.Connection | None = None
        #: True after a transaction whose end is not known.
        self._in_doubt = False
        #: False while no content lies in a file, so that no commit looks for files to remove.
        self._has_files = True

    def open(self) -> None:
        """Connect. Raises `StoreUnavailable`."""
        try:
            self._connection = connection = self._connect()
            files = self._contents.files()
            self._has_files = bool(files)
            if files:
                in_use = {row[0] for row in connection.execute(sql.FILES_IN_USE)}
                self._contents.use_again(file for file in files if file not in in_use)
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self._place.database) from error

    def close(self) -> None:
        """Let go; more than once is no failure."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = self._place.connect()
        try:
            for statement in sql.WATCH_FILES:
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    # ---- transactions --------------------------------------------------------------------------

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable("the queue is not open")
        if self._in_doubt and not self._settle_doubt():
            raise StoreUnavailable(f"the disk under {self._place.database} still fails: look into the system's log")
        return self._connection

    def _transact(self, work: Callable[[sqlite3.Connection], T], *, synced: bool = True) -> T:
        """Run `work` in one transaction. Raises the contract's errors, and `POISON` as it is.

        Without the sync it outlives the process, but the power only once a later transaction is synced.
        """
        connection = self._ready()
        try:
            if not synced:
                connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except POISON:
            self._roll_back()
            raise
        except sqlite3.Error as error:
            raise self._failed(error) from error
        except BaseException:
            self._roll_back()
            raise
        finally:
            if not synced:
                self._sync_again()
        return result

    def _sync_again(self) -> None:
        try:
            self._ready().execute("PRAGMA synchronous = FULL")
        except (sqlite3.Error, StoreUnavailable):
            # Whatever comes next begins with a new connection, which syncs.
            self._in_doubt = True

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is not None and connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def _failed(self, error: sqlite3.Error) -> StoreUnavailable:
        self._roll_back()
        explained = explain(error, self._place.database)
        if primary_code(error) != sqlite3.SQLITE_IOERR:
            return explained
        self._in_doubt = True
        if self._settle_doubt():
            return explained
        return explained if isinstance(explained, StoreFull) else CommitUnknown(str(explained))

    def _settle_doubt(self) -> bool:
        """Overwrite what a failed transaction may have left; True when it is known to be gone."""
        doubted = self._connection
        try:
            # Before the old one is closed: the last connection to close would bring the log into the database.
            fresh = self._connect()
        except sqlite3.Error:
            return False
        self._connection = fresh
        if doubted is not None:
            with suppress(sqlite3.Error):
                doubted.close()
        try:
            fresh.execute("BEGIN IMMEDIATE")
            fresh.execute(sql.PROBE)
            fresh.execute("COMMIT")
        except sqlite3.Error:
            self._roll_back()
            return False
        self._in_doubt = False
        return True

    # ---- batches -------------------------------------------------------------------------------

    def commit(self, batch: Sequence[Change]) -> list[Result]:
        """One transaction for the whole batch; see `QueueStore.commit`."""
        new = sum(isinstance(change, Insert) for change in batch)
        if new:
            try:
                self._check_space()
            except StoreFull:
                if new == len(batch):
                    raise
                return self._commit_without_inserts(batch)
        try:
            rows = sql.rows_of(batch, self._contents.staged)
            if rows.staged:
                self._sync_names()
            self._transact(lambda connection: _apply_at_once(connection, rows))
            results = [Result.APPLIED] * len(batch)
            self._contents.forget_staged(rows.staged, referred=rows.staged)
        except (Unfit, _NotAtOnce, *POISON):
            self._sync_names()
            staged: list[str] = []
            results = self._transact(lambda connection: self._apply_singly(connection, batch, staged))
            self._contents.forget_staged(staged, referred=staged)
        self._release_dropped()
        return results

    def _commit_without_inserts(self, batch: Sequence[Change]) -> list[Result]:
        """Without room for new mail, the old must still go out."""
        others = iter(self.commit([change for change in batch if not isinstance(change, Insert)]))
        return [self._present(change) if isinstance(change, Insert) else next(others) for change in batch]

    def _present(self, insert: Insert) -> Result:
        """A mail that landed already is not refused, when its batch is repeated."""
        return self._transact(
            lambda connection: (
                Result.APPLIED if connection.execute(sql.HAS_MAIL, (insert.mail.id,)).fetchone() else Result.FULL
            )
        )

    def _check_space(self) -> None:
        connection = self._ready()
        try:
            try:
                self._place.check_space(connection)
            except StoreFull:
                self._contents.remove_surplus(0)
                self._place.check_space(connection)
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self._place.database) from error

    def _sync_names(self) -> None:
        """Make the names of staged content durable before anything refers to them."""
        self._has_files = True
        try:
            self._contents.sync_names()
        except OSError as error:
            raise explain(error, self._place.database) from error

    def _apply_singly(self, connection: sqlite3.Connection, batch: Sequence[Change], staged: list[str]) -> list[Result]:
        """Apply each change by itself; appends the ids of staged content that is referred to now."""
        results = []
        for change in batch:
            connection.execute("SAVEPOINT one")
            before = len(staged)
            try:
                results.append(self._apply_one(connection, change, staged))
            except (Unfit, *POISON):
                connection.execute("ROLLBACK TO one")
                del staged[before:]
                results.append(Result.REFUSED)
            connection.execute("RELEASE one")
        return results

    def _apply_one(self, connection: sqlite3.Connection, change: Change, staged: list[str]) -> Result:
        if isinstance(change, Insert):
            self._insert_one(connection, change, staged)
            return Result.APPLIED
        if not is_queue_id(change.id):
            return Result.GONE
        if isinstance(change, Settle | Begin):
            fence = _fence(connection, change)
            if fence is not Result.APPLIED:
                return fence
        if isinstance(change, Settle):
            for insert in change.inserts:
                self._insert_one(connection, insert, staged)
            change = Settle(change.id, change.owner, change.token, change.mail, change.attempts)
        try:
            _apply_at_once(connection, sql.rows_of([change], self._contents.staged))
        except _NotAtOnce:
            return Result.FENCED if connection.execute(sql.HAS_MAIL, (change.id,)).fetchone() else Result.GONE
        return Result.APPLIED

    def _insert_one(self, connection: sqlite3.Connection, insert: Insert, staged: list[str]) -> None:
        row = sql.insert_row(insert)
        attempts = [encode_attempt(insert.mail.id, attempt) for attempt in insert.attempts]
        if connection.execute(sql.HAS_MAIL, (insert.mail.id,)).fetchone():
            return
        ref = insert.mail.content
        known = connection.execute(sql.CONTENT_SIZE, (ref.id,)).fetchone()
        if known is None:
            # Once is all: when the mail leaves in the same batch, its content is gone like any other.
            content = sql.content_row(insert, lambda each: None if each in staged else self._contents.staged(each))
            sql.INSERT_CONTENT.run(connection, [content])
            known = content[3:]
            if content[2] is not None:
                staged.append(ref.id)
        if known[0] != ref.size:
            raise Unfit("the content is of another size")
        if sql.INSERT_MAIL.run(connection, [row]) != 1:
            raise Unfit("the mail breaks a constraint")
        if sql.INSERT_ATTEMPT.run(connection, attempts) != len(attempts):
            raise Unfit("an attempt breaks a constraint")

    def _release_dropped(self) -> None:
        """Use the files of content that left again, now that its leaving is durable."""
        if not self._has_files:
            return
        connection = self._ready()
        try:
            dropped = [row[0] for row in connection.execute(sql.DROPPED_FILES)]
            if dropped:
                connection.execute(sql.FORGET_DROPPED)
            for file in dropped:
                self._contents.release(file)
        except (sqlite3.Error, OSError):
            # The change is durable whatever becomes of these files. After the next opening they are found by looking.
            return

    # ---- nodes and claims ----------------------------------------------------------------------

    def join(self, owner: str) -> Joined:
        """A new token, and the owner's mails made claimable; see `QueueStore.join`."""
        return self._transact(lambda connection: _join(connection, owner))

    def claim(self, claim: Claim) -> list[QueuedMail]:
        """Take the first mails that are due, whatever their destination."""
        statement = sql.CLAIM_ANY if claim.priority is None else sql.CLAIM_PRIORITY[int(claim.priority)]
        return self._claim(statement, claim, limit=max(claim.limit, 0))

    def claim_found(self, claim: Claim, ids: Sequence[str]) -> list[QueuedMail]:
        """Take mails that a search found, unless they changed since."""
        return self._claim(sql.CLAIM_FOUND, claim, ids=_json(ids))

    def _claim(self, statement: str, claim: Claim, **terms: object) -> list[QueuedMail]:
        values = {"owner": claim.owner, "token": claim.token, "now": claim.now, **terms}
        # Not synced: a claim that the power takes along is one that `join` would have ended anyway, and what follows
        # from a claim (an attempt begins, a mail leaves) is synced with everything before it.
        rows = self._transact(lambda connection: connection.execute(statement, values).fetchall(), synced=False)
        mails = [decode_mail(row) for row in rows]
        mails.sort(key=lambda mail: (-mail.priority, mail.next_attempt_at, mail.destination, mail.id))
        return mails

    # ---- orders and age ------------------------------------------------------------------------

    def apply(self, order: Order, ids: Sequence[str]) -> Ordered:
        """Carry out an order on mails that were found to be meant; their state is looked at again here."""
        ordered = self._transact(lambda connection: _obey(connection, order, ids))
        self._release_dropped()
        return ordered

    def remove_finished(self, retention: Retention) -> int:
        """Remove DELIVERED and FAILED mails past their retention."""
        removed = self._transact(lambda connection: _remove_finished(connection, retention))
        self._release_dropped()
        return removed

    def remove_attempts(self, before: float) -> int:
        """Remove at most `CLEANUP_ROWS` old attempts; returns how many went."""
        values = {"before": before, "limit": CLEANUP_ROWS}
        return self._transact(lambda connection: connection.execute(sql.OLD_ATTEMPTS, values).rowcount, synced=False)

    def remove_staged(self, before: float) -> None:
        """Give up content that was staged before a moment and that no insert refers to."""
        connection = self._ready()
        waiting = self._contents.staged_before(before)
        try:
            # After a commit whose outcome was unknown, content may be referred to though it still waits here.
            referred = {row[0] for row in connection.execute(sql.CONTENT_AMONG, (_json(waiting),))}
            self._contents.forget_staged(waiting, referred=referred)
            self._contents.remove_surplus()
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self._place.database) from error


def _apply_at_once(connection: sqlite3.Connection, rows: sql.Rows) -> None:
    """Raises `_NotAtOnce` unless every change applies."""
    for bulk, values in (
        (sql.INSERT_CONTENT, list(rows.contents.values())),
        (sql.INSERT_MAIL, rows.mails),
        (sql.BEGIN_ATTEMPT, rows.begins),
        (sql.UPDATE_OWNED, rows.updates),
    ):
        if values and bulk.run(connection, values) != len(values):
            raise _NotAtOnce
    for (owner, token), ids in rows.removals.items():
        if connection.execute(sql.REMOVE_OWNED, (_json(ids), owner, token)).rowcount != len(ids):
            raise _NotAtOnce
    for begun, ids in rows.withdrawals.items():
        statement = sql.WITHDRAW_BEGUN if begun else sql.WITHDRAW
        if connection.execute(statement, (_json(ids),)).rowcount != len(ids):
            raise _NotAtOnce
    if rows.attempts and sql.INSERT_ATTEMPT.run(connection, rows.attempts) != len(rows.attempts):
        raise _NotAtOnce


def _json(ids: Sequence[str]) -> str:
    """Ids for `json_each`: one parameter, whatever their number."""
    return orjson.dumps(ids).decode()


def _fence(connection: sqlite3.Connection, change: Begin | Settle) -> Result:
    found = connection.execute(sql.OWNER_OF, (change.id,)).fetchone()
    if found is None:
        return Result.GONE
    owned = change.owner != "" and found == (change.owner, change.token, QueueState.ACTIVE.value)
    return Result.APPLIED if owned else Result.FENCED


def _join(connection: sqlite3.Connection, owner: str) -> Joined:
    token = connection.execute(sql.NEW_TOKEN).fetchone()[0]
    connection.execute(sql.JOIN, (owner, token))
    in_flight = [decode_mail(row) for row in connection.execute(sql.IN_FLIGHT_OF, (owner,))]
    interrupted = [encode_attempt(mail.id, attempt) for mail in in_flight for attempt in _interrupted(mail)]
    sql.INSERT_ATTEMPT.run(connection, interrupted)
    recovered = connection.execute(sql.RELEASE_OWNED, (owner,)).rowcount
    return Joined(token=token, recovered=recovered, uncertain=tuple(mail.id for mail in in_flight))


def _interrupted(mail: QueuedMail) -> list[Attempt]:
    return [] if mail.attempting_since is None else uncertain_attempts(mail, mail.attempting_since)


_STATEMENT_OF_VERB = {
    Verb.HOLD: sql.HOLD,
    Verb.RELEASE: sql.RELEASE,
    Verb.RETRY: sql.RETRY_WAITING,
    Verb.DELETE: sql.DELETE,
}


def _obey(connection: sqlite3.Connection, order: Order, ids: Sequence[str]) -> Ordered:
    values = {"ids": _json(ids), "now": order.now, "reason": order.reason}
    in_flight = [row[0] for row in connection.execute(sql.AMONG_IN_FLIGHT, values)]
    failed = connection.execute(sql.FAILED_AMONG, values).fetchall() if order.verb is Verb.RETRY else []
    changed = [row[0] for row in connection.execute(_STATEMENT_OF_VERB[order.verb], values).fetchall()]
    for mail in map(decode_mail, failed):
        again = encode_mail(obey(order, mail))
        connection.execute(sql.RETRY_FAILED, (again[9], again[7], mail.id))
        changed.append(mail.id)
    return Ordered(changed=tuple(sorted(changed)), in_flight=tuple(sorted(in_flight)))


def _remove_finished(connection: sqlite3.Connection, retention: Retention) -> int:
    finished: list[tuple[float, str]] = []
    for state, before in (
        (QueueState.DELIVERED, retention.delivered_before),
        (QueueState.FAILED, retention.failed_before),
    ):
        if before is not None:
            values = {"state": state.value, "before": before, "limit": max(retention.limit, 0)}
            finished += connection.execute(sql.FINISHED_BEFORE, values).fetchall()
    ids = [queue_id for _, queue_id in sorted(finished)[: max(retention.limit, 0)]]
    return len(connection.execute(sql.DELETE, {"ids": _json(ids)}).fetchall())
