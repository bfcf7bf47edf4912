"""The mail server's side of one connection to a filter, without I/O.

Say what happened (`connect`, `helo`, `mail` …), send `data_to_send`; while `awaits` is true give what came to
`receive_data` and drain `next_event`, until the decision was there. A step that the filter does not want, or does not
answer, leaves `awaits` false: go on. Steps out of order, or while an answer is due, are our own driver's fault.

What is not here: timeouts, sockets (`milter.link`), what follows from a decision (`milter.verdicts`).
Sources: libmilter's documentation (`xxfi_…` for the steps, "Milter protocol" of `mfdef.h` for packets).
Failures raised: `MilterProtocolError` for whatever a filter does wrong, `LocalProtocolError` for what our driver does.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

from elemta.plugins.milter import reading, wire
from elemta.plugins.milter.defaults import DEFAULTS
from elemta.plugins.milter.events import (
    NEED_DATA,
    BodyReplaced,
    Decision,
    Event,
    Need,
    Negotiated,
    Progress,
    ReplyCode,
)
from elemta.plugins.milter.wire import (
    Action,
    Answer,
    Command,
    Family,
    MilterClosed,
    MilterProtocolError,
    PacketBuffer,
    Stage,
    Step,
)
from elemta.smtp.errors import LocalProtocolError

#: Changes that a filter may ask for at one mail: as many as a header may have fields (`mail.headers`).
MAX_MODIFICATIONS: Final = 2000
#: Octets of all these changes together but for the body: four times the largest header that we take.
MAX_MODIFICATION_OCTETS: Final = 1024 * 1024
#: How often a filter may say, instead of an answer, that it is at work: ten times a second for the ten minutes that a
#: client waits, RFC 5321 §4.5.3.2.6.
MAX_PROGRESS: Final = 6000

ALL_ACTIONS: Final = Action(sum(Action))
#: All but what we cannot do: a recipient that was refused does not reach plugins.
ALL_STEPS: Final = Step(sum(Step)) & ~Step.REFUSED_RECIPIENTS


class State(enum.Enum):
    """Where the connection stands."""

    NEW = "new"
    NEGOTIATED = "negotiated"
    SESSION = "session"
    MAIL = "mail"
    HEADER = "header"
    BODY = "body"
    CLOSED = "closed"


@frozen
class Bounds:
    """What a filter may send. Another body has its bound where it is held (`milter.body`)."""

    packet_octets: int = wire.MAX_PACKET_OCTETS
    modifications: int = MAX_MODIFICATIONS
    modification_octets: int = MAX_MODIFICATION_OCTETS
    progress: int = MAX_PROGRESS


@frozen
class Client:
    """Who has connected to us. `name` is its host name, or its address in brackets; `port` is 0 on a unix socket."""

    name: str
    family: Family
    host: str
    port: int = 0


@frozen
class _Rule:
    """When a command may come, what state follows once it is answered, what the filter may say of it."""

    states: frozenset[State]
    then: State
    #: The step by which a filter says that it wants none of them.
    unwanted: Step = Step(0)
    #: The step by which it says that it will not answer.
    silent: Step = Step(0)
    #: Macros go before it.
    stage: Stage | None = None
    answers: frozenset[Decision] = frozenset()


_STEP = frozenset({Decision.CONTINUE, Decision.ACCEPT, Decision.REJECT, Decision.TEMPFAIL, Decision.SHUTDOWN})
_MAIL_STEP = _STEP | {Decision.DISCARD}
#: Decisions after which a filter wants to hear no more of the mail.
_ENDS_MAIL = frozenset({Decision.ACCEPT, Decision.REJECT, Decision.TEMPFAIL, Decision.DISCARD, Decision.SHUTDOWN})
#: The same at a recipient, whose refusal is its own.
_ENDS_MAIL_AT_RCPT = frozenset({Decision.ACCEPT, Decision.DISCARD, Decision.SHUTDOWN})
_IN_MAIL = frozenset({State.MAIL, State.HEADER, State.BODY})

_NEW, _NEGOTIATED, _SESSION, _MAIL, _HEADER, _BODY = (
    frozenset({state}) for state in State if state is not State.CLOSED
)
_RULES: Final[Mapping[Command, _Rule]] = {
    Command.CONNECT: _Rule(
        _NEGOTIATED, State.SESSION, Step.NO_CONNECT, Step.SILENT_CONNECT, Stage.CONNECT, answers=_STEP
    ),
    Command.HELO: _Rule(_SESSION, State.SESSION, Step.NO_HELO, Step.SILENT_HELO, Stage.HELO, answers=_STEP),
    Command.MAIL: _Rule(_SESSION, State.MAIL, Step.NO_MAIL, Step.SILENT_MAIL, Stage.MAIL, answers=_MAIL_STEP),
    Command.RCPT: _Rule(_MAIL, State.MAIL, Step.NO_RCPT, Step.SILENT_RCPT, Stage.RCPT, answers=_MAIL_STEP),
    Command.DATA: _Rule(_MAIL, State.HEADER, Step.NO_DATA, Step.SILENT_DATA, Stage.DATA, answers=_MAIL_STEP),
    Command.HEADER: _Rule(_HEADER, State.HEADER, Step.NO_HEADERS, Step.SILENT_HEADER, answers=_MAIL_STEP),
    Command.END_OF_HEADER: _Rule(
        _HEADER, State.BODY, Step.NO_END_OF_HEADER, Step.SILENT_END_OF_HEADER, Stage.END_OF_HEADER, _MAIL_STEP
    ),
    Command.BODY: _Rule(_BODY, State.BODY, Step.NO_BODY, Step.SILENT_BODY, answers=_MAIL_STEP | {Decision.SKIP}),
    Command.END_OF_BODY: _Rule(_BODY, State.SESSION, stage=Stage.END_OF_BODY, answers=_MAIL_STEP),
}


@frozen
class _Taken:
    """How much of its bounds one mail's changes have used."""

    modifications: int = 0
    octets: int = 0


