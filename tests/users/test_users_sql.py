"""Users in SQL beyond the contract: databases of others, old and strange ones; servers that are away or hang."""

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import attrs
import pytest
import trio
from structlog.testing import CapturingLogger

from elemta.auth.base import ManagedUsers, User, UsersAway, UsersUnusable
from elemta.config.auth import AuthSection
from elemta.datasource.options import DatabaseOptions, Dialect
from tests.datasource.proxy import Proxy, proxied
from tests.datasource.servers import SERVERS, administer, empty_database
from tests.users.backends import BOB, HASH, local_section, opened, server_section, without_times

#: As the original creates them in SQLite.
ORIGINAL = """
CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL UNIQUE, password TEXT NOT NULL,
    email TEXT, full_name TEXT, is_active INTEGER NOT NULL DEFAULT 1, is_admin INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, last_login_at INTEGER);
CREATE TABLE groups (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, description TEXT,
    created_at INTEGER NOT NULL);
CREATE TABLE user_groups (user_id INTEGER NOT NULL, group_id INTEGER NOT NULL, PRIMARY KEY (user_id, group_id),
    FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
    FOREIGN KEY (group_id) REFERENCES groups(id) ON DELETE CASCADE);
CREATE TABLE user_attributes (id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL, attr_key TEXT NOT NULL,
    attr_value TEXT, UNIQUE (username, attr_key),
    FOREIGN KEY (username) REFERENCES users(username) ON DELETE CASCADE);
INSERT INTO users VALUES (3, 'Alice@Example.com', 'secret', NULL, NULL, 1, 1, 1741946400, 1741946400, NULL);
INSERT INTO users VALUES (4, 'bob', '', 'bob@example.com', 'Bob', 0, 0, 1741946400, 1741946401, 1741946402);
INSERT INTO users VALUES (5, 'Eve', 'x', '', '', 1, 0, 1741946400, 1741946400, NULL);
INSERT INTO users VALUES (6, 'eve', '$2y$05$x', '', '', 1, 0, 1741946400, 1741946400, NULL);
INSERT INTO groups VALUES (1, 'staff', 'people', 1741946400);
INSERT INTO user_groups VALUES (3, 1);
INSERT INTO user_attributes VALUES (1, 'Alice@Example.com', 'senders', '@example.com');
INSERT INTO user_attributes VALUES (2, 'bob', 'nothing', NULL);
"""

STRANGER = "CREATE TABLE users (id integer, username varchar(100), pass varchar(100))"


@pytest.fixture
def auth(tmp_path: Path) -> AuthSection:
    return local_section("sqlite", tmp_path, timeout=0.3)


@pytest.fixture
def path(auth: AuthSection) -> Path:
    return Path(auth.datasource_path)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseOptions]:
    with empty_database(request.param) as options:
        yield options


