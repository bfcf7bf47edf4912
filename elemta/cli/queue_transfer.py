"""The commands `elemta queue export | import`.

A queue moves between any two stores by one mechanism, a copy from store to store (`queue.transfer`). An archive is a
folder in the layout of `storage.type` "file". What is not here: how a mail is copied.

Both queues are opened without a server: a queue on this machine under its lock, one in a shared database once no node
delivers from it.
"""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import asdict, evolve, frozen

from elemta.cli.invocation import Invocation
from elemta.cli.output import Column, CommandError, ExitCode, Output, output_option, write_record, write_rows
from elemta.cli.progress import progress
from elemta.cli.queue_output import note, octets
from elemta.cli.queue_store import is_shared, locked, opened

if TYPE_CHECKING:
    from elemta.config.sections import Config
    from elemta.queue.transfer import Tally, Terms
    from elemta.runtime.world import Runtime

#: By what a folder is known as a queue, and of which `storage.type` it is then.
_LAYOUTS = {"queue.db": "sqlite", "data": "file"}
#: The layout of an archive.
_ARCHIVE = "file"
#: Troubles shown to a person.
_SHOWN_TROUBLES = 20

_TROUBLES = (Column("id", "ID"), Column("what", "NOT COPIED BECAUSE"))


@frozen
class _Place:
    """A queue that is read or written, and how a person named it."""

    config: "Config"
    name: str


@frozen
class _Plan:
    source: _Place
    target: _Place
    remove: bool = False
    force: bool = False


@click.command(name="export")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="The archive; begun, or gone on with.")
@click.option("--force", is_flag=True, help="Copy a shared queue while nodes deliver from it: for a backup only.")
@output_option
@click.pass_obj
def export_command(invocation: Invocation, folder: str, *, force: bool, output: Output) -> None:
    """Copy the queue into an archive: a folder with a file for each mail, and one for its content.

    The server must be stopped. The queue keeps its mails. An export that was interrupted goes on when it is run again.

    \b
    elemta queue export --to /var/backups/elemta
    elemta -c new.conf queue import --from /var/backups/elemta
    """
    config = invocation.load().config
    source, target = _Place(config, "this queue"), _Place(_at(config, folder, _ARCHIVE), folder)
    tally = _run(_Plan(source, target, force=force), output)
    note("The queue keeps its mails. Where they are imported, this queue must not be served again: see the manual.")
    click.get_current_context().exit(ExitCode.FAILED if tally.failed else ExitCode.OK)


@click.command(name="import")
@click.option(
    "--from",
    "place",
    required=True,
    metavar="FILE|FOLDER",
    help="Another configuration, an archive, or a queue folder.",
)
@click.option("--move", is_flag=True, help="Remove each mail from there once it was read back whole from here.")
@click.option("--force", is_flag=True, help="Copy from a shared queue while nodes deliver from it: for a backup only.")
@output_option
@click.pass_obj
def import_command(invocation: Invocation, place: str, *, move: bool, force: bool, output: Output) -> None:
    """Copy or move all mails of another queue into this one, whatever engines the two are.

    Whoever delivers from the other queue must be stopped, and a server of this one as well unless it is shared. An
    import that was interrupted goes on when it is run again. The other configuration is read as its file says: the
    environment belongs to this one.

    \b
    elemta -c postgresql.conf queue import --from sqlite.conf --move
    elemta queue import --from /var/backups/elemta
    """
    if move and force:
        raise CommandError("--move would remove what a node delivers just now: stop the nodes first.", ExitCode.USAGE)
    config = invocation.load().config
    if config.storage.type == "memory":
        raise CommandError("this queue is in memory alone: what is imported would be gone at once.", ExitCode.USAGE)
    plan = _Plan(_named(place, config), _Place(config, "this queue"), remove=move, force=force)
    tally = _run(plan, output)
    _advise(tally, plan)
    click.get_current_context().exit(ExitCode.FAILED if tally.failed else ExitCode.OK)


TRANSFERS = (export_command, import_command)


# ---- which queues --------------------------------------------------------------------------------


def _named(place: str, config: "Config") -> _Place:
    """The queue of another configuration, or the one that lies in a folder. Raises `CommandError`."""
    if not Path(place).is_dir():
        return _Place(_load(place), place)
    for name, layout in _LAYOUTS.items():
        if Path(place, name).exists():
            return _Place(_at(config, place, layout), place)
    raise CommandError(f"there is no queue in the folder {place}: name an archive, or a configuration.")


