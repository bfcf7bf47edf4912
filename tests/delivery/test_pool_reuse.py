"""Connections that are kept: reused, bounded, said goodbye to, replaced when they went stale."""

import pytest
import trio
import trio.testing

from elemta.config.sections import TimeoutsSection
from elemta.delivery.opening import open_session
from elemta.delivery.pool import IDLE_SECONDS, ConnectionPool
from elemta.delivery.session import QUIT_SECONDS, ClientOptions, Session, Watch, pool_key
from elemta.mail.outcome import Deferred, Delivered
from elemta.smtp.client_events import Awaited
from tests.delivery.jobs import attempt
from tests.delivery.scripted import EVERYTHING, Host, ScriptedNetwork, World, hops, world

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
OPTIONS = ClientOptions("client.example.org", TimeoutsSection())
NO_PIPELINING = tuple(each for each in EVERYTHING if each != "PIPELINING")


async def send(here: World, *recipients: str) -> list[str]:
    outcomes = await here.transport.deliver(attempt(*(recipients or ("one@example.net",)), content=CONTENT).job)
    assert not any(isinstance(each, Deferred) and each.uncertain for each in outcomes)
    return [type(each).__name__ for each in outcomes]


def verbs(host: Host) -> list[str]:
    return [command.split(" ")[0] for command in host.commands]


async def test_a_connection_is_reused_without_more_words_than_needed() -> None:
    host = Host()
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        for _ in range(3):
            assert await send(here) == ["Delivered"]
        nursery.cancel_scope.cancel()
    assert host.sessions == 1
    assert verbs(host) == ["EHLO", *["MAIL", "RCPT", "DATA"] * 3]


@pytest.mark.parametrize("extensions", [EVERYTHING, NO_PIPELINING])
async def test_rset_is_said_only_when_a_transaction_was_left_open(extensions: tuple[str, ...]) -> None:
    host = Host(extensions=extensions, replies={"RCPT": ["550 5.1.1 no", "250 ok"]})
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        assert await send(here) == ["Failed"]
        assert await send(here) == ["Delivered"]
        assert await send(here) == ["Delivered"]
        nursery.cancel_scope.cancel()
    assert host.sessions == 1
    assert verbs(host).count("RSET") == 1
    assert verbs(host).index("RSET") < verbs(host).index("MAIL", 3)


async def test_a_refused_rset_costs_a_connection_not_a_mail() -> None:
    host = Host(replies={"RCPT": ["550 5.1.1 no", "250 ok"], "RSET": ["503 no"]})
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        assert await send(here) == ["Failed"]
        assert await send(here) == ["Delivered"]
        nursery.cancel_scope.cancel()
    assert host.sessions == 2


@pytest.mark.parametrize(
    ("end", "extensions"),
    [
        ("close", EVERYTHING),
        ("close", NO_PIPELINING),
        ("421 4.4.2 idle too long", EVERYTHING),
        ("421 4.4.2 idle too long", NO_PIPELINING),
        ("nonsense", EVERYTHING),
        ("nonsense", NO_PIPELINING),
        ("451 4.4.2 timed out\r\n421 bye", EVERYTHING),  # without PIPELINING an answer to MAIL like any other
    ],
)
async def test_a_stale_connection_is_replaced_silently(end: str, extensions: tuple[str, ...]) -> None:
    """The host gave up on it while it idled: the next mail does not notice."""
    host = Host(extensions=extensions, replies={"MAIL": ["250 ok", end, "250 ok"]})
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        assert await send(here) == ["Delivered"]
        assert await send(here) == ["Delivered"]
        nursery.cancel_scope.cancel()
    assert host.sessions == 2
    assert len(host.mails) == 2


