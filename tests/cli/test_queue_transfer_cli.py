"""The commands that move or verify a whole queue: between configurations, with a server beside, with damage."""

import contextlib
import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from elemta.cli import progress as progress_module
from elemta.runtime.clock import SystemClock
from elemta.runtime.threads import WorkerThreads
from elemta.storage.base import Filter, Insert
from elemta.storage.records import ContentRef, QueuedMail
from elemta.storage.sqlite import SqliteStore
from elemta.supervisor.lock import QueueLock
from tests.cli.at_desk import Terminal
from tests.storage.mails import CLOSE_SECONDS, Post
from tests.web.desk import OCTETS, Desk


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
def old(terminal: Terminal) -> Path:
    """The configuration of another queue."""
    path = terminal.folder / "old.conf"
    path.write_text(json.dumps({"queue_dir": str(terminal.folder / "old"), "hostname": "mail.example.com"}))
    return path


def with_store(folder: Path, job: Callable[[SqliteStore], Any]) -> Any:
    folder.mkdir(exist_ok=True)

    async def run() -> Any:
        store = SqliteStore(str(folder), WorkerThreads(), SystemClock())
        await store.open()
        try:
            return await job(store)
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await store.close()

    return trio.run(run)


def stored(folder: Path, *mails: QueuedMail, octets: bytes = OCTETS) -> None:
    with_store(folder, lambda store: store.commit([Insert(mail, octets) for mail in mails]))


def lying(folder: Path) -> list[str]:
    """The ids in a queue, in order."""
    found = with_store(folder, lambda store: store.list(Filter(), 10_000))
    return [mail.id for mail in found]


def digested(post: Post) -> QueuedMail:
    mail = post.mail(OCTETS)
    return attrs.evolve(mail, content=attrs.evolve(mail.content, digest=sha256(OCTETS).hexdigest()))


def spoil(folder: Path, mail: QueuedMail) -> None:
    """Change the octets of a mail behind the queue's back, but not their number."""
    with sqlite3.connect(folder / "queue.db") as database:
        changed = database.execute(
            "UPDATE contents SET octets = ? WHERE id = ?", (bytes(len(OCTETS)), mail.content.id)
        ).rowcount
    database.close()
    assert changed == 1


# ---- import ------------------------------------------------------------------------------------


def test_a_queue_is_copied_from_another_configuration(terminal: Terminal, old: Path, post: Post) -> None:
    mails = [post.mail() for _ in range(3)]
    stored(terminal.folder / "old", *mails)
    ended = terminal.run("queue", "import", "--from", str(old))
    assert ended.code == 0, ended.err
    assert ended.lines[0].split()[:2] == ["copied", "3"]
    assert "delivered twice" in ended.err
    ids = [mail.id for mail in mails]
    assert lying(terminal.queue_dir) == lying(terminal.folder / "old") == ids
    assert terminal.run("queue", "list", "-o", "ids").lines == ids


def test_a_queue_is_moved(terminal: Terminal, old: Path, post: Post) -> None:
    mails = [post.mail() for _ in range(3)]
    stored(terminal.folder / "old", *mails)
    ended = terminal.run("queue", "import", "--from", str(old), "--move")
    assert ended.code == 0, ended.err
    assert "Nothing is left" in ended.err
    assert lying(terminal.folder / "old") == []
    assert lying(terminal.queue_dir) == [mail.id for mail in mails]


def test_a_copy_may_become_a_move(terminal: Terminal, old: Path, post: Post) -> None:
    mail = post.mail()
    stored(terminal.folder / "old", mail)
    terminal.run("queue", "import", "--from", str(old))
    ended = terminal.run("queue", "import", "--from", str(old), "--move", "-o", "json")
    assert (ended.json["copied"], ended.json["present"], ended.json["removed"]) == (0, 1, 1)
    assert (lying(terminal.folder / "old"), lying(terminal.queue_dir)) == ([], [mail.id])


