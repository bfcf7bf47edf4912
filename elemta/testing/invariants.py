"""What must hold after every run of a simulated world.

What is not here: the run (`simulation.world`), what must hold of priorities (`testing.precedence`) or of orders
(`testing.obedience`), of drains (`testing.stopping`), of reloads (`testing.reloading`), or of queues with several
nodes (`testing.sharing`).
Each check reads the record and says in sentences what is wrong; nothing it says depends on how the product works
inside, only on what it promises: to the clients that were answered 250, to the senders that wait for a delivery or a
report, to the hosts that should not get a mail twice.
Failures raised: none; `broken` returns what is broken.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

from elemta.config.sections import Config
from elemta.mail.outcome import AttemptResult
from elemta.queue.schedule import RETRY_JITTER
from elemta.queue.throttle import destination_share
from elemta.simulation.clock import EPOCH_SECONDS
from elemta.simulation.record import Answer, Kept, Passage, Record, Settled, Submitted
from elemta.simulation.scenario import SENDER_ADDRESS, Scenario
from elemta.storage.records import QueueState, RecipientStatus
from elemta.storage.rules import INTERRUPTED
from elemta.testing.encryption import (
    demands_are_kept,
    encrypted_where_it_works,
    handshakes_end,
    nothing_before_tls_is_believed,
    nothing_forbidden_is_said,
    requiretls_is_kept,
)
from elemta.testing.obedience import AMPLE_WORKERS, deleted_stays_away, held_stays_held, obeyed_at_once
from elemta.testing.precedence import higher_goes_first, priority_as_asked
from elemta.testing.reloading import (
    expires_as_promised,
    sessions_end_as_they_began,
    settled_under,
    stamped_by_its_session,
    tried_by_the_route,
    ways_to,
)
from elemta.testing.sharing import (
    adopted_for_a_reason,
    adopted_in_time,
    interrupted_is_recorded,
    one_owner,
    taken_away,
)
from elemta.testing.stopping import cut_no_sooner, drained_leaves_nothing_uncertain, everybody_is_answered

#: Seconds by which times since 1970 may differ for their own granularity and the dispatcher's slack of a millisecond.
TOLERANCE_SECONDS = 0.002
#: Seconds by which a retry may come late where nothing is in its way: the way through the dispatcher.
LATE_SECONDS = 1.0
#: What a server may call an error when nothing is wrong with it, but its store or its way there is in trouble.
EXPECTED_ERRORS = frozenset({"store.failed", "queue.commits_lost"})
#: The same of a node of a shared queue, which also may be too slow for its lease.
EXPECTED_OF_NODES = EXPECTED_ERRORS | {"queue.store_away", "queue.lease_ends"}
#: What a server says of mails that it answered 4yz, and might deliver all the same.
DUPLICATES = frozenset({"queue.possible_duplicate", "queue.commits_lost"})

Check = Callable[[Scenario, Record], Iterator[str]]


def broken(scenario: Scenario, record: Record) -> list[str]:
    """Every invariant that does not hold, a sentence each; empty is good."""
    return list(chain.from_iterable(check(scenario, record) for check in CHECKS))


def everything_ends(scenario: Scenario, record: Record) -> Iterator[str]:
    """No mail is left in the queue, held or forgotten."""
    if record.overdue:
        yield f"the world was not done after {scenario.deadline} s"
    for passage in record.live:
        state = passage.settled[-1].mail.state.value if passage.settled and passage.settled[-1].mail else "active"
        yield f"{passage.mail.id} ({passage.tag}) is stuck in the queue, {state}"


def no_errors(scenario: Scenario, record: Record) -> Iterator[str]:
    """The server found no defect of its own."""
    expected = frozenset() if scenario.store.is_calm else EXPECTED_ERRORS
    if scenario.nodes:
        expected = frozenset() if scenario.is_calm else EXPECTED_OF_NODES
    for complaint in record.complaints:
        if complaint.level in {"error", "critical", "exception"} and complaint.event not in expected:
            yield f"at {complaint.at:.3f} the server logged {complaint.event}: {complaint.details}"


def durable_before_answered(scenario: Scenario, record: Record) -> Iterator[str]:
    """A mail answered 250 is in the store by then, for each of its recipients."""
    for one in record.submitted:
        if one.answer is not Answer.ACCEPTED:
            continue
        passages = [p for p in _mails_of(record, one.tag) if p.inserted_at <= one.at]
        stored = Counter(str(each.address) for p in passages for each in p.mail.envelope.recipients)
        for recipient in one.recipients:
            if stored[recipient] != 1:
                yield f"{one.tag} was answered 250, and is {stored[recipient]} times in the queue for {recipient}"


def delivered_or_reported(scenario: Scenario, record: Record) -> Iterator[str]:
    """Of every acknowledged mail each recipient has it, or the sender has a report about it; or either was deleted."""
    delivered = {(kept.tag, kept.recipient) for kept in record.kept if kept.sender}
    reported = {
        (kept.tag, recipient, kept.recipient)
        for kept in record.kept
        if not kept.sender and kept.host == SENDER_ADDRESS
        for recipient in kept.about
    }
    deleted = {
        (passage.tag, recipient)
        for passage in record.passages.values()
        if passage.deleted_at is not None or _stepped_over(scenario, passage)
        for recipient in (passage.about or (str(each.address) for each in passage.mail.envelope.recipients))
    }
    for one in record.submitted:
        if one.answer is not Answer.ACCEPTED:
            continue
        for recipient in one.recipients:
            if (one.tag, recipient) in delivered | deleted:
                continue
            if (one.tag, recipient, one.sender) not in reported:
                yield f"{one.tag} was answered 250 at {one.at:.3f}, and {recipient} has neither mail nor report"


def _stepped_over(scenario: Scenario, passage: Passage) -> bool:
    """True for a report that a stepped wall clock took for expired before its host was ready."""
    last = max((attempt.started_at for attempt in passage.attempts), default=0.0)
    return scenario.steps_clocks and passage.is_report and last >= passage.mail.expires_at


def reported_once(scenario: Scenario, record: Record) -> Iterator[str]:
    """No sender is told twice of the same failure, no report goes to the null sender."""
    told = Counter((p.tag, recipient) for p in record.passages.values() if p.is_report for recipient in p.about)
    for (tag, recipient), times in told.items():
        if times > 1:
            yield f"{times} reports say that {tag} failed for {recipient}"
    for passage in record.passages.values():
        if passage.is_report and passage.tag not in record.sent:
            yield f"the report {passage.mail.id} is about no mail that was sent"


def second_deliveries(scenario: Scenario, record: Record) -> Iterator[str]:
    """A recipient gets a mail again only where contract 4 allows: each time explained, each time recorded."""
    kept_by: dict[tuple[str, str, tuple[str, ...]], list[Kept]] = {}
    for kept in record.kept:
        kept_by.setdefault((kept.tag, kept.recipient, kept.about), []).append(kept)
    for (tag, recipient, about), deliveries in kept_by.items():
        if len(deliveries) < 2:
            continue
        passages = [p for p in record.passages.values() if (p.tag, p.about) == (tag, about) and _is_for(p, recipient)]
        if len(passages) != 1:
            yield f"{tag} was delivered {len(deliveries)} times to {recipient}, by {len(passages)} mails of the queue"
            continue
        (passage,) = passages
        for kept in deliveries[:-1]:
            if kept.answered and not _lost_in_hand(scenario, record, passage, kept):
                yield f"{tag} was delivered to {recipient} at {kept.at:.3f}, which the server knew, and again"
        uncertain = _results(passage, recipient)[AttemptResult.UNCERTAIN]
        if uncertain < len(deliveries) - 1:
            yield f"{tag} was delivered {len(deliveries)} times to {recipient}, recorded uncertain {uncertain} times"


def _lost_in_hand(scenario: Scenario, record: Record, passage: Passage, kept: Kept) -> bool:
    """True when the server's life, or its time in a shared queue, ended after this delivery, before its result was
    durable."""
    known = min((settled.at for settled in passage.settled if settled.at >= kept.at), default=record.ended_at)
    if scenario.nodes:
        return taken_away(scenario, record, passage, kept, until=known)
    return any(kept.at <= end <= known for end in record.ends.values())


def uncertain_for_a_reason(scenario: Scenario, record: Record) -> Iterator[str]:
    """An attempt is recorded as interrupted only where the server's life ended."""
    if scenario.nodes:
        return  # see `testing.sharing`
    for passage in record.passages.values():
        interrupted = {a.started_at for a in passage.attempts if a.reply == INTERRUPTED}
        if len(interrupted) > record.lives - 1:
            yield f"{passage.mail.id} has {len(interrupted)} interrupted attempts in {record.lives} lives of the server"


