"""Elemta between Postfix servers, before smtp-sink's faults, behind smtp-source: promise 19 among others."""

import smtplib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from email.message import Message
from functools import partial
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.faulty import Asked, FaultySink
from tests.peers.postfix import Postfix
from tests.peers.wire import attempts, free_port, mail_of, own_part, queued, wait_until

SENDER = "sender@example.org"
RECIPIENT = "recipient@example.net"
Needs = Callable[[str], Path]


def relay_to(port: int, **keys: object) -> dict[str, object]:
    """All mail goes to a port; retries come at once."""
    return {
        "hostname": "relay.example.com",
        "allowed_relays": ["127.0.0.1"],
        "retry_schedule": [0.5],
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": port}],
        **keys,
    }


def relay_with_reports(faulty_port: int, sink: RecordingSink, **keys: object) -> dict[str, object]:
    """Mail to the sender's domain, so every report, goes to the sink; the rest meets the faults."""
    routes = [
        {"domain": "example.org", "transport": "smtp", "host": "127.0.0.1", "port": sink.port},
        {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": faulty_port},
    ]
    return {**relay_to(faulty_port), "routes": routes, **keys}


def send(port: int, content: bytes, sender: str = SENDER, recipients: tuple[str, ...] = (RECIPIENT,)) -> None:
    """Send one mail with smtplib; every recipient must be taken."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client", timeout=30) as client:
        assert client.sendmail(sender, list(recipients), content) == {}


# ---- Postfix -------------------------------------------------------------------------------------


@pytest.mark.needs("postfix", "smtp-source")
@pytest.mark.usefixtures("as_root")
def test_postfix_gets_what_was_sent(tmp_path: Path, open_folder: Path, needs: Needs) -> None:
    sent = [mail_of(octets, seed=octets) for octets in (0, 4096, 3_000_000)]
    with (
        Postfix(needs("postfix"), open_folder, port=free_port()) as postfix,
        ServerProcess(tmp_path, relay_to(postfix.port)) as server,
    ):
        for content in sent:
            send(server.port, content)
        arrived = postfix.wait_for(len(sent))
        for content in sent:
            (same,) = [mail for mail in arrived if mail.endswith(b"\n" + content.replace(b"\r\n", b"\n"))]
            added = same[: -len(content.replace(b"\r\n", b"\n"))]
            assert b"by relay.example.com" in added
            assert added.count(b"Received: ") == 2, "one field of ours, one of Postfix's"
        smtp_source(needs, server.port, mails=200)
        assert len(postfix.wait_for(len(sent) + 200)) == len(sent) + 200
        wait_until(lambda: queued(server) == 0, "the queue is empty")


@pytest.mark.needs("postfix")
@pytest.mark.usefixtures("as_root")
def test_postfix_relays_through_elemta(tmp_path: Path, open_folder: Path, sink: RecordingSink, needs: Needs) -> None:
    sent = [mail_of(octets, seed=octets) for octets in (0, 4096, 3_000_000)]
    with (
        ServerProcess(tmp_path, relay_to(sink.port)) as server,
        Postfix(needs("postfix"), open_folder, port=free_port(), relay_port=server.port) as postfix,
    ):
        for content in sent:
            send(postfix.port, content, recipients=("far@example.com", "away@example.com"))
        arrived = sink.wait_for(len(sent))
        assert sorted(len(mail.recipients) for mail in arrived) == [2, 2, 2]
        for content in sent:
            (same,) = [mail.content for mail in arrived if mail.content.endswith(b"\r\n" + content)]
            assert own_part(same).startswith(b"Received: ")
            assert same[: -len(content)].count(b"Received: ") == 2
        assert "status=bounced" not in postfix.log
        assert "status=deferred" not in postfix.log


def smtp_source(needs: Needs, port: int, *, mails: int, sessions: int = 10) -> None:
    command = [str(needs("smtp-source")), "-s", str(sessions), "-m", str(mails), "-l", "4096"]
    command += ["-f", SENDER, "-t", RECIPIENT, f"127.0.0.1:{port}"]
    subprocess.run(command, check=True, timeout=60, capture_output=True)


# ---- smtp-sink's faults --------------------------------------------------------------------------


@contextmanager
def smtp_sink(needs: Needs, port: int, *options: str) -> Iterator[None]:
    """Postfix's smtp-sink at a port, until the end of the block."""
    unprivileged = ["-u", "nobody"]
    process = subprocess.Popen(
        [needs("smtp-sink"), *unprivileged, *options, f"127.0.0.1:{port}", "100"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: process.poll() is None and _listens(port), "smtp-sink listens")
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    wanted = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1] == wanted and row[3] == "0A" for row in rows)


STAGES = ["connect", "ehlo,helo", "mail", "rcpt", "data", "."]


def tried_twice(server: ServerProcess, domain: str) -> bool:
    """Whether a domain's mail was tried more than once."""
    return len(attempts(server, domain)) >= 2


