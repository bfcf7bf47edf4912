"""Two stores that are told the same answer the same: those on database servers against the reference."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from elemta.datasource.options import DatabaseOptions
from elemta.storage import shared_lookup, shared_scout, shared_server
from elemta.storage.base import Insert, Node, QueueStore, SharedStore
from elemta.storage.records import QueueState
from tests.datasource.servers import SERVERS
from tests.storage.databases import RunningStore, empty, made_database
from tests.storage.test_agreement import OWNERS, Ask, Pair

#: An example takes the servers a tenth of a second; a campaign asks for many more.
EXAMPLES = settings().max_examples // 6
#: Longer than the clock of the test ever waits.
LONG_SECONDS = 1e6


@pytest.fixture(scope="module", params=SERVERS)
def database(request: pytest.FixtureRequest) -> Iterator[DatabaseOptions]:
    with made_database(request.param) as options:
        yield options


class DatabasePair(Pair):
    """The reference, beside it a store on a server; in place of SQLite's."""

    def __init__(self, options: DatabaseOptions, data: st.DataObject) -> None:
        self._options = options
        super().__init__("", data)

    def _build(self) -> QueueStore:
        store: SharedStore = RunningStore(self._options, self.clock, ids=self._sqlite_ids)  # type: ignore[assignment]  # by __getattr__
        return store

    async def empty(self) -> None:
        assert isinstance(self.sqlite, RunningStore)
        await self.sqlite.database.transact(empty)

    async def restart(self) -> None:
        if self.chance():
            await self.sqlite.close()
        self.sqlite = self._build()
        await self.sqlite.open()

    async def all(self, verb: Callable[[SharedStore], Awaitable[Any]]) -> Any:
        """Ask both what only a shared store knows."""
        return await self.both(cast(Ask, verb))

    async def join_all(self) -> None:
        for owner in OWNERS:
            await self._join(owner)

    async def _join(self, owner: str) -> None:
        joined = await self.all(lambda store: store.join(owner, self.clock.now))
        self._tokens[owner] = joined.token

    async def die(self) -> None:
        """One node dies, and another forgets it; the leases are by different clocks."""
        dead = self.pick(OWNERS)
        for owner in OWNERS:
            await self._renew(owner, -1.0 if owner == dead else LONG_SECONDS)
        await self.all(lambda store: store.adopt("another"))

    async def _renew(self, owner: str, seconds: float) -> None:
        await self.all(lambda store: store.renew(owner, self._tokens[owner], seconds))

    async def leave(self) -> None:
        owner = self.pick(OWNERS)
        token = self._token(owner)
        await self.all(lambda store: store.leave(owner, token))

    async def drain(self) -> None:
        owner, draining = self.pick(OWNERS), self.chance()
        await self.all(lambda store: store.set_draining(owner, draining))

    def _insert(self) -> Insert:
        insert = super()._insert()
        # Without a token the reference keeps the mail of a node that never joined as that node's.
        if not insert.mail.owner or insert.mail.state is not QueueState.ACTIVE:
            return insert
        return attrs.evolve(insert, token=self._token(insert.mail.owner))

    async def compare(self) -> None:
        await super().compare()

        async def nodes(store: SharedStore) -> list[Node]:
            return [attrs.evolve(node, lease_left=0.0) for node in await store.nodes()]

        await self.all(nodes)
        assert await self.sqlite.inspect() == []


@settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
async def test_servers_agree_with_the_reference(database: DatabaseOptions, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_scout, "FIRST_STEP_MAILS", data.draw(st.integers(1, 4)))
        patch.setattr(shared_scout, "UNCERTAIN_SECONDS", 0.0)
        patch.setattr(shared_lookup, "PAGE_MAILS", data.draw(st.integers(1, 4)))
        patch.setattr(shared_lookup, "WINDOW_MAILS", data.draw(st.integers(1, 4)))
        patch.setattr(shared_lookup, "CHANGED_AT_ONCE", data.draw(st.integers(1, 4)))
        patch.setattr(shared_server, "IDS_AT_ONCE", data.draw(st.integers(1, 4)))
        pair = DatabasePair(database, data)
        await pair.sqlite.open()
        await pair.empty()
        steps = [pair.commit] * 8 + [pair.claim] * 3
        steps += [pair.join, pair.stage, pair.order, pair.cleanup, pair.wait, pair.restart]
        steps += [pair.die, pair.leave, pair.drain]
        await pair.join_all()
        for _ in range(data.draw(st.integers(1, 25))):
            await pair.pick(steps)()
        await pair.compare()
        await pair.restart()
        await pair.compare()
        await pair.sqlite.close()
