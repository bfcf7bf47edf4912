"""A site that greets with 554 gives no service now; its mail waits for the day it does."""

from elemta.mail.outcome import AttemptResult
from elemta.simulation.personality import Personality
from elemta.simulation.resolver import Name
from elemta.simulation.scenario import SENDER_ADDRESS, SENDER_DOMAIN, name_with_mx
from elemta.testing.plugin import SimulatedWorld
from tests.simulation.scenes import HOST, config, mail, scene

OTHER_HOST = "198.51.100.11"


def test_a_site_that_refuses_service_is_tried_until_the_mail_expires(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(scene(mail("a"), host=Personality(refuses=True), config=config(max_retries=3)))
    (passage,) = [each for each in record.passages.values() if not each.is_report]
    assert [attempt.result for attempt in passage.attempts] == [AttemptResult.DEFERRED] * 4
    (report,) = record.kept
    assert (report.host, report.about) == (SENDER_ADDRESS, ("ok-a@one.test",))
    assert b"5.4.7" in report.content
    assert b"554 5.7.1 no mail from you" in report.content


def test_the_next_address_gets_what_the_first_has_no_service_for(simulated_world: SimulatedWorld) -> None:
    hosts = {SENDER_ADDRESS: Personality(), HOST: Personality(refuses=True), OTHER_HOST: Personality()}
    names = {
        SENDER_DOMAIN: name_with_mx("mx.senders.test"),
        "mx.senders.test": Name(addresses=(SENDER_ADDRESS,)),
        "one.test": name_with_mx("mx.one.test"),
        "mx.one.test": Name(addresses=(HOST, OTHER_HOST)),
    }
    record = simulated_world(scene(mail("a"), hosts=hosts, names=names))
    (kept,) = record.kept
    assert (kept.host, kept.about) == (OTHER_HOST, ())