def nothing_unasked(scenario: Scenario, record: Record) -> Iterator[str]:
    """A mail that never came whole is nowhere; one that was refused is not delivered behind its client's back."""
    for one in record.submitted:
        if one.answer is Answer.INCOMPLETE and _mails_of(record, one.tag):
            yield f"{one.tag} never came whole, and is in the queue"
        came = any(kept.tag == one.tag and kept.sender for kept in record.kept)
        if one.answer is Answer.REFUSED and came and not _may_have_slipped_in(record, one):
            yield f"{one.tag} was refused with {one.reply!r}, and delivered"
    answers = {one.tag: one for one in record.submitted}
    for kept in record.kept:
        if kept.sender and kept.recipient not in answers[kept.tag].recipients:
            yield f"{kept.tag} was delivered to {kept.recipient}, whom its client did not ask for"


def _may_have_slipped_in(record: Record, one: Submitted) -> bool:
    """True when the server said that it might be delivered, or the server crashed before it could take it back."""
    ids = {passage.mail.id for passage in _mails_of(record, one.tag)}
    said = [c.details for c in record.complaints if c.event in DUPLICATES]
    return any(each in details for each in ids for details in said) or any(at >= one.at for at in record.crashes)


def octets_unchanged(scenario: Scenario, record: Record) -> Iterator[str]:
    """What arrives is what was sent, behind trace fields."""
    for kept in record.kept:
        if kept.sender and not kept.content.endswith(record.sent[kept.tag]):
            yield f"{kept.tag} arrived changed at {kept.host}"


