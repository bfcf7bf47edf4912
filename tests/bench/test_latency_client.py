"""The client that times mails, against real servers where it needs one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from tests.bench import latency_client
from tests.bench.latency_client import CONNECT_SECONDS, Plan, Refused, content, is_whole, percentile, run
from tests.bench.servers import sink

CONFIG = {
    "hostname": "elemta.example.com",
    "allowed_relays": ["127.0.0.1"],
    "routes": [{"domain": "*", "transport": "discard"}],
}


@pytest.mark.parametrize(
    ("reply", "whole"),
    [
        (b"", False),
        (b"250 ok", False),
        (b"250 ok\r\n", True),
        (b"250\r\n", True),
        (b"250-first\r\n", False),
        (b"250-first\r\n250", False),
        (b"250-first\r\n250 last\r\n", True),
    ],
)
def test_a_reply_ends_with_the_line_without_a_hyphen(reply: bytes, whole: bool) -> None:
    assert is_whole(reply) is whole


def test_a_mail_has_the_octets_asked_for_and_one_end() -> None:
    mail = content(4096)
    assert 4096 - len(latency_client.LINE) <= len(mail) <= 4096 + len(b".\r\n")
    assert mail.endswith(b"\r\n.\r\n")
    assert mail.count(b"\r\n.") == 1


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize("kept", [False, True])
def test_every_mail_arrives_within_the_time_that_is_told(tmp_path: Path, kept: bool) -> None:
    with ServerProcess(tmp_path, CONFIG) as server:
        command = [sys.executable, str(Path(latency_client.__file__)), str(server.port), "--mails", "23"]
        options = ["--kept"] if kept else []
        ended = subprocess.run([*command, "--sessions", "4", *options], check=True, stdout=subprocess.PIPE, timeout=60)
        server.stop()
        events = server.events
    figures = json.loads(ended.stdout)
    accepted = [event for event in events if event["event"] == "mail.accepted"]
    assert len(accepted) == 23
    assert 0 < figures["dot_p50"] <= figures["dot_p99"]
    assert figures["dot_p50"] < figures["mail_p50"] <= figures["mail_p99"]


def test_a_steady_load_keeps_its_rate_and_no_more(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, CONFIG) as server:
        figures = run(Plan(server.port, sessions=2, mails=21, kept=True, rate=40.0))
        server.stop()
    assert figures.rate <= 21 / (20 / 40.0)


@pytest.mark.needs("smtp-sink")
def test_a_mail_that_the_session_could_not_send_in_time_is_timed_from_its_time() -> None:
    with sink("-w", "1") as (port, _):  # a second before each reply to DATA
        figures = run(Plan(port, sessions=1, mails=3, kept=True, rate=10.0))
    assert figures.mail_p99 >= 3000 - 200
    assert figures.dot_p99 < figures.mail_p99 - 1000


def test_a_refused_mail_is_told(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {**CONFIG, "allowed_relays": []}) as server:
        with pytest.raises(Refused, match=r"RCPT TO.*wants 250, the server said b'5"):
            run(Plan(server.port, sessions=3, mails=3))
        server.stop()


def test_nobody_waits_for_a_session_that_was_turned_away(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {**CONFIG, "limits": {"max_connections_per_address": 2}}) as server:
        began = time.monotonic()
        with pytest.raises(Refused, match=r"wants 220, the server said b'421"):
            run(Plan(server.port, sessions=3, mails=3, kept=True))
        assert time.monotonic() - began < CONNECT_SECONDS
        server.stop()
