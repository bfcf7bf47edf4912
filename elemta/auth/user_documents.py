"""The texts in which users are kept, or come from elsewhere.

- JSON, our own form: `{"schema": 1, "users": {"bob@example.com": {"password": "$argon2id$…"}}}`, or a list of such
  objects with their `username`. The members are those of `MEMBERS`; another is an error, for a slip of the pen in
  `is_active` would let somebody in.
- htpasswd, Apache's: `name:hash` a line. Fields behind a further colon, as passwd files have them, are not looked at.
- CSV with a first line of the same names, for imports.

What is not here: the files (`users_file`), forms of hashes (`auth.passwords`). Failure raised: `UnfitDocument`, which
names the line or the user.
"""

import csv
import enum
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from attrs import evolve

from elemta.auth.base import SENDERS_ATTRIBUTE, UnfitUser, User
from elemta.auth.records import checked, moment_of, truth_of

#: The version of the JSON form. A later one is refused, not guessed at.
SCHEMA = 1
#: Members of a user in JSON, and columns of CSV.
MEMBERS = (
    "username",
    "password",
    "scram",
    "email",
    "full_name",
    "is_active",
    "is_admin",
    "groups",
    "senders",
    "attributes",
    "created_at",
    "updated_at",
    "last_login_at",
)
#: Characters of a line of CSV's one field; Python's own bound is 128 KiB.
MAX_FIELD_CHARACTERS = 64 * 1024


T = TypeVar("T")


class UnfitDocument(ValueError):
    """A text that lists no users, or not clearly. The text says where; it holds no password."""


class DocumentForm(enum.Enum):
    """Which form a text has."""

    JSON = "json"
    HTPASSWD = "htpasswd"
    CSV = "csv"


