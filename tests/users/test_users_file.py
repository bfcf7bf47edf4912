"""Users in a file beyond the contract: its forms, its changes behind our back, its owner, other writers."""

import fcntl
import json
import os
import threading
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import CapturingLogger

from elemta.auth.base import NotManaged, User, UsersAway, UsersUnusable
from elemta.auth.records import LAST_SECOND, checked, key_of
from elemta.auth.user_documents import DocumentForm, UnfitDocument, form_of, form_to_import, parse, render
from elemta.config.auth import AuthSection
from tests.users.backends import BOB, HASH, local_section, opened, without_times

HTPASSWD = """# by hand
bob@example.com:$2y$05$abcdefghijklmnopqrstuuJ4pL0oYJ0y5m0yYl1pJ1oYJ0y5m0yYl
Alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=

eve:$apr1$salt$hashhashhashhashhashha:more:fields
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.file"


@pytest.fixture
def auth(tmp_path: Path) -> AuthSection:
    return local_section("file", tmp_path, timeout=0.5)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def read(path: Path) -> str:
    return path.read_text()


def events(log: CapturingLogger) -> list[str]:
    return [f"{call.method_name} {call.args[0]}" for call in log.calls]


async def test_htpasswd_is_read_and_never_written(auth: AuthSection, path: Path) -> None:
    write(path, HTPASSWD)
    async with opened(auth) as users:
        found = await users.find("ALICE")
        assert found == User(name="alice", password="{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")
        assert [user.name for user in await users.list()] == ["alice", "bob@example.com", "eve"]
        assert await users.renew("alice", old=found.password, password=HASH) is False
        for change in (users.add(BOB), users.update(BOB), users.delete("alice"), users.add_all([BOB])):
            with pytest.raises(NotManaged, match="htpasswd"):
                await change
    assert read(path) == HTPASSWD


async def test_the_first_user_begins_the_file(auth: AuthSection, path: Path) -> None:
    async with opened(auth) as users:
        with pytest.raises(UsersUnusable, match="elemta user add"):
            await users.find("bob")
        await users.add(BOB)
        assert without_times(await users.find(BOB.name)) == BOB
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert json.loads(read(path))["users"][BOB.name]["senders"] == ["sales@example.com", "@example.net"]


@pytest.mark.parametrize(
    "document",
    [
        {"schema": 1, "users": {"bob": {"password": HASH, "senders": "a@b  @c", "is_active": False}}},
        {"users": [{"username": "BOB", "password": HASH, "senders": ["a@b", "@c"], "is_active": False}]},
        [{"username": "bob", "password": HASH, "senders": "a@b,@c", "is_active": False, "groups": []}],
        {"bob": {"password": HASH, "attributes": {"senders": "a@b @c"}, "is_active": False, "email": None}},
    ],
)
async def test_forms_of_json(auth: AuthSection, path: Path, document: object) -> None:
    write(path, json.dumps(document))
    async with opened(auth) as users:
        expected = User(name="bob", password=HASH, is_active=False, attributes={"senders": "a@b @c"})
        assert await users.find("bob") == expected


async def test_times_may_be_dates_or_numbers(auth: AuthSection, path: Path) -> None:
    write(path, json.dumps({"bob": {"created_at": "2026-01-02T03:04:05Z", "last_login_at": 1_700_000_000}}))
    async with opened(auth) as users:
        found = await users.find("bob")
    assert found is not None
    assert (found.created_at, found.last_login_at) == (1_767_323_045.0, 1_700_000_000.0)


BROKEN = {
    "{": "line 1, column 2",
    '{"users": {"bob": {"password": "x"}}': "line 1",
    '{"users": 7}': "neither an object",
    '{"schema": 2, "users": {}}': "later Elemta",
    '{"users": {}, "user": {}}': "unknown member 'user'",
    '{"bob": {"is_actve": false}}': "'is_actve'",
    '{"bob": {"is_active": "no"}}': "is_active",
    '{"bob": {"is_active": 0}}': "is_active",
    '{"bob": {"password": 7}}': "password",
    '{"bob": {"groups": [1]}}': "groups",
    '{"bob": {"attributes": {"a": 1}}}': "attributes",
    '{"bob": 7}': "no object",
    '{"bob": {"username": "eve"}}': "username is another",
    '{"bob": {}, "bob": {}}': "twice",
    '{"bob": {}, "BOB": {}}': "twice",
    '[{"password": "x"}]': "an empty name",
    '{"bob": {"email": "a\\u0000b"}}': "does not print",
    '{"a:b": {}}': "colon",
    '{"bob": {"created_at": NaN}}': "time",
    '{"bob": {"created_at": 1e300}}': "time",
    "[" * 100_000: "",
    "bob:x\nnonsense": "line 2",
    "bob:x\nBob:y": "twice",
    "bob:x\n:y": "line 2",
}


@pytest.mark.parametrize("text", BROKEN)
async def test_a_broken_file_says_where_and_lets_nobody_in(auth: AuthSection, path: Path, text: str) -> None:
    write(path, text)
    with pytest.raises(UsersUnusable) as failure:
        async with opened(auth):
            pass
    assert BROKEN[text] in str(failure.value)
    assert str(path) in str(failure.value)


async def test_a_change_is_seen_at_the_next_look(auth: AuthSection, path: Path) -> None:
    write(path, "bob:one")
    async with opened(auth) as users:
        for number in range(50):
            write(path, f"bob:{number:03}")
            found = await users.find("bob")
            assert found is not None
            assert found.password == f"{number:03}"
            beside = path.with_name("beside")
            beside.write_text(f"bob:{number + 500:03}")
            beside.rename(path)
            found = await users.find("bob")
            assert found is not None
            assert found.password == f"{number + 500:03}"


async def test_while_a_new_file_is_broken_those_of_before_may_log_in(auth: AuthSection, path: Path) -> None:
    log = CapturingLogger()
    write(path, "bob:one")
    os.chmod(path, 0o600)
    async with opened(auth, log=log) as users:
        write(path, "bob:two\nnonsense")
        for _ in range(3):
            found = await users.find("bob")
            assert found is not None
            assert found.password == "one"
        assert events(log) == ["error users.broken"]
        write(path, "bob:two\neve:three")
        assert await users.find("eve") is not None
    assert events(log) == ["error users.broken", "info users.mended"]


@pytest.mark.parametrize("change", ["emptied", "removed"])
async def test_without_a_file_nobody_may(auth: AuthSection, path: Path, change: str) -> None:
    """Whoever empties it means that nobody may; whoever lost it, that nobody is told a password were wrong."""
    write(path, "bob:one")
    async with opened(auth) as users:
        if change == "emptied":
            write(path, "\n")
        else:
            os.unlink(path)
        for _ in range(2):
            with pytest.raises(UsersUnusable):
                await users.find("bob")
        write(path, "bob:two")
        assert await users.find("bob") is not None


async def test_a_change_is_never_made_on_what_was_there_before_it_broke(auth: AuthSection, path: Path) -> None:
    write(path, '{"bob": {}}')
    async with opened(auth) as users:
        write(path, '{"bob": {}, "eve": {')
        with pytest.raises(UsersUnusable):
            await users.add(BOB)
    assert read(path) == '{"bob": {}, "eve": {'


async def test_who_reads_the_file_is_told_when_everybody_may(auth: AuthSection, path: Path) -> None:
    log = CapturingLogger()
    write(path, "bob:one")
    os.chmod(path, 0o644)
    async with opened(auth, log=log):
        assert events(log) == ["warning users.readable_by_all"]


async def test_a_pipe_is_no_file(auth: AuthSection, path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(UsersUnusable, match="no file"):
        async with opened(auth):
            pass


async def test_a_link_is_followed_and_stays(auth: AuthSection, path: Path, tmp_path: Path) -> None:
    real = tmp_path / "secrets" / "users"
    real.parent.mkdir()
    real.write_text("{}")
    os.chmod(real, 0o644)
    os.symlink(real, path)
    async with opened(auth) as users:
        await users.add(BOB)
        assert without_times(await users.find(BOB.name)) == BOB
    assert os.readlink(path) == str(real)
    assert BOB.name in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640 & 0o660 | 0o600
    assert sorted(each.name for each in real.parent.iterdir()) == ["users"]


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_what_root_makes_belongs_to_whoever_owns_the_folder(tmp_path: Path, kind: str) -> None:
    """Run by anybody else it shows less: the file is the user's own."""
    owner = 12_345 if os.geteuid() == 0 else os.geteuid()
    os.chown(tmp_path, owner, -1)
    section = local_section(kind, tmp_path)
    async with opened(section) as users:
        await users.add(BOB)
        await users.add(User(name="eve"))
    made = os.stat(section.datasource_path)
    assert (made.st_uid, made.st_mode & 0o777) == (owner, 0o600)
    os.chown(section.datasource_path, -1, os.getegid())
    os.chmod(section.datasource_path, 0o640)
    async with opened(section) as users:
        await users.delete("eve")
    kept = os.stat(section.datasource_path)
    assert (kept.st_uid, kept.st_gid, kept.st_mode & 0o777) == (owner, os.getegid(), 0o640)


