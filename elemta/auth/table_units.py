"""What is asked of the users' tables, whatever SQL engine keeps them.

Each unit of work is a generator: it yields an `Ask`, is sent the rows (or, for a change, how many rows it was), and
returns its value. So one text of each serves an engine that is called in a thread, and those that are awaited.

What is not here: who runs a unit (`users_sqlite`, `users_server`), the tables themselves (`users_schema`).
The tables are the original's: `users`, `groups`, `user_groups`, `user_attributes`; times in whole seconds since 1970.

Failures raised: `UserExists`, `NoSuchUser`; the engine's own pass.
"""

from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from attrs import evolve, frozen

from elemta.auth.base import NoSuchUser, User, UserExists
from elemta.auth.records import attributes_of, moment_of, text_of, truth_of
from elemta.auth.sasl.preparation import fold_name

T = TypeVar("T")

#: Rows asked for at once.
PAGE_ROWS = 500
#: Rows of one INSERT: ten values each, where SQLite takes 32,766 and PostgreSQL 32,767; with the largest attributes
#: 6.4 MB, where MySQL takes 16 and more.
INSERT_ROWS = 100


@frozen
class Ask:
    """One statement. `?` stands for each value; as long as no value is written into a text, no text holds another."""

    text: str
    values: tuple[object, ...] = ()
    #: Whether the answer is the number of rows that were changed.
    changes: bool = False


Unit = Generator[Ask, Any, T]
#: Makes a unit anew for each time that it runs.
Units = Callable[[], Unit[T]]


@frozen
class Words:
    """How an engine says what the others say otherwise."""

    #: The table of groups: the word is reserved in MySQL 8.
    groups: str
    #: A condition: the text of one column, with ASCII letters folded, contains a value.
    contains: str
    #: A condition: a name holds a capital of ASCII.
    has_capital: str
    #: Behind a SELECT whose rows are changed next.
    locking: str = ""
    #: Before and behind an INSERT that passes over what is there already.
    ignoring: tuple[str, str] = ("INSERT", " ON CONFLICT DO NOTHING")
    #: A condition: a password has none of the forms of a hash, so that nobody can log in with it.
    plain: str = "password <> '' AND password NOT LIKE '$%' AND password NOT LIKE '{%' AND password NOT LIKE 'pbkdf2%'"


_COLUMNS = "id, username, password, scram, email, full_name, is_active, is_admin, created_at, updated_at, last_login_at"


def _fetch(text: str, *values: object) -> Unit[Sequence[tuple[Any, ...]]]:
    rows: Sequence[tuple[Any, ...]] = yield Ask(text, values)
    return rows


def _change(text: str, *values: object) -> Unit[int]:
    count: int = yield Ask(text, values, changes=True)
    return count


def _among(names: Sequence[str]) -> str:
    return f"IN ({', '.join('?' for _ in names)})"


def user_of(row: Sequence[object]) -> User:
    """A row of `_COLUMNS` as a user without groups and attributes. Raises `ValueError`."""
    _, name, password, scram, email, full_name, is_active, is_admin, created, updated, login = row
    return User(
        name=text_of(name),
        password=text_of(password),
        scram=text_of(scram),
        email=text_of(email),
        full_name=text_of(full_name),
        is_active=truth_of(is_active),
        is_admin=truth_of(is_admin),
        created_at=moment_of(created),
        updated_at=moment_of(updated),
        last_login_at=moment_of(login),
    )


# ---- looking -----------------------------------------------------------------------------------------


def find(words: Words, name: str) -> Unit[User | None]:
    """The user of a folded name."""
    rows = yield from _fetch(f"SELECT {_COLUMNS} FROM users WHERE username = ?", name)
    # A collation may take other names for the same; here they are other users.
    users = [user for user in map(user_of, rows) if user.name == name]
    found = yield from _with_details(words, users)
    return found[0] if found else None


