"""The inbox commands: against a running server, against a stopped one's files, against a whole `elemta run --dev`."""

import io
import smtplib
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from elemta.cli import inbox, queue_select
from elemta.mail.inbox import InboxEntry
from elemta.runtime.threads import WorkerThreads
from elemta.storage.inbox import MemoryInbox, SqliteInbox
from elemta.testing.process import ServerProcess
from elemta.web import inbox as pages
from tests.cli.at_desk import Terminal, server
from tests.web.desk import Desk
from tests.web.test_inbox_pages import catch


def test_the_list_is_an_array_with_the_newest_first(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [beside(catch, desk).id for _ in range(5)]
    monkeypatch.setattr(inbox, "PAGE_MAILS", 2)
    found = terminal.run("inbox", "list", "-o", "json").json
    assert [mail["id"] for mail in found] == ids[::-1]
    assert found[0] == {
        "id": ids[-1],
        "reverse_path": "me@example.org",
        "forward_paths": ["you@example.net"],
        "subject": "hi",
        "size": 22,
        "received_at": "2027-01-15T08:00:00.000Z",
    }
    assert terminal.run("inbox", "list", "-o", "ids", "--limit", "3").lines == ids[:1:-1]


def test_an_empty_inbox(terminal: Terminal, beside: Callable[..., Any]) -> None:
    assert terminal.run("inbox", "list", "-o", "json").json == []
    ended = terminal.run("inbox", "list")
    assert (ended.code, len(ended.lines)) == (0, 1)


def test_the_table(terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        beside(partial(catch, desk, reverse_path="", forward_paths=("a@example.net", "b@example.net"), subject="grüße"))
    monkeypatch.setattr(inbox, "TABLE_ROWS", 2)
    ended = terminal.run("inbox", "list")
    assert len(ended.lines) == 3
    assert ended.lines[1].split()[3:] == ["<>", "a@example.net", "(+1)", "22", "grüße"]
    assert "--all" in ended.err


def test_hostile_octets_are_escaped(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    hostile = "\x1b]0;owned\x07 \u202e[red]x[/red]\n2nd"
    octets = b"Subject: \x1b[2J\r\nFrom: \x07\r\n\r\n\x1b[31m\x9b\r\n"
    entry = beside(partial(catch, desk, octets, subject=hostile, reverse_path="\x1bme@example.org"))
    for words in (["list"], ["list", "-o", "json"], ["show", entry.id], ["wait"], ["wait", "-o", "json"]):
        ended = terminal.run("inbox", *words)
        assert ended.code == 0
        assert not any(char in ended.out for char in "\x1b\x07\u202e\x9b")
    assert terminal.octets("inbox", "raw", entry.id) == octets


@pytest.mark.parametrize("octets", [b"", b"hello\r\n", bytes(range(256)) * 5000])
def test_raw_prints_the_octets(octets: bytes, terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    entry = beside(catch, desk, octets)
    assert terminal.octets("inbox", "raw", entry.id) == octets


MAIL = b"""From: Me <me@example.org>\r
Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=b\r
\r
--b\r
Content-Type: text/plain; charset=utf-8\r
Content-Transfer-Encoding: base64\r
\r
SGFsbG8sIFdlbHQhCg==\r
--b\r
Content-Type: application/pdf\r
Content-Disposition: attachment; filename="bill.pdf"\r
\r
x\r
--b--\r
"""


def test_show_is_for_reading(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    entry = beside(catch, desk, MAIL)
    lines = terminal.run("inbox", "show", entry.id).lines
    assert lines[-5:] == ["From: Me <me@example.org>", "Subject: grüße", "", "Hallo, Welt!", "[attached: bill.pdf]"]
    assert terminal.run("inbox", "show", entry.id, "-o", "json").json["id"] == entry.id


@pytest.mark.parametrize(
    "octets",
    [
        b"Content-Type: text/plain; charset=no-such\r\n\r\nhello\r\n",
        b"Content-Type: multipart/mixed\r\n\r\n--\r\nhello",
        b"Content-Transfer-Encoding: base64\r\n\r\nhello====%%\r\n",
        b"From: =?utf-8?q?=FF?= <\r\nTo: ,,;:<<>>\r\nContent-Type: text/\xff; x*1=%\r\n\r\nhello",
        b"\r\n\r\nhello",
        b"hello",
        b"Content-Type: message/rfc822\r\n\r\n" * 300 + b"hello",
    ],
)
def test_show_takes_any_mail(octets: bytes, terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    entry = beside(catch, desk, octets)
    ended = terminal.run("inbox", "show", entry.id)
    assert ended.code == 0
    assert "Traceback" not in ended.err


def test_show_of_a_large_mail_is_its_beginning(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "SHOWN_OCTETS", 100)
    entry = beside(catch, desk, b"Subject: x\r\n\r\n" + b"y" * 3_000_000)
    ended = terminal.run("inbox", "show", entry.id)
    assert "y" * 86 in ended.out
    assert "y" * 87 not in ended.out
    assert "3000014 octets" in ended.err


def test_an_unknown_mail(terminal: Terminal, beside: Callable[..., Any]) -> None:
    for words in (["show", "0" * 22], ["raw", "0" * 22], ["raw", "../x"], ["show", "wait"]):
        ended = terminal.run("inbox", *words)
        assert (ended.code, ended.out) == (1, "")


def test_wait_prints_what_is_there(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    entry = beside(catch, desk)
    later = beside(partial(catch, desk, subject="Welcome to you"))
    found = terminal.run("inbox", "wait", "--to", "YOU@example.net", "-o", "json")
    assert (found.code, found.json["id"]) == (0, entry.id)
    assert terminal.run("inbox", "wait", "--subject", "welcome", "-o", "ids").lines == [later.id]
    assert terminal.run("inbox", "wait", "--after", entry.id, "-o", "ids").lines == [later.id]
    assert "Welcome to you" in terminal.run("inbox", "wait", "--from", "@example.org", "--subject", "come").out


class Noticed(MemoryInbox):
    """Says when somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    async def wait_for(self, matches: Callable[[InboxEntry], bool], after: str | None = None) -> InboxEntry:
        self.waiting.set()
        return await super().wait_for(matches, after)


def test_wait_sees_what_comes(terminal: Terminal, desk: Desk) -> None:
    noticed = Noticed()
    desk.use_inbox(noticed)
    with server(desk, terminal.queue_dir) as beside:

        def send() -> None:
            assert noticed.waiting.wait(30)
            beside(partial(catch, desk, subject="now"))

        sender = threading.Thread(target=send)
        sender.start()
        ended = terminal.run("inbox", "wait", "--subject", "now", "--timeout", "30", "-o", "json")
        sender.join()
    assert (ended.code, ended.json["subject"]) == (0, "now")


def test_wait_ends_with_1(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "WAIT_SECONDS", 1)  # so that it has to ask twice
    beside(catch, desk)
    ended = terminal.run("inbox", "wait", "--to", "nobody@example.net", "--timeout", "2")
    assert (ended.code, ended.out) == (1, "")
    assert "no such mail came in 2 seconds" in ended.err


def test_clear(terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    for _ in range(3):
        beside(catch, desk)
    ended = terminal.run("inbox", "clear")
    assert ended.code == 2
    assert "--yes" in ended.err
    assert terminal.run("inbox", "clear", "--yes").out == "3 mails removed.\n"
    assert terminal.run("inbox", "list", "-o", "json").json == []


def test_a_stopped_servers_inbox(terminal: Terminal, desk: Desk) -> None:
    octets = b"Subject: kept\r\n\r\nhello\r\n"

    async def keep() -> str:
        store = SqliteInbox(terminal.queue_dir, WorkerThreads())
        desk.use_inbox(store)
        await store.open()
        entry = await catch(desk, octets)
        await store.close()
        return entry.id

    terminal.queue_dir.mkdir()
    kept = trio.run(keep)
    assert terminal.run("inbox", "list", "-o", "ids").lines == [kept]
    assert terminal.octets("inbox", "raw", kept) == octets
    assert terminal.run("inbox", "wait", "-o", "ids").lines == [kept]
    ended = terminal.run("inbox", "wait", "--to", "nobody@example.net")
    assert ended.code == 69
    assert terminal.run("inbox", "clear", "--yes").out == "1 mail removed.\n"


def test_the_command_line_asks_no_more_than_the_server_gives() -> None:
    assert inbox.WAIT_SECONDS <= pages.WAIT_SECONDS
    assert queue_select.PAGE_MAILS <= pages.PAGE_MAILS


@pytest.mark.slow
def test_a_whole_server_in_dev_mode(tmp_path: Path) -> None:
    def elemta(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "elemta", "-c", str(tmp_path / "elemta.conf"), *words]
        return subprocess.run(command, capture_output=True, timeout=60, check=False)

    octets = b"Subject: hello\r\n\r\n.a line with a dot\r\n"
    with ServerProcess(tmp_path, {"dev_mode": True}) as process:
        with smtplib.SMTP("127.0.0.1", process.port) as smtp:
            smtp.sendmail("me@example.org", ["you@example.net"], octets)
        found = elemta("inbox", "wait", "--to", "you@example.net", "--timeout", "20", "-o", "ids")
        assert found.returncode == 0, found.stderr
        queue_id = found.stdout.decode().strip()
        raw = elemta("inbox", "raw", queue_id).stdout
        assert raw.endswith(octets)
        assert elemta("queue", "list", "-o", "json").stdout.strip() == b"[]"
        assert process.stop() == 0
    assert elemta("inbox", "raw", queue_id).stdout == raw
    assert not (tmp_path / "queue" / "control.sock").exists()
