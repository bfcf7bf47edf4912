"""What the servers' benches print: medians side by side, Elemta's ratio to each.

What is not here: what was measured.
"""

import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from tests.bench.stores import NodesRun

#: (row, server) → one sample a round
Samples = dict[tuple[str, str], list[float]]

#: Columns of the terminal.
WIDTH = 140


def figure(value: float) -> str:
    """Rounded to what one run can tell."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def show(samples: Samples, rows: Sequence[str], title: str) -> None:
    names = list(dict.fromkeys(name for _, name in samples))
    table = Table("case", *names, *(f"elemta / {name}" for name in names if name != "elemta"), title=title)
    for row in rows:
        medians = {name: statistics.median(samples[row, name]) for name in names}
        ratios = [f"{medians['elemta'] / medians[name]:.2f}" for name in names if name != "elemta"]
        table.add_row(row, *(figure(medians[name]) for name in names), *ratios)
    Console(width=WIDTH).print(table)


def show_growth(samples: Samples, sizes: Sequence[str], title: str) -> None:
    """One row a size, its ratios to the first; the samples' second name is the column."""
    names = list(dict.fromkeys(name for _, name in samples))
    table = Table("queued", *names, *(f"{name}, to {sizes[0]}" for name in names), title=title)
    medians = {key: statistics.median(values) for key, values in samples.items()}
    for size in sizes:
        ratios = [f"{medians[size, name] / medians[sizes[0], name]:.2f}" for name in names]
        table.add_row(size, *(figure(medians[size, name]) for name in names), *ratios)
    Console(width=WIDTH).print(table)


def show_stores(samples: Samples, cases: Sequence[str], title: str) -> None:
    """One row a store; each case with its ratios to SQLite and to Postfix."""
    names = list(dict.fromkeys(name for name, _ in samples))
    heads = [head for case in cases for head in (case, "/ sqlite", "/ postfix")]
    table = Table("store", *heads, title=title)
    medians = {key: statistics.median(values) for key, values in samples.items()}
    for name in names:
        cells = []
        for case in cases:
            rate = medians[name, case]
            cells += [figure(rate), f"{rate / medians['sqlite', case]:.2f}", f"{rate / medians['postfix', case]:.2f}"]
        table.add_row(name, *cells)
    Console(width=WIDTH).print(table)


def show_nodes(runs: Mapping[int, Sequence[NodesRun]], title: str) -> None:
    """One row for each number of nodes."""
    table = Table("nodes", "accepted a second", "out a second", "to one node", "out", "twice", "shares", title=title)
    first = 0.0
    for nodes, made in runs.items():
        accepted = statistics.median(run.mails / run.accepted_seconds for run in made)
        out = statistics.median(run.reached / run.out_seconds for run in made)
        first = first or out
        reached = f"{sum(run.reached for run in made)} of {sum(run.mails for run in made)}"
        twice = str(sum(run.twice for run in made))
        shares = " ".join(map(str, made[-1].shares))
        table.add_row(str(nodes), figure(accepted), figure(out), f"{out / first:.2f}", reached, twice, shares)
    Console(width=WIDTH).print(table)
