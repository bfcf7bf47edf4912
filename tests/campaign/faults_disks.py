"""Promises 2, 6, 7 on each store: power lost, a disk full, syncs that fail, while mail comes and goes.

What is not here: the file systems (`disks`). With a database server it is the server's data that lie there. Promise 7
is for stores that sync by themselves.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import evolve

from tests.campaign.disks import MEBIBYTE, Disk, mounted_disk
from tests.campaign.faults_kills import ACCEPT_SECONDS, KILL_SECONDS, end
from tests.campaign.faults_load import CountingSink, Load, Recorder
from tests.campaign.faults_site import WORKERS, Node, Site, Store, made_site, wait_empty
from tests.campaign.faults_verdict import Account, Broken, Figures
from tests.peers.test_disk import start_strace, stop_strace
from tests.peers.wire import free_port, wait_until

#: Promises 2, 6.
OPENS_SECONDS = 10.0
ACCEPTS_AGAIN_SECONDS = 10.0
CUT_DISK_OCTETS = 1024 * MEBIBYTE
#: Promise 6. A database server needs more for itself: what remains free of its disk is filled to `LEFT_OCTETS` first.
FULL_DISK_OCTETS = {
    Store.FILE: 64 * MEBIBYTE,
    Store.SQLITE: 64 * MEBIBYTE,
    Store.POSTGRESQL: 256 * MEBIBYTE,
    Store.MYSQL: 512 * MEBIBYTE,
}
LEFT_OCTETS = 48 * MEBIBYTE
#: What is given back in the end.
ROOM_OCTETS = 16 * MEBIBYTE
LARGE_OCTETS = 40_000
#: So many refusals mean that it is full; of a few the server may have found room again.
REFUSALS = 200
PATIENCE_SECONDS = 120.0


def _more(site: Site, disk: Disk) -> dict[str, Any]:
    """Where the queue lies: on the disk, unless a database server keeps it there."""
    return {"queue_dir": str(disk.mounted / "queue")} if site.database is None else {}


def power_cuts(store: Store, folder: Path, program: Path, *, rounds: int) -> Iterator[Figures]:
    """The file system stops without flushing its log; what was answered 250 by then must be there afterwards."""
    with mounted_disk(folder, CUT_DISK_OCTETS) as disk, made_site(store, folder, data=disk.mounted / "data") as site:
        account = Account(site.sink)
        with site.node(**_more(site, disk)) as node, Recorder(node.port) as recorder:
            for number in range(rounds):
                recorder.forget()
                with Load(program, recorder.port):
                    threading.Event().wait(random.Random(number).uniform(*KILL_SECONDS))
                    disk.cut()
                    node.kill()
                if site.database is not None:
                    site.database.kill()
                opened = _open_again(site, disk, node)
                recorder.target = node.port
                wait_empty(node)
                # Every 250 counts, also one that came after the cut: nothing can have been synced then.
                acknowledged = recorder.ids()
                if not acknowledged:
                    raise Broken("no mail was acknowledged before the cut: the round says nothing")
                figures = account.close(acknowledged, [node], bound=WORKERS)
                yield evolve(figures, slowest=opened, refused=len(recorder.refusals))
            end(node)


def _open_again(site: Site, disk: Disk, node: Node) -> float:
    """Mount it and start; the seconds that the server took. Raises `Broken`."""
    disk.unmount()
    disk.mount()
    if not disk.lost_what_was_not_synced():
        raise Broken("the cut lost nothing at all, so it was none")
    if site.database is not None:
        site.database.start()
    began = time.monotonic()
    node.start()
    opened = time.monotonic() - began
    if opened > OPENS_SECONDS:
        raise Broken(f"the queue took {opened:.1f} s to open")
    return opened


def full_disks(store: Store, folder: Path, program: Path, *, rounds: int) -> Iterator[Figures]:
    """Filled by smtp-source until mail is refused; then a remote takes mail again, then there is room again.

    A database server whose disk is full changes no row, so that nothing leaves before there is room. MariaDB may even
    end itself by an assertion of its own; then it is started again once there is room.
    """
    for number in range(rounds):
        inside = folder / str(number)
        inside.mkdir(parents=True)
        inside.chmod(0o755)
        with mounted_disk(inside, FULL_DISK_OCTETS[store]) as disk:
            # PostgreSQL's log of changes lies elsewhere: a server without room for it ends itself, which is `killed`.
            data, wal = disk.mounted / "data", inside / "wal"
            with made_site(store, inside, data=data, wal=wal) as site:
                yield _full_disk(site, disk, program)


def _full_disk(site: Site, disk: Disk, program: Path) -> Figures:
    port = free_port()
    route = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": port}
    with site.node(routes=[route], **_more(site, disk)) as node, Recorder(node.port) as recorder:
        if (rest := disk.free - LEFT_OCTETS - ROOM_OCTETS) > 0:
            disk.fill("rest", rest)
        room = disk.fill("room", ROOM_OCTETS)
        _fill(recorder, program)
        died = site.database is not None and not site.database.is_running
        _check_refusals(recorder, is_452_due=not died)
        with CountingSink(port) as sink:
            account = Account(sink)
            if site.database is None:
                wait_until(lambda: bool(sink.arrived), "mail goes on leaving a full disk", PATIENCE_SECONDS)
            room.unlink()
            if died and site.database is not None:
                site.database.start()  # as whoever looks after it would
            there = time.monotonic()
            again = _accepts_again(recorder, program, there)
            wait_empty(node)
            refused = len(recorder.refusals)
            figures = account.close(recorder.ids(), [node], bound=WORKERS)
            end(node)
    return evolve(figures, slowest=again, refused=refused)


def _fill(recorder: Recorder, program: Path) -> None:
    with Load(program, recorder.port, octets=LARGE_OCTETS):
        wait_until(lambda: len(recorder.refusals) >= REFUSALS, "the disk is full", PATIENCE_SECONDS)


def _check_refusals(recorder: Recorder, *, is_452_due: bool) -> None:
    if not recorder.taken:
        raise Broken("no mail was taken before the disk was full: the round says nothing")
    if wrong := [each for each in recorder.refusals if not 400 <= each.code < 500]:
        raise Broken(f"{len(wrong)} mails were refused for good: {wrong[0]}")
    # Not all need be: what must land, and cannot, makes a store count as failing.
    if is_452_due and not any(each.code == 452 for each in recorder.refusals):
        raise Broken(f"no mail was answered 452: {recorder.refusals[-1]}")


def _accepts_again(recorder: Recorder, program: Path, since: float) -> float:
    """The seconds from a moment to the first 250 after it. Raises `Broken`."""

    def first() -> float:
        return next((each.at - since for each in recorder.taken if each.at > since), -1.0)

    with Load(program, recorder.port):
        wait_until(lambda: first() >= 0, "mail is taken again", PATIENCE_SECONDS)
    if first() > ACCEPTS_AGAIN_SECONDS:
        raise Broken(f"mail was taken again only after {first():.1f} s")
    return first()


def failing_syncs(site: Site, program: Path, find: Callable[[str], Path], *, rounds: int) -> Iterator[Figures]:
    """Every sync fails with EIO for a while, amid the load; then the server is killed, so that only the disk counts."""
    account = Account(site.sink)
    with site.node() as node, Recorder(node.port) as recorder:
        for number in range(rounds):
            recorder.forget()
            with Load(program, recorder.port):
                wait_until(lambda: len(recorder.taken) > 20, "mails taken before", ACCEPT_SECONDS)
                again = _fail_syncs(node, recorder, find("strace"), node.folder / f"strace{number}")
            node.kill()
            node.start()
            recorder.target = node.port
            wait_empty(node)
            figures = account.close(recorder.ids(), [node], bound=WORKERS)
            yield evolve(figures, slowest=again, refused=len(recorder.refusals))
        end(node)


def _fail_syncs(node: Node, recorder: Recorder, strace: Path, log: Path) -> float:
    """Let syncs fail until several mails were refused; the seconds afterwards until one is taken. Raises `Broken`."""
    process = start_strace(strace, node, log)
    # A commit that was on its way may have been synced already.
    threading.Event().wait(0.5)
    began, before = time.monotonic(), len(recorder.refusals)
    try:
        wait_until(lambda: len(recorder.refusals) >= before + WORKERS, "mails are refused", ACCEPT_SECONDS)
        ended = time.monotonic()
    finally:
        stop_strace(process)
    over = time.monotonic()
    if b"(INJECTED)" not in log.read_bytes():
        raise Broken("no sync failed: the round says nothing")
    if taken := [each for each in recorder.taken if began < each.at < ended]:
        raise Broken(f"{len(taken)} mails were answered 250 without a sync, the first {taken[0]}")
    if wrong := [each for each in recorder.refusals if not 400 <= each.code < 500]:
        raise Broken(f"{len(wrong)} mails were refused for good: {wrong[0]}")
    wait_until(lambda: any(each.at > over for each in recorder.taken), "mail is taken again", PATIENCE_SECONDS)
    again = next(each.at for each in recorder.taken if each.at > over) - over
    if again > ACCEPTS_AGAIN_SECONDS:
        raise Broken(f"mail was taken again only after {again:.1f} s")
    return again
