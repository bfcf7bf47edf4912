"""Which mails a command means: a filter, ids, or every one.

What is not here: what the server makes of it (`web.asked`). The options say the same for looking and for ordering.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
from attrs import frozen

from elemta.cli.output import CommandError, ExitCode

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Mails on one page of a list; the server's most.
PAGE_MAILS = 1000

#: The values of `storage.records.QueueState`, and the original's other word for one; a test compares them.
STATES = ("active", "deferred", "held", "hold", "failed", "delivered")

#: The form of an id, as `mail.ids` has it.
_ID = re.compile(r"[0-9A-Za-z]{22}", re.ASCII)
#: An id, a part of one that the server may know the rest of, or one with a slip of the pen.
_NEARLY_ID = re.compile(r"[0-9A-Za-z]{8,24}", re.ASCII)
#: Characters of a wrong id in a message.
_SHOWN_CHARACTERS = 40
#: Characters of a line of ids; longer ones are something else.
_LINE_CHARACTERS = 200


@frozen
class Selection:
    """What the filter options say."""

    states: tuple[str, ...] = ()
    sender: str | None = None
    recipient: str | None = None
    destination: str | None = None

    @property
    def narrows(self) -> bool:
        """False when no option was given."""
        return self != Selection()

    def query(self) -> dict[str, str | None]:
        """The filter as parameters of a page."""
        states = ",".join(self.states) or None
        return {
            "state": states,
            "sender": self.sender,
            "recipient": self.recipient,
            "destination": self.destination,
        }

    def criteria(self) -> dict[str, object]:
        """The filter as members of an order."""
        return {name: value for name, value in self.query().items() if value is not None}


def selection_options(command: _Command) -> _Command:
    """Add the filter options; the command gets `selection: Selection`."""

    @functools.wraps(command)
    def selected(*args: Any, state: Sequence[str], **options: Any) -> Any:
        names = ("sender", "recipient", "destination")
        selection = Selection(tuple(state), **{name: options.pop(name) for name in names})
        return command(*args, selection=selection, **options)

    address = "ADDRESS|@DOMAIN"
    decorators = (
        click.option("--state", multiple=True, type=click.Choice(STATES), help="Only mails in this state; repeatable."),
        click.option("--sender", metavar=address, help="Only mails from this address, domain, or <> for reports."),
        click.option("--recipient", metavar=address, help="Only mails to this address or domain."),
        click.option("--destination", metavar="KEY", help="Only mails that go to this next hop, as `show` names it."),
    )
    for decorate in reversed(decorators):
        selected = decorate(selected)
    return selected  # type: ignore[return-value]  # wrapped, and then with options beside


def read_ids(given: Sequence[str]) -> Iterator[str]:
    """The ids of the command line; `-` stands for those on standard input, one a line."""
    for each in given:
        if each != "-":
            yield each
            continue
        for line in sys.stdin:
            text = line.strip()
            if len(text) > _LINE_CHARACTERS:
                raise CommandError("a line of standard input is no queue id: give one id a line", ExitCode.USAGE)
            if text:
                yield text


def has_form_of_id(text: str) -> bool:
    """Whether a text can be an id at all."""
    return _ID.fullmatch(text) is not None


def may_be_id(text: str) -> bool:
    """Whether it makes sense to ask the server for this id."""
    return _NEARLY_ID.fullmatch(text) is not None


def no_id(text: str) -> str:
    """What to say of a text that is no id."""
    shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
    return f'"{shown}" is no queue id: those are 22 letters and digits.'
