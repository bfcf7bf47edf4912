"""What the pages behind the control socket work with.

What is not here: any page.
"""

from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.observe.metrics import Metrics
from elemta.runtime.clock import Clock
from elemta.storage.base import QueueStore, SharedStore
from elemta.web.base import Health, Identity, Inbox, QueueAdmin, Siblings


@frozen
class Control:
    """The services of one server. `store` is what `queue` lies in, `shared` the same where several nodes use it.

    `inbox` is None where none is kept, `siblings` where one process does all.
    """

    queue: QueueAdmin
    store: QueueStore
    inbox: Inbox | None
    health: Health
    metrics: Metrics
    clock: Clock
    identity: Identity
    log: FilteringBoundLogger
    shared: SharedStore | None = None
    siblings: Siblings | None = None