def bounds_hold(scenario: Scenario, record: Record) -> Iterator[str]:
    """At most `max_workers` deliveries of a server run, at most half of them to one destination."""
    workers = scenario.config.max_workers
    for (server, destination), most in record.busiest.items():
        bound = destination_share(workers) * ways_to(record, destination) if destination else workers
        if most > bound:
            yield f"{most} deliveries ran at once from {server} to {destination or 'all hosts'}, {bound} may"


def retried_as_scheduled(scenario: Scenario, record: Record) -> Iterator[str]:
    """Each retry is set within the jitter of its interval, and comes when it was set for."""
    if scenario.steps_clocks:
        return  # a stepped wall clock moves the dates of the past against those of the future
    for passage in record.passages.values():
        for settled in passage.settled:
            if settled.mail is not None and settled.mail.state is QueueState.DEFERRED and settled.attempts:
                unlike = [list(_is_set_unlike(config, passage, settled)) for config in settled_under(record, settled)]
                yield from min(unlike, key=len)
                yield from _retry_comes(scenario, passage, settled)


def _is_set_unlike(config: Config, passage: Passage, settled: Settled) -> Iterator[str]:
    """How the retry differs from what a configuration says."""
    mail = settled.mail
    assert mail is not None
    schedule = config.retry_schedule
    interval = schedule[min(mail.attempts, len(schedule)) - 1]
    ended = max(attempt.started_at + attempt.duration for attempt in settled.attempts)
    earliest = min(ended + interval * (1 - RETRY_JITTER), mail.expires_at)
    latest = min(settled.wall + interval * (1 + RETRY_JITTER), mail.expires_at)
    if not earliest - TOLERANCE_SECONDS <= mail.next_attempt_at <= latest + TOLERANCE_SECONDS:
        after = mail.next_attempt_at - ended
        yield f"{mail.id} ({passage.tag}) was set for {after:.3f} s after attempt {mail.attempts}, not {interval} s"
    if mail.attempts > config.max_retries and not any(
        attempt.result is AttemptResult.UNCERTAIN for attempt in settled.attempts
    ):
        yield f"{mail.id} ({passage.tag}) is kept after {mail.attempts} attempts"


