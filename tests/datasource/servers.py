"""Real servers for tests: each gets databases of its own, which are dropped again.

What is not here: faults on the way (`proxy`). Addresses come from `ELEMTA_TEST_POSTGRESQL` and `ELEMTA_TEST_MYSQL`.
Import the fixtures into a `conftest.py`: `postgresql`, `mysql` give options of an empty database for one test;
`server`, for use with `SERVERS`, either of them by its name.
"""

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator

import attrs
import pytest
import trio

from elemta.datasource.base import Connection, DatabaseError
from elemta.datasource.dsn import parse_dsn
from elemta.datasource.mysql import MysqlDatabase
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.datasource.pool import PooledDatabase
from elemta.datasource.postgresql import PostgresqlDatabase

ADDRESSES = {
    Dialect.POSTGRESQL: ("ELEMTA_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/postgres"),
    Dialect.MYSQL: ("ELEMTA_TEST_MYSQL", "mysql://root@127.0.0.1:3306/"),
}

HOW_TO_GET_ONE = {
    Dialect.POSTGRESQL: "apt install postgresql, and let user postgres in without a password",
    Dialect.MYSQL: "apt install mariadb-server, and let user root in without a password",
}

#: For `@pytest.mark.parametrize("server", SERVERS, indirect=True)`.
SERVERS = [pytest.param(dialect, id=dialect.value) for dialect in Dialect]

MakeDatabase = Callable[[DatabaseOptions], PooledDatabase]


def address(dialect: Dialect) -> DatabaseOptions:
    """Where the server for tests is, with the right to make databases there."""
    variable, default = ADDRESSES[dialect]
    return parse_dsn(os.environ.get(variable, default))


def database_of(options: DatabaseOptions) -> PooledDatabase:
    """A database for its options."""
    return PostgresqlDatabase(options) if options.dialect is Dialect.POSTGRESQL else MysqlDatabase(options)


@contextlib.asynccontextmanager
async def running(options: DatabaseOptions) -> AsyncIterator[PooledDatabase]:
    """A database in use."""
    database = database_of(options)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        yield database
        nursery.cancel_scope.cancel()


def statement(options: DatabaseOptions, text: str) -> str:
    """The statement with the dialect's placeholders for `%s`, and its type for `OCTETS`."""
    if options.dialect is Dialect.MYSQL:
        return text.replace("OCTETS", "longblob")
    for number in range(1, text.count("%s") + 1):
        text = text.replace("%s", f"${number}", 1)
    return text.replace("OCTETS", "bytea")


def administer(options: DatabaseOptions, *statements: str) -> None:
    """Run statements one by one, in a loop of its own: for fixtures, or in a thread."""

    async def each(connection: Connection) -> None:
        for statement in statements:
            await connection.execute(statement)

    async def main() -> None:
        async with running(options) as database:
            await database.look(each)

    trio.run(main)


@contextlib.contextmanager
def empty_database(dialect: Dialect) -> Iterator[DatabaseOptions]:
    """A new database; skips the test when there is no server."""
    name = f"elemta_test_{secrets.token_hex(6)}"
    try:
        administer(address(dialect), f"CREATE DATABASE {name}")
    except* DatabaseError as group:
        pytest.skip(f"needs a server: {group.exceptions[0]}; {HOW_TO_GET_ONE[dialect]}; {ADDRESSES[dialect][0]}=dsn")
    try:
        yield attrs.evolve(address(dialect), database=name)
    finally:
        force = " WITH (FORCE)" if dialect is Dialect.POSTGRESQL else ""
        administer(address(dialect), f"DROP DATABASE {name}{force}")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseOptions]:
    """An empty database of the dialect that the test names."""
    with empty_database(request.param) as options:
        yield options


@pytest.fixture
def postgresql() -> Iterator[DatabaseOptions]:
    """An empty database on PostgreSQL."""
    with empty_database(Dialect.POSTGRESQL) as options:
        yield options


@pytest.fixture
def mysql() -> Iterator[DatabaseOptions]:
    """An empty database on MySQL or MariaDB."""
    with empty_database(Dialect.MYSQL) as options:
        yield options
