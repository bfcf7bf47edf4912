"""What a milter asks for at the end of a mail, made on a mail by the server's own hands."""

import sys
from types import FrameType

import pytest

from elemta.mail.address import Address
from elemta.mail.envelope import Notify, Recipient
from elemta.plugins.milter import events
from elemta.plugins.milter.body import OtherBody
from elemta.plugins.milter.changes import Asked, Header, own_received, translate
from elemta.plugins.milter.events import HeaderAdded, HeaderChanged, HeaderInserted, Modification
from elemta.plugins.milter.wire import MilterProtocolError
from elemta.plugins.verdicts import MAX_BODY_OCTETS, RemoveHeader
from elemta.runtime.budget import ByteBudget
from tests.plugins.milter_world import EVA, JO, MAX, complete, mail, recipient, session

CONTENT = b"A: 1\r\nB: 2\r\nA: 3\r\nReceived: theirs\r\nA: 4\r\n\r\nbody\r\n"


def after(*modifications: Modification, content: bytes = CONTENT) -> list[str]:
    """The header that the changes leave, our own field as "own"."""
    one = complete(mail(session()), content)
    fields = one.headers.fields
    header = Header([name for name, _ in fields], own_received(fields, one.id))
    one.apply(translate(Asked(modifications), header).changes)
    return [
        "own" if one.id.encode() in value else f"{name}:{value.decode()}".replace(": ", ":", 1)
        for name, value in one.headers.fields
    ]


def test_our_own_field_is_known_by_the_mails_id() -> None:
    fields = complete(mail(session()), CONTENT).headers.fields
    assert own_received(fields, "0123456789abcdefghijkl") == 0
    assert own_received(fields, "another") is None
    assert own_received(fields[1:], "0123456789abcdefghijkl") is None
    assert own_received([("X", b"y"), *fields], "0123456789abcdefghijkl") == 1


@pytest.mark.parametrize(
    ("at", "header"),
    [
        (0, "X:y own A:1 B:2 A:3 Received:theirs A:4"),
        (1, "own X:y A:1 B:2 A:3 Received:theirs A:4"),
        (2, "own A:1 X:y B:2 A:3 Received:theirs A:4"),
        (6, "own A:1 B:2 A:3 Received:theirs A:4 X:y"),
        (99, "own A:1 B:2 A:3 Received:theirs A:4 X:y"),
        (2**32 - 1, "own A:1 B:2 A:3 Received:theirs A:4 X:y"),
    ],
)
def test_a_position_counts_our_own_field(at: int, header: str) -> None:
    assert after(HeaderInserted(at, "X", b"y")) == header.split()


@pytest.mark.parametrize(
    ("changes", "header"),
    [
        ([HeaderAdded("X", b"y")], "own A:1 B:2 A:3 Received:theirs A:4 X:y"),
        ([HeaderChanged(2, "a", b"9")], "own A:1 B:2 a:9 Received:theirs A:4"),
        ([HeaderChanged(4, "A", b"9")], "own A:1 B:2 A:3 Received:theirs A:4 A:9"),
        ([HeaderChanged(1, "X", b"9")], "own A:1 B:2 A:3 Received:theirs A:4 X:9"),
        ([HeaderChanged(2, "A", None)], "own A:1 B:2 Received:theirs A:4"),
        ([HeaderChanged(9, "A", None)], "own A:1 B:2 A:3 Received:theirs A:4"),
        # Our own field has no number: the client's is the first.
        ([HeaderChanged(1, "Received", None)], "own A:1 B:2 A:3 A:4"),
        ([HeaderChanged(1, "Received", b"changed")], "own A:1 B:2 A:3 Received:changed A:4"),
        # What was removed still counts.
        ([HeaderChanged(1, "A", None), HeaderChanged(3, "A", None)], "own B:2 A:3 Received:theirs"),
        ([HeaderChanged(1, "A", None), HeaderChanged(2, "A", b"9")], "own B:2 A:9 Received:theirs A:4"),
        ([HeaderChanged(1, "A", None), HeaderChanged(1, "A", None)], "own B:2 A:3 Received:theirs A:4"),
        ([HeaderChanged(1, "A", None), HeaderInserted(2, "X", b"y")], "own X:y B:2 A:3 Received:theirs A:4"),
        ([HeaderChanged(2, "A", None), HeaderChanged(2, "A", b"9")], "own A:1 B:2 A:9 Received:theirs A:4"),
        (
            [*(HeaderChanged(1, "A", value) for value in (None, b"9", None)), HeaderChanged(2, "A", None)],
            "own B:2 Received:theirs A:4",
        ),
        # What was added counts at once.
        ([HeaderInserted(1, "A", b"0"), HeaderChanged(1, "A", None)], "own A:1 B:2 A:3 Received:theirs A:4"),
        ([HeaderAdded("A", b"5"), HeaderChanged(4, "A", b"6")], "own A:1 B:2 A:3 Received:theirs A:4 A:6"),
        ([HeaderChanged(4, "A", b"5"), HeaderChanged(4, "A", None)], "own A:1 B:2 A:3 Received:theirs A:4"),
        ([HeaderInserted(1, "X", b"1"), HeaderInserted(1, "X", b"0")], "own X:0 X:1 A:1 B:2 A:3 Received:theirs A:4"),
    ],
)
def test_fields_are_counted_as_sendmail_counts_them(changes: list[Modification], header: str) -> None:
    assert after(*changes) == header.split()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"y", b" y"),
        (b" y", b" y"),
        (b"a\n\tb", b" a\r\n\tb"),
        (b"a\r\n b\n", b" a\r\n b"),
        (b"a\nBcc: you@example.com", b" a\r\n\tBcc: you@example.com"),
        (b"a\n\nb", b" a\r\n\t\r\n\tb"),
        (b"", b" "),
    ],
)
def test_a_value_becomes_one_field_whatever_is_in_it(value: bytes, written: bytes) -> None:
    one = complete(mail(session()), b"A: 1\r\n\r\n")
    one.apply(translate(Asked([HeaderAdded("X", value)]), Header(["Received", "A"], 0)).changes)
    assert one.headers.fields[2:] == [("X", written)]


