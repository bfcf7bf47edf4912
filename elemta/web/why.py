"""Why a recipient waits: one reason with the command that changes it.

What is not here: how it is shown. Everything is judged from what the store knows and the time that is given.
Times are UTC in seconds since 1970.
"""

import enum
from collections.abc import Sequence

from attrs import frozen

from elemta.mail.outcome import Attempt
from elemta.mail.reply import Reply
from elemta.plugins.costs import read_kept
from elemta.plugins.verdicts import COSTS_KEY
from elemta.queue.plugged import HELD_KEY
from elemta.storage.records import Progress, QueuedMail, QueueState, RecipientStatus


class Code(enum.Enum):
    """Kinds of reasons; programs tell them apart by these, and new ones may come."""

    IN_PROGRESS = "in_progress"
    DUE = "due"
    BACKOFF = "backoff"
    HELD = "held"
    FAILED = "failed"


@frozen
class Reason:
    """Why one recipient has not got its mail.

    `since` and `until` bound the wait where they are known, `source` is what it comes from (the reply of a remote host,
    an operator, a plugin), `hint` the command that changes it. `next_attempt` is None where nothing is tried.
    """

    recipient: str
    code: Code
    text: str
    since: float | None = None
    until: float | None = None
    source: str = ""
    next_attempt: float | None = None
    expires: float | None = None
    hint: str = ""


def reasons(mail: QueuedMail, attempts: Sequence[Attempt], *, now: float, running: bool) -> list[Reason]:
    """One reason for each recipient that waits, or that was given up and is kept; `running`: a server delivers now."""
    last = {attempt.recipient: attempt for attempt in attempts}
    asked = RecipientStatus.FAILED if mail.state is QueueState.FAILED else RecipientStatus.PENDING
    found = []
    for recipient, progress in zip(mail.envelope.recipients, mail.progress, strict=True):
        if progress.status is asked:
            address = str(recipient.address)
            wait = _Wait(mail, address, progress, last.get(address))
            found.append(wait.reason(now, running))
    return found


def summary(mail: QueuedMail, *, now: float, running: bool) -> str:
    """Why a mail waits, in one line, from its first waiting recipient; empty for one that waits for nothing."""
    found = reasons(mail, (), now=now, running=running)
    if not found:
        return ""
    first = found[0]
    rest = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{first.text}{rest}"


@frozen
class _Wait:
    mail: QueuedMail
    address: str
    progress: Progress
    last: Attempt | None

    def reason(self, now: float, running: bool) -> Reason:
        mail = self.mail
        if mail.state is QueueState.FAILED:
            return self._failed()
        if mail.state is QueueState.HELD:
            return self._held()
        if mail.attempting_since is not None or (mail.owner and mail.state is QueueState.ACTIVE):
            return self._in_progress() if running else self._interrupted()
        if mail.next_attempt_at <= now:
            text = "due: waits for a free delivery" if running else "due: tried when the server runs"
            return self._waiting(Code.DUE, text, since=mail.next_attempt_at)
        return self._backoff()

    def _reply(self) -> str:
        reply: Reply | None = self.last.reply if self.last is not None else self.progress.reply
        return "" if reply is None else str(reply)

    def _over_since(self) -> float | None:
        return None if self.last is None else self.last.started_at + self.last.duration

    def _waiting(self, code: Code, text: str, *, since: float | None, hint: str = "") -> Reason:
        mail = self.mail
        return Reason(
            recipient=self.address,
            code=code,
            text=text,
            since=since,
            until=mail.next_attempt_at if code is Code.BACKOFF else None,
            source=self._reply(),
            next_attempt=mail.next_attempt_at,
            expires=mail.expires_at,
            hint=hint,
        )

    def _backoff(self) -> Reason:
        reply = self._reply()
        tried = self.mail.attempts
        often = "once" if tried == 1 else f"{tried} times"
        text = f"tried {often}, waits for its next attempt" if tried else "not tried yet"
        text = f"{text}: {reply}" if reply else text
        since = self._over_since() or (None if tried else self.mail.received_at)
        return self._waiting(Code.BACKOFF, text, since=since, hint=f"elemta queue retry {self.mail.id}")

    def _in_progress(self) -> Reason:
        since = self.mail.attempting_since
        text = "being delivered" if since is None else "being delivered: the whole mail is on its way"
        return self._waiting(Code.IN_PROGRESS, text, since=since)

    def _interrupted(self) -> Reason:
        text = "due: its server stopped while it was being delivered; tried again when the server runs"
        return self._waiting(Code.DUE, text, since=self.mail.attempting_since)

    def _held(self) -> Reason:
        mail = self.mail
        return Reason(
            recipient=self.address,
            code=Code.HELD,
            text=f"held: {mail.reason}" if mail.reason else "held by an operator",
            source=self._holder(),
            hint=f"elemta queue release {mail.id}",
        )

    def _holder(self) -> str:
        """Who holds the mail: a plugin when it came, or before its delivery, or else an operator."""
        annotations = self.mail.annotations
        costs = read_kept(annotations.get(COSTS_KEY, ""))
        holders = [name for name, cost in costs.items() if cost.verdict == "quarantine"]
        if holders and not self.mail.attempts:
            return f"plugin {holders[0]}"
        return "a plugin" if annotations.get(HELD_KEY) == self.mail.reason else "operator"

    def _failed(self) -> Reason:
        reply = self._reply()
        return Reason(
            recipient=self.address,
            code=Code.FAILED,
            text=f"given up: {reply}" if reply else "given up",
            since=self._over_since(),
            source=reply,
            hint=f"elemta queue retry {self.mail.id}",
        )
