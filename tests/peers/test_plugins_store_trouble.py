"""Stores in trouble while plugins write mails anew: full, cut off, killed. No mail is lost or half changed.

What is not here: the same without plugins (`test_disk`, `test_store_faults`, `test_restart`).
"""

import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elemta.datasource.options import Dialect
from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.campaign.faults_away import Away, case_of
from tests.campaign.servers import DatabaseServer
from tests.peers.test_disk import ACCEPTS_AGAIN_SECONDS, DISK_OCTETS, marks, try_one, waiting_for
from tests.peers.test_plugged_server import plugin
from tests.peers.test_restart import SENDERS, Load, wait_until_all_arrived
from tests.peers.wire import free_port, queued, wait_until

#: A body in place of another, marked at its beginning and its end: of so many megabytes as the mail asks for, else of
#: 200 KB, which is more than lies in memory.
GROWING = """\
    async def on_data_complete(self, mail):
        lines = int(mail.headers.text("X-Grow") or 0) * 1024 * 1024 // 80 or 2500
        while self.host.hostname == "pausing.example.com" and not await trio.Path("go").exists():
            self.host.log.info("reached")
            await trio.sleep(0.05)
        body = b"begin\\r\\n" + (b"x" * 78 + b"\\r\\n") * lines + b"end\\r\\n"
        return Continue([ReplaceBody(body), AddHeader("X-Grown", b"yes")])
"""
GROW = "\r\nX-Grow: 10"
GROWN_OCTETS = 200_000
KILLS = 2


def growing(folder: Path, port: int, *, pausing: bool = False, **keys: object) -> dict[str, Any]:
    hostname = "pausing.example.com" if pausing else "relay.example.com"
    return {
        **waiting_for(port),
        "hostname": hostname,
        "plugins": {"plugins": [plugin(folder, "grow", GROWING)]},
        **keys,
    }


def is_whole(content: bytes) -> bool:
    """Whether a mail is what the plugin made of it."""
    header, _, body = content.partition(b"\r\n\r\n")
    lines = body.split(b"\r\n")
    grown = b"X-Grown: yes" in header.split(b"\r\n")
    return grown and lines[0] == b"begin" and lines[-2:] == [b"end", b""] and len(body) >= GROWN_OCTETS


def contents(queue: Path) -> list[Path]:
    """The files of large mails: the database and the journal, which grow as they please, are not among them."""
    large = [path for path in queue.rglob("*") if path.is_file() and path.stat().st_size >= GROWN_OCTETS]
    return [path for path in large if path.parent.name != "journal" and not path.name.startswith("queue.db")]


# ---- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def disk(as_root: None, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_OCTETS}", "elemta-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_a_disk_that_plugins_fill_costs_nobody_a_mail(store: str, disk: Path, tmp_path: Path) -> None:
    port = free_port()
    config = growing(tmp_path, port, queue_dir=str(disk / "queue"), storage={"type": store})
    with ServerProcess(tmp_path, config) as server:
        codes = [try_one(server, f"grown-{number}{GROW}") for number in range(8)]
        taken = {f"grown-{number}" for number, code in enumerate(codes) if code == 250}
        assert 1 < len(taken) < len(codes)
        assert set(codes) == {250, 452}
        assert len(contents(disk)) == len(taken), "nothing of what was refused stays behind"
        with RecordingSink(port) as sink:
            wait_until(lambda: set(marks(sink)) >= taken, "what was taken has left", 60)
            wait_until(lambda: try_one(server, f"after{GROW}") == 250, "mail is taken again", ACCEPTS_AGAIN_SECONDS)
            wait_until(lambda: "after" in marks(sink), "the new mail has left")
        wait_until(lambda: contents(disk) == [], "no content is left")
        assert sorted(marks(sink)) == sorted(taken | {"after"})
        assert all(is_whole(mail.content) for mail in sink.mails)
        assert server.stop() == 0
        assert "plugin.failed" not in server.log
        assert "Traceback" not in server.log