async def test_two_writers_undo_nothing_of_each_other(auth: AuthSection) -> None:
    patient = attrs.evolve(auth, timeout=30.0)
    async with opened(patient) as users, opened(patient) as others:

        async def add(number: int) -> None:
            await (users, others)[number % 2].add(User(name=f"user{number:02}"))

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(add, number)
        assert [user.name for user in await users.list()] == [f"user{number:02}" for number in range(40)]


async def test_a_writer_that_does_not_end_is_not_waited_for_for_ever(auth: AuthSection, path: Path) -> None:
    write(path, '{"bob": {}}')
    lock = os.open(f"{path}.lock", os.O_WRONLY | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        async with opened(auth) as users:
            with trio.fail_after(5), pytest.raises(UsersAway, match="another program writes"):
                await users.add(BOB)
            assert await users.find("bob") is not None
    finally:
        os.close(lock)


def test_a_reader_never_sees_half_a_file(auth: AuthSection, path: Path) -> None:
    people = [User(name=f"user{number:04}", password=HASH) for number in range(300)]
    seen: list[int] = []
    over = threading.Event()

    def keep_reading() -> None:
        while not over.is_set():
            seen.append(len(parse(read(path), DocumentForm.JSON)))

    async def main() -> None:
        async with opened(auth) as users:
            await users.add_all(people)
            reader = threading.Thread(target=keep_reading)
            reader.start()
            try:
                for user in people[:10]:
                    await users.delete(user.name)
            finally:
                over.set()
                with trio.move_on_after(10, shield=True):
                    await trio.to_thread.run_sync(reader.join)

    trio.run(main)
    assert seen == sorted(seen, reverse=True)
    assert set(seen) <= set(range(290, 301))


# ---- the forms -----------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=":"), min_size=1, max_size=20)
people = st.builds(
    User,
    name=words.filter(lambda name: key_of(name) is not None),
    password=words | st.just(""),
    scram=words | st.just(""),
    email=words | st.just(""),
    full_name=st.just("") | words,
    is_active=st.booleans(),
    is_admin=st.booleans(),
    groups=st.lists(words, unique=True, max_size=4).map(lambda names: tuple(sorted(names))),
    attributes=st.dictionaries(words, words, max_size=4),
    created_at=st.none() | st.integers(0, LAST_SECOND).map(float),
)


@given(st.lists(people, max_size=5, unique_by=lambda user: key_of(user.name)))
def test_what_is_written_is_read_again(found: list[User]) -> None:
    users = {user.name: user for user in parse_all(found)}
    assert parse(render(users), DocumentForm.JSON) == users


def parse_all(found: list[User]) -> list[User]:
    """As a backend keeps them."""
    return [checked(user) for user in found]


@given(st.text())
def test_no_text_fails_but_as_unfit(text: str) -> None:
    for form in DocumentForm:
        try:
            parse(text, form)
        except UnfitDocument:
            continue


def test_which_form_a_text_has() -> None:
    assert form_of('\ufeff \n {"users": {}}') is DocumentForm.JSON
    assert form_of("[]") is DocumentForm.JSON
    assert form_of(HTPASSWD) is DocumentForm.HTPASSWD
    assert form_to_import("Username, Password\nbob,x\n") is DocumentForm.CSV
    assert form_to_import("username:x\n") is DocumentForm.HTPASSWD
    assert form_to_import("[]") is DocumentForm.JSON


def test_csv() -> None:
    text = (
        "username,password,email,full_name,is_active,is_admin,groups,senders\r\n"
        f'Bob,{HASH},bob@example.com,"Müller, Bob",yes,0,"staff,wheel","a@b @c"\r\n'
        "\r\neve,,,,no,,,\r\n"
    ).replace(HASH, f'"{HASH}"')
    bob, eve = parse(text, DocumentForm.CSV).values()
    assert bob == User(
        name="bob",
        password=HASH,
        email="bob@example.com",
        full_name="Müller, Bob",
        groups=("staff", "wheel"),
        attributes={"senders": "a@b @c"},
    )
    assert eve == User(name="eve", is_active=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("username,pasword\nbob,x", "'pasword'"),
        ("username,password\nbob", "line 2"),
        ('username,password\nbob,"x', "line 2"),
        ("username,password\nbob,x\nBob,y", "line 3"),
    ],
)
def test_what_is_wrong_with_csv(text: str, says: str) -> None:
    with pytest.raises(UnfitDocument, match=says):
        parse(text, DocumentForm.CSV)
