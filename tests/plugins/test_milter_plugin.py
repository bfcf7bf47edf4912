"""The milter plugin with a scripted milter on a virtual network: what it hears, what becomes of its answers."""

import random
import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio

from elemta.mail.address import Address
from elemta.mail.envelope import Notify, Recipient
from elemta.net.base import Endpoint
from elemta.plugins.api import Verdict
from elemta.plugins.mail import MailInHand, SessionFacts
from elemta.plugins.milter.clients import NAME_SECONDS
from elemta.plugins.milter.link import MilterFailed
from elemta.plugins.milter.machine import MAX_MODIFICATIONS, MAX_PROGRESS
from elemta.plugins.milter.plugin import Milter, MilterSettings
from elemta.plugins.milter.wire import MAX_DATA_OCTETS, Stage, Step
from elemta.plugins.verdicts import (
    CONTINUE,
    MAX_BODY_OCTETS,
    AddHeader,
    Continue,
    Defer,
    Discard,
    Quarantine,
    Reject,
    RemoveHeader,
    ReplaceBody,
)
from elemta.simulation.resolver import ScriptedResolver
from tests.plugins.milter_world import (
    EVA,
    MAX,
    Answer,
    Deed,
    Machines,
    ScriptedMilter,
    World,
    changed,
    complete,
    inserted,
    mail,
    negotiation,
    packet,
    recipient,
    session,
)


async def begin(plugin: Milter, of: SessionFacts) -> MailInHand:
    """A session until behind RCPT; everything goes on."""
    assert await plugin.on_connect(of) == CONTINUE
    assert await plugin.on_helo(of) == CONTINUE
    return await another(plugin, of)


async def another(plugin: Milter, of: SessionFacts, queue_id: str = "0123456789abcdefghijkl") -> MailInHand:
    one = mail(of, queue_id=queue_id, declared_size=100)
    assert await plugin.on_mail_from(one) == CONTINUE
    assert await plugin.on_rcpt_to(one, recipient()) == CONTINUE
    one.add_recipient(recipient())
    return one


async def whole(plugin: Milter) -> Verdict:
    """A session with one mail."""
    return await plugin.on_data_complete(complete(await begin(plugin, session())))


async def judged(script: Mapping[str, Sequence[Answer]], **milter: Any) -> tuple[Verdict, ScriptedMilter]:
    """The verdict on a whole mail, and the milter that gave it."""
    scripted = ScriptedMilter(script, **milter)
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, scripted)
        of = session()
        one = await begin(plugin, of)
        verdict = await plugin.on_data_complete(complete(one))
        await plugin.on_disconnect(of)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    return verdict, scripted


# ---- what it hears -------------------------------------------------------------------------------


async def test_a_milter_hears_of_the_whole_mail(autojump_clock: trio.testing.MockClock) -> None:
    verdict, milter = await judged({})
    assert verdict == CONTINUE
    assert milter.letters == "OCHMRTLLLNBEQ"
    assert milter.said("C") == [b"[198.51.100.7]\x004\x12\x67198.51.100.7\0"]
    assert milter.said("HMR") == [
        b"client.example.org\0",
        b"<jo@example.org>\0SIZE=100\0",
        b"<max@example.com>\0",
    ]
    assert milter.said("L") == [
        b"From\0jo@example.org\0",
        b"To\0max@example.com\0",
        b"Subject\0a\n folded one\0",
    ]
    assert milter.said("B") == [b"hello\r\n.dot\r\n"]
    assert milter.macros("C") == {
        "j": "mail.example.com",
        "_": "[198.51.100.7]",
        "v": milter.macros("C")["v"],
        "{daemon_name}": "mx",
        "{daemon_addr}": "192.0.2.2",
        "{daemon_port}": "25",
        "{if_name}": "mail.example.com",
        "{if_addr}": "192.0.2.2",
        "{client_name}": "[198.51.100.7]",
        "{client_resolve}": "FAIL",
        "{client_addr}": "198.51.100.7",
        "{client_port}": "4711",
    }
    assert milter.macros("M") == {
        "i": "0123456789abcdefghijkl",
        "{mail_mailer}": "smtp",
        "{mail_host}": "example.org",
        "{mail_addr}": "jo@example.org",
    }
    assert milter.macros("R") == {
        "{rcpt_mailer}": "smtp",
        "{rcpt_host}": "example.com",
        "{rcpt_addr}": "max@example.com",
    }
    assert milter.macros("E") == {"i": "0123456789abcdefghijkl"}


