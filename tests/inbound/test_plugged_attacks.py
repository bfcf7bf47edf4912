"""Hostile clients, mails and plugins in front of a session that asks plugins."""

from typing import ClassVar

import pytest
import trio

from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.plugins.api import (
    CONTINUE,
    AddHeader,
    AddRecipient,
    Continue,
    Mail,
    OnError,
    Plugin,
    Quarantine,
    Reject,
    ReplaceBody,
    Session,
    SetSender,
    Verdict,
)
from elemta.storage.records import ContentRef
from tests.inbound.test_plugged import MAIL, deliver, serving


class Doing(Plugin):
    """Answers what the test says, or raises it."""

    answer: ClassVar[object] = CONTINUE

    async def on_data_complete(self, mail: Mail) -> Verdict:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]  # rubbish is what is tried


def doing(answer: object) -> type[Plugin]:
    return type("Doing", (Doing,), {"answer": answer})


# ---- what plugins answer -------------------------------------------------------------------------


async def test_a_quarantine_without_a_reason_holds_all_the_same(autojump_clock: object) -> None:
    async with serving(doing(Quarantine(" \r\n"))) as (world, _):
        assert (await deliver(world.connect())).startswith("250")
    (mail,) = world.queue.submitted
    assert mail.held


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


@pytest.mark.parametrize("answer", [Unspeakable(), type("Odd", (), {"__repr__": Unspeakable.__str__})()])
async def test_what_cannot_be_put_in_words_is_a_plugins_failure(answer: object, autojump_clock: object) -> None:
    async with serving(doing(answer), on_error=OnError.DEFER) as (world, bench):
        client = world.connect()
        assert (await deliver(client)).startswith("451 4.3.0 a filter")
        assert (await client.say("NOOP")).startswith("250")
    assert len(bench.events("plugin.failed")) == 1


@pytest.mark.parametrize("text", ["gr\u00f6\u00dfe" * 200, "x" * 5000, "a\r\n250 ok", "\x1b[2J", "\udcff"])
async def test_replies_are_one_short_line_of_ascii(text: str, autojump_clock: object) -> None:
    async with serving(doing(Reject(text))) as (world, _):
        client = world.connect()
        await client.begin()
        await client.say("DATA")
        await client.stream.send_all(MAIL + b".\r\n")
        heard = bytes(await client.stream.receive_some())
    assert heard.isascii()
    assert heard.startswith(b"550 5.7.1 ")
    assert heard.count(b"\r\n") == 1
    assert len(heard) <= 512


EVIL = [
    Address("x>\r\nRCPT TO:<evil", "example.net"),
    Address("x", "example.net>\r\nDATA"),
    Address("x", "example.net> SIZE=1"),
    Address("x\0", "example.net"),
    Address("x", "EXAMPLE.net"),
    Address("x" * 300, "example.net"),
    "x@example.net",
]


@pytest.mark.parametrize("address", EVIL, ids=range(len(EVIL)))
def test_addresses_that_no_client_could_give_are_a_mistake(address: Address) -> None:
    with pytest.raises(ValueError, match="ddress"):
        SetSender(address)
    with pytest.raises(ValueError, match="ddress"):
        AddRecipient(Recipient(address))


@pytest.mark.parametrize("original", ["rfc822;a\r\nb", "rfc822;a b\0", "nothing"])
def test_original_recipients_that_no_client_could_give_are_a_mistake(original: str) -> None:
    with pytest.raises(ValueError, match="no original recipient"):
        AddRecipient(Recipient(Address("x", "example.net"), original=original))


def test_a_body_cannot_be_changed_behind_its_check() -> None:
    octets = bytearray(b"fine\r\n")
    change = ReplaceBody(octets)  # type: ignore[arg-type]  # what is tried
    octets[:] = b"\n.\n"
    assert change.octets == b"fine\r\n"


@pytest.mark.parametrize("stage", ["mail_from", "rcpt_to"])
async def test_a_field_that_is_added_before_there_is_a_header_is_not_lost_in_silence(
    stage: str, autojump_clock: object
) -> None:
    class Early(Plugin):
        pass

    async def hook(self: Plugin, *_: object) -> Verdict:
        return Continue([AddHeader("X-Early", "1")])

    setattr(Early, f"on_{stage}", hook)
    async with serving(Early) as (world, bench):
        await world.connect().begin()
    (failed,) = bench.events("plugin.failed")
    assert failed["error"].startswith("ValueError: there is no header yet")


# ---- what clients do -----------------------------------------------------------------------------


async def test_a_client_that_leaves_before_its_250_leaves_no_tasks(autojump_clock: object) -> None:
    running: set[str] = set()
    told: list[str] = []

    class Spawning(Plugin):
        async def on_mail_from(self, mail: Mail) -> Verdict:
            async def linger() -> None:
                running.add(mail.id)
                try:
                    await trio.sleep_forever()
                finally:
                    running.discard(mail.id)

            mail.start_soon(linger)
            return CONTINUE

        async def on_data_complete(self, mail: Mail) -> Verdict:
            await trio.sleep(1)
            return CONTINUE

        async def on_queued(self, mail: Mail) -> None:
            told.append(mail.id)

    async with serving(Spawning) as (world, _):
        client = world.connect()
        await client.begin()
        await client.say("DATA")
        await client.stream.send_all(MAIL + b".\r\n")
        assert running
        client.stream.send_stream.close()
        client.stream.receive_stream.close()
        await trio.sleep(10)
        assert len(world.queue.submitted) == 1
        assert not running
        assert told == [world.queue.submitted[0].id]