def _retry_comes(scenario: Scenario, passage: Passage, settled: Settled) -> Iterator[str]:
    mail = settled.mail
    assert mail is not None
    this = max(attempt.started_at for attempt in settled.attempts)
    following = min((a.started_at for a in passage.attempts if a.started_at > this), default=None)
    if following is None:
        return
    if any(settled.at <= order.at <= following - EPOCH_SECONDS + TOLERANCE_SECONDS for order in passage.orders):
        return
    late = following - mail.next_attempt_at
    if late < -TOLERANCE_SECONDS:
        yield f"{mail.id} ({passage.tag}) was tried {-late:.3f} s before its time"
    if late > LATE_SECONDS and scenario.is_calm and scenario.config.max_workers >= AMPLE_WORKERS:
        yield f"{mail.id} ({passage.tag}) was tried {late:.3f} s after its time"


def tried_before_given_up(scenario: Scenario, record: Record) -> Iterator[str]:
    """No mail leaves the queue without an attempt for each of its recipients, none is tried after its delivery."""
    for passage in record.passages.values():
        if passage.left_at is None or passage.withdrawn or passage.deleted_at is not None:
            continue
        for each in passage.mail.envelope.recipients:
            results = _results(passage, str(each.address))
            final = results[AttemptResult.DELIVERED] + results[AttemptResult.FAILED]
            if not results:
                yield f"{passage.mail.id} ({passage.tag}) left the queue, and {each.address} was never tried"
            if final > 1:
                yield f"{passage.mail.id} ({passage.tag}) has {final} final attempts for {each.address}"


def progress_is_kept(scenario: Scenario, record: Record) -> Iterator[str]:
    """Delivered and failed recipients stay so from one attempt to the next."""
    for passage in record.passages.values():
        done: dict[int, RecipientStatus] = {}
        for settled in passage.settled:
            for index, progress in enumerate(settled.mail.progress if settled.mail else ()):
                if done.get(index, progress.status) is not progress.status:
                    yield f"{passage.mail.id} ({passage.tag}) forgot that recipient {index} was {done[index].value}"
                if progress.status is not RecipientStatus.PENDING:
                    done[index] = progress.status


def _mails_of(record: Record, tag: str) -> list[Passage]:
    return [p for p in record.passages.values() if p.tag == tag and not p.is_report and not p.withdrawn]


def _is_for(passage: Passage, recipient: str) -> bool:
    return any(str(each.address) == recipient for each in passage.mail.envelope.recipients)


def _results(passage: Passage, recipient: str) -> Counter[AttemptResult]:
    return Counter(attempt.result for attempt in passage.attempts if attempt.recipient == recipient)


CHECKS: tuple[Check, ...] = (
    everything_ends,
    no_errors,
    durable_before_answered,
    delivered_or_reported,
    reported_once,
    second_deliveries,
    uncertain_for_a_reason,
    nothing_unasked,
    octets_unchanged,
    bounds_hold,
    retried_as_scheduled,
    tried_before_given_up,
    progress_is_kept,
    priority_as_asked,
    higher_goes_first,
    deleted_stays_away,
    held_stays_held,
    obeyed_at_once,
    drained_leaves_nothing_uncertain,
    cut_no_sooner,
    everybody_is_answered,
    one_owner,
    interrupted_is_recorded,
    adopted_for_a_reason,
    adopted_in_time,
    nothing_forbidden_is_said,
    demands_are_kept,
    requiretls_is_kept,
    encrypted_where_it_works,
    nothing_before_tls_is_believed,
    handshakes_end,
    sessions_end_as_they_began,
    stamped_by_its_session,
    tried_by_the_route,
    expires_as_promised,
)
