"""Several nodes on one queue: what must hold after a world that has them.

What is not here: every other invariant (`testing.invariants`). The checks read the record alone: what the ledger beside
the store saw, when each node lived, stood still or was cut off. Failures raised: none; what is wrong is said in
sentences.
"""

from collections import Counter
from collections.abc import Iterator
from math import inf

from elemta.simulation.nodes import NodePlan, Span
from elemta.simulation.record import Kept, Member, Passage, Record
from elemta.simulation.scenario import Scenario
from elemta.storage.base import JOIN_LEASE_SECONDS
from elemta.storage.rules import INTERRUPTED

#: Seconds after the end of a lease within which a living node adopts: promised in `docs/reliability.md`.
ADOPTION_SECONDS = 10.0
#: Seconds between two renewals at most, and for their way: a node may be found dead so much sooner than a lease after
#: its silence began.
BEAT_SECONDS = 6.0
#: Seconds in which a node that was in trouble takes part again: the longest pause of whoever tries a store anew.
RECOVERY_SECONDS = 10.0


def one_owner(scenario: Scenario, record: Record) -> Iterator[str]:
    """No mail has two owners, and nothing is applied under a token that was fenced."""
    yield from record.breaches


def taken_away(scenario: Scenario, record: Record, passage: Passage, kept: Kept, *, until: float) -> bool:
    """True when the node that made this delivery lost the mail, in flight, before `until`."""
    (plan,) = [plan for plan in scenario.plans if plan.address == kept.server]
    return any(
        member.owner == plan.name and kept.at <= member.until <= until and passage.mail.id in member.uncertain
        for member in record.members
    )


def interrupted_is_recorded(scenario: Scenario, record: Record) -> Iterator[str]:
    """Each attempt in flight at the end of its node's time in the queue is recorded as interrupted, and no other."""
    if not scenario.nodes:
        return
    lost = Counter(queue_id for member in record.members for queue_id in member.uncertain)
    for passage in record.passages.values():
        interrupted = {attempt.started_at for attempt in passage.attempts if attempt.reply == INTERRUPTED}
        if len(interrupted) != lost[passage.mail.id]:
            yield (
                f"{passage.mail.id} ({passage.tag}) was in flight at the end of a node {lost[passage.mail.id]} times, "
                f"and has {len(interrupted)} interrupted attempts"
            )


def adopted_for_a_reason(scenario: Scenario, record: Record) -> Iterator[str]:
    """A node is adopted only when it was silent, or its way to the store was in trouble, within its lease."""
    for member in record.members:
        if member.ended_by != "adoption":
            continue
        plan = _plan_of(scenario, member)
        window = (member.until - _lease(scenario) - BEAT_SECONDS, member.until)
        if not any(_overlap(window, span) for span in _troubles(scenario, record, plan)):
            yield f"{member.owner} was adopted at {member.until:.3f}, and nothing was wrong with it"


def adopted_in_time(scenario: Scenario, record: Record) -> Iterator[str]:
    """The mails of a node that is silent for longer than its lease are adopted soon, while another node is well."""
    lease = max(_lease(scenario), JOIN_LEASE_SECONDS)
    for plan in scenario.nodes:
        for start, end in _silences(record, plan):
            late = start + lease + ADOPTION_SECONDS + plan.link.slow
            window = (late - ADOPTION_SECONDS - RECOVERY_SECONDS, late)
            others = [other for other in scenario.nodes if other is not plan]
            if (
                end < late
                or late > record.ended_at
                or not any(_is_well(scenario, record, each, window) for each in others)
            ):
                continue
            for member in record.members:
                if member.owner == plan.name and member.since <= start and member.until > late:
                    yield f"{plan.name} was silent from {start:.3f} on, and not adopted by {late:.3f}"


def _lease(scenario: Scenario) -> float:
    return scenario.config.storage.lease


def _plan_of(scenario: Scenario, member: Member) -> NodePlan:
    return next(plan for plan in scenario.plans if plan.name == member.owner)


def _overlap(one: Span, other: Span) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _silences(record: Record, plan: NodePlan) -> Iterator[Span]:
    """When nothing of a node could reach the store."""
    yield from _absences(record, plan)
    yield from ((each.since, each.until) for each in record.frozen if each.address == plan.address)
    yield from plan.link.cuts


def _absences(record: Record, plan: NodePlan) -> Iterator[Span]:
    """The times between a node's lives, the first and the last without end."""
    ended = -inf
    for lived in record.lived:
        if lived.address == plan.address:
            yield ended, lived.since
            ended = lived.until
    yield ended, inf


def _troubles(scenario: Scenario, record: Record, plan: NodePlan) -> Iterator[Span]:
    """When a node might not renew its lease."""
    yield from _silences(record, plan)
    yield from ((start, min(end, start + plan.link.patience) + RECOVERY_SECONDS) for start, end in plan.link.hangs)
    yield from ((start, end + RECOVERY_SECONDS) for start, end in (*plan.link.cuts, *plan.link.hangs))
    for ends_at in (plan.link.troubled_until + 2 * plan.link.slow, scenario.store.ends_at):
        if ends_at:
            yield 0.0, ends_at + RECOVERY_SECONDS


def _is_well(scenario: Scenario, record: Record, plan: NodePlan, window: Span) -> bool:
    """True when a node serves all this time, and nothing is wrong with it nor its way to the store."""
    return not any(_overlap(window, span) for span in _troubles(scenario, record, plan))
