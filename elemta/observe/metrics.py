"""The server's metrics, under the original's names.

What is not here: their exposition over HTTP (`web`), or log events (`observe.log`).
Every server has its own registry: nothing is global, and two servers in one process do not add up.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

#: Octets: from a short note to the default `max_size`.
_SIZE_BUCKETS_OCTETS = (1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 26_214_400)
#: Seconds: from a kept connection on loopback to RFC 5321 §4.5.3.2.6.
_DELIVERY_BUCKETS_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 5, 30, 120, 600)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._sessions()
        self._logins()
        self._mails()
        self._deliveries()
        self._plugins()

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _sessions(self) -> None:
        self.connections = self._counter("elemta_connections_total", "Connections accepted")
        self.connections_active = Gauge("elemta_connections_active", "Connections open now", registry=self.registry)
        self.connection_errors = self._counter(
            "elemta_connection_errors_total", "Connections that ended badly", ("cause",)
        )
        self.connection_duration = Histogram(
            "elemta_connection_duration_seconds",
            "How long connections lasted",
            registry=self.registry,
            buckets=(0.01, 0.1, 1, 10, 60, 300, 1800),
        )

    def _logins(self) -> None:
        self.auth_attempts = self._counter("elemta_auth_attempts_total", "Exchanges of AUTH begun", ("mechanism",))
        self.auth_successes = self._counter("elemta_auth_successes_total", "Clients authenticated", ("mechanism",))
        self.auth_failures = self._counter("elemta_auth_failures_total", "Exchanges of AUTH that failed", ("cause",))

    def _mails(self) -> None:
        self.messages_received = self._counter("elemta_messages_received_total", "Mails answered 250")
        self.messages_refused = self._counter("elemta_messages_refused_total", "Mails not taken", ("code",))
        self.message_size = Histogram(
            "elemta_message_size_bytes",
            "Octets of accepted mails",
            registry=self.registry,
            buckets=_SIZE_BUCKETS_OCTETS,
        )
        self.queue_size = Gauge("elemta_queue_size", "Mails in the queue", ("queue_type",), registry=self.registry)
        self.commits = self._counter("elemta_store_commits_total", "Batches made durable")
        self.committed_changes = self._counter("elemta_store_changes_total", "Changes in those batches")
        self.store_failures = self._counter("elemta_store_failures_total", "Batches the store failed")

    def _deliveries(self) -> None:
        self.messages_delivered = self._counter("elemta_messages_delivered_total", "Recipients delivered")
        self.messages_failed = self._counter("elemta_messages_failed_total", "Recipients given up")
        self.delivery_attempts = self._counter("elemta_delivery_attempts_total", "Attempts, one a mail")
        self.delivery_successes = self._counter("elemta_delivery_successes_total", "Attempts that delivered")
        self.delivery_failures = self._counter(
            "elemta_delivery_failures_total", "Attempts that did not deliver, by result", ("result",)
        )
        self.delivery_duration = Histogram(
            "elemta_delivery_duration_seconds",
            "How long attempts took",
            registry=self.registry,
            buckets=_DELIVERY_BUCKETS_SECONDS,
        )
        self.queue_waiting = Gauge(
            "elemta_queue_oldest_due_seconds", "How long the longest due mail waits", registry=self.registry
        )
        self.uncertain = self._counter("elemta_delivery_uncertain_total", "Attempts whose outcome was never learnt")

    def _plugins(self) -> None:
        #: What each plugin took, by its name. A counter would cost a call of nothing more than the call.
        self.plugin_seconds: dict[str, float] = defaultdict(float)
        self.registry.register(_PluginSeconds(self.plugin_seconds))
        self.plugin_verdicts = self._counter(
            "elemta_plugin_verdicts_total", "What plugins decided, but for going on", ("plugin", "verdict")
        )
        self.plugin_failures = self._counter(
            "elemta_plugin_failures_total", "Calls that raised, took too long, or answered nonsense", ("plugin",)
        )

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _PluginSeconds(Collector):
    """The time of each plugin, looked up when somebody asks for metrics."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = seconds

    def collect(self) -> Iterator[Metric]:
        """One counter a plugin."""
        family = CounterMetricFamily("elemta_plugin_seconds", "Time that plugins took", labels=["plugin"])
        for plugin, seconds in self._seconds.items():
            family.add_metric([plugin], seconds)
        yield family
