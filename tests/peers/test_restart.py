"""What was answered 250 arrives: across a kill at a random moment, across a clean restart."""

import os
import random
import signal
import smtplib
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink

SENDERS = 20
BODY = ("x" * 78 + "\r\n") * 40


class Load:
    """Senders, a thread each, that note every mail which was answered 250."""

    def __init__(self, port: int, prefix: str) -> None:
        self.acknowledged: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(port, f"{prefix}-{n}")) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self, port: int, name: str) -> None:
        number = 0
        try:
            with smtplib.SMTP("127.0.0.1", port, local_hostname="load", timeout=20) as client:
                while not self._stop.is_set():
                    mark = f"{name}-{number}"
                    number += 1
                    client.sendmail("s@example.org", ["r@example.net"], f"Subject: {mark}\r\n\r\n{BODY}")
                    with self._lock:
                        self.acknowledged.add(mark)
        except (OSError, smtplib.SMTPException):
            return

    def end(self) -> set[str]:
        """Stop, and give what was acknowledged."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.acknowledged


def marks(sink: RecordingSink) -> Counter[str]:
    """How often each mail arrived."""
    return Counter(
        line[9:].decode()
        for mail in list(sink.mails)
        for line in mail.content.split(b"\r\n")
        if line[:9] == b"Subject: "
    )


def wait_until_all_arrived(sink: RecordingSink, wanted: set[str], seconds: float = 60) -> Counter[str]:
    """Wait for every wanted mail, or for the deadline."""
    deadline = time.monotonic() + seconds
    while not wanted <= set(marks(sink)):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        with sink.changed:
            sink.changed.wait(min(left, 0.2))
    return marks(sink)


def relay_config(sink: RecordingSink) -> dict[str, object]:
    return {
        "hostname": "relay.example.com",
        "allowed_relays": ["127.0.0.1"],
        "max_workers": 20,
        "retry_schedule": [1],
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}],
    }


@pytest.mark.parametrize("round_number", range(int(os.environ.get("ELEMTA_TEST_KILL_ROUNDS", "3"))))
def test_no_acknowledged_mail_is_lost_by_a_kill(tmp_path: Path, round_number: int) -> None:
    chance = random.Random(round_number)
    with RecordingSink() as sink, ServerProcess(tmp_path, relay_config(sink)) as server:
        load = Load(server.port, f"kill{round_number}")
        time_to_kill = threading.Event()
        threading.Timer(chance.uniform(0.3, 2.0), time_to_kill.set).start()
        time_to_kill.wait()
        server.kill()
        acknowledged = load.end()
        assert acknowledged
        server.start()
        arrived = wait_until_all_arrived(sink, acknowledged)
        missing = acknowledged - set(arrived)
        assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged mails never arrived"
        twice = [mark for mark, times in arrived.items() if times > 1]
        joined = [event for event in server.events if event["event"] == "queue.joined"]
        assert len(twice) <= joined[-1]["uncertain"] <= 20, "a second delivery only for what was in flight"
        assert server.stop() == 0


def test_nothing_is_lost_or_doubled_by_a_clean_restart(tmp_path: Path) -> None:
    with RecordingSink() as sink, ServerProcess(tmp_path, relay_config(sink)) as server:
        load = Load(server.port, "clean")
        sink.wait_for(300)
        server.terminate()
        acknowledged = load.end()
        assert server.wait() == 0
        server.start()
        arrived = wait_until_all_arrived(sink, acknowledged)
        assert acknowledged <= set(arrived)
        assert [mark for mark, times in arrived.items() if times > 1] == []
        assert server.stop() == 0


def test_a_drain_answers_everybody_and_ends_in_time(tmp_path: Path) -> None:
    config = {"hostname": "relay.example.com", "allowed_relays": ["127.0.0.1"], "timeouts": {"shutdown_timeout": 3}}
    routes = [{"domain": "*", "transport": "discard"}]
    with ServerProcess(tmp_path, {**config, "routes": routes}) as server:
        idle = [smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=10) for _ in range(50)]
        busy = [smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=10) for _ in range(50)]
        for client in busy:
            client.ehlo()
            client.mail("s@example.org")
            client.rcpt("r@example.net")
            client.docmd("DATA")
        began = time.monotonic()
        server.terminate()
        assert [client.getreply()[0] for client in idle] == [421] * 50
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=10)
        assert refused.value.smtp_code == 421
        assert time.monotonic() - began < 1
        for client in busy[:25]:
            client.send(b"Subject: late\r\n\r\nbut whole\r\n.\r\n")
            assert client.getreply()[0] == 250
        assert [client.getreply()[0] for client in busy[25:]] == [421] * 25
        assert server.wait() == 0
        assert time.monotonic() - began < 3 + 1
        for client in idle + busy:
            client.close()


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"hostname": "relay.example.com", "dev_mode": True}) as server:
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=10) as client:
            client.ehlo()
            client.mail("s@example.org")
            server.terminate()
            os.kill(server.pid, signal.SIGINT)
            began = time.monotonic()
            assert server.wait(10) == 0
            assert time.monotonic() - began < 8
            client.close()
