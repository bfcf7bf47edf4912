"""Actions of rules: what a rule that holds does to the mail, as the JSON says it.

    {"add_header": {"name": "X-Seen-By", "value": "rules"}}, "discard", {"reject": "no mail from there"}

An action is a word, or an object with one key: its value is an object of fields, or the one field that matters most.
What is not here: how rules follow each other (`rules.evaluate`), verdicts and changes (`plugins.verdicts`).
"""

from collections.abc import Callable, Mapping
from email.header import Header
from typing import Any, Final

from attrs import field, frozen

from elemta.config.document import Path
from elemta.config.kinds import PRIORITIES, Unfit, Whole
from elemta.config.problems import did_you_mean
from elemta.mail.address import Address
from elemta.mail.envelope import Priority, Recipient
from elemta.mail.headers import readable
from elemta.plugins.api import Stage
from elemta.plugins.rules.facts import STAGES, Situation
from elemta.plugins.rules.reading import Reading, quoted
from elemta.plugins.verdicts import (
    MAX_LINE_OCTETS,
    MAX_TEXT_CHARACTERS,
    MAX_VALUE_CHARACTERS,
    AddHeader,
    AddRecipient,
    Annotate,
    Change,
    Defer,
    Discard,
    Quarantine,
    Reject,
    RemoveHeader,
    RemoveRecipient,
    ReplaceHeader,
    SetPriority,
    SetRoute,
    Verdict,
)
from elemta.smtp.grammar import AddressError, parse_address

#: Actions of one rule.
MAX_ACTIONS: Final = 20
#: Addresses of one action: as many as RFC 5321 §4.5.3.1.8 asks every server to take.
MAX_ADDRESSES: Final = 100
#: A score beyond it means a slip of the pen; filters give some tens.
MAX_SCORE: Final = 1_000_000

#: The changes of an action, once the mail is there.
MakeChanges = Callable[[Situation], tuple[Change, ...]]


@frozen
class Effect:
    """What an action comes to: changes, a score, or a decision. `accepts` is the decision for the mail."""

    changes: MakeChanges | None = None
    score: float = 0.0
    verdict: Verdict | None = None
    accepts: bool = False

    @property
    def decides(self) -> bool:
        """Whether no further rule is asked."""
        return self.accepts or self.verdict is not None


@frozen
class Field:
    """One field of an action. `entry` reads its value or raises `Unfit`."""

    name: str
    entry: Callable[[object], object] = field(eq=False, repr=False)
    required: bool = False


@frozen
class ActionKind:
    """One thing that a rule can do."""

    name: str
    stages: frozenset[Stage]
    fields: tuple[Field, ...]
    #: The field that a bare value stands for.
    short: str
    #: Takes the fields that were written. Raises `ValueError` for what no verdict or change can be made of.
    make: Callable[[Mapping[str, Any]], Effect] = field(eq=False, repr=False)
    about: str = field(eq=False, repr=False)


@frozen
class Action:
    """One action of a rule, with the fields that were written, in the order of its kind."""

    kind: ActionKind
    fields: tuple[tuple[str, Any], ...] = ()

    def effect(self) -> Effect:
        """What it comes to."""
        return self.kind.make(dict(self.fields))


# ---- fields --------------------------------------------------------------------------------------


def _text(most: int, *, is_ascii: bool = False) -> Callable[[object], str]:
    """A text that is not blank. One that would be cut, or spelled otherwise, is not taken."""

    def entry(value: object) -> str:
        is_text = isinstance(value, str) and value.isprintable() and (value.isascii() or not is_ascii)
        if not is_text or not str(value).strip() or len(str(value)) > most:
            raise Unfit(f"a text of 1 to {most} printable{' ASCII' * is_ascii} characters, not all blank")
        return str(value)

    return entry


def _addresses(value: object) -> tuple[Recipient, ...]:
    several = value if isinstance(value, list) else [value]
    expected = f'a mail address such as "user@example.com", or a list of 1 to {MAX_ADDRESSES}'
    texts = [each for each in several if isinstance(each, str)]
    if not 1 <= len(several) <= MAX_ADDRESSES or len(texts) < len(several):
        raise Unfit(expected)
    try:
        return tuple(Recipient(parse_address(text)) for text in texts)
    except AddressError:
        raise Unfit(expected) from None


