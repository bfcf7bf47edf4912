"""Who may log in, as the rest of the server sees them.

What is not here: where users are kept (`auth.users_…`), how a password is checked (`auth.passwords`), the exchanges
(`auth.sasl`), or how often somebody may be wrong (`auth.limits`).

Failures raised: `UsersAway` when nobody can say now, which a client hears as 454, never as a wrong password;
`UsersUnusable` for what somebody has to mend (a wrong database password, a broken file), 454 as well;
`NotManaged`, `UserExists`, `NoSuchUser`, `UnfitUser` for whoever manages users.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import field, frozen

#: Octets of a user's name: an address has 64 + 1 + 255 at most, RFC 5321 §4.5.3.1.
MAX_NAME_OCTETS = 320
#: The attribute that lists further senders a user may use: addresses, or `@example.com` for a domain; blanks between.
SENDERS_ATTRIBUTE = "senders"


class UsersAway(Exception):
    """Nobody can say now who the users are: try again later. The text says what happened and where, no secret."""


class UsersUnusable(UsersAway):
    """Nobody will be able to say until somebody mends it."""


class NotManaged(Exception):
    """These users are kept by somebody else: they can be asked, not changed. The text says by whom."""


class UserExists(Exception):
    """There is a user of this name already."""


class NoSuchUser(Exception):
    """There is no user of this name."""


class UnfitUser(ValueError):
    """A name, an address or another value that this backend cannot keep; the text says why."""


@frozen
class User:
    """One user. Times are UTC in seconds since 1970, None where the backend does not know.

    `password` is a hash in one of the forms of `auth.passwords`; empty when nobody can log in with a password. `scram`
    is the verifier of SCRAM-SHA-256 in the form `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` that
    PostgreSQL uses as well (RFC 5803), empty when there is none.
    """

    name: str
    password: str = field(default="", repr=False)
    scram: str = field(default="", repr=False)
    email: str = ""
    full_name: str = ""
    is_active: bool = True
    is_admin: bool = False
    groups: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(factory=dict)
    created_at: float | None = None
    updated_at: float | None = None
    last_login_at: float | None = None


class Users(Protocol):
    """Where users are asked for. A name is compared as it is, but for the case of ASCII letters."""

    @property
    def name(self) -> str:
        """Where they are, for people and the log; never a secret."""
        ...

    async def open(self) -> None:
        """Make and migrate the tables, read the file. Raises `UsersAway`, `UsersUnusable`."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...

    async def find(self, name: str) -> User | None:
        """The user of a name, active or not; None when there is none. Raises `UsersAway`."""
        ...

    async def renew(self, name: str, *, old: str, password: str, scram: str | None = None) -> bool:
        """Put a password's new hash in the place of `old`, unless that has changed meanwhile (then False).

        `scram` is the new verifier, None to leave it. For re-hashing at a login. A backend that is not managed here
        answers False. Raises `UsersAway`.
        """
        ...

    async def note_login(self, name: str, at: float) -> None:
        """Keep when somebody logged in last, where that is kept. Raises `UsersAway`."""
        ...


class ManagedUsers(Users, Protocol):
    """Where users are managed, too. Raises `NotManaged` where they are kept by somebody else, `UsersAway`."""

    async def add(self, user: User) -> None:
        """A new user. Raises `UserExists`, `UnfitUser`."""
        ...

    @property
    def batch(self) -> int:
        """How many users `add_all` takes at a time."""
        ...

    async def add_all(self, users: Sequence[User]) -> Sequence[str]:
        """New users, each name once, all at once or none; returns the names of those that were there already.

        Those stay as they were. Times that a user brings are kept. Raises `UnfitUser`.
        """
        ...

    async def update(self, user: User) -> None:
        """Everything of a user anew but the times, which the backend keeps. Raises `NoSuchUser`, `UnfitUser`."""
        ...

    async def delete(self, name: str) -> None:
        """Remove a user with groups and attributes. Raises `NoSuchUser`."""
        ...

    async def list(self, *, containing: str = "", after: str = "", limit: int = 100) -> Sequence[User]:
        """At most `limit` users whose name or address contains a text, by name, those behind `after`."""
        ...
