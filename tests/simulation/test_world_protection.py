"""Greylisting and rate limits in whole servers, over virtual days, crashes and several nodes."""

from typing import Any

import pytest

from elemta.config.plugins import PluginEntry, PluginsSection
from elemta.config.sections import Config, RouteSection, StorageSection, TransportName
from elemta.plugins.protection.greylisting import Greylisting
from elemta.plugins.protection.ratelimit import RateLimit
from elemta.simulation.clients import ClientScript
from elemta.simulation.nodes import NodePlan
from elemta.simulation.personality import Personality
from elemta.simulation.record import Answer, Record, Submitted
from elemta.simulation.scenario import Scenario
from elemta.testing.plugin import SimulatedWorld
from tests.simulation.scenes import HOST, config, mail, scene

DAY = 86_400.0
#: Not of the network that may relay.
STRANGER = "198.18.0.9"
NODES = (NodePlan("one", "192.0.2.1"), NodePlan("two", "192.0.2.2"))
#: More than a dialogue takes in the virtual network.
DIALOGUE_SECONDS = 5.0


def protected(plugin: str, settings: dict[str, object], **options: Any) -> Config:
    """A server with one plugin, that takes mail for `here.test`."""
    return config(
        local_domains=("here.test",),
        local_recipients=("r@here.test",),
        routes=(RouteSection("here.test", TransportName.LMTP, host=HOST),),
        plugins=PluginsSection(plugins=(PluginEntry(plugin, settings=settings),)),
        **options,
    )


def client(number: int, at: float, *, tries: int) -> ClientScript:
    """A stranger with one mail from a sender of its own."""
    return ClientScript(STRANGER, at, (mail(f"m{number}", "r@here.test"),), tries=tries)


def world(config: Config, clients: tuple[ClientScript, ...], **settings: Any) -> Scenario:
    plugins = {"greylisting": Greylisting, "ratelimit": RateLimit}
    return scene(host=Personality(lmtp=True), config=config, clients=clients, plugins=plugins, **settings)


def tries_of(record: Record, tag: str) -> list[Submitted]:
    return [each for each in record.submitted if each.tag.partition(".")[0] == tag]


@pytest.mark.parametrize("crashes", [(), (200.0, 290.0)])
def test_a_stranger_passes_at_the_first_try_after_the_delay(
    crashes: tuple[float, ...], simulated_world: SimulatedWorld
) -> None:
    """What is remembered outlives the server."""
    grey = protected("greylisting", {"delay": 600})
    record = simulated_world(world(grey, (client(0, 1.0, tries=60),), crashes=crashes))
    heard = [each for each in tries_of(record, "m0") if each.reply]
    *put_off, taken = heard
    assert taken.answer is Answer.ACCEPTED
    assert taken.at - heard[0].at > 600 - DIALOGUE_SECONDS
    assert len(put_off) > 5
    for each in put_off:
        left = float(each.reply.split()[-2])
        assert each.reply.startswith("450 4.7.1 greylisted, please try again in ")
        assert abs(each.at - heard[0].at + left - 600) < DIALOGUE_SECONDS
    assert len(record.kept) == 1


def test_a_client_becomes_known_over_days(simulated_world: SimulatedWorld) -> None:
    grey = protected("greylisting", {"client_passes": 3})
    clients = tuple(client(day, 1.0 + day * DAY, tries=20) for day in range(7))
    record = simulated_world(world(grey, clients))
    counts = [len(tries_of(record, f"m{day}")) for day in range(7)]
    assert all(count > 3 for count in counts[:3])
    assert counts[3:] == [1] * 4
    assert len(record.kept) == 7


def test_nodes_know_the_strangers_of_each_other(simulated_world: SimulatedWorld) -> None:
    grey = protected("greylisting", {"delay": 600}, storage=StorageSection(type="memory", lease=30.0))
    record = simulated_world(world(grey, (client(0, 1.0, tries=60),), nodes=NODES))
    heard = tries_of(record, "m0")
    assert heard[-1].answer is Answer.ACCEPTED
    assert 600 - DIALOGUE_SECONDS < heard[-1].at - heard[0].at < 600 + 90 + DIALOGUE_SECONDS


@pytest.mark.parametrize(("nodes", "days"), [((), 5), (NODES, 1)])  # a shared queue beats every few seconds
def test_never_more_than_the_limit_over_days(
    nodes: tuple[NodePlan, ...], days: int, simulated_world: SimulatedWorld
) -> None:
    """Each day twenty mails want to come at once, at two a minute; every one does in the end."""
    storage = StorageSection(type="memory", lease=30.0) if nodes else StorageSection()
    settings: dict[str, object] = {"max_messages_per_minute": 2, "connection_rate_per_minute": None}
    clients = tuple(client(number, 1.0 + number // 20 * DAY, tries=100) for number in range(20 * days))
    record = simulated_world(world(protected("ratelimit", settings, storage=storage), clients, nodes=nodes))
    passed = sorted(each.at for each in record.submitted if each.answer is Answer.ACCEPTED)
    assert len(passed) == 20 * days
    for first, begin in enumerate(passed):
        for count, end in enumerate(passed[first:], start=1):
            assert count <= 2 + (end - begin + DIALOGUE_SECONDS) / 30
    assert all(
        passed[day * 20 + 1] - passed[day * 20] < DIALOGUE_SECONDS for day in range(days)
    )  # a full bucket each day
    assert passed[19] - passed[0] < 20 * 30 + 10 * 90