# ---- in the middle ---------------------------------------------------------------------------------


class Sender:
    """Sends one mail in a thread; `code` is what came of it, 0 for a connection that broke."""

    def __init__(self, server: ServerProcess, mark: str) -> None:
        self.code = 0
        self._thread = threading.Thread(target=self._send, args=(server, mark))
        self._thread.start()

    def _send(self, server: ServerProcess, mark: str) -> None:
        try:
            self.code = try_one(server, mark)
        except OSError:
            return

    def wait(self) -> int:
        self._thread.join()
        return self.code


def reached(server: ServerProcess) -> None:
    wait_until(lambda: '"reached"' in server.log, "the plugin has the mail in hand")


def test_a_database_that_goes_away_while_a_plugin_has_the_mail(open_folder: Path) -> None:
    (open_folder / "node").mkdir()
    port = free_port()
    with DatabaseServer(Dialect.POSTGRESQL, open_folder / "database") as database, case_of(Away.CUT, database) as case:
        storage = {"type": "postgresql", "dsn": database.dsn(case.port), "lease": 10}
        config = growing(open_folder / "node", port, pausing=True, storage=storage, timeouts={"commit_timeout": 2.0})
        with ServerProcess(open_folder / "node", config) as server:
            sender = Sender(server, f"during{GROW}")
            reached(server)
            case.begin()
            (open_folder / "node" / "go").touch()
            assert sender.wait() == 451
            case.undo()
            wait_until(lambda: try_one(server, f"after{GROW}") == 250, "mail is taken again", ACCEPTS_AGAIN_SECONDS)
            with RecordingSink(port) as sink:
                wait_until(lambda: "after" in marks(sink), "the new mail has left")
                assert server.stop() == 0
            assert sorted(marks(sink)) == ["after"], "what was refused did not arrive"
            assert all(is_whole(mail.content) for mail in sink.mails)
            assert "plugin.failed" not in server.log
            assert "Traceback" not in server.log


@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_kills_while_plugins_write_mails_anew(store: str, tmp_path: Path) -> None:
    chance = random.Random(store)
    with RecordingSink() as sink:
        config = growing(tmp_path, sink.port, max_workers=SENDERS, storage={"type": store})
        acknowledged: set[str] = set()
        with ServerProcess(tmp_path, config) as server:
            for number in range(KILLS):
                load = Load(server.port, f"kill{number}")
                before, more = len(sink.mails), chance.randrange(20, 200)
                wait_until(lambda: len(sink.mails) - before >= more, "mails come through")  # noqa: B023
                server.kill()
                acknowledged |= load.end()
                server.start()
            arrived = wait_until_all_arrived(sink, acknowledged)
            assert not acknowledged - set(arrived)
            wait_until(lambda: queued(server) == 0 if store == "sqlite" else True, "the queue is empty")
            assert server.stop() == 0
        assert all(is_whole(mail.content) for mail in sink.mails)
        uncertain = sum(event["uncertain"] for event in server.events if event["event"] == "queue.joined")
        assert len(sink.mails) - len(set(marks(sink))) <= uncertain <= KILLS * SENDERS


@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_a_server_that_is_killed_while_a_plugin_has_the_mail(store: str, tmp_path: Path) -> None:
    port = free_port()
    config = growing(tmp_path, port, pausing=True, storage={"type": store})
    with ServerProcess(tmp_path, config) as server:
        sender = Sender(server, f"during{GROW}")
        reached(server)
        server.kill()
        assert sender.wait() == 0, "no answer"
        server.start()
        (tmp_path / "go").touch()
        assert try_one(server, f"after{GROW}") == 250
        with RecordingSink(port) as sink:
            wait_until(lambda: "after" in marks(sink), "the new mail has left")
            assert server.stop() == 0
        assert sorted(marks(sink)) == ["after"]
        assert all(is_whole(mail.content) for mail in sink.mails)
