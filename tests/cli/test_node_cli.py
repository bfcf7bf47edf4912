"""The node commands: on a shared queue, on one of a single node, with names that are no names."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio

from elemta.runtime.clock import SystemClock
from elemta.runtime.threads import WorkerThreads
from elemta.storage.sqlite import SqliteStore
from tests.cli.at_desk import Terminal, server
from tests.web.desk import START, Desk


@pytest.fixture
def beside(desk: Desk, terminal: Terminal) -> Iterator[Callable[..., Any]]:
    """A running server of a shared queue with two nodes, the second in two worker processes."""
    desk.share()
    with server(desk, terminal.queue_dir) as run:
        for name in ("mx1.example.com~aa", "mx2.example.com~bb/1", "mx2.example.com~bb/2"):
            run(partial(desk.store.join, name, START))
        yield run


def draining(desk: Desk, beside: Callable[..., Any]) -> list[bool]:
    return [node.is_draining for node in beside(desk.store.nodes)]


def test_the_list_for_people(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    beside(partial(desk.store.set_draining, "mx2.example.com~bb/1", True))
    ended = terminal.run("node", "list")
    assert (ended.code, ended.err) == (0, "")
    rows = [line.split() for line in ended.lines]
    assert rows[0] == ["NODE", "STATE", "LEASE", "MAILS"]
    assert rows[1] == ["mx1.example.com~aa", "active", "30s", "0"]
    assert rows[2][:2] == ["mx2.example.com~bb/1", "draining"]
    desk.clock.now += 90
    assert terminal.run("node", "list").lines[1].split() == ["mx1.example.com~aa", "silent", "60s", "ago", "0"]


def test_the_list_for_programs(terminal: Terminal, beside: Callable[..., Any]) -> None:
    found = terminal.run("node", "list", "-o", "json").json
    first = found[0]
    assert (first["name"], first["alive"], first["mails"]) == ("mx1.example.com~aa", True, 0)
    assert len(terminal.run("node", "list", "-o", "jsonl").lines) == 3


def test_a_node_drains_by_the_beginning_of_its_name(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    ended = terminal.run("node", "drain", "mx1")
    assert (ended.code, ended.out) == (0, "mx1.example.com~aa drains: it begins no delivery any more.\n")
    assert draining(desk, beside) == [True, False, False]
    assert terminal.run("node", "drain", "mx1", "--undo").out == "mx1.example.com~aa takes part again.\n"
    assert draining(desk, beside) == [False, False, False]


def test_a_node_drains_in_all_its_processes(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    answers = terminal.run("node", "drain", "mx2", "-o", "json").json
    assert [(each["name"], each["draining"]) for each in answers] == [
        ("mx2.example.com~bb/1", True),
        ("mx2.example.com~bb/2", True),
    ]
    terminal.run("node", "drain", "mx2.example.com~bb/1", "--undo")
    assert draining(desk, beside) == [False, False, True]


def test_a_beginning_of_several_names_is_refused(terminal: Terminal, desk: Desk, beside: Callable[..., Any]) -> None:
    ended = terminal.run("node", "drain", "mx")
    assert ended.code == 2
    assert "mx1.example.com~aa, mx2.example.com~bb: write more" in ended.err
    assert draining(desk, beside) == [False] * 3


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("mx1.exmaple.com~aa", '"mx1.example.com~aa"'),
        ("mx1.exmaple.com", '"mx1.example.com~aa"'),
        ("nx1", '"mx1.example.com~aa"'),
        ("", "elemta node list"),
    ],
)
def test_an_unknown_name_gets_a_hint(
    wanted: str, hint: str, terminal: Terminal, desk: Desk, beside: Callable[..., Any]
) -> None:
    ended = terminal.run("node", "drain", wanted)
    assert (ended.code, ended.out) == (1, "")
    assert hint in ended.err
    assert draining(desk, beside) == [False] * 3


def test_a_queue_of_one_node_says_so(terminal: Terminal) -> None:
    terminal.queue_dir.mkdir()

    async def make() -> None:
        store = SqliteStore(str(terminal.queue_dir), WorkerThreads(), SystemClock())
        await store.open()
        await store.close()

    trio.run(make)
    ended = terminal.run("node", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "its one node is mail.example.com" in ended.err
    listed = terminal.run("node", "list", "-o", "json")
    assert json.loads(listed.out) == []
    refused = terminal.run("node", "drain", "mail.example.com")
    assert (refused.code, refused.out) == (1, "")
    assert "postgresql" in refused.err
