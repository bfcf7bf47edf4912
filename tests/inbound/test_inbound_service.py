"""The inbound side with the real machine: decisions, deadlines, drain, what is logged."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from elemta.config.sections import LimitsSection, TimeoutsSection
from elemta.inbound.service import REFUSAL_REST_SECONDS, REFUSALS_BETWEEN_RESTS
from elemta.inbound.session import FAREWELL_SECONDS
from elemta.queue.submission import SubmissionTimeout
from elemta.storage.base import StoreFull, StoreUnavailable
from elemta.storage.records import PIECE_OCTETS
from tests.inbound.world import Client, Unclosing, World


@asynccontextmanager
async def serving(**changes: Any) -> AsyncIterator[World]:
    world = World(**changes)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.service.run)
        yield world
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("host", "recipient", "reply"),
    [
        ("127.0.0.1", "r@example.net", "250"),
        ("192.0.2.1", "r@example.net", "550 5.7.1"),
        ("192.0.2.1", "alice@example.com", "250"),
        ("192.0.2.1", "ALICE@EXAMPLE.COM", "550 5.1.1"),  # this fake knows one case of letters; case is kept
        ("192.0.2.1", "nobody@example.com", "550 5.1.1"),
        ("127.0.0.1", "nobody@example.com", "550 5.1.1"),
        ("192.0.2.1", "Postmaster@example.com", "250"),
        ("192.0.2.1", "postmaster", "250"),
        ("192.0.2.1", "broken@example.com", "451 4.3.0"),
        ("192.0.2.1", "@example.com:r@example.net", "550 5.7.1"),
        ("192.0.2.1", "r%example.net@example.com", "5"),
    ],
)
async def test_who_may_send_to_whom(host: str, recipient: str, reply: str, autojump_clock: object) -> None:
    async with serving() as world:
        assert (await world.connect(host).begin(recipient)).startswith(reply)


async def test_an_empty_list_of_relays_relays_nothing(autojump_clock: object) -> None:
    async with serving(relays=()) as world:
        assert (await world.connect("127.0.0.1").begin()).startswith("550 5.7.1")


async def test_dev_mode_takes_everything(autojump_clock: object) -> None:
    async with serving(dev_mode=True) as world:
        assert (await world.connect("192.0.2.1").begin("anybody@anywhere.example")).startswith("250")


async def test_a_mail_is_submitted_with_its_trace_field(autojump_clock: object) -> None:
    async with serving() as world:
        client = world.connect()
        await client.begin()
        reply = await client.send(b"Subject: x\r\n\r\n..dot\r\n")
        (submission,) = world.queue.submitted
        assert reply == f"250 2.0.0 ok, queued as {submission.id}"
        assert submission.content is not None
        field, _, rest = submission.content.partition(b"Subject:")
        assert rest == b" x\r\n\r\n.dot\r\n"
        assert field.startswith(b"Received: from client.example ([127.0.0.1])\r\n\tby mx.example.com")
        assert submission.ref.size == len(submission.content)
        assert world.budget.taken == 0
        (event,) = world.events("mail.accepted")
        assert event["queue_id"] == submission.id


async def test_large_content_is_staged_whole(autojump_clock: object) -> None:
    async with serving() as world:
        client = world.connect()
        await client.begin()
        body = b"Subject: large\r\n\r\n" + (b"x" * 98 + b"\r\n") * 8000
        assert (await client.send(body)).startswith("250")
        (submission,) = world.queue.submitted
        assert submission.content is None
        (staged,) = world.queue.staged
        assert (submission.ref.id, staged.finished, staged.abandoned) == ("staged", True, False)
        kept = b"".join(staged.pieces)
        assert kept.endswith(body)
        assert max(map(len, staged.pieces)) <= PIECE_OCTETS
        assert len(kept) == submission.ref.size
        assert world.budget.taken == 0


@pytest.mark.parametrize(
    ("failure", "reply"),
    [
        (StoreFull("no space"), "452 4.3.1"),
        (StoreUnavailable("away"), "451 4.3.0"),
        (SubmissionTimeout("late"), "451 4.3.0"),
    ],
)
async def test_a_store_that_fails_is_answered_4yz_and_the_session_goes_on(
    failure: Exception, reply: str, autojump_clock: object
) -> None:
    async with serving() as world:
        world.queue.failure = failure
        client = world.connect()
        await client.begin()
        assert (await client.send(b"Subject: x\r\n\r\n")).startswith(reply)
        assert world.budget.taken == 0
        world.queue.failure = None
        await client.say("MAIL FROM:<>")
        await client.say("RCPT TO:<r@example.net>")
        assert (await client.send(b"Subject: x\r\n\r\n")).startswith("250")


async def test_what_was_staged_is_thrown_away_with_its_session(autojump_clock: object) -> None:
    async with serving() as world:
        client = await _in_data(world)
        await client.stream.send_all(b"Subject: x\r\n\r\n" + (b"x" * 98 + b"\r\n") * 5000)
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        (staged,) = world.queue.staged
        assert (staged.finished, staged.abandoned) == (False, True)


async def test_a_store_that_cannot_stage_is_answered_after_the_end(autojump_clock: object) -> None:
    async with serving() as world:
        world.queue.stage_failure = StoreFull("no space")
        client = world.connect()
        await client.begin()
        assert (await client.send(b"\r\n" + (b"x" * 98 + b"\r\n") * 5000)).startswith("452 4.3.1")
        assert (await client.say("NOOP")).startswith("250")
        assert world.budget.taken == 0


async def test_a_defect_of_ours_is_answered_421_and_harms_nobody_else(autojump_clock: object) -> None:
    async with serving() as world:
        world.queue.failure = RuntimeError("a defect")
        other = world.connect()
        client = world.connect()
        await client.begin()
        assert (await client.send(b"Subject: x\r\n\r\n")).startswith("421 4.3.0")
        assert await client.reply() == ""
        assert len(world.events("session.failed")) == 1
        assert (await other.begin()).startswith("250")


async def test_loops_end_by_the_count_of_received_fields(autojump_clock: object) -> None:
    async with serving(limits=LimitsSection(max_received=3)) as world:
        client = world.connect()
        await client.begin()
        received = b"Received: from a by b\r\n"
        assert (await client.send(received * 3 + b"\r\n")).startswith("554 5.4.6")
        await client.say("MAIL FROM:<>")
        await client.say("RCPT TO:<r@example.net>")
        assert (await client.send(received * 2 + b"\r\n" + received * 9)).startswith("250"), "only the header counts"


async def test_silent_clients_hear_421_at_their_deadline(autojump_clock: object) -> None:
    async with serving(timeouts=TimeoutsSection(command_timeout=60, data_timeout=30)) as world:
        idle, busy = world.connect(), world.connect()
        await idle.reply()
        await busy.begin()
        await busy.say("DATA")
        began = trio.current_time()
        assert (await busy.reply()).startswith("421 4.4.2")
        assert trio.current_time() - began == pytest.approx(30)
        assert (await idle.reply()).startswith("421 4.4.2")
        assert trio.current_time() - began == pytest.approx(60)
        assert await idle.reply() == ""


async def test_a_stream_that_cannot_be_closed_is_let_go_in_seconds(autojump_clock: object) -> None:
    async with serving() as world:
        client = world.listener.connect("127.0.0.1", Unclosing)
        await client.reply()
        assert (await client.say("QUIT")).startswith("221")
        assert await client.reply() == ""
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == pytest.approx(2 * FAREWELL_SECONDS)
        (event,) = world.events("session.ended")
        assert event["cause"] == "quit"


async def test_a_client_that_drips_content_is_ended_by_its_average_rate(autojump_clock: object) -> None:
    async with serving(limits=LimitsSection(min_data_rate=10)) as world:
        client = world.connect()
        await client.begin()
        await client.say("DATA")
        began = trio.current_time()
        heard = ""

        async def listen() -> None:
            nonlocal heard
            heard = await client.reply()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            while True:
                await client.stream.send_all(b"x")
                await trio.sleep(1)
        assert heard.startswith("421 4.4.2")
        assert trio.current_time() - began == pytest.approx(33, abs=2), "30 s of grace, and a second for ten octets"


async def test_no_least_rate_leaves_the_pause_between_pieces_alone(autojump_clock: object) -> None:
    async with serving(limits=LimitsSection(min_data_rate=0), timeouts=TimeoutsSection(data_timeout=40)) as world:
        client = await _in_data(world)
        for _ in range(5):
            await client.stream.send_all(b"x")
            await trio.sleep(39)
        assert (await client.reply()).startswith("421 4.4.2")
        assert trio.current_time() == pytest.approx(4 * 39 + 40)


async def test_a_session_ends_at_its_age(autojump_clock: object) -> None:
    async with serving(timeouts=TimeoutsSection(session_timeout=100, command_timeout=60)) as world:
        client = world.connect()
        await client.reply()
        await trio.sleep(50)
        assert (await client.say("NOOP")).startswith("250")
        assert (await client.reply()).startswith("421")
        assert trio.current_time() == pytest.approx(100)


async def _in_data(world: World) -> Client:
    client = world.connect()
    await client.begin()
    await client.say("DATA")
    return client


async def test_a_drain_ends_idle_sessions_at_once_and_lets_mails_finish(autojump_clock: object) -> None:
    async with serving() as world:
        idle, busy, stalled = world.connect(), await _in_data(world), await _in_data(world)
        await idle.reply()
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(world.service.drain, 10)
            assert (await idle.reply()).startswith("421 4.3.2")
            assert (await world.connect().reply()).startswith("421 4.3.2")
            assert trio.current_time() == began
            await busy.stream.send_all(b"Subject: x\r\n\r\n.\r\n")
            assert (await busy.reply()).startswith("250")
            assert (await busy.reply()).startswith("421 4.3.2")
            assert (await stalled.reply()).startswith("421 4.3.2")
            assert trio.current_time() - began == pytest.approx(10)
        assert len(world.queue.submitted) == 1


async def test_too_many_connections_hear_421(autojump_clock: object) -> None:
    async with serving(limits=LimitsSection(max_connections=1)) as world:
        first = world.connect()
        await first.reply()
        assert (await world.connect().reply()).startswith("421 4.3.2")
        await first.say("QUIT")
        await first.reply()
        await trio.testing.wait_all_tasks_blocked()
        assert (await world.connect().reply()).startswith("220")


async def test_a_flood_that_is_refused_waits_between_its_bursts(autojump_clock: object) -> None:
    async with serving(limits=LimitsSection(max_connections=1)) as world:
        served = world.connect()
        await served.reply()
        refused = [world.connect() for _ in range(2 * REFUSALS_BETWEEN_RESTS + 1)]
        heard = []
        for client in refused:
            assert (await client.reply()).startswith("421 4.3.2")
            heard.append(trio.current_time())
        first, second = heard[REFUSALS_BETWEEN_RESTS - 1], heard[2 * REFUSALS_BETWEEN_RESTS - 1]
        assert first == 0
        assert second == pytest.approx(REFUSAL_REST_SECONDS)
        assert heard[-1] == pytest.approx(2 * REFUSAL_REST_SECONDS)
        assert (await served.say("NOOP")).startswith("250")


async def test_one_line_a_session_whatever_it_does(autojump_clock: object) -> None:
    async with serving() as world:
        client = world.connect("192.0.2.66")
        await client.reply()
        for _ in range(5):
            await client.say("NONSENSE\x1b[31m")
        await client.say("QUIT")
        await client.reply()
        await trio.testing.wait_all_tasks_blocked()
        assert [entry["event"] for entry in world.capture.entries] == ["session.ended"]
        (event,) = world.events("session.ended")
        assert (event["refusals"], event["cause"]) == (5, "quit")


async def test_a_connection_lost_inside_a_mail_leaves_nothing_behind(autojump_clock: object) -> None:
    async with serving() as world:
        client = await _in_data(world)
        await client.stream.send_all(b"x" * 60_000)
        await trio.testing.wait_all_tasks_blocked()
        assert world.budget.taken > 0
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert world.budget.taken == 0
        assert world.service.open_connections == 0
        assert world.queue.submitted == []


async def test_xdebug_in_dev_mode(autojump_clock: object) -> None:
    async with serving(dev_mode=True) as world:
        client = world.connect()
        await client.begin("c@d.example")
        assert "Rcpt To: c@d.example" in await client.say("XDEBUG")
        assert (await client.say("XDEBUG CONTEXT SET colour blue")).startswith("250")
        assert "colour: blue (set at 2023-11-14T22:13:20Z)" in await client.say("XDEBUG CONTEXT GET colour")
        assert (await client.say("XDEBUG CONTEXT GET nothing")).startswith("501")
        assert "State:" in await client.say("XDEBUG STATE")
        assert (await client.say("XDEBUG CONTEXT CLEAR")).startswith("250")
        assert (await client.say("XDEBUG HELP")).startswith("214")
    async with serving() as world:
        client = world.connect()
        await client.reply()
        assert (await client.say("XDEBUG")).startswith("500")
