"""What the transport makes of the hosts it meets: one outcome a recipient, whatever they say or do."""

import attrs
import pytest
import trio
import trio.testing

from elemta.delivery.base import AttemptStopped
from elemta.mail.envelope import BodyType, Notify, Ret
from elemta.mail.outcome import Deferred, Delivered, Failed, Outcome
from tests.delivery.jobs import Attempt, attempt
from tests.delivery.scripted import EVERYTHING, Host, world

CONTENT = b"Subject: dots\r\n\r\n.one\r\n..two\r\nend\r\n"
STUFFED = b"Subject: dots\r\n\r\n..one\r\n...two\r\nend\r\n"
BARE = ()  # no extension at all
NO_PIPELINING = tuple(each for each in EVERYTHING if each != "PIPELINING")

OK, NO = "Delivered 250 2.0.0", "Failed 550 5.1.1"
LATER, CLOSING = "Deferred 451 4.3.0", "Deferred 421 4.3.2"


async def deliver(given: Attempt, *hosts: Host | None) -> list[Outcome]:
    async with trio.open_nursery() as nursery:
        here = world(nursery, *hosts)
        outcomes = list(await here.transport.deliver(given.job))
        await here.pool.close_all()
        nursery.cancel_scope.cancel()
    return outcomes


def brief(outcomes: list[Outcome]) -> list[str]:
    return [f"{type(each).__name__} {each.reply.code} {each.reply.enhanced}".strip() for each in outcomes]


@pytest.mark.parametrize("extensions", [EVERYTHING, NO_PIPELINING, BARE])
async def test_a_mail_arrives_with_its_dots_doubled(extensions: tuple[str, ...]) -> None:
    host = Host(extensions=extensions)
    given = attempt("one@example.net", "two@example.net", content=CONTENT)
    outcomes = await deliver(given, host)
    assert brief(outcomes) == [OK] * 2
    assert [mail.content for mail in host.mails] == [STUFFED]
    assert [command.split(" ")[:2] for command in host.mails[0].commands] == [
        ["MAIL", "FROM:<sender@example.org>"],
        ["RCPT", "TO:<one@example.net>"],
        ["RCPT", "TO:<two@example.net>"],
        ["DATA"],
    ]
    assert given.gate.asked == 1
    assert host.commands[-1] == "QUIT"


async def test_outcomes_name_the_host_and_keep_its_words() -> None:
    (outcome,) = await deliver(
        attempt("one@example.net"), Host(replies={"RCPT": ["550-5.1.1 no\r\n550 5.1.1 such user"]})
    )
    assert isinstance(outcome, Failed)
    assert (outcome.peer.host, outcome.peer.address) == ("mx1.example.net", "192.0.2.1:25")
    assert outcome.reply.lines == ("no", "such user")


