"""What a driver brings to the pool.

What is not here: the drivers themselves (`postgresql`, `mysql`). All of it runs on the asyncio side.
"""

from typing import Protocol

from elemta.datasource.base import Connection
from elemta.datasource.faults import Fault


class Wire(Connection, Protocol):
    """One connection as the pool handles it. What it raises is the driver's, for its `Driver` to explain."""

    @property
    def is_dead(self) -> bool:
        """True once it is known to be closed."""
        ...

    async def begin(self) -> None:
        """What is executed next belongs to one transaction."""
        ...

    async def commit(self) -> None:
        """Make the transaction durable. Raises `RolledBack` when the server ended it otherwise."""
        ...

    async def rollback(self) -> None:
        """Undo the transaction."""
        ...

    async def singly(self) -> None:
        """Each statement that is executed next is a transaction of its own."""
        ...

    def abort(self) -> None:
        """Cut the connection without a word: whoever waits on it fails at once."""
        ...

    async def close(self) -> None:
        """Say goodbye, then close."""
        ...


class RolledBack(Exception):
    """The transaction had failed before it came to COMMIT, though the unit of work took no notice: here is what it
    passed over."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.words)
        self.fault = fault


class Driver(Protocol):
    """Makes connections to one database."""

    async def connect(self, *, at_length: float | None = None) -> Wire:
        """A connection with everything set that the session needs; with `at_length`, so many seconds for one statement
        and for one lock."""
        ...

    def explain(self, error: BaseException) -> Fault | None:
        """What an exception means; None when it is none of the driver's."""
        ...
