"""The metrics of TLS with clients, under the original's names.

What is not here: those of renewals (`tls.acme.metrics`).
"""

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from elemta.tls.served import Served


class TlsMetrics:
    """Handshakes, and how old the certificates are."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connections = Counter(
            "elemta_tls_connections_total", "Handshakes with clients that succeeded", ("version",), registry=registry
        )
        self.failures = Counter(
            "elemta_tls_handshake_failures_total",
            "Handshakes with clients that failed or were refused",
            ("cause",),
            registry=registry,
        )
        self.valid = Gauge(
            "elemta_tls_certificate_valid", "Whether a certificate is valid now", ("name",), registry=registry
        )
        self.expiry = Gauge(
            "elemta_tls_certificate_expiry_seconds", "Seconds until a certificate ends", ("name",), registry=registry
        )

    def show(self, certificates: Iterable[Served], wall: Callable[[], float]) -> None:
        """Show these certificates and no others; `wall` is asked for the time whenever somebody looks."""
        self.valid.clear()
        self.expiry.clear()
        for one in certificates:
            self.valid.labels(name=one.name).set_function(partial(_is_valid, one, wall))
            self.expiry.labels(name=one.name).set_function(partial(_seconds_left, one, wall))


def _is_valid(one: Served, wall: Callable[[], float]) -> float:
    return float(one.begins <= wall() < one.until)


def _seconds_left(one: Served, wall: Callable[[], float]) -> float:
    return one.until - wall()
