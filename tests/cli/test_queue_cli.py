"""The queue commands: against a running server, against a stopped one's files, on a terminal, in a pipe."""

import io
import os
import pty
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from elemta.cli import queue_orders, queue_select
from elemta.mail.reply import Reply
from elemta.runtime.clock import SystemClock
from elemta.runtime.threads import WorkerThreads
from elemta.storage.base import Insert
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.sqlite import SqliteStore
from elemta.supervisor.lock import QueueLock
from elemta.web import asked, orders, queue
from elemta.web.sockets import listen_unix
from tests.cli.at_desk import Terminal, server
from tests.web.desk import LATER, OCTETS, START, Desk

#: Before any real clock's time, for what commands judge by it; UTC in seconds since 1970.
PAST = 1_600_000_000.0


def stored(folder: Path, *mails: QueuedMail, octets: bytes = OCTETS) -> None:
    """Put mails into the database of a stopped server."""

    folder.mkdir(exist_ok=True)

    async def put() -> None:
        store = SqliteStore(str(folder), WorkerThreads(), SystemClock())
        await store.open()
        await store.join("mail.example.com", START)
        await store.commit([Insert(mail, octets) for mail in mails])
        await store.close()

    trio.run(put)


def made(desk: Desk, count: int = 1, **changes: Any) -> list[QueuedMail]:
    """Mails that lie in no store of the test's."""
    octets = changes.pop("octets", OCTETS)
    changes.setdefault("received_at", PAST)

    async def make() -> list[QueuedMail]:
        return [await desk.add(octets, **changes) for _ in range(count)]

    return trio.run(make)


# ---- looking -----------------------------------------------------------------------------------


def test_the_list_for_people(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.deferred)
    ended = terminal.run("queue", "list")
    assert (ended.code, ended.err) == (0, "")
    head, row = ended.lines
    assert head.split() == ["ID", "STATE", "AGE", "SIZE", "SENDER", "RECIPIENTS", "NEXT", "TRY", "WHY"]
    assert row.split()[:2] == [mail.id, "deferred"]
    assert "sender@example.org" in row
    assert str(LATER) in row