async def test_answers_may_come_octet_by_octet(autojump_clock: trio.testing.MockClock) -> None:
    script = {"E": (packet("p"), inserted(1, b"X-Spam", b"no"), packet("c"))}
    verdict, milter = await judged(script, piece=1)
    assert verdict == Continue((AddHeader("X-Spam", b"no", at=1),))
    assert milter.letters == "OCHMRTLLLNBEQ"


async def test_a_milter_that_wants_little_hears_little(autojump_clock: trio.testing.MockClock) -> None:
    few = Step.NO_CONNECT | Step.NO_HELO | Step.NO_RCPT | Step.NO_DATA | Step.NO_BODY | Step.NO_END_OF_HEADER
    _, milter = await judged({}, negotiation=(negotiation(steps=few),))
    assert milter.letters == "OMLLLEQ"
    assert milter.macros("R")["{rcpt_addr}"] == "max@example.com"
    _, milter = await judged({}, negotiation=(negotiation(steps=Step.SILENT_HEADER | Step.SILENT_BODY),), silent="LB")
    assert milter.letters == "OCHMRTLLLNBEQ"


async def test_a_large_body_comes_in_pieces_until_the_milter_has_enough(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = b"".join(b"%06d\r\n" % number for number in range(20_000))
    for answers, pieces in (((packet("c"),), 3), ((packet("s"),), 1)):
        milter = ScriptedMilter({"B": answers}, negotiation=(negotiation(steps=Step.SKIP),))
        async with trio.open_nursery() as nursery:
            plugin = await Machines().plugin(nursery, milter)
            one = await begin(plugin, session())
            assert await plugin.on_data_complete(complete(one, b"A: b\r\n\r\n" + body)) == CONTINUE
            nursery.cancel_scope.cancel()
        found = milter.said("B")
        assert len(found) == pieces
        assert [len(piece) for piece in found[:-1]] == [MAX_DATA_OCTETS] * (pieces - 1)
        assert body.startswith(b"".join(found))
        assert milter.letters.endswith("E")


async def test_a_login_and_tls_become_macros(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter()
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        assert await plugin.on_connect(of) == CONTINUE
        assert await plugin.on_helo(of) == CONTINUE
        login = {"user": "jo", "mechanism": "SCRAM-SHA-256"}
        encrypted = session(tls="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", notes=of.notes, **login)
        assert await plugin.on_helo(encrypted) == CONTINUE
        await another(plugin, encrypted)
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHHMR"
    assert milter.macros("H") == {"{tls_version}": "TLSv1.3", "{cipher}": "TLS_AES_256_GCM_SHA384"}
    assert milter.macros("M")["{auth_authen}"] == "jo"
    assert milter.macros("M")["{auth_type}"] == "SCRAM-SHA-256"


async def test_a_session_has_several_mails_on_one_connection(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter()
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        first = await begin(plugin, of)
        await plugin.on_data_complete(complete(first))
        await another(plugin, of, "second")  # given up: RSET
        third = await another(plugin, of, "third")
        await plugin.on_data_complete(complete(third))
        await another(plugin, of, "fourth")
        assert await plugin.on_helo(of) == CONTINUE  # EHLO ends it
        await another(plugin, of, "fifth")
        await plugin.on_disconnect(of)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHMRTLLLNBEMRAMRTLLLNBEMRAHMRAQ"
    assert milter.connections == 1


async def test_sessions_have_connections_of_their_own(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter()
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        async with trio.open_nursery() as sessions:
            for _ in range(3):
                sessions.start_soon(begin, plugin, session())
        nursery.cancel_scope.cancel()
    assert milter.connections == 3


@pytest.mark.parametrize("address", ["unix:/run/milter", "192.0.2.1:8891", "inet:8891@milter.example.com"])
async def test_every_kind_of_address_is_connected_to(autojump_clock: trio.testing.MockClock, address: str) -> None:
    milter = ScriptedMilter()
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter, address=address)
        await begin(plugin, session())
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHMR"


async def test_clients_of_every_family_are_told(autojump_clock: trio.testing.MockClock) -> None:
    for client, said in (
        (Endpoint("2001:db8::7", 4711), b"[IPv6:2001:db8::7]\x006\x12\x672001:db8::7\0"),
        (Endpoint("/run/smtp"), b"localhost\0L\0\0/run/smtp\0"),
        (Endpoint(""), b"localhost\0U"),
    ):
        milter = ScriptedMilter()
        async with trio.open_nursery() as nursery:
            plugin = await Machines().plugin(nursery, milter)
            await plugin.on_connect(SessionFacts("s", client, Endpoint("192.0.2.2", 25), "mx"))
            nursery.cancel_scope.cancel()
        assert milter.said("C") == [said]


@pytest.mark.parametrize(
    ("address", "name", "macros"),
    [
        ("198.51.100.7", b"[198.51.100.7]", ("[198.51.100.7]", "", "FAIL")),
        ("198.51.100.8", b"yes.example.org", ("yes.example.org [198.51.100.8]", "yes.example.org", "OK")),
        ("198.51.100.9", b"[198.51.100.9]", ("[198.51.100.9]", "forged.example.org", "FORGED")),
        ("198.51.100.10", b"[198.51.100.10]", ("[198.51.100.10]", "", "TEMP")),
        ("127.0.0.1", b"localhost", ("localhost [127.0.0.1]", "localhost", "OK")),
        ("::1", b"localhost", ("localhost [::1]", "localhost", "OK")),
    ],
)
async def test_a_client_has_the_name_that_leads_back_to_it(
    autojump_clock: trio.testing.MockClock, address: str, name: bytes, macros: tuple[str, str, str]
) -> None:
    for asked in (True, False):
        milter = ScriptedMilter()
        async with trio.open_nursery() as nursery:
            plugin = await Machines().plugin(nursery, milter, client_names=asked)
            await plugin.on_connect(SessionFacts("s", Endpoint(address, 4711), Endpoint("192.0.2.2", 25), "mx"))
            nursery.cancel_scope.cancel()
        told = milter.macros("C")
        if asked:
            assert milter.said("C")[0].startswith(name + b"\0")
            assert (told["_"], told.get("{client_ptr}", ""), told["{client_resolve}"]) == macros
        else:
            assert milter.said("C")[0].startswith(b"[")
            assert "{client_resolve}" not in told


async def test_a_clients_name_is_asked_for_once_a_session(autojump_clock: trio.testing.MockClock) -> None:
    wanted = struct.pack(">I", Stage.MAIL) + b"{client_name}\0"
    milter = ScriptedMilter(negotiation=(negotiation(macros=wanted),))
    machines = Machines()
    async with trio.open_nursery() as nursery:
        plugin = await machines.plugin(nursery, milter)
        of = SessionFacts("s", Endpoint("198.51.100.8", 4711), Endpoint("192.0.2.2", 25), "mx", helo="x")
        assert await plugin.on_connect(of) == CONTINUE
        machines.names.clear()
        assert await plugin.on_helo(of) == CONTINUE
        await another(plugin, of)
        nursery.cancel_scope.cancel()
    assert milter.macros("M") == {"{client_name}": "yes.example.org"}


async def test_dns_that_does_not_answer_leaves_the_client_without_a_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    milter = ScriptedMilter()
    network = Machines().network
    async with trio.open_nursery() as nursery:
        (listener,) = await network.host("192.0.2.1").listen("192.0.2.1:8891", 10)
        nursery.start_soon(milter.serve, listener)
        silent = ScriptedResolver({}, random.Random(0), seconds=1e6)
        plugin = Milter(World(network.host("192.0.2.2"), resolver=silent), MilterSettings("192.0.2.1:8891"))
        started = trio.current_time()
        assert await plugin.on_connect(session()) == CONTINUE
        assert trio.current_time() - started == pytest.approx(NAME_SECONDS, abs=0.5)
        nursery.cancel_scope.cancel()
    assert milter.macros("C")["{client_resolve}"] == "TEMP"
    assert milter.macros("C")["{client_name}"] == "[198.51.100.7]"


async def test_what_a_recipient_asks_to_be_told_goes_along(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter()
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        one = await begin(plugin, session())
        for to in (
            Recipient(EVA, Notify.NEVER),
            Recipient(EVA, Notify.SUCCESS | Notify.DELAY, "rfc822;max a+b@example.com"),
            Recipient(Address("e v a", "example.com"), None, "utf-8;m\xfcx@example.com"),
        ):
            assert await plugin.on_rcpt_to(one, to) == CONTINUE
        nursery.cancel_scope.cancel()
    assert milter.said("R")[1:] == [
        b"<eva@example.com>\0NOTIFY=NEVER\0",
        b"<eva@example.com>\0NOTIFY=SUCCESS,DELAY\0ORCPT=rfc822;max+20a+2Bb@example.com\0",
        b'<"e v a"@example.com>\0ORCPT=utf-8;m\\x{FC}x@example.com\0',
    ]


# ---- what becomes of answers ---------------------------------------------------------------------

#: Answer → verdict, at MAIL, RCPT, or the end.
ANSWERS: list[tuple[bytes, Verdict]] = [
    (packet("r"), Reject("command rejected", code=550, enhanced="5.7.1")),
    (packet("t"), Defer("service unavailable, try again later", code=451, enhanced="4.7.1")),
    (packet("d"), Discard("discarded by a milter")),
    (packet("4"), Defer("server closing connection", code=421, enhanced="4.7.0")),
    (packet("f"), Defer("server closing connection", code=421, enhanced="4.7.0")),
    (packet("y", b"554 5.6.0 no viruses\0"), Reject("no viruses", code=554, enhanced="5.6.0")),
    (packet("y", b"452 no room\0"), Defer("no room", code=452, enhanced="4.7.1")),
    (packet("y", b"550\0"), Reject("command rejected", code=550, enhanced="5.7.1")),
    (packet("a"), CONTINUE),
]


@pytest.mark.parametrize(("answer", "verdict"), ANSWERS)
async def test_the_mail_meets_the_milters_decision(
    autojump_clock: trio.testing.MockClock, answer: bytes, verdict: Verdict
) -> None:
    for letter, letters in (("E", "TLLLNBE"), ("B", "TLLLNB"), ("N", "TLLLN"), ("L", "TL"), ("T", "T")):
        found, milter = await judged({letter: (answer,)})
        assert found == verdict
        assert milter.letters == f"OCHMR{letters}Q"  # nothing more of this mail


@pytest.mark.parametrize(("answer", "verdict"), ANSWERS)
async def test_sender_and_recipients_meet_the_milters_decision(
    autojump_clock: trio.testing.MockClock, answer: bytes, verdict: Verdict
) -> None:
    milter = ScriptedMilter({"M": [[answer]], "R": [[answer]]})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        await plugin.on_connect(of)
        await plugin.on_helo(of)
        assert await plugin.on_mail_from(mail(of, queue_id="one")) == verdict
        one = mail(of, queue_id="two")
        assert await plugin.on_mail_from(one) == CONTINUE
        assert await plugin.on_rcpt_to(one, recipient(MAX)) == verdict
        assert await plugin.on_rcpt_to(one, recipient(EVA)) == CONTINUE
        assert await plugin.on_data_complete(complete(one)) == CONTINUE
        nursery.cancel_scope.cancel()
    if answer[4:5] in b"rty":  # of one recipient alone
        assert milter.letters == "OCHMMRRTLLLNBE"
    else:
        assert milter.letters == "OCHMMR"


async def test_a_session_that_is_accepted_is_asked_about_no_more(autojump_clock: trio.testing.MockClock) -> None:
    for letter, letters in (("C", "OC"), ("H", "OCH")):
        milter = ScriptedMilter({letter: (packet("a"),)})
        async with trio.open_nursery() as nursery:
            plugin = await Machines().plugin(nursery, milter)
            of = session()
            one = await begin(plugin, of)
            assert await plugin.on_helo(of) == CONTINUE
            assert await plugin.on_data_complete(complete(one)) == CONTINUE
            await another(plugin, of, "second")
            await plugin.on_disconnect(of)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert milter.letters == letters + "Q"


@pytest.mark.parametrize(
    ("answer", "at_connect", "at_helo"),
    [
        (packet("r"), Reject("command rejected", code=554), Reject("command rejected", code=550)),
        (
            packet("t"),
            Defer("service unavailable, try again later", code=421),
            Defer("service unavailable, try again later", code=451),
        ),
        (
            packet("4"),
            Defer("server closing connection", code=421, enhanced="4.7.0"),
            Defer("server closing connection", code=421, enhanced="4.7.0"),
        ),
        (packet("y", b"554 5.7.1 go\0"), Reject("go", code=554), Reject("go", code=554)),
    ],
)
async def test_a_session_that_is_refused_stays_refused(
    autojump_clock: trio.testing.MockClock, answer: bytes, at_connect: Verdict, at_helo: Verdict
) -> None:
    milter = ScriptedMilter({"C": [[answer]], "H": [[answer]]})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        assert await plugin.on_connect(of) == at_connect
        assert await plugin.on_helo(of) == at_connect
        of = session()
        assert await plugin.on_connect(of) == CONTINUE
        assert await plugin.on_helo(of) == at_helo
        assert await plugin.on_helo(of) == at_helo
        assert await plugin.on_mail_from(mail(of)) == at_helo
        assert await plugin.on_rcpt_to(mail(of), recipient()) == at_helo
        assert await plugin.on_data_complete(mail(of)) == at_helo
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCOCH"


async def test_changes_come_with_the_verdict(autojump_clock: trio.testing.MockClock) -> None:
    changes = (
        changed(1, b"Subject", b""),
        inserted(0, b"Authentication-Results", b" mail.example.com;\n\tspf=pass"),
        packet("b", b"one\r\n"),
        packet("b", b"two\r\n"),
    )
    wanted = (
        RemoveHeader("Subject", 1),
        AddHeader("Authentication-Results", b"mail.example.com;\r\n\tspf=pass", at=0),
        ReplaceBody(b"one\r\ntwo\r\n"),
    )
    verdict, _ = await judged({"E": (*changes, packet("c"))})
    assert verdict == Continue(wanted)
    verdict, _ = await judged({"E": (*changes, packet("q", b"looks odd\0"), packet("a"))})
    assert verdict == Quarantine("looks odd", wanted)
    verdict, _ = await judged({"E": (*changes, packet("r"))})
    assert verdict == Reject("command rejected")


async def test_the_space_behind_the_colon_is_kept_for_who_asks(autojump_clock: trio.testing.MockClock) -> None:
    answer = (inserted(1, b"X-A", b" b"), packet("c"))
    verdict, milter = await judged({"E": answer}, negotiation=(negotiation(steps=Step.LEADING_SPACE),))
    assert milter.said("L")[0] == b"From\0 jo@example.org\0"
    assert verdict == Continue((AddHeader("X-A", b"b", at=1),))


async def test_lines_that_are_no_fields_are_not_shown(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter({"E": (inserted(2, b"X-A", b"b"), packet("c"))})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        one = complete(await begin(plugin, session()), b"no field\r\nA: b\r\n\r\n")
        verdict = await plugin.on_data_complete(one)
        assert isinstance(verdict, Continue)
        one.apply(verdict.changes)
        nursery.cancel_scope.cancel()
    assert milter.said("L") == [b"A\0b\0"]
    assert [name for name, _ in one.headers.fields] == ["Received", "", "X-A", "A"]


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ((Deed.CLOSE,), "instead of answering"),
        ((packet("c")[:3], Deed.CLOSE), "instead of answering"),
        ((Deed.RESET,), "broke: connection reset"),
        ((b"\xff\xff\xff\xff",), "a packet of 4294967295 octets"),
        ((b"220 mail.example.com ESMTP\r\n",), "a packet of 842149920 octets"),
        ((packet("?"),), "unknown kind"),
        ((packet("c"), packet("c")), "more than it was asked for"),
    ],
)
@pytest.mark.parametrize("letter", "OCHMRTLNBE")
async def test_a_milter_that_breaks_the_protocol_is_a_failure(
    autojump_clock: trio.testing.MockClock, letter: str, answers: tuple[Answer, ...], says: str
) -> None:
    if letter == "O" and answers == (packet("c"), packet("c")):
        says = "answers the negotiation with continue"
    # At the piece in which both packets come: sent as one.
    joined = b"".join(answer for answer in answers if isinstance(answer, bytes))
    deeds = tuple(answer for answer in answers if not isinstance(answer, bytes))
    script = ((joined,) if joined else ()) + deeds
    milter = ScriptedMilter({letter: script}, negotiation=script if letter == "O" else (negotiation(),))
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        with pytest.raises(MilterFailed, match=says) as failure:
            await whole(plugin)
        assert "inet:8891@192.0.2.1" in str(failure.value)
        nursery.cancel_scope.cancel()
    assert milter.letters.endswith(letter)


@pytest.mark.parametrize(
    ("piece", "says"),
    [
        (packet("b", b"0123456789abcd\r\n" * 4000), f"another body of more than {MAX_BODY_OCTETS} octets"),
        (packet("b", b"\n" * 65000), f"another body of more than {MAX_BODY_OCTETS} octets"),
        (packet("b") * 100, f"more than {MAX_MODIFICATIONS} changes"),
        (packet("h", b"A\0b\0") * 100, f"more than {MAX_MODIFICATIONS} changes"),
        (packet("p") * 100, f"more than {MAX_PROGRESS} times that it is at work"),
    ],
)
async def test_a_milter_whose_answer_has_no_end_is_left(
    autojump_clock: trio.testing.MockClock, piece: bytes, says: str
) -> None:
    milter = ScriptedMilter({"E": (piece,) * 100_000})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        one = await begin(plugin, session())
        tracemalloc.start()
        with pytest.raises(MilterFailed, match=says):
            await plugin.on_data_complete(complete(one))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        nursery.cancel_scope.cancel()
    assert most < 3 * MAX_BODY_OCTETS
    assert milter.gone == 1


async def test_bodies_under_way_have_room_for_a_few(autojump_clock: trio.testing.MockClock) -> None:
    piece = packet("b", b"0123456789abcd\r\n" * 4000)
    large = (piece,) * (MAX_BODY_OCTETS // len(piece))
    crowd = 6
    hanging: list[Answer] = [*large, Deed.HANG]
    whole: list[Answer] = [*large, packet("c")]
    milter = ScriptedMilter({"E": [*[hanging] * crowd, whole]})
    said: list[str] = []

    async def one(plugin: Milter, number: int) -> None:
        mail = await begin(plugin, session())
        await trio.sleep(number)  # one after the other
        with pytest.raises(MilterFailed) as failure:
            await plugin.on_data_complete(complete(mail))
        said.append(str(failure.value).partition(": ")[0].removeprefix("the milter at inet:8891@192.0.2.1 "))

    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter, content_timeout=60.0)
        async with trio.open_nursery() as clients:
            for number in range(crowd):
                clients.start_soon(one, plugin, number)
        assert said == ["gives another body, and there is no room"] * 2 + ["did not answer within 60 s"] * 4
        late = await begin(plugin, session())
        assert isinstance(await plugin.on_data_complete(complete(late)), Continue), "all of it was given back"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("letter", "seconds"),
    [
        ("O", 5.0),
        ("C", 10.0),
        ("H", 10.0),
        ("M", 10.0),
        ("R", 10.0),
        ("T", 10.0),
        ("L", 10.0),
        ("B", 10.0),
        ("E", 60.0),
    ],
)
async def test_a_milter_that_hangs_is_a_failure_after_its_timeout(
    autojump_clock: trio.testing.MockClock, letter: str, seconds: float
) -> None:
    deeds = (Deed.HANG,)
    milter = ScriptedMilter({letter: deeds}, negotiation=deeds if letter == "O" else (negotiation(),))
    timeouts: dict[str, Any] = {"connect_timeout": 5.0, "command_timeout": 10.0, "content_timeout": 60.0}
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter, **timeouts)
        started = trio.current_time()
        with pytest.raises(MilterFailed, match=f"did not answer within {seconds:g} s"):
            await whole(plugin)
        assert trio.current_time() - started == pytest.approx(seconds, abs=0.5)
        nursery.cancel_scope.cancel()


async def test_a_failure_leaves_no_connection_behind(autojump_clock: trio.testing.MockClock) -> None:
    for script, negotiated in (({}, packet("c")), ({"C": (packet("d"),)}, negotiation())):
        milter = ScriptedMilter(script, negotiation=(negotiated,))
        async with trio.open_nursery() as nursery:
            plugin = await Machines().plugin(nursery, milter)
            of = session()
            with pytest.raises(MilterFailed):
                await plugin.on_connect(of)
            await trio.sleep(1)
            assert (milter.connections, milter.gone) == (1, 1)
            nursery.cancel_scope.cancel()


async def test_a_milter_that_is_at_work_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    slow: tuple[Answer, ...] = (50.0, packet("p"), 50.0, packet("p"), 50.0, packet("c"))
    milter = ScriptedMilter({"E": [list(slow), [*slow[:-1], 50.0]]})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter, content_timeout=60.0)
        of = session()
        one = await begin(plugin, of)
        started = trio.current_time()
        assert await plugin.on_data_complete(complete(one)) == CONTINUE
        assert trio.current_time() - started == pytest.approx(150.0, abs=0.5)
        one = await another(plugin, of, "second")
        with pytest.raises(MilterFailed, match="within 60 s"):
            await plugin.on_data_complete(complete(one))
        nursery.cancel_scope.cancel()


