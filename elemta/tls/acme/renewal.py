"""When a certificate is asked for again.

Pure: time, chance are arguments. What is not here: asking (`tls.acme.order`), or waiting (`tls.acme.service`).

* A certificate is renewed when a third of its lifetime is left, a little later by chance so that servers that were set
  up together do not come together. The authority's own wish (RFC 9773) goes before that; the operator's `renewal_days`
  is a bound that the authority may only bring forward. Whatever is wished for, a sixth of the lifetime is left.
* After a failure the next attempt comes twice as late as the one before, at most after hours, sooner when the end of
  the certificate is near. What an authority asks by Retry-After is kept to, or the account would be locked out.
* The end of a certificate is judged by the wall clock, the distance between attempts by the monotonic one: a clock that
  steps for years neither loses a renewal nor makes a storm of attempts. Whoever waits looks again every so often, so
  that a step is noticed.

Failures raised: none.
"""

import enum

from attrs import frozen

from elemta.tls.acme.base import Window

_DAY_SECONDS = 86_400.0

#: The part of its lifetime that is left when a certificate is renewed: Let's Encrypt's own advice for 90 days,
#: https://letsencrypt.org/docs/integration-guide/.
LEFT_FRACTION = 1 / 3
#: The part that is left at the latest, whatever the authority suggests: ours, half of the above.
LEAST_LEFT_FRACTION = 1 / 6
#: The part that is left at the earliest: `renewal_days` of 30 would renew a certificate of 6 days without end.
MOST_LEFT_FRACTION = 1 / 2
#: How much of the time that is left may pass by chance before a renewal: ours, spreads 90-day ones over 3 days.
JITTER_FRACTION = 0.1

#: Seconds before the first repetition. An authority that is away loses nothing by being asked again soon; a refusal
#: counts, and Let's Encrypt takes 5 failed validations an hour, https://letsencrypt.org/docs/rate-limits/.
AWAY_SECONDS = 60.0
REFUSED_SECONDS = 300.0
#: Seconds between attempts at most: ours, a morning.
MOST_BETWEEN_SECONDS = 6 * 3600.0
#: The same while there is no certificate that is good: ours, mail is refused meanwhile.
MOST_BETWEEN_WITHOUT_SECONDS = 3600.0
#: Seconds that the authority's Retry-After may hold us back: Let's Encrypt's longest limit is a week.
MOST_RETRY_AFTER_SECONDS = 7 * _DAY_SECONDS
#: First repetition, longest distance: parts of the time that a short-lived certificate has left when it is due.
SHORT_BASE_FRACTION = 0.1
SHORT_MOST_FRACTION = 0.5

#: Between two orders that succeeded, whatever the clock says of the new certificate: a part of its lifetime, and
#: seconds at most. Ours: a clock that is years ahead takes every certificate for an old one.
REST_FRACTION = 1 / 6
MOST_REST_SECONDS = _DAY_SECONDS

#: Bounds for the authority's Retry-After on renewal information, with what counts without one: RFC 9773 §4.3.
LEAST_ASK_SECONDS = 60.0
MOST_ASK_SECONDS = _DAY_SECONDS
ASK_SECONDS = 6 * 3600.0


@frozen
class Validity:
    """From when to when a certificate is good: UTC in seconds since 1970."""

    not_before: float
    not_after: float

    @property
    def lifetime(self) -> float:
        """Seconds, at least one."""
        return max(1.0, self.not_after - self.not_before)


@frozen
class Moment:
    """Now, by both clocks: UTC in seconds since 1970, and seconds that only grow."""

    wall: float
    steady: float


@frozen
class Wishes:
    """When to renew, beyond the rule. `chance` is drawn once a certificate, from 0 to 1."""

    renewal_days: float | None = None
    window: Window | None = None
    chance: float = 0.0


@frozen
class Past:
    """What became of the attempts so far; `at` and `ordered_at` are steady."""

    #: Attempts in a row that failed, with the end of the last; `chance` is drawn once each, from 0 to 1.
    failures: int = 0
    at: float = 0.0
    #: Whether the authority refused, rather than being away.
    refused: bool = False
    #: The authority's Retry-After: seconds after `at`.
    retry_after: float | None = None
    chance: float = 0.0
    #: When the certificate was ordered, None when another process or an earlier life of this one did.
    ordered_at: float | None = None


