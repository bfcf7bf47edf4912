"""Promise 4: three nodes on one database, one paused past its lease, one killed, while mail comes to all of them.

What is not here: what a node does about it (`queue.membership`). Every mail arrives at least once, twice only what was
in flight at the freeze; a dead node's mails are adopted within its lease and ten seconds.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from attrs import evolve

from tests.campaign.faults_kills import end
from tests.campaign.faults_load import Load, Recorder
from tests.campaign.faults_site import LEASE_SECONDS, WORKERS, Node, Site, wait_empty
from tests.campaign.faults_verdict import Account, Broken, Figures
from tests.peers.wire import wait_until

NODES = 3
#: Twenty in all.
SENDERS_PER_NODE = 7
#: Promise 4.
ADOPTED_SECONDS = LEASE_SECONDS + 10.0
#: Beyond the lease, before the frozen node goes on.
PAST_THE_LEASE_SECONDS = 3.0
AT_WORK_SECONDS = 1.0
#: How long a remote takes to acknowledge, so that the fault meets mails in flight.
REMOTE_SECONDS = 0.2
PATIENCE_SECONDS = 60.0


def pauses(site: Site, program: Path, *, rounds: int, senders: int = SENDERS_PER_NODE) -> Iterator[Figures]:
    """One node after the other frozen past its lease, then continued."""

    def pause(node: Node, others: list[Node]) -> float:
        os.killpg(node.pid, signal.SIGSTOP)
        took = _wait_adopted(others)
        threading.Event().wait(max(0.0, LEASE_SECONDS + PAST_THE_LEASE_SECONDS - took))
        os.killpg(node.pid, signal.SIGCONT)
        wait_until(lambda: _count([node], "queue.joined") >= 2, "the frozen node joined again", PATIENCE_SECONDS)
        return took

    yield from _rounds(site, program, pause, rounds=rounds, senders=senders)


def deaths(site: Site, program: Path, *, rounds: int, senders: int = SENDERS_PER_NODE) -> Iterator[Figures]:
    """One node after the other killed; it comes back once its mails are adopted."""

    def die(node: Node, others: list[Node]) -> float:
        node.kill()
        took = _wait_adopted(others)
        node.start()
        return took

    yield from _rounds(site, program, die, rounds=rounds, senders=senders)


def _rounds(
    site: Site, program: Path, fault: Callable[[Node, list[Node]], float], *, rounds: int, senders: int
) -> Iterator[Figures]:
    account = Account(site.sink)
    for number in range(rounds):
        with ExitStack() as stack:
            # New nodes each time: what the log says of them is what this round did.
            nodes = [stack.enter_context(site.node(f"{fault.__name__}{number}-{n}")) for n in range(NODES)]
            recorders = [stack.enter_context(Recorder(node.port)) for node in nodes]
            with ExitStack() as loads:
                for recorder in recorders:
                    loads.enter_context(Load(program, recorder.port, senders=senders))
                site.sink.slowness = REMOTE_SECONDS
                threading.Event().wait(AT_WORK_SECONDS)
                chosen = nodes[number % NODES]
                took = fault(chosen, [node for node in nodes if node is not chosen])
                recorders[number % NODES].target = chosen.port
                site.sink.slowness = 0.0
                threading.Event().wait(AT_WORK_SECONDS)
            wait_empty(nodes[0])
            acknowledged = set[str]().union(*(recorder.ids() for recorder in recorders))
            refused = sum(len(recorder.refusals) for recorder in recorders)
            figures = account.close(acknowledged, nodes, bound=WORKERS)
            for node in nodes:
                end(node)
        yield evolve(figures, slowest=took, refused=refused)


def _wait_adopted(others: list[Node]) -> float:
    """Wait until one of these says that it adopted; the seconds from now."""
    began, before = time.monotonic(), _count(others, "queue.adopted")
    wait_until(lambda: _count(others, "queue.adopted") > before, "the node's mails are adopted", PATIENCE_SECONDS)
    took = time.monotonic() - began
    if took > ADOPTED_SECONDS:
        raise Broken(f"adopted {took:.1f} s after the node fell silent, its lease is {LEASE_SECONDS} s")
    return took


def _count(nodes: list[Node], event: str) -> int:
    for node in nodes:
        node.journal.read()
    return sum(node.journal.seen.get(event, 0) for node in nodes)
