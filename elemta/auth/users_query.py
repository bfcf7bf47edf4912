"""Users in somebody else's table, asked for by a statement of the operator's.

What is not here: the statement itself (`user_query`), the engines. Nothing is ever changed there.

Failures raised: those of `auth.base`; a statement that does not give what it should is `UsersUnusable`, and so is one
that gives two rows for a name, for nobody could say which of them is meant.
"""

from collections.abc import Sequence
from typing import NoReturn

from elemta.auth.base import NotManaged, UnfitUser, User, UsersUnusable
from elemta.auth.records import key_of
from elemta.auth.user_query import UnfitQuery, check_columns, queried_user, values_of
from elemta.auth.users_tables import Engine


class QueriedUsers:
    """`ManagedUsers` that can only be asked."""

    def __init__(self, engine: Engine, statement: str, *, rendered: str) -> None:
        """`rendered` is the statement in the engine's terms."""
        self._engine = engine
        self._statement = statement
        self._rendered = rendered

    @property
    def name(self) -> str:
        """Where they are."""
        return self._engine.name

    async def open(self) -> None:
        """Ask for nobody, so that a statement that cannot work is found out now; see `Users.open`."""
        await self._engine.open()
        await self.find("nobody@elemta.invalid")

    async def close(self) -> None:
        """Let go of everything."""
        await self._engine.close()

    async def find(self, name: str) -> User | None:
        """The user of a name; see `Users.find`."""
        key = key_of(name)
        if key is None:
            return None
        try:
            found = await self._engine.rows(self._rendered, values_of(self._statement, key))
        except (UnfitUser, UsersUnusable) as error:
            raise UsersUnusable(f"auth.user_query: {error}") from error
        try:
            check_columns(found.columns)
            if len(found.rows) > 1:
                raise UnfitQuery(f"it gives more than one row for {key}: one user has one")
            names = [column.lower() for column in found.columns]
            return queried_user(dict(zip(names, found.rows[0], strict=True)), key) if found.rows else None
        except UnfitQuery as error:
            raise UsersUnusable(f"{self.name}: auth.user_query: {error}") from None

    async def renew(self, name: str, *, old: str, password: str, scram: str | None = None) -> bool:
        """False: nothing is changed in a table of somebody else's."""
        return False

    async def note_login(self, name: str, at: float) -> None:
        """Nothing: see `renew`."""

    async def add(self, user: User) -> None:
        """Raise `NotManaged`."""
        self._refuse()

    @property
    def batch(self) -> int:
        """None is taken anyway."""
        return 1

    async def add_all(self, users: Sequence[User]) -> Sequence[str]:
        """Raise `NotManaged`."""
        self._refuse()

    async def update(self, user: User) -> None:
        """Raise `NotManaged`."""
        self._refuse()

    async def delete(self, name: str) -> None:
        """Raise `NotManaged`."""
        self._refuse()

    async def list(self, *, containing: str = "", after: str = "", limit: int = 100) -> Sequence[User]:
        """Raise `NotManaged`."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotManaged(f"{self.name}: these users are another program's, read by auth.user_query")
