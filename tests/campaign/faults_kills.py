"""Promises 1 and 3: the server killed under load, over and over; a clean restart amid thousands of mails.

What is not here: what is counted (`faults_verdict`), a database that is killed (`faults_away`).
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve

from tests.campaign.faults_load import CountingSink, Load, Recorder
from tests.campaign.faults_site import WORKERS, Node, Site, wait_empty
from tests.campaign.faults_verdict import Account, Broken, Figures
from tests.peers.wire import free_port, wait_until

#: When the kill comes, from the start of the load: while mail comes in and goes out.
KILL_SECONDS = (0.3, 2.5)
ACCEPT_SECONDS = 120.0


def kills(site: Site, program: Path, *, rounds: int, seconds: tuple[float, float] = KILL_SECONDS) -> Iterator[Figures]:
    """`kill -9` of the whole process group at a random moment, restart, drain; each round on what the last one left."""
    account = Account(site.sink)
    with site.node() as node, Recorder(node.port) as recorder:
        for number in range(rounds):
            recorder.forget()
            with Load(program, recorder.port):
                threading.Event().wait(random.Random(number).uniform(*seconds))
                node.kill()
            began = time.monotonic()
            node.start()
            opened = time.monotonic() - began
            recorder.target = node.port
            acknowledged = recorder.ids()
            if not acknowledged:
                raise Broken("no mail was acknowledged before the kill: the round says nothing")
            wait_empty(node)
            figures = account.close(acknowledged, [node], bound=WORKERS)
            yield evolve(figures, slowest=opened, refused=len(recorder.refusals))
        end(node)


def clean_restart(site: Site, program: Path, mails: int) -> Figures:
    """SIGTERM and start while so many mails drain: none lost, none twice."""
    port = free_port()
    route = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": port}
    with site.node("clean", routes=[route], retry_schedule=[5]) as node, Recorder(node.port) as recorder:
        with Load(program, recorder.port):
            wait_until(lambda: len(recorder.taken) >= mails, f"{mails} mails accepted", ACCEPT_SECONDS)
        with CountingSink(port) as sink:
            wait_until(lambda: len(sink.arrived) >= mails // 3, "a third arrived", ACCEPT_SECONDS)
            began = time.monotonic()
            end(node)
            before = len(sink.arrived)
            if before >= mails:
                raise Broken("the restart came when everything had arrived: it says nothing")
            node.start()
            took = time.monotonic() - began
            wait_empty(node)
            figures = Account(sink).close(recorder.ids(), [node], bound=0)
            end(node)
    return evolve(figures, slowest=took)


def end(node: Node) -> None:
    """Stop it in order; it must end well, and have met nothing that it had no words for."""
    if (status := node.stop()) != 0:
        raise Broken(f"the server ended with {status}: {node.log[-2000:]}")
    node.journal.read()
    if node.journal.tracebacks:
        raise Broken(f"{node.journal.tracebacks} tracebacks in {node.journal.path}")
