"""Worlds by hand, looked at to the second."""

import pytest

from elemta.config.sections import RouteSection, TransportName
from elemta.mail.outcome import AttemptResult
from elemta.simulation.clock import EPOCH_SECONDS
from elemta.simulation.nodes import Drain
from elemta.simulation.operators import OrderScript
from elemta.simulation.personality import LMTP_PORT, STALL_SECONDS, Personality
from elemta.simulation.pipe import Latency
from elemta.simulation.record import Answer, Passage, Record
from elemta.simulation.scenario import SENDER_ADDRESS
from elemta.simulation.store import Fault, StorePlan
from elemta.storage.base import Filter, Verb
from elemta.supervisor import build
from elemta.testing.plugin import SimulatedWorld
from tests.simulation.scenes import HOST, config, mail, scene

#: Seconds by which an attempt may differ from its schedule: the dispatcher's slack of a millisecond, and rounding.
EXACT = 0.002
_DAY = 86_400.0


def only_mail(record: Record) -> Passage:
    """The one mail of the queue that is no report."""
    (passage,) = [each for each in record.passages.values() if not each.is_report]
    return passage


def attempt_times(passage: Passage) -> list[float]:
    """When attempts began, in virtual seconds."""
    return [attempt.started_at - EPOCH_SECONDS for attempt in passage.attempts]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_greylisted_mail_comes_when_the_schedule_says(store: str, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(scene(mail("a"), host=Personality(greylists=2)), store)
    passage = only_mail(record)
    first, second, third = attempt_times(passage)
    assert first == pytest.approx(1.0, abs=0.2)
    due = [settled.mail.next_attempt_at - EPOCH_SECONDS for settled in passage.settled if settled.mail is not None]
    assert [second, third] == pytest.approx(due, abs=EXACT)
    assert first + 54 <= second <= first + 66.2
    assert second + 270 <= third <= second + 330.2
    (kept,) = record.kept
    assert kept.at == pytest.approx(third, abs=0.2)
    assert [attempt.result for attempt in passage.attempts] == [
        AttemptResult.DEFERRED,
        AttemptResult.DEFERRED,
        AttemptResult.DELIVERED,
    ]


def test_a_year_of_a_dead_domain_ends_in_one_report(
    simulated_world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looking at the clock each minute, in case it was set, would be half a million looks that see nothing.
    monkeypatch.setattr(build, "LOOK_SECONDS", _DAY)
    year = 365 * _DAY
    settings = config(retry_schedule=(_DAY,), max_retries=1000, max_queue_time=year)
    record = simulated_world(scene(mail("a"), config=settings, deadline=year + _DAY))
    passage = only_mail(record)
    assert passage.left_at == pytest.approx(1.0 + year, abs=60)
    assert len({attempt.started_at for attempt in passage.attempts}) == pytest.approx(366, abs=5)
    (report,) = record.kept
    assert (report.host, report.recipient, report.about) == (SENDER_ADDRESS, "a@senders.test", ("ok-a@one.test",))
    assert b"5.4.7" in report.content


def test_a_refused_recipient_is_reported_once_while_the_other_is_delivered(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(scene(mail("a", "ok-a@one.test", "no-a@one.test"), host=Personality()))
    assert sorted((kept.recipient, kept.about) for kept in record.kept) == [
        ("a@senders.test", ("no-a@one.test",)),
        ("ok-a@one.test", ()),
    ]


def test_partial_success_never_sends_twice(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(scene(mail("a", "ok-a@one.test", "later-a@one.test"), host=Personality()))
    assert [kept.recipient for kept in record.kept] == ["ok-a@one.test", "later-a@one.test"]
    assert record.kept[1].at > record.kept[0].at + 300


@pytest.mark.parametrize(("keeps", "copies"), [(True, 2), (False, 1)])
def test_a_lost_final_reply_is_uncertain_and_tried_again(
    keeps: bool, copies: int, simulated_world: SimulatedWorld
) -> None:
    record = simulated_world(scene(mail("a"), host=Personality(drops=1, keeps_dropped=keeps)))
    assert len(record.kept) == copies
    assert [attempt.result for attempt in only_mail(record).attempts] == [
        AttemptResult.UNCERTAIN,
        AttemptResult.DELIVERED,
    ]


def test_a_stalled_final_reply_is_given_up_after_ten_minutes(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(scene(mail("a"), host=Personality(stalls=1)))
    first, second = only_mail(record).attempts
    assert first.result is AttemptResult.UNCERTAIN
    assert first.duration == pytest.approx(600, abs=2)
    assert first.duration < STALL_SECONDS
    assert second.result is AttemptResult.DELIVERED


def test_a_throttled_host_gets_its_mail_in_the_end(simulated_world: SimulatedWorld) -> None:
    mails = [mail(f"m{number}") for number in range(12)]
    throttled = Personality(mails_per_connection=2, mails_per_minute=4)
    record = simulated_world(scene(*mails, host=throttled, config=config(max_retries=20)))
    assert sorted(kept.tag for kept in record.kept) == sorted(each.tag for each in mails)


def test_a_large_mail_crosses_every_buffer(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(scene(mail("a", octets=3_000_000), host=Personality()), "sqlite")
    (kept,) = record.kept
    assert len(kept.content) > 2_900_000


def test_the_one_worker_takes_the_higher_priority_first(simulated_world: SimulatedWorld) -> None:
    asked = {"a": 0, "b": -4, "c": None, "d": 3, "e": 9}
    mails = (mail(tag, mt_priority=level) for tag, level in asked.items())
    record = simulated_world(scene(*mails, host=Personality(slow=20.0), config=config(max_workers=1)))
    assert [kept.tag for kept in record.kept] == ["a", "e", "d", "c", "b"]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_held_mail_waits_for_its_release(store: str, simulated_world: SimulatedWorld) -> None:
    orders = (OrderScript(10.0, Verb.HOLD), OrderScript(5000.0, Verb.RELEASE))
    record = simulated_world(scene(mail("a"), host=Personality(greylists=1), orders=orders), store)
    first, second = attempt_times(only_mail(record))
    assert first < 2
    assert second == pytest.approx(5000.0, abs=EXACT)


def test_what_is_held_in_the_end_is_released(simulated_world: SimulatedWorld) -> None:
    orders = (OrderScript(10.0, Verb.HOLD),)
    record = simulated_world(scene(mail("a"), host=Personality(greylists=1), orders=orders))
    assert [order.verb for order in only_mail(record).orders] == [Verb.HOLD, Verb.RELEASE]
    assert len(record.kept) == 1


def test_a_deleted_mail_is_neither_delivered_nor_reported(simulated_world: SimulatedWorld) -> None:
    orders = (OrderScript(10.0, Verb.DELETE, Filter(sender="a@senders.test")),)
    record = simulated_world(scene(mail("a"), mail("b"), host=Personality(greylists=1), orders=orders))
    assert [kept.tag for kept in record.kept] == ["b"]


def test_an_order_leaves_alone_what_is_in_flight(simulated_world: SimulatedWorld) -> None:
    orders = (OrderScript(40.0, Verb.DELETE),)
    record = simulated_world(scene(mail("a"), host=Personality(slow=30.0), orders=orders))
    assert only_mail(record).begun[0] < 40 < only_mail(record).settled[0].at
    assert not only_mail(record).orders
    assert len(record.kept) == 1


@pytest.mark.parametrize(("seconds", "copies"), [(700.0, 1), (5.0, 2)])
def test_a_drain_lets_an_attempt_finish_while_it_has_time(
    seconds: float, copies: int, simulated_world: SimulatedWorld
) -> None:
    slow = Personality(slow=60.0)
    at = simulated_world(scene(mail("a"), host=slow)).kept[0].at  # from here on the host thinks about its reply
    record = simulated_world(scene(mail("a"), host=slow, drains=(Drain(at + 0.001, seconds),)), "sqlite")
    assert record.lives == 2
    assert len(record.kept) == copies


@pytest.mark.parametrize("at", [1.0 + step / 20 for step in range(1, 40)])
def test_a_client_hears_of_the_end_whenever_it_comes(at: float, simulated_world: SimulatedWorld) -> None:
    slow = Latency(0.1, 0.2)
    record = simulated_world(scene(mail("a"), host=Personality(), drains=(Drain(at, 0.0),), latency=slow))
    assert [one.answer for one in record.submitted if one.answer is Answer.ACCEPTED]


def test_a_mail_store_by_lmtp_answers_for_each_recipient(simulated_world: SimulatedWorld) -> None:
    store = Personality(lmtp=True, final_defers=1)
    routes = (RouteSection("one.test", TransportName.LMTP, host="mx.one.test", port=LMTP_PORT),)
    mails = (mail("a", "ok-x@one.test", "ok-y@one.test"),)
    record = simulated_world(scene(*mails, host=store, config=config(routes=routes)), "sqlite")
    assert [kept.recipient for kept in record.kept] == ["ok-y@one.test", "ok-x@one.test"]
    assert record.kept[1].at > record.kept[0].at + 50


# ---- faults at each step -------------------------------------------------------------------------

#: More commits than this scene needs: two mails for three recipients, one report, their attempts.
COMMITS = 14


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_no_commit_may_fail_unnoticed(fault: Fault, store: str, simulated_world: SimulatedWorld) -> None:
    mails = (mail("a", "ok-a@one.test", "no-a@one.test"), mail("b"))
    for number in range(1, COMMITS + 1):
        plan = StorePlan(commits={number: fault})
        record = simulated_world(scene(*mails, host=Personality(), store=plan), store)
        assert sorted({one.tag[0] for one in record.submitted if one.answer is Answer.ACCEPTED}) == ["a", "b"]
        crashed = fault in {Fault.CRASH_BEFORE, Fault.CRASH_AFTER} and record.commits >= number
        assert len(record.crashes) == crashed
    assert record.commits < COMMITS, "the scene grew: raise COMMITS"


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_crash_after_the_final_dot_is_recorded_uncertain(store: str, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(scene(mail("a"), host=Personality(slow=40.0), crashes=(100.0,)), store)
    results = [attempt.result for attempt in only_mail(record).attempts]
    assert results[-1] is AttemptResult.DELIVERED
    assert len(record.crashes) == 1
    assert record.lives == 2


def test_a_host_that_comes_back_gets_its_mail(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(scene(mail("a"), host=Personality(off=((0.0, 200.0),))))
    (kept,) = record.kept
    assert 200 < kept.at < 600
    assert kept.host == HOST
