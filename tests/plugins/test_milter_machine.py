"""The milter machine: dialogues, what is negotiated, what a milter may not do."""

import itertools
import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elemta.plugins.milter import events
from elemta.plugins.milter.events import NEED_DATA, Decision, Event, Negotiated, Progress, ReplyCode
from elemta.plugins.milter.machine import Bounds, Client, MilterConnection, State
from elemta.plugins.milter.wire import (
    MAX_DATA_OCTETS,
    MAX_PACKET_OCTETS,
    Action,
    Family,
    MilterProtocolError,
    PacketBuffer,
    Stage,
    Step,
)
from elemta.smtp.errors import LocalProtocolError
from tests.plugins.milter_world import ALL_ACTIONS, changed, inserted, negotiation, packet

CLIENT = Client("[198.51.100.7]", Family.IPV4, "198.51.100.7", 4711)
CONTINUE = packet("c")


def answered(machine: MilterConnection, *packets: bytes) -> list[Event]:
    """What the machine makes of an answer, until nothing is due any more."""
    machine.receive_data(b"".join(packets))
    found: list[Event] = []
    while machine.awaits:
        event = machine.next_event()
        assert event is not NEED_DATA
        assert not isinstance(event, events.Need)
        found.append(event)
    return found


def negotiated(*, bounds: Bounds | None = None, macros: bytes = b"", **half: int) -> MilterConnection:
    machine = MilterConnection(bounds=bounds)
    machine.negotiate()
    machine.data_to_send()
    answered(machine, negotiation(macros=macros, **half))
    return machine


def at_mail(machine: MilterConnection) -> MilterConnection:
    machine.connect(CLIENT, {})
    answered(machine, CONTINUE)
    machine.mail("<jo@example.org>", (), {})
    answered(machine, CONTINUE)
    machine.data_to_send()
    return machine


def at_body(machine: MilterConnection) -> MilterConnection:
    at_mail(machine).data({})
    answered(machine, CONTINUE)
    machine.end_of_header({})
    answered(machine, CONTINUE)
    machine.data_to_send()
    return machine


def at_end(machine: MilterConnection) -> MilterConnection:
    at_body(machine).end_of_body({})
    machine.data_to_send()
    return machine


# ---- what is sent --------------------------------------------------------------------------------


def test_the_negotiation_offers_all_that_we_can_do() -> None:
    machine = MilterConnection()
    machine.negotiate()
    assert machine.data_to_send() == bytes.fromhex("0000000d 4f 00000006 000001ff 001ff7ff")
    assert machine.awaits


def test_a_session_is_told_packet_by_packet() -> None:
    machine = negotiated()
    machine.connect(CLIENT, {"j": "mail.example.com", "{unknown}": "x", "{daemon_name}": ""})
    assert machine.data_to_send() == packet("D", b"Cj\0mail.example.com\0") + packet(
        "C", b"[198.51.100.7]\x004" + struct.pack(">H", 4711) + b"198.51.100.7\0"
    )
    assert answered(machine, CONTINUE) == [Decision.CONTINUE]
    machine.helo("client", {"{tls_version}": "TLSv1.3", "{cipher}": "X"})
    assert machine.data_to_send() == packet("D", b"H{tls_version}\0TLSv1.3\0{cipher}\0X\0") + packet("H", b"client\0")
    answered(machine, CONTINUE)
    machine.mail("<jo@example.org>", ("SIZE=7",), {"i": "Q"})
    assert machine.data_to_send() == packet("D", b"Mi\0Q\0") + packet("M", b"<jo@example.org>\0SIZE=7\0")
    answered(machine, CONTINUE)
    assert machine.in_mail
    machine.rcpt("<a@b>", (), {"{rcpt_addr}": "a@b"})
    assert machine.data_to_send() == packet("D", b"R{rcpt_addr}\0a@b\0") + packet("R", b"<a@b>\0")
    answered(machine, CONTINUE)
    machine.data({})
    assert machine.data_to_send() == packet("T")
    answered(machine, CONTINUE)
    machine.header("Subject", b" a\r\n\tb")
    assert machine.data_to_send() == packet("L", b"Subject\0a\n\tb\0")
    answered(machine, CONTINUE)
    machine.end_of_header({"i": "Q"})
    assert machine.data_to_send() == packet("D", b"Ni\0Q\0") + packet("N")
    answered(machine, CONTINUE)
    machine.body(b"x" * MAX_DATA_OCTETS)
    assert machine.data_to_send() == packet("B", b"x" * MAX_DATA_OCTETS)
    answered(machine, CONTINUE)
    machine.end_of_body({"i": "Q"})
    assert machine.data_to_send() == packet("D", b"Ei\0Q\0") + packet("E")
    assert answered(machine, packet("p"), packet("a")) == [Progress.PROGRESS, Decision.ACCEPT]
    assert not machine.in_mail
    machine.quit()
    assert machine.data_to_send() == packet("Q")
    assert machine.state is State.CLOSED


