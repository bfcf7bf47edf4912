"""A store that passes every verb to the one behind it.

What is not here: anything that befalls a verb on its way. That is for whoever derives from these: every verb but
`close`, and every piece of staged content, goes through `_pass`. `Relay` is for any `QueueStore`, `SharedRelay` for one
that several nodes share. Failures raised: what the store behind raises.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from elemta.mail.outcome import Attempt
from elemta.storage.base import (
    Adopted,
    Change,
    Claim,
    ContentWriter,
    Filter,
    Finding,
    Joined,
    Node,
    Order,
    Ordered,
    Pulse,
    QueueStore,
    Result,
    Retention,
    SharedStore,
)
from elemta.storage.records import ContentRef, QueuedMail, QueueState

T = TypeVar("T")
Behind_co = TypeVar("Behind_co", bound=QueueStore, covariant=True)


class Way(Protocol):
    """How a verb reaches the store behind."""

    async def __call__(self, verb: Callable[[], Awaitable[T]], /) -> T:
        """What the verb answers."""
        ...


class Relay(Generic[Behind_co]):
    """A `QueueStore` in front of another."""

    def __init__(self, behind: Behind_co) -> None:
        self._behind = behind

    async def _pass(self, verb: Callable[[], Awaitable[T]], /) -> T:
        return await verb()

    async def open(self) -> None:
        """See `QueueStore.open`."""
        await self._pass(self._behind.open)

    async def close(self) -> None:
        """See `QueueStore.close`. Whoever ends lets go, whatever befalls its verbs."""
        await self._behind.close()

    async def join(self, owner: str, now: float) -> Joined:
        """See `QueueStore.join`."""
        return await self._pass(lambda: self._behind.join(owner, now))

    async def commit(self, batch: Sequence[Change]) -> list[Result]:
        """See `QueueStore.commit`."""
        return await self._pass(lambda: self._behind.commit(batch))

    async def stage(self) -> ContentWriter:
        """See `QueueStore.stage`. Its pieces travel each for itself."""
        return RelayedWriter(await self._pass(self._behind.stage), self._pass)

    async def read(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        """See `QueueStore.read`."""
        return await self._pass(lambda: self._behind.read(ref, offset, limit))

    async def claim(self, claim: Claim) -> list[QueuedMail]:
        """See `QueueStore.claim`."""
        return await self._pass(lambda: self._behind.claim(claim))

    async def next_due(self) -> float | None:
        """See `QueueStore.next_due`."""
        return await self._pass(self._behind.next_due)

    async def get(self, queue_id: str) -> QueuedMail | None:
        """See `QueueStore.get`."""
        return await self._pass(lambda: self._behind.get(queue_id))

    async def attempts(self, queue_id: str) -> list[Attempt]:
        """See `QueueStore.attempts`."""
        return await self._pass(lambda: self._behind.attempts(queue_id))

    async def list(self, chosen: Filter, limit: int, after: str = "") -> list[QueuedMail]:
        """See `QueueStore.list`."""
        return await self._pass(lambda: self._behind.list(chosen, limit, after))

    async def counts(self) -> Mapping[QueueState, int]:
        """See `QueueStore.counts`."""
        return await self._pass(self._behind.counts)

    async def apply(self, order: Order) -> Ordered:
        """See `QueueStore.apply`."""
        return await self._pass(lambda: self._behind.apply(order))

    async def cleanup(self, retention: Retention) -> int:
        """See `QueueStore.cleanup`."""
        return await self._pass(lambda: self._behind.cleanup(retention))

    async def inspect(self) -> Sequence[Finding]:
        """See `QueueStore.inspect`."""
        return await self._pass(self._behind.inspect)


class SharedRelay(Relay[SharedStore]):
    """A `SharedStore` in front of another."""

    async def renew(self, owner: str, token: int, seconds: float) -> Pulse:
        """See `SharedStore.renew`."""
        return await self._pass(lambda: self._behind.renew(owner, token, seconds))

    async def adopt(self, owner: str) -> Sequence[Adopted]:
        """See `SharedStore.adopt`."""
        return await self._pass(lambda: self._behind.adopt(owner))

    async def leave(self, owner: str, token: int) -> None:
        """See `SharedStore.leave`."""
        await self._pass(lambda: self._behind.leave(owner, token))

    async def nodes(self) -> Sequence[Node]:
        """See `SharedStore.nodes`."""
        return await self._pass(self._behind.nodes)

    async def set_draining(self, owner: str, draining: bool) -> bool:
        """See `SharedStore.set_draining`."""
        return await self._pass(lambda: self._behind.set_draining(owner, draining))


class RelayedWriter:
    """Content on its way to the store behind."""

    def __init__(self, behind: ContentWriter, way: Way) -> None:
        self._behind = behind
        self._way = way

    async def write(self, pieces: Sequence[bytes]) -> None:
        """See `ContentWriter.write`."""
        await self._way(lambda: self._behind.write(pieces))

    async def finish(self, pieces: Sequence[bytes] = ()) -> str:
        """See `ContentWriter.finish`."""
        return await self._way(lambda: self._behind.finish(pieces))

    async def abandon(self) -> None:
        """See `ContentWriter.abandon`."""
        await self._behind.abandon()
