"""Failures to log in over several nodes on one database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog
import trio
from structlog.testing import LogCapture

from elemta.auth.limits import FailureLimits, Kind, Standing, Who
from elemta.auth.server_secret import FileSecret, SharedSecret
from elemta.auth.shared_failures import SharedBook
from elemta.datasource.options import DatabaseOptions
from elemta.runtime.threads import WorkerThreads
from tests.datasource.servers import SERVERS, administer, database_of, running

pytestmark = pytest.mark.parametrize("server", SERVERS, indirect=True)

LIMITS = FailureLimits(per_address=3, per_network=5, per_user=7, lockout_seconds=900.0)
HOME = Who.of("198.51.100.7", "älice")


@asynccontextmanager
async def nodes(server: DatabaseOptions, limits: FailureLimits = LIMITS) -> AsyncIterator[tuple[Any, Any]]:
    log = structlog.wrap_logger(None, processors=[LogCapture()])
    async with running(server) as one, running(server) as other:
        yield SharedBook(one, limits, log), SharedBook(other, limits, log)


async def test_failures_at_one_node_count_at_the_others(server: DatabaseOptions) -> None:
    who = Who.of("192.0.2.1", "älice")
    async with nodes(server) as (one, other):
        assert await one.failed(who) == Standing(None, 1)
        assert await other.failed(who) == Standing(None, 2)
        assert await one.standing(who) == Standing(None, 2)
        assert (await one.failed(who)) == Standing(Kind.ADDRESS, 3, is_new=True), "though no node saw three"
        assert not (await other.failed(who)).is_new
        assert (await other.standing(who)).locked is Kind.ADDRESS
        assert other.standing_here(who).locked is None
        assert (await other.standing(Who.of("192.0.2.1"))).locked is Kind.ADDRESS
        assert (await other.standing(Who.of("192.0.3.1", "älice"))).locked is None


async def test_a_user_is_locked_out_for_strangers_alone_at_every_node(server: DatabaseOptions) -> None:
    async with nodes(server) as (one, other):
        await one.succeeded(HOME)
        for network in range(7):
            await one.failed(Who.of(f"192.0.{network}.1", "älice"))
        assert (await other.standing(Who.of("203.0.113.1", "älice"))).locked is Kind.USER
        assert (await other.standing(HOME)).locked is None
        await other.failed(Who.of("198.51.100.8", "älice"))
        assert (await one.standing(HOME)).locked is None


async def test_a_network_is_locked_out_at_every_node(server: DatabaseOptions) -> None:
    async with nodes(server) as (one, other):
        for host in range(5):
            await (one if host % 2 else other).failed(Who.of(f"2001:db8::{host + 1}", f"u{host}"))
        assert (await one.standing(Who.of("2001:db8::ffff"))).locked is Kind.NETWORK
        assert (await other.standing(Who.of("2001:db8::ffff"))).locked is Kind.NETWORK


async def test_a_window_ends_by_the_databases_clock(server: DatabaseOptions) -> None:
    who = Who.of("192.0.2.1", "bob")
    async with nodes(server) as (one, other):
        await one.failed(who)
        await one.failed(who)
        age = "UPDATE elemta_auth_failures SET until_at = until_at - 901"
        await trio.to_thread.run_sync(administer, server, age)
        assert await other.standing(who) == Standing(None, 0)
        assert await other.failed(who) == Standing(None, 1)


async def test_a_lock_out_lasts_from_the_failure_that_was_too_many_and_no_longer(server: DatabaseOptions) -> None:
    who = Who.of("192.0.2.1", "bob")
    async with nodes(server) as (one, other):
        await one.failed(who)
        await one.failed(who)
        await trio.to_thread.run_sync(administer, server, "UPDATE elemta_auth_failures SET until_at = until_at - 800")
        await one.failed(who)  # the one too many: a new window
        await one.failed(who)  # was on its way already
        await trio.to_thread.run_sync(administer, server, "UPDATE elemta_auth_failures SET until_at = until_at - 800")
        assert (await other.standing(who)).locked is Kind.ADDRESS
        await trio.to_thread.run_sync(administer, server, "UPDATE elemta_auth_failures SET until_at = until_at - 101")
        assert (await other.standing(who)).locked is None


async def test_what_is_over_is_swept(server: DatabaseOptions) -> None:
    async with nodes(server) as (one, other):
        await one.failed(Who.of("192.0.2.1", "bob"))
        await trio.to_thread.run_sync(administer, server, "UPDATE elemta_auth_failures SET until_at = until_at - 901")
        await other.failed(Who.of("203.0.113.1", "carol"))

        async def count(connection: Any) -> int:
            return int((await connection.fetch("SELECT count(*) FROM elemta_auth_failures"))[0][0])

        async with running(server) as database:
            assert await database.look(count) == 3


async def test_a_database_that_is_away_is_no_way_around(server: DatabaseOptions) -> None:
    capture = LogCapture()
    log = structlog.wrap_logger(None, processors=[capture])
    database = database_of(attrs.evolve(server, host="127.0.0.1", port=1, socket=""))
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        book = SharedBook(database, LIMITS, log)
        who = Who.of("192.0.2.1", "bob")
        for _ in range(3):
            await book.failed(who)
        await book.succeeded(HOME)
        assert (await book.standing(who)).locked is Kind.ADDRESS
        nursery.cancel_scope.cancel()
    assert [entry["event"] for entry in capture.entries] == ["auth.failures_not_shared"]


async def test_nodes_share_the_secret_of_fake_salts(server: DatabaseOptions, tmp_path: Path) -> None:
    for name in ("one", "other", "alone"):
        (tmp_path / name).mkdir()
    async with running(server) as one, running(server) as other:
        first = await SharedSecret(one, FileSecret(tmp_path / "one", WorkerThreads())).get()
        assert await SharedSecret(other, FileSecret(tmp_path / "other", WorkerThreads())).get() == first
        await one.transact(lambda connection: connection.execute("UPDATE elemta_auth_secret SET secret = 'spoilt'"))
        with pytest.raises(OSError, match="empty it"):
            await SharedSecret(one, FileSecret(tmp_path / "one", WorkerThreads())).get()
    away = database_of(server)  # nobody runs it
    file = FileSecret(tmp_path / "alone", WorkerThreads())
    assert await SharedSecret(away, file).get() == await file.get()