async def test_after_a_failure_the_next_mail_has_a_new_connection(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter({"T": [[Deed.CLOSE]]})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        one = await begin(plugin, of)
        with pytest.raises(MilterFailed):
            await plugin.on_data_complete(complete(one))
        with pytest.raises(MilterFailed, match="not told of this mail from its beginning"):
            await plugin.on_rcpt_to(one, recipient())
        second = await another(plugin, of, "second")
        assert await plugin.on_data_complete(complete(second)) == CONTINUE
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHMRTOCHMRTLLLNBE"
    assert milter.connections == 2


@pytest.mark.parametrize("ends", [Deed.CLOSE, Deed.RESET])
async def test_a_milter_that_was_started_again_between_mails_is_no_failure(
    autojump_clock: trio.testing.MockClock, ends: Deed
) -> None:
    answers: list[Answer] = [packet("c"), 0.5, ends]
    milter = ScriptedMilter({"E": [answers]})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        one = await begin(plugin, of)
        assert await plugin.on_data_complete(complete(one)) == CONTINUE
        await trio.sleep(1)
        second = await another(plugin, of, "second")
        assert await plugin.on_data_complete(complete(second)) == CONTINUE
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHMRTLLLNBE" * 2


@pytest.mark.parametrize("ends", [Deed.CLOSE, Deed.RESET])
async def test_a_milter_that_was_started_again_between_two_ehlo_is_no_failure(
    autojump_clock: trio.testing.MockClock, ends: Deed
) -> None:
    answers: list[Answer] = [packet("c"), 0.5, ends]
    milter = ScriptedMilter({"H": [answers]})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        await plugin.on_connect(of)
        assert await plugin.on_helo(of) == CONTINUE
        await trio.sleep(1)
        assert await plugin.on_helo(of) == CONTINUE
        await another(plugin, of)
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHOCHMR"


async def test_a_milter_that_hangs_up_at_each_ehlo_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter({"H": (Deed.CLOSE,)})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        await plugin.on_connect(of)
        with pytest.raises(MilterFailed, match="closed the connection instead of answering HELO"):
            await plugin.on_helo(of)
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHOCH", "once more, and no more"


async def test_a_mail_whose_beginning_the_milter_missed_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter()
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        await begin(plugin, of)
        for stranger in (mail(of, queue_id="stranger"), mail(session(), queue_id="stranger")):
            with pytest.raises(MilterFailed, match="not told of this mail"):
                await plugin.on_rcpt_to(stranger, recipient())
            with pytest.raises(MilterFailed, match="not told of this mail"):
                await plugin.on_data_complete(complete(stranger))
        nursery.cancel_scope.cancel()


async def test_a_milter_that_is_away_is_asked_again_when_it_is_back(autojump_clock: trio.testing.MockClock) -> None:
    machines = Machines()
    here = World(machines.network.host("192.0.2.2"))
    plugin = Milter(here, MilterSettings("192.0.2.1:8891", connect_timeout=5.0))
    of = session()
    with pytest.raises(MilterFailed, match="did not answer within 5 s"):  # nobody has this address
        await plugin.on_connect(of)
    milter = ScriptedMilter()
    async with trio.open_nursery() as nursery:
        (other,) = await machines.network.host("192.0.2.1").listen("192.0.2.1:1", 10)
        with pytest.raises(MilterFailed, match="cannot be reached: Connection refused"):
            await plugin.on_helo(of)
        (listener,) = await machines.network.host("192.0.2.1").listen("192.0.2.1:8891", 10)
        nursery.start_soon(milter.serve, listener)
        await another(plugin, of)
        other.close()
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHMR"


async def test_a_milter_that_comes_late_may_decide_on_the_session(autojump_clock: trio.testing.MockClock) -> None:
    answers: list[list[Answer]] = [[Deed.CLOSE], [packet("r")]]
    milter = ScriptedMilter({"C": answers})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        with pytest.raises(MilterFailed):
            await plugin.on_connect(of)
        refusal = Reject("command rejected", code=554)
        assert await plugin.on_helo(of) == refusal
        assert await plugin.on_mail_from(mail(of)) == refusal
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCOC"


async def test_a_name_without_an_address_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    plugin = Milter(World(Machines().network.host("192.0.2.2")), MilterSettings("inet:8891@nowhere.example.com"))
    with pytest.raises(MilterFailed, match=r"nowhere\.example\.com has no address"):
        await plugin.on_connect(session())
    plugin = Milter(World(Machines().network.host("192.0.2.2")), MilterSettings("inet:8891@gone.example.com"))
    with pytest.raises(MilterFailed, match=r"no address of gone\.example\.com"):
        await plugin.on_connect(session())


async def test_a_change_that_cannot_be_made_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(MilterFailed, match="is no name of a header field")):
        await judged({"E": (packet("h", b"no name\0x\0"), packet("c"))})


