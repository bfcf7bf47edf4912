"""How far a long command is, shown while it works.

A bar on a terminal, a line now and then elsewhere, both on standard error. What is not here: what is counted.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from elemta.cli.output import color_wanted

#: Seconds between two lines where there is no terminal: a log is read later.
LINE_SECONDS = 10.0


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done; yields what is told the number so far."""
    if sys.stderr.isatty():
        with _bar(what, total) as tell:
            yield tell
    else:
        yield _lines(what, total)


@contextlib.contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    # Late: its import costs as much as a whole other command.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, no_color=color_wanted() is False or None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(what, total=total)

        def tell(done: int) -> None:
            bars.update(task, completed=done)

        yield tell


def _lines(what: str, total: int) -> Callable[[int], None]:
    said = time.monotonic()

    def tell(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            click.echo(f"{what}: {done} of {total}", err=True)

    return tell