@pytest.mark.needs("smtp-sink")
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("fault", ["-r", "-q", "-Q"], ids=["soft", "drop", "soft-and-drop"])
def test_what_is_temporary_is_tried_again(tmp_path: Path, sink: RecordingSink, needs: Needs, fault: str) -> None:
    """One server, one destination a stage; each destination fails until it is replaced by an honest one."""
    ports = {f"{number}.example.net": free_port() for number in range(len(STAGES))}
    routes = [
        {"domain": domain, "transport": "smtp", "host": "127.0.0.1", "port": port} for domain, port in ports.items()
    ]
    routes.append({"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port})
    content = mail_of(4096, seed=1)
    with ServerProcess(tmp_path, relay_to(sink.port, routes=routes)) as server:
        with ExitStack() as faulty:
            for port, stage in zip(ports.values(), STAGES, strict=True):
                faulty.enter_context(smtp_sink(needs, port, fault, stage))
            send(server.port, content, recipients=tuple(f"r@{domain}" for domain in ports))
            for domain, stage in zip(ports, STAGES, strict=True):
                wait_until(partial(tried_twice, server, domain), f"two attempts recorded: {stage}")
                lost_reply = (fault, stage) == ("-q", ".")
                assert set(attempts(server, domain)) == ({"uncertain"} if lost_reply else {"deferred"}), stage
        with ExitStack() as honest:
            caught = [honest.enter_context(RecordingSink(port)) for port in ports.values()]
            for one in caught:
                assert own_part(one.wait_for(1)[0].content) == content
            wait_until(lambda: queued(server) == 0, "the queue is empty")
            assert [len(one.mails) for one in caught] == [1] * len(STAGES)
        assert sink.mails == [], "nobody hears of what was only late"


@pytest.mark.needs("smtp-sink")
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "."])
def test_what_is_refused_for_good_is_reported_once(
    tmp_path: Path, sink: RecordingSink, needs: Needs, stage: str
) -> None:
    port = free_port()
    with ServerProcess(tmp_path, relay_with_reports(port, sink)) as server, smtp_sink(needs, port, "-f", stage):
        send(server.port, mail_of(4096, seed=2), recipients=(RECIPIENT, "second@example.net"))
        send(server.port, mail_of(4096, seed=3), sender="")
        sink.wait_for(1)
        wait_until(lambda: queued(server) == 0, "the queue is empty")
        (report,) = sink.mails
        assert report.mail.startswith(b"MAIL FROM:<>")
        assert report.recipients[0].startswith(f"RCPT TO:<{SENDER}>".encode())
        said = failed_recipients(message_from_bytes(report.content))
        assert said == {RECIPIENT: "5", "second@example.net": "5"}


def failed_recipients(report: Message) -> dict[str, str]:
    """What a delivery status notification says: the class of the status of each recipient, RFC 3464 §2.3."""
    assert report.get_content_type() == "multipart/report"
    parts = report.get_payload()
    assert isinstance(parts, list)
    fields = parts[1].get_payload()  # type: ignore[union-attr]  # a multipart's payload is a list of messages
    assert isinstance(fields, list)
    found = {}
    for one in fields[1:]:
        assert isinstance(one, Message)
        assert one["Action"] == "failed"
        found[one["Final-Recipient"].partition(";")[2].strip()] = one["Status"][0]
    return found


@pytest.mark.needs("smtp-sink", "smtp-source")
@pytest.mark.usefixtures("as_root")
def test_slow_replies_are_waited_for(tmp_path: Path, sink: RecordingSink, needs: Needs) -> None:
    port = free_port()
    with (
        ServerProcess(tmp_path, relay_with_reports(port, sink)) as server,
        # Without PIPELINING: behind a delayed MAIL, smtp-sink answers a pipelined RCPT as if there had been no MAIL.
        smtp_sink(needs, port, "-p", "-W", "mail:1", "-W", ".:1"),
    ):
        smtp_source(needs, server.port, mails=6, sessions=3)
        wait_until(lambda: queued(server) == 0, "the queue is empty")
        outcomes = [event["result"] for event in server.events if event["event"] == "delivery.outcome"]
        assert outcomes == ["delivered"] * 6
        assert sink.mails == []


# ---- what smtp-sink cannot do --------------------------------------------------------------------


def test_partial_success_is_never_sent_again(tmp_path: Path, sink: RecordingSink) -> None:
    def answer(asked: Asked) -> bytes | None:
        if b"<late@" in asked.line and asked.verb == b"RCPT" and asked.before < 4:
            return b"451 4.2.1 later\r\n"
        return b"550 5.1.1 nobody\r\n" if b"<nobody@" in asked.line else None

    with FaultySink(answer) as faulty, ServerProcess(tmp_path, relay_with_reports(faulty.port, sink)) as server:
        everybody = ("good@example.net", "late@example.net", "nobody@example.net")
        send(server.port, mail_of(4096, seed=4), recipients=everybody)
        (report,) = sink.wait_for(1)
        wait_until(lambda: queued(server) == 0, "the queue is empty")
        asked = [line.partition(b":")[2].split()[0] for line in faulty.seen.commands if line.startswith(b"RCPT")]
        assert asked.count(b"<good@example.net>") == 1
        assert asked.count(b"<nobody@example.net>") == 1
        assert asked.count(b"<late@example.net>") == 3
        # Who pipelines DATA behind a refused RCPT, and hears 354, ends an empty mail: RFC 2920 §3.1.
        assert len([mail for mail in faulty.seen.mails if mail]) == 2
        assert failed_recipients(message_from_bytes(report.content)) == {"nobody@example.net": "5"}
        assert len(sink.mails) == 1


def test_a_mail_that_expires_is_reported_once(tmp_path: Path, sink: RecordingSink) -> None:
    config = {"max_retries": 2}
    with (
        FaultySink(lambda asked: b"450 4.2.0 never\r\n" if asked.verb == b"RCPT" else None) as faulty,
        ServerProcess(tmp_path, relay_with_reports(faulty.port, sink, **config)) as server,
    ):
        send(server.port, mail_of(4096, seed=5))
        send(server.port, mail_of(4096, seed=6), sender="")
        (report,) = sink.wait_for(1)
        wait_until(lambda: queued(server) == 0, "the queue is empty")
        assert failed_recipients(message_from_bytes(report.content)) == {RECIPIENT: "5"}
        assert len(sink.mails) == 1
        assert sum(line.startswith(b"RCPT") for line in faulty.seen.commands) == 2 * 3
