"""What a world is made of, drawn from a seed or written by hand.

What is not here: running it (`simulation.world`). A scenario says everything that the world's parts are told; the same
scenario with the same seed is the same history.
"""

from collections.abc import Mapping
from random import Random

from attrs import evolve, field, frozen

from elemta.config.sections import Config, LimitsSection, ListenerSection, RouteSection, TransportName, WebSection
from elemta.plugins.api import Plugin
from elemta.resolver.base import MailExchanger
from elemta.simulation.clients import ClientScript, MailScript
from elemta.simulation.clock import chance_of
from elemta.simulation.nodes import ClockStep, Drain, NodePlan, Reload
from elemta.simulation.operators import OrderScript
from elemta.simulation.personality import LMTP_PORT, Manner, Personality
from elemta.simulation.pipe import Latency
from elemta.simulation.resolver import Name
from elemta.simulation.store import StorePlan
from elemta.storage.base import Filter, Verb
from elemta.storage.records import QueueState

#: Networks for documentation, RFC 5737 §3: no simulated address means a machine that exists.
SERVER_ADDRESS = "192.0.2.1"
#: The ports of the listeners: the usual one (RFC 5321 §4.5.4.2), and one for submission (RFC 6409 §3.1).
PORTS = (25, 587)
CLIENT_NETWORK = "203.0.113.0/24"
#: Where every sender has its mailbox, so that reports arrive somewhere.
SENDER_DOMAIN = "senders.test"
SENDER_ADDRESS = "198.51.100.250"
#: The names of files in configurations: a world with TLS puts its own in their place.
CA_FILE, CERT_FILE = "authority.pem", "server.pem"
#: Hours for which the store keeps what the world's end is judged by.
_KEPT_HOURS = 1_000_000.0
_DAY = 86_400.0


@frozen
class Scenario:
    """One world. `hosts` has a personality for each address, `names` is all of DNS.

    `orders` are the operator's. At each time of `crashes` the server's machine stops, each of `drains` ends its life in
    order; after `downtime` seconds it starts anew. `reloads` are what its configuration says later. With `nodes` there
    are several servers on one queue, each with troubles and reloads of its own instead of these. `deadline` is the
    virtual time at which everything must be done.
    """

    seed: int
    config: Config
    hosts: Mapping[str, Personality]
    names: Mapping[str, Name]
    clients: tuple[ClientScript, ...]
    store: StorePlan = StorePlan()
    crashes: tuple[float, ...] = ()
    drains: tuple[Drain, ...] = ()
    downtime: float = 3.0
    steps: tuple[ClockStep, ...] = ()
    reloads: tuple[Reload, ...] = ()
    orders: tuple[OrderScript, ...] = ()
    latency: Latency = Latency()
    deadline: float = 10 * _DAY
    nodes: tuple[NodePlan, ...] = ()
    #: Plugins beside those that are installed, by the names that `config.plugins` calls them.
    plugins: Mapping[str, type[Plugin]] = field(factory=dict)

    @property
    def plans(self) -> tuple[NodePlan, ...]:
        """What is planned for each server."""
        return self.nodes or (
            NodePlan(
                name=self.config.hostname,
                address=SERVER_ADDRESS,
                crashes=self.crashes,
                drains=self.drains,
                downtime=self.downtime,
                steps=self.steps,
                reloads=self.reloads,
            ),
        )

    @property
    def speaks_tls(self) -> bool:
        """True when anybody in it may speak TLS."""
        offers = any(nature.implicit_tls or nature.starttls != (None,) for nature in self.hosts.values())
        return offers or self.config.tls.enabled

    @property
    def is_calm(self) -> bool:
        """True when nothing but the remote hosts makes trouble: attempts then come as scheduled."""
        return self.store.is_calm and all(plan.is_calm for plan in self.plans)

    @property
    def steps_clocks(self) -> bool:
        """True when a wall clock steps."""
        return any(plan.steps for plan in self.plans)

    @property
    def trouble_ends_at(self) -> float:
        """When nothing but the remote hosts makes trouble any more; of a single server, but for its own end."""
        return max([self.store.ends_at, *(plan.ends_at for plan in self.nodes)])


