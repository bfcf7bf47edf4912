"""The commands `elemta config check | show | schema | init`.

What is not here: what a configuration means (`config`). Each command imports what it needs, so that `init` and `schema`
work beside a broken configuration.
"""

import json
import os
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
    from elemta.config.load import Loaded
    from elemta.config.problems import Notice, Problem


@click.group()
def config() -> None:
    """Check, show or start a configuration.

    \b
    elemta config init --relay smtp.example.net:25
    elemta config check -c elemta.conf
    elemta config show --origin
    """


@config.command()
@click.option("--strict", is_flag=True, help="Exit with 1 when there are warnings.")
@output_option
@click.pass_obj
def check(invocation: Invocation, strict: bool, output: Output) -> None:
    """Say what is wrong with the configuration and with the plugins that it turns on, all at once.

    Exits with 0 when the server would start with it, with 78 when it would not.

    \b
    elemta config check
    elemta config check -c elemta.conf --strict
    elemta config check -o json | jq '.errors[].key'
    """
    from elemta.config.load import load_config
    from elemta.config.problems import ConfigError

    loaded: Loaded | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Notice, ...] = ()
    try:
        loaded = load_config(invocation.config_path, os.environ, cwd=Path.cwd())
        warnings = loaded.warnings
        problems = _plugin_problems(loaded)
    except ConfigError as error:
        problems, warnings = error.problems, error.warnings
    if problems:
        loaded = None
    if output is Output.TABLE:
        _say(loaded, problems, warnings)
    else:
        write_record(_record(loaded, problems, warnings), output=output)
    if problems:
        sys.exit(ExitCode.CONFIG)
    if strict and warnings:
        sys.exit(ExitCode.FAILED)


def _plugin_problems(loaded: "Loaded") -> "tuple[Problem, ...]":
    """What keeps the plugins that it turns on from being loaded."""
    from elemta.config.problems import Problem
    from elemta.config.wanted import wanted_plugins

    if not wanted_plugins(loaded.config):
        return ()
    # Late: with the plugins most of the server is imported, which takes longer than all the rest of the check.
    from elemta.supervisor.plugin_check import plugin_problems

    return tuple(Problem("", str(loaded.source or ""), says) for says in plugin_problems(loaded.config))


def _say(loaded: "Loaded | None", problems: "tuple[Problem, ...]", warnings: "tuple[Notice, ...]") -> None:
    for warning in warnings:
        click.echo(f"warning: {printable(str(warning))}\n", err=True)
    for problem in problems:
        click.echo(f"error: {printable(str(problem))}\n", err=True)
    if loaded is None:
        click.echo(f"{_count(len(problems), 'error')}, {_count(len(warnings), 'warning')}", err=True)
        return
    source = printable(loaded.source) if loaded.source is not None else "no file was found, the defaults hold"
    verdict = "ok" if not warnings else f"ok, with {_count(len(warnings), 'warning')}"
    click.echo(f"{source}: {verdict}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _record(
    loaded: "Loaded | None", problems: "tuple[Problem, ...]", warnings: "tuple[Notice, ...]"
) -> dict[str, object]:
    return {
        "schema": 1,
        "ok": loaded is not None,
        "source": loaded.source if loaded is not None else None,
        "errors": [
            {
                "where": problem.where,
                "line": problem.line,
                "column": problem.column,
                "key": problem.key,
                "message": problem.says,
            }
            for problem in problems
        ],
        "warnings": [{"where": warning.where, "key": warning.key, "message": warning.says} for warning in warnings],
    }


@config.command()
@click.option("--origin", is_flag=True, help="Say where each value was written.")
@output_option
@click.pass_obj
def show(invocation: Invocation, origin: bool, output: Output) -> None:
    """Print every key with the value that holds. Secrets are masked.

    With `-o json` it is one document in the form of a configuration, with `--origin` one object a key.

    \b
    elemta config show --origin
    elemta config show -o json | jq .limits
    """
    loaded = invocation.load()
    from elemta.config.show import shown_document, shown_keys

    if output is Output.JSON and not origin:
        write_record(shown_document(loaded), output=output)
        return
    rows = [
        {"key": shown.key, "value": shown.value, **({"origin": shown.origin} if origin else {})}
        for shown in shown_keys(loaded)
    ]
    columns = [Column("key", "key"), Column("value", "value")]
    if origin:
        columns.append(Column("origin", "origin"))
    write_rows(rows, columns, output=output)


@config.command()
def schema() -> None:
    """Print the JSON Schema of a configuration, for editors and other checkers.

    \b
    elemta config schema > elemta.schema.json
    """
    from elemta.config.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@config.command()
@click.argument("path", default="./elemta.conf", metavar="[FILE]")
@click.option("--dev", is_flag=True, help="Catch mail on this machine, send none out.")
@click.option("--relay", metavar="HOST[:PORT]", help="Hand all mail to this server.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(path: str, dev: bool, relay: str | None, force: bool) -> None:
    """Write a configuration to begin with, by default to ./elemta.conf; `-` prints it.

    \b
    elemta config init --dev
    elemta config init --relay smtp.example.net:25
    elemta config init - --relay smtp.example.net
    """
    from elemta.config.sample import sample

    if dev and relay is not None:
        raise click.UsageError("--dev sends nothing out, so it has no --relay.")
    try:
        text = sample(dev=dev, relay=relay)
    except ValueError as error:
        raise click.BadParameter(f'"{relay}": {error}.', param_hint="--relay") from None
    if path == "-":
        click.echo(text, nl=False)
        return
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(f"{path} is there already; --force writes over it.") from None
    except OSError as error:
        code = ExitCode.PERMISSION if isinstance(error, PermissionError) else ExitCode.FAILED
        raise CommandError(f"{path} cannot be written: {error.strerror}.", code) from None
    click.echo(f"{path} is written. Next: elemta run -c {path}", err=True)
