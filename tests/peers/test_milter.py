"""The milter plugin with real milters: OpenDKIM, whose signatures dkimpy judges, and rspamd."""

import re
import smtplib
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from attrs import evolve

from elemta.mail.address import Address
from elemta.net.base import Endpoint
from elemta.net.sockets import SystemNetwork
from elemta.plugins.mail import MailInHand, SessionFacts
from elemta.plugins.milter.plugin import Milter, MilterSettings
from elemta.plugins.milter.wire import Step
from elemta.plugins.verdicts import CONTINUE, Continue, Defer, Reject, Verdict
from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.opendkim import OpenDkim, make_keys, signed, verifies
from tests.peers.postfix import Postfix
from tests.peers.rspamd import Rspamd
from tests.peers.wire import free_port, queued, wait_until
from tests.plugins.milter_world import (
    Answer,
    ScriptedMilter,
    World,
    changed,
    complete,
    inserted,
    mail,
    negotiation,
    packet,
    recipient,
)

Needs = Callable[[str], Path]

opendkim = pytest.mark.needs("opendkim", "opendkim-genkey")

MAIL = (
    b"From: Jo <jo@example.com>\r\nTo: max@example.org\r\nSubject:  two  spaces\r\n\tand a fold\r\n"
    b"Date: Wed, 25 Nov 2026 18:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\n%s"
)
#: Bodies that a careless road would change: a line with one dot, empty lines at the end, octets, many pieces.
BODIES = (b"", b"hello\r\n", b".\r\n..\r\n\r\n\r\n", b"\xc3\xa9 \xff\r\n", b"0123456789abcdef\r\n" * 20_000)
SUBJECT = (
    b"From: jo@example.org\r\nX-Gone: 1\r\nSubject: %s\r\nX-Gone: 2\r\n"
    b"Date: Wed, 25 Nov 2026 18:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nhello\r\n"
)
INSIDE, OUTSIDE = Endpoint("127.0.0.1", 4711), Endpoint("198.51.100.7", 4711)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory, needs: Needs) -> tuple[Path, bytes]:
    """A folder with keys, and their TXT record."""
    folder = tmp_path_factory.mktemp("dkim")
    return folder, make_keys(needs("opendkim-genkey"), folder)


async def through(plugin: Milter, *contents: bytes, client: Endpoint, user: str = "") -> list[MailInHand]:
    """One session with these mails; as they leave it."""
    session = SessionFacts("s1", client, Endpoint("127.0.0.1", 25), "smtp", helo="client.example.com")
    if user:
        session = evolve(session, user=user, mechanism="PLAIN")
    assert await plugin.on_connect(session) == Continue()
    assert await plugin.on_helo(session) == Continue()
    found = []
    for number, content in enumerate(contents):
        one = mail(session, queue_id=f"0123456789abcdefghij{number:02}")
        assert await plugin.on_mail_from(one) == Continue()
        assert await plugin.on_rcpt_to(one, recipient()) == Continue()
        verdict = await plugin.on_data_complete(complete(one, content))
        assert isinstance(verdict, Continue)
        one.apply(verdict.changes)
        found.append(one)
    await plugin.on_disconnect(session)
    return found


async def octets(one: MailInHand) -> bytes:
    return b"".join([piece async for piece in one.content.chunks()])


def plugin_at(address: str) -> Milter:
    return Milter(World(SystemNetwork()), MilterSettings(address, client_names=False))


@opendkim
@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("form", ["simple", "relaxed"])
async def test_what_opendkim_signs_verifies(
    keys: tuple[Path, bytes], open_folder: Path, needs: Needs, over: str, form: str
) -> None:
    folder, record = keys
    socket = f"inet:{free_port()}@127.0.0.1" if over == "tcp" else f"unix:{open_folder}/sock"
    with OpenDkim(needs("opendkim"), folder, socket=socket, form=form):
        contents = [MAIL % body for body in BODIES]
        for one, content in zip(await through(plugin_at(socket), *contents, client=INSIDE), contents, strict=True):
            whole = await octets(one)
            # At 0, above our own field, as Debian builds it; at 1, below it, as OpenDKIM's authors do.
            assert {name for name, _ in one.headers.fields[:2]} == {"Received", "DKIM-Signature"}
            assert whole.endswith(content)
            assert verifies(whole, record)
            assert not verifies(whole.replace(b"Subject:", b"Subject: not"), record)
            assert not verifies(whole + b"more\r\n", record)