def _load(path: str) -> "Config":
    found = Invocation(config_path=path).load(environ={})
    return found.config


def _at(config: "Config", folder: str, layout: str) -> "Config":
    """A configuration whose queue lies in a folder."""
    from elemta.config.sections import StorageSection

    return evolve(config, queue_dir=str(Path(folder).absolute()), storage=StorageSection(type=layout))


def _check_apart(plan: _Plan) -> None:
    """Refuse what is plainly one queue; of two spellings of one database the copy itself finds out."""
    source, target = plan.source.config, plan.target.config
    if is_shared(source) != is_shared(target):
        return
    if is_shared(source):
        same = source.storage == target.storage
    else:
        same = os.path.realpath(source.queue_dir) == os.path.realpath(target.queue_dir)
    if same:
        raise CommandError("both are the same queue: nothing was done.", ExitCode.USAGE)


# ---- the copy ------------------------------------------------------------------------------------


def _run(plan: _Plan, output: Output) -> "Tally":
    import trio

    _check_apart(plan)
    with ExitStack() as stack:
        stack.enter_context(locked(plan.source.config))
        stack.enter_context(locked(plan.target.config, make=True))
        tally = trio.run(_copy, plan)
    _say(tally, output)
    return tally


async def _copy(plan: _Plan) -> "Tally":
    from elemta.queue.transfer import SameStore, SourceInUse, Tally, Transfer
    from elemta.runtime.world import system_runtime
    from elemta.storage.base import StoreUnavailable

    runtime = system_runtime()
    try:
        async with opened(plan.source.config, runtime) as source, opened(plan.target.config, runtime) as target:
            copy = Transfer(source.queue, target.queue, clock=runtime.clock, terms=_terms(plan, runtime))
            total = sum((await source.queue.counts()).values())
            with progress("copying", total) as tell:

                def told(tally: Tally) -> None:
                    tell(tally.seen)

                return await copy.run(told)
    except SameStore as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    except SourceInUse as error:
        says = f"{error}\nStop it, or wait until its lease is past. For a backup alone there is --force."
        raise CommandError(says, ExitCode.TEMPORARY) from None
    except StoreUnavailable as error:
        says = f"{error}\nWhat was copied is safe. Run the same command again: it goes on from there."
        raise CommandError(says, ExitCode.TEMPORARY) from None


def _terms(plan: _Plan, runtime: "Runtime") -> "Terms":
    from elemta.queue.transfer import Terms

    # On a shared queue every import is a node of its own; elsewhere nobody else is there.
    owner = f"import-{runtime.ids.new_id()}" if is_shared(plan.target.config) else "import"
    return Terms(owner, remove=plan.remove, source_in_use=plan.force)


# ---- what is said --------------------------------------------------------------------------------


def _say(tally: "Tally", output: Output) -> None:
    if output is not Output.TABLE:
        click.echo(json.dumps({"schema": 1, **asdict(tally)}, indent=2 if output is Output.JSON else None))
        return
    write_record(_figures(tally), output=output)
    if tally.troubles:
        click.echo()
        write_rows([asdict(each) for each in tally.troubles[:_SHOWN_TROUBLES]], _TROUBLES, output=output)
    if tally.failed > _SHOWN_TROUBLES:
        note(f"{tally.failed - _SHOWN_TROUBLES} more were not copied; -o json names them.")


def _figures(tally: "Tally") -> Mapping[str, object]:
    """The figures that say something."""
    figures = {
        "copied": f"{tally.copied} ({octets(tally.octets)}), read back whole" if tally.copied else "",
        "there already": tally.present,
        "finished there since": tally.finished,
        "in flight at the stop": tally.uncertain,
        "removed from the source": tally.removed,
        "not copied": tally.failed,
    }
    return {name: figure for name, figure in figures.items() if figure}


def _advise(tally: "Tally", plan: _Plan) -> None:
    """Say what keeps a mail from being delivered twice."""
    if tally.finished:
        note("Mails that were imported before and have left this queue since were not brought back.")
    left = tally.total - tally.removed
    if plan.remove and not left:
        note(f"Nothing is left in {plan.source.name}.")
    elif plan.remove:
        note(f"{left} stay in {plan.source.name}: do not serve it again before you looked at them.")
    else:
        note(
            f"{plan.source.name} keeps its mails. Do not serve it again, or they are delivered twice: "
            "run this once more with --move to empty it, or remove it."
        )
