"""The task that keeps one certificate young.

It sleeps until the plan (`tls.acme.renewal`) says so, has an attempt made (`tls.acme.issue`), hands the new pair on.
A failure leaves the certificate in use alone, and is said in the log with the time of the next attempt. It looks again
at least each `look_seconds`: a clock that was set, or a certificate that another process ordered, is seen then.
What is not here: any step with an authority; serving TLS.
Failures raised: none; a failure that is our own defect is logged and tried again like every other.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import trio
from attrs import evolve, frozen
from structlog.typing import FilteringBoundLogger

from elemta.runtime.world import Runtime
from elemta.tls.acme.base import AuthorityAway, AuthorityFailed, RateLimited
from elemta.tls.acme.cabinet import CabinetBusy
from elemta.tls.acme.issue import Issuer, Overdue
from elemta.tls.acme.keys import Pair
from elemta.tls.acme.metrics import AcmeMetrics
from elemta.tls.acme.order import ChallengeFailed
from elemta.tls.acme.renewal import Cause, Moment, Past, Plan, Validity, Wishes, ask_again_seconds, plan

#: Seconds between two looks at least, when the plan says at once and a failure changes nothing.
LEAST_LOOK_SECONDS = 1.0

#: Told of each new pair.
OnNew = Callable[[Pair], Awaitable[None]]

_EXPECTED = (AuthorityFailed, ChallengeFailed, CabinetBusy, Overdue, OSError)


@frozen
class KeeperOptions:
    """How a certificate is kept. `renews` False: ordered when there is none, and never again by itself."""

    renews: bool = True
    renewal_days: float | None = None
    look_seconds: float = 3600.0


@frozen
class KeeperWatch:
    """Where it says what it does."""

    log: FilteringBoundLogger
    metrics: AcmeMetrics


class CertificateKeeper:
    """Keeps the certificate of one `Issuer`."""

    def __init__(
        self, issuer: Issuer, *, runtime: Runtime, options: KeeperOptions, watch: KeeperWatch, on_new: OnNew
    ) -> None:
        self._issuer = issuer
        self._runtime = runtime
        self._options = options
        self._log = watch.log.bind(domain=issuer.terms.names[0])
        self._metrics = watch.metrics
        self._on_new = on_new
        self._pair: Pair | None = None
        self._past = Past()
        self._wishes = Wishes(options.renewal_days)
        #: When renewal information is asked for next, on Trio's clock.
        self._ask_at = 0.0

    async def run(self) -> None:
        """Keep it until cancelled."""
        while True:
            await self._look()
            planned = self._plan()
            if planned.seconds > 0:
                await self._ask()
                planned = self._plan()
            if planned.seconds <= 0:
                await self._attempt(planned.cause)
                planned = self._plan()
            seconds = min(planned.seconds, self._options.look_seconds)
            await trio.sleep(max(seconds, LEAST_LOOK_SECONDS))

    def _plan(self) -> Plan:
        if self._pair is not None and not self._options.renews:
            return Plan(self._options.look_seconds, Cause.AGE)
        return plan(self._validity, self._wishes, self._past, now=self._now())

    @property
    def _validity(self) -> Validity | None:
        return None if self._pair is None else self._pair.validity

    def _now(self) -> Moment:
        return Moment(self._runtime.clock.wall(), trio.current_time())

    async def _look(self) -> None:
        """See what lies in the cabinet: another process may have ordered."""
        try:
            found = await self._issuer.read()
        except OSError as error:
            self._log.error("acme.unreadable", file=str(self._issuer.path), error=str(error))
            return
        except Exception as error:
            self._log.exception("acme.defect", file=str(self._issuer.path), error=str(error))
            return
        if found is not None and (self._pair is None or found.serial != self._pair.serial):
            await self._take(found)

    async def _take(self, pair: Pair) -> None:
        self._pair = pair
        self._past = Past()
        self._wishes = Wishes(self._options.renewal_days, chance=self._runtime.chance.random())
        self._ask_at = 0.0
        try:
            await self._on_new(pair)
        except Exception:
            # Whoever serves keeps what it has; this task must go on.
            self._log.exception("acme.not_taken", file=str(self._issuer.path))

    async def _ask(self) -> None:
        """Ask the authority when it would have the certificate renewed, RFC 9773 §4.3; never of one that has ended."""
        pair, now = self._pair, self._now()
        if pair is None or not self._options.renews or now.steady < self._ask_at:
            return
        if now.wall >= pair.validity.not_after:
            return
        window = None
        try:
            with trio.move_on_after(self._issuer.terms.timeout):
                window = await self._issuer.window(pair)
        except (AuthorityFailed, OSError) as error:
            self._log.info("acme.no_suggestion", error=str(error))
        except Exception as error:
            self._log.exception("acme.defect", error=str(error))
        else:
            self._wishes = evolve(self._wishes, window=window)
        self._ask_at = trio.current_time() + ask_again_seconds(window)

    async def _attempt(self, cause: Cause) -> None:
        current = self._pair
        event = "acme.ordered" if current is None else "acme.renewed"
        try:
            pair = await self._issuer.issue(current, tell=lambda step: self._log.debug("acme.step", step=step))
        except _EXPECTED as error:
            self._failed(error)
            return
        except Exception as error:
            self._failed(error)
            self._log.exception("acme.defect")
            return
        await self._take(pair)
        self._past = Past(ordered_at=trio.current_time())
        self._metrics.attempts.labels(result="ok").inc()
        self._metrics.status.set(1)
        self._metrics.last.set(self._runtime.clock.wall())
        self._log.info(
            event,
            names=sorted(pair.names),
            until=datetime.fromtimestamp(pair.validity.not_after, UTC).isoformat(),
            serial=pair.serial,
            issuer=pair.issuer,
            cause=cause.value,
            next_in=round(self._plan().seconds),
        )

    def _failed(self, error: Exception) -> None:
        self._past = Past(
            failures=self._past.failures + 1,
            at=trio.current_time(),
            refused=not isinstance(error, AuthorityAway | CabinetBusy),
            retry_after=error.retry_after if isinstance(error, RateLimited) else None,
            chance=self._runtime.chance.random(),
            ordered_at=self._past.ordered_at,
        )
        self._metrics.attempts.labels(result="failed").inc()
        self._metrics.status.set(0)
        planned = self._plan()
        self._log.warning(
            "acme.failed",
            error=str(error) or type(error).__name__,
            failures=self._past.failures,
            next_in=round(planned.seconds),
            cause=planned.cause.value,
        )
