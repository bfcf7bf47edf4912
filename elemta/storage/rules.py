"""What the verbs of every store mean for one mail.

What is not here: how a store finds its mails. A store that queries rows says `matches` and `takes` in its own language.
"""

import attrs

from elemta.mail.outcome import Attempt, AttemptResult
from elemta.mail.reply import Reply
from elemta.storage.base import Filter, Order, Verb
from elemta.storage.codec import address_text
from elemta.storage.records import Progress, QueuedMail, QueueState, RecipientStatus

CLAIMABLE = frozenset({QueueState.ACTIVE, QueueState.DEFERRED})

#: What is recorded for an attempt that was in flight when its server stopped. RFC 3463 §3.5: 4.4.2, bad connection.
INTERRUPTED = Reply(451, "4.4.2", "the server stopped during this attempt")

#: The states that a verb takes; DELETE takes any.
STATES_OF_VERB = {
    Verb.RETRY: frozenset({QueueState.ACTIVE, QueueState.DEFERRED, QueueState.FAILED}),
    Verb.HOLD: frozenset({QueueState.ACTIVE, QueueState.DEFERRED}),
    Verb.RELEASE: frozenset({QueueState.HELD}),
    Verb.DELETE: frozenset(QueueState),
}


def address_key(text: str) -> str:
    """A filter's address as addresses are compared: the domain folds its case, the local part does not."""
    local, at, domain = text.rpartition("@")
    return f"{local}@{domain.lower()}" if at else text


def _is_meant(key: str, text: str) -> bool:
    return text.endswith(key) if key.startswith("@") else text == key


def matches(chosen: Filter, mail: QueuedMail) -> bool:
    """True when all given terms hold."""
    envelope = mail.envelope
    if chosen.ids is not None and mail.id not in chosen.ids:
        return False
    if chosen.states is not None and mail.state not in chosen.states:
        return False
    if chosen.destination is not None and mail.destination != chosen.destination:
        return False
    if chosen.received_before is not None and mail.received_at > chosen.received_before:
        return False
    if chosen.sender is not None:
        sender = "" if envelope.reverse_path is None else address_text(envelope.reverse_path)
        if not _is_meant(address_key(chosen.sender), sender):
            return False
    if chosen.recipient is not None:
        key = address_key(chosen.recipient)
        return any(_is_meant(key, address_text(each.address)) for each in envelope.recipients)
    return True


def takes(order: Order, mail: QueuedMail) -> bool:
    """True when an order has something to do for a mail, were it not in flight.

    RETRY has nothing to do for a mail that is due already, so that an order repeated with the same `now`
    comes to an end.
    """
    if mail.state not in STATES_OF_VERB[order.verb] or not matches(order.filter, mail):
        return False
    if order.verb is Verb.RETRY and mail.state is not QueueState.FAILED:
        return mail.next_attempt_at > order.now or mail.attempting_since is not None
    return True


def is_older(moment: float, before: float | None) -> bool:
    """True when a moment lies before a bound; no bound keeps for ever."""
    return before is not None and moment < before


def uncertain_attempts(mail: QueuedMail, since: float) -> list[Attempt]:
    """The records of an attempt that nobody saw the end of: one for each recipient that was being tried."""
    return [
        Attempt(since, 0.0, str(recipient.address), AttemptResult.UNCERTAIN, INTERRUPTED)
        for recipient, progress in zip(mail.envelope.recipients, mail.progress, strict=True)
        if progress.status is RecipientStatus.PENDING
    ]


def obey(order: Order, mail: QueuedMail) -> QueuedMail:
    """A mail as an order other than DELETE leaves it."""
    if order.verb is Verb.HOLD:
        return attrs.evolve(mail, state=QueueState.HELD, reason=order.reason)
    due = min(mail.next_attempt_at, order.now)
    if order.verb is Verb.RELEASE:
        state = QueueState.DEFERRED if mail.attempts else QueueState.ACTIVE
        return attrs.evolve(mail, state=state, reason="", next_attempt_at=due)
    if mail.state is QueueState.FAILED:
        progress = tuple(_given_another_chance(each) for each in mail.progress)
        return attrs.evolve(mail, state=QueueState.DEFERRED, reason="", next_attempt_at=due, progress=progress)
    return attrs.evolve(mail, next_attempt_at=due)


def _given_another_chance(progress: Progress) -> Progress:
    if progress.status is RecipientStatus.FAILED:
        return attrs.evolve(progress, status=RecipientStatus.PENDING)
    return progress