def server_config(**settings: object) -> Config:
    """The configuration of a simulated server: relays for the clients' network, keeps every record."""
    defaults: dict[str, object] = {
        "hostname": "mx.elemta.test",
        "listen_addr": f"{SERVER_ADDRESS}:25",
        "allowed_relays": (CLIENT_NETWORK,),
        "message_retention_hours": _KEPT_HOURS,
        "web": WebSection(enabled=False),
        "limits": LimitsSection(max_connections_per_address=50),
    }
    return Config(**{**defaults, **settings})  # type: ignore[arg-type]  # the classes check what they are given


def name_with_mx(*hosts: str, failing_until: float = 0.0) -> Name:
    """A domain whose mail goes to these hosts, in this order."""
    exchangers = tuple(MailExchanger(10 * index, host) for index, host in enumerate(hosts, 1))
    return Name(exchangers, failing_until=failing_until)


# ---- from a seed ---------------------------------------------------------------------------------

#: Troubles of hosts that may last for ever: mail to them may bounce.
_TROUBLES: tuple[Mapping[str, object], ...] = (
    {},
    {},
    {"greylists": 1},
    {"greylists": 2},
    {"mails_per_connection": 1},
    {"mails_per_connection": 2, "mails_per_minute": 3},
    {"resets": 2},
    {"resets": 6},
    {"slow": 4.0},
    {"slow": 30.0},
    {"stalls": 1},
    {"refuses": True},
    {"busy_until": 900.0},
    {"final_defers": 2},
    {"final_refuses": True},
    {"drops": 1},
    {"drops": 2},
    {"drops": 2, "keeps_dropped": False},
    {"drops": 100},
    {"helo_only": True, "pipelining": False},
    {"off": ((30.0, 700.0),)},
    {"silent": ((20.0, 500.0),)},
    {"silent": ((0.0, 40 * _DAY),)},
)
#: Troubles that pass before any retry schedule ends: what the senders' own host may have.
_PASSING: tuple[Mapping[str, object], ...] = (
    {},
    {},
    {},
    {"greylists": 1},
    {"resets": 1},
    {"drops": 1},
    {"slow": 2.0},
    {"mails_per_connection": 1},
    {"final_defers": 1},
)
_SCHEDULES = ((60.0, 300.0, 900.0), (10.0, 60.0), (300.0, 3600.0), (60.0, 300.0, 900.0, 3600.0))
_DOMAINS = ("one.test", "two.test", "three.test", "four.test", "five.test")


def draw(seed: int) -> Scenario:
    """The scenario of a seed: some hosts, some trouble, some mails, some crashes."""
    chance = chance_of(seed, "scenario")
    domains = _DOMAINS[: chance.randint(2, 5)]
    hosts, names = _internet(chance, domains)
    least = chance.choice((0.0005, 0.005, 0.05))
    scenario = Scenario(
        seed=seed,
        config=_config(chance),
        hosts=hosts,
        names=names,
        clients=_clients(chance, (*domains, "nowhere.test")),
        store=_store_plan(chance),
        crashes=_crashes(chance),
        downtime=chance.choice((0.0, 1.0, 20.0, 200.0)),
        steps=(ClockStep(chance.uniform(10, 1000), chance.choice((-600.0, 600.0, 7200.0))),)
        if chance.random() < 0.05
        else (),
        latency=Latency(least, least * chance.choice((1.0, 4.0, 10.0))),
    )
    scenario = _with_lmtp(scenario, domains, chance_of(seed, "lmtp"))
    orders = _orders(scenario, domains, chance_of(seed, "orders"))
    scenario = evolve(scenario, orders=orders, drains=_drains(scenario, chance_of(seed, "drains")))
    return _with_priorities(scenario, domains, chance_of(seed, "priorities"))


