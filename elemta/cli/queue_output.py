"""What the commands about mails print.

What is not here: tables and JSON themselves (`cli.output`), or what the server says (`web.records`). Everything is
written as it comes, but for tables, whose columns need all rows.
"""

import codecs
import enum
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from elemta.cli.output import Column, Output, printable, write_rows

_Command = TypeVar("_Command", bound=Callable[..., Any])
Row = Mapping[str, Any]

#: Rows of a table when nobody says how many: what a person reads at once. Programs get everything.
TABLE_ROWS = 100

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


class Form(enum.Enum):
    """`Output`, and a form that other commands read: ids alone, one a line."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    IDS = "ids"


def form_option(command: _Command) -> _Command:
    """Add `-o`; the command gets `form: Form`."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice([form.value for form in Form]),
        default=Form.TABLE.value,
        callback=lambda _context, _parameter, value: Form(value),
        help="A table for people, JSON for programs, or ids for another command.",
    )(command)


class Listing:
    """Prints rows as pages of them come in. `cells` makes a row of the table of one of the server's."""

    def __init__(self, form: Form, columns: Sequence[Column], cells: Callable[[Row], Row]) -> None:
        self._form = form
        self._columns = columns
        self._cells = cells
        self._rows: list[Row] = []
        self._count = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Print a page, or keep it for the table."""
        match self._form:
            case Form.TABLE:
                self._rows += [self._cells(row) for row in rows]
            case Form.JSONL:
                write_rows(rows, (), output=Output.JSONL)
            case Form.IDS:
                for row in rows:
                    click.echo(row["id"])
            case Form.JSON:
                for row in rows:
                    click.echo(",\n  " if self._count else "[\n  ", nl=False)
                    click.echo(json.dumps(row), nl=False)
                    self._count += 1
        # A page to the pipe at once: its reader may have what it wanted.
        sys.stdout.flush()

    def end(self) -> None:
        """Print what only the end shows."""
        match self._form:
            case Form.TABLE:
                write_rows(self._rows, self._columns, output=Output.TABLE)
            case Form.JSON:
                click.echo("\n]" if self._count else "[]")


def write_document(document: Mapping[str, Any], *, form: Form) -> None:
    """Print one JSON object; as `ids` its id alone."""
    match form:
        case Form.JSON | Form.TABLE:
            click.echo(json.dumps(document, indent=2))
        case Form.JSONL:
            click.echo(json.dumps(document, separators=(",", ":")))
        case Form.IDS:
            click.echo(document["id"])


def note(text: str) -> None:
    """Say something beside the data."""
    click.echo(printable(text), err=True)


class Octets:
    """Where a mail's octets go: unchanged into a pipe or file, on a terminal without what would steer it."""

    def __init__(self) -> None:
        self._stream = sys.stdout.buffer
        self._decoder: codecs.IncrementalDecoder | None = None
        if sys.stdout.isatty():
            self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, octets: bytes) -> None:
        """Print a piece."""
        if self._decoder is None:
            self._stream.write(octets)
        else:
            click.echo(on_terminal(self._decoder.decode(octets)), nl=False)

    def end(self) -> None:
        """Print what is left."""
        if self._decoder is not None:
            click.echo(on_terminal(self._decoder.decode(b"", final=True)), nl=False)
        self._stream.flush()


def on_terminal(text: str) -> str:
    """A mail's text with its line ends and tabs, every other control character as an escape."""
    lines = text.replace("\r\n", "\n")
    return "\t".join(printable(piece) for piece in lines.split("\t"))


# ---- cells ---------------------------------------------------------------------------------------


def seconds_of(moment: str | None) -> float | None:
    """UTC in seconds since 1970 of a time that the server gave."""
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


def age(moment: str | None, now: float) -> str:
    """How long ago, or in how long: `3m`, `in 2h`."""
    at = seconds_of(moment)
    if at is None:
        return "-"
    return span(now - at) if at <= now else f"in {span(at - now)}"


def span(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, size in (("d", _DAY), ("h", _HOUR), ("m", _MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def full_time(moment: str | None) -> str:
    """A time to the second, in UTC, for people."""
    at = seconds_of(moment)
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def octets(size: int) -> str:
    """A size for people."""
    for unit, factor in (("M", 1024 * 1024), ("K", 1024)):
        if size >= factor:
            return f"{size / factor:.1f}{unit}"
    return str(size)


def first_of(addresses: Sequence[str]) -> str:
    """One address, with how many more there are."""
    more = f" (+{len(addresses) - 1})" if len(addresses) > 1 else ""
    return f"{addresses[0]}{more}" if addresses else "-"


def mails(count: int) -> str:
    """`1 mail`, `2 mails`."""
    return f"{count} mail" if count == 1 else f"{count} mails"
