"""From the changes that a filter asks for to those of a plugin; pure.

Fields are counted as Sendmail counts them (`milter_insheader`, `milter_changeheader`):

- Our own `Received` field is not shown to filters. The position of an inserted field counts it nevertheless, so that 0
  is above it, and 1 below it; the number of a `Received` field that is changed does not count it.
  Postfix does the same.
- A field that was removed still counts for later changes, so that a filter may remove the first and then the third, as
  OpenDKIM does. Postfix forgets it, so filters that were tried there remove from the last to the first.

What is not here: making the changes (`plugins.mail`). Failure raised: `MilterProtocolError`, for a change that no mail
could bear.
"""

import re
from collections.abc import Sequence
from typing import Final

from attrs import define, frozen

from elemta.mail.envelope import Recipient
from elemta.plugins.milter import events
from elemta.plugins.milter.events import Modification
from elemta.plugins.milter.wire import MilterProtocolError
from elemta.plugins.verdicts import (
    AddHeader,
    AddRecipient,
    Change,
    RemoveHeader,
    RemoveRecipient,
    ReplaceBody,
    ReplaceHeader,
    SetSender,
)
from elemta.smtp.grammar import parse_address
from elemta.smtp.parameters import CommandRefused, parse_rcpt_parameters

_RECEIVED: Final = "received"
#: What ends a line in fields that filters send: LF (smfi_addheader), or CRLF.
_LINE_END = re.compile(rb"\r?\n")
#: A line end behind which no space follows would end the field.
_UNFOLDED = re.compile(rb"\r\n(?![ \t])")


@frozen
class Header:
    """The fields that a filter was shown: `names` of all of them, in order, and which of them was kept from it."""

    names: Sequence[str]
    own_received: int | None = None


@frozen
class Asked:
    """All that a filter asked for at the end of a mail. `body` is that of an `OtherBody`, None where it left the body
    alone."""

    modifications: Sequence[Modification] = ()
    body: bytes | None = None


@frozen
class Translated:
    """The changes, with the reason of a quarantine; None where there is none."""

    changes: tuple[Change, ...]
    quarantine: str | None = None


def own_received(fields: Sequence[tuple[str, bytes]], queue_id: str) -> int | None:
    """Which field is the `Received` that we put before this mail, known by the mail's id; None when none is."""
    mark = queue_id.encode()
    for place, (name, value) in enumerate(fields):
        if name.lower() == _RECEIVED:
            return place if mark in value else None
    return None


def translate(asked: Asked, header: Header) -> Translated:
    """The changes in the order in which they are to be made. Raises `MilterProtocolError`."""
    ledger = _Ledger(header)
    changes: list[Change] = []
    quarantine: str | None = None
    try:
        for modification in asked.modifications:
            if isinstance(modification, events.Quarantined):
                quarantine = modification.reason
                continue
            change = _change(modification, ledger)
            if change is not None:
                changes.append(change)
        if asked.body is not None:
            changes.append(ReplaceBody(asked.body))
    except (ValueError, CommandRefused) as error:
        raise MilterProtocolError(f"a change that cannot be made: {error}") from error
    return Translated(tuple(changes), quarantine)


def _change(modification: Modification, ledger: "_Ledger") -> Change | None:
    match modification:
        case events.HeaderAdded(name, value):
            ledger.add(name)
            return AddHeader(name, _value(value), at=None)
        case events.HeaderInserted(at, name, value):
            return AddHeader(name, _value(value), at=ledger.insert(at, name))
        case events.HeaderChanged(occurrence, name, value):
            return _header_change(ledger, occurrence, name, value)
        case events.SenderChanged(path):
            bare = _bare(path)
            return SetSender(parse_address(bare) if bare else None)
        case events.RecipientAdded(path, parameters):
            notify, original = parse_rcpt_parameters(parameters, smtputf8=True)
            return AddRecipient(Recipient(parse_address(_bare(path)), notify, original))
        case events.RecipientRemoved(path):
            return RemoveRecipient(parse_address(_bare(path)))
        case _:
            raise AssertionError(f"{modification!r} is gathered elsewhere")


def _header_change(ledger: "_Ledger", occurrence: int, name: str, value: bytes | None) -> Change | None:
    found = ledger.find(name, occurrence)
    if value is None:
        return None if found is None or found.removed else RemoveHeader(name, ledger.remove(found))
    if found is None:
        ledger.add(name)
        return AddHeader(name, _value(value), at=None)
    if found.removed:  # it comes back where it was
        return AddHeader(name, _value(value), at=ledger.restore(found))
    return ReplaceHeader(name, _value(value), ledger.number(found))


def _value(octets: bytes) -> bytes:
    """A field's value as it stands in a mail. The space behind the colon is written with the field, whoever sent it."""
    value = _LINE_END.sub(b"\r\n", octets.rstrip(b"\r\n")).removeprefix(b" ")
    # A filter whose line does not begin with a space wrote one field nevertheless: a tab keeps it one, as in Sendmail.
    return _UNFOLDED.sub(b"\r\n\t", value)


def _bare(path: str) -> str:
    """A path without its angle brackets, which not all filters write."""
    return path.strip().removeprefix("<").removesuffix(">")


@define(eq=False)
class _Field:
    name: str
    #: Whether the filter can name it by its number.
    shown: bool = True
    removed: bool = False


class _Ledger:
    """Which field is which, after each change: the filter's numbers on one side, those of the mail on the other.

    A header may have thousands of fields, and a filter may change each of them: fields are looked for among those of
    their name.
    """

    def __init__(self, header: Header) -> None:
        self._fields: list[_Field] = []
        self._named: dict[str, list[_Field]] = {}
        for place, name in enumerate(header.names):
            self.add(name, shown=place != header.own_received)

    def add(self, name: str, *, shown: bool = True) -> None:
        field = _Field(name.lower(), shown)
        self._fields.append(field)
        self._named.setdefault(field.name, []).append(field)

    def insert(self, at: int, name: str) -> int:
        """Where in the mail a field is inserted that the filter puts at `at`."""
        place, field = min(at, len(self._fields)), _Field(name.lower())
        before = [one.name for one in self._fields[:place]].count(field.name)
        self._named.setdefault(field.name, []).insert(before, field)
        self._fields.insert(place, field)
        return _present(self._fields[:place])

    def find(self, name: str, occurrence: int) -> _Field | None:
        """The field of that number among those of its name, removed ones included; None when there is none."""
        same = self._named.get(name.lower(), [])
        if name.lower() == _RECEIVED:  # no other is kept from filters
            same = [field for field in same if field.shown]
        return same[occurrence - 1] if occurrence <= len(same) else None

    def number(self, wanted: _Field) -> int:
        """Its number among those of its name that are in the mail."""
        same = self._named[wanted.name]
        return 1 + _present(same[: same.index(wanted)])

    def remove(self, field: _Field) -> int:
        """Take it away; the number it had among those of its name in the mail."""
        field.removed = True
        return self.number(field)

    def restore(self, field: _Field) -> int:
        """Bring it back; where in the mail it is inserted."""
        field.removed = False
        return _present(self._fields[: self._fields.index(field)])


def _present(fields: Sequence[_Field]) -> int:
    """How many of them are in the mail."""
    return [field.removed for field in fields].count(False)
