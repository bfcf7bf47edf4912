"""What plugins decide in a whole session, as its client hears it and the queue gets it."""

import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import ClassVar

import pytest
import trio

from elemta.inbound.plugged import Plugins
from elemta.mail.address import Address
from elemta.mail.envelope import Priority, Recipient
from elemta.plugins.api import (
    CONTINUE,
    AddHeader,
    AddRecipient,
    Annotate,
    Continue,
    Defer,
    Discard,
    Mail,
    OnError,
    Plugin,
    Quarantine,
    Reject,
    RemoveHeader,
    RemoveRecipient,
    ReplaceBody,
    ReplaceHeader,
    Session,
    SetPriority,
    SetRoute,
    SetSender,
    Verdict,
)
from elemta.storage.records import INLINE_CONTENT_OCTETS
from tests.inbound.world import Client, World
from tests.plugins.fakes import Bench, chain_of

MAIL = b"Subject: hello\r\nX-Old: 1\r\nX-Old: 2\r\n\r\nbody\r\n"


@asynccontextmanager
async def serving(*plugins: type[Plugin], on_error: OnError | None = None) -> AsyncIterator[tuple[World, Bench]]:
    async with chain_of(*plugins, on_error=on_error) as bench:
        world = World(plugins=Plugins(bench.chain, bench.keeper, frozenset({"archive"})))
        async with trio.open_nursery() as nursery:
            await nursery.start(world.service.run)
            yield world, bench
            nursery.cancel_scope.cancel()


async def deliver(client: Client, content: bytes = MAIL) -> str:
    await client.begin()
    return await client.send(content)


class Everything(Plugin):
    """Asked everywhere, remembers what it saw."""

    seen: ClassVar[list[str]] = []

    def saw(self, stage: str, *facts: object) -> None:
        self.seen.append(" ".join(map(str, (stage, *facts))))

    async def on_connect(self, session: Session) -> Verdict:
        self.saw("connect", session.client.host, session.listener, session.may_relay)
        return CONTINUE

    async def on_helo(self, session: Session) -> Verdict:
        self.saw("helo", session.helo)
        return CONTINUE

    async def on_mail_from(self, mail: Mail) -> Verdict:
        self.saw("mail", mail.sender, mail.declared_size)
        return CONTINUE

    async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
        self.saw("rcpt", recipient.address, len(mail.recipients))
        return CONTINUE

    async def on_data_headers(self, mail: Mail) -> Verdict:
        self.saw("headers", mail.headers.text("subject"), mail.content.size)
        return CONTINUE

    async def on_data_complete(self, mail: Mail) -> Verdict:
        octets = b"".join([piece async for piece in mail.content.chunks()])
        self.saw("complete", octets.endswith(MAIL), octets.startswith(b"Received: "), len(octets) == mail.content.size)
        return CONTINUE

    async def on_queued(self, mail: Mail) -> None:
        self.saw("queued", len(mail.recipients))

    async def on_disconnect(self, session: Session) -> None:
        self.saw("disconnect", session.helo)


async def test_every_stage_is_asked_once(autojump_clock: object) -> None:
    Everything.seen = []
    async with serving(Everything) as (world, _):
        client = world.connect()
        assert (await deliver(client)).startswith("250 2.0.0 ok, queued as")
        assert await client.say("QUIT")
        assert await client.reply() == ""
        await trio.testing.wait_all_tasks_blocked()
    assert Everything.seen == [
        "connect 127.0.0.1 smtp True",
        "helo client.example",
        "mail s@example.org None",
        "rcpt r@example.net 0",
        "headers hello 0",
        "complete True True True",
        "queued 1",
        "disconnect client.example",
    ]
    (mail,) = world.queue.submitted
    assert set(json.loads(mail.annotations["plugins"])) == {"everything"}