def page(words: Words, containing: str, *, after: str, limit: int) -> Unit[list[User]]:
    """Users by name, those behind `after`; `containing` is folded."""
    condition, values = "username > ?", [after]
    if containing:
        condition += f" AND ({words.contains.format('username')} OR {words.contains.format('email')})"
        values += [containing, containing]
    statement = f"SELECT {_COLUMNS} FROM users WHERE {condition} ORDER BY username LIMIT ?"
    rows = yield from _fetch(statement, *values, min(limit, PAGE_ROWS))
    return (yield from _with_details(words, [user_of(row) for row in rows]))


def _with_details(words: Words, users: list[User]) -> Unit[list[User]]:
    if not users:
        return []
    names = [user.name for user in users]
    member_rows = yield from _fetch(
        f"SELECT u.username, g.name FROM user_groups m JOIN users u ON u.id = m.user_id"
        f" JOIN {words.groups} g ON g.id = m.group_id WHERE u.username {_among(names)}",
        *names,
    )
    attribute_rows = yield from _fetch(
        f"SELECT username, attr_key, attr_value FROM user_attributes WHERE username {_among(names)}", *names
    )
    groups: dict[str, set[str]] = defaultdict(set)
    for name, group in member_rows:
        groups[text_of(name)].add(text_of(group))
    attributes: dict[str, dict[str, object]] = defaultdict(dict)
    for name, key, value in attribute_rows:
        attributes[fold_name(text_of(name))][text_of(key)] = value
    return [
        evolve(
            user, groups=tuple(sorted(groups[user.name])), attributes=attributes_of(attributes[fold_name(user.name)])
        )
        for user in users
    ]


def count_plain(words: Words) -> Unit[int]:
    """How many users have a password that is no hash, and so cannot log in."""
    ((count,),) = yield from _fetch(f"SELECT count(*) FROM users WHERE {words.plain}")
    return int(count)


# ---- changing ----------------------------------------------------------------------------------------


def _locked(words: Words, name: str) -> Unit[tuple[int, str] | None]:
    """The id and the password of a user, whose row is this unit's until its end."""
    rows = yield from _fetch(f"SELECT id, username, password FROM users WHERE username = ?{words.locking}", name)
    return next(((row[0], text_of(row[2])) for row in rows if text_of(row[1]) == name), None)


def add(words: Words, user: User, now: int) -> Unit[None]:
    """A new user. Raises `UserExists`."""
    if (yield from _locked(words, user.name)) is not None:
        raise UserExists(f"there is a user {user.name} already")
    yield from _insert(words, [user], now)


def add_all(words: Words, users: Sequence[User], now: int) -> Unit[list[str]]:
    """New users, `PAGE_ROWS` at most; those that are there already stay as they are. Returns their names."""
    if not users:
        return []
    names = [user.name for user in users]
    rows = yield from _fetch(f"SELECT username FROM users WHERE username {_among(names)}", *names)
    present = {text_of(row[0]) for row in rows}
    yield from _insert(words, [user for user in users if user.name not in present], now)
    return sorted(present.intersection(names))


def _insert(words: Words, users: Sequence[User], now: int) -> Unit[None]:
    columns = "username, password, scram, email, full_name, is_active, is_admin, created_at, updated_at, last_login_at"
    rows = [
        (
            *(user.name, user.password, user.scram, user.email, user.full_name, user.is_active, user.is_admin),
            now if user.created_at is None else int(user.created_at),
            now if user.updated_at is None else int(user.updated_at),
            None if user.last_login_at is None else int(user.last_login_at),
        )
        for user in users
    ]
    yield from _insert_rows(f"INSERT INTO users ({columns})", rows)
    yield from _insert_details(words, users, now)


def _insert_rows(insert: str, rows: Sequence[tuple[object, ...]], behind: str = "") -> Unit[None]:
    """Many rows in few statements: each costs a round trip."""
    for start in range(0, len(rows), INSERT_ROWS):
        some = rows[start : start + INSERT_ROWS]
        places = f"({', '.join('?' for _ in some[0])})"
        text = f"{insert} VALUES {', '.join(places for _ in some)}{behind}"
        yield from _change(text, *(value for row in some for value in row))


