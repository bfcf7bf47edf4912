"""Users in an existing table, asked for by the operator's own statement."""

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from elemta.auth.base import NotManaged, User, UsersAway, UsersUnusable
from elemta.auth.user_documents import DocumentForm, parse
from elemta.auth.user_query import UnfitQuery, rendered, values_of
from elemta.config.auth import AuthSection
from elemta.datasource.options import DatabaseOptions, Dialect
from tests.datasource.servers import administer, empty_database
from tests.users.backends import BOB, HASH, local_section, opened, server_section

ENGINES = ("sqlite", "postgresql", "mysql")

#: As Postfixadmin has it, in the words that all engines understand.
POSTFIXADMIN = (
    "CREATE TABLE mailbox (username varchar(255) NOT NULL PRIMARY KEY, password varchar(255) NOT NULL,"
    " name varchar(255) NOT NULL, domain varchar(255) NOT NULL, active boolean NOT NULL)",
    "CREATE TABLE alias (address varchar(255) NOT NULL PRIMARY KEY, goto text NOT NULL, active boolean NOT NULL)",
    f"INSERT INTO mailbox VALUES ('bob@example.com', '{{BLF-CRYPT}}{HASH}', 'Bob', 'example.com', true)",
    f"INSERT INTO mailbox VALUES ('eve@example.com', '{HASH}', 'Eve', 'example.com', false)",
    f"INSERT INTO mailbox VALUES ('o''brien@example.com', '{HASH}', '', 'example.com', true)",
    "INSERT INTO alias VALUES ('sales@example.com', 'bob@example.com', true)",
)
MAILBOX = "SELECT username, password, active AS is_active FROM mailbox WHERE username = :user"
#: With the aliases that lead to a mailbox as its senders.
SENDERS = {
    "sqlite": "(SELECT group_concat(address, ' ') FROM alias WHERE goto = :user AND active)",
    "postgresql": "(SELECT string_agg(address, ' ') FROM alias WHERE goto = :user AND active)",
    "mysql": "(SELECT group_concat(address SEPARATOR ' ') FROM alias WHERE goto = :user AND active)",
}
SLOW = {
    "sqlite": "SELECT (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n)"
    " AS password, 'x' AS username WHERE :user <> ''",
    "postgresql": "SELECT 'x' AS password, 'x' AS username FROM pg_sleep(60) WHERE :user <> ''",
    "mysql": "SELECT CONCAT('x', SLEEP(60)) AS password, 'x' AS username FROM DUAL WHERE :user <> ''",
}


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AuthSection]]:
    folder = tmp_path_factory.mktemp("postfixadmin")
    local = local_section("sqlite", folder)
    with contextlib.closing(sqlite3.connect(local.datasource_path)) as connection:
        for statement in POSTFIXADMIN:
            connection.execute(statement)
        connection.commit()
    with empty_database(Dialect.POSTGRESQL) as postgresql, empty_database(Dialect.MYSQL) as mysql:
        for options in (postgresql, mysql):
            administer(options, *POSTFIXADMIN)
        yield {"sqlite": local, "postgresql": server_section(postgresql), "mysql": server_section(mysql)}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asking(auth: AuthSection, statement: str, *, timeout: float = 10.0) -> AuthSection:
    return attrs.evolve(auth, user_query=statement, timeout=timeout)


async def test_mailboxes_of_postfixadmin(databases: dict[str, AuthSection], engine: str) -> None:
    statement = MAILBOX.replace(" FROM", f", {SENDERS[engine]} AS senders FROM", 1) + ";"
    async with opened(asking(databases[engine], statement)) as users:
        bob = await users.find("Bob@Example.COM")
        assert bob == User(
            name="bob@example.com", password=f"{{BLF-CRYPT}}{HASH}", attributes={"senders": "sales@example.com"}
        )
        eve = await users.find("eve@example.com")
        assert eve == User(name="eve@example.com", password=HASH, is_active=False)
        assert await users.find("o'brien@example.com") is not None
        for name in ("rob", "' OR '1'='1", "bob@example.com' --", "%", "bob@example.com ", "a\0b"):
            assert await users.find(name) is None


