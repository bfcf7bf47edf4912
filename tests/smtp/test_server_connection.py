"""What a driver sees of the server machine: facts, order of calls, misuse."""

from collections.abc import Callable

import pytest
from attrs import evolve

from elemta.mail.reply import MAX_REPLY_LINE_OCTETS, Reply
from elemta.smtp import refusals
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.events import NEED_DATA, AuthStart, Closing, Hello, MailFrom, Reset, StartTls
from elemta.smtp.options import ServerOptions
from elemta.smtp.server import ServerConnection
from elemta.smtp.states import OUT_OF_ORDER, State
from tests.smtp.server_driver import Driver

OPTIONS = ServerOptions(
    "mx.example.com", max_errors=3, starttls=True, auth_mechanisms=("PLAIN",), auth_without_tls=True
)
OK = Reply(250, "2.0.0", "ok")
EHLO = b"EHLO client.example\r\n"


def connected(data: bytes = b"") -> ServerConnection:
    """A greeted session to which a client has said something."""
    connection = ServerConnection(OPTIONS)
    connection.greet(Reply(220, "", "hello"))
    if data:
        connection.receive_data(data)
    return connection


def test_facts() -> None:
    driver = Driver(OPTIONS)
    connection = driver.connection
    assert (connection.hello_domain, connection.extended, connection.tls_active) == ("", False, False)
    assert connection.authenticated_user is None
    driver.feed(b"HELO one.example\r\n")
    assert (connection.hello_domain, connection.extended) == ("one.example", False)
    driver.feed(b"EHLO two.example\r\n")
    assert (connection.hello_domain, connection.extended) == ("two.example", True)
    assert connection.state is State.READY
    driver.feed(b"MAIL FROM:<a@b.example>\r\n")
    assert connection.in_transaction
    driver.feed(b"STARTTLS\r\n")
    assert not connection.in_transaction
    connection.tls_started()
    assert (connection.hello_domain, connection.extended, connection.tls_active) == ("", False, True)
    assert connection.state is State.START


def test_a_name_counts_once_the_driver_took_it() -> None:
    connection = connected(EHLO)
    assert connection.next_event() == Hello("client.example", extended=True)
    connection.reply(Reply(550, "5.7.1", "not you"))
    assert connection.hello_domain == ""
    assert connection.state is State.START


def test_refused_hellos_are_errors() -> None:
    connection = connected(EHLO.replace(b"EHLO", b"HELO"))
    for _ in range(OPTIONS.max_errors + 1):
        assert isinstance(connection.next_event(), Hello)
        connection.reply(Reply(550, "5.7.1", "not you"))
        connection.receive_data(EHLO)
    assert connection.next_event() == Closing(refusals.TOO_MANY_ERRORS, "too many errors")


def test_refused_exchanges_are_errors_but_temporary_failures_are_not() -> None:
    connection = Driver(OPTIONS).connection
    connection.receive_data(EHLO)
    connection.next_event()
    connection.reply(OK)
    for reply in [Reply(454, "4.7.0", "later")] * 10 + [Reply(535, "5.7.8", "no")] * (OPTIONS.max_errors + 1):
        connection.receive_data(b"AUTH PLAIN AGEAYg==\r\n")
        assert connection.next_event() == AuthStart("PLAIN", b"\0a\0b")
        connection.reply(reply)
    assert connection.next_event() == Closing(refusals.TOO_MANY_ERRORS, "too many errors")


@pytest.mark.parametrize(("code", "errors"), [(450, False), (550, True)])
def test_refused_senders_are_errors_unless_they_may_try_again(code: int, *, errors: bool) -> None:
    driver = Driver(evolve(OPTIONS, max_errors=0))
    driver.policy.mail["a@b.example"] = Reply(code, f"{code // 100}.7.1", "no")
    driver.feed(EHLO + b"")
    driver.feed(b"MAIL FROM:<a@b.example>\r\n")
    assert (driver.closing is not None) is errors


def test_what_follows_an_accepted_sender_is_not_excused() -> None:
    driver = Driver(evolve(OPTIONS, max_errors=0))
    driver.feed(EHLO)
    assert driver.feed(b"MAIL FROM:<>\r\nDATA\r\n").endswith(refusals.TOO_MANY_ERRORS.render())