def _priority(value: object) -> Priority:
    if value not in PRIORITIES:
        advice = did_you_mean(value, PRIORITIES).strip() if isinstance(value, str) else ""
        raise Unfit(f"one of {quoted(PRIORITIES)}", advice)
    return Priority[str(value).upper()]


def _end(value: object) -> str:
    if value not in ("top", "bottom"):
        raise Unfit('"top" or "bottom"')
    return str(value)


def _points(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > MAX_SCORE:
        raise Unfit(f"a number from -{MAX_SCORE} to {MAX_SCORE}")
    return value


def _code(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 400 <= value <= 599:
        raise Unfit("a reply code from 400 to 599")
    return value


_occurrence = Whole("fields", 1, 1000).parse


def _value(text: str) -> str:
    """A text for a header field: as it is, or in encoded words where it is not all ASCII."""
    return text if text.isascii() else _words(text)


def _words(text: str) -> str:
    """A text in encoded words, RFC 2047 §2."""
    return Header(text, "utf-8", maxlinelen=75).encode(linesep="\r\n")


# ---- effects -------------------------------------------------------------------------------------


def _always(*changes: Change) -> Effect:
    return Effect(changes=lambda _: changes)


def _make_add_header(fields: Mapping[str, Any]) -> Effect:
    place = None if fields.get("at") == "bottom" else 0
    return _always(AddHeader(fields["name"], _value(fields["value"]), place))


def _make_replace_header(fields: Mapping[str, Any]) -> Effect:
    return _always(ReplaceHeader(fields["name"], _value(fields["value"]), fields.get("occurrence", 1)))


def _make_remove_header(fields: Mapping[str, Any]) -> Effect:
    return _always(RemoveHeader(fields["name"], fields.get("occurrence")))


def _make_add_recipient(fields: Mapping[str, Any]) -> Effect:
    return _always(*map(AddRecipient, fields["address"]))


def _make_remove_recipient(fields: Mapping[str, Any]) -> Effect:
    unwanted = frozenset(_folded(each.address) for each in fields["address"])
    return Effect(changes=lambda at: tuple(RemoveRecipient(one) for one in _recipients(at) if _folded(one) in unwanted))


def _make_redirect(fields: Mapping[str, Any]) -> Effect:
    further = tuple(map(AddRecipient, fields["address"]))
    return Effect(changes=lambda at: (*map(RemoveRecipient, _recipients(at)), *further))


def _folded(address: Address) -> str:
    return str(address).casefold()


def _recipients(situation: Situation) -> tuple[Address, ...]:
    """Each once, after what rules asked for so far."""
    found = dict.fromkeys(each.address for each in (situation.mail.recipients if situation.mail else ()))
    for change in situation.changes:
        match change:
            case AddRecipient(recipient):
                found[recipient.address] = None
            case RemoveRecipient(address):
                found.pop(address, None)
    return tuple(found)


def _make_tag_subject(fields: Mapping[str, Any]) -> Effect:
    tag: str = fields["text"].strip()
    octets = _value(tag).encode()
    AddHeader("Subject", octets)
    # RFC 2047 §6.2: what separates two encoded words is not shown, so the blank goes into the first one.
    before_word = octets if tag.isascii() else _words(f"{tag} ").encode()

    def changes(situation: Situation) -> tuple[Change, ...]:
        present = _subject(situation)
        shown = readable(present.replace(b"\r\n", b""))
        if tag in shown:
            return ()  # a reply to a mail that was tagged brings the tag back
        if not present:
            return (ReplaceHeader("Subject", octets),)
        front = before_word if present.startswith(b"=?") else octets
        try:
            # A fold between them: neither line grows.
            return (ReplaceHeader("Subject", front + b"\r\n " + present),)
        except ValueError:
            # A NUL or an endless line cannot be passed on, and is no way to go without the tag.
            return (ReplaceHeader("Subject", _words(f"{tag} {shown}")),)

    return Effect(changes=changes)


def _subject(situation: Situation) -> bytes:
    """The first field's value, after what rules asked for so far; empty where there is none."""
    found = list(situation.mail.headers.raw("Subject")) if situation.mail else []
    for change in situation.changes:
        match change:
            case AddHeader(name, value, at) if name.lower() == "subject":
                found.insert(len(found) if at is None else 0, value)
            case ReplaceHeader(name, value, occurrence) if name.lower() == "subject":
                found[occurrence - 1 :] = [value, *found[occurrence:]]
            case RemoveHeader(name, occurrence) if name.lower() == "subject":
                found[(occurrence or 1) - 1 : occurrence] = []
    return found[0].strip(b" \t") if found else b""


def _make_set_priority(fields: Mapping[str, Any]) -> Effect:
    return _always(SetPriority(fields["priority"]))


def _make_set_route(fields: Mapping[str, Any]) -> Effect:
    return _always(SetRoute(fields["name"]))


def _make_annotate(fields: Mapping[str, Any]) -> Effect:
    return _always(Annotate(fields["key"], fields["value"]))


def _make_score(fields: Mapping[str, Any]) -> Effect:
    return Effect(score=float(fields["points"]))


# ---- the catalogue -------------------------------------------------------------------------------

_SESSION = frozenset({Stage.CONNECT, Stage.HELO, Stage.AUTH})
_DATA = frozenset({Stage.DATA_HEADERS, Stage.DATA_COMPLETE})
_MAIL = _DATA | {Stage.MAIL_FROM, Stage.RCPT_TO}
_IN = _SESSION | _MAIL
_KEPT = _MAIL | {Stage.PRE_DELIVERY}

_LINE, _WORD = _text(MAX_LINE_OCTETS), _text(MAX_VALUE_CHARACTERS)
_NAME, _VALUE = Field("name", _LINE, required=True), Field("value", _LINE, required=True)
_ADDRESS = Field("address", _addresses, required=True)
_REASON = Field("reason", _text(MAX_TEXT_CHARACTERS))
#: RFC 5321 §4.2: a reply is US-ASCII.
_REPLY = (Field("text", _text(MAX_TEXT_CHARACTERS, is_ascii=True)), Field("code", _code), Field("enhanced", _LINE))
_TAG, _OCCURRENCE = Field("text", _LINE, required=True), Field("occurrence", _occurrence)

_CATALOGUE = (
    ActionKind("accept", STAGES, (), "", lambda _: Effect(accepts=True), "Ask no further rule at this stage."),
    ActionKind(
        "reject", STAGES, _REPLY, "text", lambda fields: Effect(verdict=Reject(**fields)),
        "Refuse for good: 550 5.7.1.",
    ),
    ActionKind(
        "defer", STAGES, _REPLY, "text", lambda fields: Effect(verdict=Defer(**fields)), "Refuse for now: 451 4.7.1."
    ),
    ActionKind(
        "discard", _MAIL, (_REASON,), "reason", lambda fields: Effect(verdict=Discard(fields.get("reason", ""))),
        "Answer 250, throw the mail away.",
    ),
    ActionKind(
        "quarantine", _KEPT, (_REASON,), "reason",
        lambda fields: Effect(verdict=Quarantine(fields.get("reason", ""))), "Hold the mail in the queue.",
    ),
    ActionKind(
        "add_header", _DATA, (_NAME, _VALUE, Field("at", _end)), "", _make_add_header,
        "Add a field, at the top unless `at` is `bottom`.",
    ),
    ActionKind(
        "replace_header", _DATA, (_NAME, _VALUE, _OCCURRENCE), "", _make_replace_header,
        "Give the first field of the name, or the one of `occurrence`, another value; added where there is none.",
    ),
    ActionKind(
        "remove_header", _DATA, (_NAME, _OCCURRENCE), "name", _make_remove_header,
        "Take all fields of the name away, or the one of `occurrence`.",
    ),
    ActionKind("tag_subject", _DATA, (_TAG,), "text", _make_tag_subject, "Put words before the subject, once."),
    ActionKind("add_recipient", _DATA, (_ADDRESS,), "address", _make_add_recipient, "Send it to these as well."),
    ActionKind("remove_recipient", _DATA, (_ADDRESS,), "address", _make_remove_recipient, "Do not send it to these."),
    ActionKind("redirect", _DATA, (_ADDRESS,), "address", _make_redirect, "Send it to these alone."),
    ActionKind(
        "set_priority", _MAIL, (Field("priority", _priority, required=True),), "priority", _make_set_priority,
        "The priority in the queue: `low`, `normal`, `high`, `critical`.",
    ),
    ActionKind("set_route", _MAIL, (_NAME,), "name", _make_set_route, "Send it by the route of this name."),
    ActionKind(
        "annotate", _MAIL, (Field("key", _LINE, required=True), Field("value", _WORD, required=True)), "",
        _make_annotate, "A word about the mail that is kept with it.",
    ),
    ActionKind(
        "score", _IN, (Field("points", _points, required=True),), "points", _make_score,
        "Add to the score; more is worse, less than 0 is better.",
    ),
)  # fmt: skip
#: By name.
ACTIONS: Final[Mapping[str, ActionKind]] = {kind.name: kind for kind in _CATALOGUE}
#: Those that change something and let the next rule be asked.
CHANGES: Final = tuple(name for name in ACTIONS if name not in ("accept", "reject", "defer", "discard", "quarantine"))


# ---- reading -------------------------------------------------------------------------------------


def read_actions(reading: Reading, path: Path, value: object) -> tuple[Action, ...]:
    """The actions at a path: one or a list; problems go to `reading`."""
    several = value if isinstance(value, list) else [value]
    if not 1 <= len(several) <= MAX_ACTIONS:
        reading.error(path, f"found {len(several)} actions, expected 1 to {MAX_ACTIONS}.")
        return ()
    found: list[Action] = []
    for number, each in enumerate(several):
        here = (*path, number) if isinstance(value, list) else path
        if found and found[-1].effect().decides:
            reading.error(here, f'nothing is done behind "{found[-1].kind.name}", which decides; put it last.')
            break
        action = _read_action(reading, here, each)
        found += [] if action is None else [action]
        if action is not None and isinstance(action.effect().verdict, Reject | Defer | Discard):
            _check_not_in_vain(reading, here, found)
    return tuple(found)


def _check_not_in_vain(reading: Reading, path: Path, actions: list[Action]) -> None:
    """Nothing keeps what was changed of a mail that is not kept."""
    *before, last = actions
    if vain := [action.kind.name for action in before if action.effect().changes is not None]:
        reading.error(path, f'this mail is not kept, so {quoted(vain)} before "{last.kind.name}" would do nothing.')


def _read_action(reading: Reading, path: Path, value: object) -> Action | None:
    if isinstance(value, dict) and len(value) == 1:
        ((word, fields),) = value.items()
        here = (*path, word)
    else:
        word, fields, here = value, {}, path
    if not isinstance(word, str):
        reading.unfit(path, value, Unfit('an action: "accept", or an object of one key such as {"reject": "not here"}'))
        return None
    kind = ACTIONS.get(word)
    if word == "modify":  # the original's
        reading.error(here, f"write the change itself: one of {', '.join(CHANGES)}.")
        return None
    if kind is None:
        reading.unknown(here, "action", ACTIONS, word=word)
        return None
    if wrong := [stage.value for stage in reading.stages if stage not in kind.stages]:
        possible = quoted(stage.value for stage in Stage if stage in kind.stages)
        reading.error(here, f"this cannot be done at {quoted(wrong)}; it can at {possible}.")
    return _read_fields(reading, here, fields, kind)


def _read_fields(reading: Reading, path: Path, value: object, kind: ActionKind) -> Action | None:
    before = len(reading.problems)
    if not isinstance(value, dict):
        if not kind.short:
            names = ", ".join(each.name for each in kind.fields)
            expected = f"an object with {names}" if names else f'"{kind.name}" without a value'
            reading.unfit(path, value, Unfit(expected))
            return None
        written: Mapping[str, object] = {kind.short: value}
    else:
        written = value
    known = {each.name: each for each in kind.fields}
    for name in written:
        if name not in known:
            reading.unknown((*path, name), "field", known or ("none",), of=f' of "{kind.name}"')
    found: list[tuple[str, Any]] = []
    for each in kind.fields:
        here = (*path, each.name) if isinstance(value, dict) else path
        if each.name in written:
            try:
                found.append((each.name, each.entry(written[each.name])))
            except Unfit as fault:
                reading.unfit(here, written[each.name], fault)
        elif each.required:
            reading.error(path, f'the field "{each.name}" is missing.')
    return _checked(reading, path, Action(kind, tuple(found))) if len(reading.problems) == before else None


def _checked(reading: Reading, path: Path, action: Action) -> Action | None:
    """The action, once its verdict or changes were seen to be possible."""
    try:
        action.effect()
    except ValueError as error:
        reading.error(path, f"{error}.")
        return None
    if action.kind.name == "set_route" and reading.routes is not None:
        route = dict(action.fields)["name"]
        if route not in reading.routes:
            reading.unknown(path, "route", sorted(reading.routes), word=route)
    return action
