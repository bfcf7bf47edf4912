"""Mails that plugins hold, as an operator meets them: listed, shown, released, deleted, across a restart.

What is not here: holding in virtual time (`tests/queue/test_plugged_delivery.py`), the commands (`tests/cli`).
"""

import json
import smtplib
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.test_plugged_server import plugin
from tests.peers.wire import attempts, free_port, queued, wait_until

#: Holds what has a word in its subject, and marks what it holds.
AT_THE_DOOR = """\
    async def on_data_complete(self, mail):
        changes = [AddHeader("X-Held", b"yes"), ReplaceBody(b"another body\\r\\n"), Annotate("word", "odd")]
        return Quarantine("odd subject", changes) if "odd" in mail.headers.text("Subject") else CONTINUE
"""
#: Holds them when they are to leave, however often it is asked, and says so.
ON_THE_WAY_OUT = """\
    async def on_data_complete(self, mail):
        return Continue([AddHeader("X-Held", b"yes"), ReplaceBody(b"another body\\r\\n"), Annotate("word", "odd")])

    async def on_pre_delivery(self, delivery):
        self.host.log.info("asked", id=delivery.id)
        return Quarantine("odd subject")
"""
#: How long a mail is tried.
SHORT_SECONDS = 2.0
KINDS = pytest.mark.parametrize("body", [AT_THE_DOOR, ON_THE_WAY_OUT], ids=["at the door", "on the way out"])


def holding(folder: Path, sink_port: int, body: str, **keys: object) -> ServerProcess:
    route = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink_port}
    entry = plugin(folder, "odd", body)
    return ServerProcess(
        folder,
        {
            "hostname": "relay.example.com",
            "allowed_relays": ["127.0.0.1"],
            "retry_schedule": [1],
            "routes": [route],
            "plugins": {"plugins": [entry]},
            **keys,
        },
    )


def send(server: ServerProcess, subject: str = "odd") -> None:
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=30) as client:
        client.sendmail("s@example.org", ["r@example.net"], f"Subject: {subject}\r\n\r\nthe body\r\n")


def say(server: ServerProcess, *words: str) -> Any:
    """What `elemta queue …` says, as JSON."""
    command = [sys.executable, "-m", "elemta", "queue", *words, "-o", "json", "-c", str(server.folder / "elemta.conf")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=server.folder)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def held(server: ServerProcess, count: int = 1) -> list[str]:
    """The ids of the mails that are held, once they are so many."""
    wait_until(lambda: len(say(server, "list", "--state", "held")) == count, "they are held")
    return [mail["id"] for mail in say(server, "list", "--state", "held")]


@KINDS
def test_what_is_held_is_shown_and_leaves_when_it_is_released(body: str, tmp_path: Path, sink: RecordingSink) -> None:
    with holding(tmp_path, sink.port, body) as server:
        send(server)
        (queue_id,) = held(server)
        shown = say(server, "show", queue_id)
        assert (shown["state"], shown["reason"], shown["attempt_count"]) == ("held", "odd subject", 0)
        (cost,) = shown["plugins"]
        assert cost["name"] == "odd"
        assert cost["changes"] == 3
        assert cost["verdict"] == ("quarantine" if body is AT_THE_DOOR else "continue")
        assert shown["annotations"]["word"] == "odd"
        assert say(server, "release", queue_id)["changed"] == [queue_id]
        (caught,) = sink.wait_for(1)
        header, _, content = caught.content.partition(b"\r\n\r\n")
        assert b"\r\nX-Held: yes" in b"\r\n" + header
        assert content == b"another body\r\n"
        wait_until(lambda: queued(server) == 0, "it has left")
        assert server.stop() == 0
        assert "Traceback" not in server.log
    assert len(sink.mails) == 1


@KINDS
def test_what_is_held_outlives_the_server_and_may_be_deleted(body: str, tmp_path: Path, sink: RecordingSink) -> None:
    with holding(tmp_path, sink.port, body) as server:
        send(server)
        send(server)
        kept, unwanted = held(server, 2)
        server.kill()
        server.start()
        assert held(server, 2) == [kept, unwanted]
        assert server.stop() == 0
        assert held(server, 2) == [kept, unwanted], "without a server too"
        say(server, "delete", unwanted, "--yes")
        say(server, "release", kept)
        server.start()
        sink.wait_for(1)
        wait_until(lambda: queued(server) == 0, "nothing is left")
        assert server.stop() == 0
    (caught,) = sink.mails
    assert b"X-Held: yes\r\n" in caught.content
    assert kept.encode() in caught.content, "its trace field names the one that was released"


def test_what_is_held_past_its_time_is_tried_before_it_is_given_up(tmp_path: Path) -> None:
    """A mail never expires without an attempt; the sender hears of one that was in vain."""
    with (
        RecordingSink() as reports,
        holding(
            tmp_path,
            reports.port,
            AT_THE_DOOR,
            max_queue_time=SHORT_SECONDS,
            max_retries=1,
            routes=[
                {"domain": "example.org", "transport": "smtp", "host": "127.0.0.1", "port": reports.port},
                {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": free_port()},
            ],
        ) as server,
    ):
        send(server)
        (queue_id,) = held(server)
        expires = datetime.fromisoformat(say(server, "show", queue_id)["expires_at"])
        wait_until(lambda: datetime.now(UTC) > expires, "its time is over")
        assert say(server, "show", queue_id)["state"] == "held"
        assert attempts(server) == []
        say(server, "release", queue_id)
        (report,) = reports.wait_for(1)
        assert b"\r\nStatus: 5.4.7\r\n" in report.content
        assert attempts(server, "example.net") == ["deferred"], "it was tried"
