"""The inbox's transport: one entry a mail with its envelope, and what a failing store means."""

import errno
import io

import pytest

from elemta.delivery.base import AttemptStopped
from elemta.delivery.inbox import InboxStore, InboxTransport
from elemta.mail.inbox import InboxEntry
from elemta.mail.outcome import Deferred, Delivered
from elemta.observe.log import make_logger
from elemta.storage.inbox import MemoryInbox, Readable
from tests.delivery.jobs import Attempt, attempt

NOW = 1_700_000_000.5
CONTENT = (
    b"From: a@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?q?_an_alle?=\r\n\r\nHello\xff\r\n.\r\n"
)


class StoppedClock:
    """Always the same time."""

    def wall(self) -> float:
        return NOW


class FailingInbox(MemoryInbox):
    """Keeps nothing, for a reason."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    async def add(self, entry: InboxEntry, content: Readable) -> None:
        raise OSError(self.number, "the disk says so")


async def catch(store: InboxStore, tried: Attempt) -> tuple[list[object], str]:
    log = io.StringIO()
    transport = InboxTransport(store, StoppedClock(), log=make_logger("info", "console", log))
    return list(await transport.deliver(tried.job)), log.getvalue()


async def test_a_mail_for_several_is_one_entry_with_its_octets_as_they_are() -> None:
    store = MemoryInbox()
    tried = attempt("a@example.com", "B@example.com", content=CONTENT)
    outcomes, log = await catch(store, tried)
    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered]
    (entry,) = await store.list(10)
    assert entry == InboxEntry(
        id=tried.job.id,
        reverse_path="sender@example.org",
        forward_paths=("a@example.com", "B@example.com"),
        subject="Grüße an alle",
        size=len(CONTENT),
        received_at=NOW,
    )
    assert await store.raw(entry.id) == CONTENT
    assert tried.gate.asked == 1
    assert len(log.splitlines()) == 1
    assert "Grüße an alle" in log


async def test_a_second_delivery_is_no_second_entry() -> None:
    store = MemoryInbox()
    for _ in range(2):
        await catch(store, attempt("a@example.com", content=CONTENT))
    assert await store.count() == 1


@pytest.mark.parametrize(
    ("content", "subject"),
    [
        (b"", ""),
        (b"\r\nSubject: in the body\r\n", ""),
        (b"subject: no body", "no body"),
        (b"Subject: a\x1b[31mred\x07\r\n\r\n", "a [31mred"),
    ],
)
async def test_subjects(content: bytes, subject: str) -> None:
    store = MemoryInbox()
    await catch(store, attempt("a@example.com", content=content, sender=""))
    entry = await store.newest()
    assert entry is not None
    assert entry.subject.strip() == subject
    assert entry.reverse_path == ""


async def test_a_closed_gate_keeps_nothing() -> None:
    store = MemoryInbox()
    with pytest.raises(AttemptStopped):
        await catch(store, attempt("a@example.com", content=CONTENT, opens=False))
    assert await store.count() == 0


@pytest.mark.parametrize(("number", "code", "enhanced"), [(errno.ENOSPC, 452, "4.3.1"), (errno.EIO, 451, "4.3.0")])
async def test_a_store_that_fails_defers(number: int, code: int, enhanced: str) -> None:
    outcomes, log = await catch(FailingInbox(number), attempt("a@example.com", "b@example.com", content=CONTENT))
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert isinstance(outcome, Deferred)
        assert (outcome.reply.code, outcome.reply.enhanced, outcome.uncertain) == (code, enhanced, False)
    assert "the disk says so" in log


async def test_no_log_is_needed() -> None:
    for store in (MemoryInbox(), FailingInbox(errno.EIO)):
        assert len(await InboxTransport(store, StoppedClock()).deliver(attempt("a@example.com").job)) == 1
