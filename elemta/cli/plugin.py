"""The commands `elemta plugin list | show | check | new`.

What is not here: what is known of a plugin (`cli.plugin_facts`), the example that `new` writes (`cli.plugin_example`).
They work without a server.
"""

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elemta.cli.invocation import Invocation
from elemta.cli.output import (
    Column,
    CommandError,
    ExitCode,
    Output,
    output_option,
    printable,
    write_record,
    write_rows,
)

if TYPE_CHECKING:
    from elemta.cli.plugin_facts import PluginFacts

_LIST = (
    Column("name", "NAME"),
    Column("on", "ON"),
    Column("priority", "PRIORITY", right=True),
    Column("deadline", "DEADLINE", right=True),
    Column("on_error", "ON ERROR"),
    Column("asked", "ASKED AT"),
    Column("says", "ABOUT"),
)
_SETTINGS = (
    Column("key", "SETTING"),
    Column("kind", "VALUE"),
    Column("default", "DEFAULT"),
    Column("value", "NOW"),
    Column("about", "ABOUT"),
)


@click.group()
def plugin() -> None:
    """See the plugins that there are, check those that are on, begin one.

    \b
    elemta plugin list
    elemta plugin show greylisting                  what can be set
    elemta plugin check                             load all that are on, start nothing
    elemta plugin new no_invoices                   an example with its test
    """


@plugin.command(name="list")
@output_option
@click.pass_obj
def list_command(invocation: Invocation, output: Output) -> None:
    """List the plugins: those of packages, and the files in the folder that `plugins.plugin_path` names.

    Those that are on are made as the server makes them; what keeps one from that stands in its line.

    \b
    elemta plugin list
    elemta plugin list -o json | jq -r '.[] | select(.enabled) | .name'
    """
    facts, problems = _all(invocation)
    rows = [_cells(one) for one in facts] if output is Output.TABLE else [_members(one) for one in facts]
    write_rows(rows, _LIST, output=output)
    _tell(problems)


@plugin.command()
@click.argument("name", metavar="NAME")
@output_option
@click.pass_obj
def show(invocation: Invocation, name: str, output: Output) -> None:
    """Show one plugin: where it comes from, when it is asked, what can be set. Secrets are masked.

    \b
    elemta plugin show greylisting
    elemta plugin show greylisting -o json | jq '.settings[].key'
    """
    facts, problems = _all(invocation)
    found = next((one for one in facts if one.name == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [one.name for one in facts], n=1)
        hint = f'Did you mean "{near[0]}"?' if near else "See `elemta plugin list`."
        raise CommandError(" ".join([f'there is no plugin "{name}".', hint, *problems]))
    if output is not Output.TABLE:
        write_record(_members(found), output=output)
        return
    record = {key: value for key, value in _record(found).items() if value not in ("", None)}
    write_record(record, output=output)
    if found.settings:
        click.echo()
        columns = [one for one in _SETTINGS if one.key != "value" or found.settings[0].value is not None]
        write_rows([_setting(found, each.key) for each in found.settings], columns, output=output)


@plugin.command()
@output_option
@click.pass_obj
def check(invocation: Invocation, output: Output) -> None:
    """Load every plugin that is on, with its settings, and start nothing; say all that is wrong at once.

    Exits with 0 when the server would load them, with 78 when it would not. What only shows when a plugin starts, as a
    server that it wants to reach and cannot, is not seen.

    \b
    elemta plugin check
    elemta plugin check -o json | jq -r '.errors[].message'
    """
    loaded = invocation.load()
    from elemta.config.wanted import wanted_plugins
    from elemta.supervisor.plugin_check import plugin_problems

    names = [one.entry.name for one in wanted_plugins(loaded.config)]
    problems = plugin_problems(loaded.config)
    if output is not Output.TABLE:
        errors = [{"message": problem} for problem in problems]
        write_record({"schema": 1, "ok": not problems, "plugins": names, "errors": errors}, output=output)
    else:
        for problem in problems:
            click.echo(f"error: {printable(problem)}\n", err=True)
        if not problems:
            click.echo(f"ok: {printable(', '.join(names))}" if names else "ok: no plugin is on")
    if problems:
        sys.exit(ExitCode.CONFIG)


@plugin.command()
@click.argument("name", metavar="NAME")
@click.pass_obj
def new(invocation: Invocation, name: str) -> None:
    """Write an example of a plugin with its test, `NAME.py` and `test_NAME.py`, to the folder of `plugins.plugin_path`.

    A name has small letters, digits and underscores. Nothing is written over.

    \b
    elemta plugin new no_invoices
    pytest plugins
    """
    loaded = invocation.load()
    from elemta.cli.plugin_example import unfit_name, write_example

    if says := unfit_name(name):
        raise click.BadParameter(f'"{name}": {says}.', param_hint="NAME")
    folder = Path(loaded.config.plugins.plugin_path)
    try:
        for path in write_example(folder, name):
            click.echo(path)
    except FileExistsError as error:
        raise CommandError(f"{error.filename} is there already, and nothing is written over.") from None
    except OSError as error:
        code = ExitCode.PERMISSION if isinstance(error, PermissionError) else ExitCode.FAILED
        raise CommandError(f"{error.filename} cannot be written: {error.strerror}.", code) from None
    click.echo(
        f'Try it: pytest {folder}. Turn it on: "plugins": {{"plugins": ["{name}"]}} in the configuration.', err=True
    )


# ---- rows ----------------------------------------------------------------------------------------


def _all(invocation: Invocation) -> "tuple[list[PluginFacts], tuple[str, ...]]":
    loaded = invocation.load()
    from elemta.cli.plugin_facts import all_facts

    return all_facts(loaded.config)


def _tell(problems: tuple[str, ...]) -> None:
    """Say what is wrong with the folder, and fail for it."""
    for problem in problems:
        click.echo(f"elemta: {printable(problem)}", err=True)
    if problems:
        sys.exit(ExitCode.FAILED)


def _members(facts: "PluginFacts") -> dict[str, object]:
    """A plugin as JSON."""
    return {
        "name": facts.name,
        "enabled": facts.enabled,
        "where": facts.where,
        "about": facts.about,
        "priority": facts.priority,
        "deadline": facts.deadline,
        "on_error": None if facts.on_error is None else facts.on_error.value,
        "blocking": facts.blocking,
        "stages": [stage.value for stage in facts.stages],
        "settings": [_setting(facts, each.key) for each in facts.settings],
        "error": facts.error or None,
    }


def _setting(facts: "PluginFacts", key: str) -> dict[str, object]:
    one = next(each for each in facts.settings if each.key == key)
    return {"key": one.key, "kind": one.kind, "default": one.default, "value": one.value, "about": one.about}


def _cells(facts: "PluginFacts") -> dict[str, object]:
    members = _members(facts)
    return {
        **members,
        "on": "on" if facts.enabled else "-",
        "deadline": _seconds(facts.deadline),
        "asked": " ".join(stage.value for stage in facts.stages) or None,
        "says": f"ERROR: {facts.error}" if facts.error else facts.about,
    }


def _record(facts: "PluginFacts") -> dict[str, object]:
    cells = _cells(facts)
    return {
        "name": facts.name,
        "about": facts.about,
        "from": facts.where,
        "on": "yes" if facts.enabled else "no",
        "priority": facts.priority,
        "deadline": cells["deadline"],
        "on error": cells["on_error"],
        "blocking": "yes, in threads" if facts.blocking else "",
        "asked at": cells["asked"],
        "error": facts.error,
    }


def _seconds(deadline: float | None) -> str | None:
    return None if deadline is None else f"{deadline:g}s"
