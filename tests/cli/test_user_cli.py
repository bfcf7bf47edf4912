"""The commands `elemta user …` on every backend, at a terminal and without one."""

import contextlib
import io
import json
import os
import pty
import re
import select
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import asdict

from elemta.auth.base import User
from elemta.config.auth import AuthSection
from elemta.datasource.options import DatabaseOptions, Dialect
from tests.cli.at_desk import Ended, Terminal
from tests.users.backends import (
    BOB,
    DIALECTS,
    HASH,
    KINDS,
    empty_users,
    local_section,
    opened,
    server_section,
    users_database,
    without_times,
)
from tests.users.test_users_sql import ORIGINAL, run

PASSWORD = "corrêct horse"
BCRYPT = "$2b$04$VTUTdRTKbLh2uXmQOdKAFO1T8lqDJMTdMBkRcMqU6mEuNPDYfgV8W"
#: What must never be printed: hashes, verifiers, passwords.
SECRETS = re.compile(r"\$argon2|\$2b\$|SCRAM-SHA-256\$|corr|hunter2")


@pytest.fixture(scope="module")
def databases() -> Iterator[Callable[[Dialect], DatabaseOptions]]:
    made: dict[Dialect, DatabaseOptions] = {}
    with ExitStack() as stack:

        def database(dialect: Dialect) -> DatabaseOptions:
            if dialect not in made:
                made[dialect] = stack.enter_context(users_database(dialect))
            return made[dialect]

        yield database


class Desk:
    """A terminal whose configuration names users, and what a person types or pipes in."""

    def __init__(self, terminal: Terminal, auth: AuthSection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.terminal = terminal
        self.auth = auth
        self._monkeypatch = monkeypatch
        self.configure()

    def configure(self, **more: Any) -> None:
        """Write the configuration, with other keys of `auth` beside."""
        plain = AuthSection()
        section = {
            key: value
            for key, value in asdict(self.auth, recurse=False).items()
            if key.startswith("datasource") and value not in (None, "", getattr(plain, key))
        }
        self.terminal.configure(auth={"enabled": True, **section, **more})

    def run(self, *words: str, stdin: str | bytes = b"") -> Ended:
        """`elemta user WORDS`."""
        octets = stdin.encode() if isinstance(stdin, str) else stdin
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(octets)))
            ended = self.terminal.run("user", *words)
        assert not SECRETS.search(ended.out + ended.err)
        return ended

    def users(self) -> list[User]:
        """Everybody, as the backend has them."""

        async def main() -> list[User]:
            async with opened(self.auth) as users:
                return list(await users.list(limit=500))

        return trio.run(main)


def desk_of(
    kind: str,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    databases: Callable[[Dialect], DatabaseOptions],
) -> Desk:
    if kind not in DIALECTS:
        return Desk(terminal, local_section(kind, terminal.folder), monkeypatch)
    options = databases(DIALECTS[kind])
    empty_users(options)
    return Desk(terminal, server_section(options), monkeypatch)


@pytest.fixture(params=KINDS)
def desk(
    request: pytest.FixtureRequest,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    databases: Callable[[Dialect], DatabaseOptions],
) -> Desk:
    return desk_of(request.param, terminal, monkeypatch, databases)


@pytest.fixture
def sqlite_desk(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, databases: Callable[[Dialect], DatabaseOptions]
) -> Desk:
    return desk_of("sqlite", terminal, monkeypatch, databases)


# ---- on every backend ----------------------------------------------------------------------------


