"""What the pages behind the control socket work with.

What is not here: any page.
"""

from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.observe.metrics import Metrics
from elemta.runtime.clock import Clock
from elemta.web.base import Health, Identity, Inbox, QueueAdmin, Siblings


@frozen
class Control:
    """The services of one server. `inbox` is None where none is kept, `siblings` where one process does all."""

    queue: QueueAdmin
    inbox: Inbox | None
    health: Health
    metrics: Metrics
    clock: Clock
    identity: Identity
    log: FilteringBoundLogger
    siblings: Siblings | None = None