@pytest.mark.parametrize(
    ("client", "data"),
    [
        (Client("localhost", Family.UNIX, "/run/x", 0), b"localhost\0L\0\0/run/x\0"),
        (Client("[IPv6:::1]", Family.IPV6, "::1", 25), b"[IPv6:::1]\x006\0\x19::1\0"),
        (Client("localhost", Family.UNKNOWN, "", 0), b"localhost\0U"),
    ],
)
def test_every_kind_of_client_has_its_form(client: Client, data: bytes) -> None:
    machine = negotiated()
    machine.connect(client, {})
    assert machine.data_to_send() == packet("C", data)


def test_a_nul_in_a_mail_cannot_end_a_text() -> None:
    machine = at_mail(negotiated())
    machine.data({})
    answered(machine, CONTINUE)
    machine.data_to_send()
    machine.header("Subject", b" a\0b")
    assert machine.data_to_send() == packet("L", b"Subject\0ab\0")


def test_the_space_behind_the_colon_goes_along_when_asked_for() -> None:
    machine = at_mail(negotiated(steps=Step.LEADING_SPACE))
    machine.data({})
    answered(machine, CONTINUE)
    machine.data_to_send()
    machine.header("Subject", b"  two")
    assert machine.data_to_send() == packet("L", b"Subject\0  two\0")


def test_a_milter_names_the_macros_that_it_wants() -> None:
    lists = struct.pack(">I", Stage.MAIL) + b"i, {auth_authen} mail_addr\0" + struct.pack(">I", Stage.CONNECT) + b"\0"
    machine = negotiated(macros=lists)
    assert machine.negotiated.macros == {Stage.MAIL: ("i", "{auth_authen}", "{mail_addr}"), Stage.CONNECT: ()}
    machine.connect(CLIENT, {"j": "mail.example.com"})
    answered(machine, CONTINUE)
    assert machine.data_to_send()[4:5] == b"C"
    machine.mail("<>", (), {"i": "Q", "{mail_addr}": "a@b", "{mail_mailer}": "smtp"})
    assert machine.data_to_send() == packet("D", b"Mi\0Q\0{mail_addr}\0a@b\0") + packet("M", b"<>\0")


def test_an_abort_ends_the_mail_and_another_may_follow() -> None:
    machine = at_body(negotiated())
    machine.abort()
    assert machine.data_to_send() == packet("A")
    machine.mail("<>", (), {})
    assert machine.data_to_send() == packet("M", b"<>\0")


def test_leaving_within_a_mail_aborts_it_first() -> None:
    machine = at_mail(negotiated())
    machine.quit()
    assert machine.data_to_send() == packet("A") + packet("Q")


# ---- fewer steps ---------------------------------------------------------------------------------

#: Step → the letter of the command, with the call that tells it.
UNWANTED: dict[Step, tuple[str, Callable[[MilterConnection], None]]] = {
    Step.NO_CONNECT: ("C", lambda machine: machine.connect(CLIENT, {})),
    Step.NO_HELO: ("H", lambda machine: machine.helo("x", {})),
    Step.NO_MAIL: ("M", lambda machine: machine.mail("<>", (), {})),
    Step.NO_RCPT: ("R", lambda machine: machine.rcpt("<a@b>", (), {})),
    Step.NO_DATA: ("T", lambda machine: machine.data({})),
    Step.NO_HEADERS: ("L", lambda machine: machine.header("A", b" b")),
    Step.NO_END_OF_HEADER: ("N", lambda machine: machine.end_of_header({})),
    Step.NO_BODY: ("B", lambda machine: machine.body(b"x")),
}
SILENT = (
    Step.SILENT_CONNECT,
    Step.SILENT_HELO,
    Step.SILENT_MAIL,
    Step.SILENT_RCPT,
    Step.SILENT_DATA,
    Step.SILENT_HEADER,
    Step.SILENT_END_OF_HEADER,
    Step.SILENT_BODY,
)


