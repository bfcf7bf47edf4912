"""An operator's own SELECT for one user: `auth.user_query`.

What is not here: who runs it (`users_query`). `:user` stands for the name, anywhere but in a text, a quoted name or a
comment; the name itself never becomes a part of the statement. The columns are named in `COLUMNS`.

Failure raised: `UnfitQuery`, whose text says how to mend it.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from elemta.auth.base import SENDERS_ATTRIBUTE, UnfitUser, User
from elemta.auth.records import checked, text_of, truth_of

#: The columns of a row; a statement may give others, which are not looked at.
COLUMNS = ("password", "username", "email", "is_active", "senders")
#: Those that a statement has to give. A comparison in SQL may take other names for the same (`bòb`, say): without the
#: name as it is written there, a user would be somebody else at each spelling.
NEEDED = ("password", "username")

#: What stands for itself: texts, quoted names, comments, casts such as `x::user`, other words after a colon.
_PIECES = re.compile(
    r"""'(?:[^'\\]|\\.|'')*' | "(?:[^"]|"")*" | `[^`]*` | --[^\n]* | /\*.*?\*/ | ::
    | (?P<user>:user)(?![A-Za-z0-9_])""",
    re.VERBOSE | re.DOTALL,
)
_SELECT = re.compile(r"(?:select|with)\b", re.IGNORECASE)


class UnfitQuery(ValueError):
    """A statement, or the row it gave, that says no user."""


def values_of(statement: str, user: str) -> list[str]:
    """The value for each `:user`."""
    return [user for found in _PIECES.finditer(statement) if found["user"]]


def rendered(statement: str, *, placeholder: Callable[[int], str], plain: Callable[[str], str] = str) -> str:
    """The statement in a driver's terms; `placeholder` is told which `:user` it is, counted from 1.

    `plain` makes what stands between them fit for the driver. Raises `UnfitQuery`.
    """
    text = statement.strip().removesuffix(";").rstrip()
    if not _SELECT.match(text):
        raise UnfitQuery("it must be a SELECT")
    pieces, at, number = [], 0, 0
    for found in _PIECES.finditer(text):
        if found["user"]:
            number += 1
            pieces += [plain(text[at : found.start()]), placeholder(number)]
            at = found.end()
    if not number:
        raise UnfitQuery("it must say which user: WHERE username = :user")
    return "".join(pieces) + plain(text[at:])


def check_columns(columns: Sequence[str]) -> None:
    """Raise `UnfitQuery` when a statement does not give what is needed, or gives it twice."""
    names = [column.lower() for column in columns]
    for name in NEEDED:
        if name not in names:
            raise UnfitQuery(f"none of its columns is called {name}, but {', '.join(names)} (write AS {name})")
    for name in COLUMNS:
        if names.count(name) > 1:
            raise UnfitQuery(f"two of its columns are called {name}")


def queried_user(cells: Mapping[str, object], name: str) -> User:
    """The user of a row, by column in lower case, that was found for a name. Raises `UnfitQuery`."""
    try:
        senders = text_of(cells.get("senders")).replace(",", " ")
        return checked(
            User(
                name=text_of(cells["username"]),
                password=text_of(cells["password"]),
                email=text_of(cells.get("email")),
                is_active=truth_of(cells.get("is_active", True)),
                attributes={SENDERS_ATTRIBUTE: senders} if senders.strip() else {},
            )
        )
    except (UnfitUser, UnicodeDecodeError) as error:
        raise UnfitQuery(f"what it gave for {name} is no user: {error}") from None