@pytest.mark.parametrize("extensions", [EVERYTHING, NO_PIPELINING])
@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"RCPT": ["250 ok", "550 5.1.1 no", "451 4.7.1 later"]}, [OK, NO, "Deferred 451 4.7.1"]),
        ({"RCPT": ["550 5.1.1 no", "450 4.2.0 greylisted", "250 ok"]}, [NO, "Deferred 450 4.2.0", OK]),
        ({"RCPT": ["450 4.7.1 greylisted"]}, ["Deferred 450 4.7.1"] * 3),
        ({"RCPT": ["550 5.7.1 no"]}, ["Failed 550 5.7.1"] * 3),
        ({"RCPT": ["599 5.9.9 who knows", "499 what", "299 strange"]}, ["Failed 599 5.9.9", "Deferred 499", OK]),
        ({"RCPT": ["250 ok", "552 too many", "552 5.2.2 full"]}, [OK, "Deferred 552", "Failed 552 5.2.2"]),
        ({"MAIL": ["550 5.7.1 not you"]}, ["Failed 550 5.7.1"] * 3),
        ({"MAIL": ["452 4.3.1 no room"]}, ["Deferred 452 4.3.1"] * 3),
        ({"DATA": ["554 5.6.0 no"]}, ["Failed 554 5.6.0"] * 3),
        ({"DATA": ["451 4.3.0 later"]}, [LATER] * 3),
        ({"DATA": ["451 4.3.0 later"], "RCPT": ["250 ok", "550 5.1.1 no"]}, [LATER, NO, NO]),
        ({".": ["552 5.3.4 too large"]}, ["Failed 552 5.3.4"] * 3),
        ({".": ["451 4.7.0 scanner away"]}, ["Deferred 451 4.7.0"] * 3),
        ({".": ["299 well"]}, ["Delivered 299"] * 3),
        ({".": ["421 4.3.2 closing"]}, [CLOSING] * 3),
        ({"RCPT": ["250 ok", "421 4.3.2 closing"]}, [CLOSING] * 3),
        ({"RCPT": ["550 5.1.1 no", "421 4.3.2 closing"]}, [NO, CLOSING, CLOSING]),
        ({"DATA": ["421 4.3.2 closing"]}, [CLOSING] * 3),
        ({"DATA": ["354 go\r\n250 2.0.0 queued already"]}, ["Deferred 451 4.5.0"] * 3),
        ({"DATA": ["close"]}, ["Deferred 451 4.4.2"] * 3),
    ],
)  # fmt: skip
async def test_replies_become_outcomes(
    extensions: tuple[str, ...], replies: dict[str, list[str]], expected: list[str]
) -> None:
    given = attempt("one@example.net", "two@example.net", "three@example.net", content=CONTENT)
    outcomes = await deliver(given, Host(extensions=extensions, replies=replies))
    assert brief(outcomes) == expected
    assert not any(isinstance(each, Deferred) and each.uncertain for each in outcomes)


@pytest.mark.parametrize("last", ["close", "hang", "250-half", "rubbish", "354 more?", "250-one\r\n550 two"])
async def test_a_lost_final_reply_is_uncertain(last: str, autojump_clock: trio.testing.MockClock) -> None:
    given = attempt("one@example.net", "two@example.net", content=CONTENT)
    started = trio.current_time()
    outcomes = await deliver(given, Host(replies={".": [last]}), Host())
    assert [isinstance(each, Deferred) and each.uncertain for each in outcomes] == [True, True]
    assert outcomes[0].reply.code == 451
    if last in ("hang", "250-half"):
        assert trio.current_time() - started == pytest.approx(600.0, abs=1.5)  # RFC 5321 §4.5.3.2.6


async def test_nothing_is_sent_through_a_closed_gate() -> None:
    host = Host()
    given = attempt("one@example.net", content=CONTENT, opens=False)
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        with pytest.raises(AttemptStopped):
            await here.transport.deliver(given.job)
        assert host.streams[0].aborted
        assert here.pool.idle == 0
    assert host.commands[-1] == "DATA"
    assert host.mails == []


async def test_the_gate_is_not_asked_where_nobody_would_get_the_mail() -> None:
    given = attempt("one@example.net", content=CONTENT, opens=False)
    assert brief(await deliver(given, Host(replies={"RCPT": ["550 5.1.1 no"]}))) == [NO]
    assert given.gate.asked == 0


async def test_a_354_for_nobody_is_ended_with_a_dot_alone() -> None:
    host = Host(replies={"RCPT": ["550 5.1.1 no"], "DATA": ["354 go ahead anyway"]})
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        for _ in range(2):  # the session goes on
            outcomes = list(await here.transport.deliver(attempt("one@example.net", content=CONTENT).job))
            assert brief(outcomes) == [NO]
        nursery.cancel_scope.cancel()
    assert [mail.content for mail in host.mails] == [b"", b""]
    assert host.sessions == 1


async def test_a_354_after_a_refused_mail_ends_the_session() -> None:
    host = Host(replies={"MAIL": ["550 5.7.1 not you"], "DATA": ["354 go ahead anyway"]})
    assert brief(await deliver(attempt("one@example.net", content=CONTENT), host)) == ["Failed 550 5.7.1"]
    assert host.mails == []