async def test_a_connection_closed_while_idle_is_replaced_silently() -> None:
    host = Host()
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        assert await send(here) == ["Delivered"]
        host.hang_up()
        assert await send(here) == ["Delivered"]
        nursery.cancel_scope.cancel()
    assert host.sessions == 2


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"RCPT": ["250 ok", "250 ok", "close"]}, ["Deferred", "Deferred"]),
        ({"DATA": ["354 ok", "close"]}, ["Deferred", "Deferred"]),
    ],
)
async def test_a_kept_connection_lost_later_is_no_stale_one(replies: dict[str, list[str]], expected: list[str]) -> None:
    host = Host(replies=replies)
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        assert await send(here) == ["Delivered"]
        assert await send(here, "a@example.net", "b@example.net") == expected
        nursery.cancel_scope.cancel()
    assert host.sessions == 1


async def test_never_replaced_after_the_final_dot() -> None:
    host = Host(replies={".": ["250 ok", "close", "250 ok"]})
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        assert await send(here) == ["Delivered"]
        (outcome,) = await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        assert isinstance(outcome, Deferred)
        assert outcome.uncertain
        assert here.pool.idle == 0
        nursery.cancel_scope.cancel()
    assert host.sessions == 1


async def test_a_kept_connection_to_a_later_host_is_used_first() -> None:
    first, second = Host(greeting="421 busy"), Host()
    async with trio.open_nursery() as nursery:
        here = world(nursery, first, second)
        assert await send(here) == ["Delivered"]
        assert await send(here) == ["Delivered"]
        nursery.cancel_scope.cancel()
    assert (first.sessions, second.sessions) == (1, 1)


async def test_what_a_kept_connection_refuses_for_now_another_host_may_take() -> None:
    first, second = Host(replies={"MAIL": ["250 ok", "452 4.3.1 full"]}), Host()
    async with trio.open_nursery() as nursery:
        here = world(nursery, first, second)
        assert await send(here) == ["Delivered"]
        assert await send(here) == ["Delivered"]
        nursery.cancel_scope.cancel()
    assert (first.sessions, second.sessions) == (1, 1)
    assert len(second.mails) == 1


async def test_a_host_that_hangs_on_a_kept_connection_is_not_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    host = Host(replies={"MAIL": ["250 ok", "hang"]})
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        assert await send(here) == ["Delivered"]
        started = trio.current_time()
        assert await send(here) == ["Deferred"]
        assert trio.current_time() - started == 300.0
        nursery.cancel_scope.cancel()
    assert host.sessions == 1


async def test_a_connection_wears_out_by_mails_and_by_age(autojump_clock: trio.testing.MockClock) -> None:
    host = Host()
    async with trio.open_nursery() as nursery:
        here = world(nursery, host, pool=ConnectionPool(max_mails=2, reuse_seconds=50.0, idle_seconds=100.0))
        for _ in range(4):
            await send(here)
        assert (host.sessions, verbs(host).count("QUIT"), here.pool.idle) == (2, 2, 0)
        await send(here)
        await trio.sleep(60.0)
        assert here.pool.idle == 1
        await send(here)  # too old to be kept once more
        assert (host.sessions, verbs(host).count("QUIT"), here.pool.idle) == (3, 3, 0)
        nursery.cancel_scope.cancel()


async def test_an_expired_connection_is_not_reused(autojump_clock: trio.testing.MockClock) -> None:
    host = Host()
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        await send(here)
        await trio.sleep(IDLE_SECONDS)
        await send(here)
        nursery.cancel_scope.cancel()
    assert host.sessions == 2


async def test_the_reaper_says_goodbye_in_time(autojump_clock: trio.testing.MockClock) -> None:
    host = Host()
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        await nursery.start(here.pool.run)
        for _ in range(2):
            await trio.sleep(1.0)
            await send(here)
            await trio.sleep(IDLE_SECONDS - 0.5)
            assert here.pool.idle == 1
            await trio.sleep(1.0)
            assert here.pool.idle == 0
        assert verbs(host).count("QUIT") == 2
        nursery.cancel_scope.cancel()


async def test_the_reaper_leaves_those_whose_time_has_not_come(autojump_clock: trio.testing.MockClock) -> None:
    host = Host(delay=1.0)
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        await nursery.start(here.pool.run)
        async with trio.open_nursery() as senders:
            for _ in range(3):
                senders.start_soon(send, here)
                await trio.sleep(2.0)
        assert here.pool.idle == 3
        await trio.sleep(IDLE_SECONDS - 3.0)
        assert 0 < here.pool.idle < 3
        assert verbs(host).count("QUIT") == 3 - here.pool.idle
        nursery.cancel_scope.cancel()