async def test_nothing_is_changed_there(databases: dict[str, AuthSection], engine: str) -> None:
    async with opened(asking(databases[engine], MAILBOX)) as users:
        assert await users.renew("eve@example.com", old=HASH, password="$x") is False
        await users.note_login("eve@example.com", 1.0)
        attempts = (users.add(BOB), users.add_all([BOB]), users.update(BOB), users.delete("eve@example.com"))
        for attempt in (*attempts, users.list()):
            with pytest.raises(NotManaged, match="user_query"):
                await attempt
        eve = await users.find("eve@example.com")
        assert eve is not None
        assert eve.password == HASH


async def test_the_least_query(databases: dict[str, AuthSection], engine: str) -> None:
    statement = "SELECT NULL AS PASSWORD, username, 'x' AS other FROM mailbox WHERE name LIKE 'B%' AND username = :user"
    async with opened(asking(databases[engine], statement)) as users:
        assert await users.find("bob@example.com") == User(name="bob@example.com")
        assert await users.find("eve@example.com") is None


WRONG = {
    "SELECT username, name FROM mailbox WHERE username = :user": "none of its columns is called password",
    "SELECT password, name FROM mailbox WHERE username = :user": "none of its columns is called username",
    "SELECT username, password, name AS password FROM mailbox WHERE username = :user": "two of its columns",
    "SELECT password FROM mailbox": "WHERE username = :user",
    "SELECT password FROM mailbox WHERE username = ':user'": "WHERE username = :user",
    "DELETE FROM mailbox WHERE username = :user": "must be a SELECT",
    "SELECT password FROM postbox WHERE username = :user": "postbox",
    "SELECT passwort AS password FROM mailbox WHERE username = :user": "passwort",
    "SELECT password FROM mailbox WHERE username = :user AND": "",
}


@pytest.mark.parametrize("statement", WRONG)
async def test_a_query_that_cannot_work_is_found_out_at_opening(
    databases: dict[str, AuthSection], engine: str, statement: str
) -> None:
    with pytest.raises(UsersUnusable, match=r"auth\.user_query") as failure:
        async with opened(asking(databases[engine], statement)):
            pass
    assert WRONG[statement] in str(failure.value)


async def test_two_rows_are_nobody(databases: dict[str, AuthSection], engine: str) -> None:
    statement = (
        "SELECT username, password FROM mailbox WHERE domain = 'example.com' AND :user <> 'nobody@elemta.invalid'"
    )
    async with opened(asking(databases[engine], statement)) as users:
        with pytest.raises(UsersUnusable, match="more than one row"):
            await users.find("bob@example.com")


async def test_a_row_that_is_no_user_is_nobody(databases: dict[str, AuthSection], engine: str) -> None:
    statement = "SELECT password, ' ' AS username FROM mailbox WHERE username = :user"
    async with opened(asking(databases[engine], statement)) as users:
        with pytest.raises(UsersUnusable, match="begins or ends with a blank"):
            await users.find("bob@example.com")


async def test_a_slow_query_is_away_within_the_time(databases: dict[str, AuthSection], engine: str) -> None:
    statement = SLOW[engine] + " AND :user <> 'nobody@elemta.invalid'"
    async with opened(asking(databases[engine], statement, timeout=1.0)) as users:
        began = trio.current_time()
        with pytest.raises(UsersAway) as failure:
            await users.find("bob@example.com")
        assert trio.current_time() - began < 2.0
        assert not isinstance(failure.value, UsersUnusable)


async def test_a_database_of_others_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(UsersUnusable, match="no such file"):
        async with opened(asking(local_section("sqlite", tmp_path), MAILBOX)):
            pass
    assert os.listdir(tmp_path) == []


