"""What every backend of users keeps to: a JSON file, SQLite, PostgreSQL, MySQL."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest
import trio

from elemta.auth.base import MAX_NAME_OCTETS, NoSuchUser, UnfitUser, User, UserExists
from elemta.config.auth import AuthSection
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.runtime.world import system_runtime
from tests.storage.mails import HandClock
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

NEW = HASH.replace("mS7u", "nT8v")
#: What SQL, shells, LIKE, GLOB and regular expressions read something into.
HOSTILE = (
    "o'brien@example.com",
    "x' OR '1'='1",
    'x" OR ""="',
    "x`; DROP TABLE users; --",
    "100%",
    "under_score",
    "back\\slash",
    "a*b?c[d]",
    "$1",
    "%s %(name)s {0}",
    "müller@bücher.example",
    "🦊@example.com",
    "-rf",
    "../../etc/passwd",
)


@pytest.fixture(scope="module")
def databases() -> Iterator[Callable[[Dialect], DatabaseOptions]]:
    made: dict[Dialect, DatabaseOptions] = {}
    with ExitStack() as stack:

        def database(dialect: Dialect) -> DatabaseOptions:
            if dialect not in made:
                made[dialect] = stack.enter_context(users_database(dialect))
            return made[dialect]

        yield database


@pytest.fixture(params=KINDS)
def auth(
    request: pytest.FixtureRequest, tmp_path: Path, databases: Callable[[Dialect], DatabaseOptions]
) -> AuthSection:
    if request.param not in DIALECTS:
        section = local_section(request.param, tmp_path)
        if request.param == "file":
            Path(section.datasource_path).write_text('{"users": {}}')
        return section
    options = databases(DIALECTS[request.param])
    empty_users(options)
    return server_section(options)


async def test_a_user_comes_back_as_given(auth: AuthSection) -> None:
    clock = HandClock()
    async with opened(auth, runtime=attrs.evolve(system_runtime(), clock=clock)) as users:
        await users.add(BOB)
        found = await users.find(BOB.name)
    assert without_times(found) == BOB
    assert found is not None
    assert found.created_at == found.updated_at == int(clock.now)
    assert found.last_login_at is None


async def test_what_was_added_outlives_the_backend(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.add(BOB)
    async with opened(auth) as users:
        assert without_times(await users.find(BOB.name)) == BOB


async def test_the_least_user(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.add(User(name="bob"))
        assert without_times(await users.find("bob")) == User(name="bob")
        assert await users.find("rob") is None


async def test_case_of_ascii_makes_no_other_user(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.add(attrs.evolve(BOB, name="Bob@Example.COM"))
        assert without_times(await users.find("BOB@example.com")) == BOB
        with pytest.raises(UserExists):
            await users.add(attrs.evolve(BOB, name="bOb@example.com"))


async def test_other_letters_are_other_users_but_other_spellings_are_not(auth: AuthSection) -> None:
    names = ["e", "é", "É", "ё", "ss", "ß", "a", "bob.", "bob"]
    async with opened(auth) as users:
        for name in names:
            await users.add(User(name=name, email=f"{names.index(name)}@example.com"))
        for name in names:
            found = await users.find(name)
            assert found is not None
            assert (found.name, found.email) == (name, f"{names.index(name)}@example.com")
        assert await users.find("bob ") is None
        assert await users.find(" bob") is None
        assert await users.find("e\u0301") == await users.find("é")
        assert await users.find("\N{FULLWIDTH LATIN SMALL LETTER A}") == await users.find("a")
        with pytest.raises(UserExists):
            await users.add(User(name="e\u0301"))


async def test_hostile_names_are_names(auth: AuthSection) -> None:
    async with opened(auth) as users:
        for name in HOSTILE:
            assert await users.find(name) is None
            await users.add(User(name=name, email=name, full_name=name, groups=(name,), attributes={name: name}))
        for name in HOSTILE:
            found = await users.find(name)
            assert found is not None
            folded = found.name
            assert folded.lower() == name.lower()
            assert (found.email, found.full_name, found.groups) == (name, name, (name,))
            assert found.attributes == {name: name}
            assert [user.name for user in await users.list(containing=name)] == [folded]
        await users.delete(HOSTILE[1])
        assert len(await users.list()) == len(HOSTILE) - 1


@pytest.mark.parametrize(
    "name",
    ["", " bob", "bob ", "a\0b", "a\nb", "a\rb", "a:b", "a\x7fb", "\ud800", "a\u202eb", "x" * (MAX_NAME_OCTETS + 1)],
)
async def test_no_user_has_such_a_name(auth: AuthSection, name: str) -> None:
    async with opened(auth) as users:
        assert await users.find(name) is None
        assert await users.renew(name, old=HASH, password=NEW) is False
        await users.note_login(name, 1.0)
        with pytest.raises(UnfitUser):
            await users.add(User(name=name))
        with pytest.raises(NoSuchUser):
            await users.delete(name)
        assert await users.list() == []


@pytest.mark.parametrize(
    "change",
    [
        {"password": "x" * 2000},
        {"password": "a\nb"},
        {"email": "a\0b"},
        {"full_name": "x" * 300},
        {"groups": ("",)},
        {"groups": tuple(f"g{number}" for number in range(300))},
        {"attributes": {"a\nb": ""}},
        {"attributes": {"senders": "x" * 100_000}},
    ],
)
async def test_what_no_backend_keeps_is_refused(auth: AuthSection, change: dict[str, object]) -> None:
    async with opened(auth) as users:
        unfit = attrs.evolve(BOB, **change)  # type: ignore[arg-type]  # one of several types
        for attempt in (users.add(unfit), users.update(unfit), users.add_all([unfit])):
            with pytest.raises(UnfitUser):
                await attempt
        assert await users.list() == []


async def test_the_longest_of_everything(auth: AuthSection) -> None:
    longest = User(
        name="ü" * (MAX_NAME_OCTETS // 2),
        password="x" * 1024,
        scram="y" * 1024,
        email="ü" * (MAX_NAME_OCTETS // 2),
        full_name="🦊" * 63,
        groups=tuple(sorted(f"{number:03}" + "🦊" * 63 for number in range(20))),
        attributes={"k" * 255: "v" * 64 * 1024},
    )
    async with opened(auth) as users:
        await users.add(longest)
        assert without_times(await users.find(longest.name)) == longest


async def test_update_writes_everything_anew_but_the_times(auth: AuthSection) -> None:
    clock = HandClock()
    async with opened(auth, runtime=attrs.evolve(system_runtime(), clock=clock)) as users:
        await users.add(BOB)
        first = await users.find(BOB.name)
        clock.now += 100
        changed = attrs.evolve(
            BOB, name="BOB@example.com", password=NEW, is_active=False, groups=("wheel",), attributes={"senders": "x@y"}
        )
        await users.update(attrs.evolve(changed, created_at=1.0, last_login_at=2.0))
        found = await users.find(BOB.name)
        assert without_times(found) == attrs.evolve(changed, name=BOB.name)
        assert found is not None
        assert first is not None
        assert (found.created_at, found.last_login_at) == (first.created_at, None)
        assert found.updated_at == int(clock.now)
        with pytest.raises(NoSuchUser):
            await users.update(attrs.evolve(BOB, name="rob"))


async def test_a_deleted_user_leaves_nothing_to_the_next_of_that_name(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.add(BOB)
        await users.delete("BOB@example.com")
        assert await users.find(BOB.name) is None
        with pytest.raises(NoSuchUser):
            await users.delete(BOB.name)
        await users.add(User(name=BOB.name))
        assert without_times(await users.find(BOB.name)) == User(name=BOB.name)


async def test_a_renewal_takes_the_place_of_the_hash_that_was_checked_alone(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.add(BOB)
        assert await users.renew("BOB@example.com", old=HASH.lower(), password=NEW) is False
        assert await users.renew(BOB.name, old=f"{HASH} ", password=NEW) is False
        assert await users.renew("rob", old=HASH, password=NEW) is False
        assert without_times(await users.find(BOB.name)) == BOB
        assert await users.renew("BOB@example.com", old=HASH, password=NEW) is True
        assert without_times(await users.find(BOB.name)) == attrs.evolve(BOB, password=NEW)
        assert await users.renew(BOB.name, old=HASH, password=HASH) is False
        assert await users.renew(BOB.name, old=NEW, password=HASH, scram="") is True
        assert without_times(await users.find(BOB.name)) == attrs.evolve(BOB, scram="")


async def test_of_renewals_at_once_one_wins(auth: AuthSection) -> None:
    won: list[int] = []

    async with opened(auth) as users, opened(auth) as others:
        await users.add(BOB)

        async def renew(number: int) -> None:
            backend = (users, others)[number % 2]
            if await backend.renew(BOB.name, old=HASH, password=f"{NEW}{number}"):
                won.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(renew, number)
        (winner,) = won
        found = await users.find(BOB.name)
        assert found is not None
        assert found.password == f"{NEW}{winner}"


async def test_of_users_added_at_once_under_one_name_one_stays(auth: AuthSection) -> None:
    refused: list[int] = []

    async with opened(auth) as users, opened(auth) as others:

        async def add(number: int) -> None:
            try:
                await (users, others)[number % 2].add(attrs.evolve(BOB, full_name=str(number)))
            except UserExists:
                refused.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(add, number)
        assert len(refused) == 7
        (found,) = await users.list()
        assert {int(found.full_name), *refused} == set(range(8))


async def test_users_added_at_once_share_new_groups(auth: AuthSection) -> None:
    async with opened(auth) as users, opened(auth) as others:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                user = User(name=f"u{number}", groups=("staff", "new"))
                nursery.start_soon((users, others)[number % 2].add, user)
        assert {user.groups for user in await users.list()} == {("new", "staff")}
        assert len(await others.list()) == 8


async def test_a_login_is_noted_where_that_is_kept(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.add(BOB)
        await users.note_login("BOB@example.com", 1_700_000_000.7)
        found = await users.find(BOB.name)
        assert found is not None
        assert found.last_login_at == (None if auth.datasource_type == "file" else 1_700_000_000)
        assert found.password == BOB.password


async def test_many_users_are_listed_page_by_page(auth: AuthSection) -> None:
    names = [f"user{number:05}@example.com" for number in range(10_000)]
    people = [User(name=name, password=HASH, groups=(f"g{name[8]}",)) for name in names]
    async with opened(auth) as users:
        for start in range(0, len(people), users.batch):
            assert await users.add_all(people[start : start + users.batch]) == []
        listed: list[User] = []
        while page := await users.list(after=listed[-1].name if listed else "", limit=500):
            assert len(page) <= 500
            listed += page
        assert [user.name for user in listed] == names
        assert {user.groups for user in listed} == {(f"g{digit}",) for digit in range(10)}
        assert [user.name for user in await users.list(limit=3)] == names[:3]
        found = await users.find(names[5000])
        assert found is not None


async def test_a_list_may_be_of_those_whose_name_or_address_contains_a_text(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.add(User(name="bob", email="Robert@Example.com"))
        await users.add(User(name="rob"))
        await users.add(User(name="eve"))
        assert [user.name for user in await users.list(containing="OB")] == ["bob", "rob"]
        assert [user.name for user in await users.list(containing="robert@")] == ["bob"]
        assert [user.name for user in await users.list(containing="b", after="bob")] == ["rob"]
        assert await users.list(containing="%") == []
        assert await users.list(containing="_") == []
        assert await users.list(containing="a\0b") == []


async def test_of_many_at_once_those_that_are_there_stay_as_they_are(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.add(BOB)
        brought = User(name="old", created_at=1_000_000_000.0, last_login_at=None)
        present = await users.add_all([User(name="Bob@example.com", full_name="another"), brought])
        assert list(present) == [BOB.name]
        assert without_times(await users.find(BOB.name)) == BOB
        found = await users.find("old")
        assert found is not None
        assert found.created_at == 1_000_000_000.0


async def test_groups_and_attributes_of_many_at_once_are_each_user_s_own(auth: AuthSection) -> None:
    people = [
        User(
            name=f"u{number:03}",
            groups=tuple(f"g{digit}" for digit in sorted(set(str(number)))),
            attributes={f"a{each}": str(number) for each in range(number % 7)},
        )
        for number in range(250)
    ]
    async with opened(auth) as users:
        await users.add_all(people)
        await users.add_all([])
        assert [without_times(user) for user in await users.list(limit=250)] == people
        assert [without_times(await users.find(user.name)) for user in people[::50]] == people[::50]


async def test_of_many_at_once_either_all_are_added_or_none(auth: AuthSection) -> None:
    async with opened(auth) as users:
        with pytest.raises(UnfitUser):
            await users.add_all([User(name="good"), User(name="bad\n")])
        assert await users.list() == []


async def test_a_name_says_where_the_users_are_and_no_secret(auth: AuthSection) -> None:
    async with opened(attrs.evolve(auth, datasource_pass=auth.datasource_pass and "hunter2")) as users:
        assert auth.datasource_type in users.name
        assert "hunter2" not in users.name
        assert HASH not in repr(BOB)


async def test_a_second_close_is_no_failure(auth: AuthSection) -> None:
    async with opened(auth) as users:
        await users.close()
