"""Promises 1, 3, the long forms: many kills at random moments, a clean restart amid thousands of mails."""

import os
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers import test_restart
from tests.peers.wire import queued, wait_until

ROUNDS = int(os.environ.get("ELEMTA_TEST_KILL_ROUNDS", "20"))
WAITING_MAILS = int(os.environ.get("ELEMTA_TEST_WAITING_MAILS", "5000"))


@pytest.mark.parametrize("round_number", range(1000, 1000 + ROUNDS))
def test_many_kills(tmp_path: Path, round_number: int) -> None:
    test_restart.test_no_acknowledged_mail_is_lost_by_a_kill(tmp_path, round_number)


def test_a_clean_restart_amid_thousands_of_mails(tmp_path: Path) -> None:
    """The mails are queued while nobody listens; the server is stopped half-way through their delivery."""
    with RecordingSink() as reserved:
        port = reserved.port
    config = {**test_restart.relay_config(reserved), "retry_schedule": [5], "max_retries": 1000}
    with ServerProcess(tmp_path, config) as server:
        load = test_restart.Load(server.port, "many")
        wait_until(lambda: len(load.acknowledged) >= WAITING_MAILS, f"{WAITING_MAILS} mails accepted", 300)
        acknowledged = load.end()
        assert queued(server) >= WAITING_MAILS
        with RecordingSink(port) as sink:
            sink.wait_for(WAITING_MAILS // 3, 120)
            assert server.stop() == 0
            before = len(sink.mails)
            assert before < len(acknowledged), "the restart came too late"
            server.start()
            wait_until(lambda: queued(server) == 0, "the queue is empty", 300)
            marks = [
                line for mail in sink.mails for line in mail.content.split(b"\r\n")[:8] if line[:9] == b"Subject: "
            ]
            assert {line[9:].decode() for line in marks} >= acknowledged, "none lost"
            assert len(marks) == len(set(marks)), "none twice"
            assert server.stop() == 0
    print(f"{len(acknowledged)} mails, {before} of them before the restart: 0 lost, 0 twice")  # noqa: T201
