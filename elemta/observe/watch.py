"""Where a server says what it does.

What is not here: the log (`observe.log`), the metrics (`observe.metrics`) themselves.
"""

from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.observe.metrics import Metrics


@frozen
class Watch:
    """The log, and the metrics."""

    log: FilteringBoundLogger
    metrics: Metrics