async def test_a_file_has_no_queries(tmp_path: Path) -> None:
    with pytest.raises(UsersUnusable, match="user_query"):
        async with opened(asking(local_section("file", tmp_path), MAILBOX)):
            pass


@pytest.mark.parametrize("server", [Dialect.MYSQL])
def test_bits_of_mysql_are_truths(server: Dialect) -> None:
    with empty_database(server) as options:
        administer(
            options,
            "CREATE TABLE people (login VARBINARY(100), secret VARBINARY(100), enabled BIT(1))",
            "INSERT INTO people VALUES ('bob', 'x', b'1'), ('eve', 'y', b'0')",
        )
        trio.run(check_bits, options)


async def check_bits(options: DatabaseOptions) -> None:
    statement = "SELECT login AS username, secret AS password, enabled AS is_active FROM people WHERE login = :user"
    async with opened(asking(server_section(options), statement)) as users:
        assert await users.find("bob") == User(name="bob", password="x")
        assert await users.find("eve") == User(name="eve", password="y", is_active=False)


# ---- what the manual says ------------------------------------------------------------------------

MANUAL = Path(__file__).parents[2] / "docs" / "authentication.md"


def examples() -> list[dict[str, Any]]:
    return [
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("engine", ["mysql", "postgresql"])
async def test_the_queries_of_the_manual_work(databases: dict[str, AuthSection], engine: str) -> None:
    (statement,) = [
        example["auth"]["user_query"]
        for example in examples()
        if example.get("auth", {}).get("datasource_type") == engine and "user_query" in example["auth"]
    ]
    async with opened(asking(databases[engine], statement)) as users:
        bob, eve = await users.find("bob@example.com"), await users.find("eve@example.com")
        assert bob is not None
        assert eve is not None
        assert (bob.is_active, bob.attributes) == (True, {"senders": "sales@example.com"})
        assert (eve.is_active, eve.attributes) == (False, {})
        assert await users.find("rob@example.com") is None


def test_the_file_of_the_manual_is_read() -> None:
    (document,) = [example for example in examples() if "users" in example]
    (user,) = parse(json.dumps(document), DocumentForm.JSON).values()
    assert (user.name, user.groups, user.attributes) == (
        "bob@example.com",
        ("staff",),
        {"senders": "sales@example.com @example.net"},
    )


# ---- the statement alone -------------------------------------------------------------------------


def numbered(statement: str) -> str:
    return rendered(statement, placeholder=lambda number: f"${number}")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT a WHERE b = :user ; ", "SELECT a WHERE b = $1"),
        ("select a where b = :user or c = :user", "select a where b = $1 or c = $2"),
        ("WITH x AS (SELECT 1) SELECT a WHERE b=:user", "WITH x AS (SELECT 1) SELECT a WHERE b=$1"),
        ("SELECT ':user', a WHERE b = :user", "SELECT ':user', a WHERE b = $1"),
        ("SELECT 'it''s :user', a WHERE b = :user", "SELECT 'it''s :user', a WHERE b = $1"),
        ('SELECT ":user", `:user` WHERE b = :user', 'SELECT ":user", `:user` WHERE b = $1'),
        ("SELECT b::user, :username WHERE b = :user", "SELECT b::user, :username WHERE b = $1"),
        ("SELECT a /* :user */ -- :user\nWHERE b = :user", "SELECT a /* :user */ -- :user\nWHERE b = $1"),
    ],
)
def test_where_the_name_goes(statement: str, expected: str) -> None:
    assert numbered(statement) == expected
    assert values_of(statement, "bob") == ["bob"] * expected.count("$")


@given(st.text())
def test_no_statement_fails_but_as_unfit(text: str) -> None:
    try:
        made = numbered(f"SELECT {text}")
    except UnfitQuery:
        return
    assert made.count("$") >= 1
