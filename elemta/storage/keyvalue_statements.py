"""Statements about the plugins' state on a database server, in both dialects.

What is not here: who runs them (`keyvalue_shared`). They do what `keyvalue.carry_out` does, each operation in one
statement that locks its row, so that nodes never undo each other's; MySQL takes two to swap with what is not there.

All that is compared are octets: no collation takes keys for equal that differ in case, accents or spaces at the end.
Times are the database's.
"""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from elemta.datasource.base import Connection, Row
from elemta.datasource.migrations import Migration
from elemta.datasource.options import Dialect
from elemta.storage.keyvalue import Add, Answer, Delete, Get, Operation, Put, Swap

#: Whose table this is in `elemta_migrations`.
COMPONENT: Final = "plugin-state"

_NOW: Final = {
    # Not the transaction's beginning: an operation may wait for others of its batch.
    Dialect.POSTGRESQL: "extract(epoch FROM statement_timestamp())::double precision",
    Dialect.MYSQL: "UNIX_TIMESTAMP(NOW(6))",
}


@frozen
class Words:
    """One dialect's statements. Where one adds to no counter, its NULL is refused by the column."""

    migration: Migration
    #: Takes namespace, key.
    get: str
    #: Takes namespace, key, value, seconds.
    put: str
    #: Takes value, seconds, namespace, key: a swap with what is over, where `insert` leaves that alone.
    revive: str | None
    #: Takes namespace, key, value, seconds: a swap with nothing.
    insert: str
    #: Takes value, seconds, namespace, key, the old value.
    swap: str
    #: Takes namespace, key, the amount as octets, seconds, the amount.
    add: str
    #: Takes namespace, key; run behind `add`, where that gives no row.
    added: str | None
    #: Takes namespace, key.
    delete: str
    #: Takes the most rows.
    sweep: str
    #: Takes the most rows of a namespace; gives namespaces that have more, with their number.
    crowded: str
    #: Takes namespace, and how many rows are passed over from the one that ends soonest; gives the next one's end.
    edge: str
    #: Takes namespace, that end, the most rows. So the index over ends is enough: to sort a whole namespace each time
    #: takes seconds, for which MySQL would lock all of it.
    thin: str


def _postgresql() -> Words:
    now = _NOW[Dialect.POSTGRESQL]
    insert = f"""INSERT INTO elemta_plugin_state AS old (namespace, name, value, until_at)
        VALUES ($1, $2, $3, {now} + $4::double precision) ON CONFLICT (namespace, name) DO UPDATE SET"""
    digits = "encode(old.value, 'escape')"
    chosen = "(SELECT namespace, name FROM elemta_plugin_state WHERE {which} LIMIT {most} FOR UPDATE SKIP LOCKED)"
    delete = f"DELETE FROM elemta_plugin_state WHERE (namespace, name) IN {chosen}"
    return Words(
        migration=Migration(
            1,
            "state",
            (
                """CREATE TABLE IF NOT EXISTS elemta_plugin_state (
                namespace bytea NOT NULL, name bytea NOT NULL, value bytea NOT NULL, until_at double precision NOT NULL,
                PRIMARY KEY (namespace, name))""",
                "CREATE INDEX IF NOT EXISTS elemta_plugin_state_until ON elemta_plugin_state (until_at)",
            ),
        ),
        get=f"SELECT value FROM elemta_plugin_state WHERE namespace = $1 AND name = $2 AND until_at > {now}",
        put=f"{insert} value = excluded.value, until_at = excluded.until_at",
        revive=None,
        insert=f"{insert} value = excluded.value, until_at = excluded.until_at WHERE old.until_at <= {now}",
        swap=f"""UPDATE elemta_plugin_state SET value = $1, until_at = {now} + $2::double precision
            WHERE namespace = $3 AND name = $4 AND value = $5 AND until_at > {now}""",
        add=f"""{insert}
            value = CASE WHEN old.until_at <= {now} THEN excluded.value WHEN {digits} ~ '^-?[0-9]{{1,18}}$'
                THEN decode(({digits}::bigint + $5::bigint)::text, 'escape') END,
            until_at = CASE WHEN old.until_at <= {now} THEN excluded.until_at
                ELSE LEAST(old.until_at, excluded.until_at) END
            RETURNING value""",
        added=None,
        delete="DELETE FROM elemta_plugin_state WHERE namespace = $1 AND name = $2",
        sweep=delete.format(which=f"until_at <= {now} ORDER BY until_at", most="$1"),
        crowded="SELECT namespace, count(*) FROM elemta_plugin_state GROUP BY namespace HAVING count(*) > $1",
        edge="SELECT until_at FROM elemta_plugin_state WHERE namespace = $1 ORDER BY until_at LIMIT 1 OFFSET $2",
        thin=delete.format(which="namespace = $1 AND until_at <= $2 ORDER BY until_at", most="$3"),
    )


