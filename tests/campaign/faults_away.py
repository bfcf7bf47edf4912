"""Promise 8, the queue's part: the database killed, standing still, cut off by the network, while mail comes and goes.

What is not here: the server that is killed itself (`faults_kills`). While the database is away new mail is answered 451
within `commit_timeout` and `/readyz` says why; once it is back mail is taken within ten seconds, and what remotes
acknowledged meanwhile is not sent again.
"""

import enum
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import trio
from attrs import evolve, frozen

from tests.campaign.faults_kills import end
from tests.campaign.faults_load import Load, Recorder
from tests.campaign.faults_site import COMMIT_SECONDS, WORKERS, Node, Site, wait_empty
from tests.campaign.faults_verdict import Account, Broken, Figures
from tests.campaign.servers import DatabaseServer
from tests.datasource.proxy import Proxy, proxied
from tests.peers.wire import wait_until

#: Promise 8.
ACCEPTS_AGAIN_SECONDS = 10.0
#: A 250 on its way when the fault began may still be heard so long.
ON_THE_WAY_SECONDS = 1.0
#: What a busy machine may add to `commit_timeout`.
MARGIN_SECONDS = 2.0
#: Mails that are taken before a fault, so that it meets a server at work, and after it.
AT_WORK_MAILS = 50
AT_WORK_SECONDS = 60.0
#: How long a remote takes to acknowledge, so that the fault meets mails in flight.
REMOTE_SECONDS = 0.2


class Away(enum.Enum):
    """How a database goes away."""

    #: `kill -9` of all its processes; started again at the end.
    KILLED = "killed"
    #: SIGSTOP to all its processes, then SIGCONT: connections stand, nobody answers.
    STOPPED = "stopped"
    #: The network between closes every connection, and lets none be made.
    CUT = "cut off"
    #: The network between swallows everything, on connections that stand.
    SILENT = "silent"


@frozen
class Case:
    """One way to be away, and how to come back."""

    begin: Callable[[], object]
    #: Returns when the database would serve somebody else.
    undo: Callable[[], object]
    #: Where Elemta reaches the database.
    port: int


@contextmanager
def case_of(away: Away, database: DatabaseServer) -> Iterator[Case]:
    """What to do to this database; what the network does, a proxy does, in a thread with a loop of its own."""
    if away is Away.KILLED:
        yield Case(database.kill, database.start, database.port)
        return
    if away is Away.STOPPED:
        yield Case(database.pause, database.resume, database.port)
        return
    made: queue.SimpleQueue[tuple[Proxy, trio.lowlevel.TrioToken]] = queue.SimpleQueue()
    over = trio.Event()

    async def main() -> None:
        async with proxied(database.options) as proxy:
            made.put((proxy, trio.lowlevel.current_trio_token()))
            await over.wait()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    proxy, token = made.get(timeout=AT_WORK_SECONDS)
    begin, undo = (_cut, _mend) if away is Away.CUT else (Proxy.stall, Proxy.resume)

    def do(order: Callable[[Proxy], object]) -> Callable[[], object]:
        return lambda: trio.from_thread.run_sync(order, proxy, trio_token=token)

    try:
        yield Case(do(begin), do(undo), proxy.options.port)
    finally:
        trio.from_thread.run_sync(over.set, trio_token=token)
        thread.join()


def _cut(proxy: Proxy) -> None:
    proxy.is_refusing = True
    proxy.cut()


def _mend(proxy: Proxy) -> None:
    proxy.is_refusing = False


def aways(site: Site, program: Path, away: Away, *, rounds: int, seconds: Sequence[float]) -> Iterator[Figures]:
    """The database away for so many seconds, one after the other and over again, each under load."""
    assert site.database is not None
    account = Account(site.sink)
    with case_of(away, site.database) as case:
        with site.node(away.name.lower(), port=case.port) as node, Recorder(node.port) as recorder:
            for each in islice(cycle(seconds), rounds):
                recorder.forget()
                with Load(program, recorder.port):
                    site.sink.slowness = REMOTE_SECONDS
                    _work(recorder)
                    back = _round(case, node, recorder, each)
                    site.sink.slowness = 0.0
                    _work(recorder)
                wait_empty(node)
                figures = account.close(recorder.ids(), [node], bound=WORKERS)
                yield evolve(figures, slowest=back, refused=len(recorder.refusals))
            end(node)


def _work(recorder: Recorder) -> None:
    """Wait until the server has taken some mails more."""
    wanted = len(recorder.taken) + AT_WORK_MAILS
    wait_until(lambda: len(recorder.taken) >= wanted, f"{AT_WORK_MAILS} mails taken", AT_WORK_SECONDS)


def _round(case: Case, node: Node, recorder: Recorder, seconds: float) -> float:
    """Away, and back; returns the seconds from there to the first 250. Raises `Broken`."""
    case.begin()
    began = time.monotonic()
    threading.Event().wait(seconds)
    code, says = node.readiness()
    ended = time.monotonic()
    case.undo()
    came_back = time.monotonic()
    if code != 503 or not says["checks"]["store"]:
        raise Broken(f"/readyz said {code} after {seconds} s without the database: {says}")
    check_refusals(recorder, began, ended)
    wait_until(lambda: any(each.at > came_back for each in recorder.taken), "a mail is taken", AT_WORK_SECONDS)
    back = next(each.at for each in recorder.taken if each.at > came_back) - came_back
    if back > ACCEPTS_AGAIN_SECONDS:
        raise Broken(f"the first 250 came {back:.1f} s after the database was back")
    return back


def check_refusals(recorder: Recorder, began: float, ended: float) -> None:
    """Between these moments: no 250, but 4yz within the deadline. Raises `Broken`."""
    taken = [each for each in recorder.taken if began + ON_THE_WAY_SECONDS < each.at < ended]
    if taken:
        raise Broken(f"{len(taken)} mails were answered 250 without a store, the first {taken[0]}")
    refusals = [each for each in recorder.refusals if began < each.at < ended]
    if not refusals:
        raise Broken(f"no mail was answered at all in {ended - began:.1f} s without a store")
    if wrong := [each for each in refusals if not 400 <= each.code < 500]:
        raise Broken(f"{len(wrong)} mails were refused for good: {wrong[0]}")
    slowest = max(refusals, key=lambda each: each.waited)
    if slowest.waited > COMMIT_SECONDS + MARGIN_SECONDS:
        raise Broken(f"a client waited {slowest.waited:.1f} s for its {slowest.code}: {slowest.line}")
