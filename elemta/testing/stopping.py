"""How the server stopped: what must hold of drains after a simulated world.

What is not here: crashes, which may leave what `testing.invariants` allows. The checks read the record alone.
Failures raised: none; what is wrong is said in sentences.
"""

from collections.abc import Iterator

from elemta.mail.outcome import AttemptResult
from elemta.simulation.clock import EPOCH_SECONDS
from elemta.simulation.record import Answer, Record
from elemta.simulation.scenario import Scenario

#: Seconds by which times since 1970 may differ for their own granularity.
TOLERANCE_SECONDS = 0.002
#: What the server records of an attempt that it cut itself.
_CUT = "the server stopped while"


def drained_leaves_nothing_uncertain(scenario: Scenario, record: Record) -> Iterator[str]:
    """The life after a drain finds no attempt in flight, unless the store was in trouble while it ended."""
    if scenario.nodes:
        return  # a node that ends says good-bye: what it left in flight is found at once, see `testing.sharing`
    for drain in record.drains:
        if not scenario.store.is_calm and (scenario.store.commits or drain.at < scenario.store.ends_at):
            continue
        for queue_id in record.found.get(drain.life + 1, ()):
            yield f"{queue_id} was found in flight by life {drain.life + 1}, after the drain until {drain.ended:.3f}"


def cut_no_sooner(scenario: Scenario, record: Record) -> Iterator[str]:
    """An attempt past the point of no return is cut only by a drain whose time is over."""
    if scenario.steps_clocks:
        return  # a stepped wall clock moves the times of attempts against those of drains
    for passage in record.passages.values():
        for attempt in passage.attempts:
            if attempt.result is not AttemptResult.UNCERTAIN or not attempt.reply.text.startswith(_CUT):
                continue
            ended = attempt.started_at - EPOCH_SECONDS + attempt.duration
            if not any(
                drain.until - TOLERANCE_SECONDS <= ended <= drain.ended + TOLERANCE_SECONDS for drain in record.drains
            ):
                yield f"{passage.mail.id} ({passage.tag}) was cut at {ended:.3f}, when no drain was over"


def everybody_is_answered(scenario: Scenario, record: Record) -> Iterator[str]:
    """With neither a crash nor trouble of the store, every client that sent its final dot learns what became of it."""
    if not scenario.store.is_calm or any(plan.crashes for plan in scenario.plans):
        return
    if scenario.nodes and not scenario.is_calm:
        return
    vanishing = {mail.tag for client in scenario.clients for mail in client.mails if mail.vanishes_after is not None}
    for one in record.submitted:
        if one.answer is Answer.UNKNOWN and one.tag not in vanishing:
            yield f"{one.tag} was sent whole by {one.at:.3f}, and its client never heard what became of it"