def test_replies_to_a_group_leave_together() -> None:
    connection = connected(EHLO)
    connection.next_event()
    connection.reply(OK)
    connection.data_to_send()
    connection.receive_data(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nNOOP\r\nVRFY x\r\nDATA\r\n")
    for reply in (OK, OK, Reply(354, "", "go")):
        connection.next_event()
        connection.reply(reply)
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send().count(b"\r\n") == 5
    assert connection.data_to_send() == b""


# ---- the greeting --------------------------------------------------------------------------------


def test_greeting() -> None:
    connection = connected()
    assert connection.data_to_send() == b"220 hello\r\n"
    assert connection.next_event() is NEED_DATA


def test_greeting_with_421() -> None:
    connection = ServerConnection(OPTIONS)
    busy = Reply(421, "4.3.2", "busy")
    connection.receive_data(b"EHLO early.example\r\n")
    connection.greet(busy)
    assert connection.next_event() == Closing(busy, "greeted with 421")
    assert connection.data_to_send() == busy.render()


@pytest.mark.parametrize("code", [220, 554])
def test_talking_before_the_greeting(code: int) -> None:
    connection = ServerConnection(OPTIONS)
    connection.receive_data(b"E")
    assert connection.next_event() is NEED_DATA
    connection.greet(Reply(code, "", "hello"))
    assert connection.next_event() == Closing(refusals.TALKED_BEFORE_GREETING, "talked before the greeting")
    assert connection.data_to_send() == refusals.TALKED_BEFORE_GREETING.render()


def test_a_client_that_leaves_before_the_greeting() -> None:
    connection = ServerConnection(OPTIONS)
    connection.receive_data(b"")
    assert connection.next_event() == Closing(None, "eof")


def test_implicit_tls() -> None:
    connection = ServerConnection(evolve(OPTIONS, require_tls_offered=True))
    connection.tls_started()
    connection.greet(Reply(220, "", "hello"))
    connection.receive_data(EHLO)
    connection.next_event()
    connection.reply(OK)
    sent = connection.data_to_send()
    assert b"STARTTLS" not in sent
    assert b"250-REQUIRETLS\r\n" in sent
    assert b"250-AUTH PLAIN\r\n" in sent


def test_plaintext_behind_starttls_is_dropped() -> None:
    # With the check for early talk off, so that it is dropping alone which keeps the command from being heard.
    connection = ServerConnection(evolve(OPTIONS, forbid_early_talk=False))
    connection.greet(Reply(220, "", "hello"))
    connection.receive_data(EHLO + b"STARTTLS\r\nMAIL FROM:<injected@b.example>\r\n")
    connection.next_event()
    connection.reply(OK)
    assert connection.next_event() == StartTls()
    connection.reply(Reply(220, "2.0.0", "go"))
    connection.receive_data(b"RSET\r\n")
    assert connection.next_event() is NEED_DATA
    connection.data_to_send()
    connection.tls_started()
    connection.receive_data(EHLO)
    assert connection.next_event() == Hello("client.example", extended=True)
    assert connection.data_to_send() == b""


def test_tls_forgets_who_authenticated() -> None:
    driver = Driver(OPTIONS)
    driver.policy.auth[:] = [Reply(235, "2.7.0", "welcome")]
    driver = Driver(OPTIONS, driver.policy)
    driver.feed(EHLO)
    driver.feed(b"AUTH PLAIN AGEAYg==\r\n")
    assert driver.connection.authenticated_user is not None
    driver.feed(b"STARTTLS\r\n")
    driver.connection.tls_started()
    assert driver.connection.authenticated_user is None


def test_a_second_hello_ends_a_transaction_even_if_it_is_refused() -> None:
    connection = connected(EHLO)
    connection.next_event()
    connection.reply(OK)
    connection.receive_data(b"MAIL FROM:<>\r\n")
    connection.next_event()
    connection.reply(OK)
    connection.receive_data(EHLO)
    assert connection.next_event() == Reset()
    assert not connection.in_transaction
    connection.next_event()
    connection.reply(Reply(550, "5.7.1", "not you"))
    assert not connection.in_transaction


@pytest.mark.parametrize("end", [b"RSET\r\n", EHLO, b"DATA\r\nx\r\n.\r\n", b"BDAT 0 LAST\r\n", b"BDAT 2 LAST\r\n\0\0"])
def test_each_transaction_counts_its_own_recipients(end: bytes) -> None:
    driver = Driver(evolve(OPTIONS, max_recipients=1, forbid_early_talk=False))
    for _ in range(3):
        driver.feed(EHLO + b"MAIL FROM:<>\r\n")
        assert driver.feed(b"RCPT TO:<a@b.example>\r\n").startswith(b"250 ")
        assert driver.feed(b"RCPT TO:<a@b.example>\r\n").startswith(b"452 ")
        driver.feed(end)
        assert not driver.connection.in_transaction


# ---- misuse --------------------------------------------------------------------------------------


def test_an_event_wants_its_reply() -> None:
    connection = connected(EHLO)
    connection.next_event()
    with pytest.raises(LocalProtocolError, match="waits for its reply"):
        connection.next_event()


def test_a_reply_wants_an_event() -> None:
    with pytest.raises(LocalProtocolError, match="nothing waits"):
        connected().reply(OK)


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (b"", Reply(354, "", "go")),
        (b"", Reply(100, "", "what")),
        (b"MAIL FROM:<a@b.example>\r\n", Reply(334)),
        (b"MAIL FROM:<a@b.example>\r\n", Reply(250, "", "two\r\nlines")),
        (b"AUTH PLAIN\r\n", Reply(235, "2.7.0", "nobody authenticated")),
        (b"AUTH PLAIN\r\n", Reply(354, "", "go")),
        (b"STARTTLS\r\n", Reply(334)),
    ],
)
def test_a_reply_that_does_not_fit_changes_nothing(said: bytes, reply: Reply) -> None:
    connection = connected(EHLO)
    connection.next_event()
    if said:
        connection.reply(OK)
        connection.receive_data(said)
        connection.next_event()
    before = connection.state
    with pytest.raises(LocalProtocolError):
        connection.reply(reply)
    assert connection.state is before
    connection.reply(Reply(550, "5.7.1", "no"))


