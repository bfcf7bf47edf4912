"""Properties of the server machine under hostile bytes: it raises nothing, and where they are cut changes nothing."""

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from elemta.mail.reply import Reply
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.events import NEED_DATA, Closing, Content, ContentEnd, Event
from elemta.smtp.options import ServerOptions
from elemta.smtp.server import ServerConnection
from elemta.smtp.states import State
from tests.smtp.server_driver import Driver, Policy, bytewise, linewise

OPTIONS = ServerOptions(
    hostname="mx.example.com",
    max_size=300,
    max_recipients=3,
    max_errors=6,
    max_idle_commands=8,
    max_transactions=4,
    forbid_early_talk=False,
    auth_mechanisms=("PLAIN",),
    auth_without_tls=True,
    starttls=True,
)
DIFFERENT = (
    OPTIONS,
    evolve(OPTIONS, bare_newlines_normalize=True, dev_mode=True),
    evolve(OPTIONS, max_size=0, max_errors=1000, max_idle_commands=1000, auth_required=True),
)


def policy() -> Policy:
    """Not everything is answered yes."""
    no = Reply(550, "5.1.1", "no")
    return Policy(
        mail={"bad@b.example": no},
        rcpt={"bad@b.example": no},
        auth=[Reply(334), Reply(535, "5.7.8", "no"), Reply(334), Reply(235, "2.7.0", "yes")],
    )


@frozen
class Preamble:
    """What brings a session into a state."""

    data: bytes
    options: ServerOptions = OPTIONS

    def session(self) -> Driver:
        """A session in that state."""
        driver = Driver(self.options, policy())
        if self.data:
            driver.feed(self.data)
        return driver


_EHLO = b"EHLO c.example\r\n"
_RCPT = _EHLO + b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
PREAMBLES = {
    State.START: Preamble(b""),
    State.READY: Preamble(_EHLO),
    State.MAIL: Preamble(_EHLO + b"MAIL FROM:<a@b.example>\r\n"),
    State.RCPT: Preamble(_RCPT),
    State.DATA: Preamble(_RCPT + b"DATA\r\n"),
    State.CHUNK: Preamble(_RCPT + b"BDAT 20\r\n"),
    State.CHUNKS: Preamble(_RCPT + b"BDAT 2\r\nx\r"),
    State.SKIP: Preamble(_EHLO + b"BDAT 20\r\n"),
    State.AUTH: Preamble(_EHLO + b"AUTH PLAIN\r\n"),
    State.HANDSHAKE: Preamble(_EHLO + b"STARTTLS\r\n"),
    State.CLOSED: Preamble(b"QUIT\r\n"),
}
FRAGMENTS = (
    b"\r\n.\r\n", b"\r\n", b"\n", b"\r", b".", b"\0", b"\xff", b"\x85", b" ", b"x", b"\r\n..", b"\r\n.",
    b"\n.\n", b"\r.\r", b"EHLO c.example\r\n", b"HELO [1.2.3.4]\r\n", b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>\r\n",
    b"MAIL FROM:<a@b.example> SIZE=200 BODY=8BITMIME\r\n",
    b"mail from:<\xc3\xbc@b\xc3\xbccher.example> SMTPUTF8\r\n", b"RCPT TO:<bad@b.example>\r\n",
    b"RCPT TO:<\"a b\"@d.example> NOTIFY=NEVER\r\n", b"DATA\r\n", b"data", b"BDAT 5\r\n",
    b"BDAT 0 LAST\r\n", b"BDAT 30 LAST\r\n", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"VRFY x\r\n",
    b"XDEBUG a b\r\n", b"AUTH PLAIN\r\n", b"AUTH PLAIN AGEAYg==\r\n", b"AGEAYg==\r\n", b"*\r\n",
    b"STARTTLS\r\n", b"GET / HTTP/1.1\r\n", b"a" * 600, b"a" * 998, b"a" * 2100, b"<@a:b@c>", b"xn--",
    b"\"", b"\\",
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=6), max_size=25).map(b"".join)
IN_ANY_STATE = pytest.mark.parametrize("state", list(PREAMBLES), ids=lambda state: str(state.value))