class Cause(enum.Enum):
    """Why the next attempt is when it is."""

    MISSING = "no certificate"
    FRESH = "just renewed"
    AGE = "age"
    SUGGESTED = "suggested by the authority"
    BACK_OFF = "after a failure"
    RETRY_AFTER = "the authority's Retry-After"


@frozen
class Plan:
    """Try in so many seconds; at once when 0."""

    seconds: float
    cause: Cause


def plan(validity: Validity | None, wishes: Wishes, past: Past, *, now: Moment) -> Plan:
    """When to try next. `validity` is None without a certificate."""
    found = _due(validity, wishes, now.wall)
    if past.failures > 0:
        # A certificate that became good meanwhile (a clock that was set, another process) waits for its age alone.
        held = _held_back(validity, past, now)
        found = held if held.seconds > found.seconds else found
    if validity is not None and past.ordered_at is not None:
        rest = min(validity.lifetime * REST_FRACTION, MOST_REST_SECONDS) - (now.steady - past.ordered_at)
        found = Plan(rest, Cause.FRESH) if rest > found.seconds else found
    return found


def renewal_moment(validity: Validity, wishes: Wishes) -> tuple[float, Cause]:
    """When a certificate is due for renewal: UTC in seconds since 1970, and why then."""
    lifetime = validity.lifetime
    left = lifetime * LEFT_FRACTION
    if wishes.renewal_days is not None:
        left = min(wishes.renewal_days * _DAY_SECONDS, lifetime * MOST_LEFT_FRACTION)
    own = validity.not_after - left + left * JITTER_FRACTION * wishes.chance
    if wishes.window is None:
        return own, Cause.AGE
    # RFC 9773 §4.2: a moment of the window that is chosen with uniform chance.
    width = max(0.0, wishes.window.end - wishes.window.start)
    suggested = wishes.window.start + width * wishes.chance
    latest = own if wishes.renewal_days is not None else validity.not_after - lifetime * LEAST_LEFT_FRACTION
    return (suggested, Cause.SUGGESTED) if suggested <= latest else (latest, Cause.AGE)


def _due(validity: Validity | None, wishes: Wishes, wall: float) -> Plan:
    if validity is None:
        return Plan(0.0, Cause.MISSING)
    moment, cause = renewal_moment(validity, wishes)
    return Plan(max(0.0, moment - wall), cause)


def _held_back(validity: Validity | None, past: Past, now: Moment) -> Plan:
    passed = max(0.0, now.steady - past.at)
    seconds = _distance(validity, past, now.wall - passed)
    asked = min(past.retry_after or 0.0, MOST_RETRY_AFTER_SECONDS)
    if asked > seconds:
        return Plan(max(0.0, asked - passed), Cause.RETRY_AFTER)
    return Plan(max(0.0, seconds - passed), Cause.BACK_OFF)


def _distance(validity: Validity | None, past: Past, wall: float) -> float:
    """Seconds between the failure, which was at `wall`, and the next attempt."""
    base = REFUSED_SECONDS if past.refused else AWAY_SECONDS
    most = MOST_BETWEEN_SECONDS
    remaining = 0.0
    if validity is not None:
        left = validity.lifetime * LEFT_FRACTION
        base = min(base, left * SHORT_BASE_FRACTION)
        most = min(most, left * SHORT_MOST_FRACTION)
        remaining = validity.not_after - wall
    most = min(most, remaining * LEFT_FRACTION if remaining > 0 else MOST_BETWEEN_WITHOUT_SECONDS)
    # 2.0 to the 60th is beyond every bound above; more would overflow some day.
    doubled = base * 2.0 ** min(past.failures - 1, 60)
    return max(base, min(doubled, most)) * (1 + JITTER_FRACTION * past.chance)


def ask_again_seconds(window: Window | None) -> float:
    """Seconds until renewal information is asked for again, RFC 9773 §4.3; None after a failure."""
    if window is None or window.retry_after is None:
        return ASK_SECONDS
    return min(max(window.retry_after, LEAST_ASK_SECONDS), MOST_ASK_SECONDS)