@pytest.mark.parametrize(
    ("stage", "verdict", "heard"),
    [
        ("connect", Reject("go away"), "554 5.7.1 go away"),
        ("connect", Defer("busy"), "421 4.7.1 busy"),
        ("helo", Reject("liar"), "550 5.7.1 liar"),
        ("mail_from", Reject("not you", 553, "5.7.1"), "553 5.7.1 not you"),
        ("rcpt_to", Defer("later", 450, "4.7.1"), "450 4.7.1 later"),
        ("data_headers", Reject("spam"), "550 5.7.1 spam"),
        ("data_complete", Reject("virus", 554, "5.7.1"), "554 5.7.1 virus"),
        ("data_complete", Defer(), "451 4.7.1 not now, try again later"),
        ("mail_from", Defer("enough", 421, "4.7.0"), "421 4.7.0 enough"),
    ],
)
async def test_refusals_at_every_stage(stage: str, verdict: Verdict, heard: str, autojump_clock: object) -> None:
    class Refusing(Plugin):
        pass

    async def hook(self: Plugin, *_: object) -> Verdict:
        return verdict

    setattr(Refusing, f"on_{stage}", hook)
    async with serving(Refusing) as (world, _):
        client = world.connect()
        replies = [await client.reply()]
        for line in ("EHLO c.example", "MAIL FROM:<s@example.org>", "RCPT TO:<r@example.net>", "DATA"):
            if replies[-1][:1] in "45" or replies[-1] == "":
                break
            replies.append(await client.say(line))
        if replies[-1].startswith("354"):
            await client.stream.send_all(MAIL + b".\r\n")
            replies.append(await client.reply())
        assert replies[-1] == heard
        if heard.startswith("421"):
            assert await client.reply() == ""
        elif stage != "connect":
            assert (await client.say("NOOP")).startswith("250"), "the session goes on"
        assert not world.queue.submitted
        assert world.budget.taken == 0