def test_a_queue_is_found_in_its_folder(terminal: Terminal, old: Path, post: Post) -> None:
    mail = post.mail()
    stored(terminal.folder / "old", mail)
    assert terminal.run("queue", "import", "--from", str(terminal.folder / "old")).code == 0
    assert lying(terminal.queue_dir) == [mail.id]


def test_a_queue_goes_through_an_archive(terminal: Terminal, old: Path, post: Post) -> None:
    octets = b"Subject: large\r\n\r\n" + b"x" * 76 * 10_000
    mails = [post.mail() for _ in range(3)]
    large = post.mail(octets)
    stored(terminal.folder / "old", *mails)
    stored(terminal.folder / "old", large, octets=octets)
    archive = str(terminal.folder / "archive")
    ended = terminal.run("-c", str(old), "queue", "export", "--to", archive)
    assert ended.code == 0, ended.err
    assert "The queue keeps its mails" in ended.err
    again = terminal.run("-c", str(old), "queue", "export", "--to", archive, "-o", "json")
    assert (again.json["copied"], again.json["present"]) == (0, 4)
    assert terminal.run("queue", "import", "--from", archive).code == 0
    assert lying(terminal.queue_dir) == [mail.id for mail in (*mails, large)]
    assert terminal.octets("queue", "cat", large.id) == octets