def test_each_of_many_fields_is_found_among_those_of_its_name() -> None:
    """A mail may bring two thousand fields that a filter takes away one by one: OpenDKIM does, with forged ones."""
    fields, calls = 500, 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    asked = Asked([HeaderChanged(number, "A", None) for number in range(1, fields + 1)])
    header = Header(["Received", *["A"] * fields], 0)
    sys.setprofile(count)
    try:
        translated = translate(asked, header)
    finally:
        sys.setprofile(None)
    assert set(translated.changes) == {RemoveHeader("A", 1)}
    assert calls < 50 * fields, "no more for each where there are many"


BODIES = (
    (b"a\r\nb\nc", b"a\r\nb\r\nc\r\n"),
    (b"", b""),
    (b"a\r\n", b"a\r\n"),
    (b"\n", b"\r\n"),
    (b"\r\n\n", b"\r\n\r\n"),
)


@pytest.mark.parametrize(("given", "written"), BODIES)
async def test_a_body_is_replaced_with_line_ends_of_mail(given: bytes, written: bytes) -> None:
    for step in range(1, len(given) + 2):
        body = OtherBody(ByteBudget(100))
        body.add(b"")
        for start in range(0, len(given), step):
            body.add(given[start : start + step])
        one = complete(mail(session()), CONTENT)
        one.apply(translate(Asked(body=body.whole()), Header(["Received"], 0)).changes)
        assert await one.content.read(one.content.header_octets + 2, 100) == written


def test_a_cr_alone_stays_what_it_is() -> None:
    for pieces in ((b"a\r",), (b"a\r", b"b"), (b"a", b"\r", b"\r", b"\n")):
        body = OtherBody(ByteBudget(100))
        for piece in pieces:
            body.add(piece)
        with pytest.raises(MilterProtocolError, match="a change that cannot be made"):
            translate(Asked(body=body.whole()), Header(["Received"], 0))


@pytest.mark.parametrize("piece", [b"\n" * 65535, b"x\r\n" * 20_000])
def test_no_more_of_a_body_is_held_than_a_mail_may_have(piece: bytes) -> None:
    room = ByteBudget(2 * MAX_BODY_OCTETS)
    body = OtherBody(room)
    with pytest.raises(MilterProtocolError, match=f"another body of more than {MAX_BODY_OCTETS} octets"):  # noqa: PT012
        for _ in range(MAX_BODY_OCTETS // len(piece) + 1):
            body.add(piece)
    whole = body.whole()
    assert whole is not None
    assert len(whole) <= MAX_BODY_OCTETS
    body.release()
    assert room.taken == 0


def test_the_envelope_is_changed() -> None:
    one = mail(session())
    one.add_recipient(recipient(MAX))
    asked = Asked(
        [
            events.SenderChanged("<new@example.net>"),
            events.RecipientAdded("<eva@example.com>", "NOTIFY=SUCCESS ORCPT=rfc822;e+2Bva@example.com"),
            events.RecipientAdded("jo@example.org"),
            events.RecipientRemoved("<Max@example.com>"),
            events.RecipientRemoved("<max@EXAMPLE.com>"),
        ]
    )
    one.apply(translate(asked, Header([])).changes)
    assert one.sender == Address("new", "example.net")
    assert one.recipients == (Recipient(EVA, Notify.SUCCESS, "rfc822;e+va@example.com"), Recipient(JO))
    one.apply(translate(Asked([events.SenderChanged("<>")]), Header([])).changes)
    assert one.sender is None


def test_a_quarantine_keeps_its_reason_beside_the_changes() -> None:
    translated = translate(Asked([events.Quarantined("odd"), HeaderAdded("X", b"y")]), Header([]))
    assert translated.quarantine == "odd"
    assert len(translated.changes) == 1
    assert translate(Asked(), Header([])).quarantine is None


@pytest.mark.parametrize(
    "asked",
    [
        Asked([HeaderAdded("no name", b"x")]),
        Asked([HeaderAdded("", b"x")]),
        Asked([HeaderAdded("X\udc80", b"x")]),
        Asked([HeaderAdded("X", b"a\rb")]),
        Asked([HeaderInserted(0, "X", b"x" * 999)]),
        Asked([HeaderChanged(1, "A:", b"x")]),
        Asked([HeaderChanged(7, "A:", b"x")]),
        Asked([events.RecipientAdded("<>")]),
        Asked([events.RecipientAdded("<jo>")]),
        Asked([events.RecipientAdded("<jo@example.org>", "NOTIFY=SOMETIMES")]),
        Asked([events.RecipientRemoved("<a b@example.org>")]),
        Asked([events.SenderChanged("<jo@exa\udc80mple.org>")]),
        Asked(body=b"x" * 999),
    ],
)
def test_what_no_mail_could_bear_is_the_milters_fault(asked: Asked) -> None:
    with pytest.raises(MilterProtocolError, match="a change that cannot be made"):
        translate(asked, Header(["Received", "A:"], 0))
