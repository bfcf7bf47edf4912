"""What must hold of TLS after a simulated world.

What is not here: every other invariant (`testing.invariants`). Like those, the checks read the record alone, with what
the scenario asked for. RFC 3207 is STARTTLS, RFC 8689 REQUIRETLS.
Failures raised: none; what is wrong is said in sentences.
"""

from collections.abc import Iterator

from elemta.config.sections import RouteTls
from elemta.simulation.personality import INJECTED_WORDS, Handshake
from elemta.simulation.record import Answer, Heard, Record, Shaken
from elemta.simulation.scenario import Scenario

#: Seconds by which the end of a handshake may come later than its deadline: the watch over deadlines, some journeys.
LATE_SECONDS = 2.0
#: What a client may have in mind for a handshake that comes to a good end.
_SOUND = frozenset({Handshake.WORKS, Handshake.INJECTED})


def nothing_forbidden_is_said(scenario: Scenario, record: Record) -> Iterator[str]:
    """Neither clients nor hosts heard what TLS forbids."""
    yield from record.slips


def demands_are_kept(scenario: Scenario, record: Record) -> Iterator[str]:
    """Of what goes a route with `require` or `verify` no host hears in clear, with `verify` none without a good
    certificate."""
    for heard in record.heard:
        demand = _demand(scenario, heard)
        if demand in {RouteTls.REQUIRE, RouteTls.VERIFY} and not heard.encrypted:
            yield f"{_of(heard)} in clear, and its route asks for {demand.value}"
        if demand is RouteTls.VERIFY and not heard.certified:
            yield f"{_of(heard)}, whose certificate is not good, and its route asks for verify"
        if demand is RouteTls.NONE and heard.encrypted:
            yield f"{_of(heard)} over TLS, and its route asks for none"


def requiretls_is_kept(scenario: Scenario, record: Record) -> Iterator[str]:
    """A mail with REQUIRETLS, and each report about it, goes to hosts alone that are certified and promise the same.

    What LMTP hands over has arrived: RFC 8689 §4.4.
    """
    senders = {mail.sender for client in scenario.clients for mail in client.mails if mail.require_tls}
    for heard in record.heard:
        if heard.lmtp or (heard.sender or heard.recipient) not in senders:
            continue
        if not (heard.certified and heard.requiretls):
            yield f"{_of(heard)}, which did not promise REQUIRETLS under a good certificate"
        elif not heard.asked:
            yield f"{_of(heard)}, and not that it requires TLS"


def encrypted_where_it_works(scenario: Scenario, record: Record) -> Iterator[str]:
    """A host whose STARTTLS always works hears nothing in clear, but by a route with `none`."""
    if any(plan.freezes for plan in scenario.plans):
        return  # a handshake may end for that
    for heard in record.heard:
        nature = scenario.hosts[heard.host]
        is_sound = nature.starttls == (Handshake.WORKS,) and not (nature.resets or nature.off or nature.silent)
        if is_sound and not nature.helo_only and not heard.encrypted and _demand(scenario, heard) is not RouteTls.NONE:
            yield f"{_of(heard)} in clear, though its STARTTLS works"


def nothing_before_tls_is_believed(scenario: Scenario, record: Record) -> Iterator[str]:
    """What stood in clear behind STARTTLS, or behind its reply, has no effect."""
    injected = {one.tag for one in record.submitted if one.answer is Answer.INJECTED}
    for passage in record.passages.values():
        if passage.tag in injected:
            yield f"{passage.tag} was said before TLS, and is in the queue"
        for attempt in passage.attempts:
            if INJECTED_WORDS in str(attempt.reply):
                yield f"{passage.mail.id} ({passage.tag}) was answered before TLS: {attempt.reply}"


def handshakes_end(scenario: Scenario, record: Record) -> Iterator[str]:
    """Where nothing is wrong TLS comes of a client's handshake; the server gives up one that does not get on."""
    if any(plan.freezes for plan in scenario.plans):
        return
    for shaken in record.shaken:
        seconds = shaken.ended - shaken.began
        if seconds > scenario.config.tls.handshake_timeout + LATE_SECONDS + 4 * scenario.latency.most:
            yield f"{_by(shaken)} lasted {seconds:.3f} s"
        if scenario.is_calm and shaken.meant in _SOUND and not shaken.cut and not shaken.worked:
            yield f"{_by(shaken)} failed, and nothing was wrong"


def _demand(scenario: Scenario, heard: Heard) -> RouteTls:
    domain = heard.recipient.rpartition("@")[2]
    route = next((route for route in scenario.config.routes if route.domain in {"*", domain}), None)
    return RouteTls.MAY if route is None or route.tls is None else route.tls


def _of(heard: Heard) -> str:
    return f"at {heard.at:.3f} {heard.host} heard of {heard.recipient} from <{heard.sender}>"


def _by(shaken: Shaken) -> str:
    return f"the handshake of {shaken.client} at {shaken.began:.3f}"