def _config(chance: Random) -> Config:
    routes: tuple[RouteSection, ...] = ()
    if chance.random() < 0.15:
        routes = (RouteSection("*", TransportName.SMTP, host="relay.test", port=25),)
    return server_config(
        max_workers=chance.choice((1, 2, 3, 4, 8, 100)),
        max_retries=chance.randint(4, 7),
        max_queue_time=chance.choice((3600.0, 14_400.0, _DAY)),
        retry_schedule=chance.choice(_SCHEDULES),
        routes=routes,
    )


def _internet(chance: Random, domains: tuple[str, ...]) -> tuple[dict[str, Personality], dict[str, Name]]:
    hosts = {SENDER_ADDRESS: _personality(chance.choice(_PASSING))}
    names = {
        SENDER_DOMAIN: name_with_mx("mx.senders.test"),
        "mx.senders.test": Name(addresses=(SENDER_ADDRESS,)),
        # The smarthost of worlds that have one stands in for everybody.
        "relay.test": Name(addresses=(SENDER_ADDRESS,)),
    }
    for number, domain in enumerate(domains, 1):
        exchangers = []
        for preference in range(chance.choice((1, 1, 1, 2))):
            address = f"198.51.100.{number * 10 + preference}"
            hosts[address] = _personality(chance.choice(_TROUBLES), {"pipelining": chance.random() < 0.7})
            names[f"mx{preference}.{domain}"] = Name(addresses=(address,))
            exchangers.append(f"mx{preference}.{domain}")
        failing = chance.choice((0.0, 0.0, 0.0, 0.0, 600.0))
        names[domain] = name_with_mx(*exchangers, failing_until=failing)
    return hosts, names


def _personality(*traits: Mapping[str, object]) -> Personality:
    merged: dict[str, object] = {}
    for trait in reversed(traits):
        merged.update(trait)
    return Personality(**merged)  # type: ignore[arg-type]  # the tables above are written for it


def _clients(chance: Random, domains: tuple[str, ...]) -> tuple[ClientScript, ...]:
    clients = []
    mails = 0
    for number in range(chance.randint(2, 5)):
        scripts = []
        for _ in range(chance.randint(1, 4)):
            mails += 1
            scripts.append(_mail(chance, f"m{mails}", domains))
        clients.append(
            ClientScript(
                address=f"203.0.113.{number + 1}",
                at=chance.choice((0.0, chance.uniform(0, 30), chance.uniform(0, 600))),
                mails=tuple(scripts),
                pipelining=chance.random() < 0.5,
            )
        )
    return tuple(clients)


def _mail(chance: Random, tag: str, domains: tuple[str, ...]) -> MailScript:
    recipients = []
    for number in range(chance.choice((1, 1, 1, 2, 3, 5))):
        manner = chance.choice((*[Manner.TAKEN] * 7, Manner.REFUSED, Manner.LATER, Manner.NEVER))
        recipients.append(f"{manner.value}-{tag}-{number}@{chance.choice(domains)}")
    return MailScript(
        tag=tag,
        sender=f"{tag}@{SENDER_DOMAIN}",
        recipients=tuple(recipients),
        octets=chance.choice((100, 100, 2000, 2000, 30_000, 200_000)) if chance.random() < 0.5 else 400,
        vanishes_after=chance.randint(0, 900) if chance.random() < 0.1 else None,
    )


def _store_plan(chance: Random) -> StorePlan:
    if chance.random() < 0.4:
        return StorePlan()
    start = chance.uniform(5, 300)
    spans = ((start, start + chance.choice((3.0, 40.0, 400.0))),)
    return StorePlan(
        fail=chance.choice((0.0, 0.05, 0.3)),
        unknown=chance.choice((0.0, 0.05, 0.3)),
        slow=chance.choice((0.0, 0.2, 5.0, 90.0)),
        troubled_until=chance.choice((0.0, 60.0, 1200.0)),
        away=spans if chance.random() < 0.3 else (),
        full=spans if chance.random() < 0.3 else (),
    )


def _crashes(chance: Random) -> tuple[float, ...]:
    count = chance.choice((0, 0, 1, 1, 2, 3))
    return tuple(sorted(round(chance.choice((chance.uniform(0, 5), chance.uniform(0, 900))), 3) for _ in range(count)))