async def test_a_goodbye_to_somebody_gone_is_no_failure(autojump_clock: trio.testing.MockClock) -> None:
    host = Host()
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        await nursery.start(here.pool.run)
        await send(here)
        host.hang_up()
        await trio.sleep(IDLE_SECONDS + 1.0)
        assert here.pool.idle == 0
        assert host.streams[0].aborted
        nursery.cancel_scope.cancel()


async def test_the_pool_closes_everything_when_it_ends(autojump_clock: trio.testing.MockClock) -> None:
    host, rude = Host(), Host(replies={"QUIT": ["hang"]})
    async with trio.open_nursery() as hosts:
        async with trio.open_nursery() as nursery:
            here = world(hosts, host)
            there = world(hosts, rude, pool=here.pool)
            await nursery.start(here.pool.run)
            async with trio.open_nursery() as senders:
                for _ in range(3):
                    senders.start_soon(send, here)
                    senders.start_soon(send, there)
            assert here.pool.idle > 1
            started = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started == QUIT_SECONDS  # together, not one after the other
        assert here.pool.idle == 0
        assert verbs(host).count("QUIT") == host.sessions
        assert all(stream.aborted for stream in rude.streams)
        assert await send(here) == ["Delivered"]
        assert here.pool.idle == 0  # what comes back late is not kept
        hosts.cancel_scope.cancel()


async def test_the_bound_closes_the_oldest() -> None:
    host = Host()
    async with trio.open_nursery() as nursery:
        network = ScriptedNetwork(nursery, {hop.endpoint: host for hop in hops(3)})
        pool = ConnectionPool(max_idle=2)
        sessions: list[Session] = []
        for hop in hops(3):
            session = await open_session(hop, network, options=OPTIONS, watch=Watch(Awaited.NOTHING, 30.0))
            sessions.append(session)
            await pool.give(session)
        assert pool.idle == 2
        assert [pool.take(session.key) for session in sessions] == [None, sessions[1], sessions[2]]
        assert verbs(host).count("QUIT") == 1
        nursery.cancel_scope.cancel()


async def test_the_newest_is_taken_first_and_by_one_only() -> None:
    host = Host()
    async with trio.open_nursery() as nursery:
        (hop,) = hops(1)
        network = ScriptedNetwork(nursery, {hop.endpoint: host})
        pool = ConnectionPool()
        sessions: list[Session] = []
        for _ in range(3):
            session = await open_session(hop, network, options=OPTIONS, watch=Watch(Awaited.NOTHING, 30.0))
            sessions.append(session)
            await pool.give(session)
        key = pool_key(hop, OPTIONS)
        assert [pool.take(key) for _ in range(4)] == [*reversed(sessions), None]
        assert pool.idle == 0
        nursery.cancel_scope.cancel()


def test_routes_and_protocols_do_not_share_connections() -> None:
    (hop,) = hops(1)
    timeouts = TimeoutsSection()
    keys = {
        pool_key(hop, ClientOptions("client.example.org", timeouts)),
        pool_key(hop, ClientOptions("client.example.org", timeouts, lmtp=True)),
        pool_key(hop, ClientOptions("client.example.org", timeouts, route="partners")),
        pool_key(hops(2)[1], ClientOptions("client.example.org", timeouts)),
    }
    assert len(keys) == 4


async def test_what_was_delivered_is_told_though_the_goodbye_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A worn connection is closed before the outcome is returned: cancelled there, the mail would be sent again."""
    host = Host(replies={"QUIT": ["hang"]})
    async with trio.open_nursery() as nursery:
        here = world(nursery, host, pool=ConnectionPool(max_mails=1))
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + 1.0
            outcomes = await here.transport.deliver(attempt("one@example.net", content=CONTENT).job)
        assert isinstance(outcomes[0], Delivered)
        assert not scope.cancelled_caught
        nursery.cancel_scope.cancel()
