"""The metrics of renewals, under the original's names.

What is not here: the certificates' own ages, which are those of TLS as such.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge


class AcmeMetrics:
    """What became of renewals."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.status = Gauge(
            "elemta_letsencrypt_renewal_status",
            "1 when the last attempt succeeded, 0 when it failed",
            registry=registry,
        )
        self.attempts = Counter(
            "elemta_letsencrypt_renewal_attempts_total", "Attempts at a certificate", ("result",), registry=registry
        )
        self.last = Gauge(
            "elemta_letsencrypt_last_renewal_timestamp",
            "When a certificate was last ordered, seconds since 1970",
            registry=registry,
        )