def letters(data: bytes) -> str:
    found = ""
    while data:
        found += chr(data[4])
        data = data[4 + struct.unpack(">I", data[:4])[0] :]
    return found


def told(machine: MilterConnection) -> tuple[str, str]:
    """The letters of the commands that a whole session sends, and of those that wait for an answer."""
    sent = waited = ""
    for letter, tell in UNWANTED.values():
        tell(machine)
        sent += letters(machine.data_to_send())
        if machine.awaits:
            waited += letter
            answered(machine, CONTINUE)
    machine.end_of_body({})
    assert machine.awaits
    return sent, waited


@pytest.mark.parametrize("unwanted", list(UNWANTED))
def test_a_step_that_is_not_wanted_is_left_out(unwanted: Step) -> None:
    machine = negotiated(steps=unwanted)
    assert machine.wants_headers is (unwanted is not Step.NO_HEADERS)
    assert machine.wants_body is (unwanted is not Step.NO_BODY)
    rest = "CHMRTLNB".replace(UNWANTED[unwanted][0], "")
    assert told(machine) == (rest, rest)


@pytest.mark.parametrize(("silent", "letter"), list(zip(SILENT, "CHMRTLNB", strict=True)))
def test_a_step_without_an_answer_is_not_waited_for(silent: Step, letter: str) -> None:
    assert told(negotiated(steps=silent)) == ("CHMRTLNB", "CHMRTLNB".replace(letter, ""))


def test_a_milter_that_wants_the_end_alone_hears_nothing_else() -> None:
    assert told(negotiated(steps=sum(UNWANTED))) == ("", "")


def test_macros_come_even_where_the_step_does_not() -> None:
    machine = negotiated(steps=Step.NO_CONNECT)
    machine.connect(CLIENT, {"j": "mail.example.com"})
    assert not machine.awaits
    assert machine.data_to_send() == packet("D", b"Cj\0mail.example.com\0")


@pytest.mark.parametrize(("version", "sent"), [(2, "CHMRLNB"), (3, "CHMRLNB"), (4, "CHMRTLNB"), (6, "CHMRTLNB")])
def test_old_milters_are_not_told_of_data(version: int, sent: str) -> None:
    assert told(negotiated(version=version))[0] == sent


# ---- what is answered ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "event", "in_mail"),
    [
        (packet("c"), Decision.CONTINUE, True),
        (packet("a"), Decision.ACCEPT, False),
        (packet("r"), Decision.REJECT, True),
        (packet("t"), Decision.TEMPFAIL, True),
        (packet("d"), Decision.DISCARD, False),
        (packet("4"), Decision.SHUTDOWN, False),
        (packet("f"), Decision.SHUTDOWN, False),
        (packet("y", b"550 5.7.1 no\0"), ReplyCode(550, "5.7.1", "no"), True),
    ],
)
def test_answers_to_a_recipient(answer: bytes, event: Event, in_mail: bool) -> None:
    machine = at_mail(negotiated())
    machine.rcpt("<a@b>", (), {})
    assert answered(machine, answer) == [event]
    assert machine.in_mail is in_mail


@pytest.mark.parametrize("answer", [packet("a"), packet("r"), packet("t"), packet("d"), packet("y", b"451 later\0")])
def test_a_decision_on_the_mail_ends_it_for_the_milter(answer: bytes) -> None:
    for until in (at_mail, at_body):
        machine = until(negotiated())
        if until is at_mail:
            machine.data({})
        else:
            machine.body(b"x")
        answered(machine, answer)
        assert not machine.in_mail
        machine.mail("<>", (), {})  # the next one, without an abort
        assert machine.data_to_send().endswith(packet("M", b"<>\0"))


