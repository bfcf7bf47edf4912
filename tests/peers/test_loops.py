"""Promises 20, 21: a lost reply is a second try and no bounce; loops end; reports are not reported."""

from email import message_from_bytes
from pathlib import Path

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.faulty import DROP, Asked, FaultySink
from tests.peers.test_postfix import failed_recipients, relay_to, relay_with_reports, send
from tests.peers.wire import attempts, free_port, mail_of, queued, wait_until

RECIPIENT = "recipient@example.net"


def test_a_reply_lost_after_the_final_dot_is_no_bounce(tmp_path: Path, sink: RecordingSink) -> None:
    """Twice it may have arrived, twice it is tried again: also beyond `max_retries`, since nobody refused it."""
    with (
        FaultySink(lambda asked: DROP if asked.verb == b"." and asked.before < 2 else None) as faulty,
        ServerProcess(
            tmp_path, relay_with_reports(faulty.port, sink, max_retries=1, keep_delivered_messages=True)
        ) as server,
    ):
        content = mail_of(4096, seed=1)
        send(server.port, content)
        wait_until(lambda: "delivered" in attempts(server), "delivered at last")
        assert attempts(server) == ["uncertain", "uncertain", "delivered"]
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        assert [mail.endswith(stuffed) for mail in faulty.seen.mails] == [True] * 3
        assert sink.mails == []
        logged = [event["result"] for event in server.events if event["event"] == "delivery.outcome"]
        assert logged == ["uncertain", "uncertain", "delivered"]


def test_two_servers_that_send_to_each_other_end_the_loop(tmp_path: Path, sink: RecordingSink) -> None:
    first_port, second_port = free_port(), free_port()
    reports = {"domain": "example.org", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}
    servers = []
    for name, own, other in (("first", first_port, second_port), ("second", second_port, first_port)):
        (tmp_path / name).mkdir()
        onward = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": other}
        config = relay_to(other, hostname=f"{name}.example.com", listen_addr=f"127.0.0.1:{own}")
        servers.append(ServerProcess(tmp_path / name, {**config, "routes": [reports, onward]}))
    with servers[0] as first, servers[1] as second:
        send(first.port, mail_of(100, seed=2))
        (report,) = sink.wait_for(1, 60)
        wait_until(lambda: queued(first) == queued(second) == 0, "both queues are empty")
        assert failed_recipients(message_from_bytes(report.content)) == {RECIPIENT: "5"}
        send(second.port, mail_of(100, seed=3), sender="")
        wait_until(lambda: queue_was_double_bounced(first, second), "the loop of a report has ended", 60)
        wait_until(lambda: queued(first) == queued(second) == 0, "both queues are empty")
        assert len(sink.mails) == 1, "one report for the mail, none for the report"
        hops = sum(event["event"] == "mail.accepted" for server in (first, second) for event in server.events)
        assert 2 * 100 <= hops <= 2 * 102, "max_received is 100"


def queue_was_double_bounced(*servers: ServerProcess) -> bool:
    """Whether a server had to drop a mail that may not be answered."""
    return any("queue.double_bounce" in server.log for server in servers)


def test_a_full_mailbox_and_a_full_sender_make_one_report(tmp_path: Path) -> None:
    """Both ends refuse everything: the report that cannot be delivered is logged, and is the last."""
    refuses = b"552 5.2.2 mailbox full\r\n"
    with (
        FaultySink(lambda asked: refuses if asked.verb == b"RCPT" else None) as full,
        ServerProcess(tmp_path, relay_to(full.port)) as server,
    ):
        send(server.port, mail_of(100, seed=4))
        wait_until(lambda: "queue.double_bounce" in server.log, "the report was refused")
        wait_until(lambda: queued(server) == 0, "the queue is empty")
        asked = [line for line in full.seen.commands if line.startswith(b"RCPT")]
        assert [line.partition(b":")[2].split()[0] for line in asked] == [
            b"<recipient@example.net>",
            b"<sender@example.org>",
        ]
        assert sum(event["event"] == "queue.report" for event in server.events) == 1


def test_a_mailbox_that_answers_from_nobody_gets_no_answer(tmp_path: Path, sink: RecordingSink) -> None:
    """Mail from the null sender that is refused ends here: no report, not even to ourselves."""

    def answer(asked: Asked) -> bytes | None:
        return b"552 5.2.2 mailbox full\r\n" if asked.verb == b"." else None

    with FaultySink(answer) as full, ServerProcess(tmp_path, relay_with_reports(full.port, sink)) as server:
        for seed in range(5):
            send(server.port, mail_of(100, seed=seed), sender="")
        wait_until(lambda: server.log.count("queue.double_bounce") == 5, "every one was given up")
        wait_until(lambda: queued(server) == 0, "the queue is empty")
        assert len(full.seen.mails) == 5
        assert sink.mails == []
        assert not any(event["event"] == "queue.report" for event in server.events)
