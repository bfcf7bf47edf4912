"""Servers that take over other configurations while mail flows: by hand, drawn, and with histories made unsound."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from attrs import evolve

from elemta.config.plugins import PluginsSection
from elemta.config.sections import RouteSection, StorageSection, TransportName
from elemta.mail.outcome import AttemptResult
from elemta.simulation.clients import ClientScript
from elemta.simulation.clock import EPOCH_SECONDS
from elemta.simulation.encryption import with_tls
from elemta.simulation.fleet import draw_fleet, draw_world
from elemta.simulation.keeper import memory_keeper
from elemta.simulation.nodes import Drain, NodePlan, Reload
from elemta.simulation.personality import Personality
from elemta.simulation.pipe import Latency
from elemta.simulation.record import Answer, Passage, Record
from elemta.simulation.reloads import RELOAD_SHARE
from elemta.simulation.resolver import Name
from elemta.simulation.scenario import Scenario, draw
from elemta.simulation.stamp import NAME, Stamp, stamping, word_of
from elemta.simulation.world import simulate
from elemta.testing.invariants import broken
from elemta.testing.plugin import SimulatedWorld
from tests.simulation.scenes import HOST, config, mail, scene

#: Seconds by which an attempt may differ from its schedule: the dispatcher's slack of a millisecond, and rounding.
EXACT = 0.002
OTHER_HOST = "198.51.100.20"
#: A dialogue takes some seconds.
FAR = Latency(0.1, 0.2)


def reload(at: float, **settings: object) -> Reload:
    """Another configuration; `settings` are its keys."""
    return Reload(at, config(**settings))


def mail_of(record: Record, tag: str) -> Passage:
    (passage,) = [each for each in record.passages.values() if each.tag == tag and not each.is_report]
    return passage


def attempts_of(record: Record, tag: str) -> list[float]:
    """When attempts began, in virtual seconds."""
    return [attempt.started_at - EPOCH_SECONDS for attempt in mail_of(record, tag).attempts]


def stamped(record: Record, word: str) -> list[str]:
    """The tags of mails that arrived with the word."""
    return [kept.tag for kept in record.kept if f"Stamp: {word}\r\n".encode() in kept.content]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_mail_keeps_its_date_and_gets_the_next_by_the_new_schedule(
    store: str, simulated_world: SimulatedWorld
) -> None:
    reloads = (reload(30.0, retry_schedule=(10.0,)),)
    record = simulated_world(scene(mail("a"), host=Personality(greylists=3), reloads=reloads), store)
    first, second, third, fourth = attempts_of(record, "a")
    due = [each.mail.next_attempt_at - EPOCH_SECONDS for each in mail_of(record, "a").settled if each.mail is not None]
    assert [second, third, fourth] == pytest.approx(due, abs=EXACT)
    assert first + 54 <= second <= first + 66.2  # it was set before the reload
    assert second + 9 <= third <= second + 11.2
    assert third + 9 <= fourth <= third + 11.2
    assert "30.000000 server 192.0.2.1 takes over another configuration: retry_schedule" in record.events


def test_a_deferred_mail_takes_the_new_way(simulated_world: SimulatedWorld) -> None:
    world = scene(mail("a"), host=Personality(greylists=1))
    route = RouteSection("one.test", TransportName.SMTP, host="other.test", port=25)
    world = evolve(
        world,
        hosts={**world.hosts, OTHER_HOST: Personality()},
        names={**world.names, "other.test": Name(addresses=(OTHER_HOST,))},
        reloads=(reload(30.0, routes=(route,)),),
    )
    record = simulated_world(world)
    first, second = attempts_of(record, "a")
    assert first + 54 <= second <= first + 66.2
    assert [kept.host for kept in record.kept] == [OTHER_HOST]
    assert [heard.host for heard in record.heard] == [HOST, OTHER_HOST]


def test_fewer_retries_hold_from_the_next_attempt_on(simulated_world: SimulatedWorld) -> None:
    reloads = (reload(30.0, max_retries=1),)
    record = simulated_world(scene(mail("a"), host=Personality(greylists=9), reloads=reloads))
    results = [attempt.result for attempt in mail_of(record, "a").attempts]
    assert results == [AttemptResult.DEFERRED, AttemptResult.DEFERRED]
    assert [kept.about for kept in record.kept] == [("ok-a@one.test",)]


def test_a_mail_has_the_time_that_was_promised_when_it_came(simulated_world: SimulatedWorld) -> None:
    late = ClientScript("203.0.113.8", 40.0, (mail("b"),))
    world = scene(mail("a"), host=Personality(busy_until=9000.0), config=config(max_retries=50, max_queue_time=3600.0))
    shorter = reload(30.0, max_retries=50, max_queue_time=600.0)
    world = evolve(world, clients=(*world.clients, late), reloads=(shorter,))
    record = simulated_world(world)
    assert mail_of(record, "a").left_at == pytest.approx(3601, abs=2)
    assert mail_of(record, "b").left_at == pytest.approx(641, abs=2)


def two_clients(**settings: Any) -> Scenario:
    """One client is amid its session when the server takes over smaller mails and another stamp, one comes later."""
    early = ClientScript("203.0.113.8", 1.0, (mail("a", octets=2000), mail("b", octets=2000)))
    late = ClientScript("203.0.113.9", 60.0, (mail("c", octets=2000), mail("d")), tries=1)
    given: dict[str, Any] = {
        "clients": (early, late),
        "config": config(plugins=stamping("old")),
        "reloads": (reload(2.0, max_size=1000, plugins=stamping("new")),),
        "plugins": {NAME: Stamp},
    }
    return scene(host=Personality(), latency=FAR, **{**given, **settings})


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_session_ends_as_it_began(store: str, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(two_clients(), store)
    assert record.submitted[0].greeted < 2.0 < record.submitted[0].at
    assert {one.tag: one.answer for one in record.submitted} == {
        "a": Answer.ACCEPTED,
        "b": Answer.ACCEPTED,
        "c": Answer.REFUSED,
        "d": Answer.ACCEPTED,
    }
    assert stamped(record, "old") == ["a", "b"]
    assert stamped(record, "new") == ["d"]


@pytest.mark.parametrize(("before", "after"), [("", "new"), ("old", "")])
def test_plugins_come_and_go(before: str, after: str, simulated_world: SimulatedWorld) -> None:
    kinds = {word: stamping(word) if word else PluginsSection() for word in (before, after)}
    reloads = (reload(2.0, plugins=kinds[after]),)
    record = simulated_world(two_clients(config=config(plugins=kinds[before]), reloads=reloads))
    assert stamped(record, before or after) == (["a", "b"] if before else ["c", "d"])


def test_a_generation_stops_when_its_last_session_has_ended(simulated_world: SimulatedWorld) -> None:
    lived: dict[str, list[float]] = {}

    class Witness(Stamp):
        async def start(self) -> None:
            await super().start()
            lived[self.settings.word] = [trio.current_time()]

        async def stop(self) -> None:
            await super().stop()
            lived[self.settings.word].append(trio.current_time())

    record = simulated_world(two_clients(plugins={NAME: Witness}))
    last = max(one.at for one in record.submitted if one.tag == "b")
    (_, ended), (began, _) = lived["old"], lived["new"]
    assert began == 2.0
    assert last < ended < last + 3.0


@pytest.mark.parametrize("trouble", [{"crashes": (50.0,)}, {"drains": (Drain(50.0, 1.0),)}])
def test_the_next_life_begins_with_what_is_written_by_then(
    trouble: dict[str, object], simulated_world: SimulatedWorld
) -> None:
    reloads = (reload(20.0, max_size=30_000), reload(52.0, max_size=20_000))
    record = simulated_world(scene(mail("a"), host=Personality(greylists=1), reloads=reloads, **trouble))
    sizes = [[config.max_size for _, config in lived.configs] for lived in record.lived]
    assert sizes == [[config().max_size, 30_000], [20_000]]


def test_each_node_takes_over_at_its_own_time(simulated_world: SimulatedWorld) -> None:
    other = config(storage=StorageSection(type="memory", lease=30.0), max_size=30_000)
    nodes = tuple(
        NodePlan(f"node{number}", f"192.0.2.{number}", reloads=(Reload(at, other),))
        for number, at in ((1, 20.0), (2, 25.0))
    )
    world = scene(mail("a"), host=Personality(greylists=1), config=evolve(other, max_size=40_000), nodes=nodes)
    record = simulated_world(world)
    assert [[at for at, _ in lived.configs] for lived in record.lived] == [[0.0, 20.0], [0.0, 25.0]]
    assert record.held("192.0.2.1", 21.0, 24.0) != record.held("192.0.2.2", 21.0, 24.0)


# ---- from a seed ---------------------------------------------------------------------------------


def test_a_share_of_the_seeds_has_reloads() -> None:
    drawn = [draw_world(seed, "sqlite") for seed in range(200)]
    share = sum(bool(world.reloads) for world in drawn) / len(drawn)
    assert abs(share - RELOAD_SHARE) < 0.1
    fleets = [draw_fleet(seed) for seed in range(60)]
    assert any(all(plan.reloads for plan in world.nodes) for world in fleets)


def test_what_is_drawn_beside_reloads_is_as_it_was() -> None:
    drawn = [(draw_world(seed, "sqlite"), with_tls(draw(seed))) for seed in range(50)]
    changed = [world for world, before in drawn if world != before]
    assert changed == [world for world, _ in drawn if world.reloads]
    for world, before in drawn:
        plain = evolve(world, reloads=(), plugins={}, config=evolve(world.config, plugins=PluginsSection()))
        assert plain == before


def test_every_setting_that_is_drawn_differs_somewhere() -> None:
    worlds = [draw_world(seed, "sqlite") for seed in range(100)]
    drawn = [(world.config, each.config) for world in worlds for each in world.reloads]
    keys = ("retry_schedule", "max_retries", "max_queue_time", "max_size", "limits", "routes")
    for key in keys:
        assert any(getattr(before, key) != getattr(after, key) for before, after in drawn), key
    assert {word_of(after.plugins) for _, after in drawn} > {"", "generation-1", "generation-2"}


# ---- the invariants see what they are for --------------------------------------------------------


def wash_off_a_stamp(record: Record) -> None:
    record.kept = [evolve(kept, content=kept.content.replace(b"Stamp: old", b"Stamp: new")) for kept in record.kept]


def take_what_is_too_large(record: Record) -> None:
    record.submitted = [evolve(one, answer=Answer.ACCEPTED) for one in record.submitted]


def refuse_what_is_not(record: Record) -> None:
    record.submitted = [evolve(one, answer=Answer.REFUSED, reply="552 too large") for one in record.submitted]


def change_the_promise(record: Record) -> None:
    for passage in record.passages.values():
        passage.mail = evolve(passage.mail, expires_at=passage.mail.expires_at + 60)


def break_the_promise(record: Record) -> None:
    passage = next(iter(record.passages.values()))
    (settled,) = passage.settled
    passage.settled = [evolve(settled, mail=evolve(passage.mail, expires_at=passage.mail.expires_at + 60))]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (wash_off_a_stamp, "not those of [['old']]"),
        (take_what_is_too_large, "and its session had 1000"),
        (refuse_what_is_not, "and its session had 26214400"),
        (change_the_promise, "which no configuration said"),
        (break_the_promise, "and then had other ones"),
    ],
)
def test_an_unsound_history_is_noticed(spoil: Callable[[Record], None], words: str) -> None:
    world = two_clients()
    record = simulate(world, memory_keeper())
    assert not broken(world, record)
    spoil(record)
    assert any(words in sentence for sentence in broken(world, record)), broken(world, record)


def test_an_attempt_by_the_old_way_is_noticed() -> None:
    route = RouteSection("one.test", TransportName.SMTP, host="other.test", port=25)
    world = scene(mail("a"), host=Personality(), config=config(routes=(evolve(route, host="mx.one.test"),)))
    record = simulate(world, memory_keeper())
    assert not broken(world, record)
    record.lived[0].configs.append((0.5, config(routes=(route,))))
    assert any("to which no route led" in sentence for sentence in broken(world, record)), broken(world, record)


@pytest.mark.parametrize(("at", "words"), [(0.5, "not 10.0 s"), (200.0, "not 300.0 s")])
def test_a_retry_by_another_schedule_is_noticed(at: float, words: str) -> None:
    """As if the reload had come sooner, or later."""
    world = scene(mail("a"), host=Personality(greylists=3), reloads=(reload(30.0, retry_schedule=(10.0,)),))
    record = simulate(world, memory_keeper())
    assert not broken(world, record)
    (lived,) = record.lived
    first, (_, second) = lived.configs
    lived.configs = [first, (at, second)]
    assert any(words in sentence for sentence in broken(world, record)), broken(world, record)