class Changing(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        return Continue(
            [
                AddHeader("X-Top", "t"),
                AddHeader("X-End", "e", at=None),
                ReplaceHeader("Subject", "=?utf-8?q?n=C3=B6?="),
                RemoveHeader("X-Old", 1),
                SetSender(None),
                AddRecipient(Recipient(Address("more", "example.net"))),
                RemoveRecipient(Address("r", "example.net")),
                SetPriority(Priority.CRITICAL),
                Annotate("tag", "yes"),
            ],
            score=2.5,
        )


async def test_changes_reach_the_queue(autojump_clock: object) -> None:
    async with serving(Changing) as (world, _):
        assert (await deliver(world.connect())).startswith("250")
    (mail,) = world.queue.submitted
    assert mail.content is not None
    trace, _, rest = mail.content.partition(b"\r\nSubject")
    assert trace.startswith(b"X-Top: t\r\nReceived: ")
    assert rest == b": =?utf-8?q?n=C3=B6?=\r\nX-Old: 2\r\nX-End: e\r\n\r\nbody\r\n"
    assert mail.ref.size == len(mail.content)
    assert mail.content[mail.ref.header_octets :] == b"\r\nbody\r\n"
    assert mail.envelope.reverse_path is None
    assert [str(one.address) for one in mail.envelope.recipients] == ["more@example.net"]
    assert mail.priority is Priority.CRITICAL
    assert mail.annotations["tag"] == "yes"
    kept = json.loads(mail.annotations["plugins"])["changing"]
    assert (kept["changes"], kept["score"]) == (9, 2.5)


async def test_a_large_mail_is_read_and_changed_on_disk(autojump_clock: object) -> None:
    body = b"0123456789" * 7 + b"\r\n"
    content = b"Subject: large\r\n\r\n" + body * (3 * INLINE_CONTENT_OCTETS // len(body))

    class Looking(Changing):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            octets = b"".join([piece async for piece in mail.content.chunks()])
            assert octets.endswith(content)
            return Continue([AddHeader("X-Seen", "1")])

    async with serving(Looking) as (world, _):
        assert (await deliver(world.connect(), content)).startswith("250")
        assert world.budget.taken == 0
    (mail,) = world.queue.submitted
    original, changed = world.queue.staged
    assert original.abandoned
    assert (changed.finished, changed.abandoned) == (True, False)
    assert mail.content is None
    written = b"".join(changed.pieces)
    assert written.startswith(b"X-Seen: 1\r\nReceived: ")
    assert written.endswith(content)
    assert mail.ref.size == len(written)


async def test_a_body_is_replaced(autojump_clock: object) -> None:
    class Replacing(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            return Continue([ReplaceBody("gr\u00fcn\r\n".encode())])

    async with serving(Replacing) as (world, _):
        assert (await deliver(world.connect())).startswith("250")
    (mail,) = world.queue.submitted
    assert mail.content is not None
    assert mail.content.endswith(b"X-Old: 2\r\n\r\ngr\xc3\xbcn\r\n")
    assert mail.ref.eight_bit


@pytest.mark.parametrize("stage", ["mail_from", "rcpt_to", "data_headers", "data_complete"])
async def test_quarantine_and_discard_wait_for_the_end(stage: str, autojump_clock: object) -> None:
    fates: list[Verdict] = [Quarantine("odd one"), Discard("unwanted")]

    class Deciding(Plugin):
        pass

    async def hook(self: Plugin, *_: object) -> Verdict:
        return fates[0]

    setattr(Deciding, f"on_{stage}", hook)
    async with serving(Deciding) as (world, _):
        client = world.connect()
        assert (await deliver(client)).startswith("250")
        (mail,) = world.queue.submitted
        assert mail.held == "odd one"
        fates.pop(0)
        await client.say("MAIL FROM:<s@example.org>")
        await client.say("RCPT TO:<r@example.net>")
        assert (await client.send(MAIL)).startswith("250")
        assert len(world.queue.submitted) == 1
        assert world.budget.taken == 0
    assert world.events("mail.accepted")[1]["fate"] == "discard: unwanted"


@pytest.mark.parametrize("verdict", [Continue, partial(Quarantine, "odd")])
async def test_a_mail_without_recipients_left_is_thrown_away(
    autojump_clock: object, verdict: Callable[..., Verdict]
) -> None:
    class Removing(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            return verdict(changes=[RemoveRecipient(one.address) for one in mail.recipients])

    async with serving(Removing) as (world, _):
        assert (await deliver(world.connect())).startswith("250")
        assert not world.queue.submitted
    assert world.events("mail.accepted")[0]["fate"] == "discard: no recipient is left"


async def test_a_failing_plugin_defers_its_mail_alone(autojump_clock: object) -> None:
    class Failing(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            if "bad" in mail.headers.text("Subject"):
                raise RuntimeError("no")
            return CONTINUE

    async with serving(Failing, on_error=OnError.DEFER) as (world, bench):
        assert (await deliver(world.connect(), b"Subject: bad\r\n\r\n")).startswith("451 4.3.0 a filter")
        assert (await deliver(world.connect())).startswith("250")
    assert len(bench.events("plugin.failed")) == 1


async def test_who_delayed_a_mail_stands_in_its_log_line(autojump_clock: object) -> None:
    class Slow(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            await trio.sleep(2.5)
            return CONTINUE

    async with serving(Slow) as (world, _):
        await deliver(world.connect())
    (told,) = world.events("mail.accepted")
    assert told["slow_plugins"] == {"slow": 2.5}


async def test_tasks_of_a_mail_end_with_it_and_are_bounded(autojump_clock: object) -> None:
    ended: list[str] = []

    class Spawning(Plugin):
        async def on_mail_from(self, mail: Mail) -> Verdict:
            async def linger() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    ended.append("one")

            for _ in range(20):
                mail.start_soon(linger)
            with pytest.raises(RuntimeError, match="20 tasks already"):
                mail.start_soon(linger)
            return CONTINUE

    async with serving(Spawning) as (world, _):
        assert (await deliver(world.connect())).startswith("250")
        await trio.testing.wait_all_tasks_blocked()
        assert len(ended) == 20


async def test_a_plugin_may_be_slower_than_the_clients_patience(autojump_clock: object) -> None:
    """Each call has a deadline of its own; the client's command timeout does not end it."""

    class Slow(Plugin):
        async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
            await trio.sleep(9)
            return CONTINUE

    from elemta.config.sections import TimeoutsSection

    async with chain_of(Slow) as bench:
        world = World(plugins=Plugins(bench.chain, bench.keeper), timeouts=TimeoutsSection(command_timeout=2))
        async with trio.open_nursery() as nursery:
            await nursery.start(world.service.run)
            assert (await deliver(world.connect())).startswith("250")
            nursery.cancel_scope.cancel()


async def test_a_route_is_chosen_by_name(autojump_clock: object) -> None:
    class Archiving(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            return Continue([SetRoute("archive")])

    async with serving(Archiving) as (world, _):
        assert (await deliver(world.connect())).startswith("250")
    (mail,) = world.queue.submitted
    assert (mail.route, mail.annotations["route"]) == ("archive", "archive")


async def test_a_plugin_sees_how_often_a_client_was_refused_for_good(autojump_clock: object) -> None:
    seen: list[int] = []

    class Counting(Plugin):
        async def on_mail_from(self, mail: Mail) -> Verdict:
            seen.append(mail.session.refusals)
            return Defer() if len(seen) == 2 else CONTINUE

    async with serving(Counting) as (world, _):
        client = world.connect("192.0.2.1")
        await client.begin("nobody@example.com")
        await client.say("RCPT TO:<r@elsewhere.example>")
        await client.say("RSET")
        await client.say("MAIL FROM:<s@example.org>")
        await client.say("MAIL FROM:<s@example.org>")
    assert seen == [0, 2, 2]


async def test_who_delayed_a_mail_that_was_refused_stands_in_its_sessions_log_line(autojump_clock: object) -> None:
    class Slow(Plugin):
        async def on_helo(self, session: Session) -> Verdict:
            await trio.sleep(1)
            return CONTINUE

        async def on_data_complete(self, mail: Mail) -> Verdict:
            await trio.sleep(2)
            return Reject() if "bad" in mail.headers.text("Subject") else CONTINUE

    async with serving(Slow) as (world, _):
        client = world.connect()
        await deliver(client, b"Subject: bad\r\n\r\n")
        await client.say("MAIL FROM:<s@example.org>")
        await client.say("RCPT TO:<r@example.net>")
        await client.send(MAIL)
        await client.say("QUIT")
        await trio.testing.wait_all_tasks_blocked()
    (taken,) = world.events("mail.accepted")
    assert taken["slow_plugins"] == {"slow": 3.0}, "its session's part and its own"
    (ended,) = world.events("session.ended")
    assert ended["slow_plugins"] == {"slow": 3.0}, "its own part and the refused mail's"


async def test_nothing_of_a_session_waits_for_the_garbage_collector(autojump_clock: object) -> None:
    """Objects that know each other would: a server under load would collect all the time."""

    class Looking(Plugin):
        async def on_connect(self, session: Session) -> Verdict:
            return CONTINUE

        async def on_data_complete(self, mail: Mail) -> Verdict:
            return Continue([AddHeader("X-Seen", str(mail.content.size))])

    async with serving(Looking) as (world, _):
        for round_ in range(3):
            client = world.connect()
            await deliver(client)
            await client.say("MAIL FROM:<s@example.org>")
            await client.say("QUIT")
            await trio.testing.wait_all_tasks_blocked()
            world.queue.submitted.clear()
            world.capture.entries.clear()
            if round_ == 0:
                gc.collect()
                gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            ours = [type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("elemta.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert ours == []