def run(path: Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def write(path: Path, octets: bytes) -> None:
    path.write_bytes(octets)


def read(path: Path) -> bytes:
    return path.read_bytes()


def events(log: CapturingLogger) -> list[str]:
    return [f"{call.method_name} {call.args[0]}" for call in log.calls]


# ---- SQLite --------------------------------------------------------------------------------------


async def test_a_database_of_the_original_is_taken_over(auth: AuthSection, path: Path) -> None:
    run(path, ORIGINAL)
    log = CapturingLogger()
    async with opened(auth, log=log) as users:
        assert await users.find("alice@example.com") == User(
            name="alice@example.com",
            password="secret",
            is_admin=True,
            groups=("staff",),
            attributes={"senders": "@example.com"},
            created_at=1741946400.0,
            updated_at=1741946400.0,
        )
        bob = await users.find("bob")
        assert bob is not None
        assert (bob.is_active, bob.attributes, bob.last_login_at) == (False, {}, 1741946402.0)
        eve = await users.find("Eve")
        assert eve is not None
        assert eve.password == "$2y$05$x"
        await users.update(attrs.evolve(bob, scram="SCRAM-SHA-256$4096:x$y:z", groups=("staff", "new")))
        await users.delete("alice@example.com")
        await users.add(BOB)
        assert without_times(await users.find(BOB.name)) == BOB
    assert events(log) == ["warning user.name_taken", "warning users.unusable_passwords"]
    assert log.calls[0].kwargs["user"] == "Eve"
    assert log.calls[1].kwargs["count"] == 2
    again = CapturingLogger()
    async with opened(auth, log=again) as users:
        assert await users.find("alice@example.com") is None
    assert events(again) == events(log)


async def test_a_stranger_s_table_is_left_alone(auth: AuthSection, path: Path) -> None:
    run(path, STRANGER)
    before = read(path)
    with pytest.raises(UsersUnusable, match=r"another program's.*password.*user_query"):
        async with opened(auth):
            pass
    assert read(path) == before


async def test_tables_of_a_later_version_are_left_alone(auth: AuthSection, path: Path) -> None:
    async with opened(auth):
        pass
    run(path, "INSERT INTO elemta_migrations VALUES ('auth', 99, 'later', '9.9', 0)")
    with pytest.raises(UsersUnusable, match=r"9\.9"):
        async with opened(auth):
            pass


async def test_the_file_is_the_user_s_alone(auth: AuthSection, path: Path) -> None:
    async with opened(auth) as users:
        await users.add(BOB)
        assert {each.stat().st_mode & 0o777 for each in path.parent.glob("users*")} == {0o600}


async def test_a_lock_of_another_program_is_away_and_over(auth: AuthSection, path: Path) -> None:
    async with opened(auth) as users:
        await users.add(BOB)
        other = sqlite3.connect(path, isolation_level=None)
        with contextlib.closing(other):
            other.execute("BEGIN EXCLUSIVE")
            with trio.fail_after(2), pytest.raises(UsersAway, match="locked"):
                await users.renew(BOB.name, old=HASH, password="$x")
            other.execute("ROLLBACK")
        assert await users.renew(BOB.name, old=HASH, password="$x") is True


@pytest.mark.parametrize(
    ("octets", "says"), [(b"no database at all" * 500, "not a database"), (b"SQLite format 3\0" + bytes(4096), "mend")]
)
async def test_what_is_no_database_says_so(auth: AuthSection, path: Path, octets: bytes, says: str) -> None:
    write(path, octets)
    with pytest.raises(UsersUnusable, match=says):
        async with opened(auth):
            pass
    assert read(path) == octets


async def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsersUnusable, match="no such folder"):
        async with opened(local_section("sqlite", tmp_path / "missing")):
            pass


