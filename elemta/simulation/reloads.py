"""Other configurations for the servers of a world, drawn from a seed.

What is not here: everything else that a world has (`simulation.scenario`, `simulation.encryption`, `simulation.fleet`),
or taking one over (`simulation.life`).
The draws are of a stream of their own, so that worlds without reloads are what they were before there were any.
Whatever is drawn leaves a world's promises alone: nobody has less time or fewer tries than at the start, each route
keeps its hosts, or one of them, with what it asks of TLS and its priority.
Failures raised: none.
"""

from random import Random
from typing import Final

from attrs import evolve

from elemta.config.plugins import PluginsSection
from elemta.config.sections import Config, LimitsSection, RouteSection, TransportName
from elemta.delivery.routing import SMTP_PORT
from elemta.simulation.clock import chance_of
from elemta.simulation.nodes import Reload
from elemta.simulation.scenario import SENDER_DOMAIN, Scenario
from elemta.simulation.stamp import NAME, Stamp, stamping

#: The share of worlds whose servers take over other configurations.
RELOAD_SHARE: Final = 0.3
_COUNTS = (1, 2, 3, 5)
#: Virtual seconds after a client's beginning: amid its session, or soon after it.
_SOON = (0.1, 1.0, 60.0)
#: Virtual seconds in which most mail is still on its way; nodes of a fleet have shorter schedules.
_BUSY, _BUSY_FLEET = 1500.0, 300.0
#: How much longer or shorter the intervals of a retry schedule become.
_INTERVALS = (0.5, 1.0, 2.0)
#: How much longer mail may stay.
_LONGER = (1.0, 1.0, 1.5, 3.0)
_MORE_RETRIES = (0, 0, 1, 3)
#: Octets: the smallest still takes half of the mails that there are.
_SIZES = (1_000, 20_000, 1_000_000)


def with_reloads(scenario: Scenario) -> Scenario:
    """The same world; in a share of them each server takes over some other configurations while mail flows."""
    chance = chance_of(scenario.seed, "reloads")
    if chance.random() >= RELOAD_SHARE:
        return scenario
    config = evolve(scenario.config, plugins=_plugins(chance, 0))
    scenario = evolve(scenario, config=config, plugins={NAME: Stamp})
    others = [_another(scenario, chance, number) for number in range(1, chance.choice(_COUNTS) + 1)]
    if not scenario.nodes:
        return evolve(scenario, reloads=_reloads(scenario, others, chance))
    # The same ones in the same order, each node at times of its own: as people roll them out.
    nodes = tuple(evolve(plan, reloads=_reloads(scenario, others, chance)) for plan in scenario.nodes)
    return evolve(scenario, nodes=nodes)


def _reloads(scenario: Scenario, others: list[Config], chance: Random) -> tuple[Reload, ...]:
    times = sorted(_moment(scenario, chance) for _ in others)
    return tuple(Reload(at, config) for at, config in zip(times, others, strict=True))


def _moment(scenario: Scenario, chance: Random) -> float:
    begun = chance.choice(scenario.clients).at
    busy = _BUSY_FLEET if scenario.nodes else _BUSY
    soon = begun + chance.uniform(0, chance.choice(_SOON))
    return round(chance.choice((soon, chance.uniform(0, busy))), 3)


def _another(scenario: Scenario, chance: Random, number: int) -> Config:
    config = scenario.config
    factor = chance.choice(_INTERVALS)
    return evolve(
        config,
        retry_schedule=tuple(interval * factor for interval in config.retry_schedule),
        max_retries=config.max_retries + chance.choice(_MORE_RETRIES),
        max_queue_time=config.max_queue_time * chance.choice(_LONGER),
        max_size=chance.choice((*_SIZES, config.max_size)),
        limits=_limits(config.limits, chance),
        routes=_routes(scenario, chance),
        plugins=_plugins(chance, number),
    )


def _limits(limits: LimitsSection, chance: Random) -> LimitsSection:
    return evolve(
        limits,
        max_connections_per_address=chance.choice((1, limits.max_connections_per_address)),
        max_recipients=chance.choice((2, limits.max_recipients, limits.max_recipients)),
        max_transactions=chance.choice((1, 3, limits.max_transactions)),
    )


def _plugins(chance: Random, number: int) -> PluginsSection:
    """None, or those of a generation of this number."""
    return PluginsSection() if chance.random() < 0.3 else stamping(f"generation-{number}")


def _routes(scenario: Scenario, chance: Random) -> tuple[RouteSection, ...]:
    """The routes in another order, some by another way. No two of a world are for the same domain, so the order of
    them means nothing."""
    given = {route.domain for route in scenario.config.routes}
    domains = [name for name, known in scenario.names.items() if known.exchangers and not given & {"*", name}]
    routes = [*scenario.config.routes, *(RouteSection(domain, TransportName.MX) for domain in domains)]
    chance.shuffle(routes)
    return tuple(_another_way(scenario, route, chance) if chance.random() < 0.5 else route for route in routes)


def _another_way(scenario: Scenario, route: RouteSection, chance: Random) -> RouteSection:
    """Straight to one of the hosts instead of asking for them; to the smarthost by its other name."""
    if route.domain == "*":
        return evolve(route, host=scenario.names[SENDER_DOMAIN].exchangers[0].host)
    if route.transport is not TransportName.MX:
        return route
    host = chance.choice(scenario.names[route.domain].exchangers).host
    return evolve(route, transport=TransportName.SMTP, host=host, port=SMTP_PORT)