def test_the_environment_belongs_to_this_queue(
    terminal: Terminal, old: Path, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = post.mail()
    stored(terminal.folder / "old", mail)
    here = terminal.folder / "here"
    monkeypatch.setenv("ELEMTA_QUEUE_DIR", str(here))
    assert terminal.run("queue", "import", "--from", str(old), "--move").code == 0
    assert (lying(here), lying(terminal.folder / "old")) == ([mail.id], [])


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_keeps_its_queue_to_itself(side: str, terminal: Terminal, old: Path, post: Post) -> None:
    stored(terminal.folder / "old", post.mail())
    with QueueLock(terminal.folder / "old" if side == "source" else terminal.queue_dir):
        ended = terminal.run("queue", "import", "--from", str(old), "--move")
    assert (ended.code, ended.out) == (75, "")
    assert "is in use by process" in ended.err
    assert len(lying(terminal.folder / "old")) == 1


@pytest.mark.parametrize("way", ["configuration", "folder", "link"])
def test_a_queue_is_not_imported_into_itself(way: str, terminal: Terminal, post: Post) -> None:
    stored(terminal.queue_dir, post.mail())
    link = terminal.folder / "link"
    link.symlink_to(terminal.queue_dir)
    places = {"configuration": terminal.folder / "elemta.conf", "folder": terminal.queue_dir, "link": link}
    ended = terminal.run("queue", "import", "--from", str(places[way]), "--move")
    assert (ended.code, ended.out) == (2, "")
    assert "the same queue" in ended.err
    assert len(lying(terminal.queue_dir)) == 1


def test_damage_is_named_and_stays_where_it_is(terminal: Terminal, old: Path, post: Post) -> None:
    good, bad = digested(post), digested(post)
    stored(terminal.folder / "old", good, bad)
    spoil(terminal.folder / "old", bad)
    ended = terminal.run("queue", "import", "--from", str(old), "--move")
    assert ended.code == 1
    assert bad.id in ended.out
    assert "SHA-256" in ended.out
    assert "1 stay in" in ended.err
    assert (lying(terminal.queue_dir), lying(terminal.folder / "old")) == ([good.id], [bad.id])


def test_what_is_no_queue_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = terminal.run("queue", "import", "--from", str(tmp_path / "empty"))
    assert (ended.code, ended.out) == (1, "")
    assert "there is no queue in the folder" in ended.err
    missing = terminal.run("queue", "import", "--from", str(tmp_path / "missing.conf"))
    assert missing.code == 78
    assert "missing.conf" in missing.err
    (tmp_path / "other.conf").write_text(json.dumps({"queue_dir": str(tmp_path / "nowhere")}))
    nowhere = terminal.run("queue", "import", "--from", str(tmp_path / "other.conf"))
    assert nowhere.code == 69
    assert not terminal.queue_dir.exists()
    assert not (tmp_path / "nowhere").exists()


def test_memory_is_no_place_to_import_to(terminal: Terminal, old: Path, post: Post) -> None:
    stored(terminal.folder / "old", post.mail())
    terminal.configure(storage={"type": "memory"})
    ended = terminal.run("queue", "import", "--from", str(old), "--move")
    assert (ended.code, len(lying(terminal.folder / "old"))) == (2, 1)


def test_a_move_is_never_forced(terminal: Terminal, old: Path) -> None:
    assert terminal.run("queue", "import", "--from", str(old), "--move", "--force").code == 2


def test_lines_tell_how_far_it_is(terminal: Terminal, old: Path, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    stored(terminal.folder / "old", *(post.mail() for _ in range(3)))
    ended = terminal.run("queue", "import", "--from", str(old))
    assert "copying: 3 of 3" in ended.err.splitlines()


def test_a_bar_tells_it_on_a_terminal(terminal: Terminal, old: Path, post: Post) -> None:
    stored(terminal.folder / "old", *(post.mail() for _ in range(3)))
    words = ("-c", str(terminal.folder / "elemta.conf"), "queue", "import", "--from", str(old), "-o", "json")
    end, other = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "elemta", *words],
        stdout=subprocess.PIPE,
        stderr=other,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(other)
        shown = b""
        # Linux says EIO when the other end is closed.
        with contextlib.suppress(OSError):
            while piece := os.read(end, 65536):
                shown += piece
        os.close(end)
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["copied"] == 3
    assert b"copying" in shown
    assert b"3/3" in shown


# ---- verify ------------------------------------------------------------------------------------


def test_a_whole_queue(terminal: Terminal, post: Post) -> None:
    stored(terminal.queue_dir, *(digested(post) for _ in range(3)))
    ended = terminal.run("queue", "verify")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "3 mails, 78 read: all whole.\n"


def test_every_page_is_looked_at(terminal: Terminal, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elemta.web.verify.DEFAULT_VERIFY_MAILS", 2)
    mails = [digested(post) for _ in range(5)]
    stored(terminal.queue_dir, *mails)
    spoil(terminal.queue_dir, mails[4])
    found = terminal.run("queue", "verify", "-o", "json")
    assert (found.code, found.json["checked"]) == (1, 5)
    assert [row["id"] for row in found.json["damaged"]] == [mails[4].id]


def test_damage_for_people_and_for_programs(terminal: Terminal, post: Post) -> None:
    good, bad = digested(post), digested(post)
    stored(terminal.queue_dir, good, bad)
    spoil(terminal.queue_dir, bad)
    (terminal.queue_dir / "content" / "stranger").write_text("?")
    ended = terminal.run("queue", "verify")
    assert ended.code == 1
    assert ended.lines[1].startswith(bad.id)
    assert "stranger" in ended.lines[2]
    assert ended.lines[-1] == "2 mails, 26 read: 1 damaged, 1 odd in the store."
    lines = [json.loads(line) for line in terminal.run("queue", "verify", "-o", "jsonl").lines]
    assert [line["kind"] for line in lines] == ["mail", "store", "summary"]


def test_a_running_server_is_asked(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    beside(desk.add)
    bad = beside(partial(desk.add, content=ContentRef(desk.new_id(), len(OCTETS), digest="0" * 64)))
    ended = terminal.run("queue", "verify", "-o", "json")
    assert (ended.code, ended.json["checked"], ended.json["without_digest"]) == (1, 2, 1)
    assert [row["id"] for row in ended.json["damaged"]] == [bad.id]
