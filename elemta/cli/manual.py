"""The manual page elemta(1), made from the commands themselves.

What is not here: what they do, which they say by `--help`. The page is roff of the `man` macros, which groff and mandoc
both read; `docs/elemta.1` is what `elemta manual` printed, so it holds no date and nothing of the machine.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Final

import click

from elemta import __version__
from elemta.cli.invocation import Invocation

#: What a word of a line means to roff: a backslash escapes, a hyphen may be made a dash.
_ESCAPES: Final = str.maketrans(
    {"\\": "\\e", "-": "\\-", "~": "\\(ti", "^": "\\(ha", "`": "\\(ga", "…": "\\&...", "\u2019": "'"}
)
#: click's mark of a paragraph that is not to be filled.
_AS_IT_IS: Final = "\b"

_EXIT_CODES: Final = (
    ("0", "It is done."),
    ("1", "It failed, or a part of it did."),
    ("2", "The command line was not understood."),
    ("69", "The server is not there."),
    ("75", "Try again later."),
    ("77", "It is not allowed."),
    ("78", "The configuration cannot be used."),
)
_ENVIRONMENT: Final = (
    ("ELEMTA_CONFIG", "The configuration, where \\-c names none."),
    ("ELEMTA_SENDMAIL_SERVER", "The server of elemta\\-sendmail, as host:port or unix:/path."),
    ("NO_COLOR", "Print without colours, as \\-\\-color never."),
    ("FORCE_COLOR", "Print with colours, as \\-\\-color always."),
)
_FILES: Final = (
    ("./elemta.conf", "The configuration, and where it is looked for next:"),
    ("./config/elemta.conf, ../config/elemta.conf, ~/.elemta.conf, /etc/elemta/elemta.conf", ""),
)


@click.command()
def manual() -> None:
    """Print the manual page, for man.

    \b
    elemta manual > elemta.1 && man ./elemta.1
    """
    # Late: the page is of the whole command line, which finds this command, too.
    from elemta.cli.main import cli

    click.echo(page(cli), nl=False)


def page(command: click.Group) -> str:
    """The page of a command line."""
    return "\n".join(_page(command)) + "\n"


def _page(command: click.Group) -> Iterator[str]:
    context = click.Context(command, info_name="elemta", obj=Invocation())
    yield '.\\" Made by "elemta manual": change the commands, not this file.'
    yield f'.TH ELEMTA 1 "" "Elemta {__version__}" "Elemta"'
    yield ".SH NAME"
    yield "elemta \\- receive, queue and deliver mail"
    yield ".SH SYNOPSIS"
    yield ".B elemta"
    yield ".I command"
    yield "[options]"
    yield ".br"
    yield ".B elemta\\-sendmail"
    yield "[options] [recipient ...]"
    yield ".SH DESCRIPTION"
    yield from _description(command)
    yield ".SH OPTIONS"
    yield "Every command takes these, before its name or after it."
    yield from _options(command, context)
    yield ".SH COMMANDS"
    yield from _commands(command, context)
    for title, rows in (("EXIT STATUS", _EXIT_CODES), ("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES)):
        yield f".SH {title}"
        for word, says in rows:
            yield from _entry(f"\\fB{_text(word)}\\fP", says)
    yield ".SH SEE ALSO"
    yield ".BR sendmail (8)"


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    """Each command below a group with its words, those of a group within before the group's next."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        below = click.Context(command, info_name=name, parent=context)
        yield f".SS {_text(_usage(command, below))}"
        yield from _description(command)
        yield from _options(command, below, common=False)
        if command.epilog:
            yield ".PP"
            yield _line(command.epilog)
        if isinstance(command, click.Group):
            yield from _commands(command, below)


def _usage(command: click.Command, context: click.Context) -> str:
    words = [context.command_path, *(word for word in command.collect_usage_pieces(context) if word)]
    return " ".join(words)


def _description(command: click.Command) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))):
        lines = paragraph.split("\n")
        if lines[0] == _AS_IT_IS:
            yield ".PP"
            yield ".nf"
            yield from (_line(line) for line in lines[1:])
            yield ".fi"
        else:
            yield from (".PP",) if number else ()
            yield _line(" ".join(lines))


def _options(command: click.Command, context: click.Context, *, common: bool = True) -> Iterator[str]:
    """The options of a command; those that every command takes only at the door."""
    theirs = {name for option in context.find_root().command.params for name in option.opts}
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or (not common and theirs.intersection(parameter.opts)):
            continue
        yield from _entry(f"\\fB{_text(record[0])}\\fP", _text(record[1]))


def _entry(term: str, says: str) -> Iterator[str]:
    yield ".TP"
    yield term
    yield says or "\\&"


def _line(text: str) -> str:
    """A line of text: one that begins with a control character is not taken for a request."""
    escaped = _text(text)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _text(text: str) -> str:
    return text.translate(_ESCAPES)