def test_skip_ends_the_body_of_this_mail_alone() -> None:
    machine = at_body(negotiated(steps=Step.SKIP))
    machine.body(b"x")
    assert answered(machine, packet("s")) == [Decision.SKIP]
    assert not machine.wants_body
    with pytest.raises(LocalProtocolError):
        machine.body(b"x")
    machine.end_of_body({})
    answered(machine, CONTINUE)
    machine.mail("<>", (), {})
    assert machine.wants_body


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (b"550", ReplyCode(550, "", "")),
        (b"451 4.7.1 greylisted", ReplyCode(451, "4.7.1", "greylisted")),
        (b"554 no spam", ReplyCode(554, "", "no spam")),
        (b"554 5.7.1", ReplyCode(554, "5.7.1", "")),
        (b"554 4.7.1 of another class", ReplyCode(554, "", "of another class")),
        (b"550 5.7.1.2 is no status", ReplyCode(550, "", "5.7.1.2 is no status")),
        (b"550 100%% sure, 50% off", ReplyCode(550, "", "100% sure, 50% off")),
        (b"550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three", ReplyCode(550, "5.7.1", "one two three")),
        (b"550 caf\xe9", ReplyCode(550, "", "caf\ufffd")),
    ],
)
def test_reply_codes_are_read(text: bytes, reply: ReplyCode) -> None:
    machine = at_mail(negotiated())
    machine.rcpt("<a@b>", (), {})
    assert answered(machine, packet("y", text + b"\0")) == [reply]


CHANGES: list[tuple[bytes, Event]] = [
    (packet("h", b"X-A\0b\0"), events.HeaderAdded("X-A", b"b")),
    (packet("h", b"X-A\0\0"), events.HeaderAdded("X-A", b"")),
    (inserted(1, b"X-A", b"b\n\tc"), events.HeaderInserted(1, "X-A", b"b\n\tc")),
    (changed(2, b"Subject", b"b"), events.HeaderChanged(2, "Subject", b"b")),
    (changed(0, b"Subject", b""), events.HeaderChanged(1, "Subject", None)),
    (packet("b", b"body\0\r\n"), events.BodyReplaced(b"body\0\r\n")),
    (packet("b"), events.BodyReplaced(b"")),
    (packet("e", b"<jo@b>\0"), events.SenderChanged("<jo@b>")),
    (packet("e", b"<jo@b>\0SIZE=1\0"), events.SenderChanged("<jo@b>")),
    (packet("+", b"<jo@b>\0"), events.RecipientAdded("<jo@b>")),
    (packet("2", b"<jo@b>\0"), events.RecipientAdded("<jo@b>")),
    (packet("2", b"<jo@b>\0NOTIFY=NEVER\0"), events.RecipientAdded("<jo@b>", "NOTIFY=NEVER")),
    (packet("-", b"<jo@b>\0"), events.RecipientRemoved("<jo@b>")),
    (packet("q", b"looks odd\0"), events.Quarantined("looks odd")),
]


@pytest.mark.parametrize(("answer", "event"), CHANGES)
def test_changes_are_read_at_the_end_of_the_body(answer: bytes, event: Event) -> None:
    assert answered(at_end(negotiated()), answer, CONTINUE) == [event, Decision.CONTINUE]


@pytest.mark.parametrize("answer", [answer for answer, _ in CHANGES])
def test_changes_may_come_at_the_end_alone(answer: bytes) -> None:
    machine = at_body(negotiated())
    machine.body(b"x")
    with pytest.raises(MilterProtocolError, match="not at the end"):
        answered(machine, answer)
    assert machine.state is State.CLOSED


@pytest.mark.parametrize(
    ("letter", "action"),
    [
        ("h", Action.ADD_HEADERS), ("i", Action.ADD_HEADERS), ("m", Action.CHANGE_HEADERS), ("b", Action.CHANGE_BODY),
        ("e", Action.CHANGE_SENDER), ("+", Action.ADD_RECIPIENTS), ("2", Action.ADD_RECIPIENTS_WITH_PARAMETERS),
        ("-", Action.DELETE_RECIPIENTS), ("q", Action.QUARANTINE),
    ],
)  # fmt: skip
def test_changes_must_have_been_negotiated(letter: str, action: Action) -> None:
    answer = next(answer for answer, _ in CHANGES if answer[4:5] == letter.encode())
    assert len(answered(at_end(negotiated(actions=action)), answer, CONTINUE)) == 2
    with pytest.raises(MilterProtocolError, match="was not negotiated"):
        answered(at_end(negotiated(actions=ALL_ACTIONS & ~action)), answer, CONTINUE)