def test_data_wants_354_and_chunks_do_not() -> None:
    for command, wrong in ((b"DATA\r\n", OK), (b"BDAT 3\r\nabc", Reply(354, "", "go"))):
        driver = Driver(OPTIONS)
        driver.feed(EHLO)
        driver.feed(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n")
        driver.connection.receive_data(command)
        driver.connection.next_event()
        with pytest.raises(LocalProtocolError):
            driver.connection.reply(wrong)


def test_who_authenticated_must_not_be_refused() -> None:
    connection = Driver(OPTIONS).connection
    connection.receive_data(EHLO)
    connection.next_event()
    connection.reply(OK)
    connection.receive_data(b"AUTH PLAIN\r\n")
    connection.next_event()
    connection.set_authenticated("alice")
    with pytest.raises(LocalProtocolError, match="alice"):
        connection.reply(Reply(535, "5.7.8", "no"))


def test_calls_out_of_order() -> None:
    connection = connected()
    misuses: tuple[Callable[[], None], ...] = (
        lambda: connection.greet(Reply(220, "", "again")),
        connection.tls_started,
        lambda: connection.set_authenticated("alice"),
        lambda: ServerConnection(OPTIONS).greet(OK),
    )
    for misuse in misuses:
        with pytest.raises(LocalProtocolError):
            misuse()


def test_a_cancelled_exchange_cannot_go_on() -> None:
    driver = Driver(OPTIONS)
    driver.policy.auth = []
    driver.feed(EHLO)
    driver.connection.receive_data(b"AUTH PLAIN\r\n")
    driver.connection.next_event()
    driver.connection.reply(Reply(334))
    driver.connection.receive_data(b"*\r\n")
    driver.connection.next_event()
    with pytest.raises(LocalProtocolError, match="cancelled"):
        driver.connection.reply(Reply(334))
    driver.connection.reply(Reply(501, "5.7.0", "cancelled"))
    assert driver.connection.state is State.READY


def test_closing_answers_for_what_waits() -> None:
    connection = connected(EHLO)
    connection.next_event()
    connection.data_to_send()
    bye = Reply(421, "4.3.2", "shutting down")
    connection.close_with(bye, "shutdown")
    assert connection.data_to_send() == bye.render()
    assert connection.next_event() == Closing(bye, "shutdown")
    with pytest.raises(LocalProtocolError):
        connection.reply(OK)


def test_a_reset_is_told_before_what_caused_it() -> None:
    connection = connected(EHLO)
    connection.next_event()
    connection.reply(OK)
    connection.receive_data(b"MAIL FROM:<>\r\n")
    assert connection.next_event() == MailFrom(None)
    connection.reply(OK)
    connection.receive_data(EHLO)
    assert connection.next_event() == Reset()
    assert connection.next_event() == Hello("client.example", extended=True)


# ---- our own replies -----------------------------------------------------------------------------

REFUSALS = [reply for reply in vars(refusals).values() if isinstance(reply, Reply)]
REFUSALS += refusals.CONTENT_REFUSALS.values()


@pytest.mark.parametrize("reply", REFUSALS, ids=str)
def test_our_replies_are_well_formed(reply: Reply) -> None:
    assert reply.enhanced[0] == str(reply.code)[0]
    assert all(len(line) <= MAX_REPLY_LINE_OCTETS for line in reply.render().splitlines(keepends=True))
    assert reply.text.isascii()
    assert reply.text.isprintable()


def test_every_verb_that_the_table_names_is_one() -> None:
    driver = Driver(evolve(OPTIONS, max_errors=100))
    for verb in OUT_OF_ORDER:
        assert driver.feed(verb + b"\r\n") != refusals.UNKNOWN_COMMAND.render()
