"""Promises 6, 7: a full disk, and one whose syncs fail, cost clients a 4xx and nobody a mail."""

import re
import signal
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.wire import free_port, queued, wait_until

DISK_OCTETS = 64 * 1024 * 1024
#: Promise 6.
ACCEPTS_AGAIN_SECONDS = 10.0
BODY = ("x" * 78 + "\r\n") * 500
Needs = Callable[[str], Path]


def waiting_for(port: int) -> dict[str, object]:
    """All mail goes to a port where nobody listens as yet; it is tried each second."""
    return {
        "hostname": "relay.example.com",
        "allowed_relays": ["127.0.0.1"],
        "retry_schedule": [1],
        "max_retries": 1000,
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": port}],
    }


@pytest.fixture(params=["octets", "inodes"])
def small_disk(request: pytest.FixtureRequest, as_root: None, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, short of space or of files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    short = {"octets": f"size={DISK_OCTETS}", "inodes": "size=1g,nr_inodes=300"}[request.param]
    subprocess.run(["mount", "-t", "tmpfs", "-o", short, "elemta-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def client(server: ServerProcess) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=60)


def try_one(server: ServerProcess, mark: str, body: str = BODY) -> int:
    """Send one mail; the code that it was answered."""
    try:
        with client(server) as smtp:
            smtp.sendmail("s@example.org", ["r@example.net"], f"Subject: {mark}\r\n\r\n{body}")
    except smtplib.SMTPRecipientsRefused as error:
        return next(iter(error.recipients.values()))[0]
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
    return 250


def fill(server: ServerProcess) -> tuple[set[str], set[int]]:
    """Send until the server refuses ten mails in a row; what was acknowledged, the codes of the refusals."""
    acknowledged: set[str] = set()
    refused: list[int] = []
    large = BODY * 10  # over what lies in the database: each takes a file of its own
    for number in range(3000):
        mark = f"fill-{number}"
        code = try_one(server, mark, large)
        if code == 250:
            acknowledged.add(mark)
        else:
            refused.append(code)
            if len(refused) >= 10:
                return acknowledged, set(refused)
    raise AssertionError("the disk never filled")


def marks(sink: RecordingSink) -> list[str]:
    return [
        line[9:].decode()
        for mail in list(sink.mails)
        for line in mail.content.split(b"\r\n")[:8]
        if line[:9] == b"Subject: "
    ]


def test_a_full_disk_costs_nobody_a_mail(small_disk: Path, tmp_path: Path) -> None:
    port = free_port()
    config = {**waiting_for(port), "queue_dir": str(small_disk / "queue")}
    with ServerProcess(tmp_path, config) as server:
        acknowledged, refusals = fill(server)
        assert acknowledged
        assert all(400 <= code < 500 for code in refusals), refusals
        with RecordingSink(port) as sink:
            # What waits goes on leaving; that makes room, and the server takes mail again by itself.
            wait_until(lambda: set(marks(sink)) >= acknowledged, f"{len(acknowledged)} mails left", 90)
            began = time.monotonic()
            wait_until(lambda: try_one(server, "after") == 250, "mail is taken again", ACCEPTS_AGAIN_SECONDS)
            assert time.monotonic() - began <= ACCEPTS_AGAIN_SECONDS
            wait_until(lambda: "after" in marks(sink), "the new mail left")
        assert server.stop() == 0
        assert "Traceback" not in server.log
        assert set(marks(sink)) <= acknowledged | {"after"}, "what was refused did not arrive"


# ---- failing syncs -------------------------------------------------------------------------------


@pytest.mark.needs("strace")
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("octets", [4_000, 400_000], ids=["in-the-database", "in-a-file"])
def test_a_sync_that_fails_is_never_answered_250(tmp_path: Path, needs: Needs, octets: int) -> None:
    """Also: no later sync of the same file is taken for the one that failed, since it may well succeed with nothing
    written (what PostgreSQL met in 2018)."""
    port = free_port()
    config = {**waiting_for(port), "timeouts": {"commit_timeout": 2}}
    body = ("x" * 78 + "\r\n") * (octets // 80)
    with ServerProcess(tmp_path, config) as server:
        assert try_one(server, "before", body) == 250
        strace = start_strace(needs("strace"), server, tmp_path / "strace")
        try:
            failing = [try_one(server, f"failing-{number}", body) for number in range(3)]
        finally:
            stop_strace(strace)
        injected = (tmp_path / "strace").read_text().count("(INJECTED)")
        assert injected > 0, "nothing failed"
        assert all(400 <= code < 500 for code in failing), failing
        assert "Traceback" not in server.log
        wait_until(lambda: try_one(server, "after", body) == 250, "mail is taken again", ACCEPTS_AGAIN_SECONDS)
        # What is acknowledged outlives the process, whatever the failed syncs left behind.
        server.kill()
        with RecordingSink(port) as sink:
            server.start()
            wait_until(lambda: {"before", "after"} <= set(marks(sink)), "acknowledged mails left", 60)
            wait_until(lambda: queued(server) == 0, "the queue is empty", 60)
            assert server.stop() == 0


def start_strace(program: Path, server: ServerProcess, log: Path) -> subprocess.Popen[bytes]:
    """Make every sync of the server fail with EIO; returns once it is attached to every thread."""
    syncs = "fsync,fdatasync,sync_file_range,syncfs"
    process = subprocess.Popen(
        [
            program,
            "-f",
            "-qq",
            "-e",
            f"trace={syncs}",
            "-e",
            f"inject={syncs}:error=EIO",
            "-o",
            log,
            "-p",
            str(server.pid),
        ],
        stdin=subprocess.DEVNULL,
    )
    threads = Path(f"/proc/{server.pid}/task")
    wait_until(
        lambda: all(re.search(r"TracerPid:\t[1-9]", (one / "status").read_text()) for one in threads.iterdir()),
        "strace is attached",
    )
    return process


def stop_strace(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    process.wait(30)
