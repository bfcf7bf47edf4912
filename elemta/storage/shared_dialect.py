"""What one database server's SQL has of its own, for a store that is otherwise the same.

What is not here: the two that there are (`postgresql_dialect`, `mysql_dialect`). All of it runs on the asyncio side of
a unit of work; what a driver raises passes through.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from elemta.datasource.base import Connection, Row
from elemta.datasource.migrations import Migration
from elemta.storage.shared_ledger import Writes


class Dialect(Protocol):
    """How one server is spoken to."""

    @property
    def migrations(self) -> Sequence[Migration]:
        """The tables, step by step."""
        ...

    async def learn(self, connection: Connection) -> None:
        """Ask the server what has to be known of it before anything is written."""
        ...

    @property
    def session(self) -> Sequence[str]:
        """Statements that each new connection is given first, in the dialect's own words."""
        ...

    async def fetch(self, connection: Connection, statement: str, *values: Any) -> Sequence[Row]:
        """Run a statement of `shared_statements`; its rows."""
        ...

    async def execute(self, connection: Connection, statement: str, *values: Any) -> int:
        """Run a statement of `shared_statements`; how many rows it changed."""
        ...

    async def write(self, connection: Connection, writes: Writes, *, slot: int) -> None:
        """Write what was decided, in as few statements as can be; `slot` is the row of the tally to count in."""
        ...