async def test_a_copy_put_in_the_place_of_the_file_is_noticed(auth: AuthSection, path: Path, tmp_path: Path) -> None:
    copy = local_section("sqlite", tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    async with opened(copy) as users:
        await users.add(BOB)
    async with opened(auth) as users:
        assert await users.find(BOB.name) is None
        os.rename(copy.datasource_path, path)
        assert without_times(await users.find(BOB.name)) == BOB
        os.unlink(path)
        with pytest.raises(UsersUnusable, match="no such file"):
            await users.find(BOB.name)


async def test_names_that_could_not_be_folded_hide_nobody_behind_them(auth: AuthSection, path: Path) -> None:
    run(path, ORIGINAL)
    async with opened(auth) as users:
        listed: list[str] = []
        while page := await users.list(after=listed[-1] if listed else "", limit=1):
            listed += [user.name for user in page]
        assert listed == ["Eve", "alice@example.com", "bob", "eve"]


# ---- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS, indirect=True)
async def test_a_stranger_s_table_on_a_server_is_left_alone(server: DatabaseOptions) -> None:
    await trio.to_thread.run_sync(administer, server, STRANGER)
    with pytest.raises(UsersUnusable, match=r"another program's.*password.*user_query"):
        async with opened(server_section(server)):
            pass


@pytest.mark.parametrize("server", [Dialect.MYSQL], indirect=True)
async def test_a_collation_that_takes_letters_for_the_same_makes_nobody_another(server: DatabaseOptions) -> None:
    columns = (
        "id INT AUTO_INCREMENT PRIMARY KEY, username VARCHAR(190) UNIQUE, password TEXT NOT NULL, email TEXT,"
        " full_name TEXT, is_active BOOL, is_admin BOOL, created_at DATETIME, updated_at BIGINT, last_login_at BIGINT"
    )
    await trio.to_thread.run_sync(
        administer,
        server,
        f"CREATE TABLE users ({columns}) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        "INSERT INTO users VALUES (1, 'Böb', 'Secret', NULL, NULL, 1, 0, '2025-03-14 10:00:00', 0, NULL)",
    )
    async with opened(server_section(server)) as users:
        assert await users.find("bob") is None
        assert await users.renew("böb", old="secret", password="$x") is False
        found = await users.find("BöB")
        assert found == User(name="böb", password="Secret", created_at=1741946400.0, updated_at=0.0)


@pytest.mark.parametrize("server", SERVERS, indirect=True)
async def test_a_database_that_is_not_there_says_what_to_mend(server: DatabaseOptions) -> None:
    with pytest.raises(UsersUnusable, match="create the database"):
        async with opened(server_section(attrs.evolve(server, database="elemta_no_such"))):
            pass


@contextlib.asynccontextmanager
async def through_a_proxy(options: DatabaseOptions, **more: object) -> AsyncIterator[tuple[Proxy, ManagedUsers]]:
    async with proxied(options) as proxy:
        async with opened(attrs.evolve(server_section(proxy.options), **more)) as users:  # type: ignore[arg-type]  # any key
            yield proxy, users


@pytest.mark.parametrize("server", SERVERS, indirect=True)
async def test_a_server_that_is_away_is_never_a_wrong_password(server: DatabaseOptions) -> None:
    async with through_a_proxy(server) as (proxy, users):
        await users.add(BOB)
        proxy.is_refusing = True
        proxy.cut()
        for attempt in (users.find(BOB.name), users.renew(BOB.name, old=HASH, password="$x"), users.list()):
            with pytest.raises(UsersAway) as failure:
                await attempt
            assert not isinstance(failure.value, UsersUnusable)
        proxy.is_refusing = False
        assert without_times(await users.find(BOB.name)) == BOB


@pytest.mark.parametrize("server", SERVERS, indirect=True)
async def test_a_server_that_hangs_is_away_within_the_time(server: DatabaseOptions) -> None:
    timeout = 1.0
    async with through_a_proxy(server, timeout=timeout) as (proxy, users):
        await users.add(BOB)
        proxy.stall()

        async def find() -> None:
            began = trio.current_time()
            with pytest.raises(UsersAway):
                await users.find(BOB.name)
            assert trio.current_time() - began < timeout + 0.5

        # More than the pool has connections: some wait for one.
        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(find)
        proxy.resume()
        assert without_times(await users.find(BOB.name)) == BOB


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"datasource_db": None}, "auth.datasource_db"),
        ({"datasource_user": None}, "auth.datasource_user"),
        ({"datasource_dsn": "postgresql://a:hunter2@h/d"}, "auth.datasource_dsn"),
    ],
)
async def test_settings_that_name_no_database(change: dict[str, str], says: str) -> None:
    auth = server_section(DatabaseOptions(Dialect.POSTGRESQL, user="u", database="d"))
    with pytest.raises(UsersUnusable, match=says) as failure:
        async with opened(attrs.evolve(auth, **change)):  # type: ignore[arg-type]  # any key
            pass
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("server", SERVERS, indirect=True)
async def test_a_dsn_says_all_in_one(server: DatabaseOptions) -> None:
    dsn = f"{server.dialect.value}://{server.user}@{server.host}:{server.port}/{server.database}"
    async with opened(AuthSection(datasource_type=server.dialect.value, datasource_dsn=dsn)) as users:
        await users.add(BOB)
        assert without_times(await users.find(BOB.name)) == BOB
