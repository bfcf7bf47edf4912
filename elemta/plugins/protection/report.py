"""What the plugins of protection have in common: whom they let through, how they refuse or in a dry run only say so.

What is not here: any reason to refuse.
"""

import enum
from collections.abc import Sequence
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
from elemta.plugins.protection.clients import UNLISTED, Address, Networks, address_of, is_trusted

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

    @property
    def whitelist_ips(self) -> Sequence[str]:
        """Addresses and networks of clients that it lets through."""
        ...


@frozen
class Finding:
    """A check that failed: what is done about it, and the text for the client."""

    action: Action
    text: str
    score: float = 0.0


@define
class _Reports:
    """What a dry run has said about one session; `standing` before there was a mail, and holds for all of them."""

    texts: list[str] = field(factory=list)
    standing: str = ""


class Protection(Plugin):
    """A plugin that may refuse."""

    #: What annotations call it.
    label: ClassVar[str] = "protection"

    def __init__(self, host: Host, settings: Any = None) -> None:
        if settings is None and self.settings_class is not None:
            settings = self.settings_class()
        super().__init__(host, settings)
        common: Settings = self.settings
        self.is_dry_run = common.dry_run
        self.free = Networks(common.whitelist_ips)

    def spares(self, session: Session) -> bool:
        """Whether its client is let through, whatever it does."""
        return is_trusted(session) or session.client.is_unix or session.client.host in self.free

    def public_address(self, session: Session) -> Address | None:
        """The client's address, to ask the public DNS about; None where that knows nothing, or need not be asked."""
        address = address_of(session.client.host)
        return None if address is None or UNLISTED.has(address) or self.spares(session) else address

    def hold(self, finding: Finding | None, mail: Mail) -> Verdict:
        """What a check makes of a mail; a finding of None holds nothing against it."""
        if finding is None or finding.action is Action.OFF:
            return CONTINUE
        match finding.action:
            case Action.REJECT:
                return self.refuse(Reject(finding.text, 550, "5.7.1"), mail.session, mail=mail)
            case Action.DEFER:
                return self.refuse(Defer(finding.text, 450, "4.7.1"), mail.session, mail=mail)
            case Action.SCORE if self.is_dry_run:
                return self.report(f"would add {finding.score:g} to the score", mail.session, mail=mail)
            case Action.SCORE:
                return self.annotated(finding.text, score=finding.score)

    def refuse(self, verdict: Reject | Defer, session: Session, *, mail: Mail | None = None) -> Verdict:
        """The verdict; in a dry run nothing but a report of it."""
        if self.is_dry_run:
            return self.report(f"would answer {verdict.reply}", session, mail=mail)
        return verdict

    def report(self, text: str, session: Session, *, mail: Mail | None = None) -> Continue:
        """Go on, but tell what a dry run would have done: the log, each thing once a session, and the mail.

        What was told before there was a mail is kept by `reported`.
        """
        reports: _Reports = session.notes.setdefault((self, _Reports), _Reports())
        if text not in reports.texts and len(reports.texts) < MAX_REPORTS:
            reports.texts.append(text)
            self.host.log.info("plugin.would_refuse", session=session.id, client=session.client.host, report=text)
        if mail is not None:
            return self.annotated(text)
        reports.standing = text
        return CONTINUE

    def reported(self, session: Session) -> Verdict:
        """For a mail: CONTINUE, with what a dry run said about its session before there was a mail."""
        reports: _Reports | None = session.notes.get((self, _Reports))
        return self.annotated(reports.standing) if reports and reports.standing else CONTINUE

    def annotated(self, text: str, *, score: float = 0.0) -> Continue:
        """Go on, with a word about the mail."""
        changes: Any = (Annotate(self.label, text),)
        return Continue(changes, score)