# ---- what a milter may not do --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"\0\0\0\0", "0 octets"),
        (b"HTTP/1.1 400 Bad Request", "a packet of 1213486160 octets"),
        (struct.pack(">I", MAX_PACKET_OCTETS + 1), f"from 1 to {MAX_PACKET_OCTETS}"),
        (packet("c"), "answers the negotiation with continue"),
        (packet("O", b"\0\0\0\6"), "too short"),
        (negotiation(version=7), "version 7"),
        (negotiation(version=1), "version 1"),
        (negotiation(actions=0x200), "more than was offered"),
        (negotiation(steps=Step.REFUSED_RECIPIENTS), "more than was offered"),
        (negotiation(steps=0x10000000), "more than was offered"),
        (negotiation(macros=b"\0\0"), "ends within a number"),
        (negotiation(macros=b"\0\0\0\x09i\0"), "macros cannot be read"),
        (negotiation(macros=b"\0\0\0\0i"), "macros cannot be read"),
        (negotiation(macros=b"\0\0\0\0" + b"i " * 201 + b"\0"), "more than 200 macros"),
        (negotiation() + packet("c"), "more than it was asked for"),
    ],
)
def test_what_is_no_negotiation_is_refused(answer: bytes, says: str) -> None:
    machine = MilterConnection()
    machine.negotiate()
    with pytest.raises(MilterProtocolError, match=says):
        answered(machine, answer)
    assert machine.state is State.CLOSED
    assert not machine.awaits


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (packet("?"), "unknown kind"),
        (packet("l"), "unknown kind"),
        (negotiation(), "once more"),
        (packet("s"), "skip in answer to END_OF_BODY"),
        (packet("y", b"550 no"), "no end"),
        (packet("y", b"550 no\0x\0"), "not 1 to 1 texts"),
        (packet("y", b"250 fine\0"), "no reply of 4yz or 5yz"),
        (packet("y", b"5500\0"), "no reply of 4yz or 5yz"),
        (packet("h", b"X-A\0"), "not 2 to 2 texts"),
        (packet("h", b"X-A\0b\0c\0"), "not 2 to 2 texts"),
        (packet("i", b"\0\0"), "within a number"),
        (packet("m", b"\0\0\0\1X-A"), "no end"),
        (packet("+", b""), "no end"),
        (packet("2", b"a\0b\0c\0"), "not 1 to 2 texts"),
        (packet("c") + packet("c"), "more than it was asked for"),
        (packet("c") + b"\0", "more than it was asked for"),
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes, says: str) -> None:
    machine = at_end(negotiated())
    with pytest.raises(MilterProtocolError, match=says):
        answered(machine, answer)
    assert machine.state is State.CLOSED


def test_nobody_may_discard_a_session() -> None:
    machine = negotiated()
    machine.connect(CLIENT, {})
    with pytest.raises(MilterProtocolError, match="discard in answer to CONNECT"):
        answered(machine, packet("d"))


def test_skip_must_have_been_negotiated() -> None:
    machine = at_body(negotiated())
    machine.body(b"x")
    with pytest.raises(MilterProtocolError, match="skip was not negotiated"):
        answered(machine, packet("s"))


def test_a_milter_that_closes_did_not_answer() -> None:
    machine = at_mail(negotiated())
    machine.data({})
    machine.receive_data(packet("c")[:3])
    machine.receive_data(b"")
    with pytest.raises(MilterProtocolError, match="closed the connection instead of answering DATA"):
        machine.next_event()


def test_changes_are_bounded_for_each_mail() -> None:
    bounds = Bounds(modifications=2, modification_octets=100, progress=3)
    machine = at_end(negotiated(bounds=bounds))
    change, body, work = packet("h", b"A\0b\0"), packet("b", b"12345"), packet("p")
    answered(machine, work, change, body, work, change, body, work, CONTINUE)
    for excess, says in (
        ((change, change, change), "more than 2 changes"),
        ((packet("h", b"A\0" + b"b" * 98 + b"\0"),), "more than 100 octets"),
        ((packet("b"),) * 3, "more than 2 changes"),
        ((work,) * 4, "more than 3 times that it is at work"),
    ):
        machine = at_end(negotiated(bounds=bounds))
        with pytest.raises(MilterProtocolError, match=says):
            answered(machine, *excess, CONTINUE)
    second = at_end(negotiated(bounds=Bounds(modifications=1, progress=1)))
    for _ in range(3):
        answered(second, change, work, CONTINUE)
        second.mail("<>", (), {})
        answered(second, CONTINUE)
        second.data({})
        answered(second, CONTINUE)
        second.end_of_header({})
        answered(second, CONTINUE)
        second.end_of_body({})


