"""What several worker processes say of themselves, as one.

What is not here: asking them (`web.workers`). Each worker's text is Prometheus' own format, each worker's readiness the
document of its `/readyz`.
"""

import enum
from collections.abc import Callable, Iterable, Mapping

from attrs import frozen
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

#: The name of a sample, and its labels in order.
_Key = tuple[str, tuple[tuple[str, str], ...]]

#: Checks that say what is wrong of a server that is ready all the same.
ADVISORY = frozenset({"auth"})

#: How many workers there should be is the number of its series, how many there are is their sum.
_UP = "elemta_workers_up"


class Merge(enum.Enum):
    """How the samples of several workers become one."""

    #: Counters, histograms, gauges of what each worker has for itself.
    SUM = enum.auto()
    #: The worst of them.
    MOST = enum.auto()
    #: The oldest of them, the certificate that ends first.
    LEAST = enum.auto()
    #: The asked worker's own: all would say the same of the queue that they share.
    OWN = enum.auto()


_BY_NAME = {
    "elemta_queue_size": Merge.OWN,
    "elemta_queue_oldest_due_seconds": Merge.MOST,
    "elemta_tls_certificate_valid": Merge.LEAST,
    "elemta_tls_certificate_expiry_seconds": Merge.LEAST,
}
_COMBINE: Mapping[Merge, Callable[[float, float], float]] = {
    Merge.SUM: lambda so_far, more: so_far + more,
    Merge.MOST: max,
    Merge.LEAST: min,
    Merge.OWN: lambda own, _: own,
}


def merge_of(sample: str) -> Merge:
    """How samples of this name are merged."""
    if sample.endswith("_created"):
        return Merge.LEAST
    return _BY_NAME.get(sample, Merge.SUM)


class Exposition:
    """The metrics of a whole server: those of the asked worker, with the others' added.

    Raises `ValueError` for a text that is none of Prometheus'.
    """

    def __init__(self, own: bytes) -> None:
        self._families: dict[str, Metric] = {}
        self._values: dict[_Key, float] = {}
        self._up: dict[int, bool] = {}
        for family in text_string_to_metric_families(own.decode()):
            self._families[family.name] = family
            self._take(family)

    def add(self, text: bytes) -> None:
        """Add what another worker says."""
        for family in list(text_string_to_metric_families(text.decode())):
            known = self._families.setdefault(family.name, family)
            if known is not family:
                there = {_key(sample.name, sample.labels) for sample in known.samples}
                known.samples += [one for one in family.samples if _key(one.name, one.labels) not in there]
            self._take(family)

    def _take(self, family: Metric) -> None:
        for sample in family.samples:
            key = _key(sample.name, sample.labels)
            so_far = self._values.get(key)
            combine = _COMBINE[merge_of(sample.name)]
            self._values[key] = sample.value if so_far is None else combine(so_far, sample.value)

    def mark(self, worker: int, *, up: bool) -> None:
        """Say whether a worker answers."""
        self._up[worker] = up

    def total(self, name: str) -> float | None:
        """The value of a sample without labels."""
        return self._values.get((name, ()))

    def render(self) -> bytes:
        """Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(self._collect))
        return generate_latest(registry)

    def _collect(self) -> Iterable[Metric]:
        for family in self._families.values():
            merged = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                merged.add_sample(sample.name, sample.labels, self._values[_key(sample.name, sample.labels)])
            yield merged
        up = Metric(_UP, "Whether a worker process answers", "gauge")
        for worker, says in sorted(self._up.items()):
            up.add_sample(_UP, {"worker": str(worker)}, float(says))
        yield up


def _key(name: str, labels: Mapping[str, str]) -> _Key:
    return name, tuple(sorted(labels.items()))


@frozen
class _Collected(Collector):
    families: Callable[[], Iterable[Metric]]

    def collect(self) -> Iterable[Metric]:
        return self.families()


def is_ready(checks: Mapping[str, str]) -> bool:
    """Whether mail can be taken and delivered, by these checks."""
    return not any(reason for name, reason in checks.items() if name not in ADVISORY)


def readiness(checks: Mapping[str, str]) -> dict[str, object]:
    """What `/readyz` and the status page say of the checks of one process."""
    return {
        "ready": is_ready(checks),
        "checks": {name: {"ok": not reason, "reason": reason} for name, reason in checks.items()},
    }


def readiness_of_all(workers: Mapping[int, Mapping[str, str] | None]) -> dict[str, object]:
    """What `/readyz` says of several workers, each with its checks, None for one that does not answer.

    The server is ready when one of them is. The checks are those of the first that is ready, else of the first that
    answers: the worker that was asked always does.
    """
    answering = {number: checks for number, checks in workers.items() if checks is not None}
    ready = [number for number, checks in answering.items() if is_ready(checks)]
    shown = answering[min(ready or answering)]
    # Those shown are good exactly when somebody is ready.
    return {
        **readiness(shown),
        "workers": {
            str(number): {"ready": number in ready, "reason": _reason(checks)}
            for number, checks in sorted(workers.items())
        },
    }


def _reason(checks: Mapping[str, str] | None) -> str:
    if checks is None:
        return "does not answer: it is being started again, or it hangs"
    return "; ".join(reason for reason in checks.values() if reason)
