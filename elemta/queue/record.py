"""What the log says of an attempt, with the figures that count it.

What is not here: the history that the store keeps (`queue.settlement` writes it).
"""

from structlog.typing import FilteringBoundLogger

from elemta.mail.outcome import Attempt, AttemptResult, Failed
from elemta.observe.metrics import Metrics
from elemta.queue.schedule import Verdict
from elemta.queue.settlement import Settlement, Tried


class Recorder:
    """One event an outcome; counters by result."""

    def __init__(self, log: FilteringBoundLogger, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics

    def settled(self, tried: Tried, settlement: Settlement) -> None:
        """An attempt is over, and what came of it is durable."""
        metrics = self._metrics
        metrics.delivery_attempts.inc()
        metrics.delivery_duration.observe(tried.duration)
        delivered = False
        for verdict, attempt in zip(settlement.verdicts, settlement.settle.attempts, strict=True):
            delivered = self._outcome(tried, verdict, attempt, settlement=settlement) or delivered
        if delivered:
            metrics.delivery_successes.inc()
        for insert in settlement.settle.inserts:
            self._log.info("queue.report", queue_id=insert.mail.id, about=tried.mail.id, to=tried.mail.envelope.sender)
        for index in settlement.silent:
            recipient = str(tried.mail.envelope.recipients[index].address)
            self._log.warning("queue.double_bounce", queue_id=tried.mail.id, recipient=recipient)

    def _outcome(self, tried: Tried, verdict: Verdict, attempt: Attempt, *, settlement: Settlement) -> bool:
        """Log and count one recipient's outcome; says whether it was delivered."""
        mail, result = tried.mail, attempt.result
        event = {
            "queue_id": mail.id,
            "recipient": attempt.recipient,
            "result": result.value,
            "reply": str(attempt.reply),
            "host": attempt.peer.host,
            "address": attempt.peer.address,
            "seconds": round(attempt.duration, 4),
        }
        if attempt.peer.tls:
            event["tls"] = attempt.peer.tls
        if mail.origin_id != mail.id:
            event["origin_id"] = mail.origin_id
        if result is AttemptResult.DELIVERED:
            self._metrics.messages_delivered.inc()
            self._log.info("delivery.outcome", **event)
            return True
        self._metrics.delivery_failures.labels(result.value).inc()
        if result is AttemptResult.UNCERTAIN:
            self._metrics.uncertain.inc()
        if isinstance(verdict.outcome, Failed):
            self._metrics.messages_failed.inc()
            self._log.warning("delivery.outcome", **event, final=True, expired=verdict.cause is not None)
        else:
            wait = settlement.next_attempt_at - tried.started_at - tried.duration
            self._log.info("delivery.outcome", **event, next_attempt_in=round(wait, 1))
        return False
