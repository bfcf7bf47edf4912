"""The options that every command takes, before the command's name or after it.

What is not here: the commands (`cli.main` finds them). A command gets its `Invocation` through `@click.pass_obj`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import define

from elemta.cli.output import CommandError, ExitCode

if TYPE_CHECKING:
    from elemta.config.load import Loaded

_COLORS = {"always": True, "never": False, "auto": None}


@define
class Invocation:
    """What these options say."""

    #: The file that `-c` names.
    config_path: str | None = None
    #: How often `-v` was given; at 2 an error that is our fault shows its traceback.
    verbose: int = 0

    @property
    def tracebacks(self) -> bool:
        """Whether a traceback helps the person at the keyboard."""
        return self.verbose >= 2 or bool(os.environ.get("ELEMTA_DEBUG"))

    def load(
        self, overrides: Mapping[str, object] | None = None, *, environ: Mapping[str, str] = os.environ
    ) -> "Loaded":
        """The configuration; `overrides` are values of the command line by key. Raises `CommandError` with code 78."""
        # Late: the sections and cattrs cost more than all of click.
        from elemta.config.problems import ConfigError

        try:
            return self.read(overrides, environ=environ)
        except ConfigError as error:
            raise CommandError(f"the configuration cannot be used:\n\n{error}", ExitCode.CONFIG) from error

    def read(
        self, overrides: Mapping[str, object] | None = None, *, environ: Mapping[str, str] = os.environ
    ) -> "Loaded":
        """As `load`. Raises `ConfigError`."""
        from elemta.config.load import load_config

        return load_config(self.config_path, environ, cwd=Path.cwd(), overrides=overrides)


def add_options(command: click.Command) -> None:
    """Give a command, and each command in it, the options of `Invocation`; a command's own ones of a name go first."""
    taken = {name for parameter in command.params for name in parameter.opts}
    for option in _options():
        if not taken & set(option.opts):
            command.params.append(option)
    if isinstance(command, click.Group):
        for below in command.commands.values():
            add_options(below)


def _options() -> list[click.Option]:
    return [
        click.Option(
            # `-config` is how the original wrote it.
            ["-c", "--config", "-config", "config_path"],
            metavar="FILE",
            expose_value=False,
            callback=_keep_config,
            help="The configuration; by default ELEMTA_CONFIG, else ./elemta.conf and further places.",
        ),
        click.Option(
            ["--color"],
            type=click.Choice(list(_COLORS)),
            expose_value=False,
            callback=_keep_color,
            help="Whether output has colours; by default when it goes to a terminal.",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_keep_verbose,
            help="Say more; twice: show the traceback of an internal error.",
        ),
    ]


def _invocation(context: click.Context) -> Invocation:
    return context.find_root().ensure_object(Invocation)


def _keep_config(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        _invocation(context).config_path = value


def _keep_color(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.color = _COLORS[value]


def _keep_verbose(context: click.Context, _: click.Parameter, value: int) -> None:
    _invocation(context).verbose += value
