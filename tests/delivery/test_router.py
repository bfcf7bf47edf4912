"""The router: which transport gets which recipients, in which order outcomes come back, what a defect costs."""

import io
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from attrs import define, evolve, field

from elemta.config.sections import Config, RouteSection, TransportName
from elemta.delivery.base import AttemptStopped, Job
from elemta.delivery.router import Router
from elemta.delivery.routing import Route, RoutingTable
from elemta.mail.envelope import Priority
from elemta.mail.outcome import Deferred, Delivered, Outcome
from elemta.mail.reply import Reply
from elemta.observe.log import make_logger
from tests.delivery.jobs import address, attempt

SMTP, DISCARD, INBOX, MX = TransportName.SMTP, TransportName.DISCARD, TransportName.INBOX, TransportName.MX


@define
class Recorder:
    """A transport that says in its replies who was delivered, after what `script` does."""

    name: str
    seen: list[list[str]] = field(factory=list)
    raises: BaseException | None = None
    drops: int = 0
    asks_gate: bool = True

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        recipients = [str(recipient.address) for recipient in job.envelope.recipients]
        self.seen.append(recipients)
        if self.asks_gate and not await job.gate():
            raise AttemptStopped
        if self.raises is not None:
            raise self.raises
        return [Delivered(Reply(250, "2.0.0", f"{self.name} {each}")) for each in recipients][self.drops :]


CONFIG = Config(
    hostname="mx.example.net",
    routes=(
        RouteSection("a.example", SMTP, host="one.example", priority="high"),
        RouteSection("b.example", SMTP, host="two.example"),
        RouteSection("c.example", SMTP, host="one.example"),
        RouteSection("*", MX),
        RouteSection("*", SMTP, name="archive", host="archive.example", priority="low"),
    ),
)


class Ways:
    """A router over recorders; its log can be read."""

    def __init__(self) -> None:
        table = RoutingTable(CONFIG)
        self.log = io.StringIO()
        self.by_host = {route.host: Recorder(route.host or "mx") for route in table.ways}
        transports = {route: self.by_host[route.host] for route in table.ways}
        self.router = Router(table, transports, log=make_logger("info", "console", self.log))


def texts(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.reply.text for outcome in outcomes]


async def test_a_mail_for_one_destination_goes_as_it_is() -> None:
    ways = Ways()
    tried = attempt("x@a.example", "y@c.example")  # two routes, one smarthost
    assert texts(await ways.router.deliver(tried.job)) == ["one.example x@a.example", "one.example y@c.example"]
    assert ways.by_host["one.example"].seen == [["x@a.example", "y@c.example"]]
    assert tried.gate.asked == 1


async def test_outcomes_come_in_the_order_of_the_envelope() -> None:
    ways = Ways()
    tried = attempt("1@a.example", "2@b.example", "3@d.example", "4@c.example", "5@b.example", "6@e.example")
    assert texts(await ways.router.deliver(tried.job)) == [
        "one.example 1@a.example",
        "two.example 2@b.example",
        "mx 3@d.example",
        "one.example 4@c.example",
        "two.example 5@b.example",
        "mx 6@e.example",
    ]
    assert ways.by_host[""].seen == [["3@d.example"], ["6@e.example"]]  # two domains are two destinations
    assert tried.gate.asked == 1  # once open it stays open


async def test_a_closed_gate_stops_the_attempt() -> None:
    for recipients in (["1@a.example"], ["1@a.example", "2@b.example"]):
        with pytest.raises(AttemptStopped):
            await Ways().router.deliver(attempt(*recipients, opens=False).job)


@pytest.mark.parametrize("asks_gate", [True, False])
async def test_a_defect_costs_only_its_own_group(asks_gate: bool) -> None:
    ways = Ways()
    bad = ways.by_host["two.example"]
    bad.raises, bad.asks_gate = RuntimeError("a defect of ours"), asks_gate
    ways.by_host["one.example"].asks_gate = False
    first, second, third = await ways.router.deliver(attempt("1@b.example", "2@a.example", "3@b.example").job)
    assert isinstance(second, Delivered)
    assert first == third == Deferred(Reply(451, "4.3.0", first.reply.text), uncertain=asks_gate)
    assert "a defect of ours" in ways.log.getvalue()


async def test_a_transport_that_forgets_a_recipient() -> None:
    ways = Ways()
    ways.by_host["two.example"].drops = 1
    first, second, third = await ways.router.deliver(attempt("1@b.example", "2@a.example", "3@b.example").job)
    assert isinstance(second, Delivered)
    assert isinstance(first, Deferred)
    assert isinstance(third, Deferred)
    assert "defect" in ways.log.getvalue()


async def test_a_defect_with_a_single_destination_is_the_queues_to_judge() -> None:
    ways = Ways()
    ways.by_host["one.example"].raises = RuntimeError("a defect of ours")
    with pytest.raises(RuntimeError):
        await ways.router.deliver(attempt("1@a.example").job)


async def test_cancellation_passes(autojump_clock: trio.testing.MockClock) -> None:
    class Sleeper:
        async def deliver(self, job: Job) -> Sequence[Outcome]:
            await trio.sleep_forever()
            return []

    table = RoutingTable(CONFIG)
    router = Router(table, dict.fromkeys(table.ways, Sleeper()), log=make_logger("info", "console", io.StringIO()))
    with trio.move_on_after(1) as scope:
        await router.deliver(attempt("1@a.example", "2@b.example").job)
    assert scope.cancelled_caught


def test_what_the_routes_say_of_a_recipient() -> None:
    router = Ways().router
    assert router.priority_for(address("x@a.example")) is Priority.HIGH
    assert router.priority_for(address("x@b.example")) is None
    assert router.priority_for(address("x@a.example"), "archive") is Priority.LOW
    assert router.destination(address("x@c.example")) == "smtp:one.example:25"
    assert router.destination(address("x@d.example")) == "mx:d.example"


def test_every_way_needs_a_transport() -> None:
    table = RoutingTable(Config(hostname="x", routes=(RouteSection("a.example", DISCARD),)))
    transports = {Route(DISCARD): Recorder("discard")}
    with pytest.raises(ValueError, match="MX"):
        Router(table, transports, log=make_logger("info", "console", io.StringIO()))


async def test_a_mail_goes_by_the_route_that_was_chosen_for_it_by_name() -> None:
    ways = Ways()
    assert ways.router.destination(address("x@a.example"), "archive") == "smtp:archive.example:25"
    tried = attempt("x@a.example", "y@b.example")
    outcomes = await ways.router.deliver(evolve(tried.job, route="archive"))
    assert texts(outcomes) == ["archive.example x@a.example", "archive.example y@b.example"]
    assert tried.gate.asked == 1


async def test_a_route_that_is_gone_puts_the_mail_off() -> None:
    """By its domain it might go where it was never meant to."""
    ways = Ways()
    tried = attempt("x@a.example")
    (outcome,) = await ways.router.deliver(evolve(tried.job, route="gone"))
    assert isinstance(outcome, Deferred)
    assert outcome.reply.enhanced == "4.3.5"
    assert "'gone'" in outcome.reply.text
    assert outcome.reply.text.isascii()
    assert tried.gate.asked == 0
    assert "delivery.no_such_route" in ways.log.getvalue()


def test_in_dev_mode_every_name_leads_to_the_inbox() -> None:
    table = RoutingTable(evolve(CONFIG, dev_mode=True))
    assert table.named("archive") == table.route("a.example")
