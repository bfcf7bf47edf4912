"""Every change that a plugin may ask for, and its refusal."""

import re
import time
from collections.abc import Callable
from itertools import repeat
from math import inf
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from elemta.mail.address import Address
from elemta.mail.envelope import Priority, Recipient
from elemta.mail.headers import MAX_HEADER_OCTETS
from elemta.plugins.mail import MAX_ANNOTATIONS, MAX_RECIPIENTS, MailInHand, SessionFacts
from elemta.plugins.verdicts import (
    COSTS_KEY,
    MAX_BODY_OCTETS,
    MAX_KEY_CHARACTERS,
    MAX_LINE_OCTETS,
    MAX_TEXT_CHARACTERS,
    MAX_VALUE_CHARACTERS,
    ROUTE_KEY,
    AddHeader,
    AddRecipient,
    Annotate,
    Change,
    Continue,
    Defer,
    Discard,
    Quarantine,
    Reject,
    RemoveHeader,
    RemoveRecipient,
    ReplaceBody,
    ReplaceHeader,
    SetPriority,
    SetRoute,
    SetSender,
)
from elemta.smtp.grammar import parse_address
from tests.plugins.fakes import SESSION, a_mail

HEADER = b"Received: by mx.example.com\r\nSubject: hello\r\nX-Old: 1\r\n"
CONTENT = HEADER + b"\r\nbody\r\n"
#: What ends a line, steers a terminal, turns a text around, or is no text at all.
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
JO, MAX, EVA = Address("jo", "example.org"), Address("max", "example.com"), Address("eva", "example.com")


def brought(content: bytes = CONTENT, **options: Any) -> MailInHand:
    """A mail of which everything is there, to Max and Eva."""
    mail = a_mail(routes=frozenset({"backup"}), **options)
    for address in (MAX, EVA):
        mail.add_recipient(Recipient(address))
    end = content.index(b"\r\n\r\n") + 2

    async def read(offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return content[offset : offset + limit]

    mail.header_came(content[:end])
    mail.content_came(read, header_octets=end, size=len(content))
    return mail


async def octets_of(mail: MailInHand) -> bytes:
    octets = b"".join([piece async for piece in mail.content.chunks()])
    assert len(octets) == mail.content.size
    assert octets[mail.content.header_octets :][:2] == b"\r\n"
    return octets


def state(mail: MailInHand) -> tuple[Any, ...]:
    """All that a change can change."""
    return (
        mail.headers.render(),
        mail.content.size,
        mail.sender,
        mail.recipients,
        mail.priority,
        mail.route,
        mail.annotations,
        mail.is_changed,
        mail.is_readdressed,
    )


# ---- changes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "content"),
    [
        (AddHeader("X-New", b"1"), b"X-New: 1\r\n" + CONTENT),
        (AddHeader("X-New", b"1", at=1), CONTENT.replace(b"Subject", b"X-New: 1\r\nSubject")),
        (AddHeader("X-New", b"1", at=None), CONTENT.replace(b"X-Old: 1\r\n", b"X-Old: 1\r\nX-New: 1\r\n")),
        (ReplaceHeader("subject", b"bye"), CONTENT.replace(b"Subject: hello", b"subject: bye")),
        (ReplaceHeader("X-New", b"1"), CONTENT.replace(b"X-Old: 1\r\n", b"X-Old: 1\r\nX-New: 1\r\n")),
        (RemoveHeader("x-old"), CONTENT.replace(b"X-Old: 1\r\n", b"")),
        (RemoveHeader("X-Other"), CONTENT),
        (ReplaceBody(b"other\r\n"), HEADER + b"\r\nother\r\n"),
        (ReplaceBody(b""), HEADER + b"\r\n"),
    ],
)
async def test_changes_of_the_content(change: Change, content: bytes) -> None:
    mail = brought()
    assert await octets_of(mail) == CONTENT
    mail.apply([change])
    assert await octets_of(mail) == content
    assert (mail.is_changed, mail.is_readdressed) == (True, False)
    assert await mail.content.read(3, 5) == content[3:8]
    assert await mail.content.read(len(content), 5) == b""


@pytest.mark.parametrize(
    ("change", "sender", "recipients"),
    [
        (SetSender(None), None, (MAX, EVA)),
        (SetSender(EVA), EVA, (MAX, EVA)),
        (AddRecipient(Recipient(JO)), JO, (MAX, EVA, JO)),
        (AddRecipient(Recipient(EVA)), JO, (MAX, EVA)),
        (RemoveRecipient(MAX), JO, (EVA,)),
        (RemoveRecipient(JO), JO, (MAX, EVA)),
    ],
)
def test_changes_of_the_envelope(change: Change, sender: Address | None, recipients: tuple[Address, ...]) -> None:
    mail = MailInHand("q1", SESSION, JO)
    for address in (MAX, EVA):
        mail.add_recipient(Recipient(address))
    mail.apply([change])
    assert mail.sender == sender
    assert tuple(one.address for one in mail.recipients) == recipients
    assert (mail.is_changed, mail.is_readdressed) == (False, True)


