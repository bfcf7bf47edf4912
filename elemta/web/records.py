"""Mails, attempts, reasons as the members of JSON objects.

What is not here: which of them a page answers with. Members may be added, none changes its meaning. Times are written
as in RFC 3339 §5.6, in UTC with milliseconds; durations are seconds, sizes octets.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from elemta.mail.outcome import Attempt
from elemta.plugins.costs import read_kept
from elemta.plugins.verdicts import COSTS_KEY
from elemta.storage.records import QueuedMail, QueueState
from elemta.web.why import Reason, reasons, summary

#: Attempts of one mail that are shown: a mail has one for each of a thousand recipients at each try.
SHOWN_ATTEMPTS = 2000

#: States in which nothing is tried.
_RESTING = frozenset({QueueState.HELD, QueueState.FAILED, QueueState.DELIVERED})


def moment(seconds: float | None) -> str | None:
    """A time as text; None for none, and for one that no calendar has."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


def mail_members(mail: QueuedMail, *, now: float, running: bool) -> dict[str, object]:
    """A mail in a list."""
    return {
        "id": mail.id,
        "origin_id": mail.origin_id,
        "state": mail.state.value,
        "priority": mail.priority.name.lower(),
        "sender": mail.envelope.sender,
        "recipients": [
            {
                "address": str(recipient.address),
                "status": progress.status.value,
                "reply": None if progress.reply is None else str(progress.reply),
            }
            for recipient, progress in zip(mail.envelope.recipients, mail.progress, strict=True)
        ],
        "destination": mail.destination,
        "size": mail.content.size,
        "received_at": moment(mail.received_at),
        "next_attempt_at": None if mail.state in _RESTING else moment(mail.next_attempt_at),
        "expires_at": moment(mail.expires_at),
        "attempt_count": mail.attempts,
        "in_flight": running and mail.attempting_since is not None,
        "reason": mail.reason,
        "summary": summary(mail, now=now, running=running),
    }


def mail_details(mail: QueuedMail, attempts: Sequence[Attempt], *, now: float, running: bool) -> dict[str, object]:
    """One mail with its history, as `history_members` gives it."""
    origin = mail.origin
    return {
        **mail_members(mail, now=now, running=running),
        "owner": mail.owner,
        "annotations": dict(mail.annotations),
        "plugins": plugin_members(mail.annotations),
        "origin": {
            "client": origin.client,
            "helo": origin.helo,
            "listener": origin.listener,
            "user": origin.user,
            "protocol": origin.protocol,
        },
        "why": [reason_members(each) for each in reasons(mail, attempts, now=now, running=running)],
        **history_members(attempts),
    }


def plugin_members(annotations: Mapping[str, str]) -> list[dict[str, object]]:
    """What each plugin cost the mail, in the order in which they were asked."""
    return [
        {
            "name": name,
            "ms": round(cost.seconds * 1000, 2),
            "verdict": cost.verdict,
            "changes": cost.changes,
            "score": cost.score,
        }
        for name, cost in read_kept(annotations.get(COSTS_KEY, "")).items()
    ]


def gone_details(queue_id: str, attempts: Sequence[Attempt]) -> dict[str, object]:
    """A mail that left the queue, of which its attempts are kept for a while."""
    return {"id": queue_id, "state": "gone", **history_members(attempts)}


def history_members(attempts: Sequence[Attempt]) -> dict[str, object]:
    """The latest attempts, oldest first."""
    shown = attempts[-SHOWN_ATTEMPTS:]
    return {"attempts": [attempt_members(each) for each in shown], "attempts_left_out": len(attempts) - len(shown)}


def attempt_members(attempt: Attempt) -> dict[str, object]:
    """One attempt for one recipient."""
    return {
        "time": moment(attempt.started_at),
        "recipient": attempt.recipient,
        "host": attempt.peer.host,
        "address": attempt.peer.address,
        "result": attempt.result.value,
        "code": attempt.reply.code,
        "enhanced": attempt.reply.enhanced,
        "reply": str(attempt.reply),
        "duration": round(attempt.duration, 3),
    }


def reason_members(reason: Reason) -> dict[str, object]:
    """Why one recipient waits."""
    return {
        "recipient": reason.recipient,
        "code": reason.code.value,
        "text": reason.text,
        "since": moment(reason.since),
        "until": moment(reason.until),
        "source": reason.source,
        "next_attempt": moment(reason.next_attempt),
        "expires": moment(reason.expires),
        "hint": reason.hint,
    }
