"""What the plugins of protection have in common: they refuse, or in a dry run only say so.

What is not here: any reason to refuse.
"""

import enum
from math import ceil
from typing import Any, ClassVar, Protocol

from attrs import define, field, frozen

from elemta.plugins.api import (
    CONTINUE,
    Annotate,
    Continue,
    Defer,
    Host,
    Mail,
    Plugin,
    Reject,
    Session,
    Verdict,
)

#: Different refusals of one session that a dry run reports: one attack is not to fill the log.
MAX_REPORTS = 10


class Action(enum.Enum):
    """What becomes of a mail whose client fails a check."""

    #: Nothing: the check is not made.
    OFF = "off"
    #: Its score grows.
    SCORE = "score"
    #: 450, come again.
    DEFER = "defer"
    #: 550.
    REJECT = "reject"


def in_seconds(seconds: float) -> str:
    """How long to wait, in words, rounded up: who comes a moment early would be refused again."""
    whole = ceil(seconds)
    return "1 second" if whole == 1 else f"{whole} seconds"


def in_ascii(text: str) -> str:
    """A text from elsewhere for a reply: not every client reads more, RFC 6531 §3.7.4."""
    return text.encode("ascii", "replace").decode("ascii")


class Settings(Protocol):
    """What the settings of every plugin of protection have."""

    @property
    def dry_run(self) -> bool:
        """Whether it only reports."""
        ...


@frozen
class Finding:
    """A check that failed: what is done about it, and the text for the client."""

    action: Action
    text: str
    score: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """The verdict at MAIL or RCPT."""
        match self.action:
            case Action.REJECT:
                return Reject(self.text, 550, "5.7.1")
            case Action.DEFER:
                return Defer(self.text, 450, "4.7.1")
            case Action.SCORE:
                return Continue(score=self.score)
            case Action.OFF:
                return CONTINUE


@define
class _Reports:
    """What a dry run has said about one session."""

    texts: list[str] = field(factory=list)


class Protection(Plugin):
    """A plugin that may refuse."""

    #: What annotations call it.
    label: ClassVar[str] = "protection"

    def __init__(self, host: Host, settings: Any = None) -> None:
        if settings is None and self.settings_class is not None:
            settings = self.settings_class()
        super().__init__(host, settings)

    @property
    def is_dry_run(self) -> bool:
        """Whether it only reports."""
        settings: Settings = self.settings
        return settings.dry_run

    def refuse(self, verdict: Verdict, session: Session, *, mail: Mail | None = None) -> Verdict:
        """The verdict; in a dry run nothing but a report of it, which a `mail` keeps as well.

        What was reported before there was a mail is kept by `reported`.
        """
        if not self.is_dry_run or verdict == CONTINUE:
            return verdict
        text = _would(verdict)
        self.note(text, session)
        return CONTINUE if mail is None else self.annotated(text)

    def note(self, text: str, session: Session) -> None:
        """Report what a dry run would have done, each thing once a session."""
        reports = session.notes.setdefault((self, _Reports), _Reports()).texts
        if text not in reports and len(reports) < MAX_REPORTS:
            reports.append(text)
            self.host.log.info("plugin.would_refuse", session=session.id, client=session.client.host, report=text)

    def reported(self, session: Session) -> Verdict:
        """For a mail: CONTINUE, with what a dry run last said about its session."""
        reports = session.notes.get((self, _Reports))
        return self.annotated(reports.texts[-1]) if reports and reports.texts else CONTINUE

    def annotated(self, text: str, *, score: float = 0.0) -> Continue:
        """Go on, with a word about the mail."""
        changes: Any = (Annotate(self.label, text),)
        return Continue(changes, score)


def _would(verdict: Verdict) -> str:
    match verdict:
        case Reject() | Defer():
            return f"would answer {verdict.reply}"
        case Continue(_, score):
            return f"would add {score:g} to the score"
        case _:
            return f"would {type(verdict).__name__.lower()}: {verdict.reason}"
