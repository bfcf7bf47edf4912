"""Pages that say whether the server lives, is ready, how much it does.

What is not here: the checks (`supervisor.health`), the metrics (`observe.metrics`), or how those of several worker
processes become one (`web.workers`).
"""

import math

import trio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from elemta.observe.metrics import Metrics
from elemta.storage.base import StoreUnavailable
from elemta.storage.records import QueueState
from elemta.web.answers import JsonAnswer
from elemta.web.base import QueueAdmin
from elemta.web.workers import Figures

#: Seconds for which the counts of the queue are good: to count a million mails costs the store something.
COUNTS_SECONDS = 5.0
#: Seconds that a scrape waits for the store; Prometheus itself waits 10.
COUNTING_SECONDS = 3.0


class QueueSizes:
    """The queue's sizes in the metrics, asked of the store at most every `COUNTS_SECONDS`, by one task at a time."""

    def __init__(self, queue: QueueAdmin, metrics: Metrics) -> None:
        self._queue = queue
        self._metrics = metrics
        self._good_until = -math.inf

    async def refresh(self) -> None:
        """Make the sizes current; a store that is away or slow leaves them as they are."""
        now = trio.current_time()
        if now < self._good_until:
            return
        # Set before the wait, so that others who come meanwhile are answered with what is there.
        self._good_until = now + COUNTS_SECONDS
        try:
            with trio.move_on_after(COUNTING_SECONDS):
                counts = await self._queue.counts()
                for state in QueueState:
                    self._metrics.queue_size.labels(state.value).set(counts.get(state, 0))
        except StoreUnavailable:
            pass


class HealthPages:
    """`/livez`, `/readyz`, `/metrics`."""

    def __init__(self, figures: Figures, sizes: QueueSizes | None) -> None:
        self._figures = figures
        self._sizes = sizes

    def routes(self) -> list[Route]:
        """Where they are. `GET` answers `HEAD` as well."""
        return [
            Route("/livez", self.livez, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def livez(self, _request: Request) -> Response:
        """200 as long as the event loop turns: restart the server when this does not answer."""
        return JsonAnswer({"alive": True})

    async def readyz(self, _request: Request) -> Response:
        """200 when mail can be taken and delivered, else 503; each check with its reason."""
        says = await self._figures.readiness()
        return JsonAnswer(says, 200 if says["ready"] else 503)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text format."""
        if self._sizes is not None:
            await self._sizes.refresh()
        return Response(await self._figures.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})
