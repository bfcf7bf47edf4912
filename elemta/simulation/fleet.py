"""Worlds of several servers on one queue, drawn from a seed.

What is not here: everything that such a world has in common with that of a single server (`simulation.scenario`), or
making it happen. Failures raised: none.
"""

from random import Random

from attrs import evolve

from elemta.config.sections import StorageSection
from elemta.simulation.clock import chance_of
from elemta.simulation.encryption import with_tls
from elemta.simulation.nodes import ClockStep, Drain, LinkPlan, NodePlan, Span
from elemta.simulation.reloads import with_reloads
from elemta.simulation.scenario import SERVER_ADDRESS, Scenario, draw

#: One seed in so many is a fleet, where the store can be shared.
FLEET_EVERY = 3
#: How many nodes a fleet has.
_SIZES = (2, 2, 3, 4)
_LEASES = (10.0, 30.0, 60.0)
#: Shorter than those of a single server: nodes look at their queue and at each other every few seconds, so that each
#: virtual hour costs real time.
_SCHEDULES = ((10.0, 60.0), (20.0, 60.0, 200.0), (60.0, 120.0))
_RETRIES = (3, 4)
_QUEUE_TIMES = (600.0, 1800.0)
#: Virtual seconds in which nodes have their troubles, and the clients their mails to send.
_TROUBLED = 300.0


def draw_world(seed: int, store: str) -> Scenario:
    """The scenario of a seed for the store named: one seed in three is a fleet on the memory store."""
    if store == "memory" and seed % FLEET_EVERY == FLEET_EVERY - 1:
        return draw_fleet(seed)
    return with_reloads(with_tls(draw(seed)))


def draw_fleet(seed: int, nodes: int = 0) -> Scenario:
    """A fleet of so many nodes, of two to four when 0: the world of the seed, with the troubles of each node."""
    alone = with_tls(draw(seed))
    chance = chance_of(seed, "fleet")
    size = nodes or chance.choice(_SIZES)
    lease = chance.choice(_LEASES)
    host = SERVER_ADDRESS.rpartition(".")[0]
    #: A world in which many things go wrong, or one thing: then its invariants are stricter.
    often = chance.choice((0.0, 0.15, 0.4))
    plans = [
        _node(f"node{number}", f"{host}.{number}", lease, often=often, chance=chance_of(seed, "node", number))
        for number in range(1, size + 1)
    ]
    # Somebody is left to deliver.
    lasting = chance.randrange(size)
    plans[lasting] = evolve(plans[lasting], returns=True)
    config = evolve(
        alone.config,
        storage=StorageSection(type="memory", lease=lease),
        retry_schedule=chance.choice(_SCHEDULES),
        max_retries=chance.choice(_RETRIES),
        max_queue_time=chance.choice(_QUEUE_TIMES),
    )
    # Attempts that last long are under way when something happens.
    slow = lease * chance.choice((0.0, 0.1, 0.6))
    hosts = {address: evolve(nature, slow=max(nature.slow, slow)) for address, nature in alone.hosts.items()}
    fleet = evolve(alone, config=config, hosts=hosts, nodes=tuple(plans), crashes=(), drains=(), steps=())
    return with_reloads(fleet)


def _node(name: str, address: str, lease: float, *, often: float, chance: Random) -> NodePlan:
    crashes = _moments(chance) if chance.random() < often else ()
    return NodePlan(
        name,
        address,
        crashes=crashes,
        returns=not crashes or chance.random() < 0.7,
        downtime=chance.choice((0.0, 1.0, 20.0, 3 * lease)),
        drains=_drains(chance) if chance.random() < often else (),
        freezes=_spans(chance, lease) if chance.random() < often else (),
        rests=_spans(chance, lease) if chance.random() < often else (),
        steps=_steps(chance) if chance.random() < often / 4 else (),
        link=_link(chance, lease, often),
    )


def _moment(chance: Random) -> float:
    """Most happens at the start, when mail comes in."""
    return round(chance.choice((chance.uniform(0, 5), chance.uniform(0, 60), chance.uniform(0, _TROUBLED))), 3)


def _moments(chance: Random) -> tuple[float, ...]:
    return tuple(sorted(_moment(chance) for _ in range(chance.choice((1, 1, 2)))))


def _spans(chance: Random, lease: float) -> tuple[Span, ...]:
    """Shorter and longer than the lease, one after the other."""
    spans: list[Span] = []
    start = _moment(chance)
    for _ in range(chance.choice((1, 1, 2))):
        end = round(start + lease * chance.choice((0.05, 0.5, 0.8, 1.0, 1.2, 2.0, 5.0)), 3)
        spans.append((start, end))
        start = end + round(chance.uniform(1, 2 * lease), 3)
    return tuple(spans)


def _drains(chance: Random) -> tuple[Drain, ...]:
    return tuple(Drain(at, chance.choice((0.0, 1.0, 30.0, 700.0))) for at in _moments(chance))


def _steps(chance: Random) -> tuple[ClockStep, ...]:
    return (ClockStep(_moment(chance), chance.choice((-600.0, 600.0, 7200.0))),)


def _link(chance: Random, lease: float, often: float) -> LinkPlan:
    is_bad = chance.random() < often
    return LinkPlan(
        cuts=_spans(chance, lease) if chance.random() < often else (),
        hangs=_spans(chance, lease) if chance.random() < often else (),
        patience=chance.choice((5.0, 30.0, 300.0)),
        slow=chance.choice((0.0, 0.05, 1.0, lease / 4)) if is_bad else 0.0,
        loses=chance.choice((0.0, 0.05, 0.2)) if is_bad else 0.0,
        troubled_until=chance.choice((60.0, 600.0)) if is_bad else 0.0,
    )
