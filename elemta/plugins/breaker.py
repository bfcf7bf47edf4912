"""When a plugin that keeps failing is left alone for a while; pure.

What is not here: what counts as a failure, and what becomes of the mail (`plugins.chain`). Time is an argument.
"""

from typing import Final

#: Failures in a row that open the circuit: enough not to be one bad mail, few enough that a filter which hangs costs
#: five mails its deadline, not five hundred.
FAILURES_TO_OPEN: Final = 5
#: Seconds until one call is let through again.
REST_SECONDS: Final = 30.0


class Breaker:
    """Counts one plugin's failures in a row."""

    __slots__ = ("_closed_at", "_probing", "failures")

    def __init__(self) -> None:
        #: Failures in a row.
        self.failures = 0
        self._closed_at = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are spared."""
        return self.failures >= FAILURES_TO_OPEN

    def allows(self, now: float) -> bool:
        """Whether to call at `now`; where the circuit is open, one call after each rest."""
        if self.failures < FAILURES_TO_OPEN:
            return True
        if self._probing or now < self._closed_at:
            return False
        self._probing = True
        return True

    def succeeded(self) -> bool:
        """A call went well; True when that closed the circuit."""
        was_open, self.failures, self._probing = self.is_open, 0, False
        return was_open

    def failed(self, now: float) -> bool:
        """A call failed; True when that opened the circuit."""
        was_open = self.is_open
        self.failures += 1
        self._probing = False
        if self.is_open:
            self._closed_at = now + REST_SECONDS
        return self.is_open and not was_open

    def forget_probe(self) -> None:
        """The call that was let through ended without an answer: another may be."""
        self._probing = False