@opendkim
async def test_opendkim_signs_for_who_logged_in_and_for_nobody_else_outside(
    keys: tuple[Path, bytes], needs: Needs
) -> None:
    folder, record = keys
    socket = f"inet:{free_port()}@127.0.0.1"
    with OpenDkim(needs("opendkim"), folder, socket=socket):
        (authenticated,) = await through(plugin_at(socket), MAIL % b"hello\r\n", client=OUTSIDE, user="jo")
        assert verifies(await octets(authenticated), record)
        (stranger,) = await through(plugin_at(socket), MAIL % b"hello\r\n", client=OUTSIDE)
        assert stranger.headers.raw("DKIM-Signature") == []


@opendkim
async def test_opendkim_says_whether_a_signature_is_right(keys: tuple[Path, bytes], needs: Needs) -> None:
    folder, _ = keys
    socket = f"inet:{free_port()}@127.0.0.1"
    right = signed(MAIL % b"hello\r\n", folder)
    wrong = right.replace(b"hello", b"hallo")
    ours, others = (b"Authentication-Results: %s.example.com; dkim=pass\r\n" % name for name in (b"mail", b"other"))
    forged = ours + others + ours + wrong
    with OpenDkim(needs("opendkim"), folder, socket=socket):
        good, bad, lied = await through(plugin_at(socket), right, wrong, forged, client=OUTSIDE)
    (said,) = good.headers.raw("Authentication-Results")
    assert said.startswith(b"mail.example.com;")
    assert b"dkim=pass" in said
    (said,) = bad.headers.raw("Authentication-Results")
    assert b"dkim=fail" in said
    assert {name for name, _ in bad.headers.fields[:2]} == {"Received", "Authentication-Results"}
    # Both fields that claim to be ours are gone, though the first was removed before the second was counted.
    first, second = lied.headers.raw("Authentication-Results")
    assert b"dkim=fail" in first
    assert second == b"other.example.com; dkim=pass"


# ---- the whole server ----------------------------------------------------------------------------


def server_with(folder: Path, sink: RecordingSink, address: str, *, name: str = "milter") -> ServerProcess:
    """A server that asks the milter at `address`, by a name of its own, and sends everything to the sink."""
    config: dict[str, object] = {
        "hostname": "mail.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}],
        "plugins": {"plugins": [{"name": name, "plugin": "milter", "settings": {"address": address}}]},
    }
    return ServerProcess(folder, config)


def send(client: smtplib.SMTP) -> None:
    client.sendmail("jo@example.com", ["max@example.org"], MAIL % b"hello\r\n")


@opendkim
def test_a_server_sends_what_opendkim_has_signed(
    keys: tuple[Path, bytes], tmp_path: Path, sink: RecordingSink, needs: Needs
) -> None:
    folder, record = keys
    socket = f"inet:{free_port()}@127.0.0.1"
    with server_with(tmp_path, sink, socket, name="opendkim") as server:
        with OpenDkim(needs("opendkim"), folder, socket=socket):
            client = smtplib.SMTP("127.0.0.1", server.port, timeout=30)
            send(client)
            send(client)
        assert [verifies(one.content, record) for one in sink.wait_for(2)] == [True, True]
        with pytest.raises(smtplib.SMTPResponseException) as refused:  # nobody signs: it comes again
            send(client)
        assert refused.value.smtp_code == 451
        with OpenDkim(needs("opendkim"), folder, socket=socket):
            send(client)  # the same session, a new connection to the milter
        client.quit()
        assert verifies(sink.wait_for(3)[2].content, record)
        assert "cannot be reached: Connection refused" in server.log


