"""Batches of changes, each in one transaction: lock, look, decide, write.

What is not here: the decisions (`shared_ledger`).

New mails are presumed to be no repetition, unless a batch with one of them came to an unknown end: then nothing is
looked up but their owners. Where that was wrong, the server
refuses a key that is there, and everything is looked up. What is refused then is halved until the change that is
to blame stands alone. Raises `StoreUnavailable`, `StoreAway`, `CommitUnknown`, `StoreFull`.
"""

from collections.abc import Sequence

import trio

from elemta.datasource.base import Connection
from elemta.storage.base import Change, CommitUnknown, Insert, Result, StoreFull, StoreUnavailable
from elemta.storage.shared_ledger import Ledger, wanted_by
from elemta.storage.shared_server import ChangeRefused, Server
from elemta.storage.shared_statements import PRESENT_AMONG


async def commit(server: Server, batch: Sequence[Change], *, is_fresh: bool) -> list[Result]:
    """Make a batch durable; see `QueueStore.commit`. `is_fresh` presumes that no insert is a repetition."""
    await trio.lowlevel.checkpoint_if_cancelled()
    if not batch:
        return []
    # Each transaction ends by its own deadline, and what was begun is finished.
    with trio.CancelScope(shield=True):
        results = await _commit(server, batch, is_fresh=is_fresh)
    return results


async def _commit(server: Server, batch: Sequence[Change], *, is_fresh: bool) -> list[Result]:
    try:
        return await _at_once(server, batch, is_fresh=is_fresh)
    except ChangeRefused:
        return await _Isolation(server).run(batch)
    except StoreFull:
        return await _without_inserts(server, batch)


async def _at_once(server: Server, batch: Sequence[Change], *, is_fresh: bool = False) -> list[Result]:
    wanted = wanted_by(batch, is_fresh=is_fresh)

    async def work(connection: Connection) -> list[Result]:
        ledger = Ledger(await server.look_up(connection, wanted))
        results = [ledger.apply(change) for change in batch]
        if is_fresh and Result.REFUSED in results:
            # Of a mail that is there, the content need not come along again.
            raise ChangeRefused("a new mail cannot be kept, unless it is there already")
        await server.write(connection, ledger.writes())
        return results

    return await server.transact(work)


class _Isolation:
    """A batch of which the server refuses something, part by part."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._has_landed = False

    async def run(self, batch: Sequence[Change]) -> list[Result]:
        """As much at once as the server takes."""
        try:
            results = await _at_once(self._server, batch)
        except ChangeRefused:
            if len(batch) == 1:
                return [Result.REFUSED]
            middle = len(batch) // 2
            return await self.run(batch[:middle]) + await self.run(batch[middle:])
        except StoreUnavailable as error:
            if self._has_landed:
                raise CommitUnknown(f"a part of the batch is durable: {error}") from error
            raise
        self._has_landed = True
        return results


async def _without_inserts(server: Server, batch: Sequence[Change]) -> list[Result]:
    """Without room for new mail, the old must still go out. A mail that landed already is not refused."""
    new = [change.mail.id for change in batch if isinstance(change, Insert)]
    there: set[str] = set()
    if len(new) < len(batch):

        async def look(connection: Connection) -> set[str]:
            return {row[0] for row in await server.among(connection, PRESENT_AMONG, new)}

        there = await server.look(look)
    kept = [change for change in batch if not isinstance(change, Insert) or change.mail.id in there]
    if not kept or len(kept) == len(batch):
        raise StoreFull(f"{server.name}: the server has no room left (make room on its disk)")
    results = iter(await _at_once(server, kept))
    return [
        Result.FULL if isinstance(change, Insert) and change.mail.id not in there else next(results) for change in batch
    ]