# ---- what our own driver may not do --------------------------------------------------------------


def test_steps_out_of_order_are_our_own_fault() -> None:
    fresh = MilterConnection()
    for tell in (lambda: fresh.connect(CLIENT, {}), fresh.quit, fresh.next_event, fresh.abort):
        with pytest.raises(LocalProtocolError):
            tell()
    fresh.negotiate()
    with pytest.raises(LocalProtocolError, match="waits for its answer"):
        fresh.connect(CLIENT, {})
    machine = at_mail(negotiated())
    for tell in (
        machine.negotiate,
        lambda: machine.connect(CLIENT, {}),
        lambda: machine.mail("<>", (), {}),
        lambda: machine.header("a", b"b"),
        lambda: machine.body(b"x"),
        lambda: machine.end_of_body({}),
    ):
        with pytest.raises(LocalProtocolError):
            tell()
    body = at_body(negotiated())
    for octets in (b"", b"x" * (MAX_DATA_OCTETS + 1)):
        with pytest.raises(LocalProtocolError):
            body.body(octets)


# ---- properties ----------------------------------------------------------------------------------

ANSWER = b"".join((packet("p"), *(answer for answer, _ in CHANGES), packet("p"), packet("y", b"550 5.7.1 no\0")))


@given(st.lists(st.integers(0, len(ANSWER)), max_size=20))
@example(list(range(len(ANSWER))))
def test_where_the_answer_is_cut_changes_nothing(cuts: list[int]) -> None:
    whole = answered(at_end(negotiated()), ANSWER)
    machine = at_end(negotiated())
    found: list[Event] = []
    places = sorted({0, *cuts, len(ANSWER)})
    for start, end in itertools.pairwise(places):
        machine.receive_data(ANSWER[start:end])
        while machine.awaits and (event := machine.next_event()) is not NEED_DATA:
            assert not isinstance(event, events.Need)
            found.append(event)
    assert found == whole


KINDS = st.sampled_from([bytes([octet]) for octet in b"+-24abcdefhilmOpqrsty?"])
RUBBISH = st.binary(max_size=60) | st.lists(
    st.tuples(KINDS, st.binary(max_size=30) | st.binary(max_size=20).map(lambda data: data + b"\0")), max_size=5
).map(lambda found: b"".join(packet(kind.decode(), data) for kind, data in found))


@given(RUBBISH, st.sampled_from(["negotiation", "mail", "body", "end"]))
def test_whatever_a_milter_sends_raises_nothing_but_protocol_errors(rubbish: bytes, where: str) -> None:
    machine = MilterConnection()
    if where == "negotiation":
        machine.negotiate()
    elif where == "end":
        machine = at_end(negotiated())
    elif where == "body":
        machine = at_body(negotiated())
        machine.body(b"x")
    else:
        machine = at_mail(negotiated())
        machine.rcpt("<a@b>", (), {})
    machine.receive_data(rubbish)
    machine.receive_data(b"")
    try:
        while machine.awaits:
            machine.next_event()
    except MilterProtocolError:
        assert machine.state is State.CLOSED


@given(st.lists(st.binary(max_size=10), max_size=8), st.integers(1, 7))
def test_packets_come_out_as_they_went_in(contents: list[bytes], step: int) -> None:
    wire = b"".join(packet("x", data) for data in contents)
    buffer = PacketBuffer()
    found = []
    for start in range(0, len(wire), step):
        buffer.push(wire[start : start + step])
        while (one := buffer.take()) is not None:
            found.append(one.data)
    assert found == contents
    assert not buffer


def test_the_negotiated_half_is_told() -> None:
    machine = MilterConnection()
    machine.negotiate()
    assert answered(machine, negotiation(actions=1, steps=Step.NO_BODY | Step.LEADING_SPACE)) == [
        Negotiated(6, Action.ADD_HEADERS, Step.NO_BODY | Step.LEADING_SPACE)
    ]
    assert machine.leading_space
