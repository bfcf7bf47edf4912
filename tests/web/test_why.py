"""Why a recipient waits, for each state that a mail can be in."""

from typing import Any

import attrs
import pytest

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.outcome import Attempt, AttemptResult
from elemta.mail.reply import Reply
from elemta.plugins.verdicts import COSTS_KEY
from elemta.queue.plugged import HELD_KEY
from elemta.storage.records import UNTRIED, ContentRef, Progress, QueuedMail, QueueState, RecipientStatus
from elemta.web.why import Code, reasons, summary

NOW = 1_000_000.0
GREYLISTED = Reply(451, "4.7.1", "greylisted")
PLAIN = QueuedMail(
    id="0" * 22,
    origin_id="0" * 22,
    content=ContentRef("0" * 22, 10),
    envelope=Envelope(None, (Recipient(Address("someone", "example.net")),)),
    progress=(UNTRIED,),
    destination="example.net",
    received_at=NOW - 100,
    next_attempt_at=NOW + 50,
    expires_at=NOW + 1000,
    state=QueueState.DEFERRED,
)
TRIED = Attempt(NOW - 60, 10.0, "someone@example.net", AttemptResult.DEFERRED, GREYLISTED)
GIVEN_UP = Progress(RecipientStatus.FAILED, Reply(550, "5.1.1", "no such user"))


@pytest.mark.parametrize(
    ("changes", "running", "code", "text"),
    [
        ({}, True, Code.BACKOFF, "not tried yet"),
        ({"attempts": 1}, True, Code.BACKOFF, "tried once, waits for its next attempt"),
        ({"attempts": 3}, True, Code.BACKOFF, "tried 3 times, waits for its next attempt"),
        ({"next_attempt_at": NOW}, True, Code.DUE, "due: waits for a free delivery"),
        ({"next_attempt_at": NOW}, False, Code.DUE, "due: tried when the server runs"),
        ({"state": QueueState.ACTIVE, "owner": "node"}, True, Code.IN_PROGRESS, "being delivered"),
        (
            {"state": QueueState.ACTIVE, "owner": "node", "attempting_since": NOW},
            True,
            Code.IN_PROGRESS,
            "being delivered: the whole mail is on its way",
        ),
        (
            {"state": QueueState.ACTIVE, "owner": "node", "attempting_since": NOW},
            False,
            Code.DUE,
            "due: its server stopped while it was being delivered; tried again when the server runs",
        ),
        ({"state": QueueState.HELD}, True, Code.HELD, "held by an operator"),
        ({"state": QueueState.HELD, "reason": "odd"}, False, Code.HELD, "held: odd"),
        ({"state": QueueState.FAILED, "progress": (GIVEN_UP,)}, True, Code.FAILED, "given up: 550 5.1.1 no such user"),
    ],
)
def test_each_kind(changes: dict[str, Any], running: bool, code: Code, text: str) -> None:
    mail = attrs.evolve(PLAIN, **changes)
    (reason,) = reasons(mail, (), now=NOW, running=running)
    assert (reason.code, reason.text) == (code, text)
    assert summary(mail, now=NOW, running=running) == text


def test_the_bounds_of_a_wait() -> None:
    mail = attrs.evolve(PLAIN, attempts=1)
    (reason,) = reasons(mail, (TRIED,), now=NOW, running=True)
    assert (reason.since, reason.until, reason.next_attempt, reason.expires) == (
        NOW - 50,
        NOW + 50,
        NOW + 50,
        NOW + 1000,
    )
    assert reason.source == "451 4.7.1 greylisted"
    assert reason.hint == "elemta queue retry " + "0" * 22


def test_what_is_held_has_no_next_attempt() -> None:
    (reason,) = reasons(attrs.evolve(PLAIN, state=QueueState.HELD), (TRIED,), now=NOW, running=True)
    assert (reason.next_attempt, reason.expires, reason.source) == (None, None, "operator")
    assert reason.hint == "elemta queue release " + "0" * 22


@pytest.mark.parametrize(
    ("annotations", "attempts", "holder"),
    [
        ({COSTS_KEY: '{"greedy":{},"careful":{"ms":2.00,"verdict":"quarantine"}}'}, 0, "plugin careful"),
        ({COSTS_KEY: '{"careful":{"verdict":"quarantine"}}'}, 1, "operator"),
        ({HELD_KEY: "odd"}, 0, "a plugin"),
        ({HELD_KEY: "even"}, 0, "operator"),
    ],
)
def test_who_holds_a_mail(annotations: dict[str, str], attempts: int, holder: str) -> None:
    held = attrs.evolve(PLAIN, state=QueueState.HELD, reason="odd", annotations=annotations, attempts=attempts)
    (reason,) = reasons(held, (), now=NOW, running=True)
    assert reason.source == holder


@pytest.mark.parametrize("status", [RecipientStatus.DELIVERED, RecipientStatus.FAILED])
def test_who_is_done_waits_for_nothing(status: RecipientStatus) -> None:
    mail = attrs.evolve(PLAIN, progress=(Progress(status),))
    assert reasons(mail, (), now=NOW, running=True) == []
    assert summary(mail, now=NOW, running=True) == ""
