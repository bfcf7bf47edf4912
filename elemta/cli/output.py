"""What commands print: tables for people, JSON for programs, one paragraph for an error.

Data goes to standard output, everything else to standard error. Tables may change, JSON may only grow. What is not
here: what is printed. rich is imported when a table is, since its import costs as much as the rest of a command.
Failure raised: `CommandError`, which ends the program with its exit code.
"""

import enum
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Literal, TypeVar

import click
from attrs import frozen

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Columns of a table that goes to a file or a pipe: nothing there is wide enough to be wrapped.
_ENDLESS_COLUMNS = 100_000


#: For rich: whoever asks for colours gets the sixteen that every terminal has, whatever TERM says.
_COLOR_SYSTEM: dict[bool | None, Literal["auto", "standard"] | None] = {True: "standard", False: None, None: "auto"}


class ExitCode(enum.IntEnum):
    """How a command ended. 69, 75, 77 and 78 are those of sysexits.h, which Debian's init scripts and systemd know."""

    OK = 0
    #: The operation failed, or a part of it.
    FAILED = 1
    USAGE = 2
    #: The server is not there.
    UNREACHABLE = 69
    #: Try again later.
    TEMPORARY = 75
    PERMISSION = 77
    #: The configuration cannot be used.
    CONFIG = 78
    INTERRUPTED = 130


class CommandError(click.ClickException):
    """A command failed: `message` is what a person reads, `exit_code` what a program does."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click has one a class, we one a failure

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on standard error."""
        click.echo(f"elemta: {printable(self.message)}", file=file or sys.stderr)


class Output(enum.Enum):
    """The forms of a command's data."""

    TABLE = "table"
    JSON = "json"
    #: One object a line.
    JSONL = "jsonl"


@frozen
class Column:
    """One column of a table: the value of `key` in each row."""

    key: str
    header: str
    #: Numbers stand at the right.
    right: bool = False


def output_option(command: _Command) -> _Command:
    """Add `-o`; the command gets `output: Output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice([form.value for form in Output]),
        default=Output.TABLE.value,
        callback=lambda _context, _parameter, value: Output(value),
        help="A table for people, or JSON for programs.",
    )(command)


def write_rows(rows: Iterable[Mapping[str, object]], columns: Sequence[Column], *, output: Output) -> None:
    """Print rows. As JSON every member of a row is printed, as a table only `columns` are."""
    match output:
        case Output.TABLE:
            _write_table(rows, columns)
        case Output.JSON:
            _write_array(rows)
        case Output.JSONL:
            for row in rows:
                click.echo(_line(row))


def write_record(record: Mapping[str, object], *, output: Output) -> None:
    """Print one object: as a table a line a member."""
    match output:
        case Output.TABLE:
            rows = ({"key": key, "value": value} for key, value in record.items())
            _write_table(rows, (Column("key", "key"), Column("value", "value")), headed=False)
        case Output.JSON:
            click.echo(json.dumps(record, indent=2, default=str))
        case Output.JSONL:
            click.echo(_line(record))


def printable(text: str) -> str:
    """A text that cannot steer a terminal: what does not print becomes an escape, but for line ends."""
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def _line(row: Mapping[str, object]) -> str:
    return json.dumps(row, separators=(",", ":"), default=str)


def _write_array(rows: Iterable[Mapping[str, object]]) -> None:
    """Print a JSON array as the rows come, so that a million of them are never held."""
    opened = False
    for row in rows:
        click.echo(",\n" if opened else "[\n", nl=False)
        click.echo(f"  {_line(row)}", nl=False)
        opened = True
    click.echo("\n]" if opened else "[]")


def _write_table(rows: Iterable[Mapping[str, object]], columns: Sequence[Column], *, headed: bool = True) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    color = color_wanted()
    table = Table(box=None, pad_edge=False, show_header=headed, header_style="bold")
    for column in columns:
        table.add_column(column.header, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(_cell(row.get(column.key)))) for column in columns))
    console = Console(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else _ENDLESS_COLUMNS,
        force_terminal=color,
        no_color=color is False or None,
        color_system=_COLOR_SYSTEM[color],
    )
    console.print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case list() | tuple() | dict():
            return json.dumps(value)
        case _:
            return str(value)


def color_wanted() -> bool | None:
    """Whether colours are wanted, None to leave it to the terminal; `--color` over FORCE_COLOR over NO_COLOR.

    An empty NO_COLOR or FORCE_COLOR counts as not set (no-color.org, force-color.org).
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.color is not None:
        return context.color
    if os.environ.get("FORCE_COLOR"):
        return True
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return None