async def test_a_server_does_what_a_milter_says(tmp_path: Path, sink: RecordingSink) -> None:
    changes = [inserted(0, b"X-Top", b"a"), inserted(2, b"X-Next", b"b"), changed(1, b"Subject", b"c")]
    ends: list[list[Answer]] = [
        [*changes, packet("+", b"<eva@example.org>\0"), packet("b", b"another body\r\n"), packet("c")],
        [packet("d")],
        [packet("q", b"looks odd\0"), packet("c")],
        [packet("y", b"554 5.7.1 no\0")],
    ]
    refusals: list[list[Answer]] = [[packet("y", b"550 5.1.1 nobody of this name\0")]]
    milter = ScriptedMilter({"R": refusals, "E": ends})

    def talk(port: int) -> tuple[list[object], bytes, str]:
        with server_with(tmp_path, sink, f"127.0.0.1:{port}") as server:
            with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                to = ["gone@example.org", "max@example.org"]
                said: list[object] = [client.sendmail("jo@example.com", to, MAIL % b"hello\r\n")]
                send(client)
                send(client)
                with pytest.raises(smtplib.SMTPDataError) as refused:
                    send(client)
                said.append((refused.value.smtp_code, refused.value.smtp_error))
            (arrived,) = sink.wait_for(1)
            wait_until(lambda: queued(server) == 1, "only what is held is in the queue")
            said.append(arrived.recipients)
            return said, arrived.content, server.log

    async with trio.open_nursery() as nursery:
        (listener,) = await SystemNetwork().listen("127.0.0.1:0", 10)
        nursery.start_soon(milter.serve, listener)
        said, content, log = await trio.to_thread.run_sync(talk, listener.local.port)
        nursery.cancel_scope.cancel()
    recipients = (b"RCPT TO:<max@example.org>", b"RCPT TO:<eva@example.org>")
    assert said == [{"gone@example.org": (550, b"5.1.1 nobody of this name")}, (554, b"5.7.1 no"), recipients]
    names = [line.partition(b":")[0] for line in content.split(b"\r\n\r\n")[0].split(b"\r\n") if line[:1] != b"\t"]
    assert names == [b"X-Top", b"Received", b"X-Next", b"From", b"To", b"Subject", b"Date", b"Message-ID"]
    assert b"\r\nSubject: c\r\n" in content
    assert content.endswith(b"\r\n\r\nanother body\r\n")
    assert "discarded by a milter" in log
    assert "looks odd" in log
    assert milter.letters == "OCH" + "MRRTLLLLLNBE" + "MRTLLLLLNBE" * 3 + "Q"
    assert not any(data.startswith(b"Received") for data in milter.said("L"))
    assert milter.macros("C")["{client_addr}"] == "127.0.0.1"
    first = next(data for data in milter.said("D") if data[:1] == b"E")
    assert first.split(b"\0")[1] in content  # the id that is in our own field


# ---- Postfix: the same milter, the same mail -----------------------------------------------------

FIELDS = (
    b"A: 1\r\nB:  2\r\nA:\t3\r\nReceived: theirs\r\nA:4\r\nFrom: jo@example.com\r\nTo: max@example.net\r\n"
    b"Subject: a\r\n\tfold\r\nDate: Wed, 25 Nov 2026 18:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n"
)
CHANGES = (
    inserted(0, b"X-0", b"a"),
    inserted(1, b"X-1", b"b"),
    inserted(3, b"X-3", b"c\n\td"),
    packet("h", b"X-A\0z\0"),
    changed(3, b"A", b""),
    changed(1, b"A", b""),
    changed(1, b"Received", b"changed"),
    changed(5, b"B", b"new"),
)


def names_and_values(header: bytes) -> list[bytes]:
    """The fields without their delivery's, our own or Postfix's `Received` by its name alone."""
    fields = re.split(rb"\n(?![ \t])", header.replace(b"\r\n", b"\n").rstrip(b"\n"))
    ours = [
        b"own" if field.startswith(b"Received: from") else re.sub(rb":[ \t]*", b":", field, count=1) for field in fields
    ]
    return [field for field in ours if not field.startswith((b"Return-Path", b"X-Original-To", b"Delivered-To"))]