class MilterConnection:
    """One connection. See the module for the order of calls."""

    __slots__ = (
        "_actions_offered", "_asked", "_bounds", "_buffer", "_eof", "_negotiated", "_out", "_progress", "_skip_body",
        "_state", "_steps_offered", "_taken",
    )  # fmt: skip

    def __init__(self, *, actions: Action = ALL_ACTIONS, steps: Step = ALL_STEPS, bounds: Bounds | None = None) -> None:
        """`actions` and `steps` are what we offer."""
        self._actions_offered = actions
        self._steps_offered = steps
        self._bounds = bounds or Bounds()
        self._buffer = PacketBuffer(self._bounds.packet_octets)
        self._eof = False
        self._out: list[bytes] = []
        self._state = State.NEW
        #: What waits for its answer.
        self._asked: Command | None = None
        self._negotiated = Negotiated(0, Action(0), Step(0))
        self._skip_body = False
        self._taken = _Taken()
        #: How often it said that it is at work, since it was asked.
        self._progress = 0

    # ---- facts -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state

    @property
    def awaits(self) -> bool:
        """Whether an answer is due."""
        return self._asked is not None

    @property
    def in_mail(self) -> bool:
        """True from MAIL until the filter has decided on the mail."""
        return self._state in _IN_MAIL

    @property
    def negotiated(self) -> Negotiated:
        """What the filter asked for."""
        return self._negotiated

    @property
    def leading_space(self) -> bool:
        """Whether values of fields go both ways with the space behind the colon."""
        return Step.LEADING_SPACE in self._negotiated.steps

    @property
    def wants_headers(self) -> bool:
        """Whether it is worth walking through the header."""
        return Step.NO_HEADERS not in self._negotiated.steps

    @property
    def wants_body(self) -> bool:
        """Whether (more of) the body is worth reading."""
        return not self._skip_body and Step.NO_BODY not in self._negotiated.steps

    # ---- what has happened -----------------------------------------------------------------------

    def negotiate(self) -> None:
        """Say what we offer: the first thing on a connection."""
        self._check(_NEW, Command.NEGOTIATE)
        data = wire.offer(self._actions_offered, self._steps_offered)
        self._out.append(wire.packet(Command.NEGOTIATE.value, data))
        self._asked = Command.NEGOTIATE

    def connect(self, client: Client, macros: Mapping[str, str]) -> None:
        """A client has connected. `macros`, here and below, hold all that is known; what is sent is chosen here."""
        data = wire.string(client.name) + client.family.value
        if client.family is not Family.UNKNOWN:
            data += wire.port(client.port) + wire.string(client.host)
        self._tell(Command.CONNECT, data, macros)

    def helo(self, name: str, macros: Mapping[str, str]) -> None:
        """HELO or EHLO, each time. A mail that was begun is to be aborted before."""
        self._tell(Command.HELO, wire.string(name), macros)

    def mail(self, path: str, parameters: Sequence[str], macros: Mapping[str, str]) -> None:
        """MAIL: `path` with its angle brackets, parameters as `SIZE=100`."""
        self._skip_body = False
        self._taken = _Taken()
        self._tell(Command.MAIL, b"".join(map(wire.string, (path, *parameters))), macros)

    def rcpt(self, path: str, parameters: Sequence[str], macros: Mapping[str, str]) -> None:
        """RCPT, for a recipient that is taken unless the filter refuses it."""
        self._tell(Command.RCPT, b"".join(map(wire.string, (path, *parameters))), macros)

    def data(self, macros: Mapping[str, str]) -> None:
        """DATA."""
        self._tell(Command.DATA, b"", macros)

    def header(self, name: str, value: bytes) -> None:
        """One field of the header; `value` as it stands in the mail, behind the colon, without its last CRLF."""
        if not self.leading_space:
            value = value.removeprefix(b" ")
        # Lines end with LF on this way: libmilter's documentation of xxfi_header.
        self._tell(Command.HEADER, wire.string(name) + wire.string(value.replace(b"\r\n", b"\n")), {})

    def end_of_header(self, macros: Mapping[str, str]) -> None:
        """The empty line."""
        self._tell(Command.END_OF_HEADER, b"", macros)

    def body(self, octets: bytes) -> None:
        """The next octets of the body, at most `MAX_DATA_OCTETS`."""
        if not 0 < len(octets) <= wire.MAX_DATA_OCTETS:
            raise LocalProtocolError(f"a piece of {len(octets)} octets of a body")
        if self._skip_body:
            raise LocalProtocolError("the filter wants no more of this body")
        self._tell(Command.BODY, octets, {})

    def end_of_body(self, macros: Mapping[str, str]) -> None:
        """The whole mail was told: now the filter may change it."""
        self._tell(Command.END_OF_BODY, b"", macros)

    def abort(self) -> None:
        """The mail that the filter has not decided on comes to nothing."""
        self._check(_IN_MAIL, Command.ABORT)
        self._out.append(wire.packet(Command.ABORT.value))
        self._state = State.SESSION

    def quit(self) -> None:
        """The session is over, and the connection with it."""
        if self.in_mail and not self.awaits:
            self.abort()
        self._check(_NEGOTIATED | _SESSION, Command.QUIT)
        self._out.append(wire.packet(Command.QUIT.value))
        self._state = State.CLOSED

    def data_to_send(self) -> bytes:
        """All that is to be sent now; empty when there is nothing."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _check(self, states: frozenset[State], command: Command) -> None:
        if self._asked is not None:
            raise LocalProtocolError(f"{self._asked.name} waits for its answer, {command.name} must wait for it")
        if self._state not in states:
            raise LocalProtocolError(f"{command.name} in state {self._state.value}")

    def _tell(self, command: Command, data: bytes, macros: Mapping[str, str]) -> None:
        rule = _RULES[command]
        self._check(rule.states, command)
        steps = self._negotiated.steps
        # Macros go out even where the step does not: filters look up those of earlier stages, and Sendmail does so.
        if rule.stage is not None:
            self._tell_macros(command, rule.stage, macros)
        if steps & rule.unwanted:
            self._state = rule.then
            return
        self._out.append(wire.packet(command.value, data))
        if steps & rule.silent:
            self._state = rule.then
        else:
            self._asked = command

    def _tell_macros(self, command: Command, stage: Stage, macros: Mapping[str, str]) -> None:
        names = self._negotiated.macros.get(stage, DEFAULTS[stage])
        known = [(name, macros[name]) for name in names if macros.get(name)]
        if known:
            pairs = b"".join(wire.string(name) + wire.string(value) for name, value in known)
            self._out.append(wire.packet(Command.MACRO.value, command.value + pairs))

    # ---- what the filter says --------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take what came from the filter; `b""` is the end."""
        if data:
            self._buffer.push(data)
        else:
            self._eof = True

    def next_event(self) -> Event | Need:
        """What the filter said next, or `NEED_DATA`. Raises `MilterProtocolError`, then the connection is closed;
        `LocalProtocolError` when nothing was asked."""
        if self._asked is None:
            raise LocalProtocolError("no answer is due")
        try:
            return self._next(self._asked)
        except MilterProtocolError:
            self._state, self._asked = State.CLOSED, None
            raise

    def _next(self, asked: Command) -> Event | Need:
        packet = self._buffer.take()
        if packet is None:
            if self._eof:
                raise MilterClosed(f"it closed the connection instead of answering {asked.name}")
            return NEED_DATA
        answer = reading.kind_of(packet)
        if asked is Command.NEGOTIATE:
            return self._negotiation(answer, packet.data)
        if answer is Answer.NEGOTIATED:
            raise MilterProtocolError("it negotiates once more")
        if reading.is_change(answer):
            return self._change(asked, answer, packet.data)
        event = reading.read(answer, packet.data)
        if isinstance(event, Decision | ReplyCode):
            self._decided(asked, event)
        elif isinstance(event, Progress):
            self._progress += 1
            if self._progress > self._bounds.progress:
                raise MilterProtocolError(f"it says more than {self._bounds.progress} times that it is at work")
        else:
            raise AssertionError(f"{event} is neither a change nor a decision")
        return event

    def _negotiation(self, answer: Answer, data: bytes) -> Negotiated:
        if answer is not Answer.NEGOTIATED:
            raise MilterProtocolError(f"it answers the negotiation with {answer.name.lower()}")
        self._negotiated = reading.read_negotiation(data, self._actions_offered, self._steps_offered)
        self._finish(State.NEGOTIATED)
        return self._negotiated

    def _change(self, asked: Command, answer: Answer, data: bytes) -> Event:
        if asked is not Command.END_OF_BODY:
            raise MilterProtocolError(f"{answer.name.lower()} in answer to {asked.name}, not at the end of the body")
        reading.check_allowed(answer, self._negotiated.actions)
        event = reading.read(answer, data)
        self._count(event, len(data))
        return event

    def _count(self, event: Event, octets: int) -> None:
        if isinstance(event, BodyReplaced) and octets:
            return
        taken, bounds = self._taken, self._bounds
        self._taken = taken = _Taken(taken.modifications + 1, taken.octets + octets)
        if taken.modifications > bounds.modifications:
            raise MilterProtocolError(f"more than {bounds.modifications} changes to one mail")
        if taken.octets > bounds.modification_octets:
            raise MilterProtocolError(f"changes of more than {bounds.modification_octets} octets to one mail")

    def _decided(self, asked: Command, event: Decision | ReplyCode) -> None:
        decision = Decision.REJECT if isinstance(event, ReplyCode) else event
        rule = _RULES[asked]
        if decision not in rule.answers:
            raise MilterProtocolError(f"{decision.value} in answer to {asked.name}")
        if decision is Decision.SKIP:
            if Step.SKIP not in self._negotiated.steps:
                raise MilterProtocolError("skip was not negotiated")
            self._skip_body = True
        ends = _ENDS_MAIL_AT_RCPT if asked is Command.RCPT else _ENDS_MAIL
        self._finish(State.SESSION if decision in ends else rule.then)

    def _finish(self, then: State) -> None:
        """An answer is complete: nothing may follow it unasked, or every later one would be taken for another's."""
        if self._buffer:
            raise MilterProtocolError("it says more than it was asked for")
        self._state, self._asked, self._progress = then, None, 0
