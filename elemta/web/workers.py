"""The figures of the whole server, whichever of its worker processes is asked.

What is not here: how the answers become one (`web.aggregate`), the road to the other workers (`supervisor.siblings`).
Every worker answers for all, so that there is an answer while any of them lives.
"""

import orjson

from elemta.observe.metrics import Metrics
from elemta.web.aggregate import Exposition, readiness, readiness_of_all
from elemta.web.base import Health, Siblings


class Figures:
    """The figures of a server; `siblings` is None where one process does all."""

    def __init__(self, health: Health, metrics: Metrics, siblings: Siblings | None) -> None:
        self._health = health
        self._metrics = metrics
        self._siblings = siblings

    async def readiness(self) -> dict[str, object]:
        """Whether mail can be taken and delivered, with the checks, and with the workers where there are several."""
        siblings = self._siblings
        if siblings is None:
            return readiness(self._health.checks())
        found = await siblings.ask("/readyz")
        others = {number: None if text is None else _checks(text) for number, text in found.items()}
        return readiness_of_all({siblings.number: self._health.checks(), **others})

    async def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        siblings = self._siblings
        return self._metrics.exposition() if siblings is None else (await self._merged(siblings)).render()

    async def totals(self, *names: str) -> list[float | None]:
        """The values of counters without labels."""
        siblings = self._siblings
        if siblings is None:
            return [self._metrics.registry.get_sample_value(name) for name in names]
        merged = await self._merged(siblings)
        return [merged.total(name) for name in names]

    async def _merged(self, siblings: Siblings) -> Exposition:
        others = await siblings.ask("/metrics")
        merged = Exposition(self._metrics.exposition())
        merged.mark(siblings.number, up=True)
        for number, text in others.items():
            if text is not None:
                merged.add(text)
            merged.mark(number, up=text is not None)
        return merged


def _checks(text: bytes) -> dict[str, str] | None:
    """The checks of another worker's `/readyz`; None for a text that is none."""
    try:
        return {str(name): str(check["reason"]) for name, check in orjson.loads(text)["checks"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