def test_the_life_of_a_user(desk: Desk) -> None:
    facts = ("--email", "robert@example.com", "--full-name", "Bob", "--admin", "--group", "staff", "--sender", "@a.b")
    added = desk.run("add", "Bob@example.com", *facts, stdin=f"{PASSWORD}\n")
    assert (added.code, added.err) == (0, "")
    assert added.out.startswith("bob@example.com is added to ")
    (shown,) = desk.run("list", "-o", "json").json
    assert {key: shown[key] for key in shown if not key.endswith("_at")} == {
        "name": "bob@example.com",
        "email": "robert@example.com",
        "full_name": "Bob",
        "is_active": True,
        "is_admin": True,
        "groups": ["staff"],
        "attributes": {"senders": "@a.b"},
        "password": "argon2",
        "scram": False,
    }
    assert desk.run("test", "BOB@example.com", stdin=PASSWORD).code == 0
    assert desk.run("test", "bob@example.com", stdin="another").code == 1
    assert desk.run("disable", "bob@example.com").code == 0
    assert desk.run("test", "bob@example.com", stdin=PASSWORD).code == 77
    assert desk.run("enable", "bob@example.com").code == 0
    assert desk.run("passwd", "bob@example.com", stdin="new one\nignored\n").code == 0
    assert desk.run("test", "bob@example.com", stdin=PASSWORD).code == 1
    assert desk.run("test", "bob@example.com", stdin="new one").code == 0
    changed = desk.run("change", "bob@example.com", "--no-admin", "--group", "", "--sender", "a@b", "--sender", "@c")
    assert changed.code == 0
    (user,) = desk.users()
    assert (user.is_admin, user.groups, user.attributes, user.email) == (
        False,
        (),
        {"senders": "a@b @c"},
        "robert@example.com",
    )
    assert "is_active" in desk.run("show", "bob@example.com").out
    assert desk.run("delete", "bob@example.com").code == 2
    assert desk.run("delete", "bob@example.com", "--yes").code == 0
    assert desk.users() == []


def test_nobody_is_added_twice_nor_changed_without_being_there(desk: Desk) -> None:
    assert desk.run("add", "bob", stdin=PASSWORD).code == 0
    again = desk.run("add", "BOB", stdin="another")
    assert (again.code, again.out, again.err) == (1, "", "elemta: there is a user bob already.\n")
    for words in (("show",), ("passwd",), ("disable",), ("enable",), ("change",), ("delete", "--yes")):
        ended = desk.run(words[0], "rob", *words[1:], stdin=PASSWORD)
        assert (ended.code, ended.err) == (1, "elemta: there is no user 'rob'.\n")
    assert desk.run("test", "rob", stdin=PASSWORD).code == 67
    assert desk.run("test", "bob", stdin=PASSWORD).code == 0


def test_an_import_keeps_hashes(desk: Desk, tmp_path: Path) -> None:
    desk.run("add", "eve", stdin=PASSWORD)
    path = tmp_path / "users.csv"
    path.write_text(f"username,password,groups,is_active\nBob,{BCRYPT},staff,yes\nann,hunter2,,\neve,{BCRYPT},,no\n")
    ended = desk.run("import", str(path))
    assert ended.code == 0
    assert re.search(r"added +2", ended.out)
    assert "eve were there already" in ended.err
    assert "ann came without a usable password" in ended.err
    users = {user.name: user for user in desk.users()}
    assert users["bob"].password == BCRYPT
    assert users["bob"].groups == ("staff",)
    assert users["ann"].password == ""
    assert users["eve"].is_active
    again = desk.run("import", str(path), "--replace", "-o", "json").json
    assert (again["added"], again["replaced"], again["without_password"]) == (0, 3, ["ann"])
    assert not {user.name: user for user in desk.users()}["eve"].is_active


def test_a_long_import(desk: Desk, tmp_path: Path) -> None:
    lines = [f"user{number:04}@example.com:{BCRYPT}" for number in range(1500)]
    ended = desk.run("import", "-", stdin="\n".join(lines))
    assert re.search(r"added +1500", ended.out)
    listed = desk.run("list")
    assert len(listed.lines) == 101
    assert "These are the first 100" in listed.err
    assert len(desk.run("list", "-o", "jsonl").lines) == 1500
    assert [json.loads(line)["name"] for line in desk.run("list", "user149", "-o", "jsonl").lines] == [
        f"user149{digit}@example.com" for digit in range(10)
    ]
    assert len(desk.run("list", "--limit", "7", "-o", "jsonl").lines) == 7


# ---- passwords -----------------------------------------------------------------------------------


def test_a_verifier_is_kept_where_scram_is_offered_or_asked_for(sqlite_desk: Desk) -> None:
    desk = sqlite_desk

    def verifiers() -> dict[str, bool]:
        return {user.name: user.scram.startswith("SCRAM-SHA-256$") for user in desk.users()}

    desk.run("add", "one", stdin=PASSWORD)
    desk.run("add", "two", "--scram", stdin=PASSWORD)
    assert verifiers() == {"one": False, "two": True}
    old = {user.name: user.scram for user in desk.users()}["two"]
    desk.run("passwd", "two", stdin="new")
    assert verifiers()["two"] is True
    assert {user.name: user.scram for user in desk.users()}["two"] != old
    desk.run("passwd", "two", "--no-scram", stdin="new")
    assert verifiers()["two"] is False
    desk.configure(mechanisms=["PLAIN", "SCRAM-SHA-256"])
    desk.run("passwd", "one", stdin="new")
    desk.run("add", "three", stdin=PASSWORD)
    desk.run("add", "four", "--no-scram", stdin=PASSWORD)
    assert verifiers() == {"one": True, "two": False, "three": True, "four": False}
    assert desk.run("test", "three", stdin=PASSWORD).code == 0