#: There are eleven states, so each gets a share of the examples.
SOME = settings(max_examples=max(10, settings.default.max_examples // 4))  # type: ignore[union-attr]  # never None


def essential(events: list[Event]) -> list[Event]:
    """Without content that came to no good end: how much of it came before a fault was seen depends on the cuts."""
    whole = [isinstance(event, ContentEnd) for event in events[1:]] + [False]
    return [event for event, kept in zip(events, whole, strict=False) if kept or not isinstance(event, Content)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces; the places are anywhere."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


@IN_ANY_STATE
def test_the_preamble_leads_there(state: State) -> None:
    assert PREAMBLES[state].session().connection.state is state


def test_every_state_is_reached() -> None:
    # The two before and after a greeting have tests of their own.
    assert set(PREAMBLES) == set(State) - {State.GREETING, State.UNWELCOME}


@IN_ANY_STATE
@SOME
@given(data=HOSTILE, places=st.lists(st.integers(0, 3000), max_size=8), options=st.sampled_from(DIFFERENT))
def test_where_it_is_cut_changes_nothing(state: State, data: bytes, places: list[int], options: ServerOptions) -> None:
    preamble = evolve(PREAMBLES[state], options=options)
    if preamble.session().connection.state is not state:
        preamble = PREAMBLES[state]  # these options do not lead there
    results: list[tuple[list[Event], bytes]] = []
    for pieces in ([data] if data else [], cut(data, places), list(linewise(data)), list(bytewise(data))):
        driver = preamble.session()
        driver.feed_all(pieces)
        driver.feed(b"")
        results.append((essential(driver.events), driver.sent))
    assert results[1] == results[0]
    assert results[2] == results[0]
    assert results[3] == results[0]


@IN_ANY_STATE
@SOME
@given(data=HOSTILE, places=st.lists(st.integers(0, 3000), max_size=8))
def test_early_talk_is_the_only_thing_that_depends_on_cuts(state: State, data: bytes, places: list[int]) -> None:
    patient = PREAMBLES[state].session()
    patient.feed_all(bytewise(data))
    hasty = PREAMBLES[state].session()
    hasty.connection._session.options = evolve(hasty.connection._session.options, forbid_early_talk=True)
    hasty.feed_all(cut(data, places))
    if hasty.closing is not None and hasty.closing.cause == "talked too early":
        before = essential(hasty.events[:-1])
        assert before == essential(patient.events)[: len(before)]
    else:
        assert essential(hasty.events) == essential(patient.events)
        assert hasty.sent == patient.sent


@given(data=HOSTILE)
def test_an_unwelcome_client_can_only_quit(data: bytes) -> None:
    driver = Driver(OPTIONS, Policy(greeting=Reply(554, "5.3.2", "no mail here")))
    driver.feed_all(cut(data, [7]))
    assert driver.connection.state in (State.UNWELCOME, State.CLOSED)
    assert b"\n2" not in driver.sent.replace(b"\n221 2.0.0 Goodbye", b"")


@given(data=HOSTILE)
def test_what_comes_before_the_greeting_closes(data: bytes) -> None:
    driver = Driver(OPTIONS, greet=False)
    driver.feed(data or b"x")
    driver.connection.greet(Reply(220, "", "hello"))
    assert driver.drain().startswith(b"554 5.5.0 ")
    assert driver.closing is not None
    assert driver.closing.cause == "talked before the greeting"


# ---- the driver's side ---------------------------------------------------------------------------

CALLS: tuple[Callable[[ServerConnection], object], ...] = (
    lambda connection: connection.next_event(),
    lambda connection: connection.data_to_send(),
    lambda connection: connection.reply(Reply(250, "2.0.0", "ok")),
    lambda connection: connection.reply(Reply(354, "", "ok")),
    lambda connection: connection.reply(Reply(334)),
    lambda connection: connection.reply(Reply(235)),
    lambda connection: connection.reply(Reply(220)),
    lambda connection: connection.reply(Reply(421)),
    lambda connection: connection.reply(Reply(550, "5.1.1", "no")),
    lambda connection: connection.reply(Reply(250, "", "two\r\nlines")),
    lambda connection: connection.greet(Reply(220, "", "hello")),
    lambda connection: connection.greet(Reply(250, "", "hello")),
    lambda connection: connection.close_with(Reply(421, "4.3.2", "bye"), "shutdown"),
    lambda connection: connection.tls_started(),
    lambda connection: connection.set_authenticated("user"),
)


@IN_ANY_STATE
@SOME
@given(data=st.data())
def test_a_confused_driver_meets_local_errors_alone(state: State, data: st.DataObject) -> None:
    connection = PREAMBLES[state].session().connection
    for _ in range(data.draw(st.integers(1, 25))):
        connection.receive_data(data.draw(st.sampled_from(FRAGMENTS)))
        call = data.draw(st.sampled_from(CALLS))
        with suppress(LocalProtocolError):
            call(connection)


@given(data=HOSTILE)
def test_once_closed_it_stays_closed(data: bytes) -> None:
    driver = PREAMBLES[State.RCPT].session()
    bye = Reply(421, "4.3.2", "shutting down")
    driver.connection.close_with(bye, "shutdown")
    driver.connection.receive_data(data)
    driver.connection.close_with(Reply(421, "4.4.2", "too late"), "timeout")
    assert driver.connection.next_event() == Closing(bye, "shutdown")
    assert driver.connection.next_event() == Closing(bye, "shutdown")
    assert driver.connection.data_to_send() == bye.render()
    assert not driver.connection.in_transaction


# ---- bounds --------------------------------------------------------------------------------------


@IN_ANY_STATE
@pytest.mark.parametrize("octet", [b"a", b".", b"\r", b"\0", b"\xff", b" "])
def test_an_endless_line_takes_no_memory(state: State, octet: bytes) -> None:
    driver = PREAMBLES[state].session()
    piece = octet * 65536
    tracemalloc.start()
    try:
        for _ in range(160):  # 10 MiB
            driver.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(piece)


@settings(max_examples=10)
@given(
    verb=st.sampled_from(
        [b"RCPT TO:<c@d.example>\r\n", b"RCPT TO:<bad@b.example>\r\n", b"RCPT TO:<\r\n", b"BDAT 0\r\n"]
    )
)
def test_a_client_that_never_stops_is_answered_421(verb: bytes) -> None:
    options = evolve(OPTIONS, max_size=0, max_recipients=1000, max_errors=10, max_idle_commands=100)
    driver = Driver(options, policy())
    driver.feed(_RCPT)
    for _ in range(120):
        driver.feed(verb * 100)
    assert driver.closing is not None
    assert driver.closing.reply is not None
    assert driver.closing.reply.code == 421


def test_need_data_is_no_event() -> None:
    connection = ServerConnection(OPTIONS)
    assert connection.next_event() is NEED_DATA
    connection.receive_data(b"")
    assert connection.next_event() == Closing(None, "eof")
