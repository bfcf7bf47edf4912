"""What holds when a server takes over another configuration.

What is not here: every other invariant (`testing.invariants`); those that hang on what a configuration says at some
time ask here which one it was.
The checks read the record alone. Failures raised: none; what is wrong is said in sentences.
"""

from collections.abc import Iterator

from elemta.config.sections import Config, RouteSection
from elemta.simulation.clock import EPOCH_SECONDS
from elemta.simulation.record import Answer, Record, Settled, Submitted
from elemta.simulation.scenario import Scenario
from elemta.simulation.stamp import STAMP_FIELD, word_of

#: Seconds by which times since 1970 may differ for their own granularity.
TOLERANCE_SECONDS = 0.002
#: Message size exceeds fixed limit, RFC 1870 §6.3.
_TOO_LARGE = "552 "


def settled_under(record: Record, settled: Settled) -> list[Config]:
    """The configurations by which an attempt may have been judged: from its end until that was durable."""
    ended = max(attempt.started_at + attempt.duration for attempt in settled.attempts) - EPOCH_SECONDS
    return record.lived[settled.life - 1].held(ended - TOLERANCE_SECONDS, settled.at)


def begun_under(record: Record, one: Submitted) -> list[Config]:
    """The configurations with which the session of a mail may have begun."""
    return record.held(one.server, one.connected, one.greeted)


def ways_to(record: Record, destination: str) -> int:
    """How many keys the queue may have for what hosts take for one destination, each with a share of its own."""
    routes = [_route_to(config, destination) for lived in record.lived for _, config in lived.configs]
    return len({None if route is None or route.host is None else (route.host, route.port) for route in routes})


def _route_to(config: Config, domain: str) -> RouteSection | None:
    return next((route for route in config.routes if route.domain in {domain, "*"}), None)


def sessions_end_as_they_began(scenario: Scenario, record: Record) -> Iterator[str]:
    """A session has the largest size of the configuration that it began with."""
    for one in record.submitted:
        octets = len(record.sent[one.tag])
        sizes = [config.max_size for config in begun_under(record, one)]
        if one.answer is Answer.ACCEPTED and sizes and octets > max(sizes):
            yield f"{one.tag} was taken with {octets} octets, and its session had {max(sizes)}"
        if one.reply.startswith(_TOO_LARGE) and sizes and octets < min(sizes):
            yield f"{one.tag} was too large with {octets} octets, and its session had {min(sizes)}"


def tried_by_the_route(scenario: Scenario, record: Record) -> Iterator[str]:
    """An attempt goes to a host of the route that holds while it lasts, however old the mail is."""
    if scenario.steps_clocks:
        return  # a stepped wall clock moves the times of attempts against those of reloads
    for passage in record.passages.values():
        for settled in passage.settled:
            for attempt in settled.attempts:
                began = attempt.started_at - EPOCH_SECONDS
                configs = record.lived[settled.life - 1].held(began, began + attempt.duration + TOLERANCE_SECONDS)
                host, domain = attempt.peer.host, attempt.recipient.rpartition("@")[2]
                if host and not any(host in _hosts_of(scenario, config, domain) for config in configs):
                    yield f"{passage.mail.id} ({passage.tag}) was tried at {began:.3f} by {host}, to which no route led"


def _hosts_of(scenario: Scenario, config: Config, domain: str) -> set[str]:
    route = _route_to(config, domain)
    if route is not None and route.host is not None:
        return {route.host}
    return {each.host for each in scenario.names[domain].exchangers}


def stamped_by_its_session(scenario: Scenario, record: Record) -> Iterator[str]:
    """A mail has the stamp of the plugins that its session began with, and no other."""
    submitted = {one.tag: one for one in record.submitted}
    for kept in record.kept:
        if not kept.sender:
            continue
        one, sent = submitted[kept.tag], record.sent[kept.tag]
        stamps = _stamps(kept.content.removesuffix(sent))
        wanted = [[word] if (word := word_of(config.plugins)) else [] for config in begun_under(record, one)]
        if wanted and stamps not in wanted:
            yield f"{kept.tag} arrived at {kept.at:.3f} with the stamps {stamps}, not those of {wanted}"


def _stamps(fields: bytes) -> list[str]:
    lines = (line.partition(b": ") for line in fields.split(b"\r\n"))
    return [value.decode() for name, _, value in lines if name == STAMP_FIELD.encode()]


def expires_as_promised(scenario: Scenario, record: Record) -> Iterator[str]:
    """A mail has the time in the queue that a server's configuration said when it came, whatever is said later."""
    if scenario.steps_clocks:
        return  # a stepped wall clock moves the dates of mails against those of reloads
    for passage in record.passages.values():
        mail, came = passage.mail, passage.mail.received_at - EPOCH_SECONDS
        held = [config for lived in record.lived for config in lived.held(came - TOLERANCE_SECONDS, came)]
        seconds = mail.expires_at - mail.received_at
        if not any(abs(config.max_queue_time - seconds) <= TOLERANCE_SECONDS for config in held):
            yield f"{mail.id} ({passage.tag}) came at {came:.3f} with {seconds:.0f} s, which no configuration said"
        for settled in passage.settled:
            if settled.mail is not None and settled.mail.expires_at != mail.expires_at:
                yield f"{mail.id} ({passage.tag}) was promised {seconds:.0f} s, and then had other ones"
