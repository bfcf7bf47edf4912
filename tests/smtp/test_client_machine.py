"""The client machine: what it says, what it makes of replies, and that no host can make it do anything else."""

from collections.abc import Iterable, Sequence

import pytest
from attrs import define, field
from hypothesis import given, strategies

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.outcome import Deferred, Delivered, Failed, Outcome
from elemta.mail.reply import Reply
from elemta.smtp.client import ClientMachine, ClientState
from elemta.smtp.client_commands import Transaction
from elemta.smtp.client_events import (
    CLIENT_NEEDS_DATA,
    AuthChallenge,
    AuthEnded,
    Awaited,
    ClientEvent,
    ContentWanted,
    Ended,
    Ready,
    Settled,
    TlsGranted,
    TlsRefused,
)
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.replies import RemoteProtocolError

GREETING = b"220 mx.example ESMTP\r\n"
PIPELINING = b"250-mx.example\r\n250-DSN\r\n250 PIPELINING\r\n"
PLAIN = b"250 mx.example\r\n"
LOST = Reply(451, "4.4.2", "lost")


def transaction(recipients: int = 2) -> Transaction:
    paths = tuple(Recipient(Address(f"r{number}", "example.net")) for number in range(recipients))
    return Transaction(Envelope(Address("s", "example.org"), paths), 10, False)


def drain(machine: ClientMachine, data: bytes = b"", *, eof: bool = False) -> tuple[list[ClientEvent], bytes]:
    """Events until more octets are needed or the session is over, and what was to be sent meanwhile."""
    if data:
        machine.receive_data(data)
    if eof:
        machine.receive_data(b"")
    events: list[ClientEvent] = []
    while (event := machine.next_event()) is not CLIENT_NEEDS_DATA:
        events.append(event)
        if isinstance(event, Ended):
            break
    return events, machine.data_to_send()


def opened(hello: bytes = PIPELINING, *, lmtp: bool = False) -> ClientMachine:
    machine = ClientMachine("client.example.org", lmtp=lmtp)
    drain(machine, GREETING)
    events, _ = drain(machine, hello)
    assert events == [Ready()]
    return machine


def brief(outcomes: Sequence[Outcome | None]) -> list[str | None]:
    return [None if each is None else f"{type(each).__name__} {each.reply.code}" for each in outcomes]


def test_a_pipelined_session_by_the_letter() -> None:
    machine = ClientMachine("client.example.org")
    assert machine.awaited is Awaited.GREETING
    assert drain(machine, GREETING) == ([], b"EHLO client.example.org\r\n")
    assert drain(machine, PIPELINING) == ([Ready()], b"")
    machine.begin(transaction())
    wire = b"MAIL FROM:<s@example.org>\r\nRCPT TO:<r0@example.net>\r\nRCPT TO:<r1@example.net>\r\nDATA\r\n"
    assert drain(machine) == ([], wire)
    assert drain(machine, b"250 ok\r\n250 ok\r\n550 no\r\n") == ([], b"")
    assert drain(machine, b"354 go\r\n") == ([ContentWanted()], b"")
    machine.end_content()
    (settled,), _ = drain(machine, b"250 2.0.0 queued\r\n")
    assert isinstance(settled, Settled)
    assert brief(settled.outcomes) == ["Delivered 250", "Failed 550"]
    assert isinstance(settled.outcomes[0], Delivered)
    assert settled.outcomes[0].relayed_dsn
    machine.quit()
    assert drain(machine) == ([], b"QUIT\r\n")
    assert drain(machine, b"221 bye\r\n") == ([Ended(Reply(221, "", "bye"), Awaited.QUIT)], b"")


def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    machine = opened(PLAIN)
    machine.begin(transaction())
    said = [drain(machine)[1]]
    for reply in (b"250 ok\r\n", b"550 no\r\n", b"250 ok\r\n"):
        events, out = drain(machine, reply)
        assert events == []
        said.append(out)
    assert said == [
        b"MAIL FROM:<s@example.org>\r\n",
        b"RCPT TO:<r0@example.net>\r\n",
        b"RCPT TO:<r1@example.net>\r\n",
        b"DATA\r\n",
    ]
    assert drain(machine, b"354 go\r\n") == ([ContentWanted()], b"")


@pytest.mark.parametrize("reply", [b"554 5.3.2 no service\r\n", b"450 later\r\n", b"354 what\r\n", b"421 busy\r\n"])
def test_a_refused_greeting_ends_the_session(reply: bytes) -> None:
    machine = ClientMachine("client.example.org")
    (event,), out = drain(machine, reply)
    assert isinstance(event, Ended)
    assert event.reply is not None
    assert event.reply.code == int(reply[:3])
    assert event.awaited is Awaited.GREETING
    assert out == b""
    assert machine.next_event() is event
    assert machine.conclude(LOST) == ()


