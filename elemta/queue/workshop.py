"""What every part of the live queue works with.

What is not here: any behaviour.
"""

from attrs import define
from structlog.typing import FilteringBoundLogger

from elemta.delivery.base import Delivery
from elemta.observe.metrics import Metrics
from elemta.plugins.chain import Chain
from elemta.queue.options import QueueOptions
from elemta.queue.spool import Spool
from elemta.runtime.world import Runtime
from elemta.storage.base import QueueStore


@define(eq=False)
class Workshop:
    """The rooms below, and the one spool in front of the store.

    A reload puts other `delivery`, `options` and `plugins` in their place, between two attempts as well as within one.
    """

    store: QueueStore
    spool: Spool
    delivery: Delivery
    runtime: Runtime
    options: QueueOptions
    log: FilteringBoundLogger
    metrics: Metrics
    #: None without plugins.
    plugins: Chain | None = None