async def test_a_call_that_is_cut_off_leaves_no_connection_behind(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter({"M": [[Deed.HANG]]})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        await plugin.on_connect(of)
        await plugin.on_helo(of)
        with trio.move_on_after(1.0) as scope:
            await plugin.on_mail_from(mail(of, queue_id="cut"))
        assert scope.cancelled_caught
        with pytest.raises(MilterFailed, match="not told of this mail"):
            await plugin.on_rcpt_to(mail(of, queue_id="cut"), recipient())
        await another(plugin, of, "second")
        nursery.cancel_scope.cancel()
    assert milter.letters == "OCHMOCHMR"


async def test_a_session_ends_though_the_milter_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    milter = ScriptedMilter({"E": (packet("c"), Deed.RESET)})
    async with trio.open_nursery() as nursery:
        plugin = await Machines().plugin(nursery, milter)
        of = session()
        one = await begin(plugin, of)
        assert await plugin.on_data_complete(complete(one)) == CONTINUE
        await trio.sleep(1)
        await plugin.on_disconnect(of)
        await plugin.on_disconnect(of)
        await plugin.on_disconnect(session())
        nursery.cancel_scope.cancel()


# ---- settings ------------------------------------------------------------------------------------


def test_a_milter_needs_its_address() -> None:
    world = World(Machines().network.host("192.0.2.2"))
    for settings in (None, object()):
        with pytest.raises(ValueError, match="address"):
            Milter(world, settings)
    with pytest.raises(ValueError, match="neither a path nor a port"):
        Milter(world, MilterSettings("nowhere"))
