"""Users in the tables of this project.

What is not here: the engines that keep the tables (`users_sqlite`, `users_server`), what is asked of them
(`table_units`). A name that no user could have is not even looked for.

Failures raised: those of `auth.base`.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from elemta.auth import table_units as units
from elemta.auth.base import NoSuchUser, UnfitUser, User, UserExists
from elemta.auth.records import checked, key_of
from elemta.auth.table_units import Units, Words
from elemta.datasource.base import Named
from elemta.runtime.clock import Clock

T = TypeVar("T")


class Engine(Protocol):
    """What runs units of work. Raises `UsersAway`, `UsersUnusable`; `UnfitUser` for values that it refuses."""

    @property
    def name(self) -> str:
        """Where it is, for people and the log; never a secret."""
        ...

    @property
    def words(self) -> Words:
        """What it says otherwise than others."""
        ...

    async def prepare(self) -> None:
        """Make and migrate the tables."""
        ...

    async def open(self) -> None:
        """Be ready for look-ups, whatever tables are there."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...

    async def look(self, make: Units[T]) -> T:
        """Run a unit that changes nothing."""
        ...

    async def transact(self, make: Units[T]) -> T:
        """Run a unit in one transaction. It may run more than once."""
        ...

    async def rows(self, statement: str, values: Sequence[object]) -> Named:
        """The rows of one statement in the engine's own terms."""
        ...


class TableUsers:
    """`ManagedUsers` in the tables `users`, `groups`, `user_groups`, `user_attributes`."""

    def __init__(self, engine: Engine, clock: Clock, *, log: FilteringBoundLogger) -> None:
        self._engine = engine
        self._words = engine.words
        self._clock = clock
        self._log = log

    @property
    def name(self) -> str:
        """Where they are."""
        return self._engine.name

    async def open(self) -> None:
        """Make and migrate the tables; see `Users.open`. What another program wrote there is made to be found."""
        await self._engine.open()
        await self._engine.prepare()
        if await self._engine.look(lambda: units.has_capitals(self._words)):
            for name in await self._engine.transact(lambda: units.fold_names(self._words)):
                self._log.warning(
                    "user.name_taken", users=self.name, user=name, remedy="rename or delete one of the two"
                )
        if count := await self._engine.look(lambda: units.count_plain(self._words)):
            remedy = "their passwords are no hashes: set them anew with `elemta user passwd`"
            self._log.warning("users.unusable_passwords", users=self.name, count=count, remedy=remedy)

    async def close(self) -> None:
        """Let go of everything."""
        await self._engine.close()

    async def find(self, name: str) -> User | None:
        """The user of a name; see `Users.find`."""
        key = key_of(name)
        return None if key is None else await self._engine.look(lambda: units.find(self._words, key))

    async def renew(self, name: str, *, old: str, password: str, scram: str | None = None) -> bool:
        """Put a new hash in the place of an old one; see `Users.renew`."""
        key = key_of(name)
        if key is None:
            return False
        renewal = units.Renewal(key, old, password, scram)
        return await self._engine.transact(lambda: units.renew(self._words, renewal, self._now()))

    async def note_login(self, name: str, at: float) -> None:
        """Keep when somebody logged in last."""
        key = key_of(name)
        if key is not None:
            await self._engine.transact(lambda: units.note_login(key, int(at)))

    async def add(self, user: User) -> None:
        """A new user; see `ManagedUsers.add`."""
        fit = checked(user)
        try:
            await self._engine.transact(lambda: units.add(self._words, fit, self._now()))
            return
        except UnfitUser as error:
            refused = error
        # Somebody else may have been as fast.
        if await self.find(fit.name) is not None:
            raise UserExists(f"there is a user {fit.name} already")
        raise refused

    @property
    def batch(self) -> int:
        """So many as are added well within one deadline."""
        return units.PAGE_ROWS

    async def add_all(self, users: Sequence[User]) -> Sequence[str]:
        """New users in one transaction; see `ManagedUsers.add_all`."""
        fit = [checked(user) for user in users]
        return await self._engine.transact(lambda: units.add_all(self._words, fit, self._now()))

    async def update(self, user: User) -> None:
        """Everything of a user anew but the times; see `ManagedUsers.update`."""
        fit = checked(user)
        await self._engine.transact(lambda: units.update(self._words, fit, self._now()))

    async def delete(self, name: str) -> None:
        """Remove a user; see `ManagedUsers.delete`."""
        key = key_of(name)
        if key is None:
            raise NoSuchUser(f"there is no user {name!a}")
        await self._engine.transact(lambda: units.delete(self._words, key))

    async def list(self, *, containing: str = "", after: str = "", limit: int = 100) -> Sequence[User]:
        """Users by name; see `ManagedUsers.list`."""
        wanted = key_of(containing) if containing else ""
        if wanted is None:
            return []
        # `after` is as the table has it, which another program may have written.
        return await self._engine.look(lambda: units.page(self._words, wanted, after=after, limit=limit))

    def _now(self) -> int:
        return int(self._clock.wall())
