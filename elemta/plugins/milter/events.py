"""What a filter says, as frozen values.

What is not here: how it is read (`milter.reading`), or what follows from it (`milter.verdicts`, `milter.changes`).
"""

import enum
from collections.abc import Mapping

from attrs import field, frozen

from elemta.plugins.milter.wire import Action, Stage, Step


class Need(enum.Enum):
    """The machine has nothing to tell before more octets come."""

    DATA = "data"


NEED_DATA = Need.DATA


@frozen
class Negotiated:
    """The filter's half of the negotiation. `macros` are the lists of those stages that it wants others for."""

    version: int
    actions: Action
    steps: Step
    macros: Mapping[Stage, tuple[str, ...]] = field(factory=dict)


class Progress(enum.Enum):
    """The filter is still at work."""

    PROGRESS = "progress"


class Decision(enum.Enum):
    """What becomes of a step, a recipient, a mail or a session; the step it answers says which."""

    CONTINUE = "continue"
    ACCEPT = "accept"
    REJECT = "reject"
    TEMPFAIL = "tempfail"
    DISCARD = "discard"
    #: No more pieces of this body.
    SKIP = "skip"
    #: The session is to be ended with 421.
    SHUTDOWN = "shutdown"


@frozen
class ReplyCode:
    """Refuse with this reply: a code of 4yz or 5yz, the enhanced code (empty where there is none), the text."""

    code: int
    enhanced: str
    text: str


Final = Decision | ReplyCode

# ---- changes, all of them answers to the end of the body -----------------------------------------


@frozen
class HeaderAdded:
    """A field behind all."""

    name: str
    value: bytes


@frozen
class HeaderInserted:
    """A field before the one of number `at`."""

    at: int
    name: str
    value: bytes


@frozen
class HeaderChanged:
    """Another value for the field `name` of number `occurrence` (from 1) among those of its name; None removes it."""

    occurrence: int
    name: str
    value: bytes | None


@frozen
class BodyReplaced:
    """The next piece of another body."""

    octets: bytes = field(repr=False)


@frozen
class SenderChanged:
    """Another reverse-path."""

    path: str


@frozen
class RecipientAdded:
    """One recipient more, with the parameters of its RCPT."""

    path: str
    parameters: str = ""


@frozen
class RecipientRemoved:
    """One recipient less."""

    path: str


@frozen
class Quarantined:
    """Hold the mail."""

    reason: str


Modification = (
    HeaderAdded
    | HeaderInserted
    | HeaderChanged
    | BodyReplaced
    | SenderChanged
    | RecipientAdded
    | RecipientRemoved
    | Quarantined
)
Event = Negotiated | Progress | Final | Modification
