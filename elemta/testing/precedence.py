"""Whose turn it was: what must hold of priorities after a simulated world.

What is not here: every other invariant (`testing.invariants`). Like those, the checks read the record alone: the ranges
of MT-PRIORITY stand here once more, as the manual gives them, so that a slip of the product is no slip of its judge.
Failures raised: none; what is wrong is said in sentences.
"""

from bisect import bisect_left
from collections.abc import Iterator
from math import inf

from attrs import frozen

from elemta.config.sections import RouteSection
from elemta.mail.envelope import Priority
from elemta.queue.throttle import destination_share
from elemta.simulation.clients import ClientScript, MailScript
from elemta.simulation.record import Passage, Record
from elemta.simulation.scenario import SERVER_ADDRESS, Scenario

#: Seconds within which two things count as simultaneous: then either may have come first.
SIMULTANEOUS_SECONDS = 0.002


def priority_as_asked(scenario: Scenario, record: Record) -> Iterator[str]:
    """A mail has the priority that it asked for, else its listener's, else its route's; a report has the usual one."""
    scripts = {mail.tag: (client, mail) for client in scenario.clients for mail in client.mails}
    for passage in record.passages.values():
        asked = Priority.NORMAL
        if not passage.is_report and passage.tag:
            asked = _asked(scenario, *scripts[passage.tag.partition(".")[0]], passage)
        if passage.mail.priority is not asked:
            yield f"{passage.mail.id} ({passage.tag}) is {passage.mail.priority.name}, and asked for {asked.name}"


def _asked(scenario: Scenario, client: ClientScript, mail: MailScript, passage: Passage) -> Priority:
    domain = passage.mail.envelope.recipients[0].address.domain
    wishes = [
        None if mail.mt_priority is None else _level(mail.mt_priority).name,
        *(each.priority for each in scenario.config.listeners if each.address == f"{SERVER_ADDRESS}:{client.port}"),
        *(each.priority for each in scenario.config.routes if _is_for(each, domain)),
    ]
    levels = (Priority[wish.upper()] for wish in wishes if wish)
    return next((level for level in levels if level is not Priority.NORMAL), Priority.NORMAL)


def _level(mt_priority: int) -> Priority:
    """The four ranges of `docs/retry-and-bounces.md`."""
    return Priority(bisect_left((-2, 1, 5), mt_priority))


def _is_for(route: RouteSection, domain: str) -> bool:
    return route.domain in {"*", domain}


@frozen
class _Turn:
    """A mail that the server held ready from `since`, whose attempt ran from `began` to `ended`.

    `began` is infinite for one whose turn never came, `ended` for one that was not seen to end. `server` is where.
    """

    passage: Passage
    server: str
    since: float
    began: float
    ended: float


def higher_goes_first(scenario: Scenario, record: Record) -> Iterator[str]:
    """No mail is begun while one of a higher priority was at hand, and had room in its destination's share.

    A mail is at hand from its claim, or from its insert where the server owned it at once, until its attempt begins or
    the life of the server ends. For the same destination the mail that was begun proves that there was room; for
    another, every attempt counts from its mark to the durable end. Of what was simultaneous nothing is said, nor of
    worlds whose store is in trouble or where an operator gives orders: there mails may be taken up and put back unseen;
    nor of several nodes unless all is calm. Each node has an order and shares of its own.
    """
    if scenario.orders or not scenario.store.is_calm or (scenario.nodes and not scenario.is_calm):
        return
    share = destination_share(scenario.config.max_workers)
    turns = [turn for passage in record.passages.values() for turn in _turns(record, passage)]
    for taken in turns:
        for waiting in turns:
            if _is_passed_over(waiting, taken) and (
                waiting.passage.mail.destination == taken.passage.mail.destination
                or _running(turns, waiting, taken.began) < share
            ):
                mail, other = waiting.passage.mail, taken.passage.mail
                yield (
                    f"{other.id} ({taken.passage.tag}, {other.priority.name}) was begun at {taken.began:.3f}, while "
                    f"{mail.id} ({waiting.passage.tag}, {mail.priority.name}) was ready from {waiting.since:.3f} on"
                )


def _turns(record: Record, passage: Passage) -> Iterator[_Turn]:
    for hand in passage.at_hand:
        over = record.ends.get(hand.life, inf)
        began = min((at for at in passage.begun if hand.at <= at <= over), default=over)
        ended = min((each.at for each in passage.settled if began <= each.at <= over), default=over)
        yield _Turn(passage, record.lived[hand.life - 1].address, hand.at, began, ended)


def _is_passed_over(waiting: _Turn, taken: _Turn) -> bool:
    return (
        waiting.server == taken.server
        and waiting.passage.mail.priority > taken.passage.mail.priority
        and waiting.since + SIMULTANEOUS_SECONDS < taken.began < waiting.began - SIMULTANEOUS_SECONDS
    )


def _running(turns: list[_Turn], waiting: _Turn, at: float) -> int:
    """How many attempts the server of the mail that waits has under way to that mail's destination."""
    return sum(
        1
        for turn in turns
        if (turn.server, turn.passage.mail.destination) == (waiting.server, waiting.passage.mail.destination)
        and turn.began <= at + SIMULTANEOUS_SECONDS
        and turn.ended >= at - SIMULTANEOUS_SECONDS
    )
