"""All ways out behind one door: each mail goes to the transport of its route.

What is not here: which route a domain has (`delivery.routing`), or how any transport delivers.
Failures raised: `AttemptStopped`, and what the transport of a mail with a single destination raises. The queue turns
that into a deferral; here it is only done for a mail whose other recipients have their outcomes already.
"""

from collections.abc import Mapping, Sequence

from attrs import evolve
from structlog.typing import FilteringBoundLogger

from elemta.delivery.base import AttemptStopped, Gate, Job, Transport
from elemta.delivery.routing import Route, RoutingTable
from elemta.mail.address import Address
from elemta.mail.envelope import Priority
from elemta.mail.outcome import Deferred, Outcome
from elemta.mail.reply import Reply

#: RFC 3463 §3.4, other or undefined mail system status: the defect is ours.
_OUR_DEFECT = Reply(451, "4.3.0", "the delivery broke off with an internal error")


def _no_route(name: str) -> Reply:
    """RFC 3463 §3.4, system incorrectly configured: a mail goes nowhere else than where it was sent by name."""
    return Reply(
        451, "4.3.5", f"this mail is to go by the route {name!a}, which is not in the configuration of this node"
    )


class Router:
    """The `Delivery` of a configuration. `transports` has one for each of the table's `ways`.

    Raises `ValueError` when one is missing.
    """

    def __init__(
        self, table: RoutingTable, transports: Mapping[Route, Transport], *, log: FilteringBoundLogger
    ) -> None:
        missing = table.ways - transports.keys()
        if missing:
            raise ValueError(f"no transport for {missing}")
        self._table = table
        self._transports = {route: transports[route.way] for route in table.routes}
        self._log = log

    def destination(self, address: Address, route: str = "") -> str:
        """The key of the next hop for a recipient, by the route of that name if any."""
        return self._table.destination(address, route)

    def priority_for(self, address: Address, route: str = "") -> Priority | None:
        """The priority that the recipient's route, or the one of that name, asks for; None when it does not say."""
        return (self._table.named(route) or self._table.route(address.domain)).priority

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """One outcome a recipient, in the order of the envelope. Raises `AttemptStopped` when the gate closed."""
        if job.route and self._table.named(job.route) is None:
            self._log.error("delivery.no_such_route", queue_id=job.id, route=job.route)
            return [Deferred(_no_route(job.route))] * len(job.envelope.recipients)
        groups = self._groups(job)
        if len(groups) == 1:
            return await self._transport(job).deliver(job)
        return await self._deliver_apart(job, groups)

    def _transport(self, job: Job) -> Transport:
        named = self._table.named(job.route)
        return self._transports[named or self._table.route(job.envelope.recipients[0].address.domain)]

    def _groups(self, job: Job) -> list[list[int]]:
        """The recipients' indexes by destination: one group, unless the configuration changed since the mail came."""
        recipients = job.envelope.recipients
        if len(recipients) == 1:
            return [[0]]
        groups: dict[str, list[int]] = {}
        for index, recipient in enumerate(recipients):
            groups.setdefault(self._table.destination(recipient.address, job.route), []).append(index)
        return list(groups.values())

    async def _deliver_apart(self, job: Job, groups: Sequence[Sequence[int]]) -> Sequence[Outcome]:
        found: dict[int, Outcome] = {}
        gate = _RememberingGate(job.gate)
        for indexes in groups:
            recipients = tuple(job.envelope.recipients[index] for index in indexes)
            part = evolve(job, envelope=evolve(job.envelope, recipients=recipients), gate=gate)
            found.update(zip(indexes, await self._deliver_part(part, gate), strict=True))
        return [found[index] for index in range(len(job.envelope.recipients))]

    async def _deliver_part(self, part: Job, gate: "_RememberingGate") -> Sequence[Outcome]:
        """The outcomes of one group; a defect costs only this group its attempt."""
        try:
            outcomes = await self._transport(part).deliver(part)
            if len(outcomes) == len(part.envelope.recipients):
                return outcomes
            self._log.error("delivery.defect", queue_id=part.id, outcomes=len(outcomes))
        except AttemptStopped:
            raise
        except Exception as error:
            self._log.error("delivery.defect", queue_id=part.id, error=str(error), exc_info=error)
        return [Deferred(_OUR_DEFECT, uncertain=gate.opened)] * len(part.envelope.recipients)


class _RememberingGate:
    """A gate that stays open: what one group was delivered through must not be taken back by the next."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.opened = False

    async def __call__(self) -> bool:
        if not self.opened:
            self.opened = await self._gate()
        return self.opened
