"""Several nodes on one queue by hand: who adopts, what is recorded, what arrives twice."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from attrs import evolve

from elemta.config.sections import StorageSection
from elemta.mail.outcome import AttemptResult
from elemta.simulation.fleet import draw_fleet
from elemta.simulation.keeper import memory_keeper
from elemta.simulation.nodes import Drain, LinkPlan, NodePlan
from elemta.simulation.personality import Personality
from elemta.simulation.record import Record
from elemta.simulation.scenario import Scenario
from elemta.simulation.world import simulate
from elemta.storage.rules import INTERRUPTED
from elemta.testing.invariants import broken
from elemta.testing.plugin import SimulatedWorld
from tests.simulation.scenes import config, mail, scene

LEASE = 30.0
#: Thinks about each of its replies for some seconds, the final one as well.
SLOW = Personality(slow=40.0)


ONE, TWO = NodePlan("one", "192.0.2.1"), NodePlan("two", "192.0.2.2")


def fleet(*nodes: NodePlan, host: Personality) -> Scenario:
    """Some nodes on one queue, and a mail for one of them."""
    shared = config(storage=StorageSection(type="memory", lease=LEASE))
    return scene(mail("a"), nodes=nodes or (ONE, TWO), config=shared, host=host)


def with_trouble(run: Callable[[Scenario], Record], host: Personality, **trouble: Any) -> Record:
    """A world in which the node that has the mail is in trouble half a second after its host kept that."""
    (kept,) = run(fleet(host=host)).kept
    planned = {name: value(kept.at + 0.5) for name, value in trouble.items()}
    return run(
        fleet(*(evolve(node, **planned) if node.address == kept.server else node for node in (ONE, TWO)), host=host)
    )


def results(record: Record) -> list[AttemptResult]:
    (passage,) = record.passages.values()
    return [attempt.result for attempt in passage.attempts]


def test_a_calm_fleet_delivers_once(simulated_world: SimulatedWorld) -> None:
    record = simulated_world(fleet(host=SLOW))
    assert results(record) == [AttemptResult.DELIVERED]
    assert [member.ended_by for member in record.members] == ["leave", "leave"]


def test_a_node_that_never_returns_is_adopted(simulated_world: SimulatedWorld) -> None:
    record = with_trouble(simulated_world, SLOW, crashes=lambda at: (at,), returns=lambda at: False)
    assert results(record) == [AttemptResult.UNCERTAIN, AttemptResult.DELIVERED]
    (dead,) = [member for member in record.members if member.ended_by == "adoption"]
    assert LEASE - 6 <= dead.until - record.crashes[0] <= LEASE + 10
    assert len(record.kept) == 2


@pytest.mark.parametrize(("seconds", "adopted"), [(LEASE / 2, False), (LEASE * 3, True)])
def test_a_frozen_node_loses_its_mail_past_its_lease_only(
    seconds: float, adopted: bool, simulated_world: SimulatedWorld
) -> None:
    record = with_trouble(simulated_world, SLOW, freezes=lambda at: ((at, at + seconds),))
    assert any(member.ended_by == "adoption" for member in record.members) == adopted
    assert len(record.kept) == (2 if adopted else 1)
    assert len(record.frozen) == 1


@pytest.mark.parametrize(("seconds", "adopted"), [(LEASE / 2, False), (LEASE * 3, True)])
def test_a_node_cut_off_loses_its_mail_past_its_lease_only(
    seconds: float, adopted: bool, simulated_world: SimulatedWorld
) -> None:
    record = with_trouble(simulated_world, SLOW, link=lambda at: LinkPlan(cuts=((at, at + seconds),)))
    assert any(member.ended_by == "adoption" for member in record.members) == adopted


def test_a_node_that_leaves_in_order_is_not_adopted(simulated_world: SimulatedWorld) -> None:
    record = with_trouble(simulated_world, SLOW, drains=lambda at: (Drain(at, 700.0),))
    assert results(record) == [AttemptResult.DELIVERED]
    assert all(member.ended_by in {"leave", ""} for member in record.members)
    assert len(record.kept) == 1


def test_the_same_seed_is_the_same_fleet(simulated_world: SimulatedWorld) -> None:
    first, second = simulated_world(draw_fleet(5, 3)), simulated_world(draw_fleet(5, 3))
    assert first.events == second.events


# ---- the invariants see what they are for --------------------------------------------------------


def breach(record: Record) -> None:
    record.breaches.append("a mail has two owners")


def forget_an_interruption(record: Record) -> None:
    for passage in record.passages.values():
        passage.attempts = tuple(each for each in passage.attempts if each.reply != INTERRUPTED)


def adopt_a_healthy_node(record: Record) -> None:
    for member in record.members:
        if member.ended_by == "leave":
            member.ended_by, member.until = "adoption", member.until - 5


def adopt_late(record: Record) -> None:
    for member in record.members:
        if member.ended_by == "adoption":
            member.until += 60


def lose_nothing(record: Record) -> None:
    for member in record.members:
        member.uncertain = ()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (breach, "a mail has two owners"),
        (forget_an_interruption, "has 0 interrupted attempts"),
        (adopt_a_healthy_node, "nothing was wrong with it"),
        (adopt_late, "and not adopted by"),
        (lose_nothing, "which the server knew, and again"),
    ],
)
def test_an_unsound_history_is_noticed(spoil: Callable[[Record], None], words: str) -> None:
    # The host answers at once: the node knows of the delivery, and dies while it makes that durable.
    judged: list[Scenario] = []

    def run(scenario: Scenario) -> Record:
        judged.append(scenario)
        return simulate(scenario, memory_keeper())

    record = with_trouble(
        run,
        Personality(),
        link=lambda at: LinkPlan(hangs=((at - 0.499, at + 20),), patience=100.0),
        crashes=lambda at: (at + 5,),
        returns=lambda at: False,
    )
    assert not broken(judged[-1], record)
    spoil(record)
    assert any(words in sentence for sentence in broken(judged[-1], record)), broken(judged[-1], record)


# ---- the record knows what a store keeps ---------------------------------------------------------


@pytest.mark.parametrize(("fenced", "back"), [(False, True), (True, False)])
def test_what_another_node_finished_does_not_come_back(
    fenced: bool, back: bool, simulated_world: SimulatedWorld
) -> None:
    record = simulated_world(fleet(host=Personality()))
    (passage,) = record.passages.values()

    async def repeat_the_insert() -> None:
        record.insert(passage.mail, None, fenced=fenced)

    trio.run(repeat_the_insert)
    assert (record.live == [passage]) == back