def _mysql() -> Words:
    """An assignment sees what those before it set: `until_at`, which the others look at, comes last."""
    now = _NOW[Dialect.MYSQL]
    columns = f"elemta_plugin_state (namespace, name, value, until_at) VALUES (%s, %s, %s, {now} + %s)"
    digits = "CONVERT(value USING latin1)"
    # \z, for $ would be true before a line feed at the end as well.
    counter = rf"{digits} REGEXP '^-?[0-9]{{1,18}}\\z'"
    return Words(
        migration=Migration(
            1,
            "state",
            (
                """CREATE TABLE IF NOT EXISTS elemta_plugin_state (
                namespace varbinary(200) NOT NULL, name varbinary(200) NOT NULL, value varbinary(4096) NOT NULL,
                until_at double NOT NULL, PRIMARY KEY (namespace, name), INDEX elemta_plugin_state_until (until_at)
                ) ENGINE=InnoDB ROW_FORMAT=DYNAMIC""",
            ),
        ),
        get=f"SELECT value FROM elemta_plugin_state WHERE namespace = %s AND name = %s AND until_at > {now}",
        put=f"INSERT INTO {columns} ON DUPLICATE KEY UPDATE value = VALUES(value), until_at = VALUES(until_at)",
        # An upsert would count the same for a row that it made and for one that it left.
        revive=f"""UPDATE elemta_plugin_state SET value = %s, until_at = {now} + %s
            WHERE namespace = %s AND name = %s AND until_at <= {now}""",
        insert=f"INSERT IGNORE INTO {columns}",
        swap=f"""UPDATE elemta_plugin_state SET value = %s, until_at = {now} + %s
            WHERE namespace = %s AND name = %s AND value = %s AND until_at > {now}""",
        add=f"""INSERT INTO {columns} ON DUPLICATE KEY UPDATE
            value = IF(until_at <= {now}, VALUES(value),
                IF({counter}, CAST(CAST({digits} AS SIGNED) + %s AS CHAR CHARACTER SET latin1), NULL)),
            until_at = IF(until_at <= {now}, VALUES(until_at), LEAST(until_at, VALUES(until_at)))""",
        added="SELECT value FROM elemta_plugin_state WHERE namespace = %s AND name = %s",
        delete="DELETE FROM elemta_plugin_state WHERE namespace = %s AND name = %s",
        sweep=f"DELETE FROM elemta_plugin_state WHERE until_at <= {now} ORDER BY until_at LIMIT %s",
        crowded="SELECT namespace, count(*) FROM elemta_plugin_state GROUP BY namespace HAVING count(*) > %s",
        edge="SELECT until_at FROM elemta_plugin_state WHERE namespace = %s ORDER BY until_at LIMIT 1 OFFSET %s",
        thin="DELETE FROM elemta_plugin_state WHERE namespace = %s AND until_at <= %s ORDER BY until_at LIMIT %s",
    )


WORDS: Final = {Dialect.POSTGRESQL: _postgresql(), Dialect.MYSQL: _mysql()}


async def carry_out_there(connection: Connection, words: Words, operation: Operation) -> Answer:
    """Carry out an operation within a unit of work. An Add to what is no counter is refused by the database."""
    place = (operation.namespace.encode(), operation.key.encode())
    match operation:
        case Get():
            return Answer(_value(await connection.fetch(words.get, *place)))
        case Put():
            await connection.execute(words.put, *place, operation.value, operation.seconds)
            return Answer()
        case Swap(old=None):
            new = (operation.new, operation.seconds)
            changed = 0 if words.revive is None else await connection.execute(words.revive, *new, *place)
            return Answer(is_done=bool(changed or await connection.execute(words.insert, *place, *new)))
        case Swap():
            values = (operation.new, operation.seconds, *place, operation.old)
            return Answer(is_done=bool(await connection.execute(words.swap, *values)))
        case Add():
            amount = operation.amount
            rows = await connection.fetch(words.add, *place, b"%d" % amount, operation.seconds, amount)
            return Answer(_value(rows if words.added is None else await connection.fetch(words.added, *place)))
        case Delete():
            await connection.execute(words.delete, *place)
            return Answer()


def _value(rows: Sequence[Row]) -> bytes | None:
    return bytes(rows[0][0]) if rows else None