async def test_a_whole_dialogue_in_one_segment_waits_for_each_plugin(autojump_clock: object) -> None:
    order: list[str] = []

    class Slow(Plugin):
        async def on_helo(self, session: Session) -> Verdict:
            await trio.sleep(3)
            order.append("helo")
            return CONTINUE

        async def on_mail_from(self, mail: Mail) -> Verdict:
            await trio.sleep(2)
            order.append("mail")
            return CONTINUE

        async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
            await trio.sleep(1)
            order.append(recipient.address.local)
            return Reject("not you") if recipient.address.local == "no" else CONTINUE

        async def on_data_complete(self, mail: Mail) -> Verdict:
            await trio.sleep(1)
            order.append(f"complete {len(mail.recipients)}")
            return CONTINUE

    async with serving(Slow) as (world, _):
        client = world.connect()
        assert (await client.reply()).startswith("220")
        await client.stream.send_all(b"EHLO c.example\r\n")
        heard = [await client.reply()]
        await client.stream.send_all(
            b"MAIL FROM:<s@example.org>\r\nRCPT TO:<no@example.net>\r\nRCPT TO:<r@example.net>\r\nDATA\r\n"
        )
        heard += [await client.reply() for _ in range(4)]
        await client.stream.send_all(
            MAIL
            + b".\r\nMAIL FROM:<t@example.org>\r\nRCPT TO:<q@example.net>\r\nBDAT 11 LAST\r\nA: b\r\n\r\nx\r\nQUIT\r\n"
        )
        heard += [await client.reply() for _ in range(6)]
    assert [line[:3] for line in heard] == [*["250", "250", "550", "250", "354", "250", "250", "250", "250", "221"], ""]
    assert order == ["helo", "mail", "no", "r", "complete 1", "mail", "q", "complete 1"]
    first, second = world.queue.submitted
    assert [str(one.address) for one in first.envelope.recipients] == ["r@example.net"]
    assert second.content is not None
    assert second.content.endswith(b"A: b\r\n\r\nx\r\n")


async def test_a_store_that_hangs_while_a_mail_is_rewritten_keeps_nobody_for_ever(autojump_clock: object) -> None:
    async with serving(doing(Continue([AddHeader("X", "1")]))) as (world, _):
        stage = world.queue.stage
        hang = False

        async def hanging() -> object:
            if hang:
                await trio.sleep_forever()
            return await stage()

        world.queue.stage = hanging  # type: ignore[method-assign,assignment]  # the disk hangs
        client = world.connect()
        await client.begin()
        await client.say("DATA")
        await client.stream.send_all(b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 20_000)
        await trio.testing.wait_all_tasks_blocked()
        hang = True
        await client.stream.send_all(b".\r\n")
        with trio.fail_after(600):
            assert (await client.reply())[:3] in ("421", "451")
        assert not world.queue.submitted


async def test_failing_mails_do_not_fill_the_log(autojump_clock: object) -> None:
    """One bad mail, one good mail, and so on: the circuit never opens."""

    class Failing(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            if "bad" in mail.headers.text("Subject"):
                raise RuntimeError("no")
            return CONTINUE

    async with serving(Failing, on_error=OnError.ACCEPT) as (world, bench):
        client = world.connect()
        await client.reply()
        await client.say("EHLO c.example")
        for at in range(100):
            await client.say("MAIL FROM:<s@example.org>")
            await client.say("RCPT TO:<r@example.net>")
            await client.send(b"Subject: bad\r\n\r\n" if at % 2 else MAIL)
    assert len(bench.events("plugin.failed")) == 1


async def test_a_mail_may_not_grow_by_bodies_beyond_the_budget(autojump_clock: object) -> None:
    """What plugins put in the place of bodies counts as any octets of mails in memory."""
    most = 0

    waiting = trio.Event()

    class Growing(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            return Continue([ReplaceBody(b"0123456789\r\n" * 40_000)])

    class Waiting(Plugin):
        priority = 0

        async def on_data_complete(self, mail: Mail) -> Verdict:
            nonlocal most
            most = max(most, world.budget.taken)
            await waiting.wait()
            return CONTINUE

    async with serving(Growing, Waiting, on_error=OnError.DEFER) as (world, _):
        heard: list[str] = []

        async def one() -> None:
            heard.append((await deliver(world.connect()))[:3])

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            waiting.set()
        assert sorted(heard) == ["250", "250", "452", "452", "452"]
        assert most > 900_000
        assert world.budget.taken == 0


async def test_what_was_staged_is_thrown_away_where_a_session_is_cut_in_the_middle(autojump_clock: object) -> None:
    async with serving(doing(Continue([AddHeader("X", "1")]))) as (world, _):
        read = world.queue.read

        async def hanging(ref: ContentRef, offset: int, limit: int) -> bytes:
            await trio.sleep_forever()
            return await read(ref, offset, limit)

        world.queue.read = hanging  # type: ignore[method-assign]  # the disk hangs
        client = world.connect()
        await client.begin()
        await client.say("DATA")
        await client.stream.send_all(b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 20_000 + b".\r\n")
        await trio.testing.wait_all_tasks_blocked()
        original, changed = world.queue.staged
        await world.service.drain(1)
        assert (original.abandoned, changed.abandoned) == (True, True)
        assert not world.queue.submitted