def _insert_details(words: Words, users: Sequence[User], now: int) -> Unit[None]:
    members: dict[str, list[str]] = defaultdict(list)
    for user in users:
        for group in user.groups:
            members[group].append(user.name)
    insert, ignoring = words.ignoring
    # In order, so that two who add groups at once wait for each other and never in a circle.
    rows = [(group, now) for group in sorted(members)]
    yield from _insert_rows(f"{insert} INTO {words.groups} (name, created_at)", rows, ignoring)
    for group, names in sorted(members.items()):
        yield from _change(
            f"INSERT INTO user_groups (user_id, group_id) SELECT u.id, g.id FROM users u, {words.groups} g"
            f" WHERE g.name = ? AND u.username {_among(names)}",
            *(group, *names),
        )
    attributes = [(user.name, key, value) for user in users for key, value in user.attributes.items()]
    yield from _insert_rows("INSERT INTO user_attributes (username, attr_key, attr_value)", attributes)


def _delete_details(number: int, name: str) -> Unit[None]:
    yield from _change("DELETE FROM user_groups WHERE user_id = ?", number)
    yield from _change("DELETE FROM user_attributes WHERE username = ?", name)


def update(words: Words, user: User, now: int) -> Unit[None]:
    """Everything of a user anew but the times. Raises `NoSuchUser`."""
    found = yield from _locked(words, user.name)
    if found is None:
        raise NoSuchUser(f"there is no user {user.name}")
    yield from _change(
        "UPDATE users SET password = ?, scram = ?, email = ?, full_name = ?, is_active = ?, is_admin = ?,"
        " updated_at = ? WHERE id = ?",
        *(user.password, user.scram, user.email, user.full_name, user.is_active, user.is_admin, now, found[0]),
    )
    yield from _delete_details(found[0], user.name)
    yield from _insert_details(words, [user], now)


def delete(words: Words, name: str) -> Unit[None]:
    """Remove a user with groups and attributes. Raises `NoSuchUser`."""
    found = yield from _locked(words, name)
    if found is None:
        raise NoSuchUser(f"there is no user {name}")
    yield from _delete_details(found[0], name)
    yield from _change("DELETE FROM users WHERE id = ?", found[0])


@frozen
class Renewal:
    """A password's new hash in the place of `old`; `scram` None leaves the verifier."""

    name: str
    old: str
    password: str
    scram: str | None


def renew(words: Words, renewal: Renewal, now: int) -> Unit[bool]:
    """Write a renewal unless the password is another by now; whether it was written.

    Compared here, letter by letter, for collations differ in what they take for the same.
    """
    found = yield from _locked(words, renewal.name)
    if found is None or found[1] != renewal.old:
        return False
    verifier = () if renewal.scram is None else (renewal.scram,)
    also = ", scram = ?" if verifier else ""
    yield from _change(
        f"UPDATE users SET password = ?{also}, updated_at = ? WHERE id = ?",
        *(renewal.password, *verifier, now, found[0]),
    )
    return True


def note_login(name: str, at: int) -> Unit[None]:
    """Keep when somebody logged in last."""
    yield from _change("UPDATE users SET last_login_at = ? WHERE username = ?", at, name)


# ---- what another program wrote ------------------------------------------------------------------------


def has_capitals(words: Words) -> Unit[bool]:
    """Whether a name may hold a capital: every name that is written here is folded."""
    rows = yield from _fetch(f"SELECT id FROM users WHERE {words.has_capital} LIMIT 1")
    return bool(rows)


def fold_names(words: Words) -> Unit[list[str]]:
    """Fold the names in the tables, so that they can be found; returns those that must stay: theirs is taken."""
    left: list[str] = []
    after = -1
    while True:
        rows = yield from _fetch(
            f"SELECT id, username FROM users WHERE id > ? AND {words.has_capital} ORDER BY id LIMIT {PAGE_ROWS}", after
        )
        if not rows:
            return left
        for number, raw in rows:
            name, after = text_of(raw), number
            if name == fold_name(name):
                continue
            if (yield from _locked(words, fold_name(name))) is not None:
                left.append(name)
                continue
            yield from _change("UPDATE users SET username = ? WHERE id = ?", fold_name(name), number)
            yield from _change("UPDATE user_attributes SET username = ? WHERE username = ?", fold_name(name), name)