def test_helo_offers_nothing() -> None:
    machine = ClientMachine("client.example.org")
    drain(machine, GREETING)
    assert drain(machine, b"502 5.5.1 PIPELINING\r\n") == ([], b"HELO client.example.org\r\n")
    assert drain(machine, b"250-mx.example\r\n250 PIPELINING\r\n") == ([Ready()], b"")
    assert not machine.offered.pipelining


@pytest.mark.parametrize("hello", [b"450 later\r\n", b"350 what\r\n"])
def test_a_transient_refusal_of_ehlo_is_no_reason_for_helo(hello: bytes) -> None:
    machine = ClientMachine("client.example.org")
    drain(machine, GREETING)
    (event,), _ = drain(machine, hello)
    assert isinstance(event, Ended)
    assert event.awaited is Awaited.HELLO


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        # nothing said, then lost: another host may be asked
        (b"", [None, None]),
        (b"250 ok\r\n", [None, None]),
        (b"250 ok\r\n550 no\r\n", ["Failed 550", None]),
        (b"250 ok\r\n450 no\r\n", ["Deferred 450", None]),
        (b"452 later\r\n", [None, None]),
        (b"550 not you\r\n", ["Failed 550", "Failed 550"]),
        # somebody was accepted: nobody else is asked
        (b"250 ok\r\n250 ok\r\n", ["Deferred 451", "Deferred 451"]),
        (b"250 ok\r\n250 ok\r\n550 no\r\n", ["Deferred 451", "Failed 550"]),
        (b"250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n", ["Deferred 451", "Failed 550"]),
    ],
)
def test_what_a_lost_session_means_before_the_dot(replies: bytes, expected: list[str | None]) -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    drain(machine, replies)
    outcomes = machine.conclude(LOST)
    assert brief(outcomes) == expected
    assert not any(isinstance(each, Deferred) and each.uncertain for each in outcomes)
    assert machine.state is ClientState.CLOSED