def form_of(text: str) -> DocumentForm:
    """The form of a file of users, told by its first character: JSON, or else htpasswd."""
    return DocumentForm.JSON if text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[") else DocumentForm.HTPASSWD


def form_to_import(text: str) -> DocumentForm:
    """The same, for a text that may be CSV too: its first line names columns."""
    first = text.lstrip("\ufeff").partition("\n")[0]
    if form_of(text) is DocumentForm.HTPASSWD and "username" in [cell.strip().lower() for cell in first.split(",")]:
        return DocumentForm.CSV
    return form_of(text)


def parse(text: str, form: DocumentForm) -> dict[str, User]:
    """Users by name. Raises `UnfitDocument`."""
    text = text.removeprefix("\ufeff")
    match form:
        case DocumentForm.JSON:
            found = _in_json(text)
        case DocumentForm.HTPASSWD:
            found = _in_htpasswd(text)
        case DocumentForm.CSV:
            found = _in_csv(text)
    users: dict[str, User] = {}
    for where, user in found:
        try:
            fit = checked(user)
        except UnfitUser as error:
            raise UnfitDocument(f"{where}: {error}") from None
        if fit.name in users:
            raise UnfitDocument(f"{where}: {fit.name} is there twice (the case of letters makes no other name)")
        users[fit.name] = fit
    return users


def render(users: Mapping[str, User]) -> str:
    """Users as JSON."""
    document = {"schema": SCHEMA, "users": {name: _members_of(users[name]) for name in sorted(users)}}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# ---- JSON --------------------------------------------------------------------------------------------


def _in_json(text: str) -> Iterator[tuple[str, User]]:
    try:
        document = json.loads(text, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        raise UnfitDocument(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise UnfitDocument("it is nested too deeply") from None
    if isinstance(document, dict) and "users" in document:
        _check_head(document)
        document = document["users"]
    if isinstance(document, list):
        for number, each in enumerate(document, start=1):
            yield f"user {number}", _user_of(each, f"user {number}")
    elif isinstance(document, dict):
        for name, each in document.items():
            user = _user_of(each, f"user {name!a}")
            if user.name not in ("", name):
                raise UnfitDocument(f"user {name!a}: its username is another")
            yield f"user {name!a}", evolve(user, name=name)
    else:
        raise UnfitDocument("its users are neither an object by name nor a list")


def _check_head(document: Mapping[str, object]) -> None:
    if document.get("schema", SCHEMA) != SCHEMA:
        raise UnfitDocument(f"its schema is not {SCHEMA}: a later Elemta wrote it")
    if others := sorted(set(document) - {"schema", "users"}):
        raise UnfitDocument(f"an unknown member {others[0]!a} beside schema and users")


def _without_twins(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twin = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
        raise UnfitDocument(f"the member {twin!a} is there twice in one object")
    return found


def _user_of(members: object, where: str) -> User:
    if not isinstance(members, dict):
        raise UnfitDocument(f"{where}: it is no object")
    if others := sorted(set(members) - set(MEMBERS)):
        raise UnfitDocument(f"{where}: an unknown member {others[0]!a}; known are {', '.join(MEMBERS)}")
    attributes: dict[str, str] = _of_type(members, "attributes", where=where, default={})
    if not all(isinstance(value, str) for value in attributes.values()):
        raise UnfitDocument(f"{where}: attributes: each is a text")
    if senders := _words(members, "senders", where):
        attributes = {**attributes, SENDERS_ATTRIBUTE: " ".join(senders)}
    return User(
        name=_of_type(members, "username", where=where, default=""),
        password=_of_type(members, "password", where=where, default=""),
        scram=_of_type(members, "scram", where=where, default=""),
        email=_of_type(members, "email", where=where, default=""),
        full_name=_of_type(members, "full_name", where=where, default=""),
        is_active=_of_type(members, "is_active", where=where, default=True),
        is_admin=_of_type(members, "is_admin", where=where, default=False),
        groups=tuple(_words(members, "groups", where)),
        attributes=attributes,
        created_at=moment_of(members.get("created_at")),
        updated_at=moment_of(members.get("updated_at")),
        last_login_at=moment_of(members.get("last_login_at")),
    )


def _of_type(members: Mapping[str, object], name: str, *, where: str, default: T) -> T:
    value = members.get(name)
    if value is None:
        return default
    if type(value) is not type(default):
        raise UnfitDocument(f"{where}: {name}: a value of another type")
    return value


def _words(members: Mapping[str, object], name: str, where: str) -> list[str]:
    value = members.get(name)
    if isinstance(value, str):
        return value.replace(",", " ").split()
    words = value if isinstance(value, list) else [] if value is None else [0]
    if not all(isinstance(word, str) for word in words):
        raise UnfitDocument(f"{where}: {name}: a list of texts")
    return list(words)


def _members_of(user: User) -> dict[str, object]:
    """What says something, in the order of `MEMBERS`."""
    attributes = dict(user.attributes)
    senders = attributes.pop(SENDERS_ATTRIBUTE, "").split()
    members: dict[str, object] = {
        "password": user.password,
        "scram": user.scram,
        "email": user.email,
        "full_name": user.full_name,
        "is_active": user.is_active,
        "is_admin": user.is_admin,
        "groups": list(user.groups),
        "senders": senders,
        "attributes": attributes,
        "created_at": _written(user.created_at),
        "updated_at": _written(user.updated_at),
        "last_login_at": _written(user.last_login_at),
    }
    return {name: value for name, value in members.items() if value or name == "is_active"}


def _written(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


# ---- lines -------------------------------------------------------------------------------------------


def _in_htpasswd(text: str) -> Iterator[tuple[str, User]]:
    for number, line in enumerate(text.split("\n"), start=1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        name, colon, rest = bare.partition(":")
        if not colon:
            raise UnfitDocument(f"line {number}: no colon between a name and its hash")
        yield f"line {number}", User(name=name, password=rest.partition(":")[0].strip())


def _in_csv(text: str) -> Iterator[tuple[str, User]]:
    # The bound of fields is the module's alone, so lines are looked at instead.
    if any(len(line) > MAX_FIELD_CHARACTERS for line in text.split("\n")):
        raise UnfitDocument(f"a line has more than {MAX_FIELD_CHARACTERS} characters")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [cell.strip().lower() for cell in next(rows)]
        if others := sorted(set(columns) - set(MEMBERS)):
            raise UnfitDocument(f"line 1: an unknown column {others[0]!a}; known are {', '.join(MEMBERS)}")
        for row in rows:
            where = f"line {rows.line_num}"
            if not row:
                continue
            if len(row) != len(columns):
                raise UnfitDocument(f"{where}: {len(row)} fields, but {len(columns)} columns")
            yield where, _user_of_cells(dict(zip(columns, row, strict=True)), where)
    except csv.Error as error:
        raise UnfitDocument(f"line {rows.line_num}: {error}") from None
    except StopIteration:
        return


def _user_of_cells(cells: Mapping[str, str], where: str) -> User:
    """A line of CSV: texts alone, so that truths and lists are read from them."""
    members: dict[str, object] = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
    for name in ("is_active", "is_admin"):
        if name in members:
            members[name] = truth_of(members[name])
    if "attributes" in members:
        raise UnfitDocument(f"{where}: attributes come in JSON alone")
    return _user_of(members, where)
