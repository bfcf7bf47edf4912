"""The command line's door: finds the command, runs it, turns its end into an exit code.

A command's module is imported when the command is used: `elemta version` pays for no server. What is not here: the
commands, one module each. Exit codes are those of `output.ExitCode`.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from attrs import frozen

from elemta import __version__
from elemta.cli.invocation import Invocation, add_options
from elemta.cli.output import ExitCode, printable


@frozen
class _Verb:
    """Where a command lives, and its line in the list."""

    module: str
    about: str
    #: Other names, not listed.
    aliases: tuple[str, ...] = ()


#: Each module holds a click command under the command's own name.
VERBS = {
    "run": _Verb("elemta.cli.run", "Run the server in the foreground.", aliases=("server",)),
    "config": _Verb("elemta.cli.config", "Check, show or start a configuration."),
    "queue": _Verb("elemta.cli.queue", "Look after the queue."),
    "node": _Verb("elemta.cli.node", "See the nodes that share a queue, let one rest."),
    "user": _Verb("elemta.cli.user", "Look after the users who may log in."),
    "inbox": _Verb("elemta.cli.inbox", "Read the mails that dev mode caught."),
    "plugin": _Verb("elemta.cli.plugin", "See, check or begin plugins."),
    "send": _Verb("elemta.cli.send", "Send a mail by SMTP, and show the dialogue."),
    "sendmail": _Verb("elemta.cli.sendmail", "Be /usr/sbin/sendmail for other programs."),
    "cert": _Verb("elemta.cli.cert", "See, test and order the certificates that clients are shown."),
    "manual": _Verb("elemta.cli.manual", "Print the manual page."),
    "version": _Verb("elemta.cli.version", "Print the version."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of `VERBS`, then `help`."""
        return [*VERBS, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name or an alias, None when there is none."""
        name = next((verb for verb in VERBS if cmd_name in (verb, *VERBS[verb].aliases)), None)
        if name is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(importlib.import_module(VERBS[name].module), name)
        add_options(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with the nearest name for a slip of the pen."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            import difflib  # late, as what follows: every command would pay for it

            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f'There is no command "{name}".' + (f' Did you mean "{near[0]}"?' if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing one of them."""
        rows = [(name, verb.about) for name, verb in VERBS.items()]
        rows += [(name, command.get_short_help_str()) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    epilog='"elemta help COMMAND" explains a command.',
)
@click.version_option(__version__, prog_name="elemta", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """A mail server: it receives, queues and delivers mail, or catches it in dev mode.

    \b
    elemta run --dev             catch every mail of this machine, send none out
    elemta config init           begin a configuration
    elemta run -c elemta.conf    run with it
    """
    context.ensure_object(Invocation)


@cli.command(name="help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_command(context: click.Context, words: Sequence[str]) -> None:
    """Explain a command."""
    parent = context.find_root()
    command: click.Command = cli
    for word in words:
        below = command.get_command(parent, word) if isinstance(command, click.Group) else None
        if below is None:
            parent.fail(f'There is no command "{" ".join(words)}".')
        parent = click.Context(below, info_name=word, parent=parent)
        command = below
    click.echo(command.get_help(parent))


add_options(cli)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line with `arguments`, by default those of the process; ends in `SystemExit`."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    invocation = Invocation()
    try:
        ended: object = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="elemta",
            standalone_mode=False,
            obj=invocation,
        )
    except click.exceptions.Abort:
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        if invocation.tracebacks:
            import traceback

            traceback.print_exc()
        else:
            click.echo(_our_fault(error), err=True)
        return ExitCode.FAILED
    return ended if isinstance(ended, int) else ExitCode.OK


def _our_fault(error: Exception) -> str:
    says = printable(f"{type(error).__name__}: {error}".rstrip(": "))
    return f"elemta: an error that should not happen: {says}\nRun it again with -vv for the traceback."
