"""What DNS says of a domain decides whether its mail waits or goes back, whole server included: promise 18."""

import pytest

from elemta.mail.outcome import AttemptResult
from elemta.resolver.base import MailExchanger
from elemta.simulation.personality import Personality
from elemta.simulation.record import Passage, Record
from elemta.simulation.resolver import Name
from elemta.simulation.scenario import SENDER_ADDRESS, SENDER_DOMAIN, name_with_mx
from elemta.testing.plugin import SimulatedWorld
from tests.simulation.scenes import HOST, mail, scene

SENDERS = {SENDER_DOMAIN: name_with_mx("mx.senders.test"), "mx.senders.test": Name(addresses=(SENDER_ADDRESS,))}
HERE = {"mx.one.test": Name(addresses=(HOST,))}
_HOUR = 3600.0


def only_mail(record: Record) -> Passage:
    (passage,) = [each for each in record.passages.values() if not each.is_report]
    return passage


@pytest.mark.parametrize(
    ("names", "status"),
    [
        pytest.param({}, b"5.1.2", id="no such domain"),
        pytest.param({"one.test": Name((MailExchanger(0, ""),))}, b"5.1.10", id="null MX"),
        pytest.param({"one.test": name_with_mx("gone.one.test")}, b"5.4.4", id="exchanger of no such name"),
        pytest.param(
            {"one.test": name_with_mx("mx.one.test"), "mx.one.test": Name(addresses=("127.0.0.1", "::1"))},
            b"5.4.4",
            id="loopback exchanger",
        ),
    ],
)
def test_what_dns_rules_out_goes_back_once(
    names: dict[str, Name], status: bytes, simulated_world: SimulatedWorld
) -> None:
    record = simulated_world(scene(mail("a"), host=Personality(), names=SENDERS | names))
    assert [attempt.result for attempt in only_mail(record).attempts] == [AttemptResult.FAILED]
    (report,) = record.kept
    assert (report.host, report.recipient, report.about) == (SENDER_ADDRESS, "a@senders.test", ("ok-a@one.test",))
    assert b"Status: " + status in report.content


@pytest.mark.parametrize("failing", ["one.test", "mx.one.test"])
def test_what_dns_does_not_know_now_waits_until_it_does(failing: str, simulated_world: SimulatedWorld) -> None:
    names = SENDERS | HERE | {"one.test": name_with_mx("mx.one.test")}
    known = names[failing]
    names[failing] = Name(known.exchangers, known.addresses, failing_until=_HOUR / 4)
    record = simulated_world(scene(mail("a"), host=Personality(), names=names))
    results = [attempt.result for attempt in only_mail(record).attempts]
    assert results == [AttemptResult.DEFERRED] * (len(results) - 1) + [AttemptResult.DELIVERED]
    assert len(results) >= 3
    (kept,) = record.kept
    assert (kept.host, kept.about) == (HOST, ())
    assert kept.at > _HOUR / 4