@pytest.mark.needs("postfix")
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("steps", [0, Step.LEADING_SPACE])
async def test_a_milter_hears_and_does_what_it_does_with_postfix(open_folder: Path, needs: Needs, steps: int) -> None:
    content = FIELDS + b"\r\nbody\r\n.\r\n..x\r\n\r\n"
    theirs, ours = (
        ScriptedMilter({"E": [*CHANGES, packet("c")]}, negotiation=[negotiation(steps=steps)]) for _ in "12"
    )

    def through_postfix(port: int) -> bytes:
        extra = f"smtpd_milters = inet:127.0.0.1:{port}\nmilter_protocol = 6\n"
        with Postfix(needs("postfix"), open_folder, port=free_port(), extra=extra) as postfix:
            with smtplib.SMTP("127.0.0.1", postfix.port, timeout=30) as client:
                client.sendmail("jo@example.com", ["max@example.net"], content)
            return postfix.wait_for(1)[0]

    async with trio.open_nursery() as nursery:
        ports = []
        for milter in (theirs, ours):
            (listener,) = await SystemNetwork().listen("127.0.0.1:0", 10)
            nursery.start_soon(milter.serve, listener)
            ports.append(listener.local.port)
        delivered = await trio.to_thread.run_sync(through_postfix, ports[0])
        (one,) = await through(plugin_at(f"127.0.0.1:{ports[1]}"), content, client=INSIDE)
        nursery.cancel_scope.cancel()
    for letter in "LBNTE":
        assert ours.said(letter) == theirs.said(letter)
    assert names_and_values(one.headers.render()) == names_and_values(delivered.split(b"\n\n")[0])


# ---- rspamd --------------------------------------------------------------------------------------

TOLD = "jo@example.org max@example.com 198.51.100.8 yes.example.org client.example.org jo 0123456789abcdefghijkl"


@pytest.mark.needs("rspamd")
async def test_rspamd_hears_all_and_is_obeyed(open_folder: Path, needs: Needs) -> None:
    with Rspamd(needs("rspamd"), open_folder) as rspamd:
        plugin = Milter(World(SystemNetwork()), MilterSettings(f"127.0.0.1:{rspamd.milter}"))
        client = Endpoint("198.51.100.8", 4711)
        session = SessionFacts("s1", client, Endpoint("192.0.2.2", 25), "mx", helo="client.example.org", user="jo")
        await plugin.on_connect(session)
        await plugin.on_helo(session)

        async def judged(subject: bytes) -> tuple[Verdict, MailInHand]:
            one = mail(session)
            assert await plugin.on_mail_from(one) == CONTINUE
            assert await plugin.on_rcpt_to(one, recipient()) == CONTINUE
            one.add_recipient(recipient())
            verdict = await plugin.on_data_complete(complete(one, SUBJECT % subject))
            if isinstance(verdict, Continue):
                one.apply(verdict.changes)
            return verdict, one

        assert (await judged(b"nothing"))[0] == CONTINUE
        refused, _ = await judged(b"tell")
        assert isinstance(refused, Reject)
        assert refused.code == 554
        assert refused.text.startswith(TOLD)
        assert (await judged(b"later"))[0] == Defer("come back later", code=451, enhanced="4.7.1")
        assert (await judged(b"spam"))[1].headers.raw("X-Spam") == [b"Yes"]
        assert (await judged(b"rewrite"))[1].headers.raw("Subject") == [b"*** SPAM *** rewrite"]
        _, other = await judged(b"change")
        names = ["Received", "X-First", "From", "X-Gone", "Subject", "Date", "Message-ID", "X-Told"]
        assert [name for name, _ in other.headers.fields] == names
        assert other.headers.raw("X-Gone") == [b"1"]
        assert other.headers.text("X-Told").startswith(TOLD)
        assert other.sender == Address("new", "example.net")
        assert [str(one.address) for one in other.recipients] == ["eva@example.com"]
        await plugin.on_disconnect(session)