def test_a_verifier_of_another_password_is_found_out(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.run("add", "one", "--scram", stdin=PASSWORD)
    desk.run("add", "two", "--scram", stdin="another")
    one, two = desk.users()

    async def main() -> None:
        async with opened(desk.auth) as users:
            await users.renew("one", old=one.password, password=one.password, scram=two.scram)

    trio.run(main)
    ended = desk.run("test", "one", stdin=PASSWORD)
    assert (ended.code, "SCRAM verifier is another's" in ended.out) == (1, True)


@pytest.mark.parametrize(
    ("stdin", "says"),
    [
        (b"", "no password on standard input"),
        (b"\nsecond line\n", "no password on standard input"),
        (b"\xff\xfe\n", "no UTF-8"),
        (b"a\0b\n", "nobody's password"),
    ],
)
def test_what_is_no_password(sqlite_desk: Desk, stdin: bytes, says: str) -> None:
    ended = sqlite_desk.run("add", "bob", stdin=stdin)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert sqlite_desk.users() == []


def test_a_line_may_end_as_windows_ends_it(sqlite_desk: Desk) -> None:
    sqlite_desk.run("add", "bob", stdin=f" {PASSWORD} \r\n")
    assert sqlite_desk.run("test", "bob", stdin=f" {PASSWORD} ").code == 0


def test_a_password_is_no_argument(sqlite_desk: Desk) -> None:
    assert sqlite_desk.run("add", "bob", "hunt").code == 2
    assert sqlite_desk.run("add", "bob", "--password", "hunt").code == 2
    assert sqlite_desk.run("passwd", "bob", "hunt").code == 2


def typed(folder: Path, *words: str, answers: list[str]) -> tuple[int, str, str]:
    """`elemta user WORDS` at a pseudo-terminal: its code, what stood there, its arguments as others see them."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "elemta", "-c", str(folder / "elemta.conf"), "user", *words]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, close_fds=True
    )
    os.close(terminal)
    seen, arguments = "", Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
    try:
        while True:
            assert select.select([controller], [], [], 60)[0], seen
            try:
                piece = os.read(controller, 4096)
            except OSError:
                break
            if not piece:
                break
            seen += piece.decode()
            if answers and re.search(r"(?:Password|confirmation|\[y/N\])[^:\n]*: $", seen):
                arguments += Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
                os.write(controller, f"{answers.pop(0)}\n".encode())
                seen += "\n"
        return process.wait(60), seen, arguments
    finally:
        os.close(controller)
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_prompt_asks_twice_and_shows_nothing(sqlite_desk: Desk) -> None:
    folder = sqlite_desk.terminal.folder
    code, seen, arguments = typed(folder, "add", "bob", answers=["hunter2", "hunter3", "hunter2", "hunter2"])
    assert code == 0, seen
    assert seen.count("Password: ") == 2
    assert "do not match" in seen
    assert "hunter" not in seen + arguments
    code, seen, _ = typed(folder, "test", "bob", answers=["hunter2"])
    assert code == 0, seen
    code, seen, _ = typed(folder, "delete", "bob", answers=["n"])
    assert (code, "nothing was removed" in seen) == (1, True)
    code, seen, _ = typed(folder, "delete", "bob", answers=["y"])
    assert code == 0, seen
    assert sqlite_desk.users() == []


# ---- what can be wrong ---------------------------------------------------------------------------


def test_a_database_of_the_original_has_unusable_passwords(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    run(Path(desk.auth.datasource_path), ORIGINAL.replace("'secret'", "'hunter2'"))
    listed = {row["name"]: row["password"] for row in desk.run("list", "-o", "json").json}
    unusable = dict.fromkeys(("alice@example.com", "Eve", "eve"), "unusable password")
    assert listed == {"bob": "none", **unusable}
    assert desk.run("test", "alice@example.com", stdin=b"hunter2").code == 65
    assert desk.run("test", "bob", stdin=b"x").code == 65
    assert desk.run("passwd", "alice@example.com", stdin=PASSWORD).code == 0
    assert desk.run("test", "alice@example.com", stdin=PASSWORD).code == 0


def test_an_htpasswd_file_is_read_and_not_written(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, databases: Callable[[Dialect], DatabaseOptions]
) -> None:
    desk = desk_of("file", terminal, monkeypatch, databases)
    Path(desk.auth.datasource_path).write_text(f"bob:{BCRYPT}\n")
    (row,) = desk.run("list", "-o", "json").json
    assert (row["name"], row["password"]) == ("bob", "bcrypt")
    ended = desk.run("passwd", "bob", stdin=PASSWORD)
    assert (ended.code, "htpasswd" in ended.err) == (1, True)


def test_users_of_another_program_can_be_tested_alone(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    run(
        Path(desk.auth.datasource_path),
        f"CREATE TABLE mailbox (name TEXT, secret TEXT); INSERT INTO mailbox VALUES ('bob', '{HASH}')",
    )
    desk.configure(user_query="SELECT name AS username, secret AS password FROM mailbox WHERE name = :user")
    assert desk.run("show", "bob", "-o", "json").json["password"] == "argon2"
    for words in (("list",), ("passwd", "bob"), ("add", "eve"), ("delete", "bob", "--yes")):
        ended = desk.run(*words, stdin=PASSWORD)
        assert (ended.code, "auth.user_query" in ended.err) == (1, True), words


@pytest.mark.parametrize(
    ("auth", "code", "says"),
    [
        ({"datasource_type": "sqlite", "datasource_path": "missing/users.db"}, 78, "no such folder"),
        ({"datasource_type": "file", "datasource_path": "missing.json"}, 78, "no such file"),
        ({"datasource_type": "postgresql"}, 78, "auth.datasource_db"),
        (
            {
                "datasource_type": "postgresql",
                "datasource_port": 1,
                "datasource_user": "elemta",
                "datasource_pass": "hunter2",
                "datasource_db": "elemta",
            },
            75,
            "nobody listens there",
        ),
    ],
)
def test_users_that_cannot_be_asked(
    sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch, auth: dict[str, object], code: int, says: str
) -> None:
    sqlite_desk.terminal.configure(auth={"enabled": False, **auth})
    monkeypatch.chdir(sqlite_desk.terminal.folder)
    ended = sqlite_desk.run("list")
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"bob:{BCRYPT}\nnonsense\n", "line 2"),
        ('{"users": {"bob": {"pasword": "x"}}}', "'pasword'"),
        ("\ufeffusername,pasword\nbob,x\n", "'pasword'"),
    ],
)
def test_of_a_file_with_a_mistake_nothing_is_imported(sqlite_desk: Desk, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    ended = sqlite_desk.run("import", str(path))
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert sqlite_desk.users() == []


def test_what_cannot_be_imported(sqlite_desk: Desk, tmp_path: Path) -> None:
    assert "cannot be read" in sqlite_desk.run("import", str(tmp_path / "missing")).err
    (tmp_path / "binary").write_bytes(b"\x00\xff\xfe")
    assert "no UTF-8" in sqlite_desk.run("import", str(tmp_path / "binary")).err


def test_json_of_a_file_backend_is_imported_whole(sqlite_desk: Desk, tmp_path: Path) -> None:
    other = local_section("file", tmp_path)

    async def fill() -> None:
        async with opened(other) as users:
            await users.add(BOB)

    trio.run(fill)
    assert sqlite_desk.run("import", other.datasource_path).code == 0
    (user,) = sqlite_desk.users()
    assert without_times(user) == BOB


def test_control_characters_steer_no_terminal(sqlite_desk: Desk) -> None:
    with contextlib.closing(sqlite3.connect(sqlite_desk.auth.datasource_path)) as connection:
        sqlite_desk.run("list")
        connection.execute(
            "INSERT INTO users (username, password, full_name, created_at, updated_at)"
            " VALUES ('a' || char(27) || '[2J', '', char(27) || 'c', 0, 0)"
        )
        connection.commit()
    listed = sqlite_desk.run("list")
    assert "\x1b" not in listed.out
    assert "\\x1b[2j" in listed.out
