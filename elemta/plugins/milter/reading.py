"""From a filter's packets to events; pure.

What is not here: which event may come when (`milter.machine`). Sources: libmilter's `mfdef.h` for the letters, its
documentation of `smfi_setreply`, `smfi_addheader`, `smfi_insheader`, `smfi_chgheader`, `smfi_replacebody`,
`smfi_chgfrom`, `smfi_addrcpt_par`, `smfi_quarantine`, `smfi_setsymlist` for what their data mean.
Failure raised: `MilterProtocolError`, whatever comes.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from elemta.plugins.milter import events, wire
from elemta.plugins.milter.events import Decision, Event, Modification
from elemta.plugins.milter.wire import Action, Answer, MilterProtocolError, Packet, Stage, Step

#: Macros that a filter may ask for at one stage: some five times as many as Sendmail has.
MAX_MACROS: Final = 200

# smfi_setreply, smfi_setmlreply: three digits, the enhanced code, the text; a "-" behind the code of all lines but the
# last. RFC 5321 §4.2, RFC 3463 §2.
_REPLY_LINE = re.compile(r"([45][0-9]{2})(?:[ -](?:([45]\.[0-9]{1,3}\.[0-9]{1,3})(?=[ ]|\Z))?[ ]?(.*))?", re.DOTALL)

_DECISIONS: Final[Mapping[Answer, Decision]] = {
    Answer.CONTINUE: Decision.CONTINUE,
    Answer.ACCEPT: Decision.ACCEPT,
    Answer.REJECT: Decision.REJECT,
    Answer.TEMPFAIL: Decision.TEMPFAIL,
    Answer.DISCARD: Decision.DISCARD,
    Answer.SKIP: Decision.SKIP,
    Answer.SHUTDOWN: Decision.SHUTDOWN,
    Answer.CONNECTION_FAIL: Decision.SHUTDOWN,
}
#: What a change needs the filter to have asked for in the negotiation.
_NEEDS: Final[Mapping[Answer, Action]] = {
    Answer.ADD_RECIPIENT: Action.ADD_RECIPIENTS,
    Answer.ADD_RECIPIENT_WITH_PARAMETERS: Action.ADD_RECIPIENTS_WITH_PARAMETERS,
    Answer.DELETE_RECIPIENT: Action.DELETE_RECIPIENTS,
    Answer.REPLACE_BODY: Action.CHANGE_BODY,
    Answer.CHANGE_SENDER: Action.CHANGE_SENDER,
    Answer.ADD_HEADER: Action.ADD_HEADERS,
    Answer.INSERT_HEADER: Action.ADD_HEADERS,
    Answer.CHANGE_HEADER: Action.CHANGE_HEADERS,
    Answer.QUARANTINE: Action.QUARANTINE,
}


def kind_of(packet: Packet) -> Answer:
    """What a packet is. Raises `MilterProtocolError` for an unknown letter."""
    try:
        return Answer(packet.kind)
    except ValueError:
        raise MilterProtocolError(f"an answer of an unknown kind, {packet.kind!r}") from None


def is_change(answer: Answer) -> bool:
    """Whether it asks to change the mail."""
    return answer in _NEEDS


def read(answer: Answer, data: bytes) -> Event:
    """What a packet of this kind says, but for the negotiation's answer."""
    decision = _DECISIONS.get(answer)
    if decision is not None:
        return decision
    if answer is Answer.PROGRESS:
        return events.Progress.PROGRESS
    return _reply(data) if answer is Answer.REPLY_CODE else _CHANGES[answer](data)


def check_allowed(answer: Answer, actions: Action) -> None:
    """Raises `MilterProtocolError` for a change that was not negotiated."""
    if not actions & _NEEDS[answer]:
        raise MilterProtocolError(f"{answer.name.lower()} was not negotiated")


def read_negotiation(data: bytes, offered_actions: Action, offered_steps: Step) -> events.Negotiated:
    """The filter's half of the negotiation. Raises `MilterProtocolError` for what we did not offer."""
    version, actions, steps, rest = wire.negotiated(data)
    if not wire.OLDEST_VERSION <= version <= wire.VERSION:
        raise MilterProtocolError(
            f"it speaks version {version}, we speak versions {wire.OLDEST_VERSION} to {wire.VERSION}"
        )
    # As plain numbers: the complement of flags knows no bits but those that have names.
    if actions & ~int(offered_actions) or steps & ~int(offered_steps):
        raise MilterProtocolError(f"it asks for more than was offered: actions {actions:#x}, steps {steps:#x}")
    steps = Step(steps)
    if version < 4:  # the command came with version 4, unknown commands with version 3: mfdef.h
        steps |= Step.NO_DATA
    return events.Negotiated(version, Action(actions), steps, _macro_lists(rest))


