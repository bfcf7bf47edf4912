"""What operators ordered: what must hold of it after a simulated world.

What is not here: every other invariant (`testing.invariants`). The checks read the record alone.
Failures raised: none; what is wrong is said in sentences.
"""

from collections.abc import Iterator
from math import inf

from elemta.mail.outcome import AttemptResult
from elemta.simulation.record import Passage, Record
from elemta.simulation.scenario import Scenario
from elemta.storage.base import Verb

#: Seconds within which two things count as simultaneous.
SIMULTANEOUS_SECONDS = 0.002
#: Seconds in which a mail that was made due is begun where nothing is in its way: the way through the dispatcher.
PROMPT_SECONDS = 1.0
#: Workers beyond which no simulated world makes mail wait for a worker.
AMPLE_WORKERS = 100


def deleted_stays_away(scenario: Scenario, record: Record) -> Iterator[str]:
    """A deleted mail is begun no more, nor delivered; but what an uncertain attempt before it sent may come late."""
    for passage in record.passages.values():
        if passage.deleted_at is not None:
            yield from _untouched(record, passage, passage.deleted_at, inf, "deleted")


def held_stays_held(scenario: Scenario, record: Record) -> Iterator[str]:
    """A held mail is neither begun nor delivered before its release, with the same exception."""
    for passage in record.passages.values():
        for index, order in enumerate(passage.orders):
            if order.verb is Verb.HOLD:
                until = min((each.at for each in passage.orders[index + 1 :]), default=inf)
                yield from _untouched(record, passage, order.at, until, "held")


def _untouched(record: Record, passage: Passage, since: float, until: float, state: str) -> Iterator[str]:
    mail, start, end = passage.mail, since + SIMULTANEOUS_SECONDS, until - SIMULTANEOUS_SECONDS
    for begun in passage.begun:
        if start < begun < end:
            yield f"{mail.id} ({passage.tag}) was {state} at {since:.3f}, and begun at {begun:.3f}"
    if any(attempt.result is AttemptResult.UNCERTAIN for attempt in passage.attempts):
        return
    ours = {str(each.address) for each in mail.envelope.recipients}
    for kept in record.kept:
        if (kept.tag, kept.about) == (passage.tag, passage.about) and kept.recipient in ours and start < kept.at < end:
            yield f"{mail.id} ({passage.tag}) was {state} at {since:.3f}, and {kept.recipient} got it at {kept.at:.3f}"


def obeyed_at_once(scenario: Scenario, record: Record) -> Iterator[str]:
    """In a calm world with free workers, a mail is begun as soon as an order made it due."""
    if not scenario.is_calm or scenario.config.max_workers < AMPLE_WORKERS:
        return
    for passage in record.passages.values():
        for index, order in enumerate(passage.orders):
            late = order.at + PROMPT_SECONDS
            following = passage.orders[index + 1 :]
            if order.verb not in {Verb.RETRY, Verb.RELEASE} or any(each.at <= late for each in following):
                continue
            if not any(order.at <= begun <= late for begun in passage.begun):
                yield f"{passage.mail.id} ({passage.tag}) was not begun after {order.verb.value} at {order.at:.3f}"