#: What listeners and routes say of priority: most say nothing.
_LEVELS = (None, None, "low", "normal", "high", "critical")


def _with_priorities(scenario: Scenario, domains: tuple[str, ...], chance: Random) -> Scenario:
    """In half of the worlds mails, a second listener and routes have priorities."""
    if chance.random() < 0.5:
        return scenario
    listeners = tuple(ListenerSection(f"{SERVER_ADDRESS}:{port}", priority=chance.choice(_LEVELS)) for port in PORTS)
    routes = tuple(RouteSection(domain, TransportName.MX, priority=chance.choice(_LEVELS)) for domain in domains)
    clients = tuple(
        evolve(
            client,
            port=chance.choice(PORTS),
            mails=tuple(
                evolve(mail, mt_priority=chance.choice((None, chance.randint(-9, 9)))) for mail in client.mails
            ),
        )
        for client in scenario.clients
    )
    # A smarthost stays for all, a local mail store for its domain.
    given = {route.domain for route in scenario.config.routes}
    routes = (*scenario.config.routes, *(route for route in routes if not given & {"*", route.domain}))
    return evolve(scenario, config=evolve(scenario.config, listeners=listeners, routes=routes), clients=clients)


#: What operators ask for; deleting is rare, so that most mails still have to arrive.
_VERBS = (Verb.HOLD, Verb.HOLD, Verb.HOLD, Verb.RELEASE, Verb.RETRY, Verb.RETRY, Verb.DELETE)


def _orders(scenario: Scenario, domains: tuple[str, ...], chance: Random) -> tuple[OrderScript, ...]:
    """In a third of the worlds an operator gives some orders: while mail comes in and is first tried, or later."""
    if chance.random() < 0.65:
        return ()
    mails = [mail for client in scenario.clients for mail in client.mails]
    orders = []
    for _ in range(chance.randint(1, 8)):
        mail = chance.choice(mails)
        chosen = chance.choice(
            (
                Filter(),
                Filter(states=frozenset({QueueState.DEFERRED})),
                Filter(recipient=f"@{chance.choice(domains)}"),
                Filter(destination=f"mx:{chance.choice((*domains, SENDER_DOMAIN))}"),
                Filter(sender=mail.sender),
                Filter(recipient=mail.recipients[0]),
            )
        )
        begun = chance.choice(scenario.clients).at
        at = chance.choice((begun + chance.uniform(0, 5), chance.uniform(0, 1500), chance.uniform(0, 5000)))
        orders.append(OrderScript(at, chance.choice(_VERBS), chosen))
    return tuple(orders)


def _drains(scenario: Scenario, chance: Random) -> tuple[Drain, ...]:
    """In a third of the worlds the server is stopped in order: while mail comes in or later, in time or too soon."""
    if chance.random() < 0.65:
        return ()
    moments = []
    for _ in range(chance.randint(1, 2)):
        begun = chance.choice(scenario.clients).at
        moments.append(chance.choice((begun + chance.uniform(0, 2), chance.uniform(0, 30), chance.uniform(0, 1500))))
    return tuple(Drain(round(at, 3), chance.choice((0.0, 1.0, 30.0, 700.0))) for at in sorted(moments))


def _with_lmtp(scenario: Scenario, domains: tuple[str, ...], chance: Random) -> Scenario:
    """In a third of the worlds without a smarthost, one domain's first host is a mail store that speaks LMTP."""
    if scenario.config.routes or chance.random() < 0.65:
        return scenario
    domain = chance.choice(domains)
    host = f"mx0.{domain}"
    (address,) = scenario.names[host].addresses
    defers = chance.choice((0, 1, 2, 3))
    nature = evolve(scenario.hosts[address], lmtp=True, final_defers=defers)
    route = RouteSection(domain, TransportName.LMTP, host=host, port=LMTP_PORT)
    config = evolve(scenario.config, routes=(route,))
    return evolve(scenario, config=config, hosts={**scenario.hosts, address: nature})
