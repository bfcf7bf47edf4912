"""Many seeds of the simulated world, one after the other.

What is not here: the world (`simulation`), or what must hold in it (`testing.invariants`). The command stops at the
first seed that fails, prints what is broken and the line that repeats it.
"""

import tempfile
import time

import click
from attrs import frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from elemta.simulation.fleet import draw_fleet, draw_world
from elemta.simulation.keeper import memory_keeper, sqlite_keeper
from elemta.simulation.record import Record
from elemta.simulation.scenario import Scenario
from elemta.simulation.world import simulate
from elemta.testing.invariants import broken

STORES = ("memory", "sqlite")
#: Lines of history shown of a world that failed.
_HISTORY_LINES = 40


@frozen
class Verdict:
    """How a world went."""

    record: Record
    broken: list[str]


class WorldBroken(AssertionError):
    """A world in which not everything holds; the text says what, and how to see it again."""


def run_scenario(scenario: Scenario, store: str) -> Verdict:
    """Run a world on a store of its own, `memory` or `sqlite`, and judge it."""
    if store == "memory":
        record = simulate(scenario, memory_keeper())
    else:
        with tempfile.TemporaryDirectory(prefix="elemta-world-") as directory:
            record = simulate(scenario, sqlite_keeper(directory))
    return Verdict(record, broken(scenario, record))


def repro(seed: int, store: str, nodes: int = 0) -> str:
    """The line that runs a seed again; with `nodes` it was a fleet on demand."""
    asked = f"--nodes {nodes}" if nodes else f"--store {store}"
    return f"python -m elemta.simulation --seeds 1 --start {seed} {asked} --history"


def check_seed(seed: int, store: str) -> Record:
    """Run the world of a seed. Raises `WorldBroken`."""
    verdict = run_scenario(draw_world(seed, store), store)
    if verdict.broken:
        raise WorldBroken("\n".join([f"seed {seed} on {store}:", *verdict.broken, repro(seed, store)]))
    return verdict.record


@click.command()
@click.option("--seeds", default=100, show_default=True, help="How many seeds.")
@click.option("--start", default=0, show_default=True, help="The first seed.")
@click.option("--store", type=click.Choice([*STORES, "both"]), default="both", show_default=True)
@click.option(
    "--nodes",
    type=click.IntRange(2, 9),
    help="Every seed a fleet of so many nodes on one memory store, instead of every third one of two to four.",
)
@click.option("--history", is_flag=True, help="Print the history of a world that fails, or of a single seed, whole.")
def main(seeds: int, start: int, store: str, nodes: int | None, history: bool) -> None:
    """Run the simulated world with many seeds; stop at the first that fails."""
    console = Console()
    stores = STORES if store == "both" and not nodes else ("memory",) if nodes else (store,)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("seeds", total=seeds * len(stores))
        for seed in range(start, start + seeds):
            for each in stores:
                scenario = draw_fleet(seed, nodes) if nodes else draw_world(seed, each)
                verdict = run_scenario(scenario, each)
                if verdict.broken:
                    progress.stop()
                    _explain(console, verdict, again=repro(seed, each, nodes or 0), whole=history)
                    raise SystemExit(1)
                if history and seeds == 1:
                    console.print("\n".join(verdict.record.events), markup=False, highlight=False)
                progress.advance(bar)
    worlds = seeds * len(stores)
    seconds = time.monotonic() - began
    console.print(f"{worlds} worlds passed in {seconds:.1f} s, {worlds / seconds:.1f} a second")


def _explain(console: Console, verdict: Verdict, *, again: str, whole: bool) -> None:
    events = verdict.record.events
    shown = events if whole else events[-_HISTORY_LINES:]
    console.print("\n".join(shown), markup=False, highlight=False)
    for one in verdict.broken:
        console.print(one, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"again: {again}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