def test_recipients_that_come_between_changes_keep_their_order_and_their_twins() -> None:
    mail = MailInHand("q1", SESSION, JO)
    first, again = Recipient(MAX, original="rfc822;one@example.com"), Recipient(MAX)
    mail.add_recipient(first)
    mail.apply([AddRecipient(Recipient(EVA))])
    mail.add_recipient(again)
    mail.add_recipient(Recipient(JO))
    assert list(mail.recipients) == [first, again, Recipient(EVA), Recipient(JO)]
    mail.apply([RemoveRecipient(MAX)])
    assert list(mail.recipients) == [Recipient(EVA), Recipient(JO)]


def test_changes_of_many_recipients_take_time_by_their_number_alone() -> None:
    def seconds(count: int) -> float:
        addresses = [Address(f"r{number}", "example.net") for number in range(count)]
        best = inf
        for _ in range(3):
            mail = MailInHand("q1", SESSION, JO)
            begin = time.thread_time()
            mail.apply([AddRecipient(Recipient(address)) for address in addresses])
            mail.apply([RemoveRecipient(address) for address in reversed(addresses)])
            best = min(best, time.thread_time() - begin)
            assert not mail.recipients
        return best

    assert seconds(MAX_RECIPIENTS) < 40 * seconds(MAX_RECIPIENTS // 10), "ten times as long, not a hundred times"


def test_changes_beside_the_mail() -> None:
    mail = brought()
    mail.apply([SetPriority(Priority.LOW), SetRoute("backup"), Annotate("tag", "one\r\ntwo\x1b"), Annotate("n", "1")])
    mail.apply([SetPriority(Priority.HIGH), Annotate("tag", "three")])
    assert (mail.priority, mail.route) == (Priority.HIGH, "backup")
    assert mail.annotations == {"tag": "three", "n": "1"}
    assert not mail.is_changed
    assert not mail.is_readdressed


def test_what_plugins_are_given_is_read_only() -> None:
    mail = brought()
    mail.annotations["tag"] = "1"
    assert mail.annotations == {}
    for name in ("sender", "recipients", "headers", "content", "priority", "score", "session", "id"):
        with pytest.raises(AttributeError):
            setattr(mail, name, None)
    with pytest.raises(AttributeError):
        setattr(mail.session, "user", "root")  # noqa: B010  # mypy knows better
    mail.notes["mine"] = mail.session.notes["mine"] = 1
    assert SessionFacts("s", SESSION.client, SESSION.local, "smtp").notes == {}
    del SESSION.notes["mine"]


# ---- refusals ------------------------------------------------------------------------------------


def filled(count: int) -> MailInHand:
    mail = brought()
    mail.apply([Annotate(f"k{number}", "1") for number in range(count)])
    return mail


def crowded() -> MailInHand:
    mail = brought()
    for number in range(MAX_RECIPIENTS - 2):
        mail.add_recipient(Recipient(Address(f"u{number}", "example.com")))
    return mail


@pytest.mark.parametrize(
    ("make", "change", "says"),
    [
        (brought, SetRoute("nowhere"), "no route named 'nowhere'"),
        (brought, SetPriority(99), "99 is not a valid Priority"),  # type: ignore[arg-type]  # what is tried
        (brought, "reject", "is no change"),
        (brought, Continue(), "is no change"),
        (a_mail, ReplaceBody(b""), "there is no body yet"),
        (lambda: filled(MAX_ANNOTATIONS), Annotate("more", "1"), "50 annotations already"),
        (crowded, AddRecipient(Recipient(JO)), "2000 recipients already"),
        (lambda: brought(b"A: %s\r\n\r\n" % (b"x" * (MAX_HEADER_OCTETS - 10))), AddHeader("B", b"12345"), "octets"),
        (brought, ReplaceBody(b"x\r\n" * (MAX_BODY_OCTETS // 3 + 1)), "in all"),
    ],
)
def test_a_change_that_cannot_be_is_refused_with_all_beside_it(
    make: Callable[[], MailInHand], change: Any, says: str
) -> None:
    mail = make()
    before = state(mail)
    beside: list[Change] = [
        AddHeader("X-Beside", b"1"),
        SetSender(EVA),
        RemoveRecipient(MAX),
        SetPriority(Priority.HIGH),
    ]
    with pytest.raises(ValueError, match=says):
        mail.apply([*beside, Annotate("k1", "2"), change] if make is not crowded else [AddHeader("X", b""), change])
    assert state(mail) == before


def test_bodies_are_bounded_in_all_and_refused_ones_do_not_count() -> None:
    mail = brought()
    half = ReplaceBody(b"x\r\n" * (MAX_BODY_OCTETS // 6))
    for _ in range(5):
        with pytest.raises(ValueError, match="nowhere"):
            mail.apply([half, SetRoute("nowhere")])
    mail.apply([half])
    mail.apply([half])
    with pytest.raises(ValueError, match="in all"):
        mail.apply([half])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReplaceBody(b"a\nb"),
        lambda: ReplaceBody(b"a\rb"),
        lambda: ReplaceBody(b"a\n\rb"),
        lambda: ReplaceBody(b"a\r\n\nb"),
        lambda: ReplaceBody(b"a\r\r\nb"),
        lambda: ReplaceBody(b"x" * (MAX_LINE_OCTETS + 1)),
        lambda: ReplaceBody(b"a\r\n" + b"x" * (MAX_LINE_OCTETS + 1)),
        lambda: ReplaceBody(b"a\r\n" + b"x" * (MAX_LINE_OCTETS + 1) + b"\r\nb"),
        lambda: SetSender("jo@example.org"),
        lambda: SetSender(Address("a\r\nRCPT TO:<x", "example.com")),
        lambda: SetSender(Address("jo", "example.com> SIZE=1")),
        lambda: SetSender(Address("jo", "Example.COM")),
        lambda: SetSender(Address("jo", "")),
        lambda: SetSender(Address("x" * 300, "example.com")),
        lambda: AddRecipient(MAX),
        lambda: AddRecipient(Recipient("max@example.com")),  # type: ignore[arg-type]
        lambda: AddRecipient(Recipient(Address("a\0b", "example.com"))),
        lambda: RemoveRecipient("max@example.com"),
        lambda: Annotate("", "1"),
        lambda: Annotate("a b", "1"),
        lambda: Annotate("a\n", "1"),
        lambda: Annotate("x" * (MAX_KEY_CHARACTERS + 1), "1"),
        lambda: Annotate(COSTS_KEY, "{}"),
        lambda: Annotate(ROUTE_KEY, "backup"),
        lambda: Continue(score=float("nan")),
        lambda: Continue(score=float("inf")),
        lambda: Reject("no", 450),
        lambda: Reject("no", 550, "4.7.1"),
        lambda: Reject("no", 550, "5.7.1\r\n250 ok"),
        lambda: Defer("no", 550),
        lambda: Defer("no", 451, "5.0.0"),
        lambda: Reject("no", 5500),
        lambda: Continue(repeat(RemoveHeader("X-A"))),
        lambda: Quarantine("odd", repeat(RemoveHeader("X-A"))),
    ],
)
def test_what_makes_no_sense_is_refused_as_it_is_made(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()


def test_a_large_body_is_checked_while_others_wait_for_a_moment() -> None:
    """Who sends a mail chooses its lines; a check that begins anew at each octet takes 60 seconds for these."""
    body = (b"x" * MAX_LINE_OCTETS + b"\r\n") * (MAX_BODY_OCTETS // (MAX_LINE_OCTETS + 2))
    began = time.process_time()
    assert ReplaceBody(body).octets == body
    assert time.process_time() - began < 5


@pytest.mark.parametrize("verdict", [Reject, Defer, Discard, Quarantine])
@given(text=st.text(max_size=30) | st.sampled_from(["a\r\n250 ok", "x" * 10_000, "\u202e", "\ud800"]))
def test_texts_stay_on_one_short_line(verdict: Callable[[str], Any], text: str) -> None:
    made = verdict(text)
    said = made.text if isinstance(made, Reject | Defer) else made.reason
    assert not STEERING.search(said)
    assert len(said) <= MAX_TEXT_CHARACTERS
    assert not STEERING.search(Annotate("key", text).value)
    assert len(Annotate("key", text).value) <= MAX_VALUE_CHARACTERS


@given(
    st.text(max_size=12), st.sampled_from(["example.com", "xn--mller-kva.example", "[192.0.2.1]", "a b", "", "é.de"])
)
def test_an_address_is_one_that_a_client_could_say(local: str, domain: str) -> None:
    address = Address(local, domain)
    try:
        change = SetSender(address)
    except ValueError:
        return
    assert change.address is not None
    assert parse_address(str(change.address)) == address


# ---- tasks ---------------------------------------------------------------------------------------


def test_a_mail_without_a_server_has_no_tasks() -> None:
    with pytest.raises(RuntimeError, match="no tasks"):
        a_mail().start_soon(trio.sleep, 1)
