"""The fault campaign: every fault on every store, a line a round, a table in the end.

`tox -e faults`, or a part of it: `-- --store postgresql --fault killed`. `--rounds 2` is for a first look. What is not
here: the faults themselves (`faults_kills`, `faults_away`, `faults_nodes`, `faults_disks`). A round that breaks a
promise is printed with the folder where everything was kept; the campaign goes on with the next fault, and ends with 1.
"""

import argparse
import enum
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from elemta.testing.process import ServerFailed
from tests.campaign import faults_disks
from tests.campaign.faults_away import Away, aways
from tests.campaign.faults_kills import KILL_SECONDS, clean_restart, kills
from tests.campaign.faults_nodes import SENDERS_PER_NODE, deaths, pauses
from tests.campaign.faults_site import Site, Store, made_site
from tests.campaign.faults_verdict import Broken, Figures
from tests.campaign.servers import DatabaseServerFailed
from tests.conftest import SYSTEM_FOLDERS


class Fault(enum.Enum):
    """What happens, in the order of a campaign; the value is its name on the command line."""

    KILL = "kill"
    RESTART = "restart"
    DATABASE_KILLED = "database-killed"
    DATABASE_STOPPED = "database-stopped"
    DATABASE_CUT = "database-cut"
    DATABASE_SILENT = "database-silent"
    NODE_PAUSED = "node-paused"
    NODE_KILLED = "node-killed"
    DISK_FULL = "disk-full"
    SYNC_FAILS = "sync-fails"
    POWER_CUT = "power-cut"


AWAY = {
    Fault.DATABASE_KILLED: Away.KILLED,
    Fault.DATABASE_STOPPED: Away.STOPPED,
    Fault.DATABASE_CUT: Away.CUT,
    Fault.DATABASE_SILENT: Away.SILENT,
}
NODES = (Fault.NODE_PAUSED, Fault.NODE_KILLED)
ROUNDS = {Fault.KILL: 50, Fault.RESTART: 1, Fault.DISK_FULL: 1, Fault.NODE_PAUSED: 3, Fault.NODE_KILLED: 3}
#: Of every other fault.
OTHER_ROUNDS = 10
#: Promise 8. Short ones come in between, which end before any time-out does.
AWAY_SECONDS = (30.0, 6.0, 12.0)
#: Promise 3.
WAITING_MAILS = 5000


@frozen
class Plan:
    """One fault on one store.

    `away_seconds` follow each other; `kill_seconds` are the soonest and the latest; `mails` wait at a clean restart;
    `senders` send to each of several nodes.
    """

    store: Store
    fault: Fault
    rounds: int
    away_seconds: tuple[float, ...] = AWAY_SECONDS
    mails: int = WAITING_MAILS
    kill_seconds: tuple[float, float] = KILL_SECONDS
    senders: int = SENDERS_PER_NODE

    @property
    def fits(self) -> bool:
        """False where the store has nothing of what would fail."""
        is_served = self.store.dialect is not None
        if self.fault in AWAY or self.fault in NODES:
            return is_served
        return not (is_served and self.fault is Fault.SYNC_FAILS)


@frozen
class Outcome:
    """What became of a plan."""

    plan: Plan
    figures: Figures
    broken: str = ""

    def row(self) -> str:
        """Its row of the table."""
        plan, each = self.plan, self.figures
        fields = (plan.store.value, plan.fault.value, each.rounds, each.acknowledged, each.refused, each.lost)
        last = (each.twice, each.uncertain, f"{each.slowest:.1f} s", "broken" if self.broken else "")
        return "| " + " | ".join(map(str, (*fields, *last))) + " |"


HEADING = (
    "| store | fault | rounds | acknowledged | refused | lost | twice | uncertain | slowest | |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def run(plan: Plan, folder: Path, say: Callable[[str], object]) -> Outcome:
    """Carry it out in a folder, which goes unless something broke."""
    total = Figures(rounds=0)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # a database server's user must come in
    try:
        for figures in _rounds(plan, folder):
            total = total.plus(figures)
            took = f"{figures.acknowledged} acknowledged, {figures.refused} refused, {figures.lost} lost"
            seen = f"{figures.twice} twice, {figures.uncertain} uncertain, {figures.slowest:.1f} s"
            say(f"{time.strftime('%X')} {plan.store.value} {plan.fault.value} {total.rounds}: {took}, {seen}")
    except (Broken, DatabaseServerFailed, ServerFailed, OSError, subprocess.SubprocessError) as error:
        say(f"{plan.store.value} {plan.fault.value} BROKEN in round {total.rounds + 1}: {error}\nkept in {folder}")
        return Outcome(plan, total, str(error) or type(error).__name__)
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(plan, total)


def _rounds(plan: Plan, folder: Path) -> Iterator[Figures]:
    program = find("smtp-source")
    match plan.fault:
        case Fault.POWER_CUT:
            yield from faults_disks.power_cuts(plan.store, folder, program, rounds=plan.rounds)
        case Fault.DISK_FULL:
            yield from faults_disks.full_disks(plan.store, folder, program, rounds=plan.rounds)
        case _:
            with made_site(plan.store, folder) as site:
                yield from _rounds_on(site, plan, program)


def _rounds_on(site: Site, plan: Plan, program: Path) -> Iterator[Figures]:
    match plan.fault:
        case Fault.KILL:
            yield from kills(site, program, rounds=plan.rounds, seconds=plan.kill_seconds)
        case Fault.RESTART:
            for _ in range(plan.rounds):
                yield clean_restart(site, program, plan.mails)
        case Fault.NODE_PAUSED:
            yield from pauses(site, program, rounds=plan.rounds, senders=plan.senders)
        case Fault.NODE_KILLED:
            yield from deaths(site, program, rounds=plan.rounds, senders=plan.senders)
        case Fault.SYNC_FAILS:
            yield from faults_disks.failing_syncs(site, program, find, rounds=plan.rounds)
        case _:
            yield from aways(site, program, AWAY[plan.fault], rounds=plan.rounds, seconds=plan.away_seconds)


def find(program: str) -> Path:
    """One of the programs that this needs. Raises `FileNotFoundError`."""
    found = shutil.which(program) or shutil.which(program, path=":".join(SYSTEM_FOLDERS))
    if found is None:
        raise FileNotFoundError(f"needs {program}: apt install postfix strace")
    return Path(found)


def say(line: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def plans() -> list[Plan]:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    stores, faults = [each.value for each in Store], [each.value for each in Fault]
    parser.add_argument("--store", action="append", choices=stores, help="one of them; may be repeated")
    parser.add_argument("--fault", action="append", choices=faults, help="one of them; may be repeated")
    parser.add_argument("--rounds", type=int, help="of each, in place of the campaign's own")
    parser.add_argument("--mails", type=int, default=WAITING_MAILS, help="that wait at a clean restart")
    asked = parser.parse_args()
    chosen = [
        Plan(Store(store), fault := Fault(name), asked.rounds or ROUNDS.get(fault, OTHER_ROUNDS), mails=asked.mails)
        for store in asked.store or stores
        for name in asked.fault or faults
    ]
    return [plan for plan in chosen if plan.fits]


def main() -> int:
    """The campaign; 1 when a promise was broken."""
    outcomes = []
    for plan in plans():
        folder = Path(tempfile.mkdtemp(prefix="elemta-faults-"))
        outcomes.append(run(plan, folder, say))
    say("\n".join((HEADING, *(outcome.row() for outcome in outcomes))))
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
