"""The connection that looks into `queue.db` beside the one that changes it.

What is not here: threads (`sqlite`). Every method blocks; they are called in one thread at a time. A look-up never
keeps a commit waiting, and sees everything that was committed before it began.

Raises `StoreUnavailable`, and `ContentMissing` for content that is not there or not whole.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import orjson

from elemta.mail.ids import is_queue_id
from elemta.mail.outcome import Attempt
from elemta.storage import sqlite_statements as sql
from elemta.storage.base import ContentMissing, Filter, Finding, Order, StoreUnavailable, Verb
from elemta.storage.codec import MAIL_COLUMNS, decode_attempt, decode_mail
from elemta.storage.records import ContentRef, QueuedMail, QueueState
from elemta.storage.rules import STATES_OF_VERB
from elemta.storage.sqlite_content import ContentFolder
from elemta.storage.sqlite_errors import explain
from elemta.storage.sqlite_place import Place

T = TypeVar("T")


class Reader:
    """Everything that is looked up."""

    def __init__(self, place: Place, contents: ContentFolder) -> None:
        self._place = place
        self._contents = contents
        self._connection: sqlite3.Connection | None = None

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

    def _look(self, look: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise StoreUnavailable("the queue is not open")
        try:
            return look(self._connection)
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self._place.database) from error

    def get(self, queue_id: str) -> QueuedMail | None:
        """One mail by its id."""
        if not is_queue_id(queue_id):
            return None
        row = self._look(lambda connection: connection.execute(sql.GET, (queue_id,)).fetchone())
        return None if row is None else decode_mail(row)

    def attempts(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first."""
        if not is_queue_id(queue_id):
            return []
        rows = self._look(lambda connection: connection.execute(sql.ATTEMPTS_OF, (queue_id,)).fetchall())
        return [decode_attempt(row) for row in rows]

    def counts(self) -> dict[QueueState, int]:
        """How many mails stand in each state."""
        rows = self._look(lambda connection: connection.execute(sql.TALLY).fetchall())
        return {QueueState(state): mails for state, mails in rows}

    def next_due(self) -> float | None:
        """When the earliest claimable mail is due."""
        rows = self._look(lambda connection: connection.execute(sql.NEXT_DUE).fetchall())
        return min((row[0] for row in rows), default=None)

    def list_mails(self, chosen: Filter, limit: int, after: str) -> list[QueuedMail]:
        """Mails in order of id."""
        rows = self._chosen(", ".join(MAIL_COLUMNS), chosen, ["id > :after"], {"after": after, "limit": limit})
        return [decode_mail(row) for row in rows]

    def meant(self, order: Order) -> list[str]:
        """The ids of the mails that an order means, in flight or not."""
        states = ", ".join(f"'{state.value}'" for state in sorted(STATES_OF_VERB[order.verb], key=str))
        terms = [f"state IN ({states})"]
        if order.verb is Verb.RETRY:
            terms.append("(state = 'failed' OR next_attempt_at > :now OR attempting_since IS NOT NULL)")
        values: dict[str, object] = {"now": order.now, "limit": order.limit}
        return [str(row[0]) for row in self._chosen("id", order.filter, terms, values)]

    def _chosen(
        self, columns: str, chosen: Filter, terms: list[str], values: dict[str, object]
    ) -> list[tuple[object, ...]]:
        more_terms, more_values = sql.filter_terms(chosen)
        terms = terms + more_terms
        values = values | more_values
        values["limit"] = max(int(str(values["limit"])), 0)
        if chosen.states is not None:
            states = ", ".join(f"'{state.value}'" for state in sorted(chosen.states, key=str))
            terms.append(f"state IN ({states})")
        if chosen.ids is not None:
            terms.append("id IN (SELECT value FROM json_each(:ids))")
            values["ids"] = orjson.dumps([each for each in chosen.ids if is_queue_id(each)]).decode()
        where = " AND ".join(terms)
        statement = f"SELECT {columns} FROM mails WHERE {where} ORDER BY id LIMIT :limit"
        try:
            return self._look(lambda connection: connection.execute(statement, values).fetchall())
        except UnicodeError:
            # A term that is not Unicode, as an operator's terminal may give it, is no mail's.
            return []

    def inspect(self) -> list[Finding]:
        """What SQLite finds wrong with its file, mails without content, names that are not ours."""
        place = self._place
        damage = self._look(lambda connection: connection.execute("PRAGMA quick_check").fetchall())
        findings = [Finding(place.database, f"{row[0]}: restore it from a copy") for row in damage if row[0] != "ok"]
        lost = self._look(lambda connection: connection.execute(sql.WITHOUT_CONTENT).fetchall())
        findings += [Finding(row[0], "its content is not in the database") for row in lost]
        odd = self._look(lambda _: self._contents.odd_names())
        return findings + [Finding(path, "nothing of ours: move it away") for path in odd]

    def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """A part of content, from its row or its file."""
        if not is_queue_id(ref.id):
            raise ContentMissing("no content has such an id")
        found = self._look(
            lambda connection: connection.execute(sql.CONTENT_PART, (offset + 1, limit, ref.id)).fetchone()
        )
        if found is None or found[0] != ref.size:
            raise ContentMissing(f"the content {ref.id} is not in the queue, or not whole")
        file: str | None = found[1]
        if file is None:
            # SQLite makes NULL of a part of nothing.
            part: bytes = found[2] or b""
            return part
        return self._look(lambda connection: self._read_file(connection, ref, file=file, part=(offset, limit)))

    def _read_file(self, connection: sqlite3.Connection, ref: ContentRef, *, file: str, part: tuple[int, int]) -> bytes:
        octets = self._contents.read(file, *part, size=ref.size)
        # When the mail left meanwhile, the file may hold another's content already. While its row is there, it cannot.
        if connection.execute(sql.CONTENT_FILE, (ref.id,)).fetchone() != (file,):
            raise ContentMissing(f"the content {ref.id} is not in the queue any more")
        return octets