def _macro_lists(data: bytes) -> dict[Stage, tuple[str, ...]]:
    """Behind the negotiation: a stage, then the names as one text."""
    found: dict[Stage, tuple[str, ...]] = {}
    while data:
        stage, data = wire.number(data)
        names, end, data = data.partition(b"\0")
        if not end or stage not in Stage.__members__.values():
            raise MilterProtocolError("its lists of macros cannot be read")
        words = re.split(r"[ ,\t]+", _text(names).strip(" ,\t"))
        if len(words) > MAX_MACROS:
            raise MilterProtocolError(f"it asks for more than {MAX_MACROS} macros at one stage")
        found[Stage(stage)] = tuple(_macro(word) for word in words if word)
    return found


def _macro(name: str) -> str:
    """A macro's name as it goes on the wire: in braces, but for those of one letter."""
    return name if len(name) == 1 or name.startswith("{") else f"{{{name}}}"


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _reply(data: bytes) -> events.ReplyCode:
    """`smfi_setreply` doubles each "%" on the way, since Sendmail formats the text."""
    (octets,) = wire.strings(data, least=1, most=1)
    lines = octets.decode("utf-8", "replace").replace("%%", "%").replace("\r\n", "\n").rstrip("\n").split("\n")
    found = [_REPLY_LINE.fullmatch(line) for line in lines]
    first = found[0]
    if first is None:
        raise MilterProtocolError(f"no reply of 4yz or 5yz: {lines[0][:80]!r}")
    code, enhanced = first[1], first[2] or ""
    texts = [line if match is None else match[3] or "" for line, match in zip(lines, found, strict=True)]
    return events.ReplyCode(
        int(code), enhanced if enhanced[:1] == code[:1] else "", " ".join(text for text in texts if text)
    )


def _field(data: bytes) -> tuple[str, bytes]:
    name, value = wire.strings(data, least=2, most=2)
    return _text(name), value


def _added(data: bytes) -> Modification:
    return events.HeaderAdded(*_field(data))


def _inserted(data: bytes) -> Modification:
    at, rest = wire.number(data)
    return events.HeaderInserted(at, *_field(rest))


def _changed(data: bytes) -> Modification:
    occurrence, rest = wire.number(data)
    name, value = _field(rest)
    # smfi_chgheader counts from 1; Sendmail takes 0 for the first as well.
    return events.HeaderChanged(max(1, occurrence), name, value or None)


def _body(data: bytes) -> Modification:
    return events.BodyReplaced(data)


def _sender(data: bytes) -> Modification:
    # The second text holds parameters of MAIL: what they could say is the client's, or decided already.
    return events.SenderChanged(_text(wire.strings(data, least=1, most=2)[0]))


def _recipient(data: bytes) -> Modification:
    return events.RecipientAdded(*map(_text, wire.strings(data, least=1, most=1)))


def _recipient_with_parameters(data: bytes) -> Modification:
    return events.RecipientAdded(*map(_text, wire.strings(data, least=1, most=2)))


def _removed(data: bytes) -> Modification:
    return events.RecipientRemoved(*map(_text, wire.strings(data, least=1, most=1)))


def _quarantined(data: bytes) -> Modification:
    return events.Quarantined(*map(_text, wire.strings(data, least=1, most=1)))


_CHANGES: Final[Mapping[Answer, Callable[[bytes], Modification]]] = {
    Answer.ADD_RECIPIENT: _recipient,
    Answer.ADD_RECIPIENT_WITH_PARAMETERS: _recipient_with_parameters,
    Answer.DELETE_RECIPIENT: _removed,
    Answer.REPLACE_BODY: _body,
    Answer.CHANGE_SENDER: _sender,
    Answer.ADD_HEADER: _added,
    Answer.INSERT_HEADER: _inserted,
    Answer.CHANGE_HEADER: _changed,
    Answer.QUARANTINE: _quarantined,
}
