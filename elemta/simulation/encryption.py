"""The TLS of worlds, drawn from a seed.

What is not here: everything else that a world has (`simulation.scenario`, `simulation.fleet`), or making it happen.
The draws are of a stream of their own, so that worlds without TLS are what they were before there was any.
Failures raised: none.
"""

from collections.abc import Mapping
from random import Random

from attrs import evolve

from elemta.config.sections import Config, ListenerSection, RouteSection, RouteTls, TransportName
from elemta.config.tls import TlsMode, TlsSection
from elemta.simulation.clients import ClientScript, TlsScript
from elemta.simulation.clock import chance_of
from elemta.simulation.personality import SMTPS_PORT, Handshake, Personality, Shown
from elemta.simulation.scenario import (
    CA_FILE,
    CERT_FILE,
    SENDER_ADDRESS,
    SENDER_DOMAIN,
    SERVER_ADDRESS,
    Scenario,
)

#: The share of worlds that speak TLS: each costs twice as much as another, see `docs/simulation.md`.
TLS_SHARE = 0.3

#: Tries of a client that speaks TLS, beyond those of others.
_MORE_TRIES = 3

_WORKS = Handshake.WORKS
#: What hosts do about STARTTLS, most of them something sound.
_STARTTLS: tuple[tuple[Handshake | None, ...], ...] = (
    (None,),
    (None,),
    (_WORKS,),
    (_WORKS,),
    (_WORKS,),
    (_WORKS,),
    (_WORKS,),
    (_WORKS, None),
    (None, _WORKS),
    (Handshake.REFUSED,),
    (Handshake.REFUSED, _WORKS),
    (Handshake.STALLS,),
    (Handshake.STALLS, _WORKS),
    (Handshake.GARBAGE,),
    (Handshake.GARBAGE, Handshake.CLOSES, _WORKS),
    (Handshake.CLOSES,),
    (_WORKS, Handshake.CLOSES),
    (Handshake.INJECTED,),
    (Handshake.INJECTED, _WORKS),
)
#: What the host of the senders may do: it gets every report in the end.
_PASSING: tuple[tuple[Handshake | None, ...], ...] = (
    (None,),
    (_WORKS,),
    (_WORKS,),
    (_WORKS, None),
    (Handshake.REFUSED, _WORKS),
    (Handshake.GARBAGE, _WORKS),
    (Handshake.CLOSES, _WORKS),
)
_DEMANDS = (None, None, RouteTls.MAY, RouteTls.NONE, RouteTls.REQUIRE, RouteTls.REQUIRE, RouteTls.VERIFY)
_SHOWN = (Shown.GOOD, Shown.GOOD, Shown.GOOD, Shown.OTHER_NAME, Shown.OTHER_AUTHORITY)


def with_tls(scenario: Scenario) -> Scenario:
    """The same world; in a share of them the server, its clients, the hosts speak TLS."""
    chance = chance_of(scenario.seed, "tls")
    if chance.random() >= TLS_SHARE:
        return scenario
    #: In some worlds mail asks for REQUIRETLS, and the senders' host can take reports of it.
    requires = chance.random() < 0.4
    clients = tuple(_client(client, chance, requires=requires) for client in scenario.clients)
    hosts = {address: _host(nature, chance) for address, nature in scenario.hosts.items()}
    senders = hosts[SENDER_ADDRESS]
    if requires:
        hosts[SENDER_ADDRESS] = evolve(senders, starttls=(_WORKS,), shown=Shown.GOOD, requiretls=True)
    else:
        hosts[SENDER_ADDRESS] = evolve(senders, starttls=chance.choice(_PASSING), shown=Shown.GOOD)
    scenario = evolve(scenario, hosts=hosts, clients=clients)
    scenario = evolve(scenario, config=_config(scenario, chance))
    return evolve(scenario, hosts=_with_implicit(scenario))


def _client(client: ClientScript, chance: Random, *, requires: bool) -> ClientScript:
    if chance.random() < 0.3:
        return client
    tls = TlsScript(
        implicit=chance.random() < 0.3,
        old=chance.random() < 0.3,
        first=chance.choice((*[_WORKS] * 6, *(each for each in Handshake if each is not Handshake.REFUSED))),
        ends_after=chance.randint(0, 1200) if chance.random() < 0.15 else None,
    )
    mails = tuple(evolve(mail, require_tls=requires and chance.random() < 0.5) for mail in client.mails)
    port = SMTPS_PORT if tls.implicit else client.port
    # Its first try may be spent on a handshake.
    return evolve(client, tls=tls, mails=mails, port=port, tries=client.tries + _MORE_TRIES)


def _host(nature: Personality, chance: Random) -> Personality:
    return evolve(
        nature,
        starttls=chance.choice(_STARTTLS),
        shown=chance.choice(_SHOWN),
        old_tls=chance.random() < 0.25,
        requiretls=chance.random() < 0.5,
    )


def _config(scenario: Scenario, chance: Random) -> Config:
    config = scenario.config
    tls = TlsSection(
        enabled=True, listen_addr=f"{SERVER_ADDRESS}:{SMTPS_PORT}", cert_file=CERT_FILE, key_file=CERT_FILE
    )
    listeners = config.listeners
    if listeners:
        implicit = ListenerSection(tls.listen_addr, tls=TlsMode.IMPLICIT, priority=chance.choice((None, "low", "high")))
        listeners = (*(evolve(each, tls=TlsMode.STARTTLS) for each in listeners), implicit)
    routes = tuple(_demand(route, chance) for route in _routes(scenario, chance))
    return evolve(config, tls=tls, listeners=listeners, routes=routes)


def _routes(scenario: Scenario, chance: Random) -> tuple[RouteSection, ...]:
    """A route for every domain, so that each can ask for something; one of them may lead to a port of implicit TLS."""
    given = scenario.config.routes
    if any(route.domain == "*" for route in given):
        return given
    domains = [name for name, known in scenario.names.items() if known.exchangers]
    return (*given, *(_route(scenario, domain, chance) for domain in domains if domain not in _domains(given)))


def _domains(routes: tuple[RouteSection, ...]) -> set[str]:
    return {route.domain for route in routes}


def _route(scenario: Scenario, domain: str, chance: Random) -> RouteSection:
    if domain == SENDER_DOMAIN or chance.random() < 0.8:
        return RouteSection(domain, TransportName.MX)
    host = scenario.names[domain].exchangers[0].host
    return RouteSection(domain, TransportName.SMTP, host=host, port=SMTPS_PORT, implicit_tls=True)


def _demand(route: RouteSection, chance: Random) -> RouteSection:
    demand = chance.choice(_DEMANDS)
    if route.domain in {SENDER_DOMAIN, "*"}:
        demand = chance.choice((None, RouteTls.MAY))
    elif route.implicit_tls and demand is RouteTls.NONE:
        demand = RouteTls.MAY
    return evolve(route, tls=demand, tls_ca_file=CA_FILE)


def _with_implicit(scenario: Scenario) -> Mapping[str, Personality]:
    """The hosts, listening where the routes go."""
    hosts = dict(scenario.hosts)
    for route in scenario.config.routes:
        if route.implicit_tls:
            assert route.host is not None
            for address in scenario.names[route.host].addresses:
                hosts[address] = evolve(hosts[address], implicit_tls=True)
    return hosts
