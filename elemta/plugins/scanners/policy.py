"""What follows from a spam filter's opinion: how far a mail may come, which fields tell of it.

What is not here: getting the opinion (`scanners.spamassassin`, `scanners.rspamd`). Pure: values in, verdicts out.
The fields are those that SpamAssassin adds: mail programs and Sieve scripts everywhere look for them, and rspamd can
write them as well. Nothing is raised.
"""

import enum
import re
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from elemta.plugins.api import (
    AddHeader,
    Annotate,
    Change,
    Continue,
    Headers,
    Quarantine,
    Reject,
    RemoveHeader,
    Verdict,
)

#: Fields that only this server's filters may write: what a mail brings of them is taken away.
OWN_FIELDS: Final = (
    "X-Spam",
    "X-Spam-Action",
    "X-Spam-Bar",
    "X-Spam-Checker-Version",
    "X-Spam-Flag",
    "X-Spam-Level",
    "X-Spam-Report",
    "X-Spam-Score",
    "X-Spam-Status",
    "X-Spamd-Bar",
    "X-Spamd-Result",
)
#: Stars of X-Spam-Level; SpamAssassin stops there as well.
MAX_STARS: Final = 50
#: Rules that are named in a field or an annotation; a mail meets a few dozen.
MAX_SYMBOLS: Final = 100
#: Characters of a line of X-Spam-Status, RFC 5322 §2.1.1.
_LINE_CHARACTERS: Final = 78
#: What the name of a rule may hold: SpamAssassin's are words, rspamd's have a few signs more.
_SYMBOL = re.compile(r"[A-Za-z0-9_.:()\[\]-]{1,64}\Z")

REFUSED: Final = "refused as spam"


class Step(enum.Enum):
    """What becomes of a mail, the mildest first."""

    PASS = "pass"
    TAG = "tag"
    QUARANTINE = "quarantine"
    REJECT = "reject"


@frozen
class Thresholds:
    """From which score on what happens; None for never, or for whatever the filter itself says."""

    tag: float | None = None
    quarantine: float | None = None
    reject: float | None = None
    #: Whether all that is spam is refused.
    reject_spam: bool = False

    @property
    def is_set(self) -> bool:
        """Whether any score is named."""
        return (self.tag, self.quarantine, self.reject) != (None, None, None)

    def is_spam(self, score: float, *, said: bool) -> bool:
        """Whether a mail is spam; `said` is the filter's own opinion."""
        return said if self.tag is None else score >= self.tag

    def step(self, score: float, *, said: bool) -> Step:
        """The hardest that the score has reached."""
        is_spam = self.is_spam(score, said=said)
        if _reached(self.reject, score) or (is_spam and self.reject_spam):
            return Step.REJECT
        if _reached(self.quarantine, score):
            return Step.QUARANTINE
        return Step.TAG if is_spam else Step.PASS


def _reached(threshold: float | None, score: float) -> bool:
    return threshold is not None and score >= threshold


@frozen
class Finding:
    """What a filter found in one mail. `required` is the score from which it is spam, None where nobody says."""

    scanner: str
    is_spam: bool
    score: float
    required: float | None
    symbols: tuple[str, ...] = ()


def verdict(finding: Finding, step: Step, *, changes: Sequence[Change] = ()) -> Verdict:
    """The verdict for a mail, with further `changes` to one that is taken."""
    score = finding.score
    if step is Step.REJECT:
        return Reject(REFUSED, 554, "5.7.1", score)
    every = (*tags(finding), *changes)
    if step is Step.QUARANTINE:
        return Quarantine(f"{finding.scanner}: score {points(score)}", every, score)
    return Continue(every, score)


def removals(headers: Headers) -> tuple[RemoveHeader, ...]:
    """What takes the fields away that a mail brought from outside."""
    return tuple(RemoveHeader(name) for name in OWN_FIELDS if headers.raw(name))


def tags(finding: Finding) -> tuple[Change, ...]:
    """What tells the recipient's programs, and the operator. Each field goes above the one before it."""
    stars = "*" * max(0, min(MAX_STARS, int(finding.score)))
    fields = [AddHeader("X-Spam-Status", _status(finding))]
    if stars:
        fields.append(AddHeader("X-Spam-Level", stars))
    fields.append(AddHeader("X-Spam-Score", points(finding.score)))
    if finding.is_spam:
        fields.append(AddHeader("X-Spam-Flag", "YES"))
    return (*fields, Annotate(finding.scanner, _in_words(finding)))


def points(score: float) -> str:
    """A score with one decimal, and never `-0.0`."""
    return f"{round(score, 1) + 0.0:.1f}"


def _in_words(finding: Finding) -> str:
    opinion = "spam" if finding.is_spam else "no spam"
    of = "" if finding.required is None else f" of {points(finding.required)}"
    return f"{opinion}, score {points(finding.score)}{of}: {' '.join(_named(finding)) or 'no rule met'}"


def _status(finding: Finding) -> str:
    """`Yes, score=7.1 required=5.0 tests=A,B`, folded behind commas."""
    required = "" if finding.required is None else f" required={points(finding.required)}"
    line = f"{'Yes' if finding.is_spam else 'No'}, score={points(finding.score)}{required} tests="
    room = _LINE_CHARACTERS - len("X-Spam-Status: ")
    lines = []
    for name in _named(finding) or ["none"]:
        if len(line) + len(name) > room:
            lines.append(line)
            line, room = "\t", _LINE_CHARACTERS
        line += f"{name},"
    return "\r\n".join([*lines, line]).rstrip(",")


def _named(finding: Finding) -> list[str]:
    """The rules' names as far as they can stand in a field."""
    return [name for name in finding.symbols if _SYMBOL.match(name)][:MAX_SYMBOLS]