async def test_dsn_priority_and_body_are_passed_on() -> None:
    host = Host()
    given = attempt("one@example.net", "two@example.net", content="Subject: é\r\n\r\n".encode())
    envelope = given.job.envelope
    one, two = envelope.recipients
    envelope = attrs.evolve(
        envelope,
        recipients=(
            attrs.evolve(one, notify=Notify.SUCCESS | Notify.DELAY, original="rfc822;a+b=c@example.com"),
            attrs.evolve(two, notify=Notify.NEVER),
        ),
        body=BodyType.EIGHT_BIT_MIME,
        ret=Ret.HEADERS,
        envid="id 1",
        mt_priority=-3,
    )
    outcomes = await deliver(attrs.evolve(given, job=attrs.evolve(given.job, envelope=envelope)), host)
    assert [isinstance(each, Delivered) and each.relayed_dsn for each in outcomes] == [True, True]
    assert host.mails[0].commands[:3] == [
        "MAIL FROM:<sender@example.org> SIZE=15 BODY=8BITMIME RET=HDRS ENVID=id+201 MT-PRIORITY=-3",
        "RCPT TO:<one@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb+3Dc@example.com",
        "RCPT TO:<two@example.net> NOTIFY=NEVER",
    ]


async def test_nothing_is_said_that_was_not_offered() -> None:
    host = Host(replies={"EHLO": ["502 5.5.1 what?"]}, extensions=BARE)
    given = attempt("one@example.net", content=CONTENT)
    envelope = attrs.evolve(given.job.envelope, ret=Ret.FULL, envid="x", mt_priority=2, body=BodyType.EIGHT_BIT_MIME)
    outcomes = await deliver(attrs.evolve(given, job=attrs.evolve(given.job, envelope=envelope)), host)
    assert [isinstance(each, Delivered) and each.relayed_dsn for each in outcomes] == [False]
    assert host.mails[0].commands == ["MAIL FROM:<sender@example.org>", "RCPT TO:<one@example.net>", "DATA"]


async def test_a_mail_too_large_is_not_sent() -> None:
    host = Host(extensions=("SIZE 1000",))
    outcomes = await deliver(attempt("one@example.net", content=b"x" * 78 + b"\r\n" + CONTENT * 40), host)
    assert brief(outcomes) == ["Failed 552 5.3.4"]
    assert not any(command.startswith("MAIL") for command in host.commands)


async def test_unicode_needs_smtputf8() -> None:
    ascii_only = tuple(each for each in EVERYTHING if each != "SMTPUTF8")
    mixed = attempt("one@example.net", "zwölf@example.net", content=CONTENT)
    assert brief(await deliver(mixed, Host(extensions=ascii_only))) == [OK, "Failed 553 5.6.7"]
    only = Host(extensions=ascii_only)
    assert brief(await deliver(attempt("zwölf@example.net", content=CONTENT), only)) == ["Failed 553 5.6.7"]
    assert not any(command.startswith("MAIL") for command in only.commands)
    sender = attempt("one@example.net", content=CONTENT, sender="zwölf@example.org")
    assert brief(await deliver(sender, Host(extensions=ascii_only))) == ["Failed 553 5.6.7"]
    able = Host()
    assert brief(await deliver(mixed, able)) == [OK] * 2
    assert able.mails[0].commands[0].endswith(" SMTPUTF8")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (CONTENT, OK),
        ("Subject: plain\r\n\r\nbödy\r\n".encode(), OK),
        ("Subject: hällo\r\n\r\nbody\r\n".encode(), "Failed 550 5.6.7"),
    ],
)
async def test_a_mail_declared_smtputf8_goes_where_its_header_can(content: bytes, expected: str) -> None:
    given = attempt("one@example.net", content=content)
    envelope = attrs.evolve(given.job.envelope, smtputf8=True)
    declared = attrs.evolve(given, job=attrs.evolve(given.job, envelope=envelope))
    assert brief(await deliver(declared, Host(extensions=("8BITMIME",)))) == [expected]


async def test_a_mail_that_requires_tls_goes_nowhere_without_it() -> None:
    host = Host()
    given = attempt("one@example.net", content=CONTENT)
    envelope = attrs.evolve(given.job.envelope, require_tls=True)
    outcomes = await deliver(attrs.evolve(given, job=attrs.evolve(given.job, envelope=envelope)), host)
    assert brief(outcomes) == ["Failed 550 5.7.30"]
    assert host.mails == []