def test_the_list_for_programs(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    ids = [beside(desk.add).id for _ in range(3)]
    assert [mail["id"] for mail in terminal.run("queue", "list", "-o", "json").json] == ids
    assert terminal.run("queue", "list", "-o", "ids").lines == ids
    assert len(terminal.run("queue", "list", "-o", "jsonl").lines) == 3


def test_an_empty_list(terminal: Terminal, beside: Callable[..., Any]) -> None:
    assert terminal.run("queue", "list", "-o", "json").json == []
    assert terminal.run("queue", "list", "-o", "jsonl").out == ""
    assert terminal.run("queue", "list", "-o", "ids").out == ""


def test_programs_get_every_page(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [beside(desk.add).id for _ in range(7)]
    monkeypatch.setattr("elemta.cli.queue.PAGE_MAILS", 2)
    assert terminal.run("queue", "list", "-o", "ids").lines == ids
    assert [mail["id"] for mail in terminal.run("queue", "list", "-o", "json").json] == ids
    assert terminal.run("queue", "list", "-o", "ids", "--limit", "5").lines == ids[:5]


def test_a_table_says_that_there_is_more(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        beside(desk.add)
    monkeypatch.setattr("elemta.cli.queue.TABLE_ROWS", 3)
    short = terminal.run("queue", "list")
    assert len(short.lines) == 4
    assert "--all" in short.err
    whole = terminal.run("queue", "list", "--all")
    assert (len(whole.lines), whole.err) == (5, "")


@pytest.mark.parametrize("word", ["held", "hold"])
def test_filters(word: str, terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    beside(desk.add)
    held = beside(partial(desk.add, state=QueueState.HELD))
    assert terminal.run("queue", "list", "--state", word, "-o", "ids").lines == [held.id]
    both = terminal.run("queue", "list", "--state", word, "--state", "deferred", "-o", "ids")
    assert len(both.lines) == 2
    assert terminal.run("queue", "list", "--sender", "<>", "-o", "ids").lines == []
    assert terminal.run("queue", "list", "--recipient", "@example.net", "--state", word, "-o", "ids").lines == [held.id]


def test_a_filter_of_no_form_is_a_usage_error(terminal: Terminal, beside: Callable[..., Any]) -> None:
    ended = terminal.run("queue", "list", "--sender", "nobody")
    assert ended.code == 2
    assert ended.err.startswith("elemta: sender is an address")
    assert terminal.run("queue", "list", "--state", "flush").code == 2


@pytest.mark.parametrize("name", ["show", "view"])
def test_one_mail_for_people(name: str, terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.deferred)
    ended = terminal.run("queue", name, mail.id)
    assert ended.code == 0
    words = ended.out
    for part in (
        "sender@example.org",
        "mx.example.net",
        "192.0.2.1:25",
        "1.25",
        str(LATER),
        "waits for its next attempt",
    ):
        assert part in words
    assert f"elemta queue retry {mail.id}" in words


def test_one_mail_for_programs(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.deferred)
    found = terminal.run("queue", "show", mail.id, "-o", "json").json
    assert found["why"][0]["code"] == "backoff"
    assert len(terminal.run("queue", "show", mail.id, "-o", "jsonl").lines) == 1


def test_a_mail_that_left_shows_its_attempts(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.deferred)
    terminal.run("queue", "delete", mail.id, "--yes")
    ended = terminal.run("queue", "show", mail.id)
    assert ended.code == 0
    assert "has left the queue" in ended.err
    assert "mx.example.net" in ended.out


def test_an_unknown_id_gets_the_nearest_one(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.add)
    for command in ("show", "cat"):
        ended = terminal.run("queue", command, mail.id[:15])
        assert (ended.code, ended.out) == (1, "")
        assert f"did you mean {mail.id}?" in ended.err


HOSTILE = ("..", ".", "../../etc/passwd", "%2e%2e", "a/b", "é", "\x1b[2J", "x" * 5000, "*", "actions", "a\nb", "")


@pytest.mark.parametrize("command", ["show", "cat", "hold"])
def test_hostile_ids_do_no_harm(command: str, terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    beside(desk.add)
    for text in HOSTILE:
        ended = terminal.run("queue", command, text)
        assert ended.code == 1, text
        assert ended.out in ("", "0 mails are held.\n")
        assert "\x1b" not in ended.err
        assert "Traceback" not in ended.err
    assert beside(desk.states) == ["deferred"]


@pytest.mark.parametrize("octets", [OCTETS, b"", bytes(range(256)) * 9000])
def test_cat_prints_the_octets(octets: bytes, terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(partial(desk.add, octets))
    assert terminal.octets("queue", "cat", mail.id) == octets


def test_figures(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    beside(desk.add)
    desk.metrics.messages_received.inc(2)
    assert terminal.run("queue", "stats", "-o", "json").json["deferred_count"] == 1
    table = [line.split() for line in terminal.run("queue", "stats").lines]
    assert ["deferred", "1"] in table
    assert ["accepted", "since", "the", "start", "2"] in table


# ---- ordering ----------------------------------------------------------------------------------


def test_orders_by_id(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.add)
    ended = terminal.run("queue", "hold", mail.id, "--reason", "looks odd")
    assert (ended.code, ended.out) == (0, "1 mail is held.\n")
    assert "held: looks odd" in terminal.run("queue", "list").out
    assert terminal.run("queue", "release", mail.id).out == "1 mail is released.\n"
    assert terminal.run("queue", "retry", mail.id).code == 0
    ended = terminal.run("queue", "delete", mail.id, "--yes")
    assert ended.out == "1 mail is deleted. No bounce is sent.\n"
    assert beside(desk.states) == []


def test_orders_by_filter_go_page_by_page(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "ORDER_MAILS", 2)
    ids = [beside(desk.add).id for _ in range(5)]
    ended = terminal.run("queue", "hold", "--recipient", "@example.net", "-o", "ids")
    assert ended.lines == ids
    assert terminal.run("queue", "release", "--all", "-o", "json").json["changed"] == ids


def test_ids_from_standard_input(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_orders, "BATCH_IDS", 2)
    ids = [beside(desk.add).id for _ in range(5)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*ids, "", ids[0]]) + "\n"))
    assert terminal.run("queue", "hold", "-", "-o", "ids").lines == ids


def test_no_ids_on_standard_input_are_no_mails(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(desk.add)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ended = terminal.run("queue", "delete", "-", "--yes")
    assert (ended.code, ended.out) == (0, "0 mails are deleted.\n")
    assert beside(desk.states) == ["deferred"]


def test_a_line_that_is_no_id_is_refused(
    terminal: Terminal, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 10_000))
    assert terminal.run("queue", "hold", "-").code == 2


@pytest.mark.parametrize("verb", ["retry", "hold", "release", "delete"])
@pytest.mark.parametrize("words", [[], ["--all", "--sender", "a@b"], ["0" * 22, "--all"]])
def test_which_mails_must_be_said_in_one_way(
    verb: str, words: list[str], terminal: Terminal, desk: Desk, beside: Callable[..., Any]
) -> None:
    beside(desk.add)
    ended = terminal.run("queue", verb, *words)
    assert ended.code == 2
    assert "--all" in ended.err
    assert beside(desk.states) == ["deferred"]


def test_what_cannot_be_done_is_said(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    failed = beside(partial(desk.add, state=QueueState.FAILED))
    held = beside(partial(desk.add, state=QueueState.HELD))
    ended = terminal.run("queue", "hold", failed.id, held.id, failed.id[:-1] + "_", held.id[:-1])
    assert (ended.code, ended.out) == (1, "0 mails are held.\n")
    assert f"{failed.id} is failed: left alone." in ended.err
    assert f"{held.id} is held already: left alone." in ended.err
    assert '_" is no queue id' in ended.err
    assert f"did you mean {held.id}?" in ended.err
    assert terminal.run("queue", "hold", held.id).code == 0


def test_mail_in_flight_can_be_ordered_later(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.in_flight)
    ended = terminal.run("queue", "delete", mail.id, "--yes")
    assert ended.code == 75
    assert mail.id in ended.err
    assert terminal.run("queue", "delete", mail.id, "--yes", "-o", "json").json["in_flight"] == [mail.id]


def test_results_line_by_line(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.add)
    held = beside(partial(desk.add, state=QueueState.HELD))
    ended = terminal.run("queue", "hold", mail.id, held.id, "-o", "jsonl")
    assert ended.lines == [
        f'{{"id": "{mail.id}", "result": "changed"}}',
        f'{{"id": "{held.id}", "state": "held", "already": true, "result": "skipped"}}',
    ]


def test_a_dry_run_changes_nothing(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    ids = [beside(desk.add).id for _ in range(5)]
    ended = terminal.run("queue", "delete", "--all", "--dry-run")
    assert ended.out == "5 mails would be deleted. No bounce is sent.\n"
    assert [line.split()[0] for line in ended.err.splitlines()] == ids[:3]
    assert len(beside(desk.states)) == 5


def test_deleting_where_nobody_can_be_asked_needs_yes(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    mail = beside(desk.add)
    ended = terminal.run("queue", "delete", mail.id)
    assert (ended.code, ended.out) == (2, "")
    assert "--yes" in ended.err
    assert beside(desk.states) == ["deferred"]


# ---- reaching ----------------------------------------------------------------------------------


def test_connect_names_the_socket(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = beside(desk.add)
    address = f"unix:{terminal.queue_dir}/control.sock"
    (terminal.folder / "elemta.conf").write_text("not even JSON")
    assert terminal.run("queue", "list").code == 78
    assert terminal.run("queue", "list", "-o", "ids", "--connect", address).lines == [mail.id]
    monkeypatch.setenv("ELEMTA_CONNECT", address)
    assert terminal.run("queue", "list", "-o", "ids").lines == [mail.id]
    monkeypatch.setenv("ELEMTA_CONNECT", "tcp:25")
    assert terminal.run("queue", "list").code == 2


def test_a_server_that_is_named_must_be_there(terminal: Terminal, tmp_path: Path) -> None:
    ended = terminal.run("queue", "list", "--connect", f"unix:{tmp_path}/none.sock")
    assert ended.code == 69
    assert f"no server answers at {tmp_path}/none.sock" in ended.err


def test_no_server_and_no_queue(terminal: Terminal) -> None:
    ended = terminal.run("queue", "list")
    assert ended.code == 69
    assert str(terminal.queue_dir) in ended.err
    assert not terminal.queue_dir.exists()


def test_a_queue_in_memory_ends_with_its_server(terminal: Terminal) -> None:
    terminal.queue_dir.mkdir()
    terminal.configure(storage={"type": "memory"})
    assert terminal.run("queue", "list").code == 69


def test_a_stopped_servers_queue_is_read_and_changed(terminal: Terminal, desk: Desk) -> None:
    one, two = made(desk, 2)
    stored(terminal.queue_dir, one, two)
    assert terminal.run("queue", "list", "-o", "ids").lines == [one.id, two.id]
    assert terminal.run("queue", "hold", one.id).code == 0
    (held,) = terminal.run("queue", "list", "--state", "held", "-o", "json").json
    assert held["id"] == one.id
    assert terminal.run("queue", "stats", "-o", "json").json["total_processed"] is None
    assert terminal.run("queue", "cat", two.id).out == OCTETS.decode().replace("\r\n", "\r\n")
    assert terminal.run("queue", "delete", "--all", "--yes").out.startswith("2 mails are deleted")
    assert terminal.run("queue", "list", "-o", "ids").lines == []


def test_a_stopped_servers_queue_says_that_nothing_is_tried(terminal: Terminal, desk: Desk) -> None:
    (mail,) = made(desk, next_attempt_at=PAST, state=QueueState.ACTIVE)
    stored(terminal.queue_dir, mail)
    assert "tried when the server runs" in terminal.run("queue", "list").out


def test_the_socket_of_a_killed_server_is_no_server(terminal: Terminal, desk: Desk) -> None:
    (mail,) = made(desk)
    stored(terminal.queue_dir, mail)
    bound = listen_unix(terminal.queue_dir / "control.sock")
    for sock in bound.sockets:
        sock.close()
    assert terminal.run("queue", "list", "-o", "ids").lines == [mail.id]


def test_nothing_is_done_behind_a_servers_back(terminal: Terminal, desk: Desk) -> None:
    (mail,) = made(desk)
    stored(terminal.queue_dir, mail)
    with QueueLock(terminal.queue_dir):
        ended = terminal.run("queue", "delete", mail.id, "--yes")
    assert ended.code == 75
    assert f"process {os.getpid()}" in ended.err
    assert terminal.run("queue", "list", "-o", "ids").lines == [mail.id]


def test_root_does_not_open_the_queue_of_a_user(
    terminal: Terminal, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(terminal.queue_dir, *made(desk))
    before = sorted(entry.name for entry in terminal.queue_dir.iterdir())
    owner = terminal.queue_dir.stat()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    real = Path.stat

    def foreign(path: Path, **options: Any) -> os.stat_result:
        found = real(path, **options)
        if path != terminal.queue_dir:
            return found
        return os.stat_result([*found[:4], owner.st_uid + 4711, *found[5:10]])

    monkeypatch.setattr(Path, "stat", foreign)
    ended = terminal.run("queue", "list")
    assert ended.code == 77
    assert "run this as that user" in ended.err
    assert sorted(entry.name for entry in terminal.queue_dir.iterdir()) == before


def test_a_socket_of_another_user(
    terminal: Terminal, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may connect to anything, so the refusal is the system's word alone.
    def refuse(_sock: socket.socket, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    ended = terminal.run("queue", "list")
    assert ended.code == 77
    assert "belongs to another user" in ended.err


def test_a_long_path_works(tmp_path: Path, capsys: pytest.CaptureFixture[str], desk: Desk) -> None:
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    folder.mkdir(parents=True)
    terminal = Terminal(folder, capsys)
    with server(desk, terminal.queue_dir) as beside:
        mail = beside(desk.add)
        assert terminal.run("queue", "list", "-o", "ids").lines == [mail.id]
        assert stat.S_ISSOCK((terminal.queue_dir / "control.sock").stat().st_mode)


def test_something_else_at_the_socket(terminal: Terminal) -> None:
    terminal.queue_dir.mkdir()
    (terminal.queue_dir / "control.sock").write_text("not a socket")
    ended = terminal.run("queue", "list", "--connect", f"unix:{terminal.queue_dir}/control.sock")
    assert ended.code == 69


def test_a_filter_need_not_be_utf_8(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    beside(desk.add)
    for words in (["--sender", "\udcff@example.org"], ["--recipient", "ü ?&=#%2B+@example.net"]):
        ended = terminal.run("queue", "list", "-o", "ids", *words)
        assert (ended.code, ended.out) in ((0, ""), (2, ""))


@pytest.mark.slow
def test_a_running_server_is_asked_without_an_event_loop(terminal: Terminal, beside: Callable[..., Any]) -> None:
    slow = {"trio", "httpx", "starlette", "hypercorn", "orjson", "prometheus_client", "structlog", "sqlite3"}
    program = (
        "import sys\n"
        "from elemta.cli.main import main\n"
        "try:\n"
        f"    main({elemta(terminal, 'queue', 'stats', '-o', 'json')[3:]!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print(*({slow!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60)
    assert '"active_count": 0' in found.stdout
    assert found.stderr.split() == []


# ---- what is printed ---------------------------------------------------------------------------


def test_hostile_octets_are_escaped(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(desk.deferred, Reply(451, "", "\x1b[2J\x07 \u202egnp.exe [bold]no markup[/bold]"))
    for words in (
        ["list"],
        ["list", "-o", "json"],
        ["list", "-o", "jsonl"],
        ["show", mail.id],
        ["show", mail.id, "-o", "json"],
    ):
        ended = terminal.run("queue", *words)
        assert ended.code == 0
        assert "[bold]no markup[/bold]" in ended.out
        assert not any(char in ended.out for char in "\x1b\x07\u202e")


def test_no_color(terminal: Terminal, desk: Desk, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    beside(desk.add)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in terminal.run("queue", "list").out
    assert "\x1b" not in terminal.run("--color", "never", "queue", "list").out
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in terminal.run("queue", "list").out


# ---- as a process ------------------------------------------------------------------------------


def elemta(terminal: Terminal, *words: str) -> list[str]:
    return [sys.executable, "-m", "elemta", "-c", str(terminal.folder / "elemta.conf"), *words]


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(terminal: Terminal, desk: Desk) -> None:
    stored(terminal.queue_dir, *made(desk, 400))
    for form in ("ids", "json"):
        reader, writer = os.pipe()
        with subprocess.Popen(
            elemta(terminal, "queue", "list", "-o", form), stdout=writer, stderr=subprocess.PIPE
        ) as process:
            os.close(writer)
            assert os.read(reader, 10)
            os.close(reader)
            _, err = process.communicate(timeout=60)
        assert err == b""
        assert process.returncode in (0, 1)


@pytest.mark.slow
def test_a_closed_pipe_is_no_error_for_a_mail(terminal: Terminal, desk: Desk) -> None:
    (mail,) = made(desk, octets=b"x" * 5_000_000)
    stored(terminal.queue_dir, mail, octets=b"x" * 5_000_000)
    with subprocess.Popen(
        elemta(terminal, "queue", "cat", mail.id), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


class Person:
    """Somebody at a terminal."""

    def __init__(self, command: list[str]) -> None:
        self._end, other = pty.openpty()
        self._process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, start_new_session=True)
        os.close(other)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.seen:
            ready, _, _ = select.select([self._end], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.seen
            self.seen += self._read()

    def _read(self) -> str:
        try:
            return os.read(self._end, 65536).decode()
        except OSError:  # Linux says EIO when the other end is closed
            return ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def interrupt(self) -> None:
        """Type ^C, again when nothing follows: one that comes as Python begins to wait for a line is seen behind it."""
        for _ in range(10):
            self._process.send_signal(signal.SIGINT)
            ready, _, _ = select.select([self._end], [], [], 3)
            if ready:
                return

    def leave(self) -> int:
        while piece := self._read():
            self.seen += piece
        os.close(self._end)
        return self._process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize(("said", "code", "left"), [("y\n", 0, 0), ("\n", 1, 5), ("^C", 130, 5)])
def test_deleting_asks_a_person(said: str, code: int, left: int, terminal: Terminal, desk: Desk) -> None:
    stored(terminal.queue_dir, *made(desk, 5))
    person = Person(elemta(terminal, "queue", "delete", "--all"))
    person.wait_for("[y/N]")
    assert "Delete 5 mails? No bounce is sent: the senders are not told." in person.seen
    assert person.seen.count("sender@example.org → someone@example.net") == 3
    assert "… and 2 more" in person.seen
    if said == "^C":
        person.interrupt()
    else:
        person.type(said)
    assert person.leave() == code
    assert len(terminal.run("queue", "list", "-o", "ids").lines) == left
    assert "Traceback" not in person.seen


@pytest.mark.slow
def test_what_came_after_the_question_is_not_deleted(
    terminal: Terminal, desk: Desk, beside: Callable[..., Any]
) -> None:
    beside(desk.add)
    person = Person(elemta(terminal, "queue", "delete", "--recipient", "@example.net"))
    person.wait_for("Delete 1 mail?")
    later = beside(partial(desk.add, received_at=desk.clock.now + 1))
    person.type("y\n")
    assert person.leave() == 0
    assert terminal.run("queue", "list", "-o", "ids").lines == [later.id]


@pytest.mark.slow
def test_a_terminal_is_not_steered_by_a_mail(terminal: Terminal, desk: Desk) -> None:
    octets = b"Subject: x\r\n\r\n\x1b]0;owned\x07\ttab \xc3\xa9 \xff\r\n"
    (mail,) = made(desk, octets=octets)
    stored(terminal.queue_dir, mail, octets=octets)
    person = Person(elemta(terminal, "queue", "cat", mail.id))
    assert person.leave() == 0
    assert "\\x1b]0;owned\\x07\ttab é \\xff" in person.seen
    assert "\x1b" not in person.seen


# ---- what the modules agree on -------------------------------------------------------------------


def test_the_command_line_knows_what_the_server_takes() -> None:
    assert set(queue_select.STATES) == {state.value for state in QueueState} | {"hold"}
    assert set(queue_select.STATES) == set(asked._STATES)
    assert queue_select.PAGE_MAILS <= queue.PAGE_MAILS
    assert queue_orders.BATCH_IDS <= orders.ORDER_MAILS
    assert queue_orders.SAMPLES == orders.SAMPLE_MAILS
    assert [attribute.name for attribute in attrs.fields(queue_select.Selection)][1:] == list(asked.FILTER_NAMES[1:4])


@pytest.mark.parametrize("module", ["queue", "inbox"])
def test_help_imports_nothing_slow(module: str) -> None:
    slow = {
        "trio",
        "http.client",
        "rich",
        "starlette",
        "hypercorn",
        "orjson",
        "prometheus_client",
        "cattrs",
        "structlog",
        "email",
    }
    program = f"import sys, elemta.cli.{module}; print(*({slow!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60)
    assert found.stdout.split() == []


# ---- what plugins said ---------------------------------------------------------------------------

ANNOTATIONS = {
    "greylisting": "known",
    "plugins": '{"greylisting":{"ms":0.42},"rspamd":{"ms":1203.5,"verdict":"quarantine","changes":2,"score":7.5}}',
}


def test_one_mail_with_what_plugins_said_and_cost(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(partial(desk.add, annotations=ANNOTATIONS))
    lines = [line.split() for line in terminal.run("queue", "show", mail.id).lines]
    assert ["greylisting", "known"] in lines
    assert ["greylisting", "0.42", "continue", "0", "0.0"] in lines
    assert ["rspamd", "1203.50", "quarantine", "2", "7.5"] in lines
    found = terminal.run("queue", "show", mail.id, "-o", "json").json
    assert found["annotations"] == ANNOTATIONS
    assert [one["name"] for one in found["plugins"]] == ["greylisting", "rspamd"]
    assert found["plugins"][1] == {
        "name": "rspamd",
        "ms": 1203.5,
        "verdict": "quarantine",
        "changes": 2,
        "score": 7.5,
    }


@pytest.mark.parametrize(
    "written",
    [
        "",
        "[]",
        "{",
        '{"a":1}',
        "[" * 100_000,
        '{"a":{"ms":"x","verdict":3,"changes":[],"score":null}}',
        '{"a":{"ms":NaN,"changes":Infinity,"score":1e400}}',
        '{"\\u001b[2J":{"ms":1' + "0" * 400 + "}}",
    ],
)
def test_costs_of_no_form_do_no_harm(written: str, terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    mail = beside(partial(desk.add, annotations={"plugins": written}))
    ended = terminal.run("queue", "show", mail.id)
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    assert terminal.run("queue", "show", mail.id, "-o", "json").code == 0
