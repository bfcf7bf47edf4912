"""A store that fails while plugins judge a mail, or once they have changed it."""

import pytest
import trio
import trio.testing

from elemta.plugins.api import CONTINUE, AddHeader, Continue, Mail, OnError, Plugin, Reject, Session, Verdict
from elemta.storage.base import StoreFull, StoreUnavailable
from elemta.storage.records import ContentRef
from tests.inbound.test_plugged import serving
from tests.inbound.test_plugged_attacks import doing

#: More than is kept in memory.
LARGE = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 20_000


class Reading(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        assert [piece async for piece in mail.content.chunks()]
        return CONTINUE


class Careless(Plugin):
    """Takes every error for its own."""

    async def on_data_complete(self, mail: Mail) -> Verdict:
        try:
            await mail.content.read(100_000, 10)
        except Exception:
            return Reject("unreadable")
        return CONTINUE


async def _away(ref: ContentRef, offset: int, limit: int) -> bytes:
    await trio.lowlevel.checkpoint()
    raise StoreUnavailable("away")


@pytest.mark.parametrize("on_error", [OnError.ACCEPT, OnError.REJECT])
@pytest.mark.parametrize("plugin", [Reading, Careless])
async def test_a_store_that_is_away_while_a_plugin_reads_is_no_failure_of_the_plugin(
    plugin: type[Plugin], on_error: OnError, autojump_clock: object
) -> None:
    async with serving(plugin, on_error=on_error) as (world, bench):
        world.queue.read = _away  # type: ignore[method-assign]  # the database is away
        client = world.connect()
        await client.begin()
        assert (await client.send(LARGE)).startswith("451 4.3.0")
        assert bench.events("plugin.failed") == []
        assert world.queue.submitted == []
        assert [one.abandoned for one in world.queue.staged] == [True]


@pytest.mark.parametrize("error", [StoreFull("full"), StoreUnavailable("away")], ids=["full", "away"])
async def test_what_was_written_anew_is_thrown_away_where_the_queue_does_not_take_it(
    error: Exception, autojump_clock: object
) -> None:
    async with serving(doing(Continue([AddHeader("X", "1")]))) as (world, _):
        world.queue.failure = error
        client = world.connect()
        await client.begin()
        assert (await client.send(LARGE))[:3] in ("451", "452")
        assert [one.abandoned for one in world.queue.staged] == [True, True]


async def test_a_store_that_goes_away_before_the_changes_are_written_down(autojump_clock: object) -> None:
    async with serving(doing(Continue([AddHeader("X", "1")]))) as (world, _):
        world.queue.read = _away  # type: ignore[method-assign]  # as above
        client = world.connect()
        await client.begin()
        assert (await client.send(LARGE)).startswith("451 4.3.0")
        assert [one.abandoned for one in world.queue.staged] == [True, True]


async def test_who_only_hears_of_the_end_hears_whose_it_was(autojump_clock: object) -> None:
    heard: list[str] = []

    class Farewell(Plugin):
        async def on_disconnect(self, session: Session) -> None:
            heard.append(session.helo)

    async with serving(Farewell) as (world, _):
        client = world.connect()
        await client.reply()
        await client.say("EHLO c.example")
        await client.say("QUIT")
        assert await client.reply() == ""
        await trio.testing.wait_all_tasks_blocked()
    assert heard == ["c.example"]