@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\n.\n.\r\n", b"a\r\n\r", b"\r\r\n"])
async def test_bare_line_ends_are_never_passed_on(content: bytes) -> None:
    host = Host()
    assert brief(await deliver(attempt("one@example.net", content=content), host)) == ["Failed 554 5.6.0"]
    assert host.mails == []
    assert host.streams[0].aborted


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 700_000])
async def test_content_of_every_size_arrives_whole(size: int) -> None:
    line = b"." + b"x" * 60 + b"\r\n"
    content = (line * (size // len(line) + 1))[:size].rstrip(b"\r")
    host = Host(extensions=("PIPELINING",))
    given = attempt("one@example.net", content=content)
    assert brief(await deliver(given, host)) == [OK]
    whole = host.mails[0].content.replace(b"\r\n..", b"\r\n.").removeprefix(b".")
    assert whole in (content, content + b"\r\n")
    assert given.content.reads == len(range(0, max(size, 1), 256 * 1024))


async def test_stored_content_that_ends_early_is_not_sent() -> None:
    given = attempt("one@example.net", content=b"")

    class Short:
        size = 100
        eight_bit = False

        async def read(self, offset: int, limit: int) -> bytes:
            return b"x\r\n" if not offset else b""

    host = Host()
    outcomes = await deliver(attrs.evolve(given, job=attrs.evolve(given.job, content=Short())), host)
    assert brief(outcomes) == [LATER]
    assert host.mails == []


class Curt(Host):
    """It says 552 in the middle of the content, and hangs up."""

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"220 hi\r\n")
        await stream.receive_some()
        await stream.send_all(b"250-mx\r\n250 PIPELINING\r\n")
        await stream.receive_some()
        await stream.send_all(b"250 ok\r\n250 ok\r\n354 go\r\n")
        await stream.receive_some()
        await stream.send_all(b"552 5.3.4 enough\r\n")
        await stream.aclose()


async def test_a_host_that_wants_no_more_is_believed() -> None:
    content = b"x" * 76 + b"\r\n"
    outcomes = await deliver(attempt("one@example.net", content=content * 20_000), Curt())
    assert brief(outcomes) == ["Failed 552 5.3.4"]


async def test_more_than_a_hundred_recipients_take_several_transactions() -> None:
    host = Host(replies={"RCPT": ["250 ok"] * 150 + ["550 5.1.1 no", "250 ok"]})
    given = attempt(*(f"r{number}@example.net" for number in range(250)), content=CONTENT)
    outcomes = await deliver(given, host)
    assert [index for index, each in enumerate(outcomes) if not isinstance(each, Delivered)] == [150]
    assert [len(mail.commands) - 2 for mail in host.mails] == [100, 100, 50]
    assert given.gate.asked == 1
    assert host.sessions == 1


async def test_a_gate_that_closes_late_stops_what_nobody_got_yet() -> None:
    """The first hundred are refused before the gate is asked, the next would get the mail."""
    host = Host(replies={"RCPT": ["550 5.1.1 no"] * 100 + ["250 ok"]})
    given = attempt(*(f"r{number}@example.net" for number in range(150)), content=CONTENT, opens=False)
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        with pytest.raises(AttemptStopped):
            await here.transport.deliver(given.job)
        nursery.cancel_scope.cancel()
    assert host.mails == []


async def test_a_defect_in_a_later_transaction_hides_no_delivery() -> None:
    class Vanishing:
        """Content that is gone when it is read again."""

        size = 3
        eight_bit = False
        reads = 0

        async def read(self, offset: int, limit: int) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise FileNotFoundError("the content is gone")
            return b"x\r\n"

    host = Host()
    given = attempt(*(f"r{number}@example.net" for number in range(150)), content=b"")
    outcomes = await deliver(attrs.evolve(given, job=attrs.evolve(given.job, content=Vanishing())), host)
    assert brief(outcomes) == [OK] * 100 + [LATER] * 50
    assert len(host.mails) == 1
    assert host.streams[0].aborted


async def test_hosts_that_failed_are_not_asked_for_the_next_hundred() -> None:
    given = attempt(*(f"r{number}@example.net" for number in range(250)), content=CONTENT)
    async with trio.open_nursery() as nursery:
        here = world(nursery, None, None)
        outcomes = await here.transport.deliver(given.job)
        assert len(here.network.tried) == 2
    assert brief(list(outcomes)) == ["Deferred 451 4.4.1"] * 250