def test_what_a_lost_session_means_after_the_dot() -> None:
    machine = opened()
    machine.begin(transaction(3))
    drain(machine)
    drain(machine, b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
    machine.end_content()
    outcomes = machine.conclude(LOST)
    assert brief(outcomes) == ["Deferred 451", "Failed 550", "Deferred 451"]
    assert [isinstance(each, Deferred) and each.uncertain for each in outcomes] == [True, False, True]


def test_a_421_to_the_dot_is_certain_and_ends_the_session() -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    drain(machine, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    machine.end_content()
    (event,), _ = drain(machine, b"421 4.3.2 closing\r\n")
    assert isinstance(event, Ended)
    outcomes = machine.conclude(LOST)
    assert brief(outcomes) == ["Deferred 421"] * 2
    assert not any(isinstance(each, Deferred) and each.uncertain for each in outcomes)


def test_our_own_refusal_of_the_content_is_final() -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    drain(machine, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert brief(machine.conclude(Reply(554, "5.6.0", "bare LF"))) == ["Failed 554"] * 2


@pytest.mark.parametrize("verdict", [b"250 queued already\r\n", b"550 no\r\n", b"2"])
def test_a_verdict_before_the_content_is_never_believed(verdict: bytes) -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    machine.receive_data(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" + verdict)
    with pytest.raises(RemoteProtocolError):  # at once: a driver that was told to send would take it for the answer
        machine.next_event()
    assert brief(machine.conclude(LOST)) == ["Deferred 451"] * 2


@pytest.mark.parametrize(
    ("early", "outcome"), [(b"552 5.3.4 enough\r\n", "Failed 552"), (b"451 no\r\n", "Deferred 451")]
)
def test_a_refusal_in_the_middle_of_the_content_is_a_verdict(early: bytes, outcome: str) -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    drain(machine, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    (event,), _ = drain(machine, early)
    assert isinstance(event, Ended)
    assert brief(machine.conclude(LOST)) == [outcome] * 2


def test_replies_to_nothing_end_the_session() -> None:
    for unasked in (b"250 hello?\r\n", b"354 send me something\r\n", b"550 go away\r\n"):
        machine = opened()
        with pytest.raises(RemoteProtocolError):
            drain(machine, unasked)
        assert isinstance(machine.next_event(), Ended)


def test_a_421_may_come_unasked() -> None:
    machine = opened()
    (event,), _ = drain(machine, b"421 4.4.2 idle\r\n")
    assert event == Ended(Reply(421, "4.4.2", "idle"), Awaited.NOTHING)


def test_a_reply_that_came_before_its_command_was_sent_is_none() -> None:
    machine = opened()
    machine.begin(transaction())
    machine.receive_data(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    with pytest.raises(RemoteProtocolError):
        machine.next_event()
    assert brief(machine.conclude(LOST)) == [None, None]


def test_a_refused_helo_ends_the_session() -> None:
    machine = ClientMachine("client.example.org")
    drain(machine, GREETING)
    drain(machine, b"500 what\r\n")
    (event,), _ = drain(machine, b"550 5.7.1 go away\r\n")
    assert event == Ended(Reply(550, "5.7.1", "go away"), Awaited.HELO)


@pytest.mark.parametrize(
    ("hello", "replies", "outcomes", "refused"),
    [
        (PIPELINING, [b"550 a\r\n", b"503 b\r\n503 b\r\n", b"503 c\r\n"], ["Failed 550"] * 2, None),
        (PLAIN, [b"550 a\r\n"], ["Failed 550"] * 2, None),
        (PIPELINING, [b"452 a\r\n", b"503 b\r\n503 b\r\n", b"503 c\r\n"], ["Deferred 452"] * 2, 452),
        (PLAIN, [b"452 a\r\n"], ["Deferred 452"] * 2, 452),
        (PIPELINING, [b"250 a\r\n", b"550 b\r\n450 b\r\n", b"503 c\r\n"], ["Failed 550", "Deferred 450"], None),
        (PLAIN, [b"250 a\r\n", b"550 b\r\n", b"450 b\r\n"], ["Failed 550", "Deferred 450"], None),
        (PIPELINING, [b"250 a\r\n", b"250 b\r\n450 b\r\n", b"554 c\r\n"], ["Failed 554", "Deferred 450"], None),
        (PLAIN, [b"250 a\r\n", b"250 b\r\n", b"552 b\r\n", b"451 c\r\n"], ["Deferred 451", "Deferred 552"], None),
    ],
)
def test_a_transaction_that_ends_before_the_content(
    hello: bytes, replies: list[bytes], outcomes: list[str], refused: int | None
) -> None:
    machine = opened(hello)
    machine.begin(transaction())
    drain(machine)
    *before, last = [drain(machine, reply)[0] for reply in replies]
    assert not any(before)
    (settled,) = last
    assert isinstance(settled, Settled)
    assert brief(settled.outcomes) == outcomes
    assert (settled.refused_mail and settled.refused_mail.code) == refused
    machine.begin(transaction())
    left_open = replies[0].startswith(b"250")
    assert drain(machine)[1].startswith(b"RSET\r\n") == left_open
    events, out = drain(machine, b"250 again\r\n")
    assert events == []
    if hello is PLAIN:
        assert out == (b"MAIL FROM:<s@example.org>\r\n" if left_open else b"RCPT TO:<r0@example.net>\r\n")


def test_a_refused_rset_ends_the_session() -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    drain(machine, b"250 a\r\n550 b\r\n550 b\r\n503 c\r\n")
    machine.begin(transaction())
    drain(machine)
    with pytest.raises(RemoteProtocolError):
        drain(machine, b"502 no RSET here\r\n")
    assert brief(machine.conclude(LOST)) == [None, None]


@pytest.mark.parametrize("replies", [b"354 a\r\n", b"250 a\r\n354 b\r\n", b"250 a\r\n250 b\r\n250 b\r\n250 c\r\n"])
def test_answers_out_of_place_end_the_session(replies: bytes) -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    with pytest.raises(RemoteProtocolError):
        drain(machine, replies)


def test_a_dot_alone_ends_a_mail_for_nobody() -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    assert drain(machine, b"250 a\r\n550 b\r\n550 b\r\n354 c\r\n") == ([], b".\r\n")
    assert machine.awaited is Awaited.EMPTY
    (settled,), _ = drain(machine, b"250 taken\r\n")
    assert isinstance(settled, Settled)
    assert brief(settled.outcomes) == ["Failed 550"] * 2


@pytest.mark.parametrize(("refusal", "outcome"), [(b"550 a\r\n", "Failed 550"), (b"452 a\r\n", None)])
def test_a_354_after_a_refused_mail_ends_the_session(refusal: bytes, outcome: str | None) -> None:
    machine = opened()
    machine.begin(transaction())
    drain(machine)
    (event,), out = drain(machine, refusal + b"250 b\r\n250 b\r\n354 c\r\n")
    assert isinstance(event, Ended)
    assert event.reply is not None
    assert event.reply.code == int(refusal[:3])
    assert out == b""
    assert brief(machine.conclude(LOST)) == [outcome] * 2


def test_lmtp_takes_a_reply_a_recipient() -> None:
    machine = ClientMachine("client.example.org", lmtp=True)
    assert drain(machine, GREETING) == ([], b"LHLO client.example.org\r\n")
    drain(machine, PIPELINING)
    machine.begin(transaction(3))
    drain(machine)
    drain(machine, b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
    machine.end_content()
    assert drain(machine, b"250 saved\r\n") == ([], b"")
    (settled,), _ = drain(machine, b"452 full\r\n")
    assert isinstance(settled, Settled)
    assert brief(settled.outcomes) == ["Delivered 250", "Failed 550", "Deferred 452"]


def test_nothing_learnt_before_tls_counts_after_it() -> None:
    machine = opened(b"250-mx\r\n250-PIPELINING\r\n250-SIZE 10\r\n250 STARTTLS\r\n")
    machine.starttls()
    assert drain(machine) == ([], b"STARTTLS\r\n")
    assert drain(machine, b"220 go ahead\r\n") == ([TlsGranted()], b"")
    assert machine.state is ClientState.TLS_HANDSHAKE
    machine.tls_started()
    assert machine.secure
    assert not machine.offered.pipelining
    assert machine.offered.size_limit is None
    assert drain(machine) == ([], b"EHLO client.example.org\r\n")
    assert drain(machine, b"250-mx\r\n250 STARTTLS\r\n") == ([Ready()], b"")
    with pytest.raises(LocalProtocolError):
        machine.starttls()  # a second time makes no sense, RFC 3207 §4.2


@pytest.mark.parametrize("injected", [b"250 injected\r\n", b"250-half", b"x"])
def test_replies_injected_before_tls_end_the_session(injected: bytes) -> None:
    machine = opened(b"250-mx\r\n250 STARTTLS\r\n")
    machine.starttls()
    drain(machine)
    with pytest.raises(RemoteProtocolError):
        drain(machine, b"220 go ahead\r\n" + injected)
    with pytest.raises(LocalProtocolError):
        machine.tls_started()


def test_octets_that_come_during_the_handshake_are_no_replies() -> None:
    machine = opened(b"250-mx\r\n250 STARTTLS\r\n")
    machine.starttls()
    drain(machine)
    drain(machine, b"220 go ahead\r\n")
    with pytest.raises(RemoteProtocolError):
        drain(machine, b"250 injected\r\n")


def test_a_refused_starttls_leaves_the_session_as_it_is() -> None:
    machine = opened(b"250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n")
    machine.starttls()
    drain(machine)
    assert drain(machine, b"454 4.7.0 not now\r\n") == ([TlsRefused(Reply(454, "4.7.0", "not now"))], b"")
    assert machine.state is ClientState.READY
    assert machine.offered.pipelining


def test_auth_goes_back_and_forth() -> None:
    machine = opened(b"250-mx\r\n250 AUTH PLAIN LOGIN\r\n")
    machine.auth("PLAIN", b"\0user\0password")
    assert drain(machine) == ([], b"AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=\r\n")
    assert drain(machine, b"535 5.7.8 no\r\n") == ([AuthEnded(Reply(535, "5.7.8", "no"))], b"")
    machine.auth("LOGIN", None)
    assert drain(machine) == ([], b"AUTH LOGIN\r\n")
    assert drain(machine, b"334 VXNlcm5hbWU6\r\n") == ([AuthChallenge(b"Username:")], b"")
    machine.auth_response(b"user")
    assert drain(machine) == ([], b"dXNlcg==\r\n")
    assert drain(machine, b"334\r\n") == ([AuthChallenge(b"")], b"")
    machine.auth_response(None)
    assert drain(machine) == ([], b"*\r\n")
    assert drain(machine, b"501 5.7.0 cancelled\r\n")[0] == [AuthEnded(Reply(501, "5.7.0", "cancelled"))]
    machine.auth("PLAIN", b"")
    assert drain(machine) == ([], b"AUTH PLAIN =\r\n")
    assert drain(machine, b"235 2.7.0 welcome\r\n")[0] == [AuthEnded(Reply(235, "2.7.0", "welcome"))]
    assert machine.state is ClientState.READY


def test_a_challenge_that_is_no_base64_ends_the_session() -> None:
    machine = opened(b"250-mx\r\n250 AUTH LOGIN\r\n")
    machine.auth("LOGIN", None)
    drain(machine)
    with pytest.raises(RemoteProtocolError):
        drain(machine, b"334 !!!\r\n")


def test_our_own_mistakes_are_told() -> None:
    machine = ClientMachine("client.example.org")
    for mistake in (machine.quit, machine.end_content, machine.starttls, machine.tls_started):
        with pytest.raises(LocalProtocolError):
            mistake()
    with pytest.raises(LocalProtocolError):
        machine.begin(transaction())
    machine = opened()
    with pytest.raises(LocalProtocolError):
        machine.auth("PLAIN", b"")
    with pytest.raises(LocalProtocolError):
        machine.auth_response(b"")
    machine.begin(transaction())
    with pytest.raises(LocalProtocolError):
        machine.begin(transaction())
    machine.receive_data(b"")
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"more")
    ended = opened()
    drain(ended, eof=True)
    with pytest.raises(LocalProtocolError):
        ended.quit()


def test_no_command_can_hide_another() -> None:
    machine = opened()
    path = Recipient(Address("a", "example.net\r\nRSET"))
    with pytest.raises(LocalProtocolError):
        machine.begin(Transaction(Envelope(None, (path,)), 1, False))


# ---- hostile hosts


@define
class Driver:
    """Drives a machine over octets that know nothing of it, cut as told; keeps all that could be observed."""

    machine: ClientMachine
    observed: list[object] = field(factory=list)
    delivered: int = 0
    dots: int = 0

    def run(self, pieces: Iterable[bytes]) -> None:
        try:
            for piece in pieces:
                if piece:
                    self.machine.receive_data(piece)
                self.events()
                if self.machine.state is ClientState.CLOSED:
                    return
            self.machine.receive_data(b"")
            self.events()
        except RemoteProtocolError as error:
            self.observed.append(str(error))
            self.observed.append(self.machine.conclude(LOST))

    def events(self) -> None:
        while True:
            event = self.machine.next_event()
            if event is CLIENT_NEEDS_DATA:
                out = self.machine.data_to_send()
                if out:
                    self.observed.append(out)
                return
            self.observed.append(event)
            if isinstance(event, Ready | Settled):
                self.machine.begin(transaction(3))
            elif isinstance(event, ContentWanted):
                self.dots += 1
                self.machine.end_content()
            elif isinstance(event, Ended):
                self.observed.append(self.machine.conclude(LOST))
                return
            if isinstance(event, Settled):
                self.delivered += sum(isinstance(each, Delivered) for each in event.outcomes)


words = strategies.sampled_from(
    [
        b"220 hi\r\n",
        b"250 ok\r\n",
        b"250 2.1.5 ok\r\n",
        b"250-PIPELINING\r\n",
        b"250-mx\r\n250-PIPELINING\r\n250 DSN\r\n",
        b"354 go\r\n",
        b"450 later\r\n",
        b"550 5.1.1 no\r\n",
        b"552 many\r\n",
        b"421 bye\r\n",
        b"503 what\r\n",
        b"299 hm\r\n",
        b"334 AAAA\r\n",
        b"\r\n",
        b"250",
        b"x",
    ]
)
dialogues = strategies.lists(words | strategies.binary(max_size=8), max_size=30)


@given(dialogues, strategies.booleans(), strategies.booleans())
def test_no_host_raises_anything_but_protocol_errors(said: list[bytes], lmtp: bool, honest_start: bool) -> None:
    """One reply at a time, as a host that waits for our words would send them."""
    driver = Driver(ClientMachine("client.example.org", lmtp=lmtp))
    start = [GREETING, PIPELINING] if honest_start else []
    driver.run([*start, *said])
    # Nothing is delivered that was not sent.
    assert driver.delivered <= 3 * driver.dots
    for seen in driver.observed:
        outcomes = seen.outcomes if isinstance(seen, Settled) else seen if isinstance(seen, tuple) else ()
        assert len(outcomes) in (0, 3)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, Delivered | Deferred | Failed)
            assert outcome is None or outcome.reply.text.isprintable()


@given(dialogues, strategies.booleans())
def test_where_a_hosts_octets_are_cut_changes_nothing(said: list[bytes], lmtp: bool) -> None:
    """Each reply in one piece, or octet by octet: the same events, the same words of ours, the same outcomes."""
    replies = b"".join([GREETING, PIPELINING, *said]).splitlines(keepends=True)
    whole = Driver(ClientMachine("client.example.org", lmtp=lmtp))
    whole.run(replies)
    single = Driver(ClientMachine("client.example.org", lmtp=lmtp))
    single.run(line[index : index + 1] for line in replies for index in range(len(line)))
    assert single.observed == whole.observed
