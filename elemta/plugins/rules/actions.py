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
from elemta.mail.envelope import Priority, Recipient
from elemta.plugins.api import Stage
from elemta.plugins.rules.facts import STAGES, Situation
from elemta.plugins.rules.operators import MAX_OPERAND_CHARACTERS
from elemta.plugins.rules.reading import Reading, quoted
from elemta.plugins.verdicts import (
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
from elemta.smtp.grammar import parse_address

#: Actions of one rule.
MAX_ACTIONS: Final = 20
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


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > MAX_OPERAND_CHARACTERS:
        raise Unfit(f"a text of 1 to {MAX_OPERAND_CHARACTERS} printable characters")
    return value


def _addresses(value: object) -> object:
    """One address or several, as they were written."""
    several = value if isinstance(value, list) else [value]
    expected = 'a mail address such as "user@example.com", or a list of them'
    if not several:
        raise Unfit(expected)
    for each in several:
        try:
            if not isinstance(each, str):
                raise Unfit(expected)
            parse_address(each)
        except ValueError:
            raise Unfit(expected) from None
    return tuple(several) if isinstance(value, list) else value


def _priority(value: object) -> str:
    if value not in PRIORITIES:
        advice = did_you_mean(value, PRIORITIES).strip() if isinstance(value, str) else ""
        raise Unfit(f"one of {quoted(PRIORITIES)}", advice)
    return str(value)


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


def field_octets(text: str) -> str:
    """A text for a header field: as it is, or in encoded words (RFC 2047 §2) where it is not all ASCII."""
    return text if text.isascii() else Header(text, "utf-8", maxlinelen=75).encode(linesep="\r\n")


# ---- effects -------------------------------------------------------------------------------------


def _always(*changes: Change) -> Effect:
    return Effect(changes=lambda _: changes)


def _make_reject(fields: Mapping[str, Any]) -> Effect:
    return Effect(verdict=Reject(**fields))


def _make_defer(fields: Mapping[str, Any]) -> Effect:
    return Effect(verdict=Defer(**fields))


def _make_discard(fields: Mapping[str, Any]) -> Effect:
    return Effect(verdict=Discard(fields.get("reason", "")))


def _make_quarantine(fields: Mapping[str, Any]) -> Effect:
    return Effect(verdict=Quarantine(fields.get("reason", "")))


def _make_add_header(fields: Mapping[str, Any]) -> Effect:
    place = None if fields.get("at") == "bottom" else 0
    return _always(AddHeader(fields["name"], field_octets(fields["value"]), place))


def _make_replace_header(fields: Mapping[str, Any]) -> Effect:
    return _always(ReplaceHeader(fields["name"], field_octets(fields["value"]), fields.get("occurrence", 1)))


def _make_remove_header(fields: Mapping[str, Any]) -> Effect:
    return _always(RemoveHeader(fields["name"], fields.get("occurrence")))


def _recipients(fields: Mapping[str, Any]) -> tuple[Recipient, ...]:
    written = fields["address"]
    return tuple(Recipient(parse_address(each)) for each in ((written,) if isinstance(written, str) else written))


def _make_add_recipient(fields: Mapping[str, Any]) -> Effect:
    return _always(*map(AddRecipient, _recipients(fields)))


def _make_remove_recipient(fields: Mapping[str, Any]) -> Effect:
    unwanted = frozenset(str(each.address).casefold() for each in _recipients(fields))

    def changes(situation: Situation) -> tuple[Change, ...]:
        present = () if situation.mail is None else situation.mail.recipients
        return tuple(RemoveRecipient(each.address) for each in present if str(each.address).casefold() in unwanted)

    return Effect(changes=changes)


def _make_redirect(fields: Mapping[str, Any]) -> Effect:
    further = tuple(map(AddRecipient, _recipients(fields)))

    def changes(situation: Situation) -> tuple[Change, ...]:
        present = () if situation.mail is None else situation.mail.recipients
        # Each once: a plugin before may have added one twice.
        gone = dict.fromkeys(each.address for each in present)
        return (*map(RemoveRecipient, gone), *further)

    return Effect(changes=changes)


def _make_tag_subject(fields: Mapping[str, Any]) -> Effect:
    tag: str = fields["text"].strip()
    octets = field_octets(tag).encode()
    AddHeader("Subject", octets)
    # RFC 2047 §6.2: what separates two encoded words is not shown, so the blank goes into the first one.
    before_word = octets if tag.isascii() else field_octets(f"{tag} ").encode()

    def changes(situation: Situation) -> tuple[Change, ...]:
        if situation.mail is None or tag in situation.mail.headers.text("Subject"):
            return ()  # a reply to a mail that was tagged brings the tag back
        present = next(iter(situation.mail.headers.raw("Subject")), b"")
        try:
            if not present:
                return (ReplaceHeader("Subject", octets),)
            # A fold between them: neither line grows.
            front = before_word if present.startswith(b"=?") else octets
            return (ReplaceHeader("Subject", front + b"\r\n " + present),)
        except ValueError:
            return ()  # a field with a NUL or an endless line is not ours to mend

    return Effect(changes=changes)


def _make_set_priority(fields: Mapping[str, Any]) -> Effect:
    return _always(SetPriority(Priority[fields["priority"].upper()]))


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

_NAME, _VALUE = Field("name", _text, required=True), Field("value", _text, required=True)
_ADDRESS = Field("address", _addresses, required=True)
_REASON = Field("reason", _text)
_REPLY = (Field("text", _text), Field("code", _code), Field("enhanced", _text))
_TAG, _OCCURRENCE = Field("text", _text, required=True), Field("occurrence", _occurrence)

_CATALOGUE = (
    ActionKind("accept", STAGES, (), "", lambda _: Effect(accepts=True), "Ask no further rule at this stage."),
    ActionKind("reject", STAGES, _REPLY, "text", _make_reject, "Refuse for good: 550 5.7.1."),
    ActionKind("defer", STAGES, _REPLY, "text", _make_defer, "Refuse for now: 451 4.7.1."),
    ActionKind("discard", _MAIL, (_REASON,), "reason", _make_discard, "Answer 250, throw the mail away."),
    ActionKind("quarantine", _KEPT, (_REASON,), "reason", _make_quarantine, "Hold the mail in the queue."),
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
        "annotate", _MAIL, (Field("key", _text, required=True), _VALUE), "", _make_annotate,
        "A word about the mail that is kept with it.",
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
    return tuple(found)


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


def render_action(action: Action) -> object:
    """The JSON of an action; reading it gives the same."""
    if not action.fields:
        return action.kind.name
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in action.fields}
    return {action.kind.name: fields}
