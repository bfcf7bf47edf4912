"""Units of work on the real servers: what comes back, what is committed, what is not."""

import pytest
import trio

from elemta.datasource.base import Connection, DatabaseAway, DatabaseRefused, DatabaseUnusable
from elemta.datasource.options import DatabaseOptions
from tests.datasource.servers import SERVERS, running, statement

pytestmark = pytest.mark.parametrize("server", SERVERS, indirect=True)


class Told(Exception):
    """What a unit of work raises by itself."""


async def test_a_unit_is_committed_as_a_whole(server: DatabaseOptions) -> None:
    insert = statement(server, "INSERT INTO t VALUES (%s, %s)")

    async def make(connection: Connection) -> None:
        await connection.execute("CREATE TABLE t (id integer PRIMARY KEY, word text)")

    async def two(connection: Connection) -> int:
        return await connection.execute(insert, 1, "one's \\ \u20ac") + await connection.execute(insert, 2, "")

    async def three(connection: Connection) -> None:
        await connection.execute(insert, 3, "x")
        raise Told

    async def all_rows(connection: Connection) -> list[tuple[int, str]]:
        return [(number, word) for number, word in await connection.fetch("SELECT id, word FROM t ORDER BY id")]

    async with running(server) as database:
        await database.look(make)
        assert await database.transact(two) == 2
        with pytest.raises(Told):
            await database.transact(three)
        assert await database.look(all_rows) == [(1, "one's \\ \u20ac"), (2, "")]
        with pytest.raises(DatabaseRefused, match="1"):
            await database.transact(two)
        assert await database.look(all_rows) == [(1, "one's \\ \u20ac"), (2, "")]


async def test_octets_come_back_unharmed(server: DatabaseOptions) -> None:
    every = bytes(range(256)) * 4096

    async def there_and_back(connection: Connection) -> bytes:
        await connection.execute(statement(server, "CREATE TABLE t (content OCTETS)"))
        await connection.execute(statement(server, "INSERT INTO t VALUES (%s)"), every)
        return bytes((await connection.fetch("SELECT content FROM t"))[0][0])

    async with running(server) as database:
        assert await database.transact(there_and_back) == every


async def test_a_cancelled_caller_leaves_its_unit_whole(server: DatabaseOptions) -> None:
    async def slow(connection: Connection) -> str:
        scope.cancel()
        await connection.execute("CREATE TABLE t (id integer)")
        await connection.execute("INSERT INTO t VALUES (1)")
        return "done"

    async def count(connection: Connection) -> int:
        return int((await connection.fetch("SELECT count(*) FROM t"))[0][0])

    async with running(server) as database:
        with trio.CancelScope() as scope:
            assert await database.transact(slow) == "done"
            await database.transact(slow)
            pytest.fail("began a unit for a caller that was cancelled before")
        assert await database.look(count) == 1


async def test_what_is_not_there_is_named(server: DatabaseOptions) -> None:
    async def look(connection: Connection) -> None:
        await connection.fetch("SELECT 1 FROM nowhere")

    async with running(server) as database:
        with pytest.raises(DatabaseUnusable, match="nowhere"):
            await database.look(look)
    with pytest.raises(DatabaseAway, match="starts or stops"):
        await database.look(look)
